"""CPU: everything beside its peers; then `python -m benchmarks.report` writes plots and pages.

python -m benchmarks.run --run RUN         (make bench RUN=RUN; under 15 minutes on 2 cores)
"""

from benchmarks import plan
from benchmarks.bench import describe_hardware, run_parts

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # also where there is an accelerator


def main() -> None:
    """Entry point."""
    given = plan.parse_arguments(__doc__)
    hardware = describe_hardware(ENVIRONMENT)
    parts = plan.make_parts(
        plan.TINY if given.tiny else plan.Sizes(),
        search_peers=("ours", "faiss", "pytorch"),
        tagging_peers=() if given.tiny else ("ours", "pytorch"),
        bfloat16=False,
        given=given,
    )
    plan.finish(run_parts(parts, plan.not_measured(given), hardware, given.folder, ENVIRONMENT, given.only is not None))


if __name__ == "__main__":
    main()
