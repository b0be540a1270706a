"""The border: the rows that settle the labels of most words, where nearly all rows have one tag.

Let `usual` be the commonest tag, O nearly everywhere. Most of its rows lie far from those of other tags and need not be
looked at: the border leaves them out. It is a copy of all rows of other tags, of the usual rows that lie nearest to these,
and of every 50th of the rest. What a vote among the border proves, whatever temperature and weight:

1. It can only underrate the usual tag: were a row that is left out among the k nearest, it would take the place of one that
   is farther away, and it has the usual tag. So the true p_kNN(usual) is no smaller, and every other p_kNN(y) no larger. A
   word that is the usual tag by such a vote is so by that of all rows.
2. Where no row that is left out could be among the k nearest, because none can be as similar as the k-th of the border, the
   vote is the true one.

How similar a row can be that was not looked at: a direction points from the mean key of the usual tag to that of all
others, and the rows left out lie beyond a limit along it. A query on this side of the limit is far from all of them, because
the angle between two vectors is at least the difference of their angles with any third.

With `k: all` every row counts, and the first proof alone is left.

A word that is the usual tag at two weights is so at all between them: what its probability is above another changes evenly
with the weight. So two weights stand for all that tuning tries (`Sweep`).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.knn.combine import ROUNDING_SLACK, interpolate, knn_probabilities, margin
from knn_ner_jax.knn.search import SearchSpec
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

UNSURE = -1  # the label of a word that the border does not settle
SAMPLE_EVERY = 50  # of the rows with the usual tag, one in so many is in the border wherever it lies
SHARE = 0.05  # of the rows with the usual tag that are in the border because of where they lie
_BLOCK_ROWS = 32768
_BINS = 2048  # limits are edges of bins
_SIZES = 128  # that a border can have
_EVERYWHERE, _BY_ROW = PartitionSpec(), PartitionSpec(AXIS)
_DIVIDED = Rows(_BY_ROW, _BY_ROW, _BY_ROW)  # type: ignore[arg-type]


class LeftOut(NamedTuple):
    """Where the rows lie that are left out; none of them is a zero vector or nearly so.

    Attributes:
        direction: a vector of length 1.
        limit: cosine with it that none of them exceeds; -infinity: none is left out.
        shortest: length of any key but zero vectors.
        longest: length of any key.
    """

    direction: Float[Array, " dim"]
    limit: Float[Array, ""]
    shortest: Float[Array, ""]
    longest: Float[Array, ""]


class Border(NamedTuple):
    """Some of the rows of a datastore, or all.

    Attributes:
        rows: divided over the devices like all; padding may stand at the end of every device's share.
        usual: the commonest tag, which all other rows have.
        left_out: where the other rows lie.
    """

    rows: Rows
    usual: Int[Array, ""]
    left_out: LeftOut


def all_rows(rows: Rows) -> Border:
    """Return a border that leaves nothing out: what its vote does not settle hangs on rounding."""
    longest = jnp.sqrt(jnp.maximum(rows.squared_norms.max(), 0.0))
    nowhere = LeftOut(jnp.zeros(rows.keys.shape[1]), jnp.float32(-jnp.inf), jnp.float32(0), longest)
    return Border(rows, jnp.int32(0), nowhere)


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


class _Division(NamedTuple):
    """Which rows of a device are in the border, how many those are on the device that has most, and what is left out."""

    chosen: Bool[Array, " rows"]
    size: Int[Array, ""]
    usual: Int[Array, ""]
    left_out: LeftOut


def _divide(rows: Rows, num_values: int) -> _Division:
    """Divide the rows of one device; which rows are chosen hardly depends on the number of devices."""
    real = rows.squared_norms != PADDING
    counts = jnp.bincount(jnp.where(real, rows.values, num_values), length=num_values + 1)[:num_values]
    usual = jax.lax.psum(counts, AXIS).argmax()
    is_usual = rows.values == usual
    # The bounds do not speak of vectors that are zero or nearly so.
    bounded = rows.squared_norms >= TRUSTED_SQUARE
    direction = separating_direction(rows, usual)
    cosines = direction_cosines(rows, direction)
    limit = cosine_limit(cosines, real & is_usual, SHARE)
    first = jax.lax.axis_index(AXIS) * len(rows.values)
    sampled = (first + jnp.arange(len(rows.values))) % SAMPLE_EVERY == 0
    chosen = real & ~(is_usual & (cosines < limit) & ~sampled & bounded)
    norms = jnp.sqrt(rows.squared_norms)
    shortest = jax.lax.pmin(jnp.where(bounded, norms, jnp.inf).min(), AXIS)
    longest = jax.lax.pmax(jnp.where(real, norms, 0.0).max(), AXIS)
    return _Division(chosen, jax.lax.pmax(chosen.sum(), AXIS), usual, LeftOut(direction, limit, shortest, longest))


@partial(jax.jit, static_argnames=("num_values", "mesh"))
def _divide_all(rows: Rows, num_values: int, mesh: Mesh) -> _Division:
    left_out = LeftOut(*[_EVERYWHERE] * len(LeftOut._fields))  # type: ignore[arg-type]
    division = _Division(_BY_ROW, _EVERYWHERE, _EVERYWHERE, left_out)  # type: ignore[arg-type]
    divide = partial(_divide, num_values=num_values)
    return jax.shard_map(divide, mesh=mesh, in_specs=(_DIVIDED,), out_specs=division)(rows)


@partial(jax.jit, static_argnames=("size", "mesh"))
def _copy_all(rows: Rows, chosen: Bool[Array, " rows"], size: int, mesh: Mesh) -> Rows:
    def copy(rows: Rows, chosen: Bool[Array, " rows"]) -> Rows:
        places = jnp.nonzero(chosen, size=size, fill_value=len(rows.values))[0]
        keys, values = (array.at[places].get(mode="fill", fill_value=0) for array in (rows.keys, rows.values))
        return Rows(keys, rows.squared_norms.at[places].get(mode="fill", fill_value=PADDING), values)

    return jax.shard_map(copy, mesh=mesh, in_specs=(_DIVIDED, _BY_ROW), out_specs=_DIVIDED)(rows, chosen)


def choose_border(rows: Rows, num_values: int, mesh: Mesh | None, at_most: float = 0.5, num_rows: int = 0) -> Border | None:
    """Copy the border out of the rows; every device chooses among its own.

    Args:
        rows: of a datastore.
        num_values: tags there are.
        mesh: devices the rows are divided over; None for one.
        at_most: share of the rows beyond which asking the border first does not pay.
        num_rows: that the border has at least, padding among them.

    Returns:
        The border, or None where it would be too large. Its size is a multiple of a share of the rows: a few rows more or
        less in the datastore seldom change it, and nothing is compiled for them.
    """
    mesh = make_mesh(1) if mesh is None else mesh
    chosen, devices_most, usual, left_out = _divide_all(rows, num_values, mesh)
    step = -(-len(rows.values) // (_SIZES * mesh.size))
    most = len(rows.values) // mesh.size
    size = min(-(-int(devices_most) // step) * step, most)
    if size * mesh.size > at_most * len(rows.values):
        return None
    size = max(size, min(num_rows // mesh.size, most))
    return Border(_copy_all(rows, chosen, size, mesh), usual, left_out)


def most_similar(queries: Float[Array, "queries dim"], left_out: LeftOut, metric: str) -> Float[Array, " queries"]:
    """Return what no similarity to a row left out exceeds; -infinity where there is none.

    Infinite for a query that is zero or nearly so. The cosine is bounded with all rounding; what follows rounds by less than
    a similarity itself may be wrong.

    Args:
        queries: what is looked up.
        left_out: where the others lie.
        metric: cosine, ip or l2.
    """
    squares, error = squared_norms(queries), summation_error(queries.shape[1])
    norms = jnp.sqrt(squares)
    cosine_q = jnp.einsum("qd,d->q", queries, left_out.direction, precision=PRECISION) * inverse_norms(squares)
    theirs, ours = jnp.clip(left_out.limit + error, -1.0, 1.0), jnp.clip(cosine_q - error, -1.0, 1.0)
    # The cosine of the difference of two angles. What is added under the roots is more than rounding takes away.
    apart = ours * theirs + jnp.sqrt((1 - ours**2 + error) * (1 - theirs**2 + error)) + error
    cosine = jnp.where(ours <= theirs, 1.0, apart)
    if metric == "cosine":
        largest = cosine
    elif metric == "ip":
        largest = norms * jnp.where(cosine > 0, left_out.longest, left_out.shortest) * cosine
    else:
        nearest = jnp.clip(norms * cosine, left_out.shortest, left_out.longest)
        largest = 2 * norms * nearest * cosine - norms**2 - nearest**2
    largest = jnp.where(squares >= TRUSTED_SQUARE, largest, jnp.inf)
    return jnp.where(left_out.limit == -jnp.inf, -jnp.inf, largest)


def _rounding(queries: Float[Array, "words dim"], longest: Float[Array, ""], metric: str) -> Float[Array, " words"]:
    """How far a similarity may lie from the true one; two searches know the same norms, and differ by no more than this."""
    norms = jnp.sqrt(squared_norms(queries))
    scale = {"cosine": jnp.ones_like(norms), "ip": norms * longest, "l2": (norms + longest) ** 2}[metric]
    return summation_error(queries.shape[1]) * scale


class Vote(NamedTuple):
    """What a border says.

    Attributes:
        p_knn: its vote, which underrates the usual tag, if any.
        doubt: how much of a tag's share another search might give to others, for rounding alone.
        is_true: no row that is left out could vote.
    """

    p_knn: Float[Array, "words labels"]
    doubt: Float[Array, " words"]
    is_true: Bool[Array, " words"]


def vote(
    near: Neighbours,
    k: int,
    border: Border,
    queries: Float[Array, "words dim"],
    temperature: Float[Array, ""],
    num_labels: int,
    metric: str,
) -> Vote:
    """Return the vote of the k nearest of a border.

    Args:
        near: the k + 1 nearest, or all where there are fewer.
        k: how many vote.
        border: who they are.
        queries: what was looked up.
        temperature: of the vote.
        num_labels: width of the result.
        metric: cosine, ip or l2.
    """
    similarities, values = near.similarities[:, :k], near.values[:, :k]
    p_knn = knn_probabilities(similarities, values, num_labels, temperature)
    # An error d in every similarity multiplies every weight of a vote by at most exp(2 d / temperature).
    error = _rounding(queries, border.left_out.longest, metric)
    doubt = jnp.expm1(2 * error / temperature)
    kth = similarities[:, k - 1] if similarities.shape[1] == k else jnp.full_like(error, -jnp.inf)
    if near.similarities.shape[1] > k:
        # Where the k-th and the next are as near but for rounding, another search may let the next one vote instead.
        weights = jax.nn.softmax((similarities - similarities[:, :1]) / temperature, axis=1)
        lost = jnp.where(similarities <= (kth + 2 * error)[:, None], weights, 0.0).sum(axis=1)
        doubt = doubt + jnp.where(kth - near.similarities[:, k] <= 2 * error, 2 * lost, 0.0)
    # Twice what could lift a row that is left out above the k-th: it is more similar than it should be, the k-th less.
    largest = most_similar(queries, border.left_out, metric)
    return Vote(p_knn, doubt, (largest == -jnp.inf) | (largest + 4 * error < kth))


def vote_of_all(
    shares: Float[Array, "words labels"], border: Border, queries: Array, temperature: Float[Array, ""], metric: str
) -> Vote:
    """Return the vote of all rows of a border, for `k: all`."""
    doubt = jnp.expm1(2 * _rounding(queries, border.left_out.longest, metric) / temperature)
    return Vote(shares, doubt, jnp.full(len(queries), border.left_out.limit == -jnp.inf))


def ask(border: Border, queries: Float[Array, "words dim"], temperature: Float[Array, ""], spec: SearchSpec) -> Vote:
    """Search a border and return its vote."""
    if spec.k == "all":
        knn_probs = spec.search(queries, border.rows, None, temperature[None]).knn_probs
        assert knn_probs is not None
        return vote_of_all(knn_probs[0], border, queries, temperature, spec.metric)
    k = min(spec.k + 1, len(border.rows.values))  # one more than vote: how far it is behind tells whether it could
    neighbours = spec.search(queries, border.rows, k).neighbours
    assert neighbours is not None
    return vote(neighbours, spec.k, border, queries, temperature, spec.num_labels, spec.metric)


def settle(
    p_ner: Float[Array, "words labels"], said: Vote, usual: Int[Array, ""], knn_weight: Float[Array, ""]
) -> Int[Array, " words"]:
    """Return the label where no row left out and no rounding can change it, `UNSURE` elsewhere.

    Args:
        p_ner: the tagger's probabilities.
        said: the vote of a border.
        usual: the tag of the rows left out.
        knn_weight: share of the vote.
    """
    mixed = interpolate(p_ner, said.p_knn, knn_weight)
    label = mixed.argmax(axis=1)
    proved = said.is_true | (label == usual)
    return jnp.where(proved & (margin(mixed) > ROUNDING_SLACK + knn_weight * said.doubt), label, UNSURE)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sweep:
    """Settings that one search is made for, and the border that may settle a word for all of them.

    Attributes:
        border: some of the rows, more than the largest k.
        temperatures: of the votes.
        knn_weights: the least and the largest.
        every_k: how many vote.
    """

    border: Border
    temperatures: Float[Array, " temperatures"]
    knn_weights: Float[Array, " 2"]
    every_k: tuple[int | Literal["all"], ...] = field(metadata={"static": True})


def settle_sweep(
    p_ner: Float[Array, "words labels"],
    queries: Float[Array, "words dim"],
    near: Neighbours | None,
    shares: Float[Array, "temperatures words labels"] | None,
    sweep: Sweep,
    metric: str,
) -> Bool[Array, " words"]:
    """Return which words a border settles for every setting: by its vote they have the labels that all rows give them.

    Args:
        p_ner: the tagger's probabilities.
        queries: the words' states.
        near: their nearest of the border, one more than the largest k; None without a finite k.
        shares: the vote of all its rows, for each temperature; None without `all`.
        sweep: the settings.
        metric: cosine, ip or l2.
    """
    border = sweep.border

    def is_usual(at: tuple[Array, Array | None]) -> Bool[Array, " words"]:
        temperature, shares = at
        votes = []
        for k in sweep.every_k:
            if k == "all":
                assert shares is not None
                votes.append(vote_of_all(shares, border, queries, temperature, metric))
            else:
                assert near is not None
                first = Neighbours(*(column[:, : k + 1] for column in near))
                votes.append(vote(first, k, border, queries, temperature, p_ner.shape[1], metric))
        labels = [settle(p_ner, said, border.usual, weight) for said in votes for weight in sweep.knn_weights]
        return (jnp.stack(labels) == border.usual).all(axis=0)

    return jax.lax.map(is_usual, (sweep.temperatures, shares)).all(axis=0)
