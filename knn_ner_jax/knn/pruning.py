"""How similar a row can be that was not looked at.

From the mean key of the commonest tag a direction points to the mean key of all others, and along it the two lie well apart.
Rows may be left out because they lie beyond a limit along it. A query on this side of the limit is far from all of them: the
angle between two vectors is at least the difference of their angles with any third.

A few rows that settle most words: where nearly all rows have one tag, most of them need not be looked at.

Let `usual` be the commonest tag, O nearly everywhere. Two panels of rows are copied out of a datastore:

    scouts   every 50th row of the usual tag, and the strays: rows of other tags that lie nearest to its side
    border   every 50th row of the usual tag, those that lie nearest to the other tags, and all rows of these

What a vote among a panel proves, whatever temperature and weight:

1. It can only underrate the usual tag: were a row of that tag that is left out among the k nearest, it would take the place
   of one that is farther away. So where no row of another tag that is left out could be among the k nearest, the true
   p_kNN(usual) is no smaller and every other p_kNN(y) no larger. A word that is the usual tag by such a vote is so by that
   of all rows.
2. Where no row of any tag that is left out could be among the k nearest, the vote is the true one.

A row could not if it is less similar than the k-th of the panel, and `most_similar` bounds
how similar it can be. With `k: all` every row counts; then the border alone is searched, which leaves out rows of the usual
tag alone, for the first proof.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.knn.combine import ROUNDING_SLACK, interpolate, knn_probabilities, margin
from knn_ner_jax.knn.similarity import (
    PADDING,
    PRECISION,
    TRUSTED_SQUARE,
    inverse_norms,
    products,
    squared_norms,
    summation_error,
)
from knn_ner_jax.knn.topk import Neighbours, Rows, fold_blocks
from knn_ner_jax.sharding import AXIS, make_mesh

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


def separating_direction(rows: Rows, usual: Int[Array, ""]) -> Float[Array, " dim"]:
    """From the mean of the unit keys of the usual tag to that of the others; of all devices, called on each."""

    def add(sums: tuple[Array, Array], block: Rows, _: Array) -> tuple[Array, Array]:
        scale, is_usual = inverse_norms(block.squared_norms), block.values == usual
        sides_sr = jnp.stack([jnp.where(is_usual, 0.0, scale), jnp.where(is_usual, scale, 0.0)])
        keys = block.keys.astype(jnp.float32)
        return sums[0] + jnp.matmul(sides_sr, keys, precision=PRECISION), sums[1] + (sides_sr > 0).sum(axis=1)

    nothing = jax.lax.pcast((jnp.zeros((2, rows.keys.shape[1])), jnp.zeros(2, jnp.int32)), AXIS, to="varying")
    sums, counts = jax.lax.psum(fold_blocks(add, nothing, rows, _BLOCK_ROWS), AXIS)
    others, usuals = sums / jnp.maximum(counts, 1)[:, None]
    apart = others - usuals
    # Not a product of matrices, which would be less accurate on TPU and GPU: the bounds need a vector of length 1.
    return apart * inverse_norms(jnp.sum(apart * apart))


def direction_cosines(rows: Rows, direction: Float[Array, " dim"]) -> Float[Array, " rows"]:
    """Of the keys of one device with a direction; 0 for zero vectors and padding."""

    def put(inner: Array, block: Rows, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(inner, products(direction[None], block.keys)[0], (start,))

    nothing = jax.lax.pcast(jnp.zeros(len(rows.values)), AXIS, to="varying")
    return fold_blocks(put, nothing, rows, _BLOCK_ROWS) * inverse_norms(rows.squared_norms)


def cosine_limit(cosines: Float[Array, " rows"], among: Bool[Array, " rows"], share: float) -> Float[Array, ""]:
    """Return the largest edge of a bin that at least this share of the cosines of all devices reach; called on each."""
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
    """Return the largest similarity to a key whose cosine with the query is at most so large."""
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
    """Return what no similarity to a row left out exceeds, of the usual tag and of another; -infinity where there is none.

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


UNSURE = -1  # the label of a word that some rows do not settle
SAMPLE_EVERY = 50  # of the rows with the usual tag, one in so many is in both panels
STRAYS = 0.05  # share of the rows of other tags that are scouts
BORDER = 0.1  # share of the rows with the usual tag that are in the border because of where they lie

_EVERYWHERE, _BY_ROW = PartitionSpec(), PartitionSpec(AXIS)
_DIVIDED = Rows(_BY_ROW, _BY_ROW, _BY_ROW)  # type: ignore[arg-type]


class Panel(NamedTuple):
    """Some of the rows of a datastore.

    Attributes:
        rows: divided over the devices like all; padding may stand at the end of every device's share.
        usual: the commonest tag.
        left_out: where the other rows lie.
    """

    rows: Rows
    usual: Int[Array, ""]
    left_out: LeftOut


def all_rows(rows: Rows) -> Panel:
    """Return a panel that leaves nothing out: what its vote does not settle hangs on rounding."""
    longest = jnp.sqrt(jnp.maximum(rows.squared_norms.max(), 0.0))
    nobody, direction = jnp.float32(jnp.inf), jnp.zeros(rows.keys.shape[1])
    return Panel(rows, jnp.int32(0), LeftOut(direction, -nobody, nobody, jnp.float32(0), longest))


class Panels(NamedTuple):
    """The scouts, who are few, and the border, which settles most of what they do not."""

    scouts: Panel
    border: Panel


@partial(jax.jit, static_argnames="num_values")
def _usual(rows: Rows, num_values: int) -> Int[Array, ""]:
    """Return the commonest tag."""
    values = jnp.where(rows.squared_norms != PADDING, rows.values, num_values)
    return jnp.bincount(values, length=num_values + 1)[:num_values].argmax()


class _Division(NamedTuple):
    """Which rows of a device belong to a panel, how many those are on the device that has most, and what is left out."""

    chosen: Bool[Array, " rows"]
    size: Int[Array, ""]
    left_out: LeftOut


def _divide(rows: Rows, usual: Int[Array, ""]) -> tuple[_Division, _Division]:
    """Scouts and border among the rows of one device; which rows those are hardly depends on the number of devices."""
    real, is_usual = rows.squared_norms != PADDING, rows.values == usual
    # The bounds do not speak of vectors that are zero or nearly so.
    bounded = rows.squared_norms >= TRUSTED_SQUARE
    direction = separating_direction(rows, usual)
    cosines = direction_cosines(rows, direction)
    first = jax.lax.axis_index(AXIS) * len(rows.values)
    sampled = (first + jnp.arange(len(rows.values))) % SAMPLE_EVERY == 0
    usual_below = cosine_limit(cosines, real & is_usual, BORDER)
    others_above = -cosine_limit(-cosines, real & ~is_usual, STRAYS)
    norms = jnp.sqrt(rows.squared_norms)
    shortest = jax.lax.pmin(jnp.where(bounded, norms, jnp.inf).min(), AXIS)
    longest = jax.lax.pmax(jnp.where(real, norms, 0.0).max(), AXIS)

    def division(left_out: Array, usual_below: Array, others_above: Array) -> _Division:
        chosen = real & ~(left_out & bounded & ~(is_usual & sampled))
        where = LeftOut(direction, usual_below, others_above, shortest, longest)
        return _Division(chosen, jax.lax.pmax(chosen.sum(), AXIS), where)

    scouts = division(is_usual | (cosines > others_above), jnp.ones(()), others_above)
    border = division(is_usual & (cosines < usual_below), usual_below, jnp.full((), jnp.inf))
    return scouts, border


def choose_panels(rows: Rows, num_values: int, mesh: Mesh | None, at_most: float = 0.5) -> Panels | None:
    """Copy the panels out of the rows; every device chooses among its own.

    Args:
        rows: of a datastore.
        num_values: tags there are.
        mesh: devices the rows are divided over; None for one.
        at_most: share of the rows beyond which asking the border first does not pay.

    Returns:
        The panels, or None where the border would be too large.
    """
    mesh = make_mesh(1) if mesh is None else mesh
    on_devices = partial(jax.shard_map, mesh=mesh)
    usual = _usual(rows, num_values)
    division = _Division(_BY_ROW, _EVERYWHERE, LeftOut(*[_EVERYWHERE] * len(LeftOut._fields)))  # type: ignore[arg-type]
    divide = on_devices(_divide, in_specs=(_DIVIDED, _EVERYWHERE), out_specs=(division, division))
    divisions = jax.jit(divide)(rows, usual)
    if int(divisions[1].size) * mesh.size > at_most * len(rows.values):
        return None

    def pick(rows: Rows, chosen: Bool[Array, " rows"], size: int) -> Rows:
        places = jnp.nonzero(chosen, size=size, fill_value=len(rows.values))[0]
        keys, values = (array.at[places].get(mode="fill", fill_value=0) for array in (rows.keys, rows.values))
        return Rows(keys, rows.squared_norms.at[places].get(mode="fill", fill_value=PADDING), values)

    def panel(division: _Division) -> Panel:
        picked = partial(pick, size=int(division.size))
        copy = jax.jit(on_devices(picked, in_specs=(_DIVIDED, _BY_ROW), out_specs=_DIVIDED))
        return Panel(copy(rows, division.chosen), usual, division.left_out)

    return Panels(*map(panel, divisions))


def _rounding(queries: Float[Array, "words dim"], longest: Float[Array, ""], metric: str) -> Float[Array, " words"]:
    """How far a similarity may lie from the true one; two searches know the same norms, and differ by no more than this."""
    norms = jnp.sqrt(squared_norms(queries))
    scale = {"cosine": jnp.ones_like(norms), "ip": norms * longest, "l2": (norms + longest) ** 2}[metric]
    return summation_error(queries.shape[1]) * scale


class Vote(NamedTuple):
    """What a panel says.

    Attributes:
        p_knn: its vote.
        doubt: how much of a tag's share another search might give to others, for rounding alone.
        underrates: the usual tag and no other, for no row of another that is left out could vote.
        is_true: no row that is left out could vote.
    """

    p_knn: Float[Array, "words labels"]
    doubt: Float[Array, " words"]
    underrates: Bool[Array, " words"]
    is_true: Bool[Array, " words"]


def vote(
    near: Neighbours,
    k: int,
    panel: Panel,
    queries: Float[Array, "words dim"],
    temperature: Float[Array, ""],
    num_labels: int,
    metric: str,
) -> Vote:
    """Return the vote of the k nearest of a panel.

    Args:
        near: the k + 1 nearest, or all where there are fewer.
        k: how many vote.
        panel: who they are.
        queries: what was looked up.
        temperature: of the vote.
        num_labels: width of the result.
        metric: cosine, ip or l2.
    """
    similarities, values = near.similarities[:, :k], near.values[:, :k]
    p_knn = knn_probabilities(similarities, values, num_labels, temperature)
    # An error d in every similarity multiplies every weight of a vote by at most exp(2 d / temperature).
    error = _rounding(queries, panel.left_out.longest, metric)
    doubt = jnp.expm1(2 * error / temperature)
    kth = similarities[:, k - 1] if similarities.shape[1] == k else jnp.full_like(error, -jnp.inf)
    if near.similarities.shape[1] > k:
        # Where the k-th and the next are as near but for rounding, another search may let the next one vote instead.
        weights = jax.nn.softmax((similarities - similarities[:, :1]) / temperature, axis=1)
        lost = jnp.where(similarities <= (kth + 2 * error)[:, None], weights, 0.0).sum(axis=1)
        doubt = doubt + jnp.where(kth - near.similarities[:, k] <= 2 * error, 2 * lost, 0.0)
    # Twice what could lift a row that is left out above the k-th: it is more similar than it should be, the k-th less.
    usual, others = (
        (largest == -jnp.inf) | (largest + 4 * error < kth) for largest in most_similar(queries, panel.left_out, metric)
    )
    return Vote(p_knn, doubt, others, usual & others)


def vote_of_all(
    shares: Float[Array, "words labels"], border: Panel, queries: Array, temperature: Float[Array, ""], metric: str
) -> Vote:
    """Return the vote of all rows of the border, or of all there are, for `k: all`."""
    doubt = jnp.expm1(2 * _rounding(queries, border.left_out.longest, metric) / temperature)
    nothing_is_left_out = border.left_out.usual_below == -jnp.inf
    return Vote(shares, doubt, jnp.ones(len(queries), bool), jnp.full(len(queries), nothing_is_left_out))


def settle(
    p_ner: Float[Array, "words labels"], said: Vote, panel: Panel, knn_weight: Float[Array, ""]
) -> Int[Array, " words"]:
    """Return the label where no row left out and no rounding can change it, `UNSURE` elsewhere.

    Args:
        p_ner: the tagger's probabilities.
        said: the vote of a panel.
        panel: who voted.
        knn_weight: share of the vote.
    """
    mixed = interpolate(p_ner, said.p_knn, knn_weight)
    label = mixed.argmax(axis=1)
    proved = said.is_true | (said.underrates & (label == panel.usual))
    return jnp.where(proved & (margin(mixed) > ROUNDING_SLACK + knn_weight * said.doubt), label, UNSURE)
