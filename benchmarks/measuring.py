"""Seconds and peak memory of one call, measured in the process that makes it."""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEBIBYTE = 2**20


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    """Time several calls, after one that warms up; a call has to wait for its result."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def interleaved_seconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time several functions in turn, as `seconds` does one: what slows the machine for a while slows all of them."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return times


def _memory(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status: expected a field {field}, found none")


def _settled_memory() -> float:
    """Return the MiB this process holds once freed memory is returned, which takes a while after a transfer to devices."""
    gc.collect()
    held_mb = [_memory("VmRSS")]
    while len(held_mb) < 4 or max(held_mb[-4:]) - min(held_mb[-4:]) > 1:
        ctypes.CDLL(None).malloc_trim(0)
        time.sleep(0.5)
        held_mb.append(_memory("VmRSS"))
    return held_mb[-1]


def on_host(call: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Time a call as `seconds` does, and take the peak in MiB of this process's memory beyond what it had before (Linux)."""
    before = _settled_memory()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    times = seconds(call, repeats)
    return {"seconds": times, "peak_mb": _memory("VmHWM") - before}
