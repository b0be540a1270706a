"""Reports of a training run: metrics.jsonl and TensorBoard events, and a trace of some steps for TensorBoard or Perfetto.

Metrics are read a few steps behind the device, so that it never waits for the host.
"""

import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Array, Float
from tensorboardX import SummaryWriter

from knn_ner_jax.config import flatten
from knn_ner_jax.io import NonFiniteLossError, write_text
from knn_ner_jax.sharding import is_primary_host

MAX_IN_FLIGHT = 2  # steps the host may run ahead of the device before it reads their losses


class StepMetrics(NamedTuple):
    """Mean cross-entropy of the words of a step, and the norm of its gradient before clipping."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def _is_until(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except json.JSONDecodeError:  # the process was killed while it wrote this line
        return False


class MetricsLogger:
    """A log of the metrics of finished steps; a context manager.

    Every line of metrics.jsonl is also an event for TensorBoard, in the folder `tensorboard` beside it; `a/b` there is
    `{"a": {"b": ...}}` in the file.

    Args:
        path: metrics.jsonl; lines of steps after `step` are dropped from it, and TensorBoard ignores their events.
        step: the last step before training starts or continues.
        every: steps between lines.
        schedule: returns the learning rate of a step, by its number from 1.
    """

    def __init__(self, path: Path, step: int, every: int, schedule: Callable[[int], float]):
        self._path, self._every, self._schedule = path, every, schedule
        self._pending: deque[tuple[int, int, StepMetrics]] = deque()
        self._tokens, self._since = 0, time.perf_counter()
        self.loss = float("nan")
        if not is_primary_host():
            return
        lines = path.read_text().splitlines() if path.exists() else []
        write_text(path, "".join(line + "\n" for line in lines if _is_until(line, step)))
        folder = str(path.with_name("tensorboard"))
        # Written by a thread every second: that much a killed process loses.
        self._events = SummaryWriter(folder, purge_step=step + 1, flush_secs=1, filename_suffix=f".{step}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if is_primary_host():
            self._events.close()

    def write(self, step: int, **line: Any) -> None:
        """Append the numbers of one step; on hosts other than the first, do nothing."""
        if not is_primary_host():
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        for name, value in flatten(line).items():
            self._events.add_scalar(name.replace(".", "/"), value, step)

    def add(self, step: int, tokens: int, step_metrics: StepMetrics) -> None:
        """Add a step that has been dispatched, and read those that are some steps older.

        Raises:
            NonFiniteLossError: one of them has a loss or gradient that is not finite.
        """
        self._pending.append((step, tokens, step_metrics))
        while len(self._pending) > MAX_IN_FLIGHT:
            self._read()

    def flush(self) -> None:
        """Wait for all steps that were added and read them; raise as `add` does."""
        while self._pending:
            self._read()

    def restart_clock(self) -> None:
        """Restart the clock of the tokens per second, so that the time until now does not count."""
        self._tokens, self._since = 0, time.perf_counter()

    def _read(self) -> None:
        step, tokens, step_metrics = self._pending.popleft()
        self.loss = float(step_metrics.loss)
        norm = float(step_metrics.gradient_norm)
        if not np.isfinite([self.loss, norm]).all():
            raise NonFiniteLossError(
                f"step {step}: expected a finite loss and gradient, got loss {self.loss}, gradient norm {norm}"
            )
        self._tokens += tokens
        if step % self._every == 0:
            seconds = time.perf_counter() - self._since
            rate = float(self._schedule(step))
            self.write(
                step, loss=self.loss, gradient_norm=norm, learning_rate=rate, tokens_per_second=self._tokens / seconds
            )
            self.restart_clock()


WARM_UP = 5  # steps of a session before the trace begins, in which the most frequent batch shapes are compiled


class StepTrace:
    """A trace of some consecutive steps of a session; a context manager.

    Args:
        folder: receives the trace.
        steps: number of steps to trace; 0: none.
        start: the last step before the session.
        total: the last step of the run; where the session is short, the trace begins early enough to be complete.
    """

    def __init__(self, folder: Path, steps: int, start: int, total: int):
        self._folder = folder
        self._first = min(start + WARM_UP, max(total - steps, start))
        self._last = self._first + steps
        self._start, self._running = start, False

    def __enter__(self) -> Self:
        self._toggle(self._start)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def update(self, step: int, result: Any) -> None:
        """Start or stop the trace after the step at either end of it; only there, wait for the step's result."""
        if self._first < self._last and step in (self._first, self._last):
            jax.block_until_ready(result)
            self._toggle(step)

    def _toggle(self, step: int) -> None:
        if step == self._last:
            self._stop()
        elif step == self._first:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
