"""A tagger trained and evaluated once, in a folder that tests copy; all its paths are relative to that folder.

Every process of pytest loads this, also the one that only hands out tests: the package is imported where it is used.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import knn_ner_jax as kn

if TYPE_CHECKING:
    from knn_ner_jax import KnnTagger

WINDOW = 16
DEVICES = 3  # which divide neither the batches nor the rows; eight that share two cores take more than twice the time
ILLEGAL = "in\tO\nParis\tI-LOC\n.\tO\n"  # appended to test: IOB2 has no span that begins with I-


def use_devices(patch: pytest.MonkeyPatch, devices: int) -> None:
    """Where nothing says how many devices, these are used."""
    from knn_ner_jax import sharding

    make_mesh = sharding.make_mesh
    patch.setattr(sharding, "make_mesh", lambda num_devices=devices: make_mesh(num_devices))


@pytest.fixture(scope="session")
def window() -> int:
    """The most tokens encoded at once in the trained run; some sentences are longer."""
    return WINDOW


@pytest.fixture(scope="session")
def illegal() -> str:
    """The last sentence of test."""
    return ILLEGAL


@pytest.fixture(scope="session")
def settings(tiny_backbone: Path) -> list[str]:
    """Command-line fields of the trained run."""
    fields = {
        "run_dir": "run",
        "data.dir": "corpus",
        "data.max_length": WINDOW,
        "data.pad_to_multiple_of": WINDOW,
        "data.unseen_types": "miss",
        "model.backbone": tiny_backbone,
        "model.dropout": 0,
        "train.epochs": 8,
        "train.batch_size": 16,
        "train.learning_rate": 0.006,
        "train.save_every": 0,
        "train.evaluate_every": 1000,
        "datastore.shard_rows": 300,
        "knn.k": "[1,4,100000,all]",
        "knn.temperature": "[0.01,0.1]",
        "knn.knn_weight": "[0.3,0.6,1.0]",
        "eval.batch_size": 16,
        "knn.block_rows": 50,
    }
    return [f"--{name}={value}" for name, value in fields.items()]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path, settings: list[str]) -> Path:
    """A folder with `corpus` and a finished training in `run`.

    A third of dev and test is from train, so that something is found; the last sentence of test has an illegal tag.
    """
    from knn_ner_jax import cli

    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(tiny_corpus, folder / "corpus")
    sentences = (folder / "corpus" / "train.conll").read_text(encoding="utf-8").split("\n\n")
    for split, known, more in (("dev", sentences[:8], ""), ("test", sentences[8:16], ILLEGAL)):
        with (folder / "corpus" / f"{split}.conll").open("a", encoding="utf-8") as file:
            file.write("\n" + "\n\n".join(known) + "\n\n" + more)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_devices(patch, 1)
        cli.run("train", "train.py", settings)
    return folder


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, trained: Path, settings: list[str]) -> Path:
    """A copy of `trained` that eval.py has finished with."""
    from knn_ner_jax import cli

    folder = tmp_path_factory.mktemp("evaluated") / "work"
    shutil.copytree(trained, folder)
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, DEVICES)
        patch.chdir(folder)
        cli.run("eval", "eval.py", settings)
    return folder


@pytest.fixture(scope="module")
def knn_tagger(evaluated: Path) -> Iterator["KnnTagger"]:
    """The evaluated run's tagger and its datastore; the current folder is theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(evaluated)
        use_devices(patch, DEVICES)
        yield kn.load(evaluated / "run")


@pytest.fixture
def copy_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Copies a prepared folder and works there."""

    def copy(source: Path) -> Path:
        shutil.copytree(source, tmp_path / "work")
        monkeypatch.chdir(tmp_path / "work")
        return tmp_path / "work"

    return copy


@pytest.fixture
def run_eval(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs eval.py with the trained run's fields and others after them."""
    from knn_ner_jax import cli

    use_devices(monkeypatch, DEVICES)

    def run(*arguments: str) -> None:
        cli.run("eval", "eval.py", [*settings, *arguments])

    return run


@pytest.fixture
def refused(run_eval: Callable[..., None], capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """The message with which eval.py refuses arguments."""

    def message(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run_eval(*arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("eval.py: error: ")
        return error

    return message
