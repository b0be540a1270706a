"""A study that stopped somewhere and is started again: what it takes up, what it leaves behind."""

import signal

import pytest
from studies import run_study, write_study

import ablate
import train
from knn_ner_jax.ablation import runner

VARIED = "knn: {k: [1, 3], temperature: [0.05]}\nablation: {seeds: [0], resamples: 10}"


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    """The folder of a study that has not begun; the working directory holds its file."""
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, VARIED)
    return tmp_path / "study"


def stop(*given):
    raise KeyboardInterrupt


def stopped() -> None:
    """Runs a study that something stops."""
    with pytest.raises(SystemExit) as end:
        run_study()
    assert end.value.code == 128 + signal.SIGINT


@pytest.mark.parametrize(
    "options",
    [
        ("--data.dir", "./corpus", "--data.on_error", "report"),
        ("--train.log_every", "3", "--train.save_every", "7"),
    ],
)
def test_a_tagger_goes_on_where_no_more_is_changed_than_decides_no_result(study, monkeypatch, capsys, options):
    with monkeypatch.context() as patch:
        patch.setattr(train, "summarise", stop)
        stopped()
    assert not list(study.glob("taggers/*/train.json"))
    capsys.readouterr()
    run_study(*options)
    assert "continuing after step 36 of 36" in capsys.readouterr().out
    assert len(list(study.glob("taggers/*/train.json"))) == len(list(study.glob("taggers/*/checkpoints"))) == 1


def test_a_study_that_stops_after_the_last_result_of_a_cell_leaves_no_datastore_when_it_is_done(study, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runner, "delete_datastore", stop)
        stopped()
    assert list(study.glob("test/*.json"))
    assert list(study.glob("datastores/*/datastore"))
    monkeypatch.setattr(ablate, "look_closely", lambda *given: None)  # which would delete that of one cell
    run_study("--ablation.keep_datastores", "true")
    assert list(study.glob("datastores/*/datastore"))
    run_study()
    assert not (study / "datastores").exists()
