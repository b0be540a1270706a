"""What test was searched for stays known, whatever a study becomes afterwards."""

import shutil
from pathlib import Path

import pytest
from helpers.studies import finish_study, run_study

from knn_ner_jax.ablation import store

VARIED = """
knn: {k: [1, 3], temperature: [0.05, 0.5], knn_weight: [0.5, 1.0]}
ablation:
  seeds: [0]
  candidates:
    - datastore.layers: [[-1], [1]]
  resamples: 10
"""
TWO = "datastore.layers: [[-1], [1]]"
ADAPTIVE = "knn_ner_jax.contrib.adaptive:AdaptiveCombiner"
BEFORE = "Test was searched before"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    finish_study(folder, VARIED)
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch) -> Path:
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def change(folder: Path, *replaced: tuple[str, str]) -> None:
    """Runs the study with something else in its file."""
    text = (folder / "study.yaml").read_text()
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    (folder / "study.yaml").write_text(text)
    run_study()


def warning(folder: Path) -> str:
    """Return what the summary states of what it no longer shows; the page states the same."""
    lines = [line for line in (folder / "study" / "summary.md").read_text().splitlines() if line.startswith(BEFORE)]
    assert (BEFORE in (folder / "study" / "report.html").read_text()) == bool(lines)
    return "".join(lines)


def test_every_search_of_test_is_logged_once(folder):
    entries = store.read_test_log(folder / "study")
    tested = list((folder / "study" / "test").glob("*.json"))
    assert len(entries) == len(tested) > 0
    assert {entry["tagger"] for entry in entries} == {path.name for path in (folder / "study" / "taggers").iterdir()}
    (folder / "study" / store.TEST_LOG).rename("before")
    for path in tested:
        path.unlink()
    run_study()
    assert store.read_test_log(folder / "study") == entries
    for path in tested:
        path.unlink()
    run_study()
    assert store.read_test_log(folder / "study") == entries
    assert not warning(folder)


def test_a_default_that_is_written_out_is_no_other_search(folder):
    entries = store.read_test_log(folder / "study")
    change(folder, (TWO, f"{TWO}\n      datastore.subwords: [first, first]"))
    assert store.read_test_log(folder / "study") == entries
    assert not warning(folder)


def test_what_a_study_does_not_show_any_more_is_listed_even_after_it_began_anew(folder):
    change(folder, (TWO, "datastore.layers: [[0]]"))
    assert "for as configured; datastore.layers [-1] (seed 0)" in warning(folder)
    run_study("--overwrite")
    assert "for as configured; datastore.layers [-1] (seed 0)" in warning(folder)
    change(folder, ("[[0]]", "[[-1], [1]]"))
    assert "for as configured; datastore.layers [0] (seed 0)" in warning(folder)
    assert "[-1]" not in warning(folder)


def test_another_setting_is_another_search(folder):
    change(
        folder,
        ("k: [1, 3]", "k: [4]"),
        ("resamples: 10", "resamples: 10\n  combiner: knn_ner_jax.contrib.adaptive:AdaptiveCombiner"),
    )
    assert "for as configured; datastore.layers [-1] (seed 0)" in warning(folder)
    change(folder, ("k: [4]", "k: [1, 3]"), ("combiner: knn_ner_jax.contrib.adaptive:AdaptiveCombiner", "adaptive: false"))
    assert "; adaptive (seed 0)" in warning(folder)


def test_taggers_that_a_study_does_not_have_are_none_of_its_concern(folder):
    change(folder, ("seeds: [0]", "seeds: [1]"))
    assert not warning(folder)
