"""Batches of static shapes, each of which costs a compilation.

Rows of one length hold as many windows as fit, which do not see each other, so that little is padding and one shape will do
for all batches of a run. What training reads in which step is a pure function of (seed, epoch), so that a resumed run
continues at any batch by its number alone.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from knn_ner_jax import sharding
from knn_ner_jax.config import PART_LENGTH
from knn_ner_jax.data.pinyin import LETTERS
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit

Array = np.ndarray | jax.Array
_Item = TypeVar("_Item")
PREFETCH = 4  # batches assembled ahead of the device
ALL_ROWS = slice(None)
NO_WINDOW = -1
ROW_LENGTH = 128  # of rows in evaluation; longer ones would attend to more that they do not see


class Batch(NamedTuple):
    """B rows of one length L, each with a window, or several one after another.

    Attributes:
        token_ids: vocabulary ids; padding positions hold 0 and are told apart by `segments` alone.
        segments: number of the window in its row that each token is of, special tokens included, from 1; 0 at padding.
        word_index: number of the word that each position is labelled as, or `NO_WORD`.
        labels: gold label of that word; 0 where there is none.
        pinyin_ids: letters of each token's pinyin, for ChineseBERT; None for other encoders.
    """

    token_ids: Int[Array, "batch length"]
    segments: Int[Array, "batch length"]
    word_index: Int[Array, "batch length"]
    labels: Int[Array, "batch length"]
    pinyin_ids: Int[Array, "batch length letters"] | None = None


class BatchShape(NamedTuple):
    """Rows of a batch, and positions in each."""

    num_rows: int
    length: int


class BatchPlan(NamedTuple):
    """The windows of a batch by number, and its shape.

    Attributes:
        parts: the windows in each part of a row, part after part and row after row; parts beyond these have none.
        num_rows: of the batch.
        length: of its rows.
        parts_a_row: how many parts of one length a row has, which no window leaves.
    """

    parts: Sequence[Sequence[int]]
    num_rows: int
    length: int
    parts_a_row: int = 1

    @property
    def windows(self) -> list[int]:
        """The windows of all rows."""
        return [window for part in self.parts for window in part]


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


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Put windows into few rows: each begins with the longest window left, and others fill it as full as can be.

    >>> pack([3, 8, 5, 2], 8)
    [[1], [2, 0], [3]]

    Args:
        lengths: of the windows, from 1 to `row_length` each.
        row_length: of the rows.

    Returns:
        The windows in each row.
    """
    left: list[list[int]] = [[] for _ in range(row_length + 1)]  # windows by length
    for window, length in enumerate(lengths):
        left[length].append(window)
    rows: list[list[int]] = []
    for longest in range(row_length, 0, -1):
        while left[longest]:
            row, room = [left[longest].pop()], row_length - longest
            options = [n for n in range(min(room, longest), 0, -1) for _ in left[n][: room // n]]
            sums = [1]  # bit n of sums[i]: some of the first i options have n tokens together
            for length in options:
                if sums[-1] >> room:
                    break
                sums.append((sums[-1] | sums[-1] << length) & ((2 << room) - 1))
            tokens = sums.pop().bit_length() - 1
            while sums:
                length, without = options[len(sums) - 1], sums.pop()
                if not without >> tokens & 1:
                    row.append(left[length].pop())
                    tokens -= length
            rows.append(row)
    return rows


def plan_evaluation(
    lengths: Int[np.ndarray, " windows"], batch_size: int, multiple: int = 8, like: Int[np.ndarray, " others"] | None = None
) -> list[BatchPlan]:
    """Plan packed batches of one shape with every window once.

    Rows have `ROW_LENGTH`, or the multiple of `PART_LENGTH` that the longest window needs, and a batch has so many, a power
    of two, that it holds about `batch_size` windows, but no more than all windows fill.

    Args:
        lengths: of the windows.
        batch_size: windows in a batch, on average.
        multiple: see `bucket_length`.
        like: lengths of windows that decide the shape; None: `lengths`.
    """
    decisive = lengths if like is None else like
    length = max(ROW_LENGTH, bucket_length(int(decisive.max()), max(multiple, PART_LENGTH)))
    return plan_batches(lengths, BatchShape(_num_rows(decisive, batch_size, length), length))


def _num_rows(lengths: Int[np.ndarray, " windows"], batch_size: int, length: int) -> int:
    needed = -(-int(lengths.sum()) * min(batch_size, len(lengths)) // (length * len(lengths)))
    return 1 << (needed - 1).bit_length()


def plan_batches(lengths: Int[np.ndarray, " windows"], shape: BatchShape) -> list[BatchPlan]:
    """Plan packed batches of a shape, whose rows hold the longest window, with every window once.

    Rows with a window longer than `PART_LENGTH` come first, and fill their last batch with others. The rows of the other
    batches have parts of that length, unless these would be more batches by more than one in sixteen.
    """
    rows = pack(lengths.tolist(), shape.length)  # the longest windows first, a row's longest first
    in_rows = _fill(rows, shape, 1)
    if shape.length % PART_LENGTH:
        return in_rows
    num_long = sum(int(lengths[row[0]]) > PART_LENGTH for row in rows)
    num_whole = -(-num_long // shape.num_rows) * shape.num_rows
    short = [window for row in rows[num_whole:] for window in row]
    parts = [[short[n] for n in part] for part in pack(lengths[short].tolist(), PART_LENGTH)]
    in_parts = _fill(rows[:num_whole], shape, 1) + _fill(parts, shape, shape.length // PART_LENGTH)
    return in_rows if 16 * (len(in_parts) - len(in_rows)) > len(in_rows) else in_parts


def _fill(parts: Sequence[Sequence[int]], shape: BatchShape, parts_a_row: int) -> list[BatchPlan]:
    count = shape.num_rows * parts_a_row
    return [BatchPlan(parts[start : start + count], *shape, parts_a_row) for start in range(0, len(parts), count)]


def grow(
    shape: BatchShape, lengths: Int[np.ndarray, " windows"], batch_size: int, most: int, multiple: int = 8
) -> BatchShape:
    """Return a shape no smaller than another, for windows that follow others in a stream.

    Rows become twice as long until they hold the longest window: few shapes to compile for, and little attention between
    windows that do not see each other.

    >>> grow(BatchShape(1, 128), np.full(100, 30), batch_size=16, most=512)
    BatchShape(num_rows=4, length=128)
    >>> grow(BatchShape(4, 128), np.array([200]), batch_size=16, most=512)
    BatchShape(num_rows=2, length=256)

    Args:
        shape: of the batches before.
        lengths: of the windows.
        batch_size: windows in a batch, on average.
        most: length of the longest window that may come; no row becomes longer than that.
        multiple: see `bucket_length`.
    """
    length, longest = shape.length, int(lengths.max())
    while length < longest:
        length = min(2 * length, bucket_length(most, multiple))
    return BatchShape(max(shape.num_rows * shape.length // length, _num_rows(lengths, batch_size, length)), length)


def draw_batches(
    lengths: Int[np.ndarray, " windows"], batch_size: int, seed: int, epoch: int
) -> list[Int[np.ndarray, " batch"]]:
    """Draw the windows of each batch of an epoch at random, and exchange some, so that batches have about as many tokens.

    In each round the batches of most tokens meet those of fewest, and each pair exchanges the two windows, one of each, that
    bring it nearest to equality. Every window is drawn once; one batch may stay short.
    """
    rng = np.random.default_rng([seed, epoch])
    num_batches = -(-len(lengths) // batch_size)
    windows = np.full((num_batches, batch_size), NO_WINDOW)
    windows.flat[: len(lengths)] = rng.permutation(len(lengths))
    # Tokens above the mean, so that a short batch is none that wants longer windows. Times the number of windows these are
    # whole numbers, and every host adds them up alike.
    excess = np.where(windows == NO_WINDOW, np.nan, lengths[windows] * float(len(lengths)) - lengths.sum())
    half = num_batches // 2
    while True:
        totals = np.nansum(excess, axis=1)
        order = np.argsort(totals, kind="stable")
        light, heavy = order[:half], order[::-1][:half]
        gaps = totals[heavy] - totals[light]
        moved = excess[heavy][:, :, None] - excess[light][:, None, :]
        gaps_after = np.abs(gaps[:, None, None] - 2 * moved).reshape(half, batch_size**2)
        best = np.nanargmin(gaps_after, axis=1)
        pairs = np.flatnonzero(gaps_after[np.arange(half), best] < gaps)
        if not len(pairs):
            return [batch[batch != NO_WINDOW] for batch in rng.permutation(windows)]
        from_heavy, from_light = np.divmod(best[pairs], batch_size)
        here, there = (heavy[pairs], from_heavy), (light[pairs], from_light)
        for array in (windows, excess):
            array[here], array[there] = array[there], array[here]


def plan_training(
    lengths: Int[np.ndarray, " windows"],
    batch_size: int,
    epochs: int,
    seed: int,
    hidden_size: int,
    multiple: int = 8,
    num_devices: int = 1,
) -> list[list[BatchPlan]]:
    """Plan the batches of each epoch, all of one shape: of those that every batch fits in, the one of least arithmetic.

    For a position of a row of length L, a layer of width h multiplies and adds 24 h^2 times in dense layers and 4 h L times
    in attention. Which windows are a batch depends on `lengths`, `batch_size`, `seed` and the epoch alone.

    Args:
        lengths: of the windows.
        batch_size: windows in a batch; one batch of each epoch may have fewer.
        epochs: of the run.
        seed: of the run.
        hidden_size: of the encoder.
        multiple: the length of rows is a multiple of it.
        num_devices: the number of rows is a multiple of it.
    """
    drawn = [draw_batches(lengths, batch_size, seed, epoch) for epoch in range(epochs)]
    batches = [batch for epoch in drawn for batch in epoch]
    shortest = -(-int(lengths.max()) // multiple) * multiple
    most_tokens = max(int(lengths[batch].sum()) for batch in batches)
    shapes = sorted(
        (num_rows * length * (6 * hidden_size + length), num_rows, length)
        for length in range(shortest, max(shortest, most_tokens) + multiple, multiple)
        for num_rows in range(num_devices, batch_size + num_devices, num_devices)
        if num_rows * length >= most_tokens
    )
    num_rows, length = next(
        (num_rows, length)
        for _, num_rows, length in shapes
        if all(len(pack(lengths[batch].tolist(), length)) <= num_rows for batch in batches)
    )

    def plan(batch: Int[np.ndarray, " batch"]) -> BatchPlan:
        rows = pack(lengths[batch].tolist(), length)
        return BatchPlan([batch[row].tolist() for row in rows], num_rows, length)

    return [[plan(batch) for batch in epoch] for epoch in drawn]


def padding_fraction(plans: Sequence[BatchPlan], lengths: Int[np.ndarray, " windows"]) -> float:
    """Return the fraction of all positions of all batches that hold no token, in [0, 1]."""
    positions = sum(plan.num_rows * plan.length for plan in plans)
    return 1.0 - sum(int(lengths[plan.windows].sum()) for plan in plans) / positions


def assemble(split: EncodedSplit, plan: BatchPlan, own_rows: slice = ALL_ROWS) -> Batch:
    """Lay the windows of a plan into [plan.num_rows, plan.length].

    Args:
        split: the split the windows belong to.
        plan: the windows of one batch.
        own_rows: the rows to return.
    """
    numbers = range(plan.num_rows)[own_rows]
    shape, part_length = (len(numbers), plan.length), plan.length // plan.parts_a_row
    token_ids, segments, labels = (np.zeros(shape, np.int32) for _ in range(3))
    word_index = np.full(shape, NO_WORD, np.int32)
    pinyin_ids = None if split.windows[0].pinyin_ids is None else np.zeros((*shape, LETTERS), np.int32)
    for row, number in enumerate(numbers):
        segment, first = 0, number * plan.parts_a_row
        for part, members in enumerate(plan.parts[first : first + plan.parts_a_row]):
            end = part * part_length
            for index in members:
                window, segment = split.windows[index], segment + 1
                start, end = end, end + len(window.token_ids)
                token_ids[row, start:end], segments[row, start:end] = window.token_ids, segment
                word_index[row, start:end] = window.word_index
                if pinyin_ids is not None and window.pinyin_ids is not None:
                    pinyin_ids[row, start:end] = window.pinyin_ids
    labels[word_index != NO_WORD] = split.label_ids[word_index[word_index != NO_WORD]]
    return Batch(token_ids, segments, word_index, labels, pinyin_ids)


def read_ahead(items: Iterable[_Item], count: int = 2) -> Iterator[_Item]:
    """Yield items, none of which is None, while a thread makes the next ones."""
    iterator, thread = iter(items), ThreadPoolExecutor(1)
    try:
        waiting = deque(thread.submit(next, iterator, None) for _ in range(count))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, iterator, None))
            yield item
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


def batches(split: EncodedSplit, plans: Sequence[BatchPlan], own_rows: slice = ALL_ROWS) -> Iterator[Batch]:
    """Assemble planned batches, or some of their rows, in a background thread, a few ahead of the device."""
    dataset = grain.MapDataset.source(plans).map(lambda plan: assemble(split, plan, own_rows))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    return iter(dataset.to_iter_dataset(options))


def placed_batches(split: EncodedSplit, plans: Sequence[BatchPlan], mesh: Mesh) -> Iterator[Batch]:
    """Yield planned batches on the devices of a mesh, with a multiple of as many rows; every host assembles only its own."""
    whole = [plan._replace(num_rows=sharding.round_up(plan.num_rows, mesh)) for plan in plans]
    if not whole:
        return
    for batch in batches(split, whole, sharding.host_rows(whole[0].num_rows, mesh)):
        yield sharding.put_batch(batch, mesh)
