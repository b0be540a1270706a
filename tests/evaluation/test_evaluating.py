"""The benchmark of a trained run: its labels are those of eval.py, and so is what it looks up."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import evaluating, measuring


@pytest.fixture
def run(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(evaluated)
    monkeypatch.setattr(measuring.time, "sleep", lambda _: None)
    return "run"


def test_labels_of_the_full_search_are_those_of_eval_and_no_weight_changes_them(run: str):
    corpus, knn_tagger, setting, split = evaluating.open_run(run, 10**6)
    assert corpus == "corpus"
    found = evaluating._labels_of_full_search(knn_tagger, setting, split, [setting.knn_weight])[setting.knn_weight]
    lines = Path("run/predictions/test.conll").read_text(encoding="utf-8").splitlines()
    assert [knn_tagger.label_set.names[label] for label in found] == [line.split("\t")[3] for line in lines if line]

    measured = evaluating.tagging(1, run, 8, [0.24, 0.7])
    assert measured["other_labels"] == {"0.24": 0, "0.7": 0}
    assert 0 < measured["searched"]["0.24"] <= measured["searched"]["0.7"] <= measured["words"]
    assert measured["seconds"].keys() == {"vanilla", "full", "0.24", "0.7"}


def test_labels_that_differ_from_the_full_search_are_counted(run: str, monkeypatch: pytest.MonkeyPatch):
    other = evaluating._labels_of_full_search

    def wrong(*arguments):
        return {weight: np.where(np.arange(len(ids)) == 1, -1, ids) for weight, ids in other(*arguments).items()}

    monkeypatch.setattr(evaluating, "_labels_of_full_search", wrong)
    assert evaluating.tagging(1, run, 2, [0.24])["other_labels"] == {"0.24": 1}


def test_a_share_of_changed_neighbours_ignores_their_order():
    ids, others = np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 9]])
    assert evaluating.share_changed(ids, others) == 0.25


def test_bfloat16_keys_take_half_the_memory_and_are_compared_with_float32(run: str):
    found = evaluating.compression(1, run, 4, 16, [1, 4])
    assert found["bfloat16"]["keys_mb"] == found["float32"]["keys_mb"] / 2
    assert [found["float32"][k]["changed"] for k in ("k=1", "k=4")] == [0, 0]
    assert 0 <= found["bfloat16"]["k=4"]["changed"] < 0.5
