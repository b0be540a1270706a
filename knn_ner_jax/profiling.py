"""A trace of some training steps, for TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any, Self

import jax

WARM_UP = 5  # steps of a session before the trace begins: the most frequent batch shapes are compiled in them


class StepTrace:
    """Traces a number of consecutive steps of a session; a context manager.

    Args:
        folder: receives the trace.
        steps: how many; 0: no trace.
        start: the step the session starts after.
        total: the last step; where the session is short, the trace begins early enough to be whole.
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

    def done(self, step: int, result: Any) -> None:
        """Notes that a step has been dispatched; at either end of the trace alone, waits for its result."""
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
