"""Words on their way to a search: packed into full blocks; those that do not fill one wait for the next batch.

A search costs at least one pass over all keys, however few words ask. Few of a batch's words need one, so that a block of
queries is gathered from several batches; the order of the words has no influence on what is found.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_Tree = TypeVar("_Tree")


class Words(NamedTuple):
    """Words of a batch, or of several.

    Attributes:
        queries: states like the keys.
        p_ner: the tagger's probabilities.
        slots: which word of the split it is, or `NO_WORD`.
    """

    queries: Float[Array, "words dim"]
    p_ner: Float[Array, "words labels"]
    slots: Int[Array, " words"]


class Waiting(NamedTuple):
    """Fewer words than a block holds; those from `number` on are void."""

    words: Words
    number: Int[Array, ""]

    @classmethod
    def none(cls, rows: int, dim: int, num_labels: int) -> "Waiting":
        """Nobody waits."""
        words = Words(jnp.zeros((rows, dim)), jnp.zeros((rows, num_labels)), jnp.zeros(rows, jnp.int32))
        return cls(words, jnp.int32(0))


def put(
    labels: Int[Array, " all"], slots: Int[Array, " words"], new: Int[Array, " words"], where: Bool[Array, " words"]
) -> Int[Array, " all"]:
    """Writes the labels of some words among those of a split."""
    return labels.at[jnp.where(where, slots, len(labels))].set(new, mode="drop")


def joined(waiting: Waiting, words: Words, wanted: Bool[Array, " words"]) -> tuple[Words, Bool[Array, " joined"]]:
    """Those that wait, then those of a batch; and which of all are wanted."""
    waits = jnp.arange(len(waiting.words.slots)) < waiting.number
    return Words(*(jnp.concatenate(pair) for pair in zip(waiting.words, words, strict=True))), jnp.concatenate(
        [waits, wanted]
    )


def _taken(words: Words, order: Int[Array, " taken"]) -> Words:
    return Words(*(array.at[order].get(mode="fill", fill_value=0) for array in words))


def in_blocks(
    compute: Callable[[Words], _Tree], words: Words, order: Int[Array, " packed"], num_blocks: Int[Array, ""], rows: int
) -> _Tree:
    """Applies a function to the first blocks of words in some order.

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


def label_full_blocks(
    label: Callable[[Words], Int[Array, "rows columns"]],
    words: Words,
    wanted: Bool[Array, " words"],
    last: Bool[Array, ""],
    rows: int,
) -> tuple[Int[Array, "words columns"], Bool[Array, " words"], Waiting]:
    """Labels as many of the wanted words as fill whole blocks, or all if there will be no others.

    Args:
        label: of a block of words, and what else is to be known of each.
        words: those that wait and those of a batch.
        wanted: which to label.
        last: also take the block that is not full.
        rows: words in a block.

    Returns:
        What `label` says of them, of which words it says it, and those that wait.
    """
    total, count = len(words.slots), wanted.sum()
    order = jnp.nonzero(wanted, size=(-(-total // rows) + 1) * rows, fill_value=total)[0]
    num_blocks = (count + jnp.where(last, rows - 1, 0)) // rows
    said = in_blocks(label, words, order, num_blocks, rows)
    done = jnp.minimum(count, num_blocks * rows)
    places = jnp.where(jnp.arange(len(order)) < done, order, total)
    rest = jax.lax.dynamic_slice_in_dim(order, num_blocks * rows, rows)
    return (
        jnp.zeros((total, said.shape[1]), said.dtype).at[places].set(said, mode="drop"),
        jnp.zeros(total, bool).at[places].set(True, mode="drop"),
        Waiting(_taken(words, rest), count - done),
    )
