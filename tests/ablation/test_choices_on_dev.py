"""How choices compare on dev: seed by seed, because choices of one seed share a tagger and a part of dev."""

from pathlib import Path
from types import SimpleNamespace

from knn_ner_jax.ablation import summary
from knn_ner_jax.ablation.analysis import find

# F1 on dev of the tagger alone and of kNN-NER, by layer and seed: the second is worse each time, by less than seeds differ.
F1 = {
    -1: {0: (50.0, 58.0), 1: (52.0, 60.0), 2: (54.0, 62.0)},
    3: {0: (50.0, 57.5), 1: (52.0, 59.0), 2: (54.0, 61.0)},
}
MISSING = Path("never computed")


class OnDevAlone:
    """Results of a study of two layers of which nothing has been searched but dev."""

    def __init__(self, f1):
        self.f1 = f1
        choices = [{"datastore.layers": [layer]} for layer in f1]
        self.study = SimpleNamespace(choices=choices, seeds_of=lambda _, choice: [(choice, seed) for seed in (0, 1, 2)])

    def scores(self, cell, split, method):
        choice, seed = cell
        found = self.f1[choice["datastore.layers"][0]].get(seed)
        return None if found is None else {"f1": found[("tagger", "knn").index(method)]}

    def path(self, cell, split):
        return MISSING


def rows(f1):
    finding = find(OnDevAlone(f1), {})
    assert finding is not None
    return summary.dev_rows([finding])


def test_a_choice_is_set_against_the_first_seed_by_seed():
    header, (first, second) = rows(F1)
    assert header[-1] == "over the reference, seed by seed"
    assert first == ["as configured", "datastore.layers [-1]", "3", "52.0 ± 2.0", "60.0 ± 2.0", ""]
    assert second == ["as configured", "datastore.layers [3]", "3", "52.0 ± 2.0", "59.2 ± 1.8", "-0.8 ± 0.3"]


def test_seeds_that_only_one_of_the_two_has_are_left_out():
    _, (_, second) = rows({-1: F1[-1], 3: {1: (52.0, 59.0)}})
    assert second[2:] == ["1", "52.0", "59.0", "-1.0"]
    _, (second, first) = rows({-1: {0: (50.0, 58.0)}, 3: {2: (54.0, 61.0)}})
    assert (first[-1], second[-1]) == ("", "–")


def test_one_choice_is_set_against_nothing():
    header, found = rows({-1: F1[-1]})
    assert header[-1] == "strict F1 on dev"
    assert found == [["as configured", "datastore.layers [-1]", "3", "52.0 ± 2.0", "60.0 ± 2.0"]]
