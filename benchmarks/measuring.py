"""Seconds and peak memory of one call, measured in the process that makes it; the machine it ran on."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEBIBYTE = 2**20
PACKAGES = ("jax", "torch", "transformers", "faiss-cpu", "numpy")
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # what processors of one name may have or lack; the widest first


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    """Time several calls, after one that warms up; a call has to wait for its result."""
    return interleaved_seconds({"": call}, repeats)[""]


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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_device() -> str | None:
    if _version("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def name_processor(cpuinfo: str) -> str:
    """Return `AMD EPYC, AVX2` from Linux's /proc/cpuinfo; the kind of machine where that names no model."""
    lines = [line for line in cpuinfo.partition("\n\n")[0].splitlines() if ":" in line]  # of the first core
    first = {name.strip(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    flags = first.get("flags", "").split()
    vectors = [name for flag, name in VECTORS.items() if flag in flags]
    return ", ".join([first.get("model name", platform.machine()), *vectors[:1]])


def describe() -> dict[str, Any]:
    """Return device, processor, cores, memory and versions (Linux); None for what is not installed."""
    import jax

    from knn_ner_jax.run_dir import environment

    cpu, cores = name_processor(Path("/proc/cpuinfo").read_text()), len(os.sched_getaffinity(0))
    device = jax.devices()[0]
    return {
        "name": f"{cpu}, {cores} cores" if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "torch_device": _torch_device(),
        "cpu": cpu,
        "cores": cores,
        "memory_gb": round(int(Path("/proc/meminfo").read_text().split()[1]) / 2**20),
        "python": platform.python_version(),
        "git_revision": environment()["git_revision"],
        "packages": {package: _version(package) for package in PACKAGES},
    }
