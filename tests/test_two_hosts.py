"""Two real processes of two devices each do what one process does on one device; they begin, stop and die together."""

import dataclasses
import functools
import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil
import pytest
import yaml
from helpers import host_process, margins
from helpers.script_process import environment
from helpers.sentences import made_up_corpus

from knn_ner_jax import sharding
from knn_ner_jax.config import (
    Config,
    DataConfig,
    DistributedConfig,
    EvalConfig,
    KnnConfig,
    ModelConfig,
    ScratchConfig,
    TrainConfig,
    as_list,
)
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.knn.combine import KnnParams
from knn_ner_jax.main import evaluate as evaluation
from knn_ner_jax.main import train
from knn_ner_jax.run_dir import TrainedModel
from knn_ner_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.two_hosts

STEPS, LEARNING_RATE = 20, 3e-2


def make_config(corpus: Path, run_dir: Path) -> Config:
    """20 steps of one shape; 4 devices divide neither batches of 5, nor the last one of each epoch, nor the words.

    With this learning rate the states lie so far apart that no label hangs on rounding, and neighbours change some.

    Adam divides a gradient by its own size, and so magnifies the rounding of small ones, attention's above all. Clipped,
    these are below Adam's epsilon (1e-8), which then divides them instead, and their rounding stays small.
    """
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "max_position_embeddings": 24}
    scratch = ScratchConfig(str(corpus / "vocab.txt"), **sizes)
    return Config(
        run_dir=str(run_dir),
        data=DataConfig(str(corpus), pad_to_multiple_of=24),
        model=ModelConfig("scratch", scratch=scratch),
        train=TrainConfig(
            epochs=4, batch_size=5, learning_rate=LEARNING_RATE, max_grad_norm=1e-3, save_every=0, log_every=1
        ),
        eval=EvalConfig(batch_size=5),
        knn=KnnConfig(k=[host_process.K, "all"], temperature=0.1, knn_weight=[0.3, 0.6], block_rows=32),
    )


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        return bound.getsockname()[1]


class Ended(NamedTuple):
    """How a process ended, and all that it printed."""

    code: int
    output: str


def start_two(config: Config, folder: Path, *what: str) -> list[subprocess.Popen]:
    """Starts host_process.py twice; configuration tells the first of the other, environment the other of the first."""
    address = f"localhost:{free_port()}"
    distributed = [{"coordinator_address": address, "num_processes": 2, "process_id": 0}, {}]
    variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    folder.mkdir(exist_ok=True)
    processes = []
    for host in (0, 1):
        fields: dict[str, Any] = dataclasses.asdict(config)
        fields["distributed"] |= distributed[host]
        config_file = folder / f"config.{host}.yaml"
        config_file.write_text(yaml.safe_dump(fields))
        command = [sys.executable, host_process.__file__, str(config_file), *what]
        env = environment(2) | (variables if host else {})
        with (folder / f"output.{host}.txt").open("w") as stream:
            processes.append(subprocess.Popen(command, env=env, stdout=stream, stderr=subprocess.STDOUT))
    return processes


def run_two(config: Config, folder: Path, *what: str) -> list[Ended]:
    """How two processes end, and what they print."""
    codes = [process.wait(timeout=600) for process in start_two(config, folder, *what)]
    return [Ended(code, (folder / f"output.{host}.txt").read_text()) for host, code in enumerate(codes)]


def params_of(run_dir: Path, devices: int, step: int = STEPS) -> dict[str, Any]:
    """The parameters that were saved at a step, read on so many devices."""
    place = sharding.replicated(sharding.make_mesh(devices))
    abstract = TrainedModel.load(run_dir).tagger.abstract_params()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract)
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        return checkpoints.restore(step, params=like)["params"]


def lines_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return made_up_corpus(tmp_path_factory.mktemp("corpus"), {"train": 21, "dev": 7, "test": 6})


@pytest.fixture(scope="module")
def by_two(corpus, tmp_path_factory) -> Path:
    """A folder with what two hosts have trained and evaluated in `run`, and `looked_up.0.npz` and `looked_up.1.npz`."""
    folder = tmp_path_factory.mktemp("two")
    first, other = run_two(make_config(corpus, folder / "run"), folder, "evaluate", str(folder / "looked_up"))
    assert (first.code, other.code) == (0, 0), first.output + other.output
    assert "finished: best dev F1" in first.output
    assert "finished" not in other.output
    return folder


def looked_up(folder: Path, host: int) -> dict[str, np.ndarray]:
    with np.load(folder / f"looked_up.{host}.npz") as arrays:
        return dict(arrays)


def use_devices(number: int, monkeypatch) -> None:
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda num_devices=number: make_mesh(num_devices))


def test_training_is_that_of_one_process_on_as_many_devices(by_two, corpus, monkeypatch, tmp_path):
    use_devices(4, monkeypatch)
    train.run(make_config(corpus, tmp_path), overwrite=False)
    params, expected = (params_of(folder, 1) for folder in (by_two / "run", tmp_path))
    for one in (params, expected):
        # A softmax does not change when every score grows alike: this gradient is 0 but for rounding, which Adam magnifies.
        del one["encoder"]["layers"]["attention"]["key"]["bias"]
    # A step is as long as the learning rate.
    compare = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-4 * LEARNING_RATE)
    jax.tree.map(compare, params, expected)
    for here, there in zip(lines_of(by_two / "run"), lines_of(tmp_path), strict=True):
        for name in {*here, *there} - {"tokens_per_second"}:
            assert here[name] == (there[name] if isinstance(there[name], dict) else pytest.approx(there[name], abs=1e-5)), (
                name
            )
    assert "distributed" not in yaml.safe_load((by_two / "run" / "config.yaml").read_text())


def test_a_checkpoint_of_two_hosts_is_the_same_on_one_device_and_on_eight(by_two):
    jax.tree.map(np.testing.assert_array_equal, params_of(by_two / "run", 1), params_of(by_two / "run", 8))


def test_where_one_host_stops_no_other_goes_on(by_two):
    first, other = (looked_up(by_two, host)["refusals"].tolist() for host in (0, 1))
    differ = "hosts: expected one configuration, corpus and backbone, got others on host 1 than on host 0"
    another = "another host stopped; its own output says why"
    assert first == ["I refuse", another, another, differ]
    assert other == ["the first host stopped; its own output says why", "I fail", "I cannot write", differ]
    assert not (by_two / "run" / "not_built" / "datastore").exists()


def states_and_keys(knn_tagger, dev) -> tuple[np.ndarray, np.ndarray]:
    """In float64 and of length 1: what every word of dev asks, and the keys."""
    datastore = knn_tagger.stored.datastore
    states = np.zeros((dev.num_words, datastore.keys.shape[1]))
    for batch in knn_tagger.batches(dev):
        output = knn_tagger.model.tagger(knn_tagger.params, batch.token_ids, batch.segments)
        word_index = np.asarray(batch.word_index)
        states[word_index[word_index != NO_WORD]] = np.asarray(output.hidden_states[-1])[word_index != NO_WORD]
    keys = np.asarray(datastore.keys, np.float64)[: knn_tagger.num_rows]
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (states, keys))


def test_neighbours_labels_and_scores_are_those_of_one_process_on_one_device(by_two, corpus, monkeypatch, tmp_path):
    use_devices(1, monkeypatch)
    config = make_config(corpus, tmp_path / "run")
    for name in ("config.yaml", "corpus.json", "model.json", "train.json", "tokenizer", "checkpoints"):
        source, target = by_two / "run" / name, tmp_path / "run" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    evaluation.run(config, tmp_path / "run", overwrite=False)
    knn_tagger, dev = host_process.open_run(config)
    assert knn_tagger.num_rows % 4
    expected = host_process.look_up(knn_tagger, dev)
    first, other = (looked_up(by_two, host) for host in (0, 1))
    for name in expected:
        np.testing.assert_array_equal(first[name], other[name])
    test = knn_tagger.encode(read_corpus(DataConfig(config.data.dir)).test.sentences)
    for split, k, knn_weight in itertools.product((dev, test), as_list(config.knn.k), as_list(config.knn.knn_weight)):
        assert margins.clear_words(knn_tagger, split, KnnParams("cosine", k, 0.1, knn_weight)).all()
    for name in ("tagger", "knn"):
        np.testing.assert_array_equal(first[name], expected[name])
    assert 0 < first["at_border"] <= dev.num_words

    states, keys = states_and_keys(knn_tagger, dev)
    similarities = states @ keys.T
    of_two, of_one = (np.take_along_axis(similarities, ids, axis=1) for ids in (first["ids"], expected["ids"]))
    error = margins.rounding(states, keys)[:, None]  # other ids only where they are as near
    assert (abs(of_two - of_one) <= 2 * error).all()
    assert (abs(of_one + np.sort(-similarities)[:, : host_process.K]) <= 2 * error).all()

    scores = [json.loads((folder / "run" / "eval.json").read_text()) for folder in (by_two, tmp_path)]
    for name in ("dev", "test", "selected", "selected_dev_f1", "trials"):
        assert scores[0][name] == scores[1][name], name
    predictions = [(folder / "run" / "predictions" / "test.conll").read_text() for folder in (by_two, tmp_path)]
    assert predictions[0] == predictions[1]
    pages = [(folder / "run" / "report.html").read_text() for folder in (by_two, tmp_path)]
    sentences = [re.findall(r'<p class="words".*?</p>', page, re.DOTALL) for page in pages]
    assert sentences[0] == sentences[1] != []


def test_a_run_whose_hosts_freeze_and_are_stopped_ends_like_an_unbroken_one(by_two, corpus, tmp_path):
    config = make_config(corpus, tmp_path / "run")
    impatient = dataclasses.replace(config, distributed=DistributedConfig(heartbeat_timeout_s=10))
    first, other = start_two(impatient, tmp_path / "frozen", "train", "SIGSTOP", "8")
    while psutil.Process(other.pid).status() != psutil.STATUS_STOPPED:
        assert (first.poll(), other.poll()) == (None, None), (tmp_path / "frozen" / "output.0.txt").read_text()
        time.sleep(0.05)
    # Its connections stay open: nothing but the missing heartbeat can tell, by default after 100 s.
    assert first.wait(timeout=60) != 0
    other.kill()
    other.wait()
    assert not (tmp_path / "run" / "train.json").exists()

    first, other = run_two(config, tmp_path / "stopped", "train", "SIGTERM", "8")
    assert "continuing after step 5 of 20" in first.output
    message = first.output.splitlines()[-1]
    assert message in other.output
    assert message.startswith("stopped by SIGTERM after step ")
    assert (first.code, other.code) == (1, 1)
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        stopped = checkpoints.latest_step
    assert f"after step {stopped};" in message
    assert 8 <= stopped < STEPS

    first, other = run_two(config, tmp_path / "last", "train")
    assert (first.code, other.code) == (0, 0), first.output + other.output
    assert f"continuing after step {stopped} of 20" in first.output
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "run", 1), params_of(by_two / "run", 1))
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [line["step"] for line in lines_of(by_two / "run")]
