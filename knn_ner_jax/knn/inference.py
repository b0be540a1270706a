"""The compiled functions (paper, section 3): `tag` labels a batch in one program, `retrieve` returns neighbours instead."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.knn import search
from knn_ner_jax.knn.cascade import Ask, Queue, Words, ask_all, ask_panel, in_blocks, label_in_turn, put
from knn_ner_jax.knn.combine import MARGIN_SETTLES_BELOW, Cache, needs_retrieval
from knn_ner_jax.knn.datastore import Datastore, key_states
from knn_ner_jax.knn.pruning import Panels
from knn_ner_jax.knn.search import SearchSpec
from knn_ner_jax.models.tagger import Params, Tagger
from knn_ner_jax.sharding import replicated

QUERY_ROWS = 256
FEW_QUERY_ROWS = 64  # on CPU, where few words are left to compare with all rows, so that a block is seldom full

_Tree = TypeVar("_Tree")


@dataclass(frozen=True, kw_only=True)
class RetrievalSpec(SearchSpec):
    """The choices that the compiled functions are compiled for; hashable, a static argument.

    Its `num_labels` are the labels of tagger and datastore together; the tagger gives those beyond its own probability 0.

    Attributes:
        tagger: the network.
        layers: hidden states that make a key, as non-negative numbers; 0 is the embeddings' output.
        query_rows: words compared at a time.
        rest_rows: words that `tag` compares with all rows at a time, those that no part of the rows settles.
    """

    tagger: Tagger
    layers: tuple[int, ...]
    query_rows: int = QUERY_ROWS
    rest_rows: int = QUERY_ROWS


def _everywhere(tree: _Tree, spec: RetrievalSpec) -> _Tree:
    """Put arrays on every device."""
    return tree if spec.mesh is None else jax.lax.with_sharding_constraint(tree, replicated(spec.mesh))


class Tagging(NamedTuple):
    """The labels of a split so far, and the words that wait for a search.

    Attributes:
        tagger: the tagger's own label ids, by word of the split.
        knn: those of the mixed probabilities; final when the last batch is done.
        for_scouts: words to look up among the scouts (see `pruning`).
        for_border: words to look up among the rows of the border.
        for_all: words to look up among all rows; how many there were, and how many of them hang on rounding.
    """

    tagger: Int[Array, " words"]
    knn: Int[Array, " words"]
    for_scouts: Queue
    for_border: Queue
    for_all: Queue


class Retrieved(NamedTuple):
    """The words of a batch with their neighbours, for tuning and explanations; rows beyond the number of words are void.

    Attributes:
        word_index: which word of the split each row is, `NO_WORD` in void rows.
        p_ner: the tagger's probabilities.
        result: neighbours and, for each temperature, p_kNN over all rows.
    """

    word_index: Int[Array, " words"]
    p_ner: Float[Array, "words labels"]
    result: search.SearchResult


@cache
def _beginning(
    num_words: int, blocks: tuple[int, ...], dim: int, num_labels: int, sharding: Sharding
) -> Callable[[], Tagging]:
    def state() -> Tagging:
        unlabelled = jnp.zeros((2, num_words), jnp.int32)
        return Tagging(unlabelled[0], unlabelled[1], *(Queue.empty(rows, dim, num_labels) for rows in blocks))

    return jax.jit(state, out_shardings=sharding)


def begin(num_words: int, datastore: Datastore, spec: RetrievalSpec) -> Tagging:
    """Return the state before the first batch of a split of at most `num_words`, on the devices of the datastore."""
    blocks = spec.query_rows, spec.query_rows, spec.rest_rows
    shape = num_words, blocks, datastore.keys.shape[1], spec.num_labels
    return _beginning(*shape, datastore.num_rows.sharding)()


def _encode(params: Params, datastore: Datastore, batch: Batch, spec: RetrievalSpec) -> Words:
    """Return all positions of a batch, words and others, with states and probabilities, on every device."""
    output = spec.tagger.run(params, batch)
    p_ner = jax.nn.softmax(output.logits.reshape(-1, output.logits.shape[-1]))
    beyond = spec.num_labels - p_ner.shape[1]
    queries = key_states(output.hidden_states, spec.layers, datastore.projection)
    words = Words(
        queries.reshape(-1, queries.shape[-1]),
        jnp.pad(p_ner, ((0, 0), (0, beyond))),
        jnp.asarray(batch.word_index).reshape(-1),
    )
    return _everywhere(words, spec)


def _asks(
    datastore: Datastore, panels: Panels | None, temperature: Array, knn_weight: Array, spec: RetrievalSpec
) -> dict[str, Ask]:
    """Return the searches that a word goes through in turn, by the name of the queue before each."""
    traced: dict[str, Any] = {"temperature": temperature, "knn_weight": knn_weight, "spec": spec}
    asks: dict[str, Ask] = {}
    # What the margin leaves at a smaller weight lies between the tags, where scouts are sure of next to nothing.
    scouts_settle_many = knn_weight >= MARGIN_SETTLES_BELOW
    if panels is not None and spec.k != "all":
        asks["for_scouts"] = Ask(partial(ask_panel, panels.scouts, **traced), scouts_settle_many)
    if panels is not None:
        asks["for_border"] = Ask(partial(ask_panel, panels.border, **traced), jnp.bool_(True))
    return asks | {"for_all": Ask(partial(ask_all, datastore.rows, **traced), jnp.bool_(True))}


@partial(jax.jit, static_argnames="spec", donate_argnames="tagging")
def tag(
    tagging: Tagging,
    params: Params,
    datastore: Datastore,
    panels: Panels | None,
    batch: Batch,
    temperature: Float[Array, ""],
    knn_weight: Float[Array, ""],
    last: Bool[Array, ""],
    *,
    spec: RetrievalSpec,
) -> Tagging:
    """Label a batch: encoder, head, search, vote and mix in one program, compiled once for each batch shape and k.

    Only words are looked up, of them only those whose label a vote can change (`combine.needs_retrieval`), and among all
    rows only those that a part of them does not settle (`pruning`). The labels are those of a search of all rows for every
    word: the same states give the same labels. States differ in their last bits between batch shapes, devices and
    processors; `Tagging.for_all.within_rounding` counts the words whose label so small a difference could change.

    Args:
        tagging: the state from `begin`, or after the batch before; its memory is reused.
        params: parameters of `spec.tagger`.
        datastore: what is searched; its contents are traced: another one of the same shape compiles nothing.
        panels: parts of its rows that are searched first, or None to search all rows for every word.
        batch: windows of token ids.
        temperature: of the vote, > 0.
        knn_weight: weight of the vote in the mix, in [0, 1].
        last: whether no other batch follows: words that wait for a full block are looked up as well.
        spec: what to compile for.
    """
    words = _encode(params, datastore, batch, spec)
    tagger, is_word = words.p_ner.argmax(axis=1), words.word_index != NO_WORD
    is_open = is_word & needs_retrieval(words.p_ner, knn_weight)
    asks = _asks(datastore, panels, temperature, knn_weight, spec)
    labels = put(tagging.knn, words.word_index, tagger, is_word)
    waiting = [getattr(tagging, name) for name in asks]
    labels, queues = label_in_turn(list(asks.values()), labels, waiting, words, is_open, last)
    tagging = tagging._replace(
        tagger=put(tagging.tagger, words.word_index, tagger, is_word), knn=labels, **dict(zip(asks, queues, strict=True))
    )
    return _everywhere(tagging, spec)


@partial(jax.jit, static_argnames="spec")
def retrieve(
    params: Params,
    datastore: Datastore,
    batch: Batch,
    temperatures: Float[Array, " temperatures"] | None,
    *,
    spec: RetrievalSpec,
) -> Retrieved:
    """Look up every word of a batch and return the neighbours, and p_kNN over all rows, instead of labels.

    Args:
        params: parameters of `spec.tagger`.
        datastore: what is searched.
        batch: windows of token ids.
        temperatures: of p_kNN over all rows, which `k: all` needs; None for neighbours alone.
        spec: what to compile for; k is how many neighbours to return (`all`: none, p_kNN over all rows alone).
    """
    words = _encode(params, datastore, batch, spec)
    is_word = words.word_index != NO_WORD
    k = None if spec.k == "all" else spec.k
    rows = min(spec.query_rows, len(is_word))
    order = jnp.nonzero(is_word, size=-(-len(is_word) // rows) * rows, fill_value=0)[0]
    num_blocks = (is_word.sum() + rows - 1) // rows

    def find(block: Words) -> search.SearchResult:
        return spec.search(block.queries, datastore.rows, k, temperatures)

    result = in_blocks(find, words, order, num_blocks, rows)
    word_index = jnp.where(jnp.arange(len(order)) < is_word.sum(), words.word_index[order], NO_WORD)
    return _everywhere(Retrieved(word_index, words.p_ner[order], result), spec)


def one_behind(retrieved: Iterable[Retrieved]) -> Iterator[Retrieved]:
    """Yield each batch once the next has been dispatched: the device computes while the host reads."""
    dispatched = iter(retrieved)
    batch = next(dispatched, None)
    while batch is not None:
        following = next(dispatched, None)
        yield batch
        batch = following


def collect(
    retrieved: Iterable[Retrieved], num_words: int, temperatures: Sequence[float] | None = None, with_ids: bool = False
) -> Cache:
    """Put what was retrieved for batches in the order of the words.

    Args:
        retrieved: for every batch of a split.
        num_words: in the split.
        temperatures: that p_kNN over all rows was computed for, in this order.
        with_ids: also keep the row ids of the neighbours.
    """
    columns: dict[str, np.ndarray] = {}

    def put(name: str, word_index: np.ndarray, values: Array) -> None:
        rows = np.asarray(values)[: len(word_index)]
        if name not in columns:
            columns[name] = np.zeros((num_words, *rows.shape[1:]), rows.dtype)
        columns[name][word_index] = rows

    for batch in one_behind(retrieved):
        word_index = np.asarray(batch.word_index)
        word_index = word_index[word_index != NO_WORD]
        put("p_ner", word_index, batch.p_ner)
        if batch.result.neighbours is not None:
            put("similarities", word_index, batch.result.neighbours.similarities)
            put("neighbour_labels", word_index, batch.result.neighbours.values)
            if with_ids:
                put("neighbour_ids", word_index, batch.result.neighbours.ids)
        if batch.result.knn_probs is not None:
            put("knn_probs", word_index, batch.result.knn_probs.swapaxes(0, 1))
        if batch.result.top1_prob is not None:
            put("top1_prob", word_index, batch.result.top1_prob.swapaxes(0, 1))
    for name in columns.keys() & {"knn_probs", "top1_prob"}:
        columns[name] = columns[name].swapaxes(0, 1)
    return Cache(**columns, temperatures=tuple(temperatures or ()))
