"""Whole processes beside those written by hand: all run on a tiny corpus and agree, and the page says what was measured."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import compiling

from benchmarks import peer_eval, peer_train, report, whole
from tools.pages import RESULTS as COMMITTED

assert torch  # named for conftest.py, which skips this file where it is missing


def process(seconds: float, cpu: float = 0, peak: float = 0, **more: object) -> dict:
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak, **more}


def evaluation(seconds: float, **stages: float) -> dict:
    return process(seconds, 2 * seconds, 100, stages=stages)


BY_HAND = {"load": 1, "encode_train": 40, "encode_dev": 10, "search_dev": 5, "tune": 15, "encode_test": 8, "search_test": 2}
RESULTS = {
    "corpus": "beads",
    "hardware": {"name": "Abacus, 2 rods", "packages": {"jax": "1.0", "torch": None}},
    "eval": {
        **{"rows": 1234, "dim": 8, "git_revision": "abc", "differences": ["FAISS: another setting"]},
        "processes": {
            "cold": [
                evaluation(50, build_datastore=20, tune=10, compile=4, test=3, score=1, explore=2),
                evaluation(58, build_datastore=26, tune=12, compile=6, test=3, score=1, explore=2),
                evaluation(90, build_datastore=24, tune=30, compile=9, test=3, score=1, explore=2),
            ],
            "warm": [evaluation(51, build_datastore=20, load_datastore=5)],
            "FAISS": [evaluation(110, **BY_HAND)],
            "PyTorch": [evaluation(100, **BY_HAND, score_test=1)],
            "base": [evaluation(116, build_datastore=60)],
            "predict": [process(2.5), process(3.5), process(2.75)],
        },
    },
    "train": {
        **{"epochs": 3, "batch_size": 16, "git_revision": "abc"},
        "processes": {
            "cold": [process(200, 300, f1={"dev": 50.04})],
            "PyTorch": [process(250, 400, f1={"dev": 49})],
        },
    },
}


def test_the_page_has_medians_stages_and_what_was_reached():
    lines = report.whole_page(RESULTS)
    assert lines[:3] == ["### beads, Abacus, 2 rods", "", "Abacus, 2 rods, jax 1.0, revision abc."]
    assert "| eval, nothing compiled: time, of the faster peer | 0.6 | 0.58 | yes |" in lines
    assert "| eval, compiled before: time, of the faster peer | 0.5 | 0.51 | **no** |" in lines
    assert "| eval, nothing compiled: of an earlier build | 0.4 | 0.5 | **no** |" in lines
    assert "| train, nothing compiled: speed, of a PyTorch loop | 1.3 | 1.25 | **no** |" in lines
    assert "| predict, one sentence, compiled before: seconds | 3 | 2.75 | yes |" in lines
    # Of cold, start and the rest are 10, 8 and 21 s: each process's own, not the difference of the medians.
    assert "| eval.py, nothing compiled yet | 58.0 | 10.0 | 24.0 | 12.0 | 6.0 | 4.0 | 2.0 | 116.0 | 100 |" in lines, (
        "\n".join(lines)
    )
    assert "| by hand, PyTorch alone | 100.0 | 19.0 | 40.0 | 30.0 | 0.0 | 11.0 | 0.0 | 200.0 | 100 |" in lines
    assert "FAISS: another setting" in lines
    assert "| train.py, nothing compiled yet | 200.0 | 300.0 | 50.0 |" in lines


def test_a_page_without_trainings_or_differences_says_so():
    part = RESULTS["eval"] | {"differences": []}
    lines = report.whole_page({name: value for name, value in RESULTS.items() if name != "train"} | {"eval": part})
    assert "Every process chose the same setting and reached the same F1 on dev and test, to two digits." in lines
    assert not [line for line in lines if "train" in line]


def test_the_committed_results_have_a_section_each():
    text = report.README.read_text(encoding="utf-8")
    for results in report.read_results(COMMITTED / "whole"):
        assert "\n".join(report.whole_page(results)) in text


def test_another_setting_or_score_is_a_difference_and_a_third_digit_is_none():
    def outcome(k: int, dev: float) -> dict:
        return {"chosen": [k, 0.1, 0.5], "f1": {"dev": dev, "test": 40.0}}

    same = {"cold": [outcome(8, 50.001), outcome(8, 50.0)], "FAISS": [outcome(8, 49.999)]}
    assert whole.differences(same) == []
    (line,) = whole.differences(same | {"PyTorch": [outcome(8, 50.01)] * 2})
    assert line.startswith("PyTorch: k 8, temperature 0.1, weight 0.5: dev 50.01, test 40.00; cold: k 8")
    assert len(whole.differences(same | {"PyTorch": [outcome(32, 50.0)]})) == 1


def test_a_process_that_fails_ends_everything_with_what_it_printed(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('first')\nprint('last')\nsys.exit(sys.argv[1] == 'fail')\n", encoding="utf-8")
    measured, line = whole.wait_for([script, "pass"], {})
    assert line == "last"
    assert measured["cpu_seconds"] > 0
    with pytest.raises(SystemExit, match=r"exit status 1(.|\n)*first\nlast"):
        whole.wait_for([script, "fail"], {})


def test_programs_are_kept_in_the_folder_and_no_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "77")
    variables = whole.with_cache(tmp_path)
    assert Path(variables["JAX_COMPILATION_CACHE_DIR"]).is_relative_to(tmp_path)
    assert variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] != "77"


def test_columns_are_read_with_the_last_as_the_tag(tmp_path: Path):
    (tmp_path / "dev.txt").write_text("-DOCSTART- O\n\na x B-PER\nb y O\n\n\nc z O", encoding="utf-8")
    assert peer_train.read_columns(tmp_path, "dev") == [(["a", "b"], ["B-PER", "O"]), (["c"], ["O"])]


def test_a_vote_is_the_share_of_each_label_in_a_softmax():
    similarities, labels = np.array([[0.9, 0.8, 0.7], [0.5, 0.5, 0.5]]), np.array([[2, 0, 2], [1, 1, 0]])
    e = np.exp([0, -1, -2])
    expected = [[e[1] / e.sum(), 0, (e[0] + e[2]) / e.sum()], [1 / 3, 2 / 3, 0]]
    np.testing.assert_allclose(peer_eval.vote(similarities, labels, 0.1, 3), expected, rtol=1e-12)


@pytest.mark.parametrize("library", ["torch", "faiss"])
def test_searches_return_the_nearest_first(library: str):
    pytest.importorskip(library)
    keys, queries = np.eye(4, dtype=np.float32), np.float32([[0, 3, 2, 1]] * 300)
    similarities, ids = peer_eval.Search(keys, library)(queries, 2)
    assert (ids == [1, 2]).all()
    assert (similarities == [3, 2]).all()
    assert len(ids) == 300


def test_a_batch_has_sentences_of_similar_length_and_all_of_them_come_once():
    lengths = (9, 1, 8, 2, 7, 3, 6)
    batches = list(peer_train.make_batches([([0] * length, []) for length in lengths], 2, random.Random(0)))
    assert sorted(sorted(lengths[i] for i in batch) for batch in batches) == [[1, 2], [3, 6], [7, 8], [9]]
    assert peer_train.pad([[1], [2, 3]]).tolist() == [[1, 0], [2, 3]]


@pytest.mark.slow
def test_all_processes_agree_on_a_tiny_run(
    tmp_path: Path, tiny_corpus: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("faiss")
    monkeypatch.setenv("XLA_FLAGS", compiling.flags(1))
    sentences = (tiny_corpus / "train.conll").read_text(encoding="utf-8").strip().split("\n\n")
    splits = {"train": sentences, "dev": sentences[:24], "test": sentences[24:]}  # known ones, so that something is found
    for split, some in splits.items():
        (tmp_path / f"{split}.conll").write_text("\n\n".join(some) + "\n", encoding="utf-8")
    fields = {"run_dir": tmp_path / "run", "data.dir": tmp_path, "model.backbone": tiny_backbone, "model.dropout": 0}
    fields |= {"train.epochs": 8, "train.learning_rate": 0.006, "eval.batch_size": 16, "train.batch_size": 16}
    environment = whole.os.environ
    whole.wait_for([whole.ROOT / "train.py", *(f"--{name}={value}" for name, value in fields.items())], environment)
    grid = ["--k=1,4,16", "--temperature=0.03,0.1", "--weight=0.3,0.6,1.0", "--epochs=1"]
    whole.main([str(tmp_path / "run"), *grid, "--folder", str(tmp_path / "results"), "--base", str(whole.ROOT)])
    (path,) = (tmp_path / "results").glob("*.json")
    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["eval"]["differences"] == []
    processes = results["eval"]["processes"]
    assert processes.keys() == {"cold", "warm", "FAISS", "PyTorch", "base", "predict"}
    assert processes["cold"][0]["f1"]["dev"] > 10
    assert processes["cold"][0]["stages"]["build_datastore"] > 0
    assert results["train"]["processes"].keys() == {"cold", "PyTorch"}
    assert len(report.whole_page(results)) > 15
