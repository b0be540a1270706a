"""A run that is stopped, killed or spoilt at any moment and started again ends as if nothing had happened."""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
import yaml
from helpers.script_process import Process
from helpers.sentences import made_up_corpus

from knn_ner_jax import cli, sharding
from knn_ner_jax.config import Config, DataConfig, KnnConfig, ModelConfig, ScratchConfig, TrainConfig
from knn_ner_jax.main import train
from knn_ner_jax.models.pretrained import fingerprint
from knn_ner_jax.run_dir import RunConflict, TrainedModel
from knn_ner_jax.training import loop
from knn_ner_jax.training.checkpoints import Checkpoints

STEPS_PER_EPOCH = 5
ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return made_up_corpus(tmp_path_factory.mktemp("corpus"), {"train": 20, "dev": 6, "test": 6})


def make_config(corpus: Path, run_dir: Path, **changes) -> Config:
    """A tiny encoder with dropout, of one batch shape, which saves often."""
    scratch = ScratchConfig(str(corpus / "vocab.txt"), hidden_size=16, intermediate_size=24, max_position_embeddings=24)
    fields = {"epochs": 2, "batch_size": 4, "learning_rate": 3e-3, "save_every": 3, "log_every": 1}
    return Config(
        run_dir=str(run_dir),
        data=DataConfig(str(corpus), pad_to_multiple_of=24),
        model=ModelConfig("scratch", scratch=scratch),
        train=TrainConfig(**(fields | changes)),
    )


class Outcome(NamedTuple):
    """What must not depend on interruptions."""

    fingerprint: str
    lines: list[dict]
    saved: list[str]
    summary: dict


def outcome(run_dir: Path) -> Outcome:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("tokens_per_second", None)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = TrainedModel.load(run_dir).tagger.abstract_params()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract)
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        assert checkpoints.latest_step is not None
        params = checkpoints.restore(checkpoints.latest_step, params=like)["params"]
    summary = json.loads((run_dir / "train.json").read_text())
    summary.pop("seconds_of_last_session")
    return Outcome(fingerprint(params), lines, sorted(path.name for path in (run_dir / "checkpoints").iterdir()), summary)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """All runs of this file share what is compiled."""
    monkeypatch.setattr(sharding, "make_mesh", functools.partial(sharding.make_mesh, 1))


@contextlib.contextmanager
def killed_at(module, name: str, call: int, after: bool = False):
    """Raises Killed in, or right after, one call of a function."""
    original, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        if len(calls) == call and not after:
            raise Killed
        result = original(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, counted)
        with contextlib.suppress(Killed):
            yield
            pytest.fail(f"{name} was not called {call} times")


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A run without interruption for each number of accumulated steps and seed, made when first asked for."""

    @functools.cache
    def run(accumulate: int, seed: int = 0) -> Path:
        run_dir = tmp_path_factory.mktemp("finished")
        config = dataclasses.replace(make_config(corpus, run_dir, gradient_accumulation_steps=accumulate), seed=seed)
        train.run(config, overwrite=False)
        return run_dir

    return run


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_killed_again_and_again_ends_like_an_unbroken_one(corpus, finished, tmp_path, capsys, accumulate):
    config = make_config(corpus, tmp_path, gradient_accumulation_steps=accumulate)
    log = tmp_path / "metrics.jsonl"
    with killed_at(loop, "train_step", call=3):
        train.run(config, overwrite=False)
    # Before the first checkpoint: from the start again. Then in step 6, which goes on from step 5 (with two accumulated
    # steps: the second half of an update whose first half is in the checkpoint).
    with killed_at(loop, "train_step", call=6):
        train.run(config, overwrite=False)
    with log.open("a") as file:
        file.write('{"step": 6, "loss": 0.1')
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    # The line of the evaluation after step 10 is written, its checkpoint is not.
    with killed_at(Checkpoints, "save", call=3):
        train.run(config, overwrite=False)
    assert json.loads(log.read_text().splitlines()[-1]).keys() >= {"step", "epoch", "dev_f1"}
    with killed_at(Checkpoints, "save", call=1, after=True):
        train.run(config, overwrite=False)
    # All is done but the summary.
    with killed_at(train, "summarise", call=1):
        train.run(config, overwrite=False)
    train.run(config, overwrite=False)

    starts = [line for line in capsys.readouterr().out.splitlines() if line.startswith("continuing")]
    assert starts == [f"continuing after step {step} of 10" for step in (5, 9, 10, 10)]
    unbroken = outcome(finished(accumulate))
    assert [line["step"] for line in unbroken.lines if "loss" in line] == list(range(1, 11))
    assert [line["step"] for line in unbroken.lines if "dev_f1" in line] == [5, 10]
    assert outcome(tmp_path) == unbroken


def test_accumulation_changes_the_outcome(finished):
    assert outcome(finished(1)).fingerprint != outcome(finished(2)).fingerprint


def test_a_finished_run_says_so_and_is_left_alone(corpus, finished, capsys):
    run_dir = finished(1)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    config = dataclasses.replace(make_config(corpus, run_dir), knn=KnnConfig(k=3))  # which training does not read
    train.run(config, overwrite=False)
    assert "is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def call_main(config: Config, tmp_path: Path, *options: str) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump(dataclasses.asdict(config)))
    cli.run("train", "train.py", ["--config", str(file), *options])


def test_another_configuration_is_refused_with_every_field_that_differs(corpus, finished, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(make_config(corpus, finished(1), batch_size=8), seed=1)
    with pytest.raises(SystemExit) as stopped:
        call_main(config, tmp_path)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error
    lines = [line.strip() for line in error.splitlines()[1:]]
    assert sorted(lines) == [
        "seed: the earlier run has 0, this one 1",
        "train.batch_size: the earlier run has 4, this one 8",
    ]


def test_overwrite_starts_again(corpus, finished, tmp_path, monkeypatch, capsys):
    run_dir = shutil.copytree(finished(1), tmp_path / "run")
    expected = outcome(finished(1))
    shutil.rmtree(run_dir / "checkpoints" / "10")
    (run_dir / "metrics.jsonl").write_text('{"step": 1, "loss": 77.0}\n')
    for name in ("eval.json", "notes.txt"):
        (run_dir / name).write_text("{}")
    (run_dir / "datastore").mkdir()
    call_main(make_config(corpus, run_dir), tmp_path, "--overwrite")
    assert "continuing" not in capsys.readouterr().out
    assert outcome(run_dir) == expected
    # What was evaluated is gone with the tagger it belonged to; what is not ours stays.
    assert not (run_dir / "eval.json").exists()
    assert not (run_dir / "datastore").exists()
    assert (run_dir / "notes.txt").exists()


def test_overwrite_deletes_nothing_when_the_new_run_cannot_start(corpus, finished, tmp_path):
    run_dir = shutil.copytree(finished(1), tmp_path / "run")
    config = dataclasses.replace(make_config(corpus, run_dir), data=DataConfig(str(tmp_path / "no_such_corpus")))
    with pytest.raises(ValueError, match=r"data\.dir: .*no_such_corpus"):
        train.run(config, overwrite=True)
    assert outcome(run_dir) == outcome(finished(1))


@pytest.mark.parametrize("deletion", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_overwrite_killed_while_it_deletes_never_mixes_two_runs(corpus, finished, tmp_path, deletion):
    run_dir = shutil.copytree(finished(1), tmp_path / "run")
    config = dataclasses.replace(make_config(corpus, run_dir), seed=1)
    with killed_at(shutil, "rmtree", call=deletion):
        train.run(config, overwrite=True)
    try:
        train.run(config, overwrite=False)
    except RunConflict:
        train.run(config, overwrite=True)
    assert outcome(run_dir) == outcome(finished(1, seed=1))


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_changed_corpus_is_refused(corpus, tmp_path, split):
    corpus = shutil.copytree(corpus, tmp_path / "corpus")
    config = make_config(corpus, tmp_path / "run")
    with killed_at(loop, "train_step", call=2):
        train.run(config, overwrite=False)
    with (corpus / f"{split}.conll").open("a") as file:
        file.write("\na O\nB B-NAME\n")
    with pytest.raises(RunConflict, match=rf"{split}\.conll: changed since the earlier run; --overwrite"):
        train.run(config, overwrite=False)


def test_a_signal_to_stop_saves_the_state_and_the_next_process_continues(corpus, finished, tmp_path, monkeypatch, capsys):
    config, train_step = make_config(corpus, tmp_path / "run"), loop.train_step

    def step_and_signal(state, *args, **kwargs):
        if int(state.step) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(state, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step_and_signal)
        with pytest.raises(SystemExit) as stopped:
            call_main(config, tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step 4; the state is saved" in capsys.readouterr().err
    train.run(config, overwrite=False)
    assert "continuing after step 4 of 10" in capsys.readouterr().out
    assert outcome(tmp_path / "run") == outcome(finished(1))


# Real processes and real signals


def start(config: Config, output: Path) -> Process:
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(dataclasses.asdict(config)))
    return Process.start(str(ROOT / "train.py"), file, output)


def at_step(run_dir: Path, step: int) -> Callable[[], bool]:
    """Whether the loss of this step is in metrics.jsonl."""
    metrics = run_dir / "metrics.jsonl"

    def reached() -> bool:
        lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
        return max((json.loads(line)["step"] for line in lines), default=0) >= step

    return reached


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_and_then_by_sigkill_ends_like_an_unbroken_one(corpus, tmp_path):
    run_dir, unbroken_dir = tmp_path / "run", tmp_path / "unbroken"
    config = make_config(corpus, run_dir, epochs=10, gradient_accumulation_steps=2, save_every=0)
    total = 10 * STEPS_PER_EPOCH
    terminated = start(config, tmp_path / "terminated.txt")
    terminated.wait_until(at_step(run_dir, 6))
    terminated.popen.send_signal(signal.SIGTERM)
    code, output = terminated.end()
    assert code == 128 + signal.SIGTERM
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        stopped = checkpoints.latest_step
    assert stopped is not None
    assert 6 <= stopped < total
    assert f"stopped by SIGTERM after step {stopped}; the state is saved" in output
    assert not (run_dir / "train.json").exists()

    killed = start(config, tmp_path / "killed.txt")
    killed.wait_until(at_step(run_dir, stopped + 6))
    killed.popen.kill()
    code, output = killed.end()
    assert code == -signal.SIGKILL
    assert f"continuing after step {stopped} of {total}" in output

    code, output = start(config, tmp_path / "last.txt").end()
    assert code == 0, output
    assert "continuing after step" in output
    train.run(dataclasses.replace(config, run_dir=str(unbroken_dir)), overwrite=False)
    assert outcome(run_dir) == outcome(unbroken_dir)
