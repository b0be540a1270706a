"""The k best of a block of scores, without sorting the block: what a group's best score rules out is not looked at again."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from knn_ner_jax.knn.rows import GROUP_ROWS

_ROWS_A_NEIGHBOUR = 12 * GROUP_ROWS  # from which to select
_BLOCKS_AT_ONCE = 8
_SCORES_AT_ONCE = 2**26  # 268 MB
_PARTS, _SELECTED_A_PART = 16, 2**14  # of a selection on CPU


class Neighbours(NamedTuple):
    """The k nearest rows of every query, nearest first; while a search runs, by rank scores instead of similarities."""

    similarities: Float[Array, "queries k"]
    ids: Int[Array, "queries k"]
    values: Int[Array, "queries k"]


def nothing_yet(zero_q: Float[Array, " queries"], k: int) -> Neighbours:
    """k neighbours that any other displaces; made of zeros that vary over the devices like what will be found."""
    empty_qk = jnp.broadcast_to(zero_q[:, None], (len(zero_q), k))
    return Neighbours(empty_qk - jnp.inf, empty_qk.astype(jnp.int32), empty_qk.astype(jnp.int32))


def rows_at_once(k: int, queries: int, block_rows: int) -> int:
    """Rows from whose scores the k best are selected together: `block_rows`, or more for many neighbours and few queries.

    Selecting costs hardly less in a block of few groups for each neighbour than in one of many.
    """
    room = _SCORES_AT_ONCE * 2 // (3 * max(queries, 1))  # blocks may become half as large again, see `rows.block_size`
    return max(block_rows, min(_ROWS_A_NEIGHBOUR * k, _BLOCKS_AT_ONCE * block_rows, room))


def _top_k(scores: Float[Array, "queries any"], k: int) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """The k largest scores and where they stand; of equals the earlier."""
    # On CPU a selection keeps one core busy, however many queries it is for, but several run side by side.
    parts = k * len(scores) // _SELECTED_A_PART if jax.default_backend() == "cpu" else 1
    divided = jnp.array_split(scores, max(1, min(parts, _PARTS, len(scores))))
    largest, positions = zip(*(jax.lax.top_k(part, k) for part in divided), strict=True)
    return jnp.concatenate(largest), jnp.concatenate(positions)


def best(candidates: Neighbours, k: int) -> Neighbours:
    """The k best of candidates that stand in the order of their ids wherever they tie."""
    similarities, order = _top_k(candidates.similarities, k)
    return Neighbours(
        similarities, jnp.take_along_axis(candidates.ids, order, 1), jnp.take_along_axis(candidates.values, order, 1)
    )


def _above(floor: Float[Array, "queries 1"], scores: Float[Array, "queries any"]) -> Float[Array, "queries any"]:
    return jnp.where(scores > floor, scores, -jnp.inf)


def _groups(scores: Float[Array, "queries rows"], chosen: Int[Array, "queries k"]) -> Float[Array, "queries k group"]:
    def group(scores_r: Float[Array, " rows"], number: Int[Array, ""]) -> Float[Array, " group"]:
        return jax.lax.dynamic_slice_in_dim(scores_r, number * GROUP_ROWS, GROUP_ROWS)

    return jax.vmap(jax.vmap(group, (None, 0)))(scores, chosen)


def promising(
    scores: Float[Array, "queries rows"], floor: Float[Array, "queries 1"], k: int
) -> tuple[Float[Array, "queries candidates"], Callable[[Int[Array, "queries any"]], Int[Array, "queries any"]]]:
    """Scores among which a block's k largest above a floor are, the earlier of equals included, and what tells their rows.

    The groups with the k largest maxima, the earlier of equals, hold them: each of those k groups has something that is
    larger than all that stands in a group passed over, or as large and earlier. Where they would be most of the block, all
    scores are returned, those below the floor too.
    """
    queries, rows = scores.shape
    groups = rows // GROUP_ROWS
    in_groups, in_chosen = groups * GROUP_ROWS, k * GROUP_ROWS
    if 2 * k > groups:  # narrowing would not pay
        return scores, lambda positions: positions
    # Selections pass fast over what is lowest of all; all else that they meet before the best they sort in and out again.
    maxima_qg = _above(floor, scores[:, :in_groups].reshape(queries, groups, GROUP_ROWS).max(axis=2))
    maxima_qk, chosen_qk = _top_k(maxima_qg, k)
    chosen_qk = jnp.sort(chosen_qk, axis=1)  # in the order of the rows
    narrowed = _groups(scores, chosen_qk).reshape(queries, in_chosen)
    # The least of the maxima, not the last: to take the last, XLA would sort all of them.
    least = maxima_qk.min(axis=1, keepdims=True)
    narrowed = jnp.concatenate([narrowed, scores[:, in_groups:]], axis=1)
    narrowed = jnp.where(narrowed < least, -jnp.inf, _above(floor, narrowed))

    def row(positions: Int[Array, "queries any"]) -> Int[Array, "queries any"]:
        of_group, in_group = jnp.divmod(jnp.minimum(positions, in_chosen - 1), GROUP_ROWS)
        in_order = jnp.take_along_axis(chosen_qk, of_group, axis=1) * GROUP_ROWS + in_group
        return jnp.where(positions < in_chosen, in_order, positions - in_chosen + in_groups)

    return narrowed, row


def keep_best(
    found: Neighbours, scores: Float[Array, "queries rows"], values: Int[Array, " rows"], first_id: Int[Array, ""] | int
) -> Neighbours:
    """The best of what was found in earlier rows and of a block's rows, which have the ids from `first_id` on."""
    # One selection over the best so far and what the block promises; merging two lists of k would take a second one.
    k = found.ids.shape[1]
    candidates, row = promising(scores, found.similarities[:, -1:], k)
    similarities, positions = _top_k(jnp.concatenate([found.similarities, candidates], axis=1), k)
    from_found, in_found, in_block = positions < k, jnp.minimum(positions, k - 1), row(jnp.maximum(positions - k, 0))
    ids = jnp.where(from_found, jnp.take_along_axis(found.ids, in_found, 1), first_id + in_block)
    return Neighbours(
        similarities, ids, jnp.where(from_found, jnp.take_along_axis(found.values, in_found, 1), values[in_block])
    )
