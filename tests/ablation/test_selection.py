"""What dev selects is written before test is searched, and a study can stop there."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.studies import run_study, write_study

from knn_ner_jax import cli
from knn_ner_jax.ablation import run
from knn_ner_jax.ablation.config import StudyConfig
from knn_ner_jax.ablation.store import Corpora, Results, write_selection
from knn_ner_jax.ablation.study import plan
from knn_ner_jax.io import write_json

VARIED = """
knn: {k: [1, 3], temperature: [0.05, 0.5]}
ablation: {seeds: [0, 1], conditions: [{datastore.fraction: [0.5, 1]}], resamples: 10}
"""
LAYERS = VARIED.replace("resamples", "candidates: [{datastore.layers: [[-1], [1]]}], resamples")


def planned(*options: str) -> Results:
    """Of the study in the working directory."""
    config = cli.parse("ablate.py", "", StudyConfig, ["--config", "study.yaml", *options])[0]
    return Results(plan(config, Corpora().files))


def read(folder: Path, kind: str) -> list:
    return [json.loads(path.read_text()) for path in sorted((folder / "study" / kind).glob("*.json"))]


def settings_written(folder: Path) -> dict[tuple[str, str], dict]:
    """What `selected/` has of each condition's first candidate, by condition and seed."""
    latest = [made[-1] for made in read(folder, "selected")]
    return {(str(one["condition"]), seed): by for one in latest for seed, by in one["dev"][0]["settings"].items()}


@pytest.fixture(scope="module")
def of_layers(taggers, tmp_path_factory) -> Path:
    """A folder with a study of two candidates that has stopped when dev had selected."""
    folder = tmp_path_factory.mktemp("layers")
    write_study(folder, with_taggers(LAYERS, taggers))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_study("--ablation.stop_before_test", "true")
    return folder


def with_taggers(varied: str, taggers: Path) -> str:
    return varied.replace("resamples", f"taggers: {taggers}, resamples")


def test_a_study_of_one_candidate_writes_what_dev_selected_for_a_seed_before_it_searches_test_for_it(
    tmp_path, taggers, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, with_taggers(VARIED, taggers))
    search, seen = run.Searcher.search_for, []

    def looking(searcher, name, split, grids):
        if name == "test":
            seen.append(len(settings_written(tmp_path)))
        return search(searcher, name, split, grids)

    monkeypatch.setattr(run.Searcher, "search_for", looking)
    run_study()
    assert seen == [1, 2, 3, 4]  # by seed and condition
    selected = {(str(cell["condition"]), str(cell["seed"])): cell["selected"] for cell in read(tmp_path, "dev")}
    assert settings_written(tmp_path) == selected
    assert all(len(made) == 1 for made in read(tmp_path, "selected"))
    (tmp_path / "study" / "selected").rename(tmp_path / "gone")
    run_study()  # as if it had died before it had written them
    assert settings_written(tmp_path) == selected


def check_that_it_stopped(folder: Path) -> None:
    study = folder / "study"
    assert not (study / "test").exists()
    chosen = read(folder, "selected")
    assert {(seed, len(made)) for made in chosen for seed in made[0]["cells"]} == {("0", 1), ("1", 1)}
    assert "Not searched so far." in (study / "summary.md").read_text()


def check_that_it_goes_on(folder: Path) -> None:
    chosen = read(folder, "selected")
    run_study()
    assert read(folder, "selected") == chosen
    assert read(folder, "test")
    assert (folder / "study" / "report.html").exists()


def test_a_study_of_one_candidate_stops_once_dev_has_selected_and_goes_on(tmp_path, taggers, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, with_taggers(VARIED, taggers))
    run_study("--ablation.stop_before_test", "true")
    check_that_it_stopped(tmp_path)
    assert (
        "dev has selected: commit study/selected; the same command without ablation.stop_before_test"
        in capsys.readouterr().out
    )
    check_that_it_goes_on(tmp_path)


def test_a_study_of_two_candidates_stops_once_dev_has_selected(of_layers):
    check_that_it_stopped(of_layers)


@pytest.mark.slow
def test_a_study_of_two_candidates_goes_on_after_dev_has_selected(of_layers, tmp_path, monkeypatch):
    shutil.copytree(of_layers, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    check_that_it_goes_on(tmp_path / "work")


def test_a_selection_is_written_again_where_another_one_is_made_or_among_others_or_for_more_seeds(
    of_layers, tmp_path, monkeypatch
):
    shutil.copytree(of_layers, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    results = planned()
    condition = results.study.conditions[0]
    (selection,) = results.selections(condition)
    assert {seed: len(keys) for seed, keys in selection["cells"].items()} == {"0": 2, "1": 2}
    assert all(Path(f"study/dev/{key}.json").exists() for keys in selection["cells"].values() for key in keys)
    of_one = selection | {
        "cells": {"0": selection["cells"]["0"]},
        "dev": [listed | {"dev_f1": 1.0} for listed in selection["dev"]],
    }
    of_more = selection | {"cells": selection["cells"] | {"2": ["of a seed that has gone"] * 2}}
    (another,) = (candidate for candidate in results.study.candidates if candidate != selection["selected"])
    changed = [
        of_one | {"selected": another},
        of_one | {"dev": of_one["dev"][:1]},
        of_one | {"cells": {"0": ["of another configuration"] * 2}},
    ]
    for earlier, now in ((of_one, [selection]), (of_more, [of_more]), *((other, [other, selection]) for other in changed)):
        write_json(results.selection_path(condition), [earlier])
        write_selection(results, condition)
        assert results.selections(condition) == now


def test_a_condition_has_one_record_however_its_number_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, VARIED)

    def path(share: str) -> Path:
        results = planned("--ablation.conditions", f"[{{datastore.fraction: [{share}, 0.5]}}]")
        return results.selection_path(results.study.conditions[0])

    assert path("1") == path("1.0") != path("0.25")
    assert path("null") != path("1.0")
