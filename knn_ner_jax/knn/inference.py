"""Vote and mix (paper, section 3.2), and the one compiled function: encoder, head, search, vote, mix."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.encoding import NO_WORD
from knn_ner_jax.knn import search
from knn_ner_jax.knn.datastore import Datastore, key_states
from knn_ner_jax.mesh import replicated
from knn_ner_jax.models.tagger import Params, Tagger

QUERY_ROWS = 256
DECIDED_MARGIN = 1e-5  # slack for float32 rounding in the bound below

_Tree = TypeVar("_Tree")


@dataclass(frozen=True)
class Retrieval:
    """What the compiled functions are compiled for; hashable, a static argument.

    Attributes:
        tagger: the network.
        layers: hidden states that make a key, as non-negative numbers; 0 is the embeddings' output.
        k: neighbours for each word; `all` lets every row vote.
        num_labels: labels of tagger and datastore together; the tagger gives those beyond its own probability 0.
        metric: cosine, ip or l2.
        block_rows: datastore rows compared at a time.
        query_rows: words compared at a time.
        mesh: devices the datastore is divided over; None for one.
    """

    tagger: Tagger
    layers: tuple[int, ...]
    k: int | Literal["all"]
    num_labels: int
    metric: str = "cosine"
    block_rows: int = search.BLOCK_ROWS
    query_rows: int = QUERY_ROWS
    mesh: Mesh | None = None


class Labels(NamedTuple):
    """Label ids of a batch, meaningful where `batch.slots` names a word.

    Attributes:
        vanilla: the tagger's own.
        knn: of the mixed probabilities.
        searched: how many words were looked up; the others no vote could have changed.
    """

    vanilla: Int[Array, "batch length"]
    knn: Int[Array, "batch length"]
    searched: Int[Array, ""]


class Retrieved(NamedTuple):
    """All that tuning and explaining need to know of the words of a batch; rows from the batch's word count on are void.

    Attributes:
        slots: the word each row is about, `NO_WORD` in void rows.
        p_ner: the tagger's probabilities.
        found: neighbours and, for each temperature, shares of all rows.
    """

    slots: Int[Array, " words"]
    p_ner: Float[Array, "words labels"]
    found: search.Found


def knn_probabilities(
    similarities: Float[Array, "words k"],
    neighbour_labels: Int[Array, "words k"],
    num_labels: int,
    temperature: Float[Array, ""] | float,
) -> Float[Array, "words labels"]:
    """p_kNN: the softmax of similarity / temperature over the neighbours, summed by label (paper, equation 3).

    Args:
        similarities: larger is nearer.
        neighbour_labels: label id of each neighbour, 0 <= id < num_labels.
        num_labels: width of the result.
        temperature: > 0; may be traced.

    Raises:
        ValueError: the temperature is not positive (one that is traced cannot be looked at).
    """
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise ValueError(f"temperature: expected more than 0, got {temperature}")
    weights_qk = jax.nn.softmax((similarities - similarities.max(axis=1, keepdims=True)) / temperature, axis=1)

    def share(label: Int[Array, ""]) -> Float[Array, " words"]:
        return jnp.where(neighbour_labels == label, weights_qk, 0.0).sum(axis=1)

    # One label at a time: a one-hot would hold [words, k, labels].
    return jax.lax.map(share, jnp.arange(num_labels)).T


def interpolate(
    p_ner: Float[Array, "words labels"],
    p_knn: Float[Array, "words labels"],
    knn_weight: Float[Array, ""] | float,
) -> Float[Array, "words labels"]:
    """knn_weight * p_kNN + (1 - knn_weight) * p_NER (paper, equation 4, where lambda is on p_NER).

    Args:
        p_ner: the tagger's probabilities.
        p_knn: those of the vote.
        knn_weight: share of the vote, in [0, 1]; may be traced.

    Raises:
        ValueError: the weight is outside [0, 1] (one that is traced cannot be looked at).
    """
    if not isinstance(knn_weight, jax.core.Tracer) and not 0 <= knn_weight <= 1:
        raise ValueError(f"knn_weight: expected a weight in [0, 1], got {knn_weight}")
    return knn_weight * p_knn + (1.0 - knn_weight) * p_ner


def undecided(p_ner: Float[Array, "words labels"], knn_weight: Float[Array, ""] | float) -> Bool[Array, " words"]:
    """False where no vote whatever can change the arg max: (1 - w) (p1 - p2) > w, p1 and p2 the two largest."""
    top = jax.lax.top_k(p_ner, 2)[0]
    return (1.0 - knn_weight) * (top[:, 0] - top[:, 1]) <= knn_weight + DECIDED_MARGIN


def _encode(
    params: Params, datastore: Datastore, batch: Batch, settings: Retrieval
) -> tuple[Float[Array, "positions labels"], Float[Array, "positions dim"], Bool[Array, " positions"]]:
    output = settings.tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
    p_ner = jax.nn.softmax(output.logits.reshape(-1, output.logits.shape[-1]))
    beyond = settings.num_labels - p_ner.shape[1]
    queries = key_states(output.hidden_states, settings.layers, datastore.projection)
    return (
        jnp.pad(p_ner, ((0, 0), (0, beyond))),
        queries.reshape(-1, queries.shape[-1]),
        batch.slots.reshape(-1) != NO_WORD,
    )


def _for_wanted(
    compute: Callable[[Float[Array, "queries dim"]], _Tree],
    queries: Float[Array, "positions dim"],
    wanted: Bool[Array, " positions"],
    query_rows: int,
) -> tuple[_Tree, Int[Array, " padded"]]:
    """Applies `compute` to the wanted queries only, packed to the front, `query_rows` at a time.

    Returns:
        Its results, axis -2 padded to whole blocks, and the position each row came from (0 in void rows).
    """
    positions = wanted.shape[0]
    query_rows = min(query_rows, positions)
    padded = -(-positions // query_rows) * query_rows
    order = jnp.nonzero(wanted, size=padded, fill_value=0)[0]
    block_shapes = jax.eval_shape(compute, queries[:query_rows])
    empty = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-2], padded, x.shape[-1]), x.dtype), block_shapes)

    def search_block(i: Int[Array, ""], results: _Tree) -> _Tree:
        chosen = jax.lax.dynamic_slice_in_dim(order, i * query_rows, query_rows)
        return jax.tree.map(
            lambda all_, block: jax.lax.dynamic_update_slice_in_dim(all_, block, i * query_rows, axis=-2),
            results,
            compute(queries[chosen]),
        )

    num_blocks = (wanted.sum() + query_rows - 1) // query_rows
    return jax.lax.fori_loop(0, num_blocks, search_block, empty), order


def _search(
    queries: Array, datastore: Datastore, temperatures: Array | None, k: int | None, settings: Retrieval
) -> search.Found:
    return search.search(
        queries,
        datastore.rows,
        k=k,
        temperatures=temperatures,
        num_values=settings.num_labels,
        metric=settings.metric,
        block_rows=settings.block_rows,
        mesh=settings.mesh,
    )


def _everywhere(results: _Tree, settings: Retrieval) -> _Tree:
    """Copies results to every device, so that every host can read them."""
    return results if settings.mesh is None else jax.lax.with_sharding_constraint(results, replicated(settings.mesh))


@partial(jax.jit, static_argnames="settings")
def tag(
    params: Params,
    datastore: Datastore,
    batch: Batch,
    temperature: Float[Array, ""],
    knn_weight: Float[Array, ""],
    *,
    settings: Retrieval,
) -> Labels:
    """Labels a batch: encoder, head, search, vote and mix in one program, compiled once for each batch shape and k.

    Only words are looked up, and of them only those whose label a vote can change.

    Args:
        params: of `settings.tagger`.
        datastore: its contents are traced: another one of the same shape compiles nothing.
        batch: windows of token ids.
        temperature: of the vote, > 0.
        knn_weight: share of the vote in the mix, in [0, 1].
        settings: what to compile for.
    """
    p_ner, queries, is_word = _encode(params, datastore, batch, settings)
    wanted = is_word & undecided(p_ner, knn_weight)

    def vote(queries: Float[Array, "queries dim"]) -> Float[Array, "queries labels"]:
        if settings.k == "all":
            return _search(queries, datastore, temperature[None], None, settings).shares[0]  # type: ignore[index]
        near = _search(queries, datastore, None, settings.k, settings).neighbours
        return knn_probabilities(near.similarities, near.values, settings.num_labels, temperature)  # type: ignore[union-attr]

    packed, _ = _for_wanted(vote, queries, wanted, settings.query_rows)
    p_knn = packed[jnp.cumsum(wanted) - 1]
    vanilla = p_ner.argmax(axis=1)
    mixed = interpolate(p_ner, p_knn, knn_weight).argmax(axis=1)
    shape = batch.slots.shape
    labels = Labels(vanilla.reshape(shape), jnp.where(wanted, mixed, vanilla).reshape(shape), wanted.sum())
    return _everywhere(labels, settings)


@partial(jax.jit, static_argnames="settings")
def retrieve(
    params: Params,
    datastore: Datastore,
    batch: Batch,
    temperatures: Float[Array, " temperatures"] | None,
    *,
    settings: Retrieval,
) -> Retrieved:
    """Looks up every word of a batch and returns what was found instead of voting.

    Args:
        params: of `settings.tagger`.
        datastore: what is searched.
        batch: windows of token ids.
        temperatures: for the shares that `k: all` needs; None for neighbours alone.
        settings: what to compile for; k is how many neighbours to return (`all`: none, the shares alone).
    """
    p_ner, queries, is_word = _encode(params, datastore, batch, settings)
    k = None if settings.k == "all" else settings.k
    found, order = _for_wanted(
        lambda queries: _search(queries, datastore, temperatures, k, settings), queries, is_word, settings.query_rows
    )
    slots = jnp.where(jnp.arange(len(order)) < is_word.sum(), batch.slots.reshape(-1)[order], NO_WORD)
    return _everywhere(Retrieved(slots, p_ner[order], found), settings)
