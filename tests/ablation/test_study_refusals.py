"""What ablate.py refuses before it trains or writes anything."""

import threading
from collections.abc import Callable

import pytest
from helpers.studies import run_study, write_study

from knn_ner_jax.io import exclusive_lock


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    """The folder of a study that has not begun; the working directory holds its file."""
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, "ablation: {seeds: [0]}")
    return tmp_path / "study"


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """The message with which ablate.py refuses options."""

    def message(*options: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run_study(*options)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return message


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model.scratch.vocab", "nowhere", "model.scratch.vocab: expected a file, got nowhere"),
        ("--datastore.layers", "[9]", "datastore.layers: expected one or more of 0 (embeddings) to"),
        ("--datastore.whitening_dim", "17", "datastore.whitening_dim: expected a rank from 1 to 16"),
    ],
)
def test_a_backbone_that_is_not_there_or_does_not_have_the_keys(study, refused, option, value, message):
    assert message in refused(option, value)
    assert not study.exists()


def test_a_second_process(study, refused):
    with exclusive_lock(study):
        assert "study: expected no other process at work there, found one" in refused()


def test_a_process_that_waits_goes_on_when_the_other_is_done(tmp_path):
    seen = []

    def wait() -> None:
        with exclusive_lock(tmp_path, wait=True):
            seen.append("second")

    second = threading.Thread(target=wait)
    with exclusive_lock(tmp_path):
        second.start()
        second.join(timeout=0.2)
        seen.append("first")
    second.join()
    assert seen == ["first", "second"]


def test_a_share_that_cannot_be_trained_on_before_another_is(study, refused):
    for split in ("train", "dev"):
        with (study.parent / "corpus" / f"{split}.conll").open("a") as file:
            file.write("\nab B-RARE\n")
    conditions = "[{data.train_fraction: [1.0, 0.05]}]"
    message = refused("--data.unseen_types", "error", "--ablation.conditions", conditions)
    assert "types that train does not have: RARE" in message
    assert not study.exists()


def test_a_folder_of_something_else(study, refused):
    (study / "test").mkdir(parents=True)
    assert "expected an empty folder or a run, found test without study.yaml" in refused()
    assert [path.name for path in study.iterdir()] == ["test"]
