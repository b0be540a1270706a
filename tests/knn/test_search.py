"""The search, the vote and the mix against float64 brute force.

Rounding: u = 2^-24, and gamma(n) = n u / (1 - n u) bounds the relative error of n float32 operations. For keys of width D,

    ip      |error| <= gamma(D) |q| |key|                          0 where products and sums are exact (small integers)
    l2      |error| <= gamma(D + 3) (|q| + |key|)^2                0 likewise
    cosine  |error| <= gamma(2 D + 10)                             gamma(10) likewise: roots, divisions, scaling remain

An error d in every similarity multiplies every weight of a vote by at most exp(2 d / temperature), and its float32 softmax
over n rows adds (n + 64) u, so that a p_kNN is within expm1(2 d / temperature) + (n + 64) u of the exact one.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiling, oracle

from knn_ner_jax import sharding
from knn_ner_jax.knn import search
from knn_ner_jax.knn.combine import interpolate, knn_probabilities
from knn_ner_jax.knn.similarity import METRICS, PADDING
from knn_ner_jax.knn.topk import GROUP_ROWS, Rows, block_size

pytestmark = pytest.mark.isa

ROWS, WIDTH, QUERIES, LABELS = 203, 16, 33, 5
BLOCK_ROWS = 20  # divides neither 203 rows nor the 102 and 26 of a shard
TEMPERATURES = (0.001, 0.1, 10.0)
U = 2.0**-24


def gamma(n):
    return n * U / (1 - n * U)


def make_keys(kind):
    """Queries, keys and whether float32 products of them are exact."""
    rng = np.random.default_rng(7)
    if kind == "integer":
        keys = rng.integers(-3, 4, (ROWS, WIDTH))
        keys[60:180] = keys[rng.integers(0, 60, 120)]  # duplicates, in one shard and across shards
        queries = np.concatenate([keys[:10], rng.integers(-3, 4, (QUERIES - 10, WIDTH))])
        return queries.astype(np.float32), keys.astype(np.float32), True
    if kind == "all equal":
        keys = np.tile(rng.integers(-3, 4, WIDTH), (ROWS, 1))
        return rng.integers(-3, 4, (QUERIES, WIDTH)).astype(np.float32), keys.astype(np.float32), True
    queries = rng.standard_normal((QUERIES, WIDTH)).astype(np.float32)
    keys = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    if kind == "zero row":
        queries[3], keys[[90, 202]] = 0, 0
    return queries, keys, False


KINDS = ("integer", "real", "all equal", "zero row")
labels_of_rows = np.random.default_rng(8).integers(0, LABELS, ROWS).astype(np.int32)
p_ner = np.random.default_rng(9).dirichlet(np.ones(LABELS), QUERIES).astype(np.float32)


def similarity_error(queries, keys, exact, metric):
    """[Q, N] bound on the float32 error of every similarity, as above."""
    if metric == "cosine":
        return np.full((len(queries), len(keys)), gamma(10 if exact else 2 * WIDTH + 10))
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)[:, None], np.linalg.norm(keys.astype(np.float64), axis=1)
    if exact:
        return np.zeros((len(queries), len(keys)))
    return gamma(WIDTH) * norms[0] * norms[1] if metric == "ip" else gamma(WIDTH + 3) * (norms[0] + norms[1]) ** 2


def vote_error(similarity_errors, temperature, voters):
    """[Q, 1] bound on the error of p_kNN, as above."""
    return np.expm1(2 * similarity_errors.max(axis=1, keepdims=True) / temperature) + (voters + 64) * U


@functools.cache
def compiled_search(metric, k, shards):
    mesh = sharding.make_mesh(shards)
    function = functools.partial(search.search, k=k, num_values=LABELS, metric=metric, block_rows=BLOCK_ROWS, mesh=mesh)
    return jax.jit(function), mesh


compiled_vote = jax.jit(knn_probabilities, static_argnames="num_labels")


def run_search(queries, keys, metric, k, shards, temperatures=None, num_rows=None):
    function, mesh = compiled_search(metric, k, shards)
    placed = sharding.put_rows(keys, mesh)
    real = jnp.arange(len(placed)) < (len(keys) if num_rows is None else num_rows)
    norms = jnp.where(real, jnp.sum(placed * placed, axis=1), PADDING)
    rows = search.Rows(placed, norms, sharding.put_rows(labels_of_rows, mesh))
    return function(queries, rows, temperatures=temperatures)


@pytest.mark.sampled(17)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 8, ROWS])
@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_vote_and_mix_are_those_of_brute_force(metric, shards, k, kind):
    queries, keys, exact = make_keys(kind)
    errors = similarity_error(queries, keys, exact, metric)
    found = run_search(queries, keys, metric, k, shards).neighbours
    ids, similarities = np.asarray(found.ids), np.asarray(found.similarities)
    all_similarities = oracle.similarity(queries, keys, metric)
    expected_ids, expected_similarities = oracle.search(queries, keys, k, metric)
    true_similarities = np.take_along_axis(all_similarities, ids, 1)
    if exact and metric != "cosine":
        np.testing.assert_array_equal(ids, expected_ids)
    assert all(len(set(row)) == k for row in ids.tolist())
    worst = errors.max(axis=1, keepdims=True)
    assert (abs(true_similarities - expected_similarities) <= 2 * worst).all()  # a wrong row may only be a near-tie
    assert (abs(similarities - true_similarities) <= np.take_along_axis(errors, ids, 1)).all()
    np.testing.assert_array_equal(found.values, labels_of_rows[ids])
    for temperature in TEMPERATURES:
        p_knn = compiled_vote(found.similarities, found.values, LABELS, temperature)
        expected = oracle.vote(true_similarities, labels_of_rows[ids], LABELS, temperature)
        tolerance = vote_error(errors, temperature, k)
        assert (abs(p_knn - expected) <= tolerance).all()
        mixed = interpolate(p_ner, p_knn, 0.3)
        assert (abs(mixed - oracle.interpolate(p_ner, expected, 0.3)) <= 0.3 * tolerance + 4 * U).all()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize("metric", METRICS)
def test_vote_of_all_rows_is_that_of_brute_force(metric, shards):
    for kind in KINDS:
        queries, keys, exact = make_keys(kind)
        errors = similarity_error(queries, keys, exact, metric)
        similarities, labels = oracle.similarity(queries, keys, metric), np.tile(labels_of_rows, (QUERIES, 1))
        for temperature in TEMPERATURES:
            found = run_search(queries, keys, metric, None, shards, jnp.full(1, temperature))
            expected = oracle.vote(similarities, labels, LABELS, temperature)
            assert found.neighbours is None
            tolerance = vote_error(errors, temperature, ROWS)
            assert (abs(found.knn_probs[0] - expected) <= tolerance).all(), (kind, temperature)
            nearest = oracle.vote(similarities, similarities.argsort()[:, ::-1].argsort(), ROWS, temperature)[:, :1]
            assert (abs(found.top1_prob[0] - nearest) <= tolerance).all(), (kind, temperature)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shards", [8, 1])
def test_one_pass_for_neighbours_and_for_shares_gives_what_two_give(shards):
    queries, keys, _ = make_keys("integer")
    both = run_search(queries, keys, "ip", 8, shards, jnp.asarray(TEMPERATURES[:2]))
    np.testing.assert_array_equal(both.neighbours.ids, oracle.search(queries, keys, 8, "ip")[0])
    for temperature, shares in zip(TEMPERATURES[:2], both.knn_probs, strict=True):
        labels = np.tile(labels_of_rows, (QUERIES, 1))
        expected = oracle.vote(oracle.similarity(queries, keys, "ip"), labels, LABELS, temperature)
        np.testing.assert_allclose(shares, expected, rtol=0, atol=(ROWS + 64) * U)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", ["integer", "all equal"])
@pytest.mark.parametrize("shards", [1, 2, 8])
def test_equal_keys_are_ordered_by_id_under_cosine(shards, kind):
    queries, keys, _ = make_keys(kind)
    same = (keys[:, None] == keys[None]).all(axis=2)
    for k in (8, ROWS):
        for ids in np.asarray(run_search(queries, keys, "cosine", k, shards).neighbours.ids):
            for place, row in enumerate(ids):
                earlier_twins = np.flatnonzero(same[row, :row])
                assert set(earlier_twins) <= set(ids[:place])


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_padding_is_never_found(metric):
    queries, keys, _ = make_keys("integer")
    found = run_search(queries, keys, metric, 8, 8, num_rows=9).neighbours
    np.testing.assert_array_equal(found.ids, oracle.search(queries, keys[:9], 8, metric)[0])


@pytest.mark.parametrize("metric", METRICS)
def test_minus_zero_ties_with_zero(metric):
    queries = np.ones((1, 1), np.float32)
    keys = np.array([[-0.0], [0.0], [-0.0], [0.0]], np.float32)
    similarities, ids = search.top_k(queries, keys, 4, metric=metric)
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3]])
    assert not np.signbit(similarities[similarities == 0]).any()


def test_similarities_that_round_to_minus_zero_tie_with_zero():
    # The products are +-1e-60: -0.0 and 0.0 in float32.
    similarities, ids = search.top_k(jnp.full((1, 1), 1e-30), jnp.asarray([[-1e-30], [0.0], [1e-30]]), 3, metric="ip")
    np.testing.assert_array_equal(ids, [[0, 1, 2]])
    assert not np.signbit(similarities).any()


def test_top_k_by_hand():
    keys = np.array([[1, 0], [0, 2], [3, 0], [1, 0], [0, 0]], np.float32)
    queries = np.array([[1, 0], [0, 0]], np.float32)
    similarities, ids = search.top_k(queries, keys, 4)
    np.testing.assert_array_equal(ids, [[0, 2, 3, 1], [0, 1, 2, 3]])
    np.testing.assert_array_equal(similarities, [[1, 1, 1, 0], [0, 0, 0, 0]])
    similarities, ids = search.top_k(queries, keys, 5, metric="ip", block_rows=2)
    np.testing.assert_array_equal(ids, [[2, 0, 3, 1, 4], [0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(similarities, [[3, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    similarities, ids = search.top_k(queries, keys, 3, metric="l2", block_rows=3)
    np.testing.assert_array_equal(ids, [[0, 3, 4], [4, 0, 3]])
    np.testing.assert_array_equal(similarities, [[0, 0, -1], [0, -1, -1]])


@pytest.mark.parametrize("block_rows", [1, 20, ROWS, 16384])
def test_top_k_does_not_depend_on_the_block(block_rows):
    queries, keys, _ = make_keys("integer")
    similarities, ids = search.top_k(queries, keys, 8, metric="l2", block_rows=block_rows)
    expected_ids, expected = oracle.search(queries, keys, 8, "l2")
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(similarities, expected)


@pytest.mark.parametrize("block_rows", [700, 1000, 16384])
def test_equal_real_keys_are_ordered_by_id_across_blocks(block_rows):
    rng = np.random.default_rng(3)
    keys = np.tile(rng.standard_normal(64).astype(np.float32), (2900, 1))  # blocks do not divide them
    ids = search.top_k(rng.standard_normal((256, 64)).astype(np.float32), keys, 8, block_rows=block_rows)[1]
    np.testing.assert_array_equal(ids, np.tile(np.arange(8), (256, 1)))


def test_blocks_are_equal_and_hold_all_rows():
    for total in (1, 7, 32, 57, 203, 1024, 200_000):
        for block_rows in (1, 19, 32, 100, 16384):
            size = block_size(total, block_rows)
            assert min(total, block_rows / 1.5) <= size <= min(total, 1.5 * block_rows + 1)
            beyond_groups = size % GROUP_ROWS
            assert beyond_groups == 0 or size + GROUP_ROWS - beyond_groups > min(total, 1.5 * block_rows)
            blocks = -(-total // size)
            assert blocks * size - total < GROUP_ROWS * blocks
    assert [block_size(total, 32768) for total in (100_000, 500_000, 2_000_000)] == [33344, 33344, 32800]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("k", [4, None])
def test_memory_beside_the_keys_does_not_grow_with_them(k, dtype):
    def beside(num_rows):
        keys, norms = jax.ShapeDtypeStruct((num_rows, 64), dtype), jax.ShapeDtypeStruct((num_rows,), "float32")
        rows = Rows(keys, norms, jax.ShapeDtypeStruct((num_rows,), "int32"))
        temperatures = None if k else jnp.ones(1)
        run = functools.partial(search.search, k=k, temperatures=temperatures, num_values=LABELS, block_rows=1024)
        lowered = jax.jit(run).lower(jnp.ones((8, 64)), rows)
        return lowered.compile(compiling.as_usual()).memory_analysis().temp_size_in_bytes

    assert beside(64 * 1024) == pytest.approx(beside(16 * 1024), rel=0.1)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_top_k_refuses_a_k_beyond_the_rows_and_names_both(k):
    with pytest.raises(ValueError, match=rf"k: .*\b5\b.*got {k}$"):
        search.top_k(np.ones((2, 3), np.float32), np.ones((5, 3), np.float32), k)


def test_top_k_refuses_another_metric():
    with pytest.raises(ValueError, match="cosine, ip, l2, got 'dot'"):
        search.top_k(np.ones((2, 3), np.float32), np.ones((5, 3), np.float32), 1, metric="dot")


def test_lists_of_numbers_are_vectors_too():
    similarities, ids = search.top_k([[2, 0]], [[0, 1], [1, 0], [3, 4]], 2)
    np.testing.assert_array_equal(ids, [[1, 2]])
    np.testing.assert_allclose(similarities, [[1.0, 0.6]], rtol=1e-6)


@pytest.mark.parametrize(("queries", "keys"), [((2, 3), (5, 4)), ((3,), (5, 3)), ((2, 3), (5,)), ((1, 2, 3), (5, 3))])
def test_top_k_refuses_shapes_that_do_not_fit_and_names_both(queries, keys):
    top_k = inspect.unwrap(search.top_k)  # whose annotations tests check, but no program of a user
    with pytest.raises(ValueError, match="queries") as error:
        top_k(np.ones(queries, np.float32), np.ones(keys, np.float32), 1)
    assert str(list(queries)) in str(error.value)
    assert str(list(keys)) in str(error.value)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("devices", [1, 8])
def test_few_queries_compared_with_all_rows_at_once_have_the_same_neighbours_and_votes(metric, devices):
    queries, keys, _ = make_keys("integer")
    mesh = sharding.make_mesh(devices) if devices > 1 else None
    keys = np.pad(keys, ((0, -len(keys) % devices), (0, 0)))
    norms = np.where(np.arange(len(keys)) < ROWS, (keys**2).sum(axis=1), PADDING).astype(np.float32)
    rows = Rows(jnp.asarray(keys), jnp.asarray(norms), jnp.asarray(np.pad(labels_of_rows, (0, len(keys) - ROWS))))
    how = {"k": 7, "temperatures": jnp.float32([0.1]), "num_values": LABELS, "metric": metric, "block_rows": BLOCK_ROWS}
    run = jax.jit(functools.partial(search.search, **how, mesh=mesh), static_argnames="all_at_once")
    few = jnp.asarray(queries[: search.FEW_QUERIES])
    together, by_blocks = (run(few, rows, all_at_once=at_once) for at_once in (True, False))
    np.testing.assert_array_equal(together.neighbours.ids, by_blocks.neighbours.ids)  # products are exact
    np.testing.assert_array_equal(together.neighbours.similarities, by_blocks.neighbours.similarities)
    # Sums over rows in another order: the bound at the top of this file, with equal similarities.
    np.testing.assert_allclose(together.knn_probs, by_blocks.knn_probs, rtol=0, atol=2 * (ROWS + 64) * U)
    text = run.lower(few, rows, all_at_once=True).as_text()
    assert f"{len(few)}x{len(keys) // devices}xf32" in text
    if devices == 1:  # several hold a block's rows each
        many = run.lower(jnp.asarray(queries), rows, all_at_once=True).as_text()
        assert f"{len(queries)}x{len(keys)}xf32" not in many  # more of them would hold too much
