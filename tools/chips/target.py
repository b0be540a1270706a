"""The chips that programs are compiled for, and how: no chip is needed, only its compiler.

TPU programs need libtpu, CUDA programs the two CUDA wheels and cuDNN (extra `chips`). A process compiles for one kind of
chip, because the variables of both are read when JAX starts.
"""

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Any

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Chip:
    """A kind of chip, with what its maker publishes.

    Attributes:
        platform: `tpu` or `gpu`.
        peak: floating-point operations a second, dense, bfloat16.
        hbm: bytes of memory.
        bandwidth: bytes of memory a second.
        clock: cycles a second that the compiler's estimates count, those at which its matrix units reach `peak`; GPU: 0,
            whose compiler names none.
        topologies: names of slices, by their chips.
        source: where the numbers are published.
        peaks_float32: those of float32 products on a GPU, in TF32 and exact; a TPU's are passes in bfloat16.
    """

    platform: str
    peak: float
    hbm: float
    bandwidth: float
    source: str
    clock: float = 0.0
    topologies: tuple[tuple[int, str], ...] = ()
    peaks_float32: tuple[float, float] | None = None

    def peak_of(self, dtype: str, highest: bool) -> float:
        """Return the peak of products of such operands, at the highest precision or the default one."""
        return self.peaks_float32[highest] if self.peaks_float32 and dtype == "f32" else self.peak


_SQUARES = ((1, "1x1"), (4, "2x2"), (8, "2x4"), (16, "4x4"), (64, "8x8"), (256, "16x16"))
_CUBES = ((1, "1x1x1"), (4, "2x2x1"), (8, "2x2x2"), (16, "2x2x4"), (64, "4x4x4"), (256, "4x8x8"))
_TPU, _NVIDIA = "https://cloud.google.com/tpu/docs/", "https://www.nvidia.com/en-us/data-center/"
_HOPPER_PEAKS = 494 * TERA, 67 * TERA
CHIPS = {
    "v4": Chip("tpu", 275 * TERA, 32 * GIGA, 1228 * GIGA, _TPU + "v4", 1.05 * GIGA, _CUBES),
    "v5e": Chip("tpu", 197 * TERA, 16 * GIGA, 819 * GIGA, _TPU + "v5e", 1.5 * GIGA, _SQUARES),
    "v5p": Chip("tpu", 459 * TERA, 95 * GIGA, 2765 * GIGA, _TPU + "v5p", 1.75 * GIGA, _CUBES),
    "v6e": Chip("tpu", 918 * TERA, 32 * GIGA, 1638 * GIGA, _TPU + "v6e", 1.75 * GIGA, _SQUARES),
    "h100": Chip("gpu", 989 * TERA, 80 * GIGA, 3350 * GIGA, _NVIDIA + "h100", peaks_float32=_HOPPER_PEAKS),
    "h200": Chip("gpu", 989 * TERA, 141 * GIGA, 4800 * GIGA, _NVIDIA + "h200", peaks_float32=_HOPPER_PEAKS),
}

# What XLA asks the driver about a GPU of compute capability 9.0, as a GpuTargetConfigProto.
_HOPPER = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  memory_bandwidth: {bandwidth:.0f} device_memory_size: {hbm} device_address_bits: 64
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
  name: "{name}" device_vendor: "NVIDIA Corporation"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"
"""
_GPU_MEMORY = {"h100": 84942979072, "h200": 151397597184}
_GPUS_A_HOST = 8


# Packages; without cuDNN attention is not compiled.
_COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cudnn-cu13")}


class BadName(ValueError):
    """A name on the command line that is none of a target or program; says what was expected and what was found."""


@dataclass(frozen=True)
class Target:
    """So many chips of a kind, on one mesh.

    >>> str(Target.parse("v5e-8")), Target.parse("h200-1").chip.platform
    ('v5e-8', 'gpu')
    """

    kind: str
    chips: int

    @classmethod
    def parse(cls, name: str) -> "Target":
        """Return the target of a name like `v5e-8`.

        Raises:
            BadName: no such chip, or no slice of so many.
        """
        kind, dash, chips = name.partition("-")
        if kind not in CHIPS or (dash and not re.fullmatch(r"[1-9]\d*", chips, re.ASCII)):
            raise BadName(f"target: expected one of {', '.join(CHIPS)} and a number of chips, as v5e-8, got {name!r}")
        target = cls(kind, int(chips or 1))
        if target.chip.platform == "tpu" and target.chips not in dict(target.chip.topologies):
            raise BadName(
                f"{kind}: expected {', '.join(str(n) for n, _ in target.chip.topologies)} chips, got {target.chips}"
            )
        if target.chip.platform == "gpu" and target.chips > _GPUS_A_HOST and target.chips % _GPUS_A_HOST:
            raise BadName(
                f"{kind}: expected at most {_GPUS_A_HOST} chips, or a multiple of {_GPUS_A_HOST}, got {target.chips}"
            )
        return target

    def __str__(self) -> str:
        return f"{self.kind}-{self.chips}"

    @property
    def chip(self) -> Chip:
        """What a chip can do."""
        return CHIPS[self.kind]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a process that compiles needs from its start."""
        # The TPU's library would ask the machine which slice it is part of, and let no other process load it.
        tpu = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost"}
        tpu |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled"}
        return tpu | {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}

    def devices(self) -> list[Any]:
        """Return devices that can be compiled for, but compute nothing."""
        import jax
        from jax.experimental.topologies import get_topology_desc

        if self.chip.platform == "tpu":
            size = dict(self.chip.topologies)[self.chips]
            # The two cores of a v4 or v5p chip are one device.
            megacore = {"chip_config_name": "megacore"} if self.kind in ("v4", "v5p") else {}
            return list(get_topology_desc(platform="tpu", topology_name=f"{self.kind}:{size}", **megacore).devices)
        jax.devices()  # registers the plugin
        hosts = -(-self.chips // _GPUS_A_HOST)
        config = _HOPPER.format(name=self.kind.upper(), hbm=_GPU_MEMORY[self.kind], bandwidth=self.chip.bandwidth)
        shape = f"{hosts}x{min(self.chips, _GPUS_A_HOST)}x1"
        gpus = get_topology_desc(platform="cuda", topology_name=str(self), topology=shape, target_config=config)
        return list(gpus.devices)

    def mesh(self) -> Any:
        """Return the mesh that `sharding.make_mesh` makes of such chips."""
        import numpy as np
        from jax.sharding import AxisType, Mesh

        from knn_ner_jax.sharding import AXIS

        return Mesh(np.asarray(self.devices()), (AXIS,), axis_types=(AxisType.Auto,))


class OutOfMemory(Exception):
    """The compiler found no room for a program in a chip's memory; says how much it would take."""


def compile_for(target: Target, function: Any, *arguments: Any, **static: Any) -> Any:
    """Compile a jitted function for a target, of the shapes and shardings of its arguments.

    Args:
        target: its mesh is that of the arguments' shardings.
        function: what `jax.jit` returned.
        arguments: trees of `jax.ShapeDtypeStruct` with shardings.
        static: arguments that the function is compiled for.

    Returns:
        A `jax.stages.Compiled`.

    Raises:
        OutOfMemory: it does not fit.
    """
    import jax

    # Code that asks for the default backend decides as it would where the program runs; JAX itself asks elsewhere.
    asked, jax.default_backend = jax.default_backend, lambda: target.chip.platform
    try:
        return function.lower(*arguments, **static).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error):
            raise OutOfMemory(str(error)) from error
        raise
    finally:
        jax.default_backend = asked


def compilers(platform: str) -> dict[str, str | None]:
    """Return the versions of what compiles for `tpu` or `gpu`, None of what is not installed."""

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return {package: version(package) for package in ("jax", "jaxlib", *_COMPILERS[platform])}


def has_compiler(platform: str) -> bool:
    """Return whether all that compiles for `tpu` or `gpu` is installed."""
    return None not in compilers(platform).values()
