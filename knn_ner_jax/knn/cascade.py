"""Words on their way to a search: packed into full blocks; those that do not fill one wait for the next batch.

A search costs at least one pass over its keys, however few words ask. Few of a batch's words need one, so that a block of
queries is gathered from several batches; the order of the words has no influence on what is found.

Who can be asked for the label of a word: panels of some rows, which are not always sure, and all rows.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.knn import pruning
from knn_ner_jax.knn.combine import interpolate
from knn_ner_jax.knn.pruning import UNSURE, Panel, Vote
from knn_ner_jax.knn.search import SearchSpec
from knn_ner_jax.knn.topk import Rows

_Tree = TypeVar("_Tree")


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
    """Words that wait until they fill a block.

    Attributes:
        words: as many as a block holds; those from `number` on are void.
        number: how many wait; fewer than a block holds.
        asked: words of all the blocks that were full, or the last.
        again: words among them that were searched again in float32, because a scan in bfloat16 proved nothing for them.
        within_rounding: words among them whose label rounding may change.
    """

    words: Words
    number: Int[Array, ""]
    asked: Int[Array, ""]
    again: Int[Array, ""]
    within_rounding: Int[Array, ""]

    @classmethod
    def empty(cls, rows: int, dim: int, num_labels: int) -> "Queue":
        """Return an empty queue."""
        words = Words(jnp.zeros((rows, dim)), jnp.zeros((rows, num_labels)), jnp.zeros(rows, jnp.int32))
        return cls(words, *(jnp.int32(0) for _ in range(4)))


class Said(NamedTuple):
    """What some rows say of a block of words.

    Attributes:
        labels: or `UNSURE`.
        again: which were searched again in float32.
        within_rounding: for which another label is as good but for rounding (`similarity.summation_error`).
    """

    labels: Int[Array, " words"]
    again: Bool[Array, " words"]
    within_rounding: Bool[Array, " words"]


class Ask(NamedTuple):
    """Some rows that can be asked.

    Attributes:
        label: what they say of a block of words.
        worth_asking: false: they would be sure of next to no word, so none is looked up among them.
    """

    label: Callable[[Words], Said]
    worth_asking: Bool[Array, ""]


def put(
    labels: Int[Array, " all"], word_index: Int[Array, " words"], new: Int[Array, " words"], where: Bool[Array, " words"]
) -> Int[Array, " all"]:
    """Write the labels of some words among those of a split."""
    return labels.at[jnp.where(where, word_index, len(labels))].set(new, mode="drop")


def _taken(words: Words, order: Int[Array, " taken"]) -> Words:
    return Words(*(array.at[order].get(mode="fill", fill_value=0) for array in words))


def in_blocks(
    compute: Callable[[Words], _Tree], words: Words, order: Int[Array, " packed"], num_blocks: Int[Array, ""], rows: int
) -> _Tree:
    """Apply a function to the first blocks of words in some order.

    Args:
        compute: from `rows` words to arrays whose last axis but one is theirs.
        words: all.
        order: which of them stand where, zeros where there is no such word; the first `num_blocks * rows` are used.
        num_blocks: may be traced.
        rows: words in a block.

    Returns:
        Its results in that order; zeros where there was no block.
    """
    shapes = jax.eval_shape(compute, Words(*(array[:rows] for array in words)))
    empty = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-2], len(order), x.shape[-1]), x.dtype), shapes)

    def one(i: Int[Array, ""], results: _Tree) -> _Tree:
        chosen = jax.lax.dynamic_slice_in_dim(order, i * rows, rows)
        return jax.tree.map(
            lambda all_, block: jax.lax.dynamic_update_slice_in_dim(all_, block, i * rows, axis=-2),
            results,
            compute(_taken(words, chosen)),
        )

    return jax.lax.fori_loop(0, num_blocks, one, empty)


def _unsure(words: Words) -> Said:
    none = jnp.zeros(len(words.word_index), bool)
    return Said(jnp.full(len(none), UNSURE), none, none)


class _Packed(NamedTuple):
    """Words that wait and words of a batch together, the wanted ones first in `order`; these fill `num_blocks`."""

    words: Words
    order: Int[Array, " packed"]
    number: Int[Array, ""]
    num_blocks: Int[Array, ""]


def _pack(queue: Queue, words: Words, wanted: Bool[Array, " words"], last: Bool[Array, ""], at_least: int) -> _Packed:
    rows = len(queue.words.word_index)
    words = Words(*(jnp.concatenate(pair) for pair in zip(queue.words, words, strict=True)))
    wanted = jnp.concatenate([jnp.arange(rows) < queue.number, wanted])
    total, count = len(wanted), wanted.sum()
    order = jnp.nonzero(wanted, size=(-(-total // rows) + 1) * rows, fill_value=total)[0]
    at_the_end = jnp.maximum((count + rows - 1) // rows, at_least)
    return _Packed(words, order, count, jnp.where(last, at_the_end, count // rows))


def label_in_turn(
    asks: Sequence[Ask],
    labels: Int[Array, " all"],
    queues: Sequence[Queue],
    words: Words,
    wanted: Bool[Array, " words"],
    last: Bool[Array, ""],
) -> tuple[Int[Array, " all"], tuple[Queue, ...]]:
    """Asks about as many words as fill whole blocks; what is left unsure queues for the next to be asked.

    All the later ones are asked inside the loop over the first one's blocks: a batch that fills none costs next to nothing.

    Args:
        asks: who is asked; whoever comes last is always sure.
        labels: of a split.
        queues: of each, as long as the blocks it is asked about.
        words: of a batch, or of a block that another was asked about.
        wanted: which to label.
        last: no others will follow: also ask about the block that is not full.

    Returns:
        The labels, with those that were settled; the queues.
    """
    if not asks:
        return labels, ()
    ask, queue, rows = asks[0], queues[0], len(queues[0].words.word_index)
    # At the end there is a block even where nobody waits: words may wait for those who are asked later.
    packed = _pack(queue, words, wanted, last, at_least=1 if len(asks) > 1 else 0)

    def one(i: Int[Array, ""], state: tuple[Array, tuple[Queue, ...], Queue]) -> tuple[Array, tuple[Queue, ...], Queue]:
        labels, later, queue = state
        chosen = jax.lax.dynamic_slice_in_dim(packed.order, i * rows, rows)
        block, filled = _taken(packed.words, chosen), chosen < len(packed.words.word_index)
        is_asked = ask.worth_asking & filled.any()
        said = jax.lax.cond(is_asked, ask.label, _unsure, block)
        sure = filled & (said.labels != UNSURE)
        labels = put(labels, block.word_index, said.labels, sure)
        labels, later = label_in_turn(asks[1:], labels, later, block, filled & ~sure, last & (i + 1 == packed.num_blocks))
        queue = queue._replace(
            asked=queue.asked + (is_asked & filled).sum(),
            again=queue.again + (filled & said.again).sum(),
            within_rounding=queue.within_rounding + (filled & said.within_rounding).sum(),
        )
        return labels, later, queue

    labels, later, queue = jax.lax.fori_loop(0, packed.num_blocks, one, (labels, tuple(queues[1:]), queue))
    waiting = _taken(packed.words, jax.lax.dynamic_slice_in_dim(packed.order, packed.num_blocks * rows, rows))
    number = packed.number - jnp.minimum(packed.number, packed.num_blocks * rows)
    return labels, (queue._replace(words=waiting, number=number), *later)


def _vote(panel: Panel, words: Words, temperature: Float[Array, ""], spec: SearchSpec) -> tuple[Vote, Bool[Array, " words"]]:
    """Return the vote of a panel, and for which words it was searched again in float32."""
    if spec.k == "all":
        result = spec.search(words.queries, panel.rows, None, temperature[None])
        assert result.knn_probs is not None
        said = pruning.vote_of_all(result.knn_probs[0], panel, words.queries, temperature, spec.metric)
    else:
        k = min(spec.k + 1, len(panel.rows.values))  # one more than vote: how far it is behind tells whether it could
        result = spec.search(words.queries, panel.rows, k, None, spec.search_dtype)
        assert result.neighbours is not None
        args = panel, words.queries, temperature, spec.num_labels, spec.metric
        said = pruning.vote(result.neighbours, spec.k, *args)
    return said, jnp.zeros(len(words.word_index), bool) if result.uncertified is None else result.uncertified


def ask_panel(
    panel: Panel, words: Words, temperature: Float[Array, ""], knn_weight: Float[Array, ""], spec: SearchSpec
) -> Said:
    """Return the labels that a panel is sure of.

    Args:
        panel: some rows of a datastore; with `k: all` one that leaves out rows of the usual tag alone.
        words: any.
        temperature: of the vote.
        knn_weight: of the mix.
        spec: what to compile for.
    """
    said, again = _vote(panel, words, temperature, spec)
    return Said(pruning.settle(words.p_ner, said, panel, knn_weight), again, jnp.zeros_like(again))


def ask_all(rows: Rows, words: Words, temperature: Float[Array, ""], knn_weight: Float[Array, ""], spec: SearchSpec) -> Said:
    """Return the labels with the largest p(y) by the vote of all rows (paper, 3 and 4), and which rounding may change."""
    panel = pruning.all_rows(rows)
    said, again = _vote(panel, words, temperature, spec)
    is_sure = pruning.settle(words.p_ner, said, panel, knn_weight) != UNSURE
    return Said(interpolate(words.p_ner, said.p_knn, knn_weight).argmax(axis=1), again, ~is_sure)
