"""Batches of static shapes: windows are bucketed by length, so that little of a batch is padding.

The order of batches is a pure function of (seed, epoch): a resumed run continues at any batch by its number alone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from knn_ner_jax import sharding
from knn_ner_jax.data.pinyin import LETTERS
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit

Array = np.ndarray | jax.Array
PREFETCH = 4  # batches assembled ahead of the device
ALL_ROWS = slice(None)


class Batch(NamedTuple):
    """B windows padded to one length L.

    Attributes:
        token_ids: vocabulary ids; padding positions hold 0 and are told apart by the mask alone.
        attention_mask: True at every token, special tokens included.
        word_index: number of the word that each position is labelled as, or `NO_WORD`.
        labels: gold label of that word; 0 where there is none.
        pinyin_ids: letters of each token's pinyin, for ChineseBERT; None for other encoders.
    """

    token_ids: Int[Array, "batch length"]
    attention_mask: Bool[Array, "batch length"]
    word_index: Int[Array, "batch length"]
    labels: Int[Array, "batch length"]
    pinyin_ids: Int[Array, "batch length letters"] | None = None


class BatchPlan(NamedTuple):
    """The windows of a batch, by number, and the length they are padded to."""

    windows: Int[np.ndarray, " windows"]
    length: int


def bucket_length(length: int, multiple: int = 8) -> int:
    """Return the padded length of a window: a multiple of 8 up to 64, of 16 up to 128, of 32 up to 256, and so on.

    >>> [bucket_length(length) for length in (3, 8, 9, 65, 200)]
    [8, 8, 16, 80, 224]

    Args:
        length: number of token ids in the window.
        multiple: the smallest step, a power of two; a larger one makes fewer shapes and more padding.
    """
    step = max(multiple, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def _chunks(windows: np.ndarray, lengths: np.ndarray, batch_size: int, multiple: int) -> Iterator[BatchPlan]:
    for start in range(0, len(windows), batch_size):
        members = windows[start : start + batch_size]
        yield BatchPlan(members, bucket_length(int(lengths[members].max()), multiple))


def plan_evaluation(lengths: Int[np.ndarray, " windows"], batch_size: int, multiple: int = 8) -> list[BatchPlan]:
    """Plan batches of every window once, longest first, so that what is too large for memory fails at once."""
    return list(_chunks(np.argsort(-lengths, kind="stable"), lengths, batch_size, multiple))


def plan_epoch(
    lengths: Int[np.ndarray, " windows"], batch_size: int, seed: int, epoch: int, multiple: int = 8
) -> list[BatchPlan]:
    """Plan random batches of windows of like length, every window once; every epoch has as many batches.

    Windows that do not fill a batch of their own bucket are batched with the next shorter ones; one batch may stay short.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths))
    buckets = np.array([bucket_length(int(length), multiple) for length in lengths[shuffled]])
    plans: list[BatchPlan] = []
    left_over = []
    for bucket in np.unique(buckets):
        members = shuffled[buckets == bucket]
        full = len(members) // batch_size * batch_size
        plans += _chunks(members[:full], lengths, batch_size, multiple)
        left_over.append(members[full:])
    plans += _chunks(np.concatenate(left_over)[::-1], lengths, batch_size, multiple)
    return [plans[i] for i in rng.permutation(len(plans))]


def padding_fraction(plans: Sequence[BatchPlan], lengths: Int[np.ndarray, " windows"], batch_size: int) -> float:
    """Return the fraction of all positions of all batches that hold no token, in [0, 1]."""
    positions = sum(batch_size * plan.length for plan in plans)
    return 1.0 - sum(int(lengths[plan.windows].sum()) for plan in plans) / positions


def assemble(split: EncodedSplit, plan: BatchPlan, rows: int, own_rows: slice = ALL_ROWS) -> Batch:
    """Pad the windows of a plan to [rows, plan.length]; missing windows become rows without tokens.

    Args:
        split: the split the windows belong to.
        plan: the windows of one batch.
        rows: number of rows of the whole batch.
        own_rows: the rows to return.
    """
    shape = (len(range(rows)[own_rows]), plan.length)
    token_ids, labels = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask, word_index = np.zeros(shape, bool), np.full(shape, NO_WORD, np.int32)
    pinyin_ids = None if split.windows[0].pinyin_ids is None else np.zeros((*shape, LETTERS), np.int32)
    for row, index in enumerate(plan.windows[own_rows]):
        window = split.windows[index]
        length = len(window.token_ids)
        token_ids[row, :length], mask[row, :length], word_index[row, :length] = window.token_ids, True, window.word_index
        if pinyin_ids is not None:
            pinyin_ids[row, :length] = window.pinyin_ids
    labels[word_index != NO_WORD] = split.label_ids[word_index[word_index != NO_WORD]]
    return Batch(token_ids, mask, word_index, labels, pinyin_ids)


def batches(split: EncodedSplit, plans: Sequence[BatchPlan], rows: int, own_rows: slice = ALL_ROWS) -> Iterator[Batch]:
    """Assemble planned batches, or some of their rows, in a background thread, a few ahead of the device."""
    dataset = grain.MapDataset.source(plans).map(lambda plan: assemble(split, plan, rows, own_rows))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    return iter(dataset.to_iter_dataset(options))


def placed_batches(split: EncodedSplit, plans: Sequence[BatchPlan], batch_size: int, mesh: Mesh) -> Iterator[Batch]:
    """Yield planned batches on the devices of a mesh; every host assembles only the rows of its own devices."""
    rows = sharding.round_up(batch_size, mesh)
    for batch in batches(split, plans, rows, sharding.host_rows(rows, mesh)):
        yield sharding.put_batch(batch, mesh)
