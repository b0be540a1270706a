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
from knn_ner_jax.knn.selection import Neighbours
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


def expected_scouts(labels):
    return np.flatnonzero((labels != USUAL) | (np.arange(ROWS) % scouting.SAMPLE_EVERY == 0))


@pytest.mark.parametrize("devices", [1, 8])
def test_all_rows_of_other_tags_and_a_sample_of_the_usual_one(devices):
    _, keys, labels = workload()
    rows, mesh = place(keys, labels, devices)
    scouts = scouting.choose(rows, LABELS, mesh)
    assert int(scouts.usual) == USUAL
    real = np.asarray(scouts.rows.squared_norms) != PADDING
    wanted = expected_scouts(labels)
    np.testing.assert_array_equal(np.asarray(scouts.rows.keys)[real], keys[wanted])
    np.testing.assert_array_equal(np.asarray(scouts.rows.values)[real], labels[wanted])
    assert scouts.rows.keys.sharding.is_equivalent_to(placement.split(mesh), 2)
    np.testing.assert_allclose(scouts.largest_norm, np.linalg.norm(keys, axis=1).max(), rtol=1e-6)


def test_no_scouts_where_they_would_be_too_many():
    keys = workload()[1]
    rows, mesh = place(keys, np.arange(ROWS, dtype=np.int32) % LABELS, 1)
    assert scouting.choose(rows, LABELS, mesh) is None


def rated(queries, scouts, k, temperature, metric, mesh):
    """The scouts' vote, by the search."""
    find = partial(search.search, queries, scouts.rows, metric=metric, num_values=LABELS, mesh=mesh)
    temperature = jnp.float32(temperature)
    if k == "all":
        return scouting.vote_of_all(find(temperatures=temperature[None]).shares[0], scouts, queries, temperature, metric)
    near = find(k=min(k + 1, len(scouts.rows.values))).neighbours
    return scouting.vote(near, k, scouts, queries, temperature, LABELS, metric)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 8, 300, "all"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_usual_tag_is_underrated_and_what_is_settled_is_right(metric, k, devices):
    temperature = 0.1 if metric == "cosine" else 2.0
    queries, keys, labels = workload()
    ids, similarities = oracle.search(queries, keys, ROWS if k == "all" else k, metric)
    true = oracle.vote(similarities, labels[ids], LABELS, temperature)
    rows, mesh = place(keys, labels, devices)
    scouts = scouting.choose(rows, LABELS, mesh)
    said = rated(jnp.asarray(queries), scouts, k, temperature, metric, mesh)
    usual, p_knn, rounding = np.arange(LABELS) == USUAL, np.asarray(said.p_knn), 1e-4
    assert (p_knn[:, usual] <= true[:, usual] + rounding).all()
    assert (p_knn[:, ~usual] >= true[:, ~usual] - rounding).all()
    p_ner = np.random.default_rng(12).dirichlet(np.ones(LABELS), QUERIES).astype(np.float32)
    settled_at_all = 0
    for knn_weight in (0.2, 0.7, 1.0):
        settled = np.asarray(scouting.settle(jnp.asarray(p_ner), said, scouts, jnp.float32(knn_weight)))
        assert (oracle.interpolate(p_ner, true, knn_weight).argmax(axis=1)[settled] == USUAL).all()
        settled_at_all += settled.sum()
    assert settled_at_all > 0


@pytest.mark.parametrize("k", [1, 4])
def test_copies_of_a_key_with_other_tags_settle_nothing_that_rounding_may_change(k):
    """The scouts' products may round otherwise than those of all rows, and which copy is the k-th decides the vote."""
    rng = np.random.default_rng(13)
    distinct = rng.standard_normal((1000, WIDTH)).astype(np.float32)
    origins = rng.integers(0, len(distinct), 20000)
    keys, mixed = distinct[origins], (origins % 2 == 1) & (rng.random(20000) < 0.4)
    labels = np.where(mixed, rng.integers(0, LABELS, 20000), USUAL).astype(np.int32)
    queries = jnp.asarray(distinct[:200] + 1e-3 * rng.standard_normal((200, WIDTH)), jnp.float32)
    rows, mesh = place(keys, labels, 1)
    scouts = scouting.choose(rows, LABELS, mesh)
    near = search.search(queries, rows, k=k).neighbours
    full = knn_probabilities(near.similarities, near.values, LABELS, 0.1)
    p_ner = jnp.asarray(rng.dirichlet(np.ones(LABELS), 200), jnp.float32)
    settled = scouting.settle(p_ner, rated(queries, scouts, k, 0.1, "cosine", mesh), scouts, jnp.float32(0.7))
    assert settled.any()
    assert set(np.asarray(interpolate(p_ner, full, 0.7).argmax(axis=1))[np.asarray(settled)]) == {USUAL}


def test_a_lead_within_rounding_settles_nothing():
    _, keys, labels = workload()
    rows, mesh = place(keys, labels, 1)
    scouts = scouting.choose(rows, LABELS, mesh)
    query, error = jnp.ones((1, WIDTH)), (WIDTH + 8) * 2.0**-22
    for temperature, knn_weight in ((0.001, 0.5), (1.0, 0.1)):
        said = scouting.vote_of_all(jnp.full((1, LABELS), 0.25), scouts, query, jnp.float32(temperature), "cosine")
        needed = 1e-5 + knn_weight * np.expm1(2 * error / temperature)
        for lead, expected in ((0.9 * needed, False), (1.1 * needed, True)):
            p_ner = np.full((1, LABELS), 0.1)
            p_ner[0, USUAL] += lead / (1 - knn_weight)
            assert bool(scouting.settle(jnp.float32(p_ner), said, scouts, jnp.float32(knn_weight))[0]) == expected


@pytest.mark.parametrize(("following", "doubtful"), [(0.5, False), (0.7 - 1e-6, True)])
def test_a_tie_at_the_last_place_is_doubt(following, doubtful):
    _, keys, labels = workload()
    rows, mesh = place(keys, labels, 1)
    scouts = scouting.choose(rows, LABELS, mesh)
    near = Neighbours(jnp.float32([[0.9, 0.7, following]]), jnp.int32([[0, 1, 2]]), jnp.int32([[USUAL, USUAL, 0]]))
    said = scouting.vote(near, 2, scouts, jnp.ones((1, WIDTH)), jnp.float32(1.0), LABELS, "cosine")
    share = np.exp(0.7) / (np.exp(0.7) + np.exp(0.9))  # of the second, which may lose its place
    np.testing.assert_allclose(said.doubt[0], 2 * share if doubtful else 0.0, atol=1e-4)


def test_scouts_are_kept_as_the_keys_are():
    _, keys, labels = workload()
    rows, mesh = place(keys.astype(jnp.bfloat16), labels, 1)
    assert jax.tree.leaves(scouting.choose(rows, LABELS, mesh).rows)[0].dtype == jnp.bfloat16
