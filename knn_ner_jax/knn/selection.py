"""The k best of a block of scores, without sorting the block: what a group's best score rules out is not looked at again."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

GROUP_ROWS = 32  # rows of a block of which only the best is looked at first


class Neighbours(NamedTuple):
    """The k nearest rows of every query, nearest first; while a search runs, by rank scores instead of similarities."""

    similarities: Float[Array, "queries k"]
    ids: Int[Array, "queries k"]
    values: Int[Array, "queries k"]


def nothing_yet(zero_q: Float[Array, " queries"], k: int) -> Neighbours:
    """k neighbours that any other displaces; made of zeros that vary over the devices like what will be found."""
    empty_qk = jnp.broadcast_to(zero_q[:, None], (len(zero_q), k))
    return Neighbours(empty_qk - jnp.inf, empty_qk.astype(jnp.int32), empty_qk.astype(jnp.int32))


def best(candidates: Neighbours, k: int) -> Neighbours:
    """The k best of candidates that stand in the order of their ids wherever they tie."""
    similarities, order = jax.lax.top_k(candidates.similarities, k)  # prefers the earlier of equals
    return Neighbours(
        similarities, jnp.take_along_axis(candidates.ids, order, 1), jnp.take_along_axis(candidates.values, order, 1)
    )


def promising(
    scores: Float[Array, "queries rows"], k: int
) -> tuple[Float[Array, "queries candidates"], Callable[[Int[Array, "queries any"]], Int[Array, "queries any"]]]:
    """Scores among which a block's k largest are, the earlier of equals included, and what tells their rows in the block.

    The groups with the k largest maxima, the earlier of equals, hold them: each of those k groups has something that is
    larger than all that stands in a group passed over, or as large and earlier.
    """
    queries, rows = scores.shape
    if rows % GROUP_ROWS or 2 * k * GROUP_ROWS > rows:  # narrowing would not pay
        return scores, lambda positions: positions
    groups_qgr = scores.reshape(queries, rows // GROUP_ROWS, GROUP_ROWS)
    chosen_qk = jnp.sort(jax.lax.top_k(groups_qgr.max(axis=2), k)[1], axis=1)  # in the order of the rows
    narrowed = jnp.take_along_axis(groups_qgr, chosen_qk[:, :, None], axis=1).reshape(queries, k * GROUP_ROWS)

    def row(positions: Int[Array, "queries any"]) -> Int[Array, "queries any"]:
        group = jnp.take_along_axis(chosen_qk, positions // GROUP_ROWS, axis=1)
        return group * GROUP_ROWS + positions % GROUP_ROWS

    return narrowed, row


def keep_best(
    found: Neighbours, scores: Float[Array, "queries rows"], values: Int[Array, " rows"], first_id: Int[Array, ""] | int
) -> Neighbours:
    """The best of what was found in earlier rows and of a block's rows, which have the ids from `first_id` on."""
    # One selection over the best so far and what the block promises; merging two lists of k would take a second one.
    k = found.ids.shape[1]
    candidates, row = promising(scores, k)
    similarities, positions = jax.lax.top_k(jnp.concatenate([found.similarities, candidates], axis=1), k)
    from_found, in_found, in_block = positions < k, jnp.minimum(positions, k - 1), row(jnp.maximum(positions - k, 0))
    ids = jnp.where(from_found, jnp.take_along_axis(found.ids, in_found, 1), first_id + in_block)
    return Neighbours(
        similarities, ids, jnp.where(from_found, jnp.take_along_axis(found.values, in_found, 1), values[in_block])
    )
