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
from knn_ner_jax.knn.similarity import PADDING, squared_norms
from knn_ner_jax.knn.vote import DECIDED_MARGIN
from knn_ner_jax.mesh import AXIS, make_mesh

SAMPLE_EVERY = 20  # of the rows with the usual tag, one in so many is a scout
RELATIVE_ROUNDING = 4e-6  # two float32 searches differ in a similarity of unit vectors by no more


class Scouts(NamedTuple):
    """Some of the rows of a datastore.

    Attributes:
        rows: divided over the devices like all; padding may stand at the end of every device's share.
        usual: the tag of which only a sample is here.
        largest_norm: of their keys.
    """

    rows: Rows
    usual: Int[Array, ""]
    largest_norm: Float[Array, ""]


@partial(jax.jit, static_argnames="num_values")
def _usual(rows: Rows, num_values: int) -> Int[Array, ""]:
    one_hot = (rows.values[:, None] == jnp.arange(num_values)[None, :]) & (rows.squared_norms != PADDING)[:, None]
    return one_hot.sum(axis=0).argmax()


def _is_scout(rows: Rows, usual: Int[Array, ""]) -> Bool[Array, " rows"]:
    sampled = jnp.arange(rows.values.shape[0]) % SAMPLE_EVERY == 0
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
    usual = _usual(rows, num_values)

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
    return Scouts(chosen, usual, jnp.sqrt(chosen.squared_norms.max()))


def _rounding(queries: Float[Array, "words dim"], largest: Float[Array, ""], metric: str) -> Float[Array, " words"]:
    """How much two float32 searches may differ in a similarity."""
    norms = jnp.sqrt(squared_norms(queries))
    return RELATIVE_ROUNDING * {"cosine": jnp.ones_like(norms), "ip": norms * largest, "l2": (norms + largest) ** 2}[metric]


def settle(
    mixed: Float[Array, "words labels"],
    scouts: Scouts,
    queries: Float[Array, "words dim"],
    temperature: Float[Array, ""],
    knn_weight: Float[Array, ""],
    metric: str,
) -> Bool[Array, " words"]:
    """True where the scouts' vote leaves no doubt that the label is the usual one, rounding included.

    Args:
        mixed: probabilities with the scouts' vote.
        scouts: who voted.
        queries: of the words.
        temperature: of the vote.
        knn_weight: share of the vote.
        metric: cosine, ip or l2.
    """
    is_usual = jnp.arange(mixed.shape[1]) == scouts.usual
    ahead = mixed[:, scouts.usual] - jnp.where(is_usual[None, :], -jnp.inf, mixed).max(axis=1)
    # An error d in every similarity multiplies every weight of a vote by at most exp(2 d / temperature).
    vote_error = jnp.expm1(2 * _rounding(queries, scouts.largest_norm, metric) / temperature)
    return ahead > DECIDED_MARGIN + knn_weight * vote_error
