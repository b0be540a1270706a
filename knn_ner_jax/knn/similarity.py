"""How near two vectors are: cosine, inner product or minus the squared distance, float32-accurate on every device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

METRICS = ("cosine", "ip", "l2")
# DEFAULT would mean bfloat16 passes on TPU and TF32 on GPU; at temperature 0.001 either changes a vote beyond recognition.
PRECISION = jax.lax.Precision.HIGHEST
PADDING = -1.0  # the squared norm of a row that is none
_SMALLEST_SQUARE = float(jnp.finfo(jnp.float32).tiny)
TRUSTED_SQUARE = 2.0**-80  # |vector|^2 from which on no square that matters has underflowed


def summation_error(width: int) -> float:
    """A bound on the relative error of an inner product summed in float32, however it is summed, truncation included."""
    return (width + 8) * 2.0**-22


class KeyTerms(NamedTuple):
    """What of a key enters its rank among the keys of one query: product * scale - offset.

    Attributes:
        scale: 1 / |key| for cosine.
        offset: |key|^2 for l2; infinite for padding.
    """

    scale: Float[Array, "*rows"]
    offset: Float[Array, "*rows"]


def squared_norms(vectors: Float[Array, "rows dim"]) -> Float[Array, " rows"]:
    """|vector|^2 of every row, in float32."""
    vectors = vectors.astype(jnp.float32)
    return jnp.sum(vectors * vectors, axis=-1)


def inverse_norms(squares: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """1 / |vector| from |vector|^2; 0 for zero vectors and padding."""
    # Where the square underflows, the vector counts as zero.
    return jnp.where(squares > 0, 1.0 / jnp.sqrt(jnp.maximum(squares, _SMALLEST_SQUARE)), 0.0)


def key_terms(norms: Float[Array, "*rows"], metric: str) -> KeyTerms:
    """From the squared norms of the keys."""
    scale = {"cosine": inverse_norms(norms), "ip": jnp.ones_like(norms), "l2": jnp.full_like(norms, 2.0)}[metric]
    return KeyTerms(scale, jnp.where(norms == PADDING, jnp.inf, norms if metric == "l2" else 0.0))


def products(queries: Float[Array, "queries dim"], keys: Float[Array, "rows dim"]) -> Float[Array, "queries rows"]:
    """Inner products, whatever the keys are stored as."""
    keys = keys.astype(jnp.float32)
    return jnp.einsum("qd,rd->qr", queries, keys, precision=PRECISION, preferred_element_type=jnp.float32)


def rank_scores(inner: Float[Array, "queries rows"], terms: KeyTerms) -> Float[Array, "queries rows"]:
    """Products -> what the keys of one query are ranked by: their similarity but for what all of them share.

    Args:
        inner: of queries and keys.
        terms: of the keys, [1, rows], or of other keys for each query, [queries, rows].
    """
    # Scaled after the product, not before: integer products are exact, so equal integer keys stay equal.
    scores = inner * terms.scale - terms.offset
    # top_k ranks +0.0 above -0.0, which would break ties by sign instead of by row.
    return jnp.where(scores == 0, 0.0, scores)


def query_scale(queries: Float[Array, "queries dim"], metric: str) -> Float[Array, " queries"]:
    """What rank scores are multiplied by to become similarities."""
    norms = squared_norms(queries)
    return inverse_norms(norms) if metric == "cosine" else jnp.ones_like(norms)


def similarities(
    scores: Float[Array, "queries keys"], queries: Float[Array, "queries dim"], metric: str
) -> Float[Array, "queries keys"]:
    """Rank scores -> cosine, inner product or minus squared Euclidean distance; a zero vector has cosine 0 to anything."""
    result = scores * query_scale(queries, metric)[:, None]
    if metric == "l2":
        result = result - squared_norms(queries)[:, None]
    return jnp.where(result == 0, 0.0, result)
