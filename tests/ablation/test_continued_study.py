"""A study that stopped somewhere and is started again: what it continues, what it leaves behind."""

import os
import re
import signal

import pytest
from helpers.studies import run_study, write_study

from knn_ner_jax.ablation import report, run
from knn_ner_jax.io import InputError
from knn_ner_jax.main import ablate, train

VARIED = "knn: {k: [1, 3], temperature: [0.05]}\nablation: {seeds: [0], resamples: 10}"


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    """The folder of a study that has not begun; the working directory holds its file."""
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, VARIED)
    return tmp_path / "study"


def stop(*_):
    raise KeyboardInterrupt


def stopped(*options: str) -> None:
    """Runs a study that something stops."""
    with pytest.raises(SystemExit) as end:
        run_study(*options)
    assert end.value.code == 128 + signal.SIGINT


def test_a_tagger_goes_on_where_no_more_is_changed_than_decides_no_result(study, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(train, "summarise", stop)
        stopped()
    assert not list(study.glob("taggers/*/train.json"))
    capsys.readouterr()
    changed = {"data.dir": "./corpus", "data.on_error": "report", "train.log_every": 3, "train.save_every": 7}
    changed["ablation.stop_before_test"] = "true"
    run_study(*(f"--{name}={value}" for name, value in changed.items()))
    assert "continuing after step 36 of 36" in capsys.readouterr().out
    assert len(list(study.glob("taggers/*/train.json"))) == len(list(study.glob("taggers/*/checkpoints"))) == 1


def test_a_study_that_stops_after_the_last_result_of_a_cell_leaves_no_datastore_when_it_is_done(study, taggers, monkeypatch):
    trained = ("--ablation.taggers", str(taggers))
    with monkeypatch.context() as patch:
        patch.setattr(run, "delete_datastore", stop)
        stopped(*trained)
    assert list(study.glob("test/*.json"))
    assert list(study.glob("datastores/*/datastore"))
    monkeypatch.setattr(report, "break_down", lambda *_: [])  # without which no datastore is built again for sentences
    run_study(*trained, "--ablation.keep_datastores", "true")
    assert list(study.glob("datastores/*/datastore"))
    run_study(*trained)
    assert not (study / "datastores").exists()


def told_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def refused() -> None:
    raise InputError("something was wrong")


def died() -> None:
    raise RuntimeError


@pytest.mark.parametrize(
    ("cells", "end", "raised"),
    [(1, told_to_stop, SystemExit), (1, stop, SystemExit), (1, refused, SystemExit), (2, died, RuntimeError)],
)
def test_an_unfinished_study_reports_dev_and_has_neither_selected_nor_tested(
    study, taggers, monkeypatch, cells, end, raised
):
    calls, open_cell = [], run.open_cell

    def open_some(*arguments):
        if len(calls) == cells:
            end()
        calls.append(arguments)
        return open_cell(*arguments)

    monkeypatch.setattr(run, "open_cell", open_some)
    path = study.parent / "study.yaml"
    path.write_text(path.read_text().replace("seeds: [0]", "seeds: [0, 1], candidates: [{datastore.layers: [[-1], [1]]}]"))
    with pytest.raises(raised):
        run_study("--ablation.taggers", str(taggers))
    text = (study / "summary.md").read_text()
    assert report.UNFINISHED in text
    on_test, on_dev = text.split("## Dev")
    assert "## Test\n\nNot searched so far.\n" in on_test
    assert len(re.findall(r"^\| as configured \| datastore.layers \[-?1\] \| 1 \|", on_dev, re.MULTILINE)) == cells
    assert not (study / "selected").exists()
    assert not (study / "test").exists()
    assert (study / "scores.csv").exists()
    assert not (study / "report.html").exists()


def test_what_an_earlier_version_of_a_study_showed_does_not_stay(study, taggers, monkeypatch):
    trained = ("--ablation.taggers", str(taggers))
    run_study(*trained)
    shown = {path.name for path in study.glob("*.*")}
    assert {"report.html", "breakdown.csv"} < shown
    (study / "candidates.svg").write_text("of candidates that were taken out")
    with monkeypatch.context() as patch:
        patch.setattr(report, "has_page_extra", lambda: False)
        run_study(*trained, "--ablation.resamples", "30")
    assert not {"scores.csv", "trials.parquet", "gains.svg", "candidates.svg"} & {path.name for path in study.glob("*.*")}
    run_study(*trained)
    assert {path.name for path in study.glob("*.*")} == shown
    monkeypatch.setattr(run, "open_cell", stop)
    stopped(*trained, "--ablation.seeds", "[0, 1]")
    assert report.UNFINISHED in (study / "summary.md").read_text()
    assert not {"report.html", "breakdown.csv"} & {path.name for path in study.glob("*.*")}


def test_a_tagger_of_another_text_than_its_name_stands_for_is_not_used(study, monkeypatch, capsys):
    fine_tune = train.run

    def train_on_another_text(*arguments, **named):
        with (study.parent / "corpus" / "train.conll").open("a") as file:
            file.write("\nab\tO\n")
        fine_tune(*arguments, **named)

    monkeypatch.setattr(train, "run", train_on_another_text)
    with pytest.raises(SystemExit) as end:
        run_study()
    assert end.value.code == 2
    assert "corpus/train.conll: changed since the earlier run; delete study/taggers/" in capsys.readouterr().err
    assert not (study / "dev").exists()


def test_the_time_left_is_told_however_long_a_step_takes():
    now, bar = 0.0, ablate.new_progress()
    bar.get_time = lambda: now
    task = bar.add_task("cells", total=6)
    for done in (1, 2, 3):
        now += 600.0
        bar.update(task, completed=done)
    assert bar.tasks[0].time_remaining == 3 * 600
    assert ablate.describe_progress(3, 3 * 600) == "3 left, about 30 min"
    assert ablate.describe_progress(42, 42 * 600) == "42 left, about 7 h"
