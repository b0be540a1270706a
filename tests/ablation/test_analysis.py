"""Results of a study: settings at the edge of the search space, gains on dev and test, and where learning curves meet."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from knn_ner_jax.ablation import analysis, report
from knn_ner_jax.ablation.analysis import (
    Curve,
    analyse_condition,
    describe_interval,
    describe_seeds,
    describe_setting,
    find_curves,
    mean_over_seeds,
)
from knn_ner_jax.ablation.statistics import Comparison, Estimate
from knn_ner_jax.evaluation.predictions import METHODS

FIXED = {"temperature": 0.1, "knn_weight": 0.5}


@pytest.mark.parametrize(
    ("name", "search_space", "value", "described"),
    [
        ("k", ("all", 64, 8), 8, "8*"),
        ("k", ("all", 64, 8), 64, "64"),
        ("k", ("all", 64, 8), "all", "all"),  # there are no more
        ("k", (64, 1), 64, "64*"),
        ("k", (64, 1), 1, "1"),
        ("temperature", (0.1, 1.0), 1.0, "1.0*"),
        ("knn_weight", (0.1, 0.9, 1.0), 0.1, "0.1*"),
        ("knn_weight", (0.1, 0.9, 1.0), 1.0, "1.0"),
        ("knn_weight", (0.9,), 0.9, "0.9"),  # there was nothing to select from
    ],
)
def test_a_value_at_the_edge_of_the_search_space_is_marked(name, search_space, value, described):
    trials = [{"k": 4} | FIXED | {name: each} for each in search_space]
    setting = describe_setting({"selected": {"k": 4} | FIXED | {name: value, "metric": "l2"}, "trials": trials})
    assert setting == {"k": "4", "temperature": "0.1", "knn_weight": "0.5", "metric": "l2"} | {name: described}


def test_a_value_on_which_seeds_agree_is_listed_once():
    first, other = ({"k": k, "temperature": "0.1*", "knn_weight": "1.0", "metric": "cosine"} for k in ("8", "all"))
    assert describe_seeds([first, other]) == ["8; all", "0.1*", "1.0", "cosine"]


def test_a_settings_f1_is_the_mean_over_seeds_where_all_have_tried_it():
    setting = {"k": "all", "temperature": 0.1, "knn_weight": 0.5, "metric": "l2"}
    first, second = ({"f1": f1, "precision": 1.0} for f1 in (40.0, 50.0))
    other = {"f1": 30.0} | setting | {"k": 8}
    means = mean_over_seeds([[setting | first, other], [setting | second]])
    assert means == [setting | {"f1": 45.0}]


# F1 on dev of the tagger and of kNN-NER, by layer and seed: the second is worse each time, by less than seeds differ.
DEV_F1 = {
    -1: {0: (50.0, 58.0), 1: (52.0, 60.0), 2: (54.0, 62.0)},
    3: {0: (50.0, 57.5), 1: (52.0, 59.0), 2: (54.0, 61.0)},
}


class SearchedOnDev:
    """Results of a study of two layers of which nothing has been searched but dev."""

    methods = METHODS

    def __init__(self, f1):
        self.f1 = f1
        candidates = [{"datastore.layers": [layer]} for layer in f1]
        self.study = SimpleNamespace(candidates=candidates, seeds_of=lambda _, one: [(one, seed) for seed in (0, 1, 2)])

    def scores(self, cell, split, method):
        candidate, seed = cell
        f1 = self.f1[candidate["datastore.layers"][0]].get(seed)
        return None if f1 is None else {"f1": f1[("tagger", "knn").index(method)]}

    def path(self, cell, split):
        return Path("never computed")


def dev_table(f1):
    one = analyse_condition(SearchedOnDev(f1), {})
    assert one is not None
    table = report.dev_table([one], METHODS)
    return list(table.header), [list(row) for row in table.rows]


def test_a_candidate_is_compared_with_the_first_on_dev_seed_by_seed():
    header, (first, second) = dev_table(DEV_F1)
    assert header[-1] == "over the reference, seed by seed"
    assert first == ["as configured", "datastore.layers [-1]", "3", "52.0 ± 2.0", "60.0 ± 2.0", ""]
    assert second == ["as configured", "datastore.layers [3]", "3", "52.0 ± 2.0", "59.2 ± 1.8", "-0.8 ± 0.3"]


def test_seeds_that_only_one_of_two_candidates_has_are_left_out():
    _, (_, second) = dev_table({-1: DEV_F1[-1], 3: {1: (52.0, 59.0)}})
    assert second[2:] == ["1", "52.0", "59.0", "-1.0"]
    _, (second, first) = dev_table({-1: {0: (50.0, 58.0)}, 3: {2: (54.0, 61.0)}})
    assert (first[-1], second[-1]) == ("", "–")


def test_one_candidate_is_compared_with_nothing():
    header, rows = dev_table({-1: DEV_F1[-1]})
    assert header[-1] == "strict F1 on dev"
    assert rows == [["as configured", "datastore.layers [-1]", "3", "52.0 ± 2.0", "60.0 ± 2.0"]]


SEEDS, SENTENCES = (0, 1, 2), 8
# Entities predicted, of one in each of eight sentences, by layer and seed; dev selects the second layer.
PREDICTED = {-1: (4, 5, 4), 3: (6, 7, 7)}
BY_TAGGER = 3


def f1_of(predicted):
    return 100 * 2 * predicted / (predicted + SENTENCES)


def tags_of(predicted):
    return [["B-X" if number < predicted else "O"] for number in range(SENTENCES)]


class SearchedOnTest:
    """Results of a finished study of two layers; nothing predicted is false, so that F1 follows from the number."""

    methods = METHODS

    def __init__(self):
        candidates = [{"datastore.layers": [layer]} for layer in PREDICTED]
        config = SimpleNamespace(ablation=SimpleNamespace(resamples=50))
        self.study = SimpleNamespace(candidates=candidates, config=config, seeds_of=self.seeds_of)

    def seeds_of(self, condition, candidate):
        predicted = PREDICTED[candidate["datastore.layers"][0]]
        return [SimpleNamespace(config=SimpleNamespace(seed=seed), predicted=predicted[seed]) for seed in SEEDS]

    def scores(self, cell, split, method):
        return {"f1": f1_of(cell.predicted if method == "knn" else BY_TAGGER)}

    def tags(self, cell, split, method):
        return tags_of({"gold": SENTENCES, "tagger": BY_TAGGER}.get(method, cell.predicted))

    def read(self, cell, split):
        setting = {"k": 1, "temperature": 0.1, "knn_weight": 0.5, "metric": "cosine"}
        return {"selected": setting, "trials": [setting | {"f1": f1_of(cell.predicted)}]}

    def path(self, cell, split):
        return Path(__file__)

    def for_test(self, condition):
        return self.study.candidates


def test_what_dev_selected_is_compared_with_the_reference_on_test():
    one = analyse_condition(SearchedOnTest(), {})
    assert one is not None
    reference, selected = (sum(map(f1_of, PREDICTED[layer])) / len(SEEDS) for layer in PREDICTED)
    gain = one.selected_vs_reference
    assert gain is not None
    assert gain.gain.mean == pytest.approx(selected - reference, abs=1e-4)
    assert (gain.first.mean, gain.second.mean) == pytest.approx((reference, selected), abs=1e-4)
    table = report.test_table([one], METHODS)
    assert table.header[-1] == "over the reference [95%]"
    assert [row[:3] for row in table.rows] == [("as configured", f"datastore.layers [{layer}]", "3") for layer in PREDICTED]
    assert [row[-1] for row in table.rows] == ["", describe_interval(gain.gain)]
    assert table.rows[1][-1].startswith(f"{selected - reference:+.1f} [")


FRACTIONS = (0.1, 0.5, 1.0)
MATCHES = "kNN-NER (datastore.fraction 1.0) matches the tagger at data.train_fraction 1.0: by its mean"


@pytest.mark.parametrize(
    ("gains", "matches", "exceeds", "words"),
    [
        ([-2.0, -0.1, 1.3], 1.0, 1.0, "at 1.0 alone, with the whole interval above 0 at 1.0 alone."),
        ([-2.0, 0.3, 1.3], 0.5, 1.0, "from 0.5 on, with the whole interval above 0 at 1.0 alone."),
        ([0.0, 1.1, 1.3], 0.1, 0.5, "from 0.1 on, with the whole interval above 0 from 0.5 on."),
        ([0.5, 2.0, 1.0], 0.1, None, "from 0.1 on, with the whole interval above 0 nowhere."),
        ([0.5, -0.1, 0.3], 1.0, None, "at 1.0 alone, with the whole interval above 0 nowhere."),
        ([2.0, 2.0, -0.3], None, None, "nowhere, with the whole interval above 0 nowhere."),
    ],
)
def test_a_curve_matches_where_the_mean_stays_above_and_exceeds_where_the_interval_does(gains, matches, exceeds, words):
    estimate = Estimate(50.0, 49.0, 51.0)
    compared = {
        value: Comparison(estimate, estimate, Estimate(gain, gain - 1, gain + 1))
        for value, gain in zip(FRACTIONS, gains, strict=True)
    }
    point = analysis.TestResult({}, (), {}, {}, {}, None)
    curve = Curve("data.train_fraction", {"datastore.fraction": 1.0}, dict.fromkeys(FRACTIONS, point), compared)
    assert (curve.matches_from, curve.exceeds_from) == (matches, exceeds)
    assert curve.describe() == f"{MATCHES} {words}"


class SearchedCurves:
    """Results of a study of two datastores and three fractions: one name in each of eight sentences, predicted or not."""

    def __init__(self):
        axes = [{"data.train_fraction": [*FRACTIONS]}, {"datastore.fraction": [None, 1.0]}]
        self.study = SimpleNamespace(config=SimpleNamespace(ablation=SimpleNamespace(conditions=axes, resamples=50)))

    def path(self, cell, split):
        return cell.searched

    def tags(self, cell, split, method):
        return tags_of({"gold": SENTENCES, "tagger": 4}.get(method, cell.predicted))


def condition_of(fraction, store, tagger, searched, predicted):
    configs = (SimpleNamespace(seed=seed, run_dir=f"{tagger}{seed}") for seed in (0, 1))
    cells = tuple(SimpleNamespace(config=config, searched=searched, predicted=predicted) for config in configs)
    test = analysis.TestResult({}, cells, {}, {}, {}, None)
    condition = {"data.train_fraction": fraction, "datastore.fraction": store}
    return analysis.ConditionResult(condition, (), (test,), None)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ([{"train.epochs": [20, 10, 5], "data.train_fraction": [*FRACTIONS]}], "data.train_fraction"),
        ([{"knn.k": [1, 2, 3]}, {"datastore.fraction": [*FRACTIONS]}], "datastore.fraction"),
        ([{"knn.k": [1, 2, 3]}, {"train.epochs": [20, 10, 5]}], "knn.k"),
        ([{"train.epochs": [20, 10, 5], "data.train_fraction": [None, 0.5, 1.0]}], "train.epochs"),
    ],
)
def test_a_curve_is_along_a_fraction_wherever_it_stands(axes, expected):
    values = {name: of_axis[0] for axis in axes for name, of_axis in axis.items()}
    one = analysis.ConditionResult(values, (), condition_of(0.1, None, "a", "own", 5).test, None)
    study = SimpleNamespace(config=SimpleNamespace(ablation=SimpleNamespace(conditions=axes)))
    (curve,) = find_curves(SimpleNamespace(study=study, path=SearchedCurves().path), [one])
    assert curve.field == expected


def test_a_curve_is_compared_with_the_first_where_the_tagger_is_the_same_and_the_datastore_is_not():
    conditions = [
        *(condition_of(0.1, None, "a", "own", 5), condition_of(0.1, 1.0, "a", "everything", 7)),
        *(condition_of(0.5, None, "b", "own", 6), condition_of(0.5, 1.0, "another", "everything", 7)),
        *(condition_of(1.0, None, "c", "the same", 7), condition_of(1.0, 1.0, "c", "the same", 7)),
    ]
    first, second = find_curves(SearchedCurves(), conditions)
    assert first.gain_vs_first_curve == {}
    assert second.gain_vs_first_curve.keys() == {0.1}
    gained = f1_of(7) - f1_of(5)
    assert second.gain_vs_first_curve[0.1].gain.mean == pytest.approx(gained, abs=1e-4)
    study = SimpleNamespace(folder=Path("study"))
    (section, _) = report.build_page(report.Content(study, METHODS, (), [first, second])).sections
    table = section.tables[-1]
    assert table.caption == (
        "What kNN-NER gains on test over kNN-NER (datastore.fraction default), which has the same tagger [95%]"
    )
    assert table.header == ("data.train_fraction", "datastore.fraction 1.0")
    assert table.rows[0][0] == "0.1"
    assert table.rows[0][1].startswith(f"{gained:+.1f} [")
