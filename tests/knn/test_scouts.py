"""The scouts underrate the usual tag, never overrate it, and what they settle is right."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from knn_ner_jax import mesh as placement
from knn_ner_jax.knn import scouts as scouting
from knn_ner_jax.knn import search
from knn_ner_jax.knn.rows import Rows
from knn_ner_jax.knn.similarity import METRICS, PADDING
from knn_ner_jax.knn.vote import interpolate, knn_probabilities

ROWS, WIDTH, QUERIES, LABELS, USUAL = 403, 6, 60, 4, 2
U = 2.0**-24


def workload():
    """Integer keys, most of them with the usual tag, many of them equal to keys with another."""
    rng = np.random.default_rng(11)
    keys = rng.integers(-2, 3, (ROWS, WIDTH)).astype(np.float32)
    keys[100:200] = keys[rng.integers(0, 100, 100)]
    labels = np.where(rng.random(ROWS) < 0.85, USUAL, rng.integers(0, LABELS, ROWS)).astype(np.int32)
    queries = np.concatenate([keys[:20], rng.integers(-2, 3, (QUERIES - 20, WIDTH))]).astype(np.float32)
    return queries, keys, labels


def place(keys, labels, devices):
    mesh = placement.make_mesh(devices)
    placed = placement.put_rows(keys, mesh)
    norms = jnp.where(jnp.arange(len(placed)) < len(keys), jnp.sum(placed * placed, axis=1), PADDING)
    return Rows(placed, norms, placement.put_rows(labels, mesh)), mesh


def expected_scouts(labels, devices):
    shard = -(-ROWS // devices)
    sampled = np.arange(ROWS) % shard % scouting.SAMPLE_EVERY == 0
    return np.flatnonzero((labels != USUAL) | sampled)


@pytest.mark.parametrize("devices", [1, 8])
def test_all_rows_of_other_tags_and_a_sample_of_the_usual_one(devices):
    _, keys, labels = workload()
    rows, mesh = place(keys, labels, devices)
    scouts = scouting.choose(rows, LABELS, mesh)
    assert int(scouts.usual) == USUAL
    real = np.asarray(scouts.rows.squared_norms) != PADDING
    wanted = expected_scouts(labels, devices)
    np.testing.assert_array_equal(np.asarray(scouts.rows.keys)[real], keys[wanted])
    np.testing.assert_array_equal(np.asarray(scouts.rows.values)[real], labels[wanted])
    assert scouts.rows.keys.sharding.is_equivalent_to(placement.split(mesh), 2)
    np.testing.assert_allclose(scouts.largest_norm, np.linalg.norm(keys[wanted], axis=1).max(), rtol=1e-6)


def test_no_scouts_where_they_would_be_too_many():
    keys = workload()[1]
    rows, mesh = place(keys, np.arange(ROWS, dtype=np.int32) % LABELS, 1)
    assert scouting.choose(rows, LABELS, mesh) is None


def votes(metric, k, temperature, devices):
    """p_kNN of all rows, in float64, and of the scouts, by the search."""
    queries, keys, labels = workload()
    every = ROWS if k == "all" else k
    ids, similarities = oracle.search(queries, keys, every, metric)
    true = oracle.vote(similarities, labels[ids], LABELS, temperature)
    rows, mesh = place(keys, labels, devices)
    scouts = scouting.choose(rows, LABELS, mesh)
    find = partial(search.search, queries, scouts.rows, metric=metric, num_values=LABELS, mesh=mesh)
    if k == "all":
        return true, np.asarray(find(temperatures=jnp.float32([temperature])).shares[0]), scouts, queries
    near = find(k=min(k, len(scouts.rows.values))).neighbours
    return true, np.asarray(knn_probabilities(near.similarities, near.values, LABELS, temperature)), scouts, queries


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 8, 300, "all"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_usual_tag_is_underrated_and_what_is_settled_is_right(metric, k, devices):
    temperature = 0.1 if metric == "cosine" else 2.0
    true, rated, scouts, queries = votes(metric, k, temperature, devices)
    rounding = 1e-4
    usual = np.arange(LABELS) == USUAL
    assert (rated[:, usual] <= true[:, usual] + rounding).all()
    assert (rated[:, ~usual] >= true[:, ~usual] - rounding).all()
    rng = np.random.default_rng(12)
    p_ner = rng.dirichlet(np.ones(LABELS), QUERIES).astype(np.float32)
    settled_at_all = 0
    for knn_weight in (0.2, 0.7, 1.0):
        mixed = interpolate(jnp.asarray(p_ner), jnp.asarray(rated), knn_weight)
        traced = jnp.float32(temperature), jnp.float32(knn_weight)
        settled = np.asarray(scouting.settle(mixed, scouts, jnp.asarray(queries), *traced, metric))
        assert (oracle.interpolate(p_ner, true, knn_weight).argmax(axis=1)[settled] == USUAL).all()
        settled_at_all += settled.sum()
    assert settled_at_all > 0


def test_a_lead_within_rounding_settles_nothing():
    _, keys, labels = workload()
    rows, mesh = place(keys, labels, 1)
    scouts = scouting.choose(rows, LABELS, mesh)
    for temperature, knn_weight, needed in (
        (0.001, 0.5, 1e-5 + 0.5 * np.expm1(8e-3)),
        (1.0, 0.1, 1e-5 + 0.1 * np.expm1(8e-6)),
    ):
        for lead, expected in ((0.9 * needed, False), (1.1 * needed, True)):
            mixed = np.full((1, LABELS), 0.1)
            mixed[0, USUAL] += lead
            arguments = jnp.ones((1, WIDTH)), jnp.float32(temperature), jnp.float32(knn_weight), "cosine"
            assert bool(scouting.settle(jnp.float32(mixed), scouts, *arguments)[0]) == expected


def test_scouts_are_kept_as_the_keys_are():
    _, keys, labels = workload()
    rows, mesh = place(keys.astype(jnp.bfloat16), labels, 1)
    assert jax.tree.leaves(scouting.choose(rows, LABELS, mesh).rows)[0].dtype == jnp.bfloat16
