"""A run is used where it was not made: relative paths are found again, and nothing of it needs the corpus."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from knn_ner_jax import cli

ROOT = os.path.dirname(os.path.dirname(cli.__file__))


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


ELSEWHERE = """
import dataclasses, json, sys
import knn_ner_jax as kn
tagger = kn.load(sys.argv[1])
tagged = tagger.tag(json.loads(sys.argv[2]), 3)
near = [dataclasses.asdict(each) for result in tagged for entity in result.entities for each in entity.neighbours]
edit = tagger.memory.add([(["Emu", "Park"], ["B-ANIMAL", "O"])], source="birds")
print(json.dumps([near, edit.rows, tagger.memory.verify() - tagger.num_rows]))
"""


def test_a_copied_run_is_whole_without_its_corpus(evaluated, tmp_path):
    """Another process in another folder tags with it, shows its neighbours' sentences, and teaches it."""
    train = (evaluated / "corpus" / "train.conll").read_text(encoding="utf-8")
    sentences = [[line.split("\t")[0] for line in block.splitlines()] for block in train.strip().split("\n\n")]
    shutil.copytree(evaluated / "run", tmp_path / "alone")
    (tmp_path / "here").mkdir()
    evaluated.rename(evaluated.with_name("gone"))
    try:
        command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "alone"), json.dumps(sentences[:6])]
        environment = os.environ | {"PYTHONPATH": ROOT, "XLA_FLAGS": ""}
        process = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
    finally:
        evaluated.with_name("gone").rename(evaluated)
    assert process.returncode == 0, process.stderr
    neighbours, rows, more = json.loads(process.stdout)
    assert (rows, more) == (2, 0)
    assert len(neighbours) > 10
    for near in neighbours:
        text, place = sentences[near["sentence_id"]], near["word_id"]
        assert [*near["before"], near["word"], *near["after"]] == text[max(0, place - 5) : place + 6]
        assert (near["word"], near["cut"]) == (text[place], [place > 5, place + 6 < len(text)])
