"""A few rows that settle most words: where nearly all rows have one tag, most of them need not be looked at.

Let `usual` be the commonest tag, O nearly everywhere. Two panels of rows are copied out of a datastore:

    scouts   every 50th row of the usual tag, and the strays: rows of other tags that lie nearest to its side
    border   every 50th row of the usual tag, those that lie nearest to the other tags, and all rows of these

What a vote among a panel proves, whatever temperature and weight:

1. It can only underrate the usual tag: were a row of that tag that is left out among the k nearest, it would take the place
   of one that is farther away. So where no row of another tag that is left out could be among the k nearest, the true
   p_kNN(usual) is no smaller and every other p_kNN(y) no larger. A word that is the usual tag by such a vote is so by that
   of all rows.
2. Where no row of any tag that is left out could be among the k nearest, the vote is the true one.

A row could not if it is less similar than the k-th of the panel, and `bounds` says how similar it can be. With `k: all`
every row counts; then the border alone is asked, which leaves out rows of the usual tag alone, for the first proof.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.knn import bounds
from knn_ner_jax.knn.bounds import LeftOut
from knn_ner_jax.knn.rows import Rows
from knn_ner_jax.knn.selection import Neighbours
from knn_ner_jax.knn.similarity import PADDING, TRUSTED_SQUARE, squared_norms, summation_error
from knn_ner_jax.knn.vote import DECIDED_MARGIN, interpolate, knn_probabilities
from knn_ner_jax.knn.words import UNSURE
from knn_ner_jax.mesh import AXIS, make_mesh

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


class Panels(NamedTuple):
    """The scouts, who are few, and the border, which settles most of what they do not."""

    scouts: Panel
    border: Panel


@partial(jax.jit, static_argnames="num_values")
def _usual(rows: Rows, num_values: int) -> Int[Array, ""]:
    """The commonest tag."""
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
    direction = bounds.direction(rows, usual)
    cosines = bounds.cosines(rows, direction)
    first = jax.lax.axis_index(AXIS) * len(rows.values)
    sampled = (first + jnp.arange(len(rows.values))) % SAMPLE_EVERY == 0
    usual_below = bounds.limit(cosines, real & is_usual, BORDER)
    others_above = -bounds.limit(-cosines, real & ~is_usual, STRAYS)
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


def choose(rows: Rows, num_values: int, mesh: Mesh | None, at_most: float = 0.5) -> Panels | None:
    """Copies the panels out of the rows; every device chooses among its own.

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
    """The vote of the k nearest of a panel.

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
        (largest == -jnp.inf) | (largest + 4 * error < kth)
        for largest in bounds.most_similar(queries, panel.left_out, metric)
    )
    return Vote(p_knn, doubt, others, usual & others)


def vote_of_all(
    shares: Float[Array, "words labels"], border: Panel, queries: Array, temperature: Float[Array, ""], metric: str
) -> Vote:
    """The vote of all rows of the border, for `k: all`."""
    doubt = jnp.expm1(2 * _rounding(queries, border.left_out.longest, metric) / temperature)
    return Vote(shares, doubt, jnp.ones(len(queries), bool), jnp.zeros(len(queries), bool))


def settle(
    p_ner: Float[Array, "words labels"], said: Vote, panel: Panel, knn_weight: Float[Array, ""]
) -> Int[Array, " words"]:
    """The label where it is the same whatever the rows say that are left out, rounding included; `UNSURE` elsewhere.

    Args:
        p_ner: the tagger's probabilities.
        said: the vote of a panel.
        panel: who voted.
        knn_weight: share of the vote.
    """
    mixed = interpolate(p_ner, said.p_knn, knn_weight)
    label = mixed.argmax(axis=1)
    best, second = jax.lax.top_k(mixed, 2)[0].T
    proved = said.is_true | (said.underrates & (label == panel.usual))
    return jnp.where(proved & (best - second > DECIDED_MARGIN + knn_weight * said.doubt), label, UNSURE)
