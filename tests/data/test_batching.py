"""Windows -> batches of static shapes: nothing lost, order from (seed, epoch) alone, little padding."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from knn_ner_jax import sharding
from knn_ner_jax.data import batching, tokenization
from knn_ner_jax.data.batching import BatchPlan
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit, Window


def random_lengths(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 130, number)


def contents(plans: list[BatchPlan]) -> list[tuple[list[int], int]]:
    return [(plan.windows, plan.length) for plan in plans]


def flat(plans: list[BatchPlan]) -> list[int]:
    return [index for plan in plans for index in plan.windows]


@pytest.mark.parametrize(("number", "batch_size"), [(1, 16), (15, 16), (16, 16), (257, 16), (100, 1), (97, 7)])
def test_every_epoch_has_each_window_once_in_as_many_batches(number: int, batch_size: int):
    lengths = random_lengths(0, number)
    epochs = [batching.plan_epoch(lengths, batch_size, seed=3, epoch=epoch) for epoch in range(6)]
    for plans in epochs:
        assert sorted(flat(plans)) == list(range(number))
        assert sum(len(plan.windows) != batch_size for plan in plans) <= 1
        for plan in plans:
            assert 1 <= len(plan.windows) <= batch_size
            assert plan.length == batching.bucket_length(int(lengths[plan.windows].max()))
    assert {len(plans) for plans in epochs} == {-(-number // batch_size)}


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    lengths = random_lengths(1, 200)
    plans = {(seed, epoch): batching.plan_epoch(lengths, 8, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    np.random.default_rng().permutation(5)
    for (seed, epoch), first in plans.items():
        assert contents(batching.plan_epoch(lengths.copy(), 8, seed, epoch)) == contents(first)
    assert len({str(contents(first)) for first in plans.values()}) == len(plans)


def test_epochs_differ_in_what_a_batch_holds_and_not_only_in_the_order_of_batches():
    lengths = np.full(64, 20)
    first, second = (batching.plan_epoch(lengths, 8, seed=0, epoch=epoch) for epoch in (0, 1))
    assert {frozenset(plan.windows) for plan in first}.isdisjoint(frozenset(p.windows) for p in second)
    assert flat(first) != list(range(64))


def test_batches_of_short_and_long_windows_alternate():
    lengths = np.repeat([10, 20, 30], 80)
    padded = [plan.length for plan in batching.plan_epoch(lengths, 8, seed=0, epoch=0)]
    assert padded != sorted(padded)
    assert padded != sorted(padded, reverse=True)


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9), row_length=st.integers(12, 30))
def test_a_row_is_as_full_as_its_longest_window_and_some_of_those_left_can_make_it(lengths: list[int], row_length: int):
    left = dict(enumerate(lengths))
    for row in batching.pack(lengths, row_length):
        taken = [left.pop(window) for window in row]
        assert taken[0] == max(taken) >= max(left.values(), default=0)
        others = [*taken[1:], *left.values()]
        sums = {sum(some) for size in range(len(others) + 1) for some in itertools.combinations(others, size)}
        assert sum(taken) == max(taken[0] + tokens for tokens in sums if taken[0] + tokens <= row_length)


@given(lengths=st.lists(st.integers(1, 40), max_size=60), row_length=st.integers(40, 60))
def test_rows_hold_every_window_once_and_no_two_could_be_one(lengths: list[int], row_length: int):
    rows = batching.pack(lengths, row_length)
    assert sorted(window for row in rows for window in row) == list(range(len(lengths)))
    filled = sorted(sum(lengths[window] for window in row) for row in rows)
    assert all(0 < tokens <= row_length for tokens in filled)
    assert all(first + second > row_length for first, second in itertools.pairwise(filled))


@pytest.mark.parametrize(
    ("low", "high", "number", "batch_size"), [(3, 40, 500, 64), (3, 130, 300, 16), (90, 100, 50, 8), (5, 6, 1, 64)]
)
def test_evaluation_has_each_window_once_in_batches_of_one_shape(low: int, high: int, number: int, batch_size: int):
    lengths = np.random.default_rng(3).integers(low, high, number)
    plans = batching.plan_evaluation(lengths, batch_size)
    assert sorted(flat(plans)) == list(range(number))
    (num_rows,), (length,) = {plan.num_rows for plan in plans}, {plan.length for plan in plans}
    assert length == max(128, batching.bucket_length(int(lengths.max())))
    assert num_rows.bit_count() == 1
    assert all(len(plan.rows) == num_rows for plan in plans[:-1])
    assert number / len(plans) >= min(batch_size, number) * 0.7
    if len(plans) > 3 and high < 64:
        assert batching.padding_fraction(plans[:-1], lengths) < 0.03


def test_the_shape_is_that_of_other_windows_where_they_decide():
    of_all = batching.plan_evaluation(np.full(1000, 30), 64)
    of_some = batching.plan_evaluation(np.full(3, 30), 64, like=np.full(1000, 30))
    assert (of_some[0].num_rows, of_some[0].length) == (of_all[0].num_rows, of_all[0].length)


@pytest.mark.parametrize(("low", "high", "step"), [(1, 64, 8), (65, 128, 16), (129, 256, 32), (257, 512, 64)])
def test_bucket_lengths_are_the_next_multiple_of_a_step_that_grows_with_length(low: int, high: int, step: int):
    for length in range(low, high + 1):
        assert batching.bucket_length(length) == min(range(step, high + 1, step), key=lambda m: (m < length, m))


@pytest.mark.parametrize("multiple", [1, 7, 8, 12, 16, 32, 100, 512])
def test_bucket_lengths_are_monotone_and_no_shorter_than_the_window(multiple: int):
    padded = [batching.bucket_length(length, multiple) for length in range(1, 1025)]
    assert padded == sorted(padded)
    assert all(bucket >= length for length, bucket in enumerate(padded, start=1))
    assert all(bucket - length < max(multiple, length / 4) for length, bucket in enumerate(padded, start=1))


@pytest.mark.parametrize("multiple", [1, 8, 16, 32, 512])
def test_bucket_lengths_are_multiples_of_the_smallest_step(multiple: int):
    padded = [batching.bucket_length(length, multiple) for length in range(1, 1025)]
    assert all(bucket % multiple == 0 for bucket in padded)
    assert all(batching.bucket_length(bucket, multiple) == bucket for bucket in padded)


@pytest.fixture
def split() -> EncodedSplit:
    """Three windows; words 0 to 3, of which word 1 has two pieces."""
    return EncodedSplit(
        windows=(
            Window(np.array([101, 7, 8, 9, 102], np.int32), np.array([-1, 0, 1, -1, -1], np.int32)),
            Window(np.array([101, 5, 102], np.int32), np.array([-1, 2, -1], np.int32)),
            Window(np.array([101, 6, 102], np.int32), np.array([-1, 3, -1], np.int32)),
        ),
        sentence_ids=np.array([0, 0, 1, 2], np.int32),
        word_ids=np.array([0, 1, 0, 0], np.int32),
        label_ids=np.array([4, 2, 1, 3], np.int32),
        num_empty_words=0,
        num_long_sentences=0,
    )


def test_assembled_batches_equal_a_hand_written_one(split: EncodedSplit):
    batch = batching.assemble(split, BatchPlan([[1, 0], [2]], 4, 8))
    assert batch.token_ids.tolist() == [
        [101, 5, 102, 101, 7, 8, 9, 102],
        [101, 6, 102, 0, 0, 0, 0, 0],
        [0] * 8,
        [0] * 8,
    ]
    assert batch.segments.tolist() == [[1] * 3 + [2] * 5, [1] * 3 + [0] * 5, [0] * 8, [0] * 8]
    assert batch.word_index.tolist() == [
        [-1, 2, -1, -1, 0, 1, -1, -1],
        [-1, 3, -1, -1, -1, -1, -1, -1],
        [-1] * 8,
        [-1] * 8,
    ]
    assert batch.labels.tolist() == [[0, 1, 0, 0, 4, 2, 0, 0], [0, 3, 0, 0, 0, 0, 0, 0], [0] * 8, [0] * 8]
    assert {array.dtype for array in batch[:4]} == {np.dtype(np.int32)}


def test_batches_come_as_assembled_and_in_order(split: EncodedSplit):
    rng = np.random.default_rng(0)
    plans = [
        BatchPlan([[i] for i in rng.permutation(3)[: rng.integers(1, 4)]], 3, int(rng.choice([8, 16]))) for _ in range(20)
    ]
    actual = list(batching.batches(split, plans))
    assert len(actual) == len(plans)
    for batch, plan in zip(actual, plans, strict=True):
        for array, expected in zip(batch[:4], batching.assemble(split, plan)[:4], strict=True):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("cuts", [[0, 4], [0, 1, 4], [0, 2, 3, 4]])
def test_the_shares_of_all_hosts_are_the_batch(split: EncodedSplit, cuts: list[int]):
    plan = BatchPlan([[1, 0], [2]], 4, 8)
    shares = [batching.assemble(split, plan, slice(*bounds)) for bounds in itertools.pairwise(cuts)]
    for parts, whole in zip(zip(*shares, strict=True), batching.assemble(split, plan), strict=True):
        if whole is not None:
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_placed_batches_fill_the_devices(split: EncodedSplit):
    plans, mesh = [BatchPlan([[1, 0], [2]], 3, 8), BatchPlan([[2]], 3, 16)], sharding.make_mesh()
    for placed, plan in zip(batching.placed_batches(split, plans, mesh), plans, strict=True):
        expected = batching.assemble(split, plan._replace(num_rows=8))
        np.testing.assert_array_equal(placed.word_index, expected.word_index)
        assert [shard.data.shape for shard in placed.word_index.addressable_shards] == [(1, plan.length)] * 8


def test_padding_fraction_counts_missing_rows_too():
    lengths = np.array([8, 5, 3])
    plans = [BatchPlan([[0], [1]], 2, 8), BatchPlan([[2]], 2, 8)]
    assert batching.padding_fraction(plans, lengths) == pytest.approx(16 / 32, abs=1e-12)


def test_less_than_15_percent_of_wnut17_batches_is_padding(shared: Path, minilm: Path):
    train = read_splits({"train": shared / "data" / "wnut17" / "train.conll"})[0]["train"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    split = tokenization.encode(train.sentences, tokenizer, 512, LabelSet.of(s.tags for s in train.sentences))
    plans = batching.plan_epoch(split.lengths, 16, seed=0, epoch=0)
    tokens = positions = 0
    for plan in plans:
        batch = batching.assemble(split, plan)
        tokens += int((batch.segments > 0).sum())
        positions += batch.segments.size
    assert tokens == split.lengths.sum()
    assert 1 - tokens / positions < 0.15
    assert batching.padding_fraction(plans, split.lengths) == pytest.approx(1 - tokens / positions, abs=1e-12)
