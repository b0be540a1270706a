"""What is searched: keys with what is known of each, taken a block at a time, and scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from knn_ner_jax.knn.similarity import PADDING, key_terms, products, rank_scores

GROUP_ROWS = 16  # rows of which a selection looks at the best first
CACHED_ROWS = 2048  # on CPU, rows multiplied at a time: XLA copies them first, and so few stay in the cache
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


def zeros(queries: Float[Array, "queries dim"], rows: Rows) -> Float[Array, " queries"]:
    """A zero for every query that inside shard_map varies over the devices like what is computed of both."""
    return jnp.where(queries[:, 0] > rows.squared_norms[0], jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def _keys_at(keys: Float[Array, "rows dim"], start: Int[Array, ""], size: int) -> Float[Array, "block dim"]:
    # XLA would convert keys of another type all at once, before the loop over blocks, and hold them twice: the first barrier
    # ties them to the block, the second keeps what becomes of a slice behind it.
    start, keys = jax.lax.optimization_barrier((start, keys))
    return jax.lax.optimization_barrier(jax.lax.dynamic_slice_in_dim(keys, start, size))


def in_groups(rows: int) -> int:
    """Rows of the groups that so many rows begin."""
    return -(-rows // GROUP_ROWS) * GROUP_ROWS


def block_size(total: int, block_rows: int) -> int:
    """Rows of each of the equal blocks that hold `total` rows and come nearest to `block_rows`; whole groups if possible.

    Equal, so that the last one wastes nothing; the nearest, so that memory hardly depends on the total.
    """
    even = -(-total // max(1, round(total / block_rows)))
    rounded = in_groups(even)
    return rounded if rounded <= min(1.5 * block_rows, total) else even


def over_blocks(
    step: Callable[[_Carry, Rows, Int[Array, ""]], _Carry], carry: _Carry, rows: Rows, block_rows: int
) -> _Carry:
    """Folds a function over blocks of rows.

    All blocks have one shape, because products of another shape may differ in their last bits, and equal keys would no
    longer be equally near. The last block may begin among rows that were seen before, which are padding in it.

    Args:
        step: from a carry, a block and its first row's number to a carry.
        carry: the first one.
        rows: all.
        block_rows: in a block, about.
    """
    total = len(rows.values)
    size = block_size(total, block_rows)

    def fold(i: Int[Array, ""], carry: _Carry) -> _Carry:
        start = jnp.minimum(i * size, total - size)
        norms, values = (jax.lax.dynamic_slice_in_dim(array, start, size) for array in (rows.squared_norms, rows.values))
        norms = jnp.where(start + jnp.arange(size) < i * size, PADDING, norms)
        return step(carry, Rows(_keys_at(rows.keys, start, size), norms, values), start)

    return jax.lax.fori_loop(0, -(-total // size), fold, carry)


def _multiplied_at_once(block_rows: int) -> int:
    return min(CACHED_ROWS, block_rows) if jax.default_backend() == "cpu" else block_rows


def block_scores(
    queries: Float[Array, "queries dim"], rows: Rows, block: Rows, start: Int[Array, ""], metric: str, block_rows: int
) -> Float[Array, "queries columns"]:
    """Rank scores of a block of rows; where it is multiplied in parts, its last group is filled up with the lowest of all.

    Args:
        queries: vectors like the keys.
        rows: all.
        block: of `over_blocks`, whose keys are not asked for: they would be copied whole.
        start: its first row's number.
        metric: cosine, ip or l2.
        block_rows: keys that are multiplied at a time, about; fewer on CPU.
    """
    size = len(block.values)
    part = block_size(size, _multiplied_at_once(block_rows))

    def of_part(offset: Int[Array, ""] | int) -> Float[Array, "queries part"]:
        # Without the barrier XLA may take a root for every product instead of one for every key.
        norms = jax.lax.dynamic_slice_in_dim(block.squared_norms, offset, part)
        terms = jax.lax.optimization_barrier(key_terms(norms[None], metric))
        return rank_scores(products(queries, _keys_at(rows.keys, start + offset, part)), terms)

    if part == size:
        return of_part(0)

    def put(i: Int[Array, ""], scores: Float[Array, "queries columns"]) -> Float[Array, "queries columns"]:
        offset = jnp.minimum(i * part, size - part)  # the last part may repeat some of what the one before has put
        return jax.lax.dynamic_update_slice_in_dim(scores, of_part(offset), offset, axis=1)

    # To look at the groups of scores that end within one, XLA would copy all but those of the last.
    empty = jnp.broadcast_to(zeros(queries, rows)[:, None] - jnp.inf, (len(queries), in_groups(size)))
    return jax.lax.fori_loop(0, -(-size // part), put, empty)
