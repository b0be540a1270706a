"""Exact search for the nearest keys, a block of rows at a time: no [queries, rows] matrix, unless `all_at_once`.

One pass over the rows keeps the k best so far, or for `k: all` the running sum of exp(similarity / temperature) by value, or
both. Similarities are float32-accurate and "larger is nearer" for every metric; equal ones are ordered by the lower row id.
Only arrays are known here: no tokens, no tag names, no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from knn_ner_jax.knn import topk
from knn_ner_jax.knn.similarity import METRICS, PRECISION, query_scale, similarities, squared_norms
from knn_ner_jax.knn.topk import Neighbours, Rows, block_scores, fold_blocks, varying_zeros
from knn_ner_jax.sharding import AXIS

BLOCK_ROWS = 32768
FEW_QUERIES = 16  # with which all keys are read in about the time of one
_EVERYWHERE = PartitionSpec()
_ROWS_DIVIDED = Rows(PartitionSpec(AXIS), PartitionSpec(AXIS), PartitionSpec(AXIS))  # type: ignore[arg-type]
_LOWEST = float(jnp.finfo(jnp.float32).min)


class OnlineSoftmax(NamedTuple):
    """Sum over the rows so far of exp((similarity - the largest so far) / temperature), by value.

    The algorithm of Milakov and Gimelshein (2018, arXiv 1805.02867), with one sum for each value instead of one for all.

    Attributes:
        maximum: the largest rank score so far.
        by_value: one table for each temperature.
    """

    maximum: Float[Array, " queries"]
    by_value: Float[Array, "temperatures queries values"]


class SearchResult(NamedTuple):
    """The outcome of one search; None where the arguments did not request it.

    Attributes:
        neighbours: the k nearest rows.
        knn_probs: p_kNN over all rows: softmax of similarity / temperature, summed by value; one table for each temperature.
        top1_prob: the part of `knn_probs` that the nearest row alone has.
    """

    neighbours: Neighbours | None
    knn_probs: Float[Array, "temperatures queries values"] | None
    top1_prob: Float[Array, "temperatures queries 1"] | None = None


def _add_sums(
    sums: OnlineSoftmax,
    scores_qr: Float[Array, "queries columns"],
    values_r: Int[Array, " rows"],
    inverse_temperature: Float[Array, "temperatures queries"],
) -> OnlineSoftmax:
    maximum = jnp.maximum(sums.maximum, scores_qr.max(axis=1))
    # Columns that only fill up the last group stand for no row.
    values_r = jnp.pad(values_r, (0, scores_qr.shape[1] - len(values_r)), constant_values=-1)
    one_hot_rv = jax.nn.one_hot(values_r, sums.by_value.shape[2])

    def at_temperature(table_qv: Array, inverse_q: Array) -> Array:
        weights_qr = jnp.exp((scores_qr - maximum[:, None]) * inverse_q[:, None])
        decay_q = jnp.exp((sums.maximum - maximum) * inverse_q)
        return table_qv * decay_q[:, None] + jnp.matmul(weights_qr, one_hot_rv, precision=PRECISION)

    tables = [at_temperature(*both) for both in zip(sums.by_value, inverse_temperature, strict=True)]
    return OnlineSoftmax(maximum, jnp.stack(tables))


def _search_shard(
    queries: Float[Array, "queries dim"],
    rows: Rows,
    inverse_temperature: Float[Array, "temperatures queries"] | None,
    first_row: Int[Array, ""] | int,
    k: int | None,
    num_values: int,
    metric: str,
    block_rows: int,
    platform: str,
    all_at_once: bool,
) -> tuple[Neighbours | None, OnlineSoftmax | None]:
    """Search the rows of one device; neighbours and sums are by rank scores, not yet by similarities."""
    zero_q = varying_zeros(queries, rows)
    # A CPU copies the rows of each block, which takes longer than to multiply them by few queries.
    is_whole = all_at_once and len(queries) <= FEW_QUERIES and rows.keys.dtype == jnp.float32
    block_rows = len(rows.values) if is_whole else block_rows
    rows_at_once = min(topk.CACHED_ROWS, block_rows) if platform == "cpu" and not is_whole else block_rows
    neighbours = None if k is None else topk.init_topk(zero_q, k)
    sums = None
    if inverse_temperature is not None:
        table = jnp.broadcast_to(zero_q[None, :, None], (*inverse_temperature.shape, num_values))
        sums = OnlineSoftmax(zero_q + _LOWEST, table)

    def step(
        carry: tuple[Neighbours | None, OnlineSoftmax | None], block: Rows, start: Int[Array, ""]
    ) -> tuple[Neighbours | None, OnlineSoftmax | None]:
        best, sums = carry
        scores_qr = block_scores(queries, rows, block, start, metric, rows_at_once, keys_first=is_whole)
        if best is not None:
            best = topk.keep_best(best, scores_qr, block.values, first_row + start, platform)
        if sums is not None and inverse_temperature is not None:
            sums = _add_sums(sums, scores_qr, block.values, inverse_temperature)
        return best, sums

    # The sums are made of every score, in copies for each temperature.
    rows_selected_from = block_rows
    if k is not None and sums is None:
        rows_selected_from = topk.rows_at_once(k, len(queries), block_rows, platform)
    multiple = topk.GROUP_ROWS * topk.LANES if platform == "tpu" else topk.GROUP_ROWS
    return fold_blocks(step, (neighbours, sums), rows, rows_selected_from, multiple)


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
    platform: str | None = None,
    all_at_once: bool = False,
) -> SearchResult:
    """Search all rows once, exactly: for the k nearest, for p_kNN over all rows, or for both.

    Args:
        queries: vectors like the keys.
        rows: what is searched; divided over `mesh` unless that is None.
        k: neighbours of each query, at most the rows; where rows that are no padding run out, padding follows, whose
            similarity is no number that exceeds another. None for no neighbours.
        temperatures: of p_kNN over all rows, each > 0; None to do without.
        num_values: values that rows can have, the width of p_kNN.
        metric: cosine, ip or l2.
        block_rows: rows compared at a time; memory grows with queries x block_rows; for many neighbours, without
            temperatures, up to eight times as many scores are held, up to 268 MB (`topk.rows_at_once`).
        mesh: devices, each of which searches its own rows before the candidates are merged; None for one device.
        platform: kind of the devices: `cpu`, `gpu` or `tpu`, which decides how much is done at a time; None: JAX's default.
        all_at_once: whether up to `FEW_QUERIES` queries are compared with all rows together: faster on CPU, but it holds
            [queries, rows] scores.
    """
    platform = platform or jax.default_backend()
    shard = partial(_search_shard, num_values=num_values, metric=metric, block_rows=block_rows)
    shard = partial(shard, platform=platform, all_at_once=all_at_once)
    inverse_temperature = None if temperatures is None else _inverse_temperatures(queries, temperatures, metric)
    if mesh is None or mesh.size == 1:
        neighbours, sums = shard(queries, rows, inverse_temperature, 0, k)
        return _result(neighbours, sums, queries, metric)
    rows_per_shard = rows.keys.shape[0] // mesh.size

    def on_device(
        queries: Array, rows: Rows, inverse_temperature: Array | None
    ) -> tuple[Neighbours | None, OnlineSoftmax | None]:
        first_row = jax.lax.axis_index(AXIS) * rows_per_shard
        neighbours, sums = shard(
            queries, rows, inverse_temperature, first_row, None if k is None else min(k, rows_per_shard)
        )
        return neighbours, None if sums is None or inverse_temperature is None else _merge_sums(sums, inverse_temperature)

    candidates, sums = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(_EVERYWHERE, _ROWS_DIVIDED, _EVERYWHERE),
        out_specs=(PartitionSpec(None, AXIS), _EVERYWHERE),
    )(queries, rows, inverse_temperature)
    neighbours = None if candidates is None or k is None else topk.best_candidates(candidates, k, platform)
    return _result(neighbours, sums, queries, metric)


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """What a search is compiled for; hashable, a static argument.

    Attributes:
        k: neighbours for each query; `all` lets every row vote.
        num_labels: values that rows can have.
        metric: cosine, ip or l2.
        block_rows: rows compared at a time.
        mesh: devices the rows are divided over; None for one.
        platform: kind of the devices: `cpu`, `gpu` or `tpu`.
        small_batches: whether few words are looked up at a time, and soon, as where one sentence is tagged.
    """

    k: int | Literal["all"]
    num_labels: int
    metric: str = "cosine"
    block_rows: int = BLOCK_ROWS
    mesh: Mesh | None = None
    platform: str = field(default_factory=jax.default_backend)
    small_batches: bool = False

    def search(
        self,
        queries: Float[Array, "queries dim"],
        rows: Rows,
        k: int | None,
        temperatures: Float[Array, " temperatures"] | None = None,
    ) -> SearchResult:
        """Search some rows for the k nearest, for p_kNN over all of them, or for both (see `search`)."""
        return search(
            queries,
            rows,
            k=k,
            temperatures=temperatures,
            num_values=self.num_labels,
            metric=self.metric,
            block_rows=self.block_rows,
            mesh=self.mesh,
            platform=self.platform,
            all_at_once=self.small_batches and self.platform == "cpu",
        )


def _result(neighbours: Neighbours | None, sums: OnlineSoftmax | None, queries: Array, metric: str) -> SearchResult:
    if neighbours is not None:
        neighbours = neighbours._replace(similarities=similarities(neighbours.similarities, queries, metric))
    if sums is None:
        return SearchResult(neighbours, None)
    total = sums.by_value.sum(axis=2, keepdims=True)  # the nearest row has added exp(0) = 1 to it
    return SearchResult(neighbours, sums.by_value / total, top1_prob=1.0 / total)


def _inverse_temperatures(queries: Array, temperatures: Array, metric: str) -> Float[Array, "temperatures queries"]:
    scale_q = query_scale(queries, metric)
    # All rank scores of a zero vector are 0 but those of padding, which are -inf, and -inf times 0 would be NaN.
    return jnp.where(scale_q > 0, scale_q, 1.0)[None, :] / temperatures[:, None]


def _merge_sums(sums: OnlineSoftmax, inverse_temperature: Float[Array, "temperatures queries"]) -> OnlineSoftmax:
    maximum = jax.lax.pmax(sums.maximum, AXIS)
    decay_tq = jnp.exp((sums.maximum - maximum)[None, :] * inverse_temperature)
    return OnlineSoftmax(maximum, jax.lax.psum(sums.by_value * decay_tq[:, :, None], AXIS))


def _as_array(vectors: Array | np.ndarray | Sequence[Sequence[float]]) -> Array | np.ndarray:
    return vectors if isinstance(vectors, Array | np.ndarray) else np.asarray(vectors, np.float32)


def _as_stored(keys: Array | np.ndarray) -> Array:
    keys = jnp.asarray(keys)
    return keys if keys.dtype == jnp.bfloat16 else keys.astype(jnp.float32)


@partial(jax.jit, static_argnames=("k", "metric", "block_rows"))
def _top_k(queries: Array, keys: Array, k: int, metric: str, block_rows: int) -> tuple[Array, Array]:
    rows = Rows(keys, squared_norms(keys), jnp.zeros(keys.shape[0], jnp.int32))
    neighbours = search(queries, rows, k=k, metric=metric, block_rows=block_rows).neighbours
    assert neighbours is not None
    return neighbours.similarities, neighbours.ids


def top_k(
    queries: Float[Array | np.ndarray, "queries dim"] | Sequence[Sequence[float]],
    keys: Float[Array | np.ndarray, "rows dim"] | Sequence[Sequence[float]],
    k: int,
    *,
    metric: str = "cosine",
    block_rows: int = BLOCK_ROWS,
) -> tuple[Float[Array, "queries k"], Int[Array, "queries k"]]:
    """Return the k nearest keys of every query: exact, float32-accurate, jitted.

    >>> import numpy as np
    >>> queries, keys = np.float32([[2, 0]]), np.float32([[0, 1], [1, 0], [3, 4]])
    >>> similarities, ids = top_k(queries, keys, k=2)
    >>> print(ids, similarities)
    [[1 2]] [[1.  0.6]]

    Args:
        queries: vectors to look up, an array or lists of numbers; finite.
        keys: vectors to look among, likewise; keys in bfloat16 are searched as they are.
        k: neighbours for each query, 1 <= k <= rows.
        metric: `cosine`, `ip` (inner product) or `l2` (minus the squared Euclidean distance).
        block_rows: keys compared at a time; peak memory beyond the keys is about 4 x block_rows x (queries + dim) bytes,
            on CPU 4 x block_rows x queries and a copy of some 2,000 keys; for k above block_rows / 192 the scores of up to
            eight blocks more (`topk.rows_at_once`).

    Returns:
        Similarities, larger is nearer, nearest first, and the row ids; equal similarities by the lower id.

    Raises:
        ValueError: k outside 1..rows, block_rows below 1, another metric, or queries and keys of different widths.
    """
    queries, keys = _as_array(queries), _as_array(keys)
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"expected queries [Q, D] and keys [N, D], got {list(queries.shape)} and {list(keys.shape)}")
    if not 1 <= k <= keys.shape[0]:
        raise ValueError(f"k: expected 1 to {keys.shape[0]} (the rows), got {k}")
    if block_rows < 1:
        raise ValueError(f"block_rows: expected at least 1, got {block_rows}")
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    return _top_k(jnp.asarray(queries, jnp.float32), _as_stored(keys), k, metric, block_rows)
