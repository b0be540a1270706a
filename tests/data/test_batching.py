"""Windows -> batches of static shapes: nothing lost, order from (seed, epoch) alone, little padding."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knn_ner_jax import sharding
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import batching, tokenization
from knn_ner_jax.data.batching import BatchPlan
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit, Window


def random_lengths(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 130, number)


def flat(plans: list[BatchPlan]) -> list[int]:
    return [index for plan in plans for index in plan.windows]


def plan_training(lengths: np.ndarray, batch_size: int, epochs: int = 3, seed: int = 0, **others) -> list[list[BatchPlan]]:
    return batching.plan_training(lengths, batch_size, epochs, seed, hidden_size=384, **others)


def shape_of(epochs: list[list[BatchPlan]]) -> tuple[int, int]:
    (shape,) = {(plan.num_rows, plan.length) for plans in epochs for plan in plans}
    return shape


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("number", "batch_size"), [(1, 16), (15, 16), (16, 16), (17, 16), (257, 16), (100, 1), (97, 7), (60, 2)]
)
def test_every_epoch_has_each_window_once_in_as_many_full_batches_of_one_shape(number: int, batch_size: int, devices: int):
    lengths = random_lengths(0, number)
    epochs = plan_training(lengths, batch_size, num_devices=devices, multiple=16)
    num_rows, length = shape_of(epochs)
    assert num_rows % devices == length % 16 == 0
    for plans in epochs:
        assert sorted(flat(plans)) == list(range(number))
        sizes = sorted(len(plan.windows) for plan in plans)
        assert sizes == sorted([number % batch_size or batch_size, *[batch_size] * (-(-number // batch_size) - 1)])
        assert all(len(plan.parts) <= num_rows for plan in plans)
        assert all(lengths[row].sum() <= length for plan in plans for row in plan.parts)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "devices", "shape"),
    [
        ([30] * 100, 16, 1, (4, 120)),
        ([30] * 99 + [500], 16, 1, (2, 504)),  # less than one row of 952, the long one and 15 others
        ([30] * 99 + [500], 16, 8, (8, 504)),
        ([30] * 40 + [75], 1, 1, (1, 80)),
        ([30] * 40 + [75], 1, 8, (8, 80)),
        ([5, 9, 30], 16, 1, (1, 48)),
        ([5, 9, 30], 16, 4, (4, 32)),
        ([512], 16, 1, (1, 512)),
    ],
)
def test_the_shape_is_the_smallest_that_every_batch_fits_in(lengths, batch_size, devices, shape):
    assert shape_of(plan_training(np.array(lengths), batch_size, num_devices=devices)) == shape


def test_batches_are_a_pure_function_of_seed_and_epoch():
    lengths = random_lengths(1, 200)
    plans = {seed: plan_training(lengths, 8, seed=seed) for seed in (0, 1)}
    np.random.default_rng().permutation(5)
    for seed, first in plans.items():
        assert plan_training(lengths.copy(), 8, seed=seed) == first
        others = plan_training(lengths, 8, epochs=4, seed=seed, num_devices=4)
        for here, there in zip(first, others, strict=False):
            assert [sorted(plan.windows) for plan in here] == [sorted(plan.windows) for plan in there]
    assert len({str(flat(epoch)) for epochs in plans.values() for epoch in epochs}) == 6


def test_over_epochs_a_window_meets_the_others_though_no_two_are_equally_long():
    lengths = np.arange(20, 80)
    drawn = [batching.draw_batches(lengths, 4, seed=0, epoch=epoch) for epoch in range(300)]
    together = np.zeros((60, 60), int)
    for batch in itertools.chain.from_iterable(drawn):
        together[np.ix_(batch, batch)] += 1
    # By chance alone two would meet 300 * 3 / 59 = 15 times.
    assert ((together > 0).sum(axis=1) > 50).all()
    assert together[~np.eye(60, dtype=bool)].max() < 60


def test_the_short_batch_comes_at_any_time_and_has_windows_like_the_others():
    lengths = random_lengths(2, 250)
    drawn = [batching.draw_batches(lengths, 8, seed=0, epoch=epoch) for epoch in range(200)]
    assert {next(i for i, batch in enumerate(batches) if len(batch) < 8) for batches in drawn} == set(range(32))
    # Its mean is that of all windows, but for 4 standard errors.
    of_short = np.concatenate([lengths[batch] for batches in drawn for batch in batches if len(batch) < 8])
    assert abs(of_short.mean() - lengths.mean()) < 4 * lengths.std() / np.sqrt(len(of_short))


@pytest.mark.parametrize(("number", "batch_size"), [(256, 16), (98, 7), (60, 2), (40, 1)])
def test_no_exchange_brings_the_batch_of_most_tokens_nearer_to_that_of_fewest(number: int, batch_size: int):
    lengths = random_lengths(4, number)
    by_tokens = sorted(batching.draw_batches(lengths, batch_size, seed=0, epoch=0), key=lambda batch: lengths[batch].sum())
    few, many = lengths[by_tokens[0]], lengths[by_tokens[-1]]
    gap = many.sum() - few.sum()
    assert all(abs(gap - 2 * (long - short)) >= gap for long, short in itertools.product(many, few))
    assert gap < 0.01 * many.sum() or batch_size < 7


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
    assert length == max(128, batching.bucket_length(int(lengths.max()), 64))
    assert num_rows.bit_count() == 1
    in_rows, in_parts = ([plan for plan in plans if plan.parts_a_row == number] for number in (1, length // 64))
    assert in_rows + in_parts == plans
    assert all(len(plan.parts) == num_rows * plan.parts_a_row for some in (in_rows, in_parts) for plan in some[:-1])
    assert all(lengths[part].sum() <= length // plan.parts_a_row for plan in plans for part in plan.parts)
    assert number / len(plans) >= min(batch_size, number) * 0.7
    if len(plans) > 3 and high < 64:
        assert batching.padding_fraction(plans[:-1], lengths) < 0.03


def test_windows_that_fit_a_part_of_a_row_stay_in_it_where_others_fill_batches():
    lengths = np.array([100, 30, 64, 40, 20, 65])
    plans = batching.plan_batches(lengths, batching.BatchShape(1, 128))
    assert [plan.parts_a_row for plan in plans] == [1, 1, 2]
    assert [lengths[part].tolist() for plan in plans for part in plan.parts] == [[100, 20], [65, 40], [64], [30]]
    assert sorted(flat(plans)) == list(range(6))
    assert [plan.parts_a_row for plan in batching.plan_batches(lengths, batching.BatchShape(4, 128))] == [1]
    assert [plan.parts_a_row for plan in batching.plan_batches(lengths[1:5], batching.BatchShape(4, 128))] == [2]
    assert [plan.parts_a_row for plan in batching.plan_batches(lengths, batching.BatchShape(1, 112))] == [1] * 4


@pytest.mark.parametrize(
    ("number", "batch_size", "longest"), [(70, 32, 100), (200, 32, 100), (1000, 512, 100), (70, 32, 64)]
)
def test_parts_of_rows_make_no_other_batch_where_there_are_few(number: int, batch_size: int, longest: int):
    lengths = np.append(np.random.default_rng(0).integers(10, 40, number), longest)
    plans = batching.plan_evaluation(lengths, batch_size)
    num_rows = len(batching.pack(lengths.tolist(), plans[0].length))
    assert len(plans) == -(-num_rows // plans[0].num_rows)
    assert any(plan.parts_a_row == 2 for plan in plans)


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


def test_windows_in_parts_of_rows_lie_as_by_hand(split: EncodedSplit):
    batch = batching.assemble(split, BatchPlan([[1], [2], [0]], 3, 10, 2))
    assert batch.token_ids.tolist() == [
        [101, 5, 102, 0, 0, 101, 6, 102, 0, 0],
        [101, 7, 8, 9, 102, 0, 0, 0, 0, 0],
        [0] * 10,
    ]
    assert batch.segments.tolist() == [[1] * 3 + [0] * 2 + [2] * 3 + [0] * 2, [1] * 5 + [0] * 5, [0] * 10]
    assert batch.word_index[0].tolist() == [-1, 2, -1, -1, -1, -1, 3, -1, -1, -1]
    touching = batching.assemble(split, BatchPlan([[0], [0]], 1, 10, 2))
    assert touching.segments.tolist() == [[1] * 5 + [2] * 5]


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


@pytest.mark.parametrize("plan", [BatchPlan([[1, 0], [2]], 4, 8), BatchPlan([[1], [2], [0], [1], [2]], 4, 10, 2)])
@pytest.mark.parametrize("cuts", [[0, 4], [0, 1, 4], [0, 2, 3, 4]])
def test_the_shares_of_all_hosts_are_the_batch(split: EncodedSplit, plan: BatchPlan, cuts: list[int]):
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


@pytest.mark.parametrize(
    ("corpus", "most"),
    # BC5CDR has a window of 239 tokens: rows of 288 are the shortest of which two hold a batch.
    [("pip:knn_ner_jax/data/quickstart", 0.081), ("wnut17", 0.07), pytest.param("bc5cdr", 0.101, marks=pytest.mark.slow)],
)
def test_little_of_the_arithmetic_of_training_is_waste(corpus: str, most: float, request, minilm: Path):
    split = encoded_split(corpus, "train", request, minilm)
    (plans,) = plan_training(split.lengths, 16, epochs=1)
    assert wasted(plans, split) < most


@pytest.mark.parametrize(
    ("corpus", "name", "most"),
    [
        ("wnut17", "dev", 0.067),
        ("wnut17", "test", 0.036),
        # BC5CDR's dev has one window of 275 tokens, for which all rows have 320.
        *(pytest.param("bc5cdr", *each, marks=pytest.mark.slow) for each in (("dev", 0.044), ("test", 0.037))),
    ],
)
def test_little_of_the_arithmetic_of_evaluation_is_waste(corpus: str, name: str, most: float, request, minilm: Path):
    split = encoded_split(corpus, name, request, minilm)
    assert wasted(batching.plan_evaluation(split.lengths, 32), split) < most


def encoded_split(corpus: str, name: str, request, minilm: Path):
    folder = corpus if ":" in corpus else str(request.getfixturevalue("shared") / "data" / corpus)
    sentences = read_corpus(DataConfig(folder, unseen_types="miss")).splits[name].sentences
    tokenizer = tokenization.open_tokenizer(minilm)
    return tokenization.encode(sentences, tokenizer, 512, LabelSet.of(each.tags for each in sentences))


def wasted(plans, split) -> float:
    """Share of padding, and attention between positions that do not see each other, in a layer of MiniLM."""
    positions = pairs = tokens = pairs_that_see = 0
    for plan in plans:
        segments = batching.assemble(split, plan).segments
        positions, pairs = positions + segments.size, pairs + segments.size * plan.length // plan.parts_a_row
        tokens += int((segments > 0).sum())
        pairs_that_see += int(((segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]).sum())
    assert tokens == split.lengths.sum()
    assert batching.padding_fraction(plans, split.lengths) == pytest.approx(1 - tokens / positions, abs=1e-12)
    dense, attention = 24 * 384**2, 4 * 384  # multiplications and additions for a position, and for a pair
    return 1 - (dense * tokens + attention * pairs_that_see) / (dense * positions + attention * pairs)
