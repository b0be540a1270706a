"""What dev chose is written before test is opened, and a study can stop there."""

import json
from pathlib import Path

import pytest
from studies import run_study, write_study

from knn_ner_jax import cli
from knn_ner_jax.ablation import cells
from knn_ner_jax.ablation.corpora import Corpora
from knn_ner_jax.ablation.results import Results
from knn_ner_jax.ablation.study import StudyConfig, plan

VARIED = """
knn: {k: [1, 3], temperature: [0.05, 0.5]}
ablation: {seeds: [0, 1], conditions: [{datastore.share: [0.5, 1]}], resamples: 10}
"""
LAYERS = VARIED.replace("resamples", "choices: [{datastore.layers: [[-1], [1]]}], resamples")


def read(folder: Path, kind: str) -> list:
    return [json.loads(path.read_text()) for path in sorted((folder / "study" / kind).glob("*.json"))]


def settings_written(folder: Path) -> dict[tuple[str, str], dict]:
    """What stands in `choices/` of each condition's first choice, by condition and seed."""
    latest = [made[-1] for made in read(folder, "choices")]
    return {(str(one["condition"]), seed): by for one in latest for seed, by in one["dev"][0]["settings"].items()}


def test_a_study_of_one_choice_writes_what_dev_chose_for_a_seed_before_it_opens_test_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, VARIED)
    search, seen = cells.Opened.search_for, []

    def looking(opened, name, split, grids):
        if name == "test":
            seen.append(len(settings_written(tmp_path)))
        return search(opened, name, split, grids)

    monkeypatch.setattr(cells.Opened, "search_for", looking)
    run_study()
    assert seen == [1, 2, 3, 4]  # by seed and condition
    selected = {(str(cell["condition"]), str(cell["seed"])): cell["selected"] for cell in read(tmp_path, "dev")}
    assert settings_written(tmp_path) == selected
    assert all(len(made) == 1 for made in read(tmp_path, "choices"))
    (tmp_path / "study" / "choices").rename(tmp_path / "gone")
    run_study()  # as if it had died before it had written them
    assert settings_written(tmp_path) == selected


@pytest.mark.parametrize("varied", [VARIED, LAYERS], ids=["one choice", "two"])
def test_a_study_stops_once_dev_has_chosen_and_goes_on(tmp_path, monkeypatch, capsys, varied):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, varied)
    run_study("--ablation.until", "choice")
    study = tmp_path / "study"
    assert not (study / "test").exists()
    chosen = read(tmp_path, "choices")
    assert {(seed, len(made)) for made in chosen for seed in made[0]["cells"]} == {("0", 1), ("1", 1)}
    assert "dev has chosen: commit study/choices; the same command without ablation.until" in capsys.readouterr().out
    assert "Not searched so far." in (study / "summary.md").read_text()
    run_study()
    assert read(tmp_path, "choices") == chosen
    assert read(tmp_path, "test")
    assert (study / "report.html").exists()


def test_a_condition_has_one_record_however_its_number_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, VARIED)

    def path(share: str) -> Path:
        axes = f"[{{datastore.share: [{share}, 0.5]}}]"
        config = cli.parse("", "", StudyConfig, ["--config", "study.yaml", "--ablation.conditions", axes])[0]
        results = Results(plan(config, Corpora().files))
        return results.choice_path(results.study.conditions[0])

    assert path("1") == path("1.0") != path("0.25")
    assert path("null") != path("1.0")
