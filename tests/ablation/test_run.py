"""A study of a tiny corpus: what is shared, what is searched, what the tables contain."""

import csv
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers.studies import counted, finish_study, run_study
from pyarrow import parquet
from rich.progress import Progress
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from knn_ner_jax import cli, knn_tagger
from knn_ner_jax.ablation import run
from knn_ner_jax.evaluation.predictions import Predictions
from knn_ner_jax.knn.storage import MANIFEST

VARIED = """
knn: {k: [1, 3, all], temperature: [0.05, 0.5], knn_weight: [0.3, 0.7, 1.0]}
ablation:
  seeds: [0, 1]
  conditions:
    - datastore.fraction: [0.5, 1.0]
  candidates:
    - datastore.layers: [[-1], [1]]
    - knn.temperature: [[0.05, 0.5], [0.2]]
  resamples: 100
"""
TAGGERS, CELLS, KEYS = 2, 16, 8

remove_folder = shutil.rmtree


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished study, and what it took."""
    folder = tmp_path_factory.mktemp("ablation")
    return folder, finish_study(folder, VARIED)


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def cells(folder: Path, split: str) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "study" / split).glob("*.json"))}


def test_taggers_are_trained_once_and_keys_are_searched_once(finished):
    folder, counts = finished
    assert len(cells(folder, "dev")) == CELLS
    assert len(list((folder / "study" / "taggers").iterdir())) == TAGGERS
    tested = cells(folder, "test")
    searched_for_test = {(str(c["condition"]), str(c["candidate"]["datastore.layers"]), c["seed"]) for c in tested.values()}
    for_sentences = 1
    assert counts == {"trained": TAGGERS, "searched": KEYS + len(searched_for_test) + for_sentences}


def test_only_the_reference_and_what_dev_selected_are_tested_after_the_selection_is_written(finished):
    folder = finished[0] / "study"
    selections = [one for path in (folder / "selected").glob("*.json") for one in json.loads(path.read_text())]
    assert len(selections) == 2
    dev, tested = cells(finished[0], "dev"), cells(finished[0], "test")
    for selection in selections:
        of_condition = [cell for cell in dev.values() if cell["condition"] == selection["condition"]]
        means = {
            json.dumps(listed["candidate"]): np.mean(
                [c["knn"]["f1"] for c in of_condition if c["candidate"] == listed["candidate"]]
            )
            for listed in selection["dev"]
        }
        setting_of = {(json.dumps(c["candidate"]), str(c["seed"])): c["selected"] for c in of_condition}
        assert selection["dev"] == [
            {
                "candidate": json.loads(candidate),
                "dev_f1": pytest.approx(f1),
                "settings": {seed: setting_of[candidate, seed] for seed in ("0", "1")},
            }
            for candidate, f1 in means.items()
        ]
        assert means[json.dumps(selection["selected"])] == max(means.values())
        reference = {"datastore.layers": [-1], "knn.temperature": [0.05, 0.5]}
        shown = [cell["candidate"] for cell in tested.values() if cell["condition"] == selection["condition"]]
        assert {json.dumps(c) for c in shown} == {json.dumps(selection["selected"]), json.dumps(reference)}
    last_selection = max(path.stat().st_mtime_ns for path in (folder / "selected").glob("*.json"))
    assert all(path.stat().st_mtime_ns >= last_selection for path in (folder / "test").glob("*.json"))


def test_every_score_is_seqevals(finished):
    for split in ("dev", "test"):
        for name, cell in cells(finished[0], split).items():
            outcome = Predictions.load(finished[0] / "study" / split / f"{name}.npz")
            gold = outcome.tags(outcome.gold)
            for method in ("tagger", "knn"):
                expected = 100 * f1_score(
                    gold, outcome.tags(getattr(outcome, method)), mode="strict", scheme=IOB2, zero_division=0
                )
                assert cell[method]["f1"] == pytest.approx(expected, abs=1e-9)
            if split == "dev":
                best = max(trial["f1"] for trial in cell["trials"])
                assert cell["knn"]["f1"] == pytest.approx(best, abs=1e-4)


@pytest.mark.slow
def test_a_cell_has_the_results_of_an_evaluation_of_its_configuration(copied, monkeypatch):
    cell = next(iter(cells(copied, "test").values()))
    layers, temperature = cell["candidate"]["datastore.layers"], cell["candidate"]["knn.temperature"]
    tagger = next(
        path.parent
        for path in (copied / "study" / "taggers").glob("*/config.yaml")
        if f"seed: {cell['seed']}\n" in path.read_text()
    )
    arguments = ["--config", str(tagger / "config.yaml"), "--eval_dir", "alone", "--knn.temperature", str(temperature)]
    arguments += ["--datastore.fraction", str(cell["condition"]["datastore.fraction"])]
    cli.run("eval", "eval.py", [*arguments, "--datastore.layers", str(layers)])
    alone = json.loads((copied / "alone" / "eval.json").read_text())
    same = ("condition", "candidate", "seed")
    dev = next(one for one in cells(copied, "dev").values() if all(one[name] == cell[name] for name in same))
    assert alone["selected"] == cell["selected"]
    for method in ("tagger", "knn"):
        assert alone["test"][method] == cell[method]
        assert alone["dev"][method] == dev[method]


def test_a_finished_study_computes_nothing_and_reports_the_same(copied, monkeypatch):
    before = {path: path.stat().st_mtime_ns for split in ("dev", "test") for path in (copied / "study" / split).iterdir()}
    summary = (copied / "study" / "summary.md").read_text()
    counts = counted(monkeypatch)
    run_study()
    assert not counts
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert (copied / "study" / "summary.md").read_text() == summary


def test_a_change_computes_what_depends_on_it_and_nothing_else(copied, monkeypatch):
    counts = counted(monkeypatch)
    study = (copied / "study.yaml").read_text()
    (copied / "study.yaml").write_text(study.replace("[[0.05, 0.5], [0.2]]", "[[0.05, 0.5], [0.3]]"))
    run_study()
    assert counts["trained"] == 0
    assert KEYS <= counts["searched"] <= 2 * KEYS + 1
    for path in (copied / "study" / "selected").glob("*.json"):
        assert [len(one["dev"]) for one in json.loads(path.read_text())] == [4, 4]  # the earlier selection is kept
    assert len(cells(copied, "dev")) == CELLS + CELLS // 2


def test_the_tables_have_a_row_for_each_cell_split_and_method(finished):
    folder = finished[0] / "study"
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (CELLS + len(cells(finished[0], "test")))
    table = parquet.read_table(folder / "scores.parquet").to_pylist()
    assert [row["f1"] for row in table] == [float(row["f1"]) for row in rows]
    f1 = {
        (row["split"], row["seed"], row["datastore.fraction"], row["datastore.layers"], row["knn.temperature"]): row["f1"]
        for row in table
        if row["method"] == "knn"
    }
    for cell in cells(finished[0], "dev").values():
        candidate = [json.dumps(cell["candidate"][name]) for name in ("datastore.layers", "knn.temperature")]
        assert f1["dev", cell["seed"], cell["condition"]["datastore.fraction"], *candidate] == cell["knn"]["f1"]
    trials = parquet.read_table(folder / "trials.parquet").to_pylist()
    assert len(trials) == sum(len(cell["trials"]) for cell in cells(finished[0], "dev").values())
    assert {row["k"] for row in trials} == {"1", "3", "all"}
    where = parquet.read_table(folder / "breakdown.parquet").to_pylist()
    names = "datastore.fraction", "datastore.layers", "knn.temperature"
    on_test = {tuple(row[name] for name in names) for row in table if row["split"] == "test"}
    assert {tuple(row[name] for name in names) for row in where} == on_test
    assert {share for share, *_ in on_test} == {0.5, 1.0}


def test_the_steps_left_are_known_from_the_first_on(copied, monkeypatch, capsys):
    shutil.rmtree(copied / "study" / "test")
    of_seed = [name for name, cell in cells(copied, "dev").items() if cell["seed"] == 0]
    for name in of_seed[:2]:
        (copied / "study" / "dev" / f"{name}.json").unlink()
    steps: list[run.Step] = []
    compute, totals, add_task = run.compute, [], Progress.add_task
    monkeypatch.setattr(
        Progress, "add_task", lambda *given, **named: totals.append(named["total"]) or add_task(*given, **named)
    )
    monkeypatch.setattr(run, "compute", lambda *given: (steps.append(step) or step for step in compute(*given)))
    run_study("--ablation.seeds", "[0]")
    on_test = len(of_seed) // 4  # of the reference, one of four candidates
    assert totals == [2 + on_test]
    assert steps[0].left == 1 + on_test
    assert steps[-1].left == 0
    printed = capsys.readouterr().out
    assert f"{steps[0].what}; {steps[0].left} left, about 1 min\n" in printed
    assert f"{steps[-1].what}; none left\n" in printed
    assert printed.endswith("wrote study/report.html\n")
    assert "next: " not in printed


def test_datastores_go_when_their_cells_are_done(finished):
    assert not (finished[0] / "study" / "datastores").exists()


def test_test_as_dev_is_refused(copied, capsys):
    shutil.copy(copied / "corpus" / "test.conll", copied / "corpus" / "dev.conll")
    with pytest.raises(SystemExit) as stop:
        run_study()
    assert stop.value.code == 2
    assert "hold the same sentences" in capsys.readouterr().err


@pytest.mark.slow
def test_another_test_file_is_searched_and_nothing_else(copied, monkeypatch):
    path = copied / "corpus" / "test.conll"
    path.write_text(path.read_text() + "\na\tO\n")
    tested, dev = cells(copied, "test"), cells(copied, "dev")
    counts = counted(monkeypatch)
    cleared: list[None] = []
    monkeypatch.setattr(run, "GROUPS_COMPILED", 2)
    monkeypatch.setattr("jax.clear_caches", lambda: cleared.append(None))
    run_study()
    groups = {(str(cell["candidate"]["datastore.layers"]), str(cell["condition"]), cell["seed"]) for cell in tested.values()}
    for_sentences = 1
    assert counts == {"searched": len(groups) + for_sentences}
    assert cells(copied, "dev") == dev
    assert len(cells(copied, "test")) == 2 * len(tested)
    assert len(cleared) == len(groups) // 2 > 0


@pytest.mark.slow
def test_another_backbone_of_the_same_name_is_trained(copied, monkeypatch):
    path = copied / "corpus" / "vocab.txt"
    path.write_text(path.read_text().replace("\nF\n", "\nq\n"))
    counts = counted(monkeypatch)
    run_study("--ablation.seeds", "[0]")
    assert counts["trained"] == TAGGERS // 2
    assert counts["searched"] > KEYS // 2


@pytest.mark.slow
def test_metrics_are_searched_in_one_datastore(copied, monkeypatch):
    study = (copied / "study.yaml").read_text()
    axes = "    - datastore.layers: [[-1], [1]]\n    - knn.temperature: [[0.05, 0.5], [0.2]]\n"
    assert axes in study
    axes = "    - knn.metric: [cosine, l2]\n    - datastore.layers: [[-1], [1]]\n"
    study = study.partition("  candidates:")[0].replace("[0.5, 1.0]", "[0.5]") + f"  candidates:\n{axes}  resamples: 100\n"
    (copied / "study.yaml").write_text(study)
    built: list[Path] = []
    built_by = knn_tagger.build_datastore
    monkeypatch.setattr(knn_tagger, "build_datastore", lambda path, *rest: (built.append(path), built_by(path, *rest)))
    run_study("--ablation.seeds", "[0]")
    on_dev = 2  # two layers of one share
    assert len(set(built[:on_dev])) == len(set(built)) == on_dev
    assert not (copied / "study" / "datastores").exists()


def dies_while_it_deletes_a_datastore(path: Path | str, **options) -> None:
    """What a kill leaves: some files are gone."""
    if Path(path).parent.name != "datastores":
        remove_folder(path, **options)
        return
    (Path(path) / "datastore" / MANIFEST).unlink()
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_study_that_dies_while_it_deletes_a_datastore_goes_on(copied, monkeypatch):
    summary = (copied / "study" / "summary.md").read_text()
    (copied / "study" / "summary.md").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", dies_while_it_deletes_a_datastore)
        with pytest.raises(SystemExit) as stop:
            run_study()
    assert stop.value.code == 128 + signal.SIGINT
    assert not (copied / "study" / "summary.md").exists()
    run_study()
    assert (copied / "study" / "summary.md").read_text() == summary
    assert "No sentences are shown" not in (copied / "study" / "report.html").read_text()
    assert not (copied / "study" / "datastores").exists()


def test_a_finished_study_without_its_taggers_reports_all_but_the_sentences(copied):
    summary = (copied / "study" / "summary.md").read_text()
    (copied / "study" / "summary.md").unlink()
    shutil.rmtree(copied / "study" / "taggers")
    run_study()
    assert (copied / "study" / "summary.md").read_text() == summary
    assert re.search(r"No sentences are shown: .*expected a trained tagger", (copied / "study" / "report.html").read_text())
