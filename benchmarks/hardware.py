"""The machine a benchmark ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

from knn_ner_jax.run_dir import environment

PACKAGES = ("jax", "torch", "transformers", "faiss-cpu", "numpy")
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # what processors of one name may have or lack; the widest first


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
