"""A run is used where it was not made: relative paths are found again, and without the corpus labels are as ever."""

import shutil
from pathlib import Path

import pytest

import knn_ner_jax as kn
from knn_ner_jax import cli
from knn_ner_jax.config import Config, DataConfig, ModelConfig
from knn_ner_jax.io import InputError
from knn_ner_jax.run_dir import FinishedEvaluation


@pytest.fixture
def predict(evaluated, capfd):
    """Tags some training sentences with a run; returns what is printed."""
    blocks = (evaluated / "corpus" / "train.conll").read_text(encoding="utf-8").split("\n\n")[:10]
    texts = [" ".join(line.split("\t")[0] for line in block.splitlines()) for block in blocks]

    def run(folder, *more: str) -> tuple[str, str]:
        capfd.readouterr()
        cli.run("predict", "predict.py", [str(folder), *texts, "--tokens", "--neighbours=2", *more])
        return capfd.readouterr()

    return run


def test_a_run_and_its_evaluation_elsewhere_are_used_from_any_folder(
    evaluated, copy_of, run_eval, predict, monkeypatch, tmp_path
):
    folder = copy_of(evaluated)
    run_eval("--eval_dir=elsewhere", "--knn.k=1", "--knn.temperature=0.1", "--knn.knn_weight=1.0")
    here, _ = predict("elsewhere")
    assert "\n    " in here  # neighbours
    monkeypatch.chdir("/")
    assert predict(folder / "elsewhere") == (here, "")
    assert predict(folder / "run")[1] == ""

    moved = tmp_path / "moved"  # the whole project
    folder.rename(moved)
    assert predict(moved / "elsewhere") == (here, "")


def test_a_configuration_may_give_whole_paths(evaluated, copy_of, run_eval, predict, tmp_path):
    copy_of(evaluated)
    run_eval(f"--eval_dir={tmp_path / 'whole'}", "--knn.k=1", "--knn.temperature=0.1", "--knn.knn_weight=1.0")
    here = predict(tmp_path / "whole")
    assert here[1] == ""
    (tmp_path / "whole").rename(tmp_path / "moved")
    assert predict(tmp_path / "moved") == here


def test_without_the_corpus_labels_are_the_same_and_neighbours_are_not_shown(evaluated, predict, monkeypatch, tmp_path):
    monkeypatch.chdir(evaluated)
    labels, _ = predict("run", "--output=conll")
    shutil.copytree(evaluated / "run", tmp_path / "alone")
    monkeypatch.setattr("knn_ner_jax.run_dir.FinishedEvaluation.find_file", lambda self, path, sha256: tmp_path / path)
    monkeypatch.chdir(tmp_path)
    assert predict("alone", "--output=conll") == (labels, "")
    shown, warning = predict("alone")
    assert "\n    " not in shown
    assert warning.startswith("neighbours are not shown: ")
    assert "corpus/train.conll: expected the file the datastore was built from, found none; start in the folder" in warning
    with pytest.raises(InputError, match="expected the file the datastore was built from"):
        kn.load("alone").tag("Nokia", neighbours=1)


def test_another_file_of_the_same_name_is_passed_over(evaluated, predict, monkeypatch, tmp_path):
    monkeypatch.chdir(evaluated)
    here = predict("run")
    assert "\n    " in here[0]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.conll").write_text("Other\tO\n")
    monkeypatch.chdir(tmp_path)
    assert predict(evaluated / "run") == here


def test_a_folder_of_texts_and_a_table_in_shards_are_found_where_the_run_was_made(tmp_path, monkeypatch):
    made, here = tmp_path / "made", tmp_path / "here"
    (made / "brat" / "train").mkdir(parents=True)
    (made / "train-00000-of-00002.parquet").write_bytes(b"one of two")
    here.mkdir()
    monkeypatch.chdir(here)
    evaluation = FinishedEvaluation(made / "run", Config("run", DataConfig("brat"), ModelConfig("x")), {}, (made,))
    for name in ("brat/train", "train-00000-of-00002.parquet"):
        assert evaluation.find_file(name, "of all its files") == made / name
    assert evaluation.find_file("gone", "of all its files") == Path("gone")
