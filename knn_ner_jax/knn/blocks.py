"""Words to look up, in blocks: each device gives as many of its own, and only these travel to all.

To look words up costs a pass over all keys, however few they are. So words wait, where they were encoded, until they fill a
block.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.sharding import everywhere

_Tree = TypeVar("_Tree")


class Words(NamedTuple):
    """Words of a batch, or of several, by the device that encoded them.

    Attributes:
        queries: states like the keys.
        p_ner: the tagger's probabilities.
        word_index: which word of the split it is, or `NO_WORD`.
    """

    queries: Float[Array, "*devices words dim"]
    p_ner: Float[Array, "*devices words labels"]
    word_index: Int[Array, "*devices words"]


class Queue(NamedTuple):
    """Words that wait until they fill a block: to look one up costs a pass over all keys, however few ask.

    Attributes:
        words: of each device as many as it gives to a block; those from `number` on are void.
        number: how many wait on each device; fewer than it gives to a block.
    """

    words: Words
    number: Int[Array, " devices"]

    @classmethod
    def empty(cls, devices: int, rows: int, dim: int, num_labels: int) -> "Queue":
        """Return an empty queue for blocks of so many words, of all devices together."""
        shape = devices, max(rows // devices, 1)
        words = Words(jnp.zeros((*shape, dim)), jnp.zeros((*shape, num_labels)), jnp.zeros(shape, jnp.int32))
        return cls(words, jnp.zeros(devices, jnp.int32))


@jax.vmap
def take(parts: Sequence[Words], order: Int[Array, " taken"]) -> Words:
    """Return words of a device by their places, where those of a part follow those before; void beyond the last."""
    taken, end = [], 0
    for part in parts:
        start, end = end, end + part.word_index.shape[0]
        inside = jnp.where((start <= order) & (order < end), order - start, end - start)
        # So that a part to which a word does not belong adds nothing.
        part = part._replace(word_index=part.word_index - NO_WORD)
        taken.append([array.at[inside].get(mode="fill", fill_value=0) for array in part])
    words = Words(*(sum(columns[1:], columns[0]) for columns in zip(*taken, strict=True)))
    return words._replace(word_index=words.word_index + NO_WORD)


@partial(jax.vmap, in_axes=(0, None))
def order_of(wanted: Bool[Array, " words"], rows: int) -> Int[Array, " places"]:
    """Return where a device's wanted words are, then as many places of none as fill up its last block and one more."""
    words = wanted.shape[0]  # `len` would have to know it, and in an exported function it is a symbol
    return jnp.nonzero(wanted, size=(-(-words // rows) + 1) * rows, fill_value=words)[0]


def in_blocks(
    compute: Callable[[Words], _Tree],
    parts: Sequence[Words],
    order: Int[Array, "devices places"],
    num_blocks: Int[Array, ""],
    rows: int,
    mesh: Mesh | None,
) -> _Tree:
    """Apply a function to the first blocks of words in some order; only these travel between devices.

    Args:
        compute: from words of all devices to arrays whose last axis but one is theirs.
        parts: all words, in parts.
        order: which of them stand where on each device (see `take`); the first `num_blocks * rows` places are used.
        num_blocks: may be traced; the same on all devices.
        rows: words of each device in a block.
        mesh: the devices; None for one.

    Returns:
        Its results in that order, the axis of the devices before that of the words; zeros where there was no block.
    """
    devices, places = order.shape

    def block(i: Int[Array, ""] | int) -> _Tree:
        words = take(parts, jax.lax.dynamic_slice_in_dim(order, i * rows, rows, axis=1))
        gathered = everywhere(jax.tree.map(lambda x: x.reshape(devices * rows, *x.shape[2:]), words), mesh)
        return jax.tree.map(lambda x: x.reshape(*x.shape[:-2], devices, rows, x.shape[-1]), compute(gathered))

    shapes = jax.eval_shape(block, 0)
    empty = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-2], places, x.shape[-1]), x.dtype), shapes)

    def one(i: Int[Array, ""], results: _Tree) -> _Tree:
        return jax.tree.map(
            lambda all_, new: jax.lax.dynamic_update_slice_in_dim(all_, new, i * rows, axis=-2), results, block(i)
        )

    return jax.lax.fori_loop(0, num_blocks, one, empty)


def look_up(
    compute: Callable[[Words], _Tree],
    queue: Queue,
    parts: Sequence[Words],
    is_open: Bool[Array, "devices words"],
    last: Bool[Array, ""],
    mesh: Mesh | None = None,
) -> tuple[Int[Array, "devices places"], Int[Array, "devices places"], _Tree, Queue]:
    """Apply a function to the words that fill whole blocks, those of the queue first; the others queue.

    Args:
        compute: see `in_blocks`.
        queue: words of earlier batches; its length is what each device gives to a block.
        parts: words of a batch, and others.
        is_open: which of them take part.
        last: no others will follow: also take the block that is not full.
        mesh: the devices; None for one.

    Returns:
        The `word_index` of every word that took part, `NO_WORD` where there is none; its place among queue and parts; the
        results; and the words that wait.
    """
    rows = queue.words.word_index.shape[1]
    parts = [queue.words, *parts]
    is_open = jnp.concatenate([jnp.arange(rows)[None] < queue.number[:, None], is_open], axis=1)
    order, number = order_of(is_open, rows), is_open.sum(axis=1)
    # As many on all devices, because a block has words of all; where a device has none left, void ones.
    num_blocks = jnp.where(last, (number + rows - 1) // rows, number // rows).max()
    done = jnp.minimum(number, num_blocks * rows)
    places = jnp.where(jnp.arange(order.shape[1])[None] < done[:, None], order, is_open.shape[1])
    every_index = jnp.concatenate([part.word_index for part in parts], axis=1)
    word_index = jax.vmap(lambda x, at: x.at[at].get(mode="fill", fill_value=NO_WORD))(every_index, places)
    results = in_blocks(compute, parts, order, num_blocks, rows, mesh)
    waiting = take(parts, jax.lax.dynamic_slice_in_dim(order, num_blocks * rows, rows, axis=1))
    return word_index, places, results, Queue(waiting, number - done)
