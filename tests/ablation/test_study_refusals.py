"""What ablate.py refuses before it trains or writes anything."""

from collections.abc import Callable

import pytest
from studies import run_study, write_study

from knn_ner_jax.ablation.locking import alone_in


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
        ("--datastore.whiten", "17", "datastore.whiten: expected a rank from 1 to 16"),
    ],
)
def test_a_backbone_that_is_not_there_or_does_not_have_the_keys(study, refused, option, value, message):
    assert message in refused(option, value)
    assert not study.exists()


def test_a_second_process(study, refused):
    with alone_in(study):
        assert "study: expected no other process at work there, found one" in refused()


def test_a_folder_of_something_else(study, refused):
    (study / "test").mkdir(parents=True)
    assert "expected an empty folder or a run, found test without study.yaml" in refused()
    assert [path.name for path in study.iterdir()] == ["test"]
