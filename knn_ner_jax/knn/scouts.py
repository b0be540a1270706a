"""A few rows that settle most words: all that the usual tag does not stand on, and a sample of those it does.

Nearly every word of a corpus is O, and so is nearly every row. Let `usual` be the commonest tag. A search among the scouts
alone (every row of another tag, and a sample of the rows of the usual one) can only underrate the usual tag: each row left
out that would have been among the k nearest has the usual tag and takes the place of one that is farther away. So the true
p_kNN(usual) is no smaller and every other p_kNN(y) no larger than among the scouts, whatever k, temperature and weight; with
`k: all` likewise, because only weight of the usual tag is missing. A word whose mixed probabilities are highest at the usual
tag by the scouts' vote is therefore the usual tag by everyone's, and needs no search of all rows.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.knn.rows import Rows
from knn_ner_jax.knn.selection import Neighbours
from knn_ner_jax.knn.similarity import PADDING, squared_norms, summation_error
from knn_ner_jax.knn.vote import DECIDED_MARGIN, interpolate, knn_probabilities
from knn_ner_jax.mesh import AXIS, make_mesh

SAMPLE_EVERY = 20  # of the rows with the usual tag, one in so many is a scout


class Scouts(NamedTuple):
    """Some of the rows of a datastore.

    Attributes:
        rows: divided over the devices like all; padding may stand at the end of every device's share.
        usual: the tag of which only a sample is here.
        largest_norm: of the keys of all rows.
    """

    rows: Rows
    usual: Int[Array, ""]
    largest_norm: Float[Array, ""]


@partial(jax.jit, static_argnames="num_values")
def _usual(rows: Rows, num_values: int) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """The commonest tag, and the largest norm."""
    values = jnp.where(rows.squared_norms != PADDING, rows.values, num_values)
    counts = jnp.bincount(values, length=num_values + 1)[:num_values]
    return counts.argmax(), jnp.sqrt(rows.squared_norms.max())


def _is_scout(rows: Rows, usual: Int[Array, ""]) -> Bool[Array, " rows"]:
    """Of the rows of one device; which rows those are does not depend on the number of devices."""
    first = jax.lax.axis_index(AXIS) * len(rows.values)
    sampled = (first + jnp.arange(len(rows.values))) % SAMPLE_EVERY == 0
    return (rows.squared_norms != PADDING) & ((rows.values != usual) | sampled)


def choose(rows: Rows, num_values: int, mesh: Mesh | None, at_most: float = 0.5) -> Scouts | None:
    """Copies the scouts out of the rows; every device chooses among its own.

    Args:
        rows: of a datastore.
        num_values: tags there are.
        mesh: devices the rows are divided over; None for one.
        at_most: share of the rows beyond which asking them first does not pay.

    Returns:
        The scouts, or None where they would be too many.
    """
    mesh = make_mesh(1) if mesh is None else mesh
    by_row, everywhere = PartitionSpec(AXIS), PartitionSpec()
    divided = Rows(by_row, by_row, by_row)  # type: ignore[arg-type]
    on_devices = partial(jax.shard_map, mesh=mesh, in_specs=(divided, everywhere))
    usual, largest_norm = _usual(rows, num_values)

    def most(rows: Rows, usual: Int[Array, ""]) -> Int[Array, ""]:
        return jax.lax.pmax(_is_scout(rows, usual).sum(), AXIS)

    size = int(jax.jit(on_devices(most, out_specs=everywhere))(rows, usual))
    if size * mesh.size > at_most * len(rows.values):
        return None

    def pick(rows: Rows, usual: Int[Array, ""]) -> Rows:
        places = jnp.nonzero(_is_scout(rows, usual), size=size, fill_value=len(rows.values))[0]
        keys, values = (array.at[places].get(mode="fill", fill_value=0) for array in (rows.keys, rows.values))
        return Rows(keys, rows.squared_norms.at[places].get(mode="fill", fill_value=PADDING), values)

    chosen = jax.jit(on_devices(pick, out_specs=divided))(rows, usual)
    return Scouts(chosen, usual, largest_norm)


def _rounding(queries: Float[Array, "words dim"], largest: Float[Array, ""], metric: str) -> Float[Array, " words"]:
    """How far a similarity may lie from the true one."""
    norms = jnp.sqrt(squared_norms(queries))
    scale = {"cosine": jnp.ones_like(norms), "ip": norms * largest, "l2": (norms + largest) ** 2}[metric]
    return summation_error(queries.shape[1]) * scale


class Vote(NamedTuple):
    """What the scouts say.

    Attributes:
        p_knn: their vote.
        doubt: how much of the usual tag's share another search might give to others, for rounding alone.
    """

    p_knn: Float[Array, "words labels"]
    doubt: Float[Array, " words"]


def vote(
    near: Neighbours,
    k: int,
    scouts: Scouts,
    queries: Float[Array, "words dim"],
    temperature: Float[Array, ""],
    num_labels: int,
    metric: str,
) -> Vote:
    """The vote of the k nearest scouts.

    Args:
        near: the k + 1 nearest, or all where there are fewer.
        k: how many vote.
        scouts: who they are.
        queries: what was looked up.
        temperature: of the vote.
        num_labels: width of the result.
        metric: cosine, ip or l2.
    """
    similarities, values = near.similarities[:, :k], near.values[:, :k]
    p_knn = knn_probabilities(similarities, values, num_labels, temperature)
    # An error d in every similarity multiplies every weight of a vote by at most exp(2 d / temperature).
    error = _rounding(queries, scouts.largest_norm, metric)
    doubt = jnp.expm1(2 * error / temperature)
    if near.similarities.shape[1] > k:
        # Where the k-th and the next are as near but for rounding, another search may let the next one vote instead.
        kth, following = near.similarities[:, k - 1], near.similarities[:, k]
        weights = jax.nn.softmax((similarities - similarities[:, :1]) / temperature, axis=1)
        exchangeable = (values == scouts.usual) & (similarities <= (kth + 2 * error)[:, None])
        lost = jnp.where(exchangeable, weights, 0.0).sum(axis=1)
        doubt = doubt + jnp.where(kth - following <= 2 * error, 2 * lost, 0.0)
    return Vote(p_knn, doubt)


def vote_of_all(
    shares: Float[Array, "words labels"], scouts: Scouts, queries: Array, temperature: Float[Array, ""], metric: str
) -> Vote:
    """The vote of all scouts, for `k: all`."""
    return Vote(shares, jnp.expm1(2 * _rounding(queries, scouts.largest_norm, metric) / temperature))


def settle(
    p_ner: Float[Array, "words labels"], said: Vote, scouts: Scouts, knn_weight: Float[Array, ""]
) -> Bool[Array, " words"]:
    """True where the label is the usual one whatever the rows say that are no scouts, rounding included.

    Args:
        p_ner: the tagger's probabilities.
        said: the scouts' vote.
        scouts: who voted.
        knn_weight: share of the vote.
    """
    mixed = interpolate(p_ner, said.p_knn, knn_weight)
    is_usual = jnp.arange(mixed.shape[1]) == scouts.usual
    ahead = mixed[:, scouts.usual] - jnp.where(is_usual[None, :], -jnp.inf, mixed).max(axis=1)
    return ahead > DECIDED_MARGIN + knn_weight * said.doubt
