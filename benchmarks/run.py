"""Measurements on the CPU, beside their peers; then `python -m benchmarks.report` writes plots and pages.

python -m benchmarks.run --run RUN         (make bench RUN=RUN; under 15 minutes on 2 cores)
"""

from benchmarks import plan
from benchmarks.bench import describe_hardware, run_parts

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # also where there is an accelerator


def main() -> None:
    """Measure every part on the CPU."""
    arguments = plan.parse_arguments(__doc__)
    hardware = describe_hardware(ENVIRONMENT)
    parts = plan.make_parts(
        plan.TINY if arguments.tiny else plan.Sizes(),
        search_peers=("ours", "faiss", "pytorch"),
        tagging_peers=() if arguments.tiny else ("ours", "pytorch"),
        bfloat16=False,
        arguments=arguments,
    )
    plan.finish(
        run_parts(parts, plan.not_measured(arguments), hardware, arguments.folder, ENVIRONMENT, arguments.only is not None)
    )


if __name__ == "__main__":
    main()
