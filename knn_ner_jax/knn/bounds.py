"""How similar a row can be that was not looked at.

From the mean key of the commonest tag a direction points to the mean key of all others, and along it the two lie well apart.
Rows may be left out because they lie beyond a limit along it. A query on this side of the limit is far from all of them: the
angle between two vectors is at least the difference of their angles with any third.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.knn.rows import Rows, over_blocks
from knn_ner_jax.knn.similarity import PRECISION, TRUSTED_SQUARE, inverse_norms, products, squared_norms, summation_error
from knn_ner_jax.mesh import AXIS

_BLOCK_ROWS = 32768
_BINS = 2048  # limits are edges of bins


class LeftOut(NamedTuple):
    """Where the rows lie that a search leaves out; none of them is a zero vector or nearly so.

    Attributes:
        direction: a vector of length 1.
        usual_below: cosine with it that no row of the usual tag that is left out exceeds; -infinity: none is left out.
        others_above: cosine with it that no row of another tag that is left out falls below; infinity: none is left out.
        shortest: length of any key but those.
        longest: length of any key.
    """

    direction: Float[Array, " dim"]
    usual_below: Float[Array, ""]
    others_above: Float[Array, ""]
    shortest: Float[Array, ""]
    longest: Float[Array, ""]


def direction(rows: Rows, usual: Int[Array, ""]) -> Float[Array, " dim"]:
    """From the mean of the unit keys of the usual tag to that of the others; of all devices, called on each."""

    def add(sums: tuple[Array, Array], block: Rows, _: Array) -> tuple[Array, Array]:
        scale, is_usual = inverse_norms(block.squared_norms), block.values == usual
        sides_sr = jnp.stack([jnp.where(is_usual, 0.0, scale), jnp.where(is_usual, scale, 0.0)])
        keys = block.keys.astype(jnp.float32)
        return sums[0] + jnp.matmul(sides_sr, keys, precision=PRECISION), sums[1] + (sides_sr > 0).sum(axis=1)

    nothing = jax.lax.pcast((jnp.zeros((2, rows.keys.shape[1])), jnp.zeros(2, jnp.int32)), AXIS, to="varying")
    sums, counts = jax.lax.psum(over_blocks(add, nothing, rows, _BLOCK_ROWS), AXIS)
    others, usuals = sums / jnp.maximum(counts, 1)[:, None]
    apart = others - usuals
    # Not a product of matrices, which would be less accurate on TPU and GPU: the bounds need a vector of length 1.
    return apart * inverse_norms(jnp.sum(apart * apart))


def cosines(rows: Rows, direction: Float[Array, " dim"]) -> Float[Array, " rows"]:
    """Of the keys of one device with a direction; 0 for zero vectors and padding."""

    def put(inner: Array, block: Rows, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(inner, products(direction[None], block.keys)[0], (start,))

    nothing = jax.lax.pcast(jnp.zeros(len(rows.values)), AXIS, to="varying")
    return over_blocks(put, nothing, rows, _BLOCK_ROWS) * inverse_norms(rows.squared_norms)


def limit(cosines: Float[Array, " rows"], among: Bool[Array, " rows"], share: float) -> Float[Array, ""]:
    """A cosine that at least this share of some rows reaches, the largest edge of a bin; of all devices, called on each."""
    bins = jnp.clip(((cosines + 1) / 2 * _BINS).astype(jnp.int32), 0, _BINS - 1)
    counts = jax.lax.psum(jnp.bincount(jnp.where(among, bins, _BINS), length=_BINS + 1)[:_BINS], AXIS)
    from_here_on = counts[::-1].cumsum()[::-1]
    number = (from_here_on >= share * counts.sum()).sum() - 1
    return 2.0 * number / _BINS - 1.0


def _largest_cosine(cosine: Float[Array, " queries"], below: Float[Array, ""], error: float) -> Float[Array, " queries"]:
    """Of a query with any vector whose cosine with a direction is at most `below`, rounding included.

    Args:
        cosine: of the query with that direction.
        below: -infinity: there is no such vector.
        error: of the cosines.
    """
    theirs = jnp.clip(below + error, -1.0, 1.0)
    ours = jnp.clip(cosine - error, -1.0, 1.0)
    # The cosine of the difference of two angles. What is added under the roots is more than rounding takes away.
    apart = ours * theirs + jnp.sqrt((1 - ours**2 + error) * (1 - theirs**2 + error)) + error
    return jnp.where(below == -jnp.inf, -jnp.inf, jnp.where(ours <= theirs, 1.0, apart))


def _most_similar(
    cosine: Float[Array, " queries"], norms: Float[Array, " queries"], left_out: LeftOut, metric: str
) -> Float[Array, " queries"]:
    """The largest similarity to a key whose cosine with the query is at most so large."""
    if metric == "cosine":
        return cosine
    if metric == "ip":
        largest = norms * jnp.where(cosine > 0, left_out.longest, left_out.shortest) * cosine
    else:
        nearest = jnp.clip(norms * cosine, left_out.shortest, left_out.longest)
        largest = 2 * norms * nearest * cosine - norms**2 - nearest**2
    return jnp.where(cosine == -jnp.inf, -jnp.inf, largest)


def most_similar(
    queries: Float[Array, "queries dim"], left_out: LeftOut, metric: str
) -> tuple[Float[Array, " queries"], Float[Array, " queries"]]:
    """What the similarity to a row that is left out cannot exceed: of the usual tag, of another; -infinity: there is none.

    Infinite for a query that is zero or nearly so. The cosine is bounded with all rounding; what follows rounds by less than
    a similarity itself may be wrong.

    Args:
        queries: what is looked up.
        left_out: where the others lie.
        metric: cosine, ip or l2.
    """
    squares = squared_norms(queries)
    inner = jnp.einsum("qd,d->q", queries, left_out.direction, precision=PRECISION)
    cosine, error = inner * inverse_norms(squares), summation_error(queries.shape[1])
    usual = _largest_cosine(cosine, left_out.usual_below, error)
    others = _largest_cosine(-cosine, -left_out.others_above, error)
    norms = jnp.sqrt(squares)

    def bound(largest_cosine: Array) -> Array:
        known = (squares >= TRUSTED_SQUARE) | (largest_cosine == -jnp.inf)
        return jnp.where(known, _most_similar(largest_cosine, norms, left_out, metric), jnp.inf)

    return bound(usual), bound(others)
