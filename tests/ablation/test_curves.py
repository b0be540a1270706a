"""Where kNN-NER with less meets the tagger alone with all: by its mean, and surely."""

from types import SimpleNamespace

import pytest

from knn_ner_jax.ablation import analysis, summary
from knn_ner_jax.ablation.analysis import Curve, find_curves
from knn_ner_jax.ablation.statistics import Comparison, Estimate

SHARES = (0.1, 0.5, 1.0)
MATCHES = "kNN-NER (datastore.fraction 1.0) matches the tagger alone at data.train_fraction 1.0: by its mean"


@pytest.mark.parametrize(
    ("gains", "meets", "exceeds", "words"),
    [
        ([-2.0, -0.1, 1.3], 1.0, 1.0, "at 1.0 alone, with the whole interval above 0 at 1.0 alone."),
        ([-2.0, 0.3, 1.3], 0.5, 1.0, "from 0.5 on, with the whole interval above 0 at 1.0 alone."),
        ([0.0, 1.1, 1.3], 0.1, 0.5, "from 0.1 on, with the whole interval above 0 from 0.5 on."),
        ([0.5, 2.0, 1.0], 0.1, None, "from 0.1 on, with the whole interval above 0 nowhere."),
        ([0.5, -0.1, 0.3], 1.0, None, "at 1.0 alone, with the whole interval above 0 nowhere."),
        ([2.0, 2.0, -0.3], None, None, "nowhere, with the whole interval above 0 nowhere."),
    ],
)
def test_two_curves_meet_where_the_mean_stays_above_and_surely_where_the_interval_does(gains, meets, exceeds, words):
    estimate = Estimate(50.0, 49.0, 51.0)
    compared = {
        value: Comparison(estimate, estimate, Estimate(gain, gain - 1, gain + 1))
        for value, gain in zip(SHARES, gains, strict=True)
    }
    curve = Curve("data.train_fraction", {"datastore.fraction": 1.0}, dict.fromkeys(SHARES), compared)
    assert (curve.meets_at, curve.exceeds_at) == (meets, exceeds)
    assert curve.in_words() == f"{MATCHES} {words}"


class Searched:
    """Results of a study of two datastores and three shares: one name in each of eight sentences, found or not."""

    def __init__(self):
        axes = [{"data.train_fraction": [*SHARES]}, {"datastore.fraction": [None, 1.0]}]
        self.study = SimpleNamespace(config=SimpleNamespace(ablation=SimpleNamespace(conditions=axes, resamples=50)))

    def path(self, cell, split):
        return cell.searched

    def tags(self, cell, split, method):
        found = {"gold": 8, "tagger": 4}.get(method, cell.found)
        return [["B-X" if number < found else "O"] for number in range(8)]


def finding(share, store, tagger, searched, found):
    configs = (SimpleNamespace(seed=seed, run_dir=f"{tagger}{seed}") for seed in (0, 1))
    cells = tuple(SimpleNamespace(config=config, searched=searched, found=found) for config in configs)
    tested = analysis.TestResult({}, cells, {}, {}, {}, None)
    return analysis.ConditionResult({"data.train_fraction": share, "datastore.fraction": store}, (), (tested,), None)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ([{"train.epochs": [20, 10, 5], "data.train_fraction": [*SHARES]}], "data.train_fraction"),
        ([{"knn.k": [1, 2, 3]}, {"datastore.fraction": [*SHARES]}], "datastore.fraction"),
        ([{"knn.k": [1, 2, 3]}, {"train.epochs": [20, 10, 5]}], "knn.k"),
        ([{"train.epochs": [20, 10, 5], "data.train_fraction": [None, 0.5, 1.0]}], "train.epochs"),
    ],
)
def test_a_curve_is_along_a_share_wherever_it_stands(axes, expected):
    values = {name: of_axis[0] for axis in axes for name, of_axis in axis.items()}
    found = analysis.ConditionResult(values, (), finding(0.1, None, "a", "own", 5).tested, None)
    study = SimpleNamespace(config=SimpleNamespace(ablation=SimpleNamespace(conditions=axes)))
    (curve,) = find_curves(SimpleNamespace(study=study, path=Searched().path), [found])
    assert curve.field == expected


def test_a_curve_is_set_against_the_first_where_the_tagger_is_the_same_and_the_datastore_is_not():
    found = [
        *(finding(0.1, None, "a", "own", 5), finding(0.1, 1.0, "a", "everything", 7)),
        *(finding(0.5, None, "b", "own", 6), finding(0.5, 1.0, "another", "everything", 7)),
        *(finding(1.0, None, "c", "the same", 7), finding(1.0, 1.0, "c", "the same", 7)),
    ]
    first, second = find_curves(Searched(), found)
    assert first.over_the_first == {}
    assert second.over_the_first.keys() == {0.1}
    gained = 100 * (2 * 7 / (7 + 8) - 2 * 5 / (5 + 8))
    assert second.over_the_first[0.1].gain.mean == pytest.approx(gained, abs=1e-4)
    text = summary.page("study", (), [first, second], {}, None)
    title = "What kNN-NER gains on test over kNN-NER (datastore.fraction default), which has the same tagger [95%]"
    assert f"{title}:\n\n| data.train_fraction | datastore.fraction 1.0 |\n| --- | --: |\n| 0.1 | {gained:+.1f} [" in text
