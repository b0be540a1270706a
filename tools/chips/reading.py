"""What is told of a compiled program: memory, arithmetic, traffic, collectives and time, each a number or a short list."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tools.chips.hlo import NO_ARRAY, Program, Run
from tools.chips.target import Chip, Target

LARGEST = 8  # arrays that are named
SLOWEST = 8  # lines that are named
MEGABYTE = 1e6


def dynamic_loops(program: Program) -> list[Run]:
    """Return the outermost loops whose number of rounds depends on data."""
    return [
        run
        for run in program.executed()
        if run.instruction.opcode == "while"
        and not run.loops
        and program.trip_count(run.instruction, run.computation) is None
    ]


def largest_arrays(program: Program) -> list[dict[str, Any]]:
    """Return the largest arrays in HBM that the program makes, each with the line of our code and how many there are."""
    made = Counter(
        (str(array), run.line, array.held_bytes)
        for run in program.executed()
        # An asynchronous operation names its operands, too.
        if run.instruction.opcode not in NO_ARRAY and not run.instruction.opcode.endswith(("-start", "-done"))
        for array in run.instruction.arrays
        if array.place == "hbm"
    )
    largest = sorted(made.items(), key=lambda item: -item[0][2])[:LARGEST]
    return [
        {"array": array, "line": line, "mb": size / MEGABYTE, "number": number} for (array, line, size), number in largest
    ]


def collectives(program: Program) -> list[dict[str, Any]]:
    """Return the collectives by kind: how many stand in the program, and the bytes that a chip receives of each array."""
    number: Counter[str] = Counter()
    received: dict[str, float] = {}
    for run in program.executed():
        if kind := run.instruction.collective:
            arrays = run.instruction.arrays
            # Asynchronous ones name their operands, then their results.
            if run.instruction.opcode.endswith("-start") and kind != "all-reduce":
                arrays = arrays[len(run.instruction.operands) :][: len(run.instruction.operands)]
            number[kind] += 1
            received[kind] = received.get(kind, 0.0) + run.times * sum(array.num_bytes for array in arrays)
    return [{"kind": kind, "number": number[kind], "mb": received[kind] / MEGABYTE} for kind in sorted(number)]


def seconds_at_peak(program: Program, run: Run, chip: Chip) -> float:
    """Return what the arithmetic of an instruction takes at the chip's peak, or its traffic, whichever is more."""
    moved = program.traffic(run.instruction, run.computation) / chip.bandwidth
    products = [Run(inner, 1, where) for inner, where in program.inside(run.instruction, run.computation)]
    computed: float = sum(
        program.flops(product) / chip.peak_of(program.operand_type(product), product.instruction.is_highest)
        for product in products
        if program.is_product(product.instruction)
    )
    return max(moved, computed)


def costs(program: Program, target: Target) -> dict[str, Any]:
    """Return flops, bytes, seconds of one run of the program, and the share of the chip's peak that its products reach.

    On TPU seconds are the cycles that the compiler estimates; what it does not estimate is counted, not added. It makes no
    estimate for CUDA: there they are, for each instruction, what its arithmetic or its traffic takes at the chip's peak,
    whichever is more.
    """
    chip = target.chip
    by_compiler = chip.platform == "tpu"
    traffic = seconds = 0.0
    unknown: Counter[str] = Counter()
    by_line: dict[str, float] = {}
    for run in program.executed():
        one, moved = run.instruction, program.traffic(run.instruction, run.computation)
        traffic += run.times * moved
        if not by_compiler:
            taken = run.times * seconds_at_peak(program, run, chip)
        elif one.cycles is not None:
            taken = run.times * one.cycles / chip.clock
        else:
            taken = 0.0
            if moved and not one.opcode.endswith(("-start", "-done")):
                unknown[one.collective or one.attribute("custom_call_target") or one.opcode] += 1
        seconds += taken
        by_line[run.line] = by_line.get(run.line, 0.0) + taken
    flops = sum(run.times * program.flops(run) for run in program.products)
    return {
        "gflops": flops / 1e9,
        "traffic_mb": traffic / MEGABYTE,
        "ms": seconds * 1e3,
        "estimate": "compiler" if by_compiler else "peak",
        "share_of_peak": flops / (seconds * chip.peak) if seconds else 0.0,
        "without_estimate": dict(unknown),
        "slowest": {line: by_line[line] * 1e3 for line in sorted(by_line, key=lambda line: -by_line[line])[:SLOWEST]},
    }


def read(program: Program, target: Target, rounds: Mapping[float, tuple[float, ...]]) -> dict[str, Any]:
    """Return what is told of a program.

    Args:
        program: parsed.
        target: what it was compiled for.
        rounds: for each weight those of the loops that depend on data, in their order; empty where none does.

    Raises:
        ValueError: other loops depend on data.
    """
    loops = dynamic_loops(program)
    estimates = {}
    for weight, numbers in (rounds or {0.0: ()}).items():
        if len(numbers) != len(loops):
            lines = ", ".join(run.instruction.line for run in loops)
            raise ValueError(f"rounds: expected {len(loops)} (loops that depend on data, at {lines}), got {len(numbers)}")
        program.rounds = {run.instruction.name: number for run, number in zip(loops, numbers, strict=True)}
        estimates[str(weight) if rounds else "any"] = costs(program, target)
    return {
        "estimates": estimates,
        "loops": [{"line": run.instruction.line, "rounds": [n[i] for n in rounds.values()]} for i, run in enumerate(loops)],
        "collectives": collectives(program),
        "largest": largest_arrays(program),
        "custom_calls": dict(
            Counter(
                run.instruction.attribute("custom_call_target")
                for run in program.executed()
                if run.instruction.opcode == "custom-call"
            )
        ),
    }
