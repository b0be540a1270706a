"""The compiled functions (paper, section 3): `tag` labels a batch in one program, `retrieve` returns neighbours instead.

Every device encodes its part of a batch and keeps the words of it. To look words up, each device gives as many to a block,
which travels to all: what need not be looked up stays where it is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float, Int, Num

from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.tag_schemes import OUTSIDE_ID
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.knn import search
from knn_ner_jax.knn.blocks import Queue, Words, in_blocks, look_up, order_of, take
from knn_ner_jax.knn.border import UNSURE, Border, Sweep, all_rows, ask, settle, settle_sweep
from knn_ner_jax.knn.combine import Cache, CountedLabels, LabelProbabilities, interpolate, needs_retrieval
from knn_ner_jax.knn.datastore import Datastore, key_states
from knn_ner_jax.knn.search import SearchSpec
from knn_ner_jax.knn.topk import Rows
from knn_ner_jax.models.tagger import Params, Tagger
from knn_ner_jax.sharding import by_device, everywhere

QUERY_ROWS = 256
FEW_QUERY_ROWS = 64  # on CPU, where few words are left to compare with all rows, so that a block is seldom full
_BLOCKS, _FEWEST_ROWS = 8, 4  # that all positions of a batch fill at least, where those have so many rows

_Tree = TypeVar("_Tree")


@dataclass(frozen=True, kw_only=True)
class RetrievalSpec(SearchSpec):
    """The choices that the compiled functions are compiled for; hashable, a static argument.

    Its `num_labels` are the labels of tagger and datastore together; the tagger gives those beyond its own probability 0.

    Attributes:
        tagger: the network.
        layers: hidden states that make a key, as non-negative numbers; 0 is the embeddings' output.
        query_rows: words compared at a time, of all devices together; at least one of each.
        rest_rows: likewise where words are compared with all rows that the border does not settle.
    """

    tagger: Tagger
    layers: tuple[int, ...]
    query_rows: int = QUERY_ROWS
    rest_rows: int = QUERY_ROWS

    @property
    def num_devices(self) -> int:
        """Devices that share each batch."""
        return 1 if self.mesh is None else self.mesh.size


class Tagging(NamedTuple):
    """The labels of a split so far, and the words that wait for a search.

    Attributes:
        tagger: the tagger's own label ids, by word of the split, of the words that each device encoded; 0 for others.
        knn: likewise those of the mixed probabilities; final when the last batch is done.
        p_label: likewise the probabilities of the label `knn`, by the tagger and by the vote, of words that were looked up.
        for_border: words to look up among the border; none without one.
        for_all: words to look up among all rows.
        at_border: how many words were looked up among the border.
        searched: how many words were looked up among all rows.
        within_rounding: of these, how many have a label that rounding may change (`similarity.summation_error`).
    """

    tagger: Int[Array, "devices words"]
    knn: Int[Array, "devices words"]
    p_label: Float[Array, "devices words 2"]
    for_border: Queue
    for_all: Queue
    at_border: Int[Array, ""]
    searched: Int[Array, ""]
    within_rounding: Int[Array, ""]


class Retrieved(NamedTuple):
    """The words of a batch with their neighbours, for tuning and explanations; some rows are void.

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
    num_words: int,
    devices: int,
    blocks: tuple[int, int],
    dim: int,
    num_labels: int,
    by_device: Sharding,
    everywhere: Sharding,
) -> Callable[[], Tagging]:
    def state() -> Tagging:
        unlabelled = jnp.zeros((2, devices, num_words), jnp.int32)
        for_border, for_all = (Queue.empty(devices, rows, dim, num_labels) for rows in blocks)
        p_label, counts = jnp.zeros((devices, num_words, 2)), (jnp.int32(0) for _ in range(3))
        return Tagging(unlabelled[0], unlabelled[1], p_label, for_border, for_all, *counts)

    placement = Tagging(*[by_device] * 5, *[everywhere] * 3)  # type: ignore[arg-type]
    return jax.jit(state, out_shardings=placement)


def begin(num_words: int, datastore: Datastore, spec: RetrievalSpec) -> Tagging:
    """Return the state before the first batch of a split of at most `num_words`, on the devices of the datastore."""
    shape = num_words, spec.num_devices, (spec.query_rows, spec.rest_rows), datastore.keys.shape[1], spec.num_labels
    return _beginning(*shape, datastore.keys.sharding, datastore.num_rows.sharding)()


@partial(jax.jit, static_argnames="spec")
def _of_all_devices(by_word: _Tree, spec: RetrievalSpec) -> _Tree:
    return everywhere(jax.tree.map(lambda x: x.sum(axis=0), by_word), spec.mesh)


def labels_of(tagging: Tagging, num_words: int, knn_weight: float, spec: RetrievalSpec) -> CountedLabels:
    """Return the labels of every word of a split, and how many were looked up.

    Args:
        tagging: the state after the last batch.
        num_words: of the split.
        knn_weight: of the labels.
        spec: that `tag` was compiled for.
    """
    by_word = _of_all_devices((tagging.tagger, tagging.knn, tagging.p_label), spec=spec)
    found, counts = jax.device_get((by_word, (tagging.at_border, tagging.searched, tagging.within_rounding)))
    tagger, knn, p_label = (column[:num_words] for column in found)
    p_label = np.where(knn[:, None] == OUTSIDE_ID, np.float32(np.nan), p_label)
    p = np.asarray(interpolate(p_label[:, :1], p_label[:, 1:], knn_weight))[:, 0]
    return CountedLabels(tagger, knn, LabelProbabilities(p, *p_label.T), *map(int, counts))


def _encode(params: Params, datastore: Datastore, batch: Batch, spec: RetrievalSpec) -> Words:
    """Return all positions of a batch, words and others, with states and probabilities, by device."""
    output = spec.tagger.run(params, batch)
    p_ner = jax.nn.softmax(output.logits)
    p_ner = jnp.pad(p_ner, ((0, 0), (0, 0), (0, spec.num_labels - p_ner.shape[-1])))
    queries = key_states(output.hidden_states, spec.layers, datastore.projection)
    word_index = jnp.asarray(batch.word_index)
    positions = spec.num_devices, word_index.size // spec.num_devices
    words = Words(queries.reshape(*positions, -1), p_ner.reshape(*positions, -1), word_index.reshape(positions))
    return by_device(words, spec.mesh)


@jax.vmap
def _put(
    old: Num[Array, "all *columns"],
    word_index: Int[Array, " words"],
    new: Num[Array, "words *columns"],
    where: Bool[Array, " words"],
) -> Num[Array, "all *columns"]:
    """Write what is known of some words of a device among those of a split, but for `NO_WORD`."""
    return old.at[jnp.where(where & (word_index != NO_WORD), word_index, len(old))].set(new, mode="drop")


def _p_label(
    p_ner: Float[Array, "words labels"], p_knn: Float[Array, "words labels"], label: Int[Array, " words"]
) -> Float[Array, "words 2"]:
    return jnp.take_along_axis(jnp.stack([p_ner, p_knn], axis=-1), label[:, None, None], axis=1)[:, 0]


def label_by_border(
    border: Border,
    words: Words,
    temperature: Float[Array, ""],
    knn_weight: Float[Array, ""],
    with_scores: Bool[Array, ""],
    spec: SearchSpec,
) -> tuple[Int[Array, "words 1"], Float[Array, "words 2"]]:
    """Return the labels that a border settles, `UNSURE` elsewhere, and their probabilities (`Tagging.p_label`).

    With scores, a label other than O is settled only by the vote of all rows, whose probability is the true one.
    """
    said = ask(border, words.queries, temperature, spec)
    label = settle(words.p_ner, said, border.usual, knn_weight)
    label = jnp.where(said.is_true | (label == OUTSIDE_ID) | ~with_scores, label, UNSURE)
    return label[:, None], _p_label(words.p_ner, said.p_knn, label)


def label_by_all(
    every_row: Border, words: Words, temperature: Float[Array, ""], knn_weight: Float[Array, ""], spec: SearchSpec
) -> tuple[Int[Array, "words 1"], Float[Array, "words 2"], Bool[Array, "words 1"]]:
    """Return the labels with the largest p(y) by the vote of all rows (paper, 3, 4), `p_label`, and which are unsure."""
    said = ask(every_row, words.queries, temperature, spec)
    is_sure = settle(words.p_ner, said, every_row.usual, knn_weight) != UNSURE
    # No row is left out, so that what is unsure is so for rounding alone.
    label = interpolate(words.p_ner, said.p_knn, knn_weight).argmax(axis=1)
    return label[:, None], _p_label(words.p_ner, said.p_knn, label), ~is_sure[:, None]


@partial(jax.jit, static_argnames="spec", donate_argnames="tagging")
def tag(
    tagging: Tagging,
    params: Params,
    datastore: Datastore,
    border: Border | None,
    batch: Batch,
    temperature: Float[Array, ""],
    knn_weight: Float[Array, ""],
    with_scores: Bool[Array, ""],
    last: Bool[Array, ""],
    *,
    spec: RetrievalSpec,
) -> Tagging:
    """Label a batch: encoder, head, search, vote and mix in one program, compiled once for each batch shape and k.

    Only words are looked up, of them only those whose label a vote can change (`combine.needs_retrieval`), and among all
    rows only those that the border does not settle (see `border`). The labels are those of a search of all rows for every
    word: the same states give the same labels. States differ in their last bits between batches, devices and
    processors; `Tagging.within_rounding` counts the words whose label so small a difference could change.

    Args:
        tagging: the state from `begin`, or after the batch before; its memory is reused.
        params: parameters of `spec.tagger`.
        datastore: what is searched; its contents are traced: another one of the same shape compiles nothing.
        border: some of its rows, or None to search all rows for every word.
        batch: windows of token ids.
        temperature: of the vote, > 0.
        knn_weight: weight of the vote in the mix, in [0, 1].
        with_scores: whether every word that gets a label other than O is looked up, so that its `p_label` is known.
        last: whether no other batch follows: words that wait for a full block are looked up as well.
        spec: what to compile for.
    """
    how: dict[str, Any] = {"temperature": temperature, "knn_weight": knn_weight, "spec": spec}
    words = _encode(params, datastore, batch, spec)
    tagger, is_word = words.p_ner.argmax(axis=-1), words.word_index != NO_WORD
    labels, p_label, at_border = _put(tagging.knn, words.word_index, tagger, is_word), tagging.p_label, tagging.at_border
    can_change = jax.vmap(needs_retrieval, in_axes=(0, None))(words.p_ner, knn_weight)
    is_open = is_word & (can_change | with_scores & (tagger != OUTSIDE_ID))
    parts, for_border = [words], tagging.for_border
    if border is not None:
        by_border = partial(label_by_border, border, with_scores=with_scores, **how)
        word_index, places, settled, for_border = look_up(by_border, tagging.for_border, parts, is_open, last, spec.mesh)
        label, of_label = by_device((settled[0][..., 0], settled[1]), spec.mesh)
        labels = _put(labels, word_index, label, label != UNSURE)
        p_label = _put(p_label, word_index, of_label, label != UNSURE)
        parts = [tagging.for_border.words, words]
        nowhere = jnp.zeros((len(is_open), for_border.words.word_index.shape[1] + is_open.shape[1]), bool)
        is_open = jax.vmap(lambda x, at, new: x.at[at].set(new, mode="drop"))(nowhere, places, label == UNSURE)
        at_border += (word_index != NO_WORD).sum()
    by_all = partial(label_by_all, all_rows(datastore.rows), **how)
    word_index, _, found, for_all = look_up(by_all, tagging.for_all, parts, is_open, last, spec.mesh)
    label, of_label, hangs_on_rounding = by_device(found, spec.mesh)
    is_done = word_index != NO_WORD
    by_word = (
        _put(tagging.tagger, words.word_index, tagger, is_word),
        _put(labels, word_index, label[..., 0], is_done),
        _put(p_label, word_index, of_label, is_done),
    )
    counts = (
        at_border,
        tagging.searched + is_done.sum(),
        tagging.within_rounding + (is_done & hangs_on_rounding[..., 0]).sum(),
    )
    return Tagging(*by_device((*by_word, for_border, for_all), spec.mesh), *everywhere(counts, spec.mesh))


@partial(jax.jit, static_argnames="spec")
def retrieve(
    params: Params,
    datastore: Datastore,
    batch: Batch,
    temperatures: Float[Array, " temperatures"] | None,
    sweep: Sweep | None = None,
    *,
    spec: RetrievalSpec,
) -> Retrieved:
    """Look up every word of a batch and return the neighbours, and p_kNN over all rows, instead of labels.

    Args:
        params: parameters of `spec.tagger`.
        datastore: what is searched.
        batch: windows of token ids.
        temperatures: of p_kNN over all rows, which `k: all` needs; None for neighbours alone.
        sweep: settings whose labels alone are wanted: words that its border settles return with neighbours in the border.
        spec: what to compile for; k is how many neighbours to return (`all`: none, p_kNN over all rows alone).
    """
    k = None if spec.k == "all" else spec.k

    def find(words: Words, wanted: Array, rows: Rows, k: int | None, size: int) -> tuple[Array, search.SearchResult]:
        def compute(block: Words) -> search.SearchResult:
            return spec.search(block.queries, rows, k, temperatures)

        size = min(max(size // spec.num_devices, 1), wanted.shape[1])
        order, num_blocks = order_of(wanted, size), (-(-wanted.sum(axis=1) // size)).max()
        return order, in_blocks(compute, [words], order, num_blocks, size, spec.mesh)

    words = _encode(params, datastore, batch, spec)
    query_rows, rest_rows = spec.query_rows, spec.rest_rows
    if spec.small_batches:  # whose words would fill a small part of a block
        share = words.word_index.size // _BLOCKS
        query_rows, rest_rows = min(query_rows, max(share, search.FEW_QUERIES)), min(rest_rows, max(share, _FEWEST_ROWS))
    first, more = (datastore.rows, 0) if sweep is None else (sweep.border.rows, 1)  # one more than vote (`settle_sweep`)
    order, result = find(words, words.word_index != NO_WORD, first, None if k is None else k + more, query_rows)
    words = take([words], order)
    if sweep is not None:
        queries, p_ner, (near, knn_probs, _) = *_flat(words[:2]), _flat(result)
        is_open = ~settle_sweep(p_ner, queries, near, knn_probs, sweep, spec.metric).reshape(order.shape)
        places, others = find(words, is_open & (words.word_index != NO_WORD), datastore.rows, k, rest_rows)
        if near is not None:
            result = result._replace(neighbours=jax.tree.map(lambda column: column[..., :k], result.neighbours))
        put = jax.vmap(lambda old, at, new: old.at[..., at, :].set(new, mode="drop"), in_axes=(-3, 0, -3), out_axes=-3)
        result = jax.tree.map(lambda old, new: put(old, places, new), result, others)
    return everywhere(Retrieved(words.word_index.reshape(-1), _flat(words.p_ner), _flat(result)), spec.mesh)


def _flat(tree: _Tree) -> _Tree:
    """Put the words of all devices one after another."""
    return jax.tree.map(lambda x: x.reshape(*x.shape[:-3], -1, x.shape[-1]), tree)


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
        is_word = word_index != NO_WORD
        for name, values in found.items():
            rows = np.asarray(values)[is_word]
            columns.setdefault(name, np.zeros((num_words, *rows.shape[1:]), rows.dtype))[word_index[is_word]] = rows
    for name in columns.keys() & {"knn_probs", "top1_prob"}:
        columns[name] = columns[name].swapaxes(0, 1)
    return Cache(**columns, temperatures=tuple(temperatures or ()))
