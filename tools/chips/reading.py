"""What is told of a compiled program: memory, arithmetic, traffic, collectives and time, each a number or a short list."""

from collections import Counter
from collections.abc import Mapping, Sequence
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


def _makers(program: Program, run: Run) -> list[str]:
    """Return our lines that made the arrays of an instruction; of one that is filled slice by slice, the slices."""
    one, where = run.instruction, run.computation
    if one.opcode not in ("fusion", "dynamic-update-slice"):
        return [run.line] * len(one.arrays)
    inner = program.computations[one.called[0]] if one.called else {one.name: one}
    root = next(each for each in inner.values() if each.is_root or each is one)
    lines = []
    for name in root.operands if root.opcode == "tuple" else [root.name]:
        made = inner[name]
        while made.opcode in ("bitcast", "copy", "reshape", "convert", "dynamic-update-slice"):
            source = made.operands[made.opcode == "dynamic-update-slice"]
            if source not in inner or inner[source].opcode == "parameter":
                outer = one.operands[int(inner[source].argument)] if source in inner else source
                made = where[outer]
                break
            made = inner[source]
        lines.append("" if made.opcode == "broadcast" else made.line or run.line)  # which is there to be filled
    return lines if len(lines) == len(one.arrays) else [run.line] * len(one.arrays)


def largest_arrays(program: Program) -> list[dict[str, Any]]:
    """Return the largest arrays in HBM that the program makes, each with the line of our code."""
    made: dict[tuple[str, str], float] = {}
    for run in program.executed():
        # An asynchronous operation names its operands, too.
        if run.instruction.opcode in NO_ARRAY or run.instruction.opcode.endswith(("-start", "-done")):
            continue
        for array, line in zip(run.instruction.arrays, _makers(program, run), strict=True):
            if array.place == "hbm":
                made[str(array), line] = array.held_bytes / MEGABYTE
    # One that nobody's line made is what another fills.
    named = {array for array, line in made if line}
    kept = [(size, array, line) for (array, line), size in made.items() if line or array not in named]
    return [{"array": array, "line": line, "mb": size} for size, array, line in sorted(kept, reverse=True)[:LARGEST]]


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

    def with_rounds(numbers: Sequence[float]) -> dict[str, Any]:
        program.rounds = {run.instruction.name: number for run, number in zip(loops, numbers, strict=True)}
        return costs(program, target)

    for numbers in rounds.values() if rounds else [()]:
        if len(numbers) != len(loops):
            lines = ", ".join(run.line for run in loops)
            raise ValueError(f"rounds: expected {len(loops)} (loops that depend on data, at {lines}), got {len(numbers)}")
    fixed = with_rounds([0] * len(loops))["ms"]
    of_one = [with_rounds([loop is other for other in loops])["ms"] - fixed for loop in loops]
    return {
        "estimates": {weight: with_rounds(numbers) for weight, numbers in (rounds or {"any": ()}).items()},
        "fixed_ms": fixed,
        "loops": [
            {"line": run.line, "ms_a_round": ms, "rounds": [numbers[i] for numbers in rounds.values()]}
            for i, (run, ms) in enumerate(zip(loops, of_one, strict=True))
        ],
        "collectives": collectives(program),
        "largest": largest_arrays(program),
        "custom_calls": Counter(
            run.instruction.attribute("custom_call_target")
            for run in program.executed()
            if run.instruction.opcode == "custom-call"
        ),
    }
