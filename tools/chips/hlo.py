"""A reader of compiled HLO, the text of `Compiled.as_text()`: what a program computes, moves and holds, by our lines.

`parse` reads computations and instructions, `Program.executed` walks through what runs and how often: the body of a loop as
often as it goes round. XLA's own `cost_analysis` counts it once, and there is none for CUDA.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

UNKNOWN_CYCLES = 2**63 - 1  # what the TPU's compiler writes where it makes no estimate
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_TYPES = r"pred|token|opaque|s\d+|u\d+|bf16|f\d+\w*|c64|c128"
_LEAF = re.compile(rf"\b({_TYPES})\[([\d,<= ]*)\](?:\{{([^}}]*)\}})?")
_PLACES = {"S(1)": "vmem", "S(2)": "sync", "S(5)": "host", "S(6)": "smem"}
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute", "reduce-scatter")
# What names arrays that others have made.
NO_ARRAY = ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "opt-barrier", "constant")
_NO_ARRAY_NOR_WORK = (*NO_ARRAY, "iota", "after-all", "partition-id", "replica-id")


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
    def num_bytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.num_bytes for array in self.arrays)

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

    def trip_count(self, loop: Instruction, around: Computation) -> int | None:
        """Return how often a loop goes round; None where that depends on data."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
            return int(known[1])
        condition = self.computations[loop.attribute("condition") or ""]
        body = self.computations[loop.attribute("body") or ""]
        ends = [one for one in self._flat(condition) if one.opcode == "compare"]
        start = around[loop.operands[0]]
        if len(ends) != 1 or start.opcode != "tuple" or "direction=LT" not in ends[0].rest:
            return None
        # The induction variable is compared with a bound; both are constants or carried values that begin as one.
        sides = [self._origin(name, condition) for name in ends[0].operands]
        first, last = (
            side if isinstance(side, int) else self._constant(start.operands[side[0]], around) if side else None
            for side in sides
        )
        if first is None or last is None or isinstance(sides[0], int) or sides[0] is None:
            return None
        root = next(one for one in body.values() if one.is_root)
        if not isinstance(sides[1], int) and sides[1] is not None:  # a bound that a round changes is none
            carried = self._origin(root.operands[sides[1][0]], body)
            if carried != sides[1]:
                return None
        return max(last - first, 0)

    def _flat(self, computation: Computation) -> Iterator[Instruction]:
        for one in computation.values():
            if one.opcode == "fusion":
                yield from self._flat(self.computations[one.attribute("calls") or ""])
            yield one

    def _constant(self, name: str, where: Computation) -> int | None:
        origin = self._origin(name, where)
        return origin if isinstance(origin, int) else None

    def _origin(self, name: str, where: Computation) -> int | tuple[int] | None:
        """Follow copies to a constant, its value, or to an element of the carried tuple, its place in brackets."""
        if name not in where:  # stands in a fusion: there is one, and its parameters are the elements in its order
            return self._through_fusion(name, where)
        one = where[name]
        if one.opcode == "constant":
            return int(one.argument) if re.fullmatch(r"-?\d+", one.argument) else None
        if one.opcode in ("copy", "bitcast", "opt-barrier"):
            return self._origin(one.operands[0], where)
        if one.opcode == "get-tuple-element" and where[one.operands[0]].opcode == "parameter":
            return (int(one.attribute("index") or 0),)
        return None

    def _through_fusion(self, name: str, where: Computation) -> int | tuple[int] | None:
        for fusion in where.values():
            inner = self.computations[fusion.attribute("calls") or ""] if fusion.opcode == "fusion" else {}
            if name in inner:
                if inner[name].opcode == "parameter":
                    return self._origin(fusion.operands[int(inner[name].argument)], where)
                return self._origin(name, inner)
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
            elif one.opcode == "conditional":
                for branch in _branches(one):
                    yield from self._executed(branch, times, loops, loop_line)
            elif one.opcode == "call" or one.opcode.endswith("-start"):
                called = one.attribute("to_apply") if one.opcode == "call" else one.attribute("calls")
                yield from self._executed(called, times, loops, loop_line) if called else ()

    @property
    def products(self) -> list[Run]:
        """The matrix products that run, those inside fusions too."""
        return [
            Run(one, run.times, inner, run.loops, run.loop_line)
            for run in self.executed()
            for one, inner in self.inside(run.instruction, run.computation)
            if self.is_product(one)
        ]

    @staticmethod
    def is_product(one: Instruction) -> bool:
        """Return whether an instruction multiplies matrices."""
        return one.opcode in ("dot", "convolution") or "gemm" in (one.attribute("custom_call_target") or "")

    def inside(self, one: Instruction, where: Computation) -> Iterator[tuple[Instruction, Computation]]:
        """Yield an instruction, or what a fusion holds."""
        if one.opcode != "fusion":
            yield one, where
            return
        inner = self.computations[one.attribute("calls") or ""]
        for instruction in inner.values():
            yield from self.inside(instruction, inner)

    def flops(self, product: Run) -> int:
        """Return the multiplications and additions of one product."""
        one, where = product.instruction, product.computation
        out, left, right = one.arrays[0], where[one.operands[0]].arrays[0], where[one.operands[1]].arrays[0]
        if one.opcode == "convolution":
            return 2 * _convolution_size(one, left.shape, right.shape)
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest) or re.search(
            r'"lhs_contracting_dimensions":\[([\d,"]*)\]', one.rest
        )
        summed = prod(left.shape[int(axis)] for axis in axes[1].replace('"', "").split(",") if axis) if axes else 1
        return 2 * out.size * summed

    def operand_type(self, product: Run) -> str:
        """Return the type that a product multiplies."""
        return product.computation[product.instruction.operands[0]].arrays[0].dtype

    def traffic(self, one: Instruction, where: Computation) -> int:
        """Return the bytes that an instruction reads and writes; of a slice of an array, those of the slice."""
        if one.opcode in _NO_ARRAY_NOR_WORK or one.opcode.endswith("-done"):
            return 0
        inner = self.computations[one.attribute("calls") or ""] if one.opcode == "fusion" else {}
        arrays = [where[name].arrays for name in one.operands if name in where]
        read = [sum(array.num_bytes for array in operand) for operand in arrays]
        written = one.num_bytes
        if one.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * written
        if one.opcode == "dynamic-update-slice":
            return 2 * read[1]
        for parameter in (each for each in inner.values() if each.opcode == "parameter"):
            uses = [each for each in inner.values() if parameter.name in each.operands]
            sliced = [_slice_bytes(each, parameter.name, inner) for each in uses]
            place = int(parameter.argument)
            if sliced and None not in sliced and place < len(read):
                read[place] = sum(size or 0 for size in sliced)
        roots = [each for each in inner.values() if each.is_root and each.opcode == "dynamic-update-slice"]
        if roots:
            written = inner[roots[0].operands[1]].num_bytes
        return sum(read) + written


def _convolution_size(one: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Return how many products a convolution adds up; a batch of matrix products is one whose window is dilated."""
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    assert found, one.rest
    of_left, of_right, of_out = (
        dict(zip(label, shape, strict=True))
        for label, shape in zip(found.groups(), (left, right, one.arrays[0].shape), strict=True)
    )
    window = re.search(r"window=\{([^}]*)\}", one.rest)
    options = dict(option.split("=") for option in window[1].split()) if window else {}
    size = of_out["b"] * of_out["f"] * of_right["i"]
    for axis in range(len(left) - 2):
        strides, dilated, spread = (
            int(options[name].split("x")[axis]) if name in options else 1 for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(options["pad"].split("x")[axis].split("_")[0]) if "pad" in options else 0
        length, width, made = of_left[str(axis)], of_right[str(axis)], of_out[str(axis)]
        reach = (length - 1) * dilated
        starts = (place * strides - low for place in range(made))
        size *= sum(
            0 <= start + step * spread <= reach and (start + step * spread) % dilated == 0
            for start in starts
            for step in range(width)
        )
    return size


def _slice_bytes(use: Instruction, name: str, inner: Computation) -> int | None:
    if use.opcode in ("dynamic-slice", "slice", "gather") and use.operands[0] == name:
        return use.num_bytes
    if use.opcode == "dynamic-update-slice" and use.operands[0] == name:
        return inner[use.operands[1]].num_bytes
    return None


def _branches(one: Instruction) -> list[str]:
    if listed := re.search(r"branch_computations=\{([^}]*)\}", one.rest):
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return [name for name in (one.attribute("true_computation"), one.attribute("false_computation")) if name]


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
    files, locations, frames = (_table(text, name) for name in ("FileNames", "FileLocations", "StackFrames"))

    def number(row: str, field: str) -> int:
        found = re.search(rf"\b{field}=(\d+)", row)
        return int(found[1]) if found else 0

    def line(rest: str) -> str:
        frame = number(rest, "stack_frame_id")
        while frame in frames:
            location = locations[number(frames[frame], "file_location_id")]
            file = files[number(location, "file_name_id")].strip('"')
            if f"/{package}/" in file:
                return f"{file.rpartition(f'/{package}/')[2]}:{number(location, 'line')}"
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
            computation[name[2]] = Instruction(
                name[2],
                line[end + 1 : opening],
                read_arrays(line[start:end]),
                operands,
                rest,
                argument,
                our_line(rest),
                bool(name[1]),
            )
    return program
