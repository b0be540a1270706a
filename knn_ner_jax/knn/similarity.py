"""Similarity of two vectors: cosine, inner product or minus the squared distance, float32-accurate on every device."""

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
    """Return a bound on how far two computations of one similarity may lie apart, relative to its largest terms.

    An inner product of `width` numbers summed in float32, in any order, is within (width + 8) * 2^-24 of the exact one, and
    within twice that where sums are truncated. The bound is twice that again, because two computations may err to either
    side. In practice errors cancel, and most of the bound is left for vectors that are themselves rounded otherwise: the
    hidden states of a word differ in their last bits between batches, devices and processors. The cosine of two vectors
    moves by no more than these differ, relative to their lengths; for states of pretrained encoders, whitened ones included,
    that is several times less than the bound.

    >>> summation_error(384) == 392 / 2**22
    True
    """
    return (width + 8) * 2.0**-22


class KeyTerms(NamedTuple):
    """The terms by which a key is ranked among the keys of one query: product * scale - offset.

    Attributes:
        scale: 1 / |key| for cosine.
        offset: |key|^2 for l2; infinite for padding.
    """

    scale: Float[Array, "*rows"]
    offset: Float[Array, "*rows"]


def squared_norms(vectors: Float[Array, "rows dim"]) -> Float[Array, " rows"]:
    """Return |vector|^2 of every row, in float32."""
    vectors = vectors.astype(jnp.float32)
    return jnp.sum(vectors * vectors, axis=-1)


def inverse_norms(squares: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Return 1 / |vector| from |vector|^2; 0 for zero vectors and padding."""
    # Where the square underflows, the vector counts as zero.
    return jnp.where(squares > 0, 1.0 / jnp.sqrt(jnp.maximum(squares, _SMALLEST_SQUARE)), 0.0)


def key_terms(norms: Float[Array, "*rows"], metric: str) -> KeyTerms:
    """Return the terms of keys from their squared norms, `PADDING` where a row is none."""
    scale = {"cosine": inverse_norms(norms), "ip": jnp.ones_like(norms), "l2": jnp.full_like(norms, 2.0)}[metric]
    return KeyTerms(scale, jnp.where(norms == PADDING, jnp.inf, norms if metric == "l2" else 0.0))


def products(queries: Float[Array, "queries dim"], keys: Float[Array, "rows dim"]) -> Float[Array, "queries rows"]:
    """Return the inner products of all pairs; keys may be stored as bfloat16."""
    keys = keys.astype(jnp.float32)
    return jnp.einsum("qd,rd->qr", queries, keys, precision=PRECISION, preferred_element_type=jnp.float32)


def rank_scores(inner: Float[Array, "queries rows"], terms: KeyTerms) -> Float[Array, "queries rows"]:
    """Return the scores that rank the keys of one query: the similarities without the terms that all its keys share.

    Args:
        inner: products of queries and keys.
        terms: those of the keys, [1, rows], or of other keys for each query, [queries, rows].
    """
    # Scaled after the product, not before: integer products are exact, so equal integer keys stay equal.
    scores = inner * terms.scale - terms.offset
    # top_k ranks +0.0 above -0.0, which would break ties by sign instead of by row.
    return jnp.where(scores == 0, 0.0, scores)


def query_scale(queries: Float[Array, "queries dim"], metric: str) -> Float[Array, " queries"]:
    """Return the factor that makes similarities of rank scores."""
    norms = squared_norms(queries)
    return inverse_norms(norms) if metric == "cosine" else jnp.ones_like(norms)


def similarities(
    scores: Float[Array, "queries keys"], queries: Float[Array, "queries dim"], metric: str
) -> Float[Array, "queries keys"]:
    """Return cosine, inner product or minus the squared Euclidean distance from rank scores; larger is nearer.

    A zero vector has cosine 0 to anything.

    >>> queries, keys = jnp.float32([[3, 4]]), jnp.float32([[6, 8], [4, -3]])
    >>> terms = key_terms(squared_norms(keys)[None], "l2")
    >>> similarities(rank_scores(products(queries, keys), terms), queries, "l2").tolist()
    [[-25.0, -50.0]]
    """
    result = scores * query_scale(queries, metric)[:, None]
    if metric == "l2":
        result = result - squared_norms(queries)[:, None]
    return jnp.where(result == 0, 0.0, result)
