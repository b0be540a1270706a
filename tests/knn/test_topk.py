"""Selecting the best of a block's scores: the same as sorting them, and in how much memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiling, margins, oracle

from knn_ner_jax.knn import search, topk
from knn_ner_jax.knn.topk import CACHED_ROWS, GROUP_ROWS, Rows

pytestmark = pytest.mark.isa


@pytest.mark.sampled(29)
@pytest.mark.parametrize("block_rows", [256, 1000, 2048])
@pytest.mark.parametrize("rows", [4992, 5000, 5023])
@pytest.mark.parametrize("k", [1, 8, 32, 77, 80])
@pytest.mark.parametrize("spread", [0, 1, 3])
def test_looking_at_group_maxima_first_finds_the_same(spread, k, rows, block_rows):
    rng = np.random.default_rng(spread)
    queries, keys = rng.integers(-3, 4, (9, 6)), rng.integers(-spread, spread + 1, (rows, 6))
    queries, keys = queries.astype(np.float32), keys.astype(np.float32)
    similarities, ids = search.top_k(queries, keys, k, metric="ip", block_rows=block_rows)
    expected_ids, expected = oracle.search(queries, keys, k, "ip")
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(similarities, expected)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("k", [400, 900, 3000])
@pytest.mark.parametrize("queries", [1, 41])
def test_many_neighbours_are_selected_for_some_of_the_queries_at_a_time(queries, k):
    rng = np.random.default_rng(k)
    queries, keys = rng.integers(-3, 4, (queries, 6)), rng.integers(-2, 3, (5000, 6))
    queries, keys = queries.astype(np.float32), keys.astype(np.float32)
    similarities, ids = search.top_k(queries, keys, k, metric="ip", block_rows=1000)
    expected_ids, expected = oracle.search(queries, keys, k, "ip")
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(similarities, expected)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("k", [5, None])
@pytest.mark.parametrize("num_rows", [CACHED_ROWS + 1000, 3 * CACHED_ROWS + 285, 3 * CACHED_ROWS + 288])
def test_shares_are_summed_where_keys_are_multiplied_a_few_at_a_time(num_rows, k, metric):
    rng = np.random.default_rng(num_rows)
    queries, keys = rng.standard_normal((5, 6)).astype(np.float32), rng.standard_normal((num_rows, 6)).astype(np.float32)
    values = rng.integers(0, 3, num_rows).astype(np.int32)
    rows = Rows(jnp.asarray(keys), jnp.sum(jnp.asarray(keys) ** 2, axis=1), jnp.asarray(values))
    run = functools.partial(search.search, k=k, num_values=3, metric=metric)
    found = jax.jit(run)(queries, rows, temperatures=jnp.float32([0.5, 2.0]))
    a, b = queries.astype(float), keys.astype(float)
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    similarities = {"cosine": a @ b.T / lengths, "ip": a @ b.T, "l2": -((a[:, None] - b) ** 2).sum(axis=2)}[metric]
    for temperature, shares in zip((0.5, 2.0), found.knn_probs, strict=True):
        weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / temperature)
        expected = np.stack([weights[:, values == value].sum(axis=1) for value in range(3)], axis=1)
        np.testing.assert_allclose(shares, expected / weights.sum(axis=1, keepdims=True), rtol=2e-4)
    if k:
        clear = margins.clear_order(similarities, k, margins.rounding(queries, keys, metric))
        assert clear.any()
        expected_ids = oracle.search(queries, keys, k, metric)[0]
        np.testing.assert_array_equal(np.asarray(found.neighbours.ids)[clear], expected_ids[clear])


def test_many_neighbours_are_selected_from_more_rows_at_once():
    of_k = [topk.rows_at_once(k, 16, 32768, "cpu") for k in (1, 170, 256, 1024, 100_000)]
    assert of_k == [32768, 32768, 49152, 192 * 1024, 8 * 32768]
    assert [topk.rows_at_once(1024, queries, 32768, "cpu") for queries in (256, 1024, 4096)] == [174762, 43690, 32768]
    assert topk.rows_at_once(8, 256, 1, "cpu") == 8
    assert [topk.rows_at_once(k, 256, 32768, "tpu") for k in (8, 512, 1024)] == [32768, 32768, 65536]
    ones = jnp.ones((2, 4 * GROUP_ROWS + 7))
    assert topk.select_candidates(ones, jnp.zeros((2, 1)), 2, "cpu")[0].shape == (2, 2 * GROUP_ROWS + 7)
    assert topk.select_candidates(ones, jnp.zeros((2, 1)), 3, "cpu")[0].shape == ones.shape


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_neighbours_are_selected_alike_on_every_platform(platform):
    rng = np.random.default_rng(3)
    queries, keys = rng.integers(-3, 4, (9, 6)), rng.integers(-3, 4, (5023, 6))
    queries, keys, values = (x.astype(t) for x, t in ((queries, "float32"), (keys, "float32"), (keys[:, 0] + 3, "int32")))
    rows = Rows(jnp.asarray(keys), jnp.sum(jnp.asarray(keys) ** 2, axis=1), jnp.asarray(values))
    run = functools.partial(search.search, jnp.asarray(queries), k=70, num_values=7, metric="ip", block_rows=2048)
    found = jax.jit(lambda rows: run(rows, platform=platform).neighbours)(rows)
    expected_ids, expected = oracle.search(queries, keys, 70, "ip")
    np.testing.assert_array_equal(found.ids, expected_ids)
    np.testing.assert_array_equal(found.similarities, expected)
    np.testing.assert_array_equal(found.values, values[expected_ids])


def test_scores_that_are_no_ordinary_numbers_are_taken_bit_by_bit():
    scores = np.random.default_rng(6).standard_normal((3, 5 * GROUP_ROWS + 7)).astype(np.float32)
    scores[:, ::3] = np.float32([[-np.inf], [1e-42], [-0.0]])
    groups = np.array([[0, 4], [2, 3], [1, 1]])
    inside = scores[:, : 5 * GROUP_ROWS].reshape(3, GROUP_ROWS, 5)
    taken = np.asarray(topk._take_groups(jnp.asarray(inside), jnp.asarray(groups), "tpu"))
    np.testing.assert_array_equal(taken.view(np.uint32), np.take_along_axis(inside, groups[:, None], 2).view(np.uint32))


def test_of_equal_groups_the_earlier_row_comes_first_beyond_what_float32_counts():
    last = GROUP_ROWS - 1
    groups = 2**24 // last + 2
    scores = np.zeros((1, GROUP_ROWS, groups), np.float32)
    scores[0, last - 1, -1] = scores[0, last, 0] = 1  # one row apart, the earlier in the last group
    _, found = topk._best_groups(jnp.asarray(scores), jnp.asarray(scores.max(axis=1)), 1, "cpu")
    assert last * groups - 1 > 2**24
    np.testing.assert_array_equal(found, [[groups - 1]])


@pytest.mark.parametrize("floor", [50, 69])
def test_what_no_selection_needs_is_lowest_of_all(floor):
    in_groups, rows = 4 * GROUP_ROWS, 4 * GROUP_ROWS + 7
    scores = np.random.default_rng(4).permuted(np.tile(np.arange(rows, dtype=np.float32), (5, 1)), axis=1)
    scores[1] = 7
    narrowed, row = topk.select_candidates(jnp.asarray(scores), jnp.full((5, 1), float(floor)), 2, "cpu")
    narrowed, at = np.asarray(narrowed), np.asarray(row(jnp.tile(jnp.arange(2 * GROUP_ROWS + 7), (5, 1))))
    assert (np.sort(at, axis=1) == at).all()
    np.testing.assert_array_equal(narrowed[narrowed > 0], np.take_along_axis(scores, at, 1)[narrowed > 0])
    for one, of_row in zip(narrowed[[0, 2, 3, 4]], scores[[0, 2, 3, 4]], strict=True):
        maxima = np.sort(of_row[:in_groups].reshape(GROUP_ROWS, 4).max(axis=0))
        counts = of_row >= max(maxima[-2], floor + 1)  # in every group and in the rest
        np.testing.assert_array_equal(np.sort(one[one > -np.inf]), np.sort(of_row[counts]))
    assert (narrowed[1] == -np.inf).all()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("block_rows", [300, 1024])
@pytest.mark.parametrize("k", [3, 8, 77])
def test_a_key_whose_squared_length_is_no_float32_hides_no_other(k, block_rows):
    rng = np.random.default_rng(5)
    queries, keys = rng.integers(-3, 4, (9, 4)).astype(np.float32), rng.integers(-3, 4, (2048, 4)).astype(np.float32)
    keys[[0, 1500]] *= 1e20
    ids = search.top_k(queries, keys, k, metric="ip", block_rows=block_rows)[1]
    np.testing.assert_array_equal(ids, oracle.search(queries, keys, k, "ip")[0])


def beside_the_keys(k, num_rows, temperatures=None, width=16, block_rows=1024):
    keys, norms = jax.ShapeDtypeStruct((num_rows, width), "float32"), jax.ShapeDtypeStruct((num_rows,), "float32")
    rows = Rows(keys, norms, jax.ShapeDtypeStruct((num_rows,), "int32"))
    run = functools.partial(search.search, k=k, temperatures=temperatures, num_values=3, block_rows=block_rows)
    compiled = jax.jit(run).lower(jnp.ones((8, width)), rows).compile(compiling.as_usual())
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rows", [11904, 11999, 40000, 40001])
def test_scores_selected_from_at_once_are_held_once(rows):
    scores = 8 * 4 * min(rows, 10000)  # of one block of all, or of four or five
    assert scores < beside_the_keys(64, rows) < 2 * scores


def test_with_shares_no_more_scores_are_held_than_for_shares_alone():
    assert beside_the_keys(64, 40000, jnp.ones(2)) < 1.5 * beside_the_keys(None, 40000, jnp.ones(2))


@pytest.mark.parametrize("k", [8, None])
def test_keys_are_copied_no_more_at_a_time_than_stay_in_the_cache(k):
    copied, scores = 4 * CACHED_ROWS * 256, 4 * 8 * 32768
    temperatures = None if k else jnp.ones(1)
    assert copied < beside_the_keys(k, 65536, temperatures, width=256, block_rows=32768) < 1.5 * copied + 3 * scores
