"""What is told of a compiled program: memory, arithmetic, traffic, collectives and time, each a number or a short list."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tools.chips.costs import flops, is_product, operand_type, traffic
from tools.chips.hlo import NO_ARRAY, Program, Run
from tools.chips.target import Target

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
    """Return the largest arrays in HBM that the program makes, each with the line of our code."""
    made = {
        (str(array), run.line, array.held_bytes / MEGABYTE)
        for run in program.executed()
        # An asynchronous operation names its operands, too.
        if run.instruction.opcode not in NO_ARRAY and not run.instruction.opcode.endswith(("-start", "-done"))
        for array in run.instruction.arrays
        if array.place == "hbm"
    }
    largest = sorted(made, key=lambda one: (-one[2], one))[:LARGEST]
    return [dict(zip(("array", "line", "mb"), one, strict=True)) for one in largest]


def collectives(program: Program) -> list[dict[str, Any]]:
    """Return the collectives by kind: how many there are, and the bytes that a chip receives of them."""
    received: dict[tuple[str, str], float] = {}  # one that overlaps with work stands in several fusions, by one number
    for run in program.executed():
        for one, _ in program.inside(run.instruction, run.computation):
            if kind := one.collective:
                arrays = one.arrays
                if one.opcode.endswith("-start") and kind != "all-reduce":  # names its operands, then its results
                    arrays = arrays[len(one.operands) :][: len(one.operands)]
                number = kind, one.attribute("channel_id") or one.name
                received[number] = max(received.get(number, 0.0), run.times * sum(array.num_bytes for array in arrays))
    numbers = Counter(kind for kind, _ in received)
    by_kind = {kind: sum(size for (other, _), size in received.items() if other == kind) for kind in sorted(numbers)}
    return [{"kind": kind, "number": numbers[kind], "mb": size / MEGABYTE} for kind, size in by_kind.items()]


def costs(program: Program, target: Target) -> dict[str, Any]:
    """Return flops, bytes, seconds of one run of the program, and the share of the chip's peak that its products reach.

    On TPU seconds are the cycles that the compiler estimates; what it does not estimate is counted, not added. It makes no
    estimate for CUDA: there they are, for each instruction, what its arithmetic or its traffic takes at the chip's peak,
    whichever is more.
    """
    chip = target.chip
    by_compiler = chip.platform == "tpu"
    arithmetic = moved = 0.0
    without: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for run in program.executed():
        one, size = run.instruction, traffic(program, run)
        products = [Run(inner, 1, where) for inner, where in program.inside(one, run.computation) if is_product(inner)]
        moved += run.times * size
        arithmetic += run.times * sum(map(flops, products))
        if not by_compiler:
            at_peak = (flops(p) / chip.peak_of(operand_type(p), p.instruction.is_highest) for p in products)
            taken = max(sum(at_peak), size / chip.bandwidth)
        else:
            taken = (one.cycles or 0) / chip.clock
            special = one.collective or one.attribute("custom_call_target")
            if one.cycles is None and (special or one.opcode == "sort" or size > MEGABYTE):
                without[special or one.opcode] += 1
        seconds[run.line] = seconds.get(run.line, 0.0) + run.times * taken
    total = sum(seconds.values())
    return {
        "gflops": arithmetic / 1e9,
        "traffic_mb": moved / MEGABYTE,
        "ms": total * 1e3,
        "estimate": "compiler" if by_compiler else "peak",
        "share_of_peak": arithmetic / (total * chip.peak) if total else 0.0,
        "without_estimate": dict(without),
        "slowest": {line: seconds[line] * 1e3 for line in sorted(seconds, key=lambda line: -seconds[line])[:SLOWEST]},
    }


def read(program: Program, target: Target, rounds: Mapping[str, tuple[float, ...]]) -> dict[str, Any]:
    """Return what is told of a program.

    Args:
        program: parsed.
        target: what it was compiled for.
        rounds: for each weight, or `any`, those of the loops that depend on data, in their order; empty where none does.

    Raises:
        ValueError: other loops depend on data.
    """
    loops = dynamic_loops(program)
    estimates = {}
    for weight, numbers in (rounds or {"any": ()}).items():
        if len(numbers) != len(loops):
            lines = ", ".join(run.instruction.line for run in loops)
            raise ValueError(f"rounds: expected {len(loops)} (loops that depend on data, at {lines}), got {len(numbers)}")
        program.rounds = {run.instruction.name: number for run, number in zip(loops, numbers, strict=True)}
        estimates[weight] = costs(program, target)
    return {
        "estimates": estimates,
        "loops": [{"line": run.instruction.line, "rounds": [n[i] for n in rounds.values()]} for i, run in enumerate(loops)],
        "collectives": collectives(program),
        "largest": largest_arrays(program),
        "custom_calls": Counter(
            run.instruction.attribute("custom_call_target")
            for run in program.executed()
            if run.instruction.opcode == "custom-call"
        ),
    }
