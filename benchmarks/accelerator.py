"""Measurements on one GPU or TPU, beside their peers; then `python -m benchmarks.report` writes plots and pages.

python -m benchmarks.accelerator --run RUN         (make bench-accelerator RUN=RUN; under 8 minutes)
"""

import sys
from typing import Any

from benchmarks import plan
from benchmarks.bench import describe_hardware, run_parts

SIZES = plan.Sizes(
    searches=((200_000, 1024), (2_000_000, 1024)),
    memory_queries=1024,
    build_sentences=8192,
    encoder="BERT-base",
    dtype="bfloat16",
    test_sentences=2000,
)


def torch_left_out(hardware: dict[str, Any]) -> str | None:
    """Return why PyTorch cannot be measured on the device that JAX uses; None where it can."""
    if hardware["torch_device"] is None:
        return "torch is not installed"
    if hardware["platform"] != "cpu" and hardware["torch_device"] == "cpu":
        return f"torch {hardware['packages']['torch']} finds no {hardware['name']}"
    return None


def main() -> None:
    """Measure every part on the accelerator."""
    arguments = plan.parse_arguments(__doc__)
    hardware = describe_hardware()
    if hardware["platform"] == "cpu" and not arguments.tiny:
        sys.exit("accelerator: expected a GPU or TPU, found only a CPU; python -m benchmarks.run measures CPUs")
    without_torch = torch_left_out(hardware)
    tagging_peers = ("ours_bf16",) if without_torch else ("ours_bf16", "torch_eager_bf16", "torch_compile")
    parts = plan.make_parts(
        plan.TINY if arguments.tiny else SIZES,
        search_peers=("ours",) if without_torch else ("ours", "pytorch"),
        tagging_peers=() if arguments.tiny else tagging_peers,
        bfloat16=True,
        arguments=arguments,
    )
    left_out = plan.not_measured(arguments) | ({"PyTorch": without_torch} if without_torch else {})
    plan.finish(run_parts(parts, left_out, hardware, arguments.folder, keep_others=arguments.only is not None))


if __name__ == "__main__":
    main()
