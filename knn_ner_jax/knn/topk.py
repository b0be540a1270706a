"""Blocks of rows, their scores, and the k best of them so far.

The rows of a search are taken a block at a time (`fold_blocks`), scored (`block_scores`), and the best are kept
(`keep_best`), without sorting the block: a group of rows whose best score rules it out is not looked at again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from knn_ner_jax.knn.similarity import PADDING, key_terms, products, rank_scores

GROUP_ROWS = 16  # rows of which a selection looks at the best first
LANES = 128  # of a TPU: so many groups, or a multiple, lie side by side as they are
CACHED_ROWS = 2048  # on CPU, rows multiplied at a time: XLA copies them first, and so few stay in the cache
_Carry = TypeVar("_Carry")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """The rows of a search.

    Attributes:
        keys: the vectors compared with a query.
        squared_norms: of the keys; `similarity.PADDING` where a row is none.
        values: what a row stands for, 0 <= value < num_values.
    """

    keys: Float[Array, "rows dim"]
    squared_norms: Float[Array, " rows"]
    values: Int[Array, " rows"]


def varying_zeros(queries: Float[Array, "queries dim"], rows: Rows) -> Float[Array, " queries"]:
    """Return a zero for every query that inside shard_map varies over the devices like what is computed of both."""
    return jnp.where(queries[:, 0] > rows.squared_norms[0], jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def _keys_at(keys: Float[Array, "rows dim"], start: Int[Array, ""], size: int) -> Float[Array, "block dim"]:
    # XLA would convert keys of another type all at once, before the loop over blocks, and hold them twice: the first barrier
    # ties them to the block, the second keeps what becomes of a slice behind it.
    start, keys = jax.lax.optimization_barrier((start, keys))
    return jax.lax.optimization_barrier(jax.lax.dynamic_slice_in_dim(keys, start, size))


def in_groups(rows: int) -> int:
    """Return a number of rows rounded up to whole groups.

    >>> in_groups(17)
    32
    """
    return -(-rows // GROUP_ROWS) * GROUP_ROWS


def block_size(total: int, block_rows: int, multiple: int = GROUP_ROWS) -> int:
    """Return the size of the equal blocks that hold `total` rows and come nearest to `block_rows`; whole groups if possible.

    Equal, so that the last one wastes nothing; the nearest, so that memory hardly depends on the total.

    >>> block_size(100_000, 32_768)
    33344
    """
    even = -(-total // max(1, round(total / block_rows)))
    rounded = -(-even // multiple) * multiple
    return rounded if rounded <= min(1.5 * block_rows, total) else even


def fold_blocks(
    step: Callable[[_Carry, Rows, Int[Array, ""]], _Carry],
    carry: _Carry,
    rows: Rows,
    block_rows: int,
    multiple: int = GROUP_ROWS,
) -> _Carry:
    """Fold a function over blocks of rows.

    All blocks have one shape, because products of another shape may differ in their last bits, and equal keys would no
    longer be equally near. The last block may begin among rows that were seen before, which are padding in it.

    Args:
        step: from a carry, a block and its first row's number to a carry.
        carry: before the first block.
        rows: all rows.
        block_rows: rows of a block, about.
        multiple: of which the rows of a block are one, where there are enough.

    Returns:
        The carry after the last block.
    """
    total = len(rows.values)
    size = block_size(total, block_rows, multiple)

    def fold(i: Int[Array, ""], carry: _Carry) -> _Carry:
        start = jnp.minimum(i * size, total - size)
        norms, values = (jax.lax.dynamic_slice_in_dim(array, start, size) for array in (rows.squared_norms, rows.values))
        norms = jnp.where(start + jnp.arange(size) < i * size, PADDING, norms)
        return step(carry, Rows(_keys_at(rows.keys, start, size), norms, values), start)

    return jax.lax.fori_loop(0, -(-total // size), fold, carry)


def block_scores(
    queries: Float[Array, "queries dim"],
    rows: Rows,
    block: Rows,
    start: Int[Array, ""],
    metric: str,
    rows_at_once: int,
    keys_first: bool = False,
) -> Float[Array, "queries columns"]:
    """Return the rank scores of a block of rows; multiplied in parts, its last group is filled up with -infinity.

    All rows as one part are not copied.

    Args:
        queries: vectors like the keys.
        rows: all rows.
        block: a block of `fold_blocks`; its keys are read from `rows`, because they would be copied whole.
        start: its first row's number.
        metric: cosine, ip or l2.
        rows_at_once: keys that are multiplied at a time, about.
        keys_first: whether the keys stand first in the product, which is faster on CPU for few queries.
    """
    size = len(block.values)
    part = block_size(size, rows_at_once)

    def of_part(offset: Int[Array, ""] | int) -> Float[Array, "queries part"]:
        # Without the barrier XLA may take a root for every product instead of one for every key.
        norms = jax.lax.dynamic_slice_in_dim(block.squared_norms, offset, part)
        terms = jax.lax.optimization_barrier(key_terms(norms[None], metric))
        keys = _keys_at(rows.keys, start + offset, part)
        if not keys_first:
            return rank_scores(products(queries, keys), terms)
        # Without the barrier XLA exchanges them again.
        return rank_scores(jax.lax.optimization_barrier(products(keys, queries)).T, terms)

    if part == size:
        return of_part(0)

    def put(i: Int[Array, ""], scores: Float[Array, "queries columns"]) -> Float[Array, "queries columns"]:
        offset = jnp.minimum(i * part, size - part)  # the last part may repeat some of what the one before has put
        return jax.lax.dynamic_update_slice_in_dim(scores, of_part(offset), offset, axis=1)

    # To look at the groups of scores that end within one, XLA would copy all but those of the last.
    empty = jnp.broadcast_to(varying_zeros(queries, rows)[:, None] - jnp.inf, (len(queries), in_groups(size)))
    return jax.lax.fori_loop(0, -(-size // part), put, empty)


_GROUPS_A_NEIGHBOUR = 12  # from which to select on CPU
_FEWEST_GROUPS_A_NEIGHBOUR = 4  # elsewhere, where what is taken of the groups costs more than to select
_BLOCKS_AT_ONCE = 8
_SCORES_AT_ONCE = 2**26  # 268 MB
_PARTS, _SELECTED_A_PART = 16, 2**14  # of a selection on CPU


class Neighbours(NamedTuple):
    """The k nearest rows of every query, nearest first; while a search runs, by rank scores instead of similarities."""

    similarities: Float[Array, "queries k"]
    ids: Int[Array, "queries k"]
    values: Int[Array, "queries k"]


def init_topk(zero_q: Float[Array, " queries"], k: int) -> Neighbours:
    """Return k neighbours that any other displaces, made of zeros that vary over the devices like those to come."""
    empty_qk = jnp.broadcast_to(zero_q[:, None], (len(zero_q), k))
    return Neighbours(empty_qk - jnp.inf, empty_qk.astype(jnp.int32), empty_qk.astype(jnp.int32))


def rows_at_once(k: int, queries: int, block_rows: int, platform: str) -> int:
    """Return from how many rows the k best are selected together: `block_rows`, or more for many neighbours and few queries.

    Selecting costs hardly less in a block of few groups for each neighbour than in one of many.
    """
    room = _SCORES_AT_ONCE * 2 // (3 * max(queries, 1))  # blocks may become half as large again, see `block_size`
    groups = _GROUPS_A_NEIGHBOUR if platform == "cpu" else _FEWEST_GROUPS_A_NEIGHBOUR
    return max(block_rows, min(groups * GROUP_ROWS * k, _BLOCKS_AT_ONCE * block_rows, room))


def _top_k(
    scores: Real[Array, "queries any"], k: int, platform: str
) -> tuple[Real[Array, "queries k"], Int[Array, "queries k"]]:
    """Return the k largest scores and their positions; of equals the earlier."""
    # On CPU a selection keeps one core busy, however many queries it is for, but several run side by side.
    parts = k * len(scores) // _SELECTED_A_PART if platform == "cpu" else 1
    parts_of_queries = jnp.array_split(scores, max(1, min(parts, _PARTS, len(scores))))
    largest, positions = zip(*(jax.lax.top_k(part, k) for part in parts_of_queries), strict=True)
    return jnp.concatenate(largest), jnp.concatenate(positions)


def best_candidates(candidates: Neighbours, k: int, platform: str) -> Neighbours:
    """Return the k best of candidates that stand in the order of their ids wherever they tie."""
    similarities, order = _top_k(candidates.similarities, k, platform)
    return Neighbours(
        similarities, jnp.take_along_axis(candidates.ids, order, 1), jnp.take_along_axis(candidates.values, order, 1)
    )


def _above(floor: Float[Array, "queries 1"], scores: Float[Array, "queries any"]) -> Float[Array, "queries any"]:
    return jnp.where(scores > floor, scores, -jnp.inf)


def _best_groups(
    scores_qsg: Float[Array, "queries size groups"], maxima_qg: Float[Array, "queries groups"], k: int, platform: str
) -> tuple[Float[Array, "queries 1"], Int[Array, "queries k"]]:
    """Return the least of the k largest maxima, and their groups in order; of equals those with the earlier row."""
    # The least of the maxima, not the last: to take the last, XLA would sort all of them.
    maxima_qk, groups_qk = _top_k(maxima_qg, k, platform)
    least = maxima_qk.min(axis=1, keepdims=True)

    def by_first_row() -> Int[Array, "queries k"]:
        is_max = scores_qsg == maxima_qg[:, None]
        groups = maxima_qg.shape[1]
        first_rows = is_max.argmax(axis=1) * groups + jnp.arange(groups)[None]
        earlier = jnp.where(maxima_qg == least, -first_rows, jnp.iinfo(first_rows.dtype).min)
        return _top_k(jnp.where(maxima_qg > least, 1, earlier), k, platform)[1]

    are_tied = ((maxima_qg >= least).sum(axis=1, keepdims=True) > k) & (least > -jnp.inf)
    return least, jnp.sort(jax.lax.cond(are_tied.any(), by_first_row, lambda: groups_qk), axis=1)


def _take_groups(
    scores_qsg: Float[Array, "queries size groups"], groups_qk: Int[Array, "queries k"], platform: str
) -> Float[Array, "queries size k"]:
    if platform != "tpu":
        return jnp.take_along_axis(scores_qsg, groups_qk[:, None], axis=2)
    # A TPU would fetch one score after another, which takes a hundred times as long as the search. So they are multiplied
    # by 0 and 1, a byte of each at a time: of those bfloat16 products are exact, whatever the scores.
    bits = jax.lax.bitcast_convert_type(scores_qsg, jnp.uint32)
    bytes_qbg = jnp.concatenate([(bits >> shift) & 255 for shift in (0, 8, 16, 24)], axis=1).astype(jnp.bfloat16)
    one_hot_qkg = jax.nn.one_hot(groups_qk, scores_qsg.shape[2], dtype=jnp.bfloat16)
    taken = jnp.einsum("qbg,qkg->qbk", bytes_qbg, one_hot_qkg, preferred_element_type=jnp.float32)
    parts = jnp.split(taken.astype(jnp.uint32), 4, axis=1)
    return jax.lax.bitcast_convert_type(parts[0] | parts[1] << 8 | parts[2] << 16 | parts[3] << 24, jnp.float32)


def select_candidates(
    scores: Float[Array, "queries rows"], floor: Float[Array, "queries 1"], k: int, platform: str
) -> tuple[Float[Array, "queries candidates"], Callable[[Int[Array, "queries any"]], Int[Array, "queries any"]]]:
    """Return scores among which a block's k largest above a floor are, and a function from their positions to rows.

    The groups with the k largest maxima, of equals those that have it in the earlier row, hold them: each of those k groups
    has something that is larger than all that stands in a group passed over, or as large and earlier. A group is every
    `groups`-th row, so that maxima are taken of whole vectors. Where the k groups would be most of the block, all scores are
    returned, those below the floor too.
    """
    queries, rows = scores.shape
    groups = rows // GROUP_ROWS
    in_groups, in_best_groups = groups * GROUP_ROWS, k * GROUP_ROWS
    if 2 * k > groups:  # narrowing would not pay
        return scores, lambda positions: positions
    scores_qsg = scores[:, :in_groups].reshape(queries, GROUP_ROWS, groups)
    # Selections pass fast over what is lowest of all; all else that they meet before the best they sort in and out again.
    least, groups_qk = _best_groups(scores_qsg, _above(floor, scores_qsg.max(axis=1)), k, platform)
    candidates = _take_groups(scores_qsg, groups_qk, platform).reshape(queries, in_best_groups)  # in the order of the rows
    candidates = jnp.concatenate([candidates, scores[:, in_groups:]], axis=1)
    candidates = jnp.where(candidates < least, -jnp.inf, _above(floor, candidates))

    def row(positions: Int[Array, "queries any"]) -> Int[Array, "queries any"]:
        in_group, of_group = jnp.divmod(jnp.minimum(positions, in_best_groups - 1), k)
        in_order = in_group * groups + jnp.take_along_axis(groups_qk, of_group, axis=1)
        return jnp.where(positions < in_best_groups, in_order, positions - in_best_groups + in_groups)

    return candidates, row


def keep_best(
    best: Neighbours,
    scores: Float[Array, "queries columns"],
    values: Int[Array, " rows"],
    first_id: Int[Array, ""] | int,
    platform: str,
) -> Neighbours:
    """Return the k best of those so far and of a block's rows, whose ids begin at `first_id`."""
    # One selection over the best so far and what the block promises; merging two lists of k would take a second one.
    k = best.ids.shape[1]
    candidates, row = select_candidates(scores, best.similarities[:, -1:], k, platform)
    similarities, positions = _top_k(jnp.concatenate([best.similarities, candidates], axis=1), k, platform)
    is_kept, in_best, in_block = positions < k, jnp.minimum(positions, k - 1), row(jnp.maximum(positions - k, 0))
    ids = jnp.where(is_kept, jnp.take_along_axis(best.ids, in_best, 1), first_id + in_block)
    return Neighbours(similarities, ids, jnp.where(is_kept, jnp.take_along_axis(best.values, in_best, 1), values[in_block]))
