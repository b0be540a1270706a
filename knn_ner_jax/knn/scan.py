"""A quick look at all rows in bfloat16, several candidates for each neighbour wanted, and a proof that none is missing.

Accelerators multiply bfloat16 numbers many times faster than float32 ones. The candidates are scored again in float32.
Rounding to bfloat16 moves a score by no more than a bound; where the k-th best candidate exceeds the first row that is no
candidate by more than that, nothing was missed, and the neighbours are those of a search in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from knn_ner_jax.knn import topk
from knn_ner_jax.knn.similarity import key_terms, rank_scores, squared_norms, summation_error
from knn_ner_jax.knn.topk import Neighbours, Rows, fold_blocks, varying_zeros

CANDIDATES = 4  # for each neighbour wanted
RESCORED_BYTES = 2**26  # of the candidates' keys that are gathered together
_UNIT = 2.0**-8  # rounding to bfloat16, which has 8 bits, moves a vector by at most this share of its length


class Scanned(NamedTuple):
    """What a shard's scan says.

    Attributes:
        neighbours: the k best candidates by float32 rank scores.
        ceiling: rank score that no row of the shard that was no candidate exceeds.
    """

    neighbours: Neighbours
    ceiling: Float[Array, " queries"]


def _rounding(queries: Float[Array, "queries dim"], rows: Rows, metric: str) -> Float[Array, " queries"]:
    """How far a rank score in bfloat16 may lie from the true one."""
    # A conversion to bfloat16 and back may be compiled to nothing.
    rounded = jax.lax.reduce_precision(queries, exponent_bits=8, mantissa_bits=7)
    norms, moved = jnp.sqrt(squared_norms(queries)), jnp.sqrt(squared_norms(queries - rounded))
    of_keys = 0.0 if rows.keys.dtype == jnp.bfloat16 else _UNIT
    summation = summation_error(queries.shape[1])  # here and where candidates are scored again
    # |q' k' - q k| <= |q' - q| |k'| + |q| |k' - k|, for each unit of |k|
    relative = moved * (1 + _UNIT) + norms * (of_keys + summation)
    largest = jnp.sqrt(jnp.maximum(rows.squared_norms.max(), 0.0))
    if metric == "cosine":
        return relative
    return relative * largest * (2.0 if metric == "l2" else 1.0) + (largest**2 * 2.0**-22 if metric == "l2" else 0.0)


def _rescored(
    found: Neighbours, queries: Float[Array, "queries dim"], rows: Rows, first_row: Int[Array, ""] | int, metric: str
) -> Neighbours:
    order = jnp.argsort(found.ids, axis=1)  # so that equals end in the order of their ids
    found = Neighbours(*(jnp.take_along_axis(x, order, axis=1) for x in found))
    places = found.ids - first_row
    at_once = max(1, RESCORED_BYTES // (places.shape[1] * queries.shape[1] * 4))

    def products(one: tuple[Float[Array, " dim"], Int[Array, " candidates"]]) -> Float[Array, " candidates"]:
        # Summed row by row: a matrix product may sum two copies of one key in two orders.
        return (one[0][None] * rows.keys[one[1]].astype(jnp.float32)).sum(axis=-1)

    inner = jax.lax.map(products, (queries, places), batch_size=at_once)
    scores = rank_scores(inner, key_terms(rows.squared_norms[places], metric))
    return found._replace(similarities=jnp.where(found.similarities == -jnp.inf, -jnp.inf, scores))


def scan_shard(
    queries: Float[Array, "queries dim"],
    rows: Rows,
    first_row: Int[Array, ""] | int,
    k: int,
    metric: str,
    block_rows: int,
) -> Scanned:
    """Scan the rows of one device.

    Args:
        queries: vectors like the keys.
        rows: of this device.
        first_row: id of the first.
        k: neighbours wanted, at most the rows.
        metric: cosine, ip or l2.
        block_rows: rows compared at a time.
    """
    num_rows = rows.keys.shape[0]
    wide = min(CANDIDATES * k, num_rows)
    rounded = queries.astype(jnp.bfloat16)

    def step(found: Neighbours, block: Rows, start: Int[Array, ""]) -> Neighbours:
        inner = jnp.einsum("qd,rd->qr", rounded, block.keys.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
        terms = jax.lax.optimization_barrier(key_terms(block.squared_norms[None], metric))
        return topk.keep_best(found, rank_scores(inner, terms), block.values, first_row + start)

    # Not `topk.rows_at_once`, which goes by what selections cost on a CPU: candidates are searched for on accelerators.
    found = fold_blocks(step, topk.init_topk(varying_zeros(queries, rows), wide), rows, block_rows)
    last = found.similarities[:, -1]
    ceiling = jnp.full_like(last, -jnp.inf) if wide == num_rows else last + _rounding(queries, rows, metric)
    return Scanned(topk.best_candidates(_rescored(found, queries, rows, first_row, metric), k), ceiling)
