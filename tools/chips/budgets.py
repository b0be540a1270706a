"""What every compiled program must keep; `check` says where one does not."""

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import jax

from tools.chips.costs import operand_type, products
from tools.chips.hlo import COLLECTIVES, NO_ARRAY, Instruction, Program

GROUP_ROWS = 16  # scores are looked at in groups of so many rows
BLOCK_ROWS = 32768  # that are compared at a time, about
# Functions of our code whose products need not be float32-accurate, and what proves it.
PROVED = {"_take_groups": "products of bytes with 0 and 1 are exact in bfloat16"}
_VOTING = ("knn/", "models/tagger.py")  # whose products enter a vote or the mix
_BYTES = " _take_groups"  # the function that takes a block's scores apart, four bytes each
_ENCODER = "models/"  # which compares no words with rows
_TO_HOST = ("send", "send-done", "recv", "recv-done", "infeed", "outfeed")
_ALIKE = ("all-reduce", "all-gather")  # what all chips receive alike


class Limits(NamedTuple):
    """What a program is judged by.

    Attributes:
        queries: words compared with rows at a time; 0 without a search.
        dim: width of a key.
        k: neighbours of each word; 0 without.
        positions: tokens of a batch, those of all chips, where only some of them are looked up; 0 elsewhere.
        shares: rows that a chip holds of the datastore, and of the border; those of several blocks.
        weights: shapes of the parameters.
        divided: names of the arguments that are divided over the chips.
        traced: names of arguments that must not be compiled in.
        chips: how many.
    """

    queries: int = 0
    dim: int = 0
    k: int = 0
    positions: int = 0
    shares: tuple[int, ...] = ()
    weights: Collection[tuple[int, ...]] = ()
    divided: Collection[str] = ()
    traced: Collection[str] = ()
    chips: int = 1


def check(program: Program, limits: Limits) -> list[str]:
    """Return what a program breaks, in words; nothing where it keeps all."""
    everything = [one for computation in program.computations.values() for one in computation.values()]
    messages = [
        *_large_arrays(program, limits),
        *(f"float64: {one.name} ({one.line})" for one in everything for a in one.arrays if a.dtype in ("f64", "c128")),
        *(f"host transfer: {one.opcode} {one.name} ({one.line})" for one in everything if _reaches_host(one)),
        *_precision(program, limits),
        *_steps(program, limits),
        *(
            f"collectives in a {kind} that chips may leave at different times ({line})"
            for kind, line in _uneven(program, limits)
        ),
        *_compiled_in(program, limits),
    ]
    return list(dict.fromkeys(messages))


def memory(held: float, there: float) -> list[str]:
    """Return by how much a program does not fit, in words; the compiler for CUDA does not ask.

    Args:
        held: bytes of arguments, results and temporary memory.
        there: bytes of a chip.
    """
    if held <= there:
        return []
    return [f"does not fit: holds {held / 1e6:,.0f} MB, expected at most the chip's {there / 1e6:,.0f} MB"]


def _large_arrays(program: Program, limits: Limits) -> Iterator[str]:
    for run in program.executed():
        if run.instruction.opcode in NO_ARRAY:
            continue
        # What starts a copy bears its source beside the result.
        starts = run.instruction.operands if run.instruction.opcode.endswith("-start") else []
        sources = [array for name in starts for array in run.computation[name].arrays]
        for array in run.instruction.arrays:
            if array.place != "hbm" or array.shape in limits.weights or array in sources:
                continue
            for rows in limits.shares:
                # Of what the encoder made, or no line of ours, only what is as long as the rows or their groups: activations
                # may be as large. Of all else, whatever its shape.
                is_long = max(array.shape, default=0) * GROUP_ROWS >= rows
                if not is_long and (not run.line or run.line.startswith(_ENCODER)):
                    continue
                size = array.size // (4 if run.line.endswith(_BYTES) and not is_long else 1)
                if limits.dim in array.shape:  # keys, which a block of scores may be smaller than
                    if array.size >= rows * limits.dim:
                        yield f"as large as the chip's {rows:,} keys: {array} ({run.line})"
                        break
                elif size >= rows * limits.queries and array.shape[-1:] != (limits.k,):  # not the neighbours found
                    yield f"[queries, rows] of {limits.queries} x {rows:,}: {array} ({run.line})"
                    break


def _steps(program: Program, limits: Limits) -> Iterator[str]:
    for run in program.executed():
        kind = re.search(r'op_name="[^"]*/(gather|scatter)[^/"]*"', run.instruction.rest)
        if run.instruction.opcode == "while" and kind:
            yield f"a {kind[1]} that takes one element after another ({run.line})"
        for one, _ in program.inside(run.instruction, run.computation):
            axis = re.search(r"dimensions=\{(\d+)\}", one.rest)
            if one.opcode == "sort" and axis and one.arrays[0].shape[int(axis[1])] >= BLOCK_ROWS:
                yield f"a sort of a whole block: {one.arrays[0]} ({run.line})"
            if limits.positions and one.collective and one.arrays[-1].size >= limits.positions * limits.dim:
                yield f"states of all {limits.positions:,} positions travel: {one.arrays[-1]} ({run.line})"


def _reaches_host(one: Instruction) -> bool:
    target = one.attribute("custom_call_target") or ""
    return one.opcode in _TO_HOST or "callback" in target or "Host" in target or any(a.place == "host" for a in one.arrays)


def _precision(program: Program, limits: Limits) -> Iterator[str]:
    if not limits.queries:
        return
    voting = [run for run in products(program) if run.line.startswith(_VOTING)]
    if not any(run.line.startswith("knn/") for run in voting):
        yield "no product of queries and keys: nothing to judge"
    for run in voting:
        line, function = run.line.split(" ", 1)
        dtype = operand_type(run)
        exact = dtype[0] in "su" or (dtype == "f32" and run.instruction.is_highest)  # integers are
        # The tagger's own products are of float32; those in bfloat16 that bear its line are the encoder's, as asked for.
        is_encoder = dtype == "bf16" and not line.startswith("knn/")
        if function not in PROVED and not exact and not is_encoder:
            yield f"product of {dtype} below the highest precision ({line} {function})"


def _compiled_in(program: Program, limits: Limits) -> Iterator[str]:
    entry = program.computations[program.entry].values()
    names = {_argument_name(one) for one in entry if one.opcode == "parameter"}
    for name in limits.traced:
        if name not in names:
            yield f"{name} is compiled in: another value would compile again"


def _argument_name(parameter: Instruction) -> str:
    found = re.search(r'op_name="([^"]*)"', parameter.rest)
    return found[1] if found else ""


def changed(carried: Any, result: Any) -> list[str]:
    """Return how what a call hands to the next one differs from what it took: the next would compile again.

    Args:
        carried: shapes with shardings of the argument.
        result: the same of what takes its place.
    """
    before, after = (dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in (carried, result))
    return [
        f"{jax.tree_util.keystr(path)} changes from {was} to {after.get(path)}: the next call would compile again"
        for path, was in before.items()
        if path not in after
        or (was.shape, was.dtype) != (after[path].shape, after[path].dtype)
        or not was.sharding.is_equivalent_to(after[path].sharding, len(was.shape))
    ]


Varies = list[bool]  # of each array of an instruction, whether it may differ between chips


def _uneven(program: Program, limits: Limits) -> list[tuple[str, str]]:
    """Return the loops and branches with collectives that chips may not enter and leave together.

    What may differ between chips is followed through the program: it begins with arguments that are divided, with numbers of
    chips and exchanges, and ends where all chips receive the same.
    """
    if limits.chips == 1:
        return []
    uneven: dict[tuple[str, str], None] = {}
    known: dict[tuple[str, tuple[tuple[bool, ...], ...]], Varies] = {}

    def meets(name: str) -> bool:
        return any(
            one.collective is not None or any(meets(called) for called in one.called)
            for one in program.computations[name].values()
        )

    def follow(name: str, arguments: list[Varies]) -> Varies:
        key = name, tuple(map(tuple, arguments))
        if key not in known:
            values: dict[str, Varies] = {}
            for one in program.computations[name].values():
                values[one.name] = _fit(outcome(one, [values[operand] for operand in one.operands], arguments), one)
            known[key] = next(values[one.name] for one in program.computations[name].values() if one.is_root)
        return known[key]

    def outcome(one: Instruction, operands: list[Varies], arguments: list[Varies]) -> Varies:
        if one.opcode == "parameter":
            return arguments[int(one.argument)] if arguments else [_is_divided(one, limits.divided)]
        if one.collective in _ALIKE and _among_all(one, limits.chips):
            return [False]
        if one.opcode in ("partition-id", "replica-id") or one.collective in COLLECTIVES:
            return [True]
        if one.opcode == "tuple":
            return [value for operand in operands for value in operand]
        if one.opcode == "get-tuple-element" and one.arrays and len(operands[0]) > int(one.attribute("index") or 0):
            return [operands[0][int(one.attribute("index") or 0)]]
        if one.opcode in ("fusion", "call", "async-start"):
            return follow(one.called[0], operands)
        if one.opcode == "while":
            return loop(one, operands[0])
        if one.opcode == "conditional":
            branches = [follow(name, [operand]) for name, operand in zip(one.called, operands[1:], strict=True)]
            if any(operands[0]) and any(map(meets, one.called)):
                uneven["branch", one.line] = None
            return [any(operands[0]) or any(each) for each in zip(*branches, strict=True)]
        return [any(any(operand) for operand in operands)]

    def loop(one: Instruction, state: Varies) -> Varies:
        condition, body = one.called
        while True:
            after = [before or now for before, now in zip(state, follow(body, [state]), strict=True)]
            if after == state:
                break
            state = after
        if not any(follow(condition, [state])):
            return state
        if meets(body) or meets(condition):
            uneven["loop", one.line] = None
        return [True] * len(state)

    follow(program.entry, [])
    return list(uneven)


def _fit(values: Varies, one: Instruction) -> Varies:
    """Return as many values as an instruction has arrays."""
    return values if len(values) == len(one.arrays) else [any(values)] * len(one.arrays)


def _is_divided(parameter: Instruction, divided: Collection[str]) -> bool:
    return _argument_name(parameter) in divided


def _among_all(one: Instruction, chips: int) -> bool:
    """Return whether the one group of a collective are all chips."""
    groups = re.search(r"replica_groups=(mesh\[([^\]]*)\] \{([^}]*)\}|\{\{[\d,]*\}\}|\[1,\d+\]<=|\{\})", one.rest)
    if groups is None:
        return False
    if groups[2] is None:
        return groups[1] == "{}" or groups[1].startswith("[1,") or groups[1].count(",") == chips - 1
    sizes = dict(axis.split("=") for axis in groups[2].split(","))
    return all(size == "1" or axis in groups[3] for axis, size in sizes.items())
