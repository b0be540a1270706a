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
from knn_ner_jax.knn.border import UNSURE, Border, Vote, all_rows, settle, vote, vote_of_all
from knn_ner_jax.knn.combine import Cache, interpolate, needs_retrieval
from knn_ner_jax.knn.datastore import Datastore, key_states
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
        rest_rows: words that `tag` compares with all rows at a time, those that the border does not settle.
    """

    tagger: Tagger
    layers: tuple[int, ...]
    query_rows: int = QUERY_ROWS
    rest_rows: int = QUERY_ROWS


def _everywhere(tree: _Tree, spec: RetrievalSpec) -> _Tree:
    """Put arrays on every device."""
    return tree if spec.mesh is None else jax.lax.with_sharding_constraint(tree, replicated(spec.mesh))


class Words(NamedTuple):
    """Words of a batch, or of several.

    Attributes:
        queries: states like the keys.
        p_ner: the tagger's probabilities.
        word_index: which word of the split it is, or `NO_WORD`.
    """

    queries: Float[Array, "words dim"]
    p_ner: Float[Array, "words labels"]
    word_index: Int[Array, " words"]


class Queue(NamedTuple):
    """Words that wait until they fill a block: to look one up costs a pass over all keys, however few ask.

    Attributes:
        words: as many as a block holds; those from `number` on are void.
        number: how many wait; fewer than a block holds.
    """

    words: Words
    number: Int[Array, ""]

    @classmethod
    def empty(cls, rows: int, dim: int, num_labels: int) -> "Queue":
        """Return an empty queue."""
        return cls(Words(jnp.zeros((rows, dim)), jnp.zeros((rows, num_labels)), jnp.zeros(rows, jnp.int32)), jnp.int32(0))


class Tagging(NamedTuple):
    """The labels of a split so far, and the words that wait for a search.

    Attributes:
        tagger: the tagger's own label ids, by word of the split.
        knn: those of the mixed probabilities; final when the last batch is done.
        for_border: words to look up among the border; none without one.
        for_all: words to look up among all rows.
        at_border: how many words were looked up among the border.
        searched: how many words were looked up among all rows.
        within_rounding: of these, how many have a label that rounding may change (`similarity.summation_error`).
    """

    tagger: Int[Array, " words"]
    knn: Int[Array, " words"]
    for_border: Queue
    for_all: Queue
    at_border: Int[Array, ""]
    searched: Int[Array, ""]
    within_rounding: Int[Array, ""]


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
    num_words: int, blocks: tuple[int, int], dim: int, num_labels: int, sharding: Sharding
) -> Callable[[], Tagging]:
    def state() -> Tagging:
        unlabelled = jnp.zeros((2, num_words), jnp.int32)
        for_border, for_all = (Queue.empty(rows, dim, num_labels) for rows in blocks)
        return Tagging(unlabelled[0], unlabelled[1], for_border, for_all, *(jnp.int32(0) for _ in range(3)))

    return jax.jit(state, out_shardings=sharding)


def begin(num_words: int, datastore: Datastore, spec: RetrievalSpec) -> Tagging:
    """Return the state before the first batch of a split of at most `num_words`, on the devices of the datastore."""
    shape = num_words, (spec.query_rows, spec.rest_rows), datastore.keys.shape[1], spec.num_labels
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


def _put(
    labels: Int[Array, " all"], word_index: Int[Array, " words"], new: Int[Array, " words"], where: Bool[Array, " words"]
) -> Int[Array, " all"]:
    """Write the labels of some words among those of a split, but for `NO_WORD`."""
    return labels.at[jnp.where(where & (word_index != NO_WORD), word_index, len(labels))].set(new, mode="drop")


def _take(parts: Sequence[Words], order: Int[Array, " taken"]) -> Words:
    """Return words by their places, where the places of a part follow those of the one before; zeros beyond the last."""
    taken, end = [], 0
    for part in parts:
        start, end = end, end + len(part.word_index)
        inside = jnp.where((start <= order) & (order < end), order - start, end - start)
        taken.append([array.at[inside].get(mode="fill", fill_value=0) for array in part])
    return Words(*(sum(columns[1:], columns[0]) for columns in zip(*taken, strict=True)))


def _order(wanted: Bool[Array, " words"], rows: int) -> Int[Array, " places"]:
    """Return where the wanted words are, then as many places of none as fill up the last block and one more."""
    return jnp.nonzero(wanted, size=(-(-len(wanted) // rows) + 1) * rows, fill_value=len(wanted))[0]


def in_blocks(
    compute: Callable[[Words], _Tree],
    parts: Sequence[Words],
    order: Int[Array, " places"],
    num_blocks: Int[Array, ""],
    rows: int,
) -> _Tree:
    """Apply a function to the first blocks of words in some order.

    Args:
        compute: from `rows` words to arrays whose last axis but one is theirs.
        parts: all words, in parts.
        order: which of them stand where (see `_take`); the first `num_blocks * rows` places are used.
        num_blocks: may be traced.
        rows: words in a block.

    Returns:
        Its results in that order; zeros where there was no block.
    """
    shapes = jax.eval_shape(compute, _take(parts, order[:rows]))
    empty = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-2], len(order), x.shape[-1]), x.dtype), shapes)

    def one(i: Int[Array, ""], results: _Tree) -> _Tree:
        chosen = jax.lax.dynamic_slice_in_dim(order, i * rows, rows)
        return jax.tree.map(
            lambda all_, block: jax.lax.dynamic_update_slice_in_dim(all_, block, i * rows, axis=-2),
            results,
            compute(_take(parts, chosen)),
        )

    return jax.lax.fori_loop(0, num_blocks, one, empty)


def look_up(
    compute: Callable[[Words], _Tree],
    queue: Queue,
    parts: Sequence[Words],
    is_open: Bool[Array, " words"],
    last: Bool[Array, ""],
) -> tuple[Int[Array, " places"], Int[Array, " places"], _Tree, Queue]:
    """Apply a function to the words that fill whole blocks, those of the queue first; the others queue.

    Args:
        compute: see `in_blocks`.
        queue: words of earlier batches; its length is that of a block.
        parts: words of a batch, and others.
        is_open: which of them take part.
        last: no others will follow: also take the block that is not full.

    Returns:
        The `word_index` of every word that took part, `NO_WORD` where there is none; its place among queue and parts; the
        results; and the words that wait.
    """
    rows = len(queue.words.word_index)
    parts = [queue.words, *parts]
    is_open = jnp.concatenate([jnp.arange(rows) < queue.number, is_open])
    order, number = _order(is_open, rows), is_open.sum()
    num_blocks = jnp.where(last, (number + rows - 1) // rows, number // rows)
    done = jnp.minimum(number, num_blocks * rows)
    places = jnp.where(jnp.arange(len(order)) < done, order, len(is_open))
    word_index = jnp.concatenate([part.word_index for part in parts]).at[places].get(mode="fill", fill_value=NO_WORD)
    waiting = _take(parts, jax.lax.dynamic_slice_in_dim(order, num_blocks * rows, rows))
    return word_index, places, in_blocks(compute, parts, order, num_blocks, rows), Queue(waiting, number - done)


def _vote(border: Border, words: Words, temperature: Float[Array, ""], spec: SearchSpec) -> Vote:
    if spec.k == "all":
        knn_probs = spec.search(words.queries, border.rows, None, temperature[None]).knn_probs
        assert knn_probs is not None
        return vote_of_all(knn_probs[0], border, words.queries, temperature, spec.metric)
    k = min(spec.k + 1, len(border.rows.values))  # one more than vote: how far it is behind tells whether it could
    neighbours = spec.search(words.queries, border.rows, k).neighbours
    assert neighbours is not None
    return vote(neighbours, spec.k, border, words.queries, temperature, spec.num_labels, spec.metric)


def label_by_border(
    border: Border, words: Words, temperature: Float[Array, ""], knn_weight: Float[Array, ""], spec: SearchSpec
) -> Int[Array, "words 1"]:
    """Return the labels that a border settles, `UNSURE` elsewhere."""
    return settle(words.p_ner, _vote(border, words, temperature, spec), border.usual, knn_weight)[:, None]


def label_by_all(
    every_row: Border, words: Words, temperature: Float[Array, ""], knn_weight: Float[Array, ""], spec: SearchSpec
) -> tuple[Int[Array, "words 1"], Bool[Array, "words 1"]]:
    """Return the labels with the largest p(y) by the vote of all rows (paper, 3 and 4), and which rounding may change."""
    said = _vote(every_row, words, temperature, spec)
    is_sure = settle(words.p_ner, said, every_row.usual, knn_weight) != UNSURE
    # No row is left out, so that what is unsure is so for rounding alone.
    return interpolate(words.p_ner, said.p_knn, knn_weight).argmax(axis=1)[:, None], ~is_sure[:, None]


@partial(jax.jit, static_argnames="spec", donate_argnames="tagging")
def tag(
    tagging: Tagging,
    params: Params,
    datastore: Datastore,
    border: Border | None,
    batch: Batch,
    temperature: Float[Array, ""],
    knn_weight: Float[Array, ""],
    last: Bool[Array, ""],
    *,
    spec: RetrievalSpec,
) -> Tagging:
    """Label a batch: encoder, head, search, vote and mix in one program, compiled once for each batch shape and k.

    Only words are looked up, of them only those whose label a vote can change (`combine.needs_retrieval`), and among all
    rows only those that the border does not settle (see `border`). The labels are those of a search of all rows for every
    word: the same states give the same labels. States differ in their last bits between batch shapes, devices and
    processors; `Tagging.within_rounding` counts the words whose label so small a difference could change.

    Args:
        tagging: the state from `begin`, or after the batch before; its memory is reused.
        params: parameters of `spec.tagger`.
        datastore: what is searched; its contents are traced: another one of the same shape compiles nothing.
        border: some of its rows, or None to search all rows for every word.
        batch: windows of token ids.
        temperature: of the vote, > 0.
        knn_weight: weight of the vote in the mix, in [0, 1].
        last: whether no other batch follows: words that wait for a full block are looked up as well.
        spec: what to compile for.
    """
    how: dict[str, Any] = {"temperature": temperature, "knn_weight": knn_weight, "spec": spec}
    words = _encode(params, datastore, batch, spec)
    tagger, is_word = words.p_ner.argmax(axis=1), words.word_index != NO_WORD
    labels, at_border = _put(tagging.knn, words.word_index, tagger, is_word), tagging.at_border
    parts, is_open, for_border = [words], is_word & needs_retrieval(words.p_ner, knn_weight), tagging.for_border
    if border is not None:
        by_border = partial(label_by_border, border, **how)
        word_index, places, said, for_border = look_up(by_border, tagging.for_border, parts, is_open, last)
        labels = _put(labels, word_index, said[:, 0], said[:, 0] != UNSURE)
        parts = [tagging.for_border.words, words]
        is_open = jnp.zeros(spec.query_rows + len(is_open), bool).at[places].set(said[:, 0] == UNSURE, mode="drop")
        at_border += (word_index != NO_WORD).sum()
    by_all = partial(label_by_all, all_rows(datastore.rows), **how)
    word_index, _, (said, hangs_on_rounding), for_all = look_up(by_all, tagging.for_all, parts, is_open, last)
    is_done = word_index != NO_WORD
    tagging = Tagging(
        _put(tagging.tagger, words.word_index, tagger, is_word),
        _put(labels, word_index, said[:, 0], is_done),
        for_border,
        for_all,
        at_border,
        tagging.searched + is_done.sum(),
        tagging.within_rounding + (is_done & hangs_on_rounding[:, 0]).sum(),
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
    order = _order(is_word, rows)
    num_blocks = (is_word.sum() + rows - 1) // rows

    def find(block: Words) -> search.SearchResult:
        return spec.search(block.queries, datastore.rows, k, temperatures)

    result = in_blocks(find, [words], order, num_blocks, rows)
    word_index = words.word_index.at[order].get(mode="fill", fill_value=NO_WORD)
    return _everywhere(Retrieved(word_index, words.p_ner.at[order].get(mode="fill", fill_value=0), result), spec)


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
    for batch in one_behind(retrieved):
        neighbours, knn_probs, top1_prob = batch.result
        found: dict[str, Array | np.ndarray] = {"p_ner": batch.p_ner}
        if neighbours is not None:
            found |= {"similarities": neighbours.similarities, "neighbour_labels": neighbours.values}
            found |= {"neighbour_ids": neighbours.ids} if with_ids else {}
        if knn_probs is not None and top1_prob is not None:
            by_temperature = {"knn_probs": knn_probs, "top1_prob": top1_prob}
            found |= {name: np.asarray(values).swapaxes(0, 1) for name, values in by_temperature.items()}
        word_index = np.asarray(batch.word_index)
        word_index = word_index[word_index != NO_WORD]
        for name, values in found.items():
            rows = np.asarray(values)[: len(word_index)]
            columns.setdefault(name, np.zeros((num_words, *rows.shape[1:]), rows.dtype))[word_index] = rows
    for name in columns.keys() & {"knn_probs", "top1_prob"}:
        columns[name] = columns[name].swapaxes(0, 1)
    return Cache(**columns, temperatures=tuple(temperatures or ()))
