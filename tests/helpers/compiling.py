"""How tests compile: much, and to compute little. Imports no JAX, whose environment this is."""

import importlib.util
import mmap
import os
from functools import cache
from pathlib import Path

DEVICE_COUNT = "--xla_force_host_platform_device_count"
# What is computed is the same but for rounding. The fusion emitters are the newer and slower of two ways to make CPU code.
QUICKLY = {
    "--xla_backend_optimization_level": "0",
    "--xla_llvm_disable_expensive_passes": "true",
    "--xla_cpu_use_fusion_emitters": "false",
    "--xla_cpu_parallel_codegen_split_count": "1",
}


@cache
def knows(flag: str) -> bool:
    """Whether the installed jaxlib has a flag: it aborts at one that it does not have, and the flags come and go."""
    spec = importlib.util.find_spec("jaxlib")
    assert spec is not None
    assert spec.submodule_search_locations
    library = Path(spec.submodule_search_locations[0]) / "libjax_common.so"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\0" + flag.lstrip("-").encode() + b"\0") >= 0


def flags(num_devices: int) -> str:
    """Return `XLA_FLAGS` of a process with so many virtual devices; this process's own stay, such as --xla_cpu_max_isa."""
    inherited = dict(flag.partition("=")[::2] for flag in os.environ.get("XLA_FLAGS", "").split())
    quickly = {flag: value for flag, value in QUICKLY.items() if flag in inherited or knows(flag)}
    together = sorted((inherited | quickly | {DEVICE_COUNT: str(num_devices)}).items())
    return " ".join(f"{flag}={value}" if value else flag for flag, value in together)


def as_usual() -> dict[str, bool]:
    """Return the compiler options that undo what tests do without, for a test of the compiled code itself."""
    return {"xla_cpu_use_fusion_emitters": True} if knows("xla_cpu_use_fusion_emitters") else {}
