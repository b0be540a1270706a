"""The benchmarks of a trained run: their labels are those of eval.py, and what differs from a full search is counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.margins import clear_words

from benchmarks import evaluating
from tools import same_labels


@pytest.fixture(scope="module")
def evaluated_run(evaluated: Path) -> evaluating.EvaluatedRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(evaluated)
        return evaluating.open_run(Path("run"))


@pytest.fixture(scope="module")
def small(evaluated_run: evaluating.EvaluatedRun) -> evaluating.EvaluatedRun:
    """One split twice, so that less is compiled."""
    splits = dict.fromkeys(("dev", "test"), evaluated_run.splits["test"])
    return replace(evaluated_run, splits=splits, setting=replace(evaluated_run.setting, k=4))


def test_labels_of_the_full_search_are_those_of_eval(evaluated_run: evaluating.EvaluatedRun, evaluated: Path):
    assert evaluated_run.corpus == "corpus"
    setting, split, knn_tagger = evaluated_run.setting, evaluated_run.encode("test"), evaluated_run.knn_tagger
    weight = setting.knn_weight
    by_full_search = evaluating.mixed_by_full_search(knn_tagger, setting, split, [weight])[weight].argmax(axis=1)
    lines = (evaluated / "run" / "predictions" / "test.conll").read_text(encoding="utf-8").splitlines()
    labels = np.array([line.split("\t")[3] for line in lines if line])
    clear = clear_words(knn_tagger, split, setting)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.array(knn_tagger.label_set.names)[by_full_search][clear], labels[clear])


def hang_on_rounding(run: evaluating.EvaluatedRun, weight: float, k: int | str = 4) -> int:
    """Words of the first four sentences that may have another label in another search."""
    setting = replace(run.setting, k=k, knn_weight=weight)
    return int((~clear_words(run.knn_tagger, run.encode("test", 4), setting)).sum())


def test_no_way_of_saving_searches_changes_a_label_and_one_that_differed_would_be_counted(
    small: evaluating.EvaluatedRun, monkeypatch: pytest.MonkeyPatch
):
    full_search = evaluating.mixed_by_full_search

    def first_word_otherwise_at_0_24(*arguments):
        mixed = full_search(*arguments)
        mixed[0.24] = mixed[0.24].copy()
        mixed[0.24][0] *= -1
        return mixed

    monkeypatch.setattr(evaluating, "open_run", lambda _: small)
    monkeypatch.setattr(evaluating, "mixed_by_full_search", first_word_otherwise_at_0_24)
    measured = evaluating.tagging(1, "run", 4, [0.24, 0.7])
    others = measured["other_labels"]
    assert others.keys() == {"0.24", "0.7"}
    assert 0 <= others["0.24"] - 1 <= hang_on_rounding(small, 0.24)
    assert others["0.7"] <= hang_on_rounding(small, 0.7)
    assert measured["seconds"].keys() == {"tagger", "full", "0.24", "0.7"}
    assert 0 <= measured["searched"]["0.24"] <= measured["searched"]["0.7"] <= measured["words"]


def test_labels_are_compared_by_the_probabilities_of_the_full_search():
    mixed = np.float32([[0.6, 0.4, 0.0], [0.5, 0.499996, 0.0], [0.5, 0.4999, 0.0], [0.499996, 0.5, 0.0], [0.4, 0.4, 0.2]])
    assert same_labels.compare(np.array([0, 0, 0, 1, 0]), mixed) == {"differing": 0, "near_ties": 0}
    # Of the last two neither is near: the label that was given is the third best.
    assert same_labels.compare(np.array([1, 1, 1, 2, 2]), mixed) == {"differing": 5, "near_ties": 1}


def test_every_split_k_and_weight_is_compared_and_none_twice(
    small: evaluating.EvaluatedRun, monkeypatch: pytest.MonkeyPatch
):
    rows = list(same_labels.check(small, 4, [0.24, 0.7], []))
    assert [(row["split"], row["k"], row["knn_weight"]) for row in rows] == [
        (split, k, weight) for split in ("dev", "test") for k in (4, "all") for weight in (0.24, 0.7)
    ]
    for row in rows:
        assert row["differing"] <= hang_on_rounding(small, row["knn_weight"], row["k"])
    assert {row["sentences"] for row in rows} == {4}
    assert len(same_labels.table(rows).splitlines()) == 2 + len(rows)
    searched = []
    monkeypatch.setattr(same_labels, "mixed_by_full_search", lambda *arguments: searched.append(arguments) or {0.7: None})
    monkeypatch.setattr(same_labels, "compare", lambda *_: {})
    again = list(same_labels.check(small, 4, [0.24, 0.7], rows[:3] + rows[4:]))
    assert [(row["split"], row["k"], row["knn_weight"]) for row in again] == [("dev", "all", 0.7)]
    assert [weights for _, _, _, weights in searched] == [[0.7]]
