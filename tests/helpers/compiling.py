"""How tests compile: they compile much and compute little. Imports nothing, because it must be known before JAX is."""

# The newer of XLA's two ways to make CPU code takes twice as long; what is computed is the same but for rounding.
QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def flags(num_devices: int) -> str:
    """`XLA_FLAGS` of a process that has so many virtual devices."""
    return f"--xla_force_host_platform_device_count={num_devices} {QUICKLY}"
