"""What dev's choice gains over the reference on test: which of the two comes first decides the sign."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from knn_ner_jax.ablation import summary
from knn_ner_jax.ablation.analysis import find, interval

SEEDS, SENTENCES = (0, 1, 2), 8
# Names found, of one in each of eight sentences, by layer and seed; the second layer is dev's choice.
FOUND = {-1: (4, 5, 4), 3: (6, 7, 7)}
ALONE = 3  # by the tagger alone


def f1(found):
    return 100 * 2 * found / (found + SENTENCES)


class OnBoth:
    """Results of a study of two layers that is finished; nothing is false, so that F1 follows from what was found."""

    def __init__(self):
        choices = [{"datastore.layers": [layer]} for layer in FOUND]
        config = SimpleNamespace(ablation=SimpleNamespace(resamples=50))
        self.study = SimpleNamespace(choices=choices, config=config, seeds_of=self.seeds_of)

    def seeds_of(self, condition, choice):
        found = FOUND[choice["datastore.layers"][0]]
        return [SimpleNamespace(config=SimpleNamespace(seed=seed), found=found[seed]) for seed in SEEDS]

    def scores(self, cell, split, method):
        return None if method == "learned" else {"f1": f1(cell.found if method == "knn" else ALONE)}

    def tags(self, cell, split, method):
        found = {"gold": SENTENCES, "tagger": ALONE}.get(method, cell.found)
        return [["B-X" if number < found else "O"] for number in range(SENTENCES)]

    def read(self, cell, split):
        setting = {"k": 1, "temperature": 0.1, "knn_weight": 0.5, "metric": "cosine"}
        return {"selected": setting, "trials": [setting | {"f1": f1(cell.found)}]}

    def path(self, cell, split):
        return Path(__file__)

    def for_test(self, condition):
        return self.study.candidates


def test_what_dev_chose_is_set_against_the_reference_on_test():
    finding = find(OnBoth(), {})
    assert finding is not None
    reference, chosen = (sum(map(f1, FOUND[layer])) / len(SEEDS) for layer in FOUND)
    assert finding.between is not None
    assert finding.between.gain.mean == pytest.approx(chosen - reference, abs=1e-4)
    assert (finding.between.first.mean, finding.between.second.mean) == pytest.approx((reference, chosen), abs=1e-4)
    text = summary.page("study", [finding], [], {}, None).partition("## Dev")[0]
    header, _, first, second = (line for line in text.splitlines() if line.startswith("|"))
    assert header.endswith("| over the reference [95%] |")
    assert first.endswith("|  |")
    assert second.startswith("| as configured | datastore.layers [3] | 3 |")
    assert second.endswith(f"| {interval(finding.between.gain)} |")
    assert f"| {chosen - reference:+.1f} [" in second
