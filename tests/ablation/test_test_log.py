"""What test was searched for stays known, whatever a study becomes afterwards."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.studies import finish_study, run_study

from knn_ner_jax import cli
from knn_ner_jax.ablation import run, store
from knn_ner_jax.ablation.config import AblationConfig, Axis, StudyConfig
from knn_ner_jax.ablation.report import describe_hidden
from knn_ner_jax.ablation.store import Results, log_test_search, no_longer_shown, read_test_log, write_selection
from knn_ner_jax.ablation.study import Files, plan

LAYERS: list[Axis] = [{"datastore.layers": [[-1], [1]]}]
SETTING = {"k": 1, "temperature": 0.1, "knn_weight": 0.5, "metric": "cosine"}
UNIFORM = "helpers.studies:UniformCombiner"


@pytest.fixture
def searched(tmp_path) -> Callable[..., Results]:
    """Makes a study in one folder, and its results as if dev had selected its last candidate and test had been searched."""
    options = ["--run_dir", str(tmp_path / "study"), "--data.dir", "corpus", "--model.backbone", "bert"]
    base = cli.parse("ablate.py", "", StudyConfig, options)[0]

    def search(setting: dict[str, Any] = SETTING, **ablation: Any) -> Results:
        config = replace(base, ablation=AblationConfig(**{"seeds": [0], "candidates": LAYERS} | ablation))
        results = Results(plan(config, lambda _: Files(("train", "dev", "backbone"), (), "test")))
        for number, cell in enumerate(results.study.cells):
            path = results.path(cell, "dev")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"selected": setting, "knn": {"f1": number}}))
        for condition in results.study.conditions:
            write_selection(results, condition)
            for candidate in results.for_test(condition):
                for cell in results.study.seeds_of(condition, candidate):
                    log_test_search(results, cell, setting)
                    if config.ablation.combiner:
                        log_test_search(results, cell, None)
        return results

    return search


def hidden(results: Results) -> str:
    return "".join(describe_hidden(no_longer_shown(results)))


def test_every_search_of_test_is_logged_once(searched):
    results = searched()
    entries = read_test_log(results.study.folder)
    assert [entry["candidate"] for entry in entries] == [{"datastore.layers": [-1]}, {"datastore.layers": [1]}]
    assert {entry["tagger"] for entry in entries} == {Path(cell.config.run_dir).name for cell in results.study.cells}
    assert read_test_log(searched().study.folder) == entries
    assert hidden(results) == ""


def test_a_default_that_is_written_out_is_no_other_search(searched):
    entries = read_test_log(searched().study.folder)
    written_out = searched(candidates=[LAYERS[0] | {"datastore.subwords": ["first", "first"]}])
    assert read_test_log(written_out.study.folder) == entries
    assert hidden(written_out) == ""


def test_what_a_study_does_not_show_any_more_is_listed_until_it_is_shown_again(searched):
    searched()
    others = hidden(searched(candidates=[{"datastore.layers": [[0]]}]))
    assert "for as configured; datastore.layers [-1] (seed 0)" in others
    assert "for as configured; datastore.layers [1] (seed 0)" in others
    again = hidden(searched())
    assert "for as configured; datastore.layers [0] (seed 0)" in again
    assert "[-1]" not in again


def test_the_log_is_none_of_the_files_that_overwriting_deletes():
    assert store.TEST_LOG not in run.FILES


def test_another_setting_is_another_search(searched):
    searched()
    assert "for as configured; datastore.layers [-1] (seed 0)" in hidden(searched(setting=SETTING | {"k": 4}))


def test_a_combiner_is_another_search(searched):
    assert hidden(searched(combiner=UNIFORM)) == ""
    assert "; uniform (seed 0)" in hidden(searched())


def test_taggers_that_a_study_does_not_have_are_none_of_its_concern(searched):
    searched()
    assert hidden(searched(seeds=[1])) == ""


@pytest.mark.slow
def test_summary_and_page_warn_even_after_a_study_began_anew(tmp_path, monkeypatch):
    study = "knn: {k: [1, 3]}\nablation: {seeds: [0], candidates: [{datastore.layers: [[-1], [1]]}], resamples: 10}"
    finish_study(tmp_path, study)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.yaml"
    file.write_text(file.read_text().replace("[[-1], [1]]", "[[0]]"))
    for options in ((), ("--overwrite",)):
        run_study(*options)
        for name in ("summary.md", "report.html"):
            assert "Test was searched before" in (tmp_path / "study" / name).read_text()
