"""What instructions of compiled HLO cost: floating-point operations and bytes of memory."""

import re
from collections.abc import Iterator
from math import prod

from tools.chips.hlo import NO_WORK, Computation, Instruction, Program, Run

_SLICES = ("dynamic-slice", "slice", "gather")


def is_product(one: Instruction) -> bool:
    """Return whether an instruction multiplies matrices."""
    target = one.attribute("custom_call_target") or ""
    return one.opcode in ("dot", "convolution") or "gemm" in target or "fmha" in target


def products(program: Program) -> Iterator[Run]:
    """Yield the matrix products that run, those inside fusions too."""
    for run in program.executed():
        for one, inner in program.inside(run.instruction, run.computation):
            if is_product(one):
                yield run._replace(instruction=one, computation=inner, loop_line=run.line)


def operand_type(product: Run) -> str:
    """Return the type that a product multiplies."""
    return product.computation[product.instruction.operands[0]].arrays[0].dtype


def flops(product: Run) -> int:
    """Return the multiplications and additions of one product."""
    one, where = product.instruction, product.computation
    out, left, right = one.arrays[0], where[one.operands[0]].arrays[0], where[one.operands[1]].arrays[0]
    if weights := re.search(r'"intermediate_tensor_shape": *\{[^{}]*?"dimensions": *\[([\d," ]*)\]', one.rest):
        # cuDNN's attention: two products, whose result and whose left side are its weights, [batch, heads, length, length].
        return 2 * 2 * left.size * int(re.findall(r"\d+", weights[1])[-1])
    if one.opcode == "convolution":
        return 2 * _convolution_size(one, left.shape, right.shape)
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest) or re.search(
        r'"lhs_contracting_dimensions":\[([\d,"]*)\]', one.rest
    )
    summed = prod(left.shape[int(axis)] for axis in axes[1].replace('"', "").split(",") if axis) if axes else 1
    return 2 * out.size * summed


def traffic(program: Program, run: Run) -> int:
    """Return the bytes of HBM that an instruction reads and writes; of a slice of an array, those of the slice."""
    one, where = run.instruction, run.computation
    if one.opcode in NO_WORK or one.opcode.endswith("-done"):
        return 0
    if one.opcode in _SLICES or one.opcode == "dynamic-update-slice":
        return 2 * (where[one.operands[1]] if one.opcode not in _SLICES else one).hbm_bytes
    inner = program.computations[one.attribute("calls") or ""] if one.opcode == "fusion" else {}
    read = [where[name].hbm_bytes for name in one.operands]
    for parameter in (each for each in inner.values() if each.opcode == "parameter" and each.hbm_bytes):
        uses = [_slice_bytes(each, parameter.name, inner) for each in inner.values() if parameter.name in each.operands]
        read[int(parameter.argument)] = min(sum(uses), read[int(parameter.argument)])
    updates = [each for each in inner.values() if each.is_root and each.opcode == "dynamic-update-slice"]
    return sum(read) + (inner[updates[0].operands[1]] if updates else one).hbm_bytes


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


def _slice_bytes(use: Instruction, name: str, inner: Computation) -> int:
    """Return how much of an operand is read: of one that is updated in place, as much as is overwritten."""
    if use.opcode in _SLICES and use.operands[0] == name:
        return use.num_bytes
    updated = use.opcode == "dynamic-update-slice" and use.operands[0] == name
    return inner[use.operands[1] if updated else name].num_bytes
