"""A reader of compiled HLO, the text of `Compiled.as_text()`: what a program computes, moves and holds, by our lines.

`parse` reads computations and instructions, `Program.executed` walks through what runs and how often: the body of a loop as
often as it goes round. XLA's own `cost_analysis` counts it once, and there is none for CUDA.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

UNKNOWN_CYCLES = 2**63 - 1  # what the TPU's compiler writes where it makes no estimate
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_TYPES = r"pred|token|opaque|s\d+|u\d+|bf16|f\d+\w*|c64|c128"
_LEAF = re.compile(rf"\b({_TYPES})\[([\d,<= ]*)\](?:\{{([^}}]*)\}})?")
_PLACES = {"S(1)": "vmem", "S(2)": "sync", "S(5)": "host", "S(6)": "smem"}
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute", "reduce-scatter")
# What names arrays that others have made.
NO_ARRAY = ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "opt-barrier", "constant")
NO_WORK = (*NO_ARRAY, "iota", "after-all", "partition-id", "replica-id")
MOST_ROUNDS = 1_000_000  # of a loop that is counted through
_SAME = ("copy", "bitcast", "opt-barrier", "convert")
_FUNCTIONS: dict[str, Callable[..., Any]] = {"add": operator.add, "subtract": operator.sub, "maximum": max, "minimum": min}
_FUNCTIONS |= {name: getattr(operator, name.lower()) for name in ("LT", "LE", "GT", "GE", "EQ", "NE")}


@dataclass(frozen=True)
class Array:
    """An array of an instruction.

    Attributes:
        dtype: as HLO spells it.
        shape: without padding.
        held_bytes: with what the layout pads, where it is tiled.
        place: `hbm`, or another memory.
    """

    dtype: str
    shape: tuple[int, ...]
    held_bytes: int
    place: str = "hbm"

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return _bits(self.dtype) * self.size // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 0


def read_arrays(text: str) -> list[Array]:
    """Return the arrays of a shape, of a tuple all in turn.

    >>> [(str(array), array.held_bytes, array.place) for array in read_arrays("(f32[9,100]{1,0:T(8,128)}, s32[]{:S(6)})")]
    [('f32[9,100]', 8192, 'hbm'), ('s32[]', 4, 'smem')]
    """
    arrays = []
    for dtype, dims, layout in _LEAF.findall(text):
        shape = tuple(int(dim.strip("<= ")) for dim in dims.split(",") if dim.strip())
        order, _, tiles = (layout or "").partition(":")
        padded = list(shape)
        if tile := re.search(r"T\(([\d,]+)\)", tiles):
            minor_first = [int(axis) for axis in order.split(",") if axis]
            for axis, multiple in zip(minor_first, reversed([int(dim) for dim in tile[1].split(",")]), strict=False):
                padded[axis] = -(-padded[axis] // multiple) * multiple
        place = next((name for mark, name in _PLACES.items() if mark in tiles), "hbm")
        arrays.append(Array(dtype, shape, _bits(dtype) * prod(padded) // 8, place))
    return arrays


@dataclass
class Instruction:
    """One line of HLO.

    Attributes:
        name: unique in the program.
        opcode: as HLO spells it.
        arrays: what it makes, of a tuple all in turn.
        operands: names.
        rest: its attributes.
        argument: what stands between its brackets.
        line: of our code, or an empty text.
        is_root: whether it is what its computation returns.
    """

    name: str
    opcode: str
    arrays: list[Array]
    operands: list[str]
    rest: str
    argument: str
    line: str
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """Return the name of a computation, or a word, that an attribute gives."""
        found = re.search(rf'\b{name}=[%"]?([\w.$\-]+)', self.rest)
        return found[1] if found else None

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs, or reduces and compares by."""
        if branches := re.search(r"branch_computations=\{([^}]*)\}", self.rest):
            return [name.strip().lstrip("%") for name in branches[1].split(",")]
        names = ("calls", "to_apply", "condition", "body", "true_computation", "false_computation")
        return [name for name in map(self.attribute, names) if name]

    @property
    def num_bytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.num_bytes for array in self.arrays)

    @property
    def hbm_bytes(self) -> int:
        """Bytes of those in HBM."""
        return sum(array.num_bytes for array in self.arrays if array.place == "hbm")

    @property
    def is_highest(self) -> bool:
        """Whether a product asks for float32 accuracy of both operands, or computes in it on its own."""
        return "operand_precision={highest,highest}" in self.rest or bool(
            re.search(r'"operand_precision":\["HIGHEST","HIGHEST"\]', self.rest)
        )

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate; None without one."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found and int(found[1]) < UNKNOWN_CYCLES else None

    @property
    def collective(self) -> str | None:
        """The kind of collective, counted where it starts."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in COLLECTIVES else None


Computation = dict[str, Instruction]


class Run(NamedTuple):
    """An instruction that runs.

    Attributes:
        instruction: itself.
        times: how often.
        computation: where it stands.
        loops: names of loops around it whose number of rounds depends on data, outermost first.
        loop_line: line of our code of the innermost loop around it, whatever its rounds.
    """

    instruction: Instruction
    times: float
    computation: Computation
    loops: tuple[str, ...] = ()
    loop_line: str = ""

    @property
    def line(self) -> str:
        """The line of our code, or of the loop around it where the compiler made the instruction up."""
        return self.instruction.line or self.loop_line


@dataclass
class Program:
    """A compiled module.

    Attributes:
        computations: by name.
        entry: name of the one that runs.
        rounds: how often loops go round whose number of rounds depends on data, by name; once where none is given.
    """

    computations: dict[str, Computation]
    entry: str
    rounds: dict[str, float] = field(default_factory=dict)
    _counted: dict[str, int | None] = field(default_factory=dict)

    def trip_count(self, loop: Instruction, around: Computation) -> int | None:
        """Return how often a loop goes round, by counting it through; None where that depends on data."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
            return int(known[1])
        if loop.name not in self._counted:
            self._counted[loop.name] = self._count(loop, around)
        return self._counted[loop.name]

    def _count(self, loop: Instruction, around: Computation) -> int | None:
        condition, body = (self.computations[loop.attribute(part) or ""] for part in ("condition", "body"))
        end, after = (next(one for one in part.values() if one.is_root) for part in (condition, body))
        state = self._integers(loop.operands[0], around, [])
        for count in range(MOST_ROUNDS):
            goes_on = self._integers(end.name, condition, [state])
            if not isinstance(state, list) or not isinstance(goes_on, int) or after.opcode != "tuple":
                return None
            if not goes_on:
                return count
            state = [
                None if before is None else self._integers(name, body, [state])
                for before, name in zip(state, after.operands, strict=True)
            ]
        return None

    def _integers(self, name: str, where: Computation, arguments: list[Any]) -> Any:
        """Return an integer, or a list of a tuple's, that constants alone decide; None for all else."""
        one = where[name]
        if one.opcode == "constant":
            text = {"true": "1", "false": "0"}.get(one.argument, one.argument)
            return int(text) if re.fullmatch(r"-?\d+", text) else None
        if one.opcode == "parameter":
            return arguments[int(one.argument)] if arguments else None
        if one.opcode in _FUNCTIONS or one.opcode in ("tuple", "get-tuple-element", "compare", "fusion", *_SAME):
            operands = [self._integers(operand, where, arguments) for operand in one.operands]
            if one.opcode == "tuple":
                return operands
            if one.opcode == "get-tuple-element":
                return operands[0][int(one.attribute("index") or 0)] if operands[0] else None
            if one.opcode == "fusion":
                inner = self.computations[one.attribute("calls") or ""]
                return self._integers(next(each.name for each in inner.values() if each.is_root), inner, operands)
            if one.opcode in _SAME:
                return operands[0]
            function = _FUNCTIONS[(one.attribute("direction") or "") if one.opcode == "compare" else one.opcode]
            return None if None in operands else int(function(*operands))
        return None

    def executed(self) -> Iterator[Run]:
        """Yield what runs, but not what is inside a fusion."""
        yield from self._executed(self.entry, 1, (), "")

    def _executed(self, name: str, times: float, loops: tuple[str, ...], loop_line: str) -> Iterator[Run]:
        computation = self.computations[name]
        for one in computation.values():
            yield Run(one, times, computation, loops, loop_line)
            if one.opcode == "while":
                trips = self.trip_count(one, computation)
                inside = loops if trips is not None else (*loops, one.name)
                rounds = self.rounds.get(one.name, 1) if trips is None else trips
                for part in ("condition", "body"):
                    yield from self._executed(one.attribute(part) or "", times * rounds, inside, one.line or loop_line)
            elif one.opcode in ("conditional", "call") or one.opcode == "async-start":
                for called in one.called:
                    yield from self._executed(called, times, loops, loop_line)

    def inside(self, one: Instruction, where: Computation) -> Iterator[tuple[Instruction, Computation]]:
        """Yield an instruction, or what a fusion holds."""
        if one.opcode != "fusion":
            yield one, where
            return
        inner = self.computations[one.attribute("calls") or ""]
        for instruction in inner.values():
            yield from self.inside(instruction, inner)


def _closing(text: str, start: int) -> int:
    """Return the place behind the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"HLO: expected a closing bracket, got {text[start : start + 80]}")


def _table(text: str, name: str) -> dict[int, str]:
    section = re.search(rf"^{name}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
    rows = (line.partition(" ") for line in section[1].splitlines()) if section else ()
    return {int(number): rest for number, _, rest in rows}


def _our_lines(text: str, package: str) -> Callable[[str], str]:
    """Return a function from an instruction's attributes to the innermost line of the package that made it."""
    tables = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
    files, functions, locations, frames = (_table(text, name) for name in tables)

    def number(row: str, field: str) -> int:
        found = re.search(rf"\b{field}=(\d+)", row)
        return int(found[1]) if found else 0

    def line(rest: str) -> str:
        frame = number(rest, "stack_frame_id")
        while frame in frames:
            location = locations[number(frames[frame], "file_location_id")]
            file = files[number(location, "file_name_id")].strip('"')
            if f"/{package}/" in file:
                function = functions[number(location, "function_name_id")].strip('"').rpartition(".")[2]
                return f"{file.rpartition(f'/{package}/')[2]}:{number(location, 'line')} {function}"
            frame = number(frames[frame], "parent_frame_id") - 1  # counted from 1, 1 for none
        return ""

    return line


_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


def parse(text: str, package: str = "knn_ner_jax") -> Program:
    """Read a module.

    Args:
        text: compiled HLO.
        package: whose lines name what it makes.
    """
    our_line = _our_lines(text, package)
    program = Program({}, "")
    computation: Computation = {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            computation = program.computations[head[2]] = {}
            program.entry = head[2] if head[1] else program.entry
        elif name := _NAME.match(line):
            start = name.end()
            end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
            opening = line.index("(", end)
            closing = _closing(line, opening)
            argument, rest = line[opening + 1 : closing - 1], line[closing:]
            operands = re.findall(r"%([\w.\-]+)", argument)
            # What the compiler made up of several instructions is of the line of the last that has one.
            arrays, opcode = read_arrays(line[start:end]), line[end + 1 : opening]
            one = Instruction(name[2], opcode, arrays, operands, rest, argument, our_line(rest), bool(name[1]))
            if opcode == "fusion" and not one.line:
                inner = program.computations[one.called[0]]
                one.line = next((other.line for other in reversed(inner.values()) if other.line), "")
            computation[one.name] = one
    return program
