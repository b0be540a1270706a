"""Exact nearest keys, a block of rows at a time: never a [queries, rows] matrix.

Knows arrays only. One pass over the rows keeps the best k so far, or for `k: all` the running sum of exp(similarity /
temperature) per value, or both. Similarities are float32-accurate and "larger is nearer" for every metric; equal ones are
ordered by the lower row id.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from knn_ner_jax.knn.similarity import METRICS, PRECISION, similarity, squared_norms
from knn_ner_jax.mesh import AXIS

BLOCK_ROWS = 16384
GROUP_COLUMNS = 32  # of a block's scores, of which only the maximum is looked at first
_LOWEST = float(jnp.finfo(jnp.float32).min)

_Carry = TypeVar("_Carry")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """What is searched; rows from `num_rows` on are padding.

    Attributes:
        keys: the vectors compared with a query.
        squared_norms: of the keys.
        values: what a row stands for, 0 <= value < num_values.
        num_rows: how many rows count; an array, so that another number compiles nothing.
    """

    keys: Float[Array, "rows dim"]
    squared_norms: Float[Array, " rows"]
    values: Int[Array, " rows"]
    num_rows: Int[Array, ""]


class Neighbours(NamedTuple):
    """The k nearest rows of every query, nearest first."""

    similarities: Float[Array, "queries k"]
    ids: Int[Array, "queries k"]
    values: Int[Array, "queries k"]


class Sums(NamedTuple):
    """Running log-sum-exp: sum over rows of exp((similarity - maximum) / temperature), by value.

    Attributes:
        maximum: the largest similarity so far.
        by_value: one table for each temperature.
    """

    maximum: Float[Array, " queries"]
    by_value: Float[Array, "temperatures queries values"]


class Found(NamedTuple):
    """What a search was asked for; the rest is None.

    Attributes:
        neighbours: the k nearest rows.
        shares: softmax of similarity / temperature over all rows, summed by value; one table for each temperature.
    """

    neighbours: Neighbours | None
    shares: Float[Array, "temperatures queries values"] | None


def _over_blocks(
    step: Callable[[_Carry, Rows, Int[Array, ""] | int], _Carry], carry: _Carry, rows: Rows, block_rows: int
) -> _Carry:
    total = rows.keys.shape[0]
    block_rows = min(block_rows, total)
    whole_blocks = total // block_rows

    def at(start: Int[Array, ""] | int, size: int) -> Rows:
        keys, norms, values = (
            jax.lax.dynamic_slice_in_dim(array, start, size) for array in (rows.keys, rows.squared_norms, rows.values)
        )
        return Rows(keys, norms, values, rows.num_rows)

    carry = jax.lax.fori_loop(
        0, whole_blocks, lambda i, carry: step(carry, at(i * block_rows, block_rows), i * block_rows), carry
    )
    remainder = total - whole_blocks * block_rows
    return step(carry, at(total - remainder, remainder), total - remainder) if remainder else carry


def _best(candidates: Neighbours, k: int) -> Neighbours:
    # Candidates stand in the order of their ids wherever they tie, and top_k prefers the earlier of equals.
    similarities, order = jax.lax.top_k(candidates.similarities, k)
    return Neighbours(
        similarities, jnp.take_along_axis(candidates.ids, order, 1), jnp.take_along_axis(candidates.values, order, 1)
    )


def _promising(scores_qr: Array, k: int) -> tuple[Array, Callable[[Array], Array]]:
    """Scores among which a block's k largest are, the earlier of equals included, and what tells their columns in the block.

    The groups with the k largest maxima, the earlier of equals, hold them: each of those k groups has something that is
    larger than all that stands in a group passed over, or as large and earlier.
    """
    queries, columns = scores_qr.shape
    if columns % GROUP_COLUMNS or 2 * k * GROUP_COLUMNS > columns:  # narrowing would not pay
        return scores_qr, lambda positions: positions
    groups_qgc = scores_qr.reshape(queries, columns // GROUP_COLUMNS, GROUP_COLUMNS)
    chosen_qk = jnp.sort(jax.lax.top_k(groups_qgc.max(axis=2), k)[1], axis=1)  # in the order of the columns
    narrowed = jnp.take_along_axis(groups_qgc, chosen_qk[:, :, None], axis=1).reshape(queries, k * GROUP_COLUMNS)

    def column(positions: Array) -> Array:
        group = jnp.take_along_axis(chosen_qk, positions // GROUP_COLUMNS, axis=1)
        return group * GROUP_COLUMNS + positions % GROUP_COLUMNS

    return narrowed, column


def _keep_best(best: Neighbours, scores_qr: Array, block: Rows, start: Int[Array, ""] | int) -> Neighbours:
    # One selection over the best so far and what the block promises; merging two lists of k would take a second one.
    k = best.ids.shape[1]
    promising, column = _promising(scores_qr, k)
    similarities, positions = jax.lax.top_k(jnp.concatenate([best.similarities, promising], axis=1), k)
    from_best, in_best, in_block = positions < k, jnp.minimum(positions, k - 1), column(jnp.maximum(positions - k, 0))
    ids = jnp.where(from_best, jnp.take_along_axis(best.ids, in_best, 1), start + in_block)
    values = jnp.where(from_best, jnp.take_along_axis(best.values, in_best, 1), block.values[in_block])
    return Neighbours(similarities, ids, values)


def _add_sums(sums: Sums, scores_qr: Array, block: Rows, temperatures: Float[Array, " temperatures"]) -> Sums:
    maximum = jnp.maximum(sums.maximum, scores_qr.max(axis=1))
    one_hot_rv = jax.nn.one_hot(block.values, sums.by_value.shape[2])

    def at_temperature(table_qv: Array, temperature: Array) -> Array:
        weights_qr = jnp.exp((scores_qr - maximum[:, None]) / temperature)
        decay_q = jnp.exp((sums.maximum - maximum) / temperature)
        return table_qv * decay_q[:, None] + jnp.matmul(weights_qr, one_hot_rv, precision=PRECISION)

    tables = [at_temperature(sums.by_value[i], temperatures[i]) for i in range(len(temperatures))]
    return Sums(maximum, jnp.stack(tables))


def _search_shard(
    queries: Float[Array, "queries dim"],
    rows: Rows,
    temperatures: Float[Array, " temperatures"] | None,
    first_row: Int[Array, ""] | int,
    k: int | None,
    num_values: int,
    metric: str,
    block_rows: int,
) -> tuple[Neighbours | None, Sums | None]:
    num_queries = queries.shape[0]
    neighbours = sums = None
    # Derived from the queries so that inside shard_map the carry varies over the devices like what is added to it.
    zero_q = 0.0 * (queries[:, 0] + rows.squared_norms[0])
    if k is not None:
        empty_qk = jnp.broadcast_to(zero_q[:, None], (num_queries, k))
        neighbours = Neighbours(empty_qk - jnp.inf, empty_qk.astype(jnp.int32), empty_qk.astype(jnp.int32))
    if temperatures is not None:
        table = jnp.broadcast_to(zero_q[None, :, None], (len(temperatures), num_queries, num_values))
        sums = Sums(zero_q + _LOWEST, table)

    def step(
        carry: tuple[Neighbours | None, Sums | None], block: Rows, start: Int[Array, ""] | int
    ) -> tuple[Neighbours | None, Sums | None]:
        best, sums = carry
        scores_qr = similarity(queries, block.keys, block.squared_norms, metric)
        ids_r = first_row + start + jnp.arange(block.keys.shape[0])
        scores_qr = jnp.where(ids_r < rows.num_rows, scores_qr, -jnp.inf)
        if best is not None:
            best = _keep_best(best, scores_qr, block, first_row + start)
        if sums is not None and temperatures is not None:
            sums = _add_sums(sums, scores_qr, block, temperatures)
        return best, sums

    return _over_blocks(step, (neighbours, sums), rows, block_rows)


def search(
    queries: Float[Array, "queries dim"],
    rows: Rows,
    *,
    k: int | None = None,
    temperatures: Float[Array, " temperatures"] | None = None,
    num_values: int = 0,
    metric: str = "cosine",
    block_rows: int = BLOCK_ROWS,
    mesh: Mesh | None = None,
) -> Found:
    """One exact pass over the rows, for the k nearest, for the shares of all rows, or for both.

    Args:
        queries: vectors like the keys.
        rows: what is searched; divided over `mesh` where that is given.
        k: neighbours wanted, at most `rows.num_rows`; None for none.
        temperatures: of the shares, each > 0; None for no shares.
        num_values: values that rows can have, for the shares.
        metric: cosine, ip or l2.
        block_rows: rows compared at a time; memory grows with queries x block_rows.
        mesh: searches every device's rows on that device, then merges the candidates.
    """
    shard = partial(_search_shard, num_values=num_values, metric=metric, block_rows=block_rows)
    if mesh is None or mesh.size == 1:
        neighbours, sums = shard(queries, rows, temperatures, 0, k)
        return Found(neighbours, None if sums is None else _shares(sums))
    rows_per_shard = rows.keys.shape[0] // mesh.size

    def on_device(
        queries: Array, rows: Rows, temperatures: Array | None
    ) -> tuple[Neighbours | None, Float[Array, "temperatures queries values"] | None]:
        first_row = jax.lax.axis_index(AXIS) * rows_per_shard
        neighbours, sums = shard(queries, rows, temperatures, first_row, None if k is None else min(k, rows_per_shard))
        return neighbours, None if sums is None or temperatures is None else _merge_sums(sums, temperatures)

    by_row, everywhere = PartitionSpec(AXIS), PartitionSpec()
    candidates, shares = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, Rows(by_row, by_row, by_row, everywhere), everywhere),  # type: ignore[arg-type]
        out_specs=(PartitionSpec(None, AXIS), everywhere),
    )(queries, rows, temperatures)
    return Found(None if candidates is None or k is None else _best(candidates, k), shares)


def _shares(sums: Sums) -> Float[Array, "temperatures queries values"]:
    return sums.by_value / sums.by_value.sum(axis=2, keepdims=True)


def _merge_sums(sums: Sums, temperatures: Float[Array, " temperatures"]) -> Float[Array, "temperatures queries values"]:
    maximum = jax.lax.pmax(sums.maximum, AXIS)
    decay_tq = jnp.exp((sums.maximum - maximum)[None, :] / temperatures[:, None])
    return _shares(Sums(maximum, jax.lax.psum(sums.by_value * decay_tq[:, :, None], AXIS)))


@partial(jax.jit, static_argnames=("k", "metric", "block_rows"))
def _top_k(queries: Array, keys: Array, k: int, metric: str, block_rows: int) -> tuple[Array, Array]:
    num_rows = keys.shape[0]
    rows = Rows(keys, squared_norms(keys), jnp.zeros(num_rows, jnp.int32), jnp.int32(num_rows))
    found = search(queries, rows, k=k, metric=metric, block_rows=block_rows).neighbours
    return found.similarities, found.ids  # type: ignore[union-attr]


def top_k(
    queries: Float[Array, "queries dim"],
    keys: Float[Array, "rows dim"],
    k: int,
    *,
    metric: str = "cosine",
    block_rows: int = BLOCK_ROWS,
) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """The k nearest keys of every query: exact, float32-accurate, jitted.

    Args:
        queries: what to look up.
        keys: where to look.
        k: neighbours for each query, 1 <= k <= rows.
        metric: `cosine`, `ip` (inner product) or `l2` (minus the squared Euclidean distance).
        block_rows: keys compared at a time; peak memory beyond the keys is about 3 x 4 x queries x block_rows bytes.

    Returns:
        Similarities, larger is nearer, nearest first, and the row ids; equal similarities by the lower id.

    Raises:
        ValueError: k outside 1..rows, block_rows below 1, another metric, or queries and keys of different widths.
    """
    if not 1 <= k <= keys.shape[0]:
        raise ValueError(f"k: expected 1 to {keys.shape[0]} (the rows), got {k}")
    if block_rows < 1:
        raise ValueError(f"block_rows: expected at least 1, got {block_rows}")
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"expected queries [Q, D] and keys [N, D], got {list(queries.shape)} and {list(keys.shape)}")
    return _top_k(jnp.asarray(queries, jnp.float32), jnp.asarray(keys, jnp.float32), k, metric, block_rows)
