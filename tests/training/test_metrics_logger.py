"""TensorBoard's event files hold the numbers of metrics.jsonl, and a resumed run has TensorBoard forget later steps."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from knn_ner_jax.config import flatten
from knn_ner_jax.training.metrics_logger import MetricsLogger, StepMetrics


def events(folder: Path) -> Iterator[Event]:
    """The records of all event files: a length of 8 bytes, its checksum of 4, the event, its checksum of 4."""
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while len(content) >= 12:
            (length,) = struct.unpack("<Q", content[:8])
            if len(content) < 16 + length:
                break  # still being written
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(folder: Path) -> dict[tuple[int, str], float]:
    """What TensorBoard shows: a session that starts at a step makes it forget that step and later ones."""
    shown: dict[tuple[int, str], float] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            shown = {at: value for at, value in shown.items() if at[0] < event.step}
        for value in event.summary.value:
            shown[event.step, value.tag] = value.simple_value
    return shown


def written(path: Path) -> dict[tuple[int, str], float]:
    lines = [flatten(json.loads(line)) for line in path.read_text().splitlines()]
    return {
        (line["step"], name.replace(".", "/")): value for line in lines for name, value in line.items() if name != "step"
    }


def run(path: Path, first: int, last: int, loss: float, evaluate_every: int) -> None:
    """Steps of a run, with scores on dev after some."""
    with MetricsLogger(path, first - 1, every=1, schedule=lambda step: 0.1 * step) as log:
        for step in range(first, last + 1):
            log.add(step, 10, StepMetrics(loss + step, 1.0))
            log.flush()
            if step % evaluate_every == 0:
                log.write(step, epoch=step / 2, dev_f1=50.0 + loss, dev_per_type={"PER": {"f1": 40.0, "support": 3}})


def test_tensorboard_shows_the_numbers_of_metrics_jsonl(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    run(path, 1, 4, loss=1.0, evaluate_every=2)
    shown = scalars(tmp_path / "tensorboard")
    assert shown == pytest.approx(written(path), rel=1e-6)  # events are float32
    assert shown[2, "dev_per_type/PER/f1"] == 40
    assert {name for _, name in shown} >= {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "dev_f1"}


def test_after_resuming_both_have_forgotten_the_later_steps(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    run(path, 1, 6, loss=1.0, evaluate_every=1)
    run(path, 3, 4, loss=2.0, evaluate_every=2)
    shown = scalars(tmp_path / "tensorboard")
    assert shown == pytest.approx(written(path), rel=1e-6)
    assert {step: value for (step, name), value in shown.items() if name == "loss"} == {1: 2, 2: 3, 3: 5, 4: 6}
    assert {step for step, name in shown if name == "dev_f1"} == {1, 2, 4}


def test_what_is_logged_is_soon_on_disk(tmp_path: Path):
    with MetricsLogger(tmp_path / "metrics.jsonl", 0, every=1, schedule=lambda step: 0.0) as log:
        log.write(1, dev_f1=5.0)
        deadline = time.monotonic() + 20
        while not scalars(tmp_path / "tensorboard") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert scalars(tmp_path / "tensorboard") == {(1, "dev_f1"): 5.0}


def test_step_log_drops_later_and_broken_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "dev_f1": 50.0}\n{"step": 3, "loss": 2.0}\n{"step": 2, "lo')
    with MetricsLogger(path, 2, every=1, schedule=lambda step: 0.0) as log:
        log.write(3, dev_f1=51.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 3.0}, {"step": 2, "dev_f1": 50.0}, {"step": 3, "dev_f1": 51.0}]
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "tensorboard"]
