"""What is searched: keys with what is known of each, taken a block at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_Carry = TypeVar("_Carry")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """What is searched.

    Attributes:
        keys: the vectors compared with a query.
        squared_norms: of the keys; `similarity.PADDING` where a row is none.
        values: what a row stands for, 0 <= value < num_values.
    """

    keys: Float[Array, "rows dim"]
    squared_norms: Float[Array, " rows"]
    values: Int[Array, " rows"]


def _keys_at(keys: Float[Array, "rows dim"], start: Int[Array, ""] | int, size: int) -> Float[Array, "block dim"]:
    # XLA would convert keys of another type all at once and hold them twice: it slices integers, which it leaves alone, and
    # the barrier keeps what becomes of a slice behind it.
    if keys.dtype == jnp.bfloat16:
        bits = jax.lax.bitcast_convert_type(keys, jnp.uint16)
        sliced = jax.lax.optimization_barrier(jax.lax.dynamic_slice_in_dim(bits, start, size))
        return jax.lax.bitcast_convert_type(sliced, jnp.bfloat16)
    return jax.lax.optimization_barrier(jax.lax.dynamic_slice_in_dim(keys, start, size))


def over_blocks(
    step: Callable[[_Carry, Rows, Int[Array, ""] | int], _Carry], carry: _Carry, rows: Rows, block_rows: int
) -> _Carry:
    """Folds a function over blocks of rows.

    Args:
        step: from a carry, a block and its first row's number to a carry.
        carry: the first one.
        rows: all.
        block_rows: in a block; the last may have fewer.
    """
    total = rows.keys.shape[0]
    block_rows = min(block_rows, total)
    whole_blocks = total // block_rows

    def at(start: Int[Array, ""] | int, size: int) -> Rows:
        arrays = (rows.squared_norms, rows.values)
        norms, values = (jax.lax.dynamic_slice_in_dim(array, start, size) for array in arrays)
        return Rows(_keys_at(rows.keys, start, size), norms, values)

    carry = jax.lax.fori_loop(
        0, whole_blocks, lambda i, carry: step(carry, at(i * block_rows, block_rows), i * block_rows), carry
    )
    remainder = total - whole_blocks * block_rows
    return step(carry, at(total - remainder, remainder), total - remainder) if remainder else carry
