"""The machine a benchmark ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

from knn_ner_jax.runs import environment

PACKAGES = ("jax", "torch", "transformers", "faiss-cpu", "numpy")


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


def describe() -> dict[str, Any]:
    """Name of the device that computes, processor, cores, memory and versions (Linux); None for what is not installed."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    cpu, cores = models[0] if models else platform.machine(), len(os.sched_getaffinity(0))
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
