"""The scan in bfloat16: what it proves, what it leaves to a search in float32, and that the result is exact either way."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import margins, oracle

from knn_ner_jax import sharding
from knn_ner_jax.knn import scan, search
from knn_ner_jax.knn.similarity import METRICS, PADDING, squared_norms
from knn_ner_jax.knn.topk import Rows

pytestmark = pytest.mark.isa

ROWS, WIDTH, K = 1203, 24, 3
QUERIES = 40


def workload():
    """Half of the queries have neighbours 1e-4 apart, which bfloat16 cannot tell; the others are far from all but k rows."""
    rng = np.random.default_rng(5)
    keys = rng.standard_normal((ROWS, WIDTH))
    crowds = rng.standard_normal((QUERIES // 2, WIDTH))
    keys[:800] = crowds[np.arange(800) // 40] + 1e-4 * rng.standard_normal((800, WIDTH))
    alone = 4 * rng.standard_normal((QUERIES // 2, WIDTH))
    keys[800 : 800 + K * len(alone)] = np.repeat(alone, K, axis=0) + 0.3 * rng.standard_normal((K * len(alone), WIDTH))
    queries = np.concatenate([crowds, alone]) + 1e-5 * rng.standard_normal((QUERIES, WIDTH))
    return queries.astype(np.float32), keys.astype(np.float32)


def place(keys, devices):
    mesh = sharding.make_mesh(devices)
    placed = sharding.put_rows(keys, mesh)
    norms = jnp.where(jnp.arange(len(placed)) < len(keys), jnp.sum(placed * placed, axis=1), PADDING)
    return Rows(placed, norms, sharding.put_rows(np.arange(len(keys), dtype=np.int32) % 5, mesh)), mesh


@functools.cache
def found(metric, devices):
    queries, keys = workload()
    rows, mesh = place(keys, devices)
    run = functools.partial(search.search, k=K, metric=metric, block_rows=100, mesh=mesh, search_dtype="bfloat16")
    return jax.jit(run)(queries, rows)


def uncertified(metric, devices):
    """By NumPy: queries whose k-th candidate does not exceed what the rows that are no candidate may reach."""
    queries, keys = workload()
    q, x = queries.astype(np.float64), keys.astype(np.float64)
    q_short, x_short = (array.astype(ml_dtypes.bfloat16).astype(np.float64) for array in (queries, keys))
    norms = np.linalg.norm(x, axis=1)
    scale = {"cosine": 1 / norms, "ip": np.ones(ROWS), "l2": np.full(ROWS, 2.0)}[metric]
    offset = norms**2 if metric == "l2" else np.zeros(ROWS)
    short, true = (a @ b.T * scale - offset for a, b in ((q_short, x_short), (q, x)))
    q_norms, moved = np.linalg.norm(q, axis=1), np.linalg.norm(q - q_short, axis=1)
    bound = moved * (1 + 2.0**-8) + q_norms * (2.0**-8 + (WIDTH + 8) * 2.0**-22)
    shard = -(-ROWS // devices)
    best, ceiling = np.full((QUERIES, 0), -np.inf), np.full(QUERIES, -np.inf)
    for start in range(0, ROWS, shard):
        part = slice(start, start + shard)
        largest = norms[part].max()
        reach = {"cosine": bound, "ip": bound * largest, "l2": 2 * bound * largest + largest**2 * 2.0**-22}[metric]
        order = np.argsort(-short[:, part], axis=1)[:, : 4 * K]
        best = np.concatenate([best, np.take_along_axis(true[:, part], order, 1)], axis=1)
        ceiling = np.maximum(ceiling, np.take_along_axis(short[:, part], order, 1)[:, -1] + reach)
        assert (abs(short[:, part] - true[:, part]) <= reach[:, None]).all()
    return int((np.sort(best, axis=1)[:, -K] <= ceiling).sum())


def rounding(metric, queries, keys):
    """[queries, k] what float32 may be wrong by: four units in the last place of the terms that a similarity sums."""
    q, x = (np.linalg.norm(vectors.astype(np.float64), axis=-1) for vectors in (queries[:, None], keys))
    terms = {"cosine": np.full_like(x, 4.0), "ip": q * x, "l2": (q + x) ** 2}[metric]
    return 2.0**-22 * terms


@pytest.mark.sampled(3)
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_are_those_of_float64(metric, devices):
    queries, keys = workload()
    neighbours = found(metric, devices).neighbours
    expected_ids, expected = oracle.search(queries, keys, K, metric)
    true = np.take_along_axis(oracle.similarity(queries, keys, metric), np.asarray(neighbours.ids), 1)
    allowed = rounding(metric, queries, keys[np.asarray(neighbours.ids)])
    assert (abs(true - expected) <= 2 * allowed).all()
    assert (abs(np.asarray(neighbours.similarities) - true) <= allowed).all()
    gaps = np.diff(-np.sort(-oracle.similarity(queries, keys, metric), axis=1)[:, : K + 1], axis=1)
    clear = (abs(gaps) > 2 * allowed.max(axis=1, keepdims=True)).all(axis=1)
    assert clear.any()
    np.testing.assert_array_equal(np.asarray(neighbours.ids)[clear], expected_ids[clear])
    np.testing.assert_array_equal(neighbours.values, np.asarray(neighbours.ids) % 5)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("metric", METRICS)
def test_as_many_queries_are_searched_again_as_numpy_leaves_unproven(metric, devices):
    count = int(found(metric, devices).uncertified.sum())
    assert 0 < count < QUERIES
    assert count == uncertified(metric, devices)


def test_a_key_that_rounding_moves_as_far_as_it_can_is_not_missed():
    # Rounding shortens the nearest key by 2^-8, below four that bfloat16 holds as they are; the best of these exceeds the
    # last one by more than half of that.
    query, keys = np.ones((1, 64), np.float32), np.ones((4, 64), np.float32)
    np.fill_diagonal(keys, [1.25, 1.625, 1.625, 1.625])
    keys = np.concatenate([keys, np.full((1, 64), 1 + 2.0**-8, np.float32), -np.eye(30, 64, dtype=np.float32)])
    found = jax.jit(functools.partial(search.search, k=1, search_dtype="bfloat16"))(query, place(keys, 1)[0])
    np.testing.assert_array_equal(found.neighbours.ids, [[4]])
    np.testing.assert_array_equal(found.uncertified, [True])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("metric", METRICS)
def test_keys_in_bfloat16_are_found_as_in_float64(metric):
    queries, keys = workload()
    keys = keys.astype(ml_dtypes.bfloat16)
    rows, _ = place(keys, 1)
    assert rows.keys.dtype == jnp.bfloat16
    rows = Rows(rows.keys, squared_norms(rows.keys), rows.values)
    found = jax.jit(functools.partial(search.search, k=K, metric=metric, search_dtype="bfloat16"))(queries, rows)
    expected = oracle.search(queries, keys.astype(np.float32), K, metric)[1]
    true = np.take_along_axis(
        oracle.similarity(queries, keys.astype(np.float32), metric), np.asarray(found.neighbours.ids), 1
    )
    np.testing.assert_allclose(true, expected, rtol=0, atol=1e-6 if metric == "cosine" else 2e-4)
    assert 0 < found.uncertified.sum() < QUERIES


@pytest.mark.sampled(5)
@pytest.mark.parametrize("width", [24, 100])
@pytest.mark.parametrize("metric", METRICS)
def test_of_copies_of_a_key_the_first_are_found(metric, width):
    rng = np.random.default_rng(9)
    keys = rng.standard_normal((1000, width)).astype(np.float32)
    copies = np.sort(rng.permutation(1000)[: 64 * 5].reshape(64, 5), axis=1)
    keys[copies] = keys[copies[:, :1]]
    queries = keys[copies[:, 0]] + 0.05 * rng.standard_normal((64, width)).astype(np.float32)
    run = functools.partial(search.search, k=3, metric=metric, block_rows=300, search_dtype="bfloat16")
    found = jax.jit(run)(queries, place(keys, 1)[0])
    assert not found.uncertified.all()
    np.testing.assert_array_equal(found.neighbours.ids, oracle.search(queries, keys, 3, metric)[0])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("metric", METRICS)
def test_zeros_need_no_proof(metric):
    rows, _ = place(workload()[1], 1)
    scanned, full = (
        jax.jit(functools.partial(search.search, k=K, metric=metric, search_dtype=search_dtype))(jnp.zeros((2, WIDTH)), rows)
        for search_dtype in ("bfloat16", "float32")
    )
    assert not scanned.uncertified.any()
    np.testing.assert_array_equal(scanned.neighbours.ids, full.neighbours.ids)


def test_a_shard_of_few_rows_is_scored_whole_and_needs_no_proof():
    rng = np.random.default_rng(6)
    queries, keys = (rng.standard_normal((count, WIDTH)).astype(np.float32) for count in (9, 4 * K))
    rows, _ = place(keys, 1)
    scanned = scan.scan_shard(jnp.asarray(queries), rows, 0, K, "ip", 5)
    np.testing.assert_array_equal(scanned.ceiling, -np.inf)
    assert margins.clear_order(oracle.similarity(queries, keys, "ip"), K, margins.rounding(queries, keys, "ip")).all()
    np.testing.assert_array_equal(scanned.neighbours.ids, oracle.search(queries, keys, K, "ip")[0])


def test_padding_is_no_candidate():
    rng = np.random.default_rng(7)
    queries, keys = (rng.standard_normal((count, WIDTH)).astype(np.float32) for count in (9, 8 * 13 - 5))
    rows, mesh = place(keys, 8)
    run = functools.partial(search.search, k=K, metric="l2", block_rows=7, mesh=mesh, search_dtype="bfloat16")
    neighbours = jax.jit(run)(queries, rows).neighbours
    assert margins.clear_order(oracle.similarity(queries, keys, "l2"), K, margins.rounding(queries, keys, "l2")).all()
    np.testing.assert_array_equal(neighbours.ids, oracle.search(queries, keys, K, "l2")[0])
