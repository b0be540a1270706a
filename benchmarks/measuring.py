"""Seconds and peak memory of one call, measured in the process that makes it."""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEGABYTE = 2**20


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    """Of several calls, after one that warms up; a call has to wait for its result."""
    call()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found


def interleaved_seconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """As `seconds`, the calls in turn: what slows the machine for a while slows all of them."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - started)
    return found


def _memory(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status: expected a field {field}, found none")


def _settled_memory() -> float:
    """MB this process holds, once what it has freed is given back, which takes a while after a transfer to the device."""
    gc.collect()
    held = [_memory("VmRSS")]
    while len(held) < 4 or max(held[-4:]) - min(held[-4:]) > 1:
        ctypes.CDLL(None).malloc_trim(0)
        time.sleep(0.5)
        held.append(_memory("VmRSS"))
    return held[-1]


def on_host(call: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """`seconds`, and the peak in MB of this process's memory beyond what it held before (Linux)."""
    before = _settled_memory()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    found = seconds(call, repeats)
    return {"seconds": found, "peak_mb": _memory("VmHWM") - before}
