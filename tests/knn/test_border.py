"""What the border proves is true, and what it settles is right."""

import logging
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle

from knn_ner_jax import sharding
from knn_ner_jax.knn import border as borders
from knn_ner_jax.knn import search
from knn_ner_jax.knn.combine import interpolate, knn_probabilities
from knn_ner_jax.knn.similarity import METRICS, PADDING
from knn_ner_jax.knn.topk import Neighbours, Rows

pytestmark = pytest.mark.isa

ROWS, WIDTH, QUERIES, LABELS, USUAL = 403, 6, 60, 4, 2


def workload():
    """Integer keys, most of them with the usual tag, many of them equal to keys with another."""
    rng = np.random.default_rng(11)
    keys = rng.integers(-2, 3, (ROWS, WIDTH)).astype(np.float32)
    keys[100:200] = keys[rng.integers(0, 100, 100)]
    labels = np.where(rng.random(ROWS) < 0.85, USUAL, rng.integers(0, LABELS, ROWS)).astype(np.int32)
    queries = np.concatenate([keys[:20], rng.integers(-2, 3, (QUERIES - 20, WIDTH))]).astype(np.float32)
    return queries, keys, labels


def place(keys, labels, devices):
    mesh = sharding.make_mesh(devices)
    placed = sharding.put_rows(keys, mesh)
    norms = jnp.where(jnp.arange(len(placed)) < len(keys), jnp.sum(placed * placed, axis=1), PADDING)
    return Rows(placed, norms, sharding.put_rows(labels, mesh)), mesh


def clouds():
    """The usual tag on one side, three others on the other, some of either among the others' neighbours."""
    rng = np.random.default_rng(21)
    labels = np.where(rng.random(3000) < 0.85, USUAL, rng.integers(0, LABELS, 3000)).astype(np.int32)
    sides = np.where((labels == USUAL) ^ (rng.random(3000) < 0.03), 1, -1)
    keys = rng.standard_normal((3000, WIDTH)) + 6 * sides[:, None] * np.eye(WIDTH)[0]
    keys[np.flatnonzero(labels == USUAL)[:3]] = 0  # as similar to anything as to its opposite
    queries = rng.standard_normal((QUERIES, WIDTH)) + np.linspace(-6, 6, QUERIES)[:, None] * np.eye(WIDTH)[0]
    return queries.astype(np.float32), keys.astype(np.float32), labels


@cache
def chosen(make, devices=1):
    """The devices of a made-up datastore and its border, however large."""
    _, keys, labels = make()
    rows, mesh = place(keys, labels, devices)
    return mesh, borders.choose_border(rows, LABELS, mesh, at_most=1.0)


def cosines_with(direction, keys):
    norms = np.linalg.norm(keys, axis=1)
    return keys @ direction / np.where(norms > 0, norms, 1)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("devices", [8, 1])
@pytest.mark.parametrize("make", [clouds, workload])
def test_which_rows_are_in_the_border(make, devices):
    _, keys, labels = make()
    mesh, border = chosen(make, devices)
    usual, sampled = labels == USUAL, np.arange(len(labels)) % borders.SAMPLE_EVERY == 0
    zero = ~keys.any(axis=1)
    near = usual & (cosines_with(np.asarray(border.left_out.direction), keys) >= border.left_out.limit)
    expected = (usual & sampled) | near | ~usual | zero
    assert int(border.usual) == USUAL
    real = np.asarray(border.rows.squared_norms) != PADDING
    np.testing.assert_array_equal(np.asarray(border.rows.keys)[real], keys[expected])
    np.testing.assert_array_equal(np.asarray(border.rows.values)[real], labels[expected])
    assert border.rows.keys.sharding.is_equivalent_to(sharding.split(mesh), 2)
    norms = np.linalg.norm(keys, axis=1)
    np.testing.assert_allclose(border.left_out.longest, norms.max(), rtol=1e-6)
    np.testing.assert_allclose(border.left_out.shortest, norms[norms > 0].min(), rtol=1e-6)
    if make is clouds:
        assert borders.SHARE <= near.sum() / usual.sum() <= borders.SHARE + 0.02


def test_there_is_no_border_where_it_would_be_too_large():
    keys = workload()[1]
    rows, mesh = place(keys, np.arange(ROWS, dtype=np.int32) % LABELS, 1)
    assert borders.choose_border(rows, LABELS, mesh) is None


def test_a_row_with_another_tag_compiles_nothing_anew(caplog):
    _, keys, labels = clouds()
    rows, mesh = place(keys, labels, 1)
    first = borders.choose_border(rows, LABELS, mesh)
    left_out = (labels == USUAL) & (keys[:, 0] > 5) & (np.arange(len(keys)) % borders.SAMPLE_EVERY > 0)
    labels[np.flatnonzero(left_out)[0]] = 0
    rows, mesh = place(keys, labels, 1)
    jax.block_until_ready(rows)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        second = borders.choose_border(rows, LABELS, mesh)
    assert not [record for record in caplog.records if record.getMessage().startswith("Compiling")]
    assert second.rows.keys.shape == first.rows.keys.shape
    real = [int((np.asarray(border.rows.squared_norms) != PADDING).sum()) for border in (first, second)]
    assert real[1] != real[0]


def test_one_tag_alone_is_what_everything_is():
    keys = clouds()[1]
    rows, mesh = place(keys, np.full(len(keys), USUAL, np.int32), 1)
    border = borders.choose_border(rows, LABELS, mesh)
    said = rated(jnp.asarray(keys[10:20]), border, 8, 0.1, "cosine", mesh)
    settled = borders.settle(jnp.full((10, LABELS), 0.25), said, border.usual, jnp.float32(0.5))
    assert (np.asarray(settled) == USUAL).all()


@partial(jax.jit, static_argnames=("k", "metric", "mesh"))
def rated(queries, border, k, temperature, metric, mesh):
    """The vote of a border, by the search."""
    find = partial(search.search, queries, border.rows, metric=metric, num_values=LABELS, mesh=mesh)
    temperature = jnp.float32(temperature)
    if k == "all":
        return borders.vote_of_all(find(temperatures=temperature[None]).knn_probs[0], border, queries, temperature, metric)
    near = find(k=min(k + 1, len(border.rows.values))).neighbours
    return borders.vote(near, k, border, queries, temperature, LABELS, metric)


settle = jax.jit(borders.settle)


@pytest.mark.sampled(13)
@pytest.mark.parametrize("make", [workload, clouds])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 8, 300, "all"])
@pytest.mark.parametrize("metric", METRICS)
def test_what_a_border_says_is_true_and_what_it_settles_is_right(metric, k, devices, make):
    temperature = 0.1 if metric == "cosine" else 2.0
    queries, keys, labels = make()
    ids, similarities = oracle.search(queries, keys, len(keys) if k == "all" else k, metric)
    true = oracle.vote(similarities, labels[ids], LABELS, temperature)
    mesh, border = chosen(make, devices)
    usual, rounding = np.arange(LABELS) == USUAL, 1e-4
    p_ner = np.random.default_rng(12).dirichlet(np.ones(LABELS), QUERIES).astype(np.float32)
    said = rated(jnp.asarray(queries), border, k, temperature, metric, mesh)
    p_knn, is_true = np.asarray(said.p_knn), np.asarray(said.is_true)
    excess = np.where(usual, p_knn - true, true - p_knn)
    allowed = rounding + np.asarray(said.doubt)[:, None]
    assert (excess <= allowed).all()  # it underrates the usual tag alone
    assert (abs(excess) <= allowed)[is_true].all()
    settled_as = []
    for knn_weight in (0.2, 0.7, 1.0):
        label = np.asarray(settle(jnp.asarray(p_ner), said, border.usual, jnp.float32(knn_weight)))
        settled = label != borders.UNSURE
        assert (oracle.interpolate(p_ner, true, knn_weight).argmax(axis=1)[settled] == label[settled]).all()
        settled_as += label[settled].tolist()
    assert USUAL in settled_as
    if make is clouds and k in (1, 8):
        assert set(settled_as) == set(range(LABELS))


def test_the_bound_lets_the_border_settle_many_words():
    queries, keys, labels = clouds()
    rows, mesh = place(keys, labels, 1)
    said = rated(jnp.asarray(queries), borders.choose_border(rows, LABELS, mesh), 8, 0.1, "cosine", mesh)
    assert np.asarray(said.is_true)[: QUERIES // 3].mean() > 0.5
    assert not np.asarray(said.is_true)[-QUERIES // 3 :].all()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("k", [4, 1])
def test_copies_of_a_key_with_other_tags_settle_nothing_that_rounding_may_change(k):
    """The border's products may round otherwise than those of all rows, and which copy is the k-th decides the vote."""
    rng = np.random.default_rng(13)
    distinct = rng.standard_normal((1000, WIDTH)).astype(np.float32)
    origins = rng.integers(0, len(distinct), 20000)
    keys, mixed = distinct[origins], (origins % 2 == 1) & (rng.random(20000) < 0.4)
    labels = np.where(mixed, rng.integers(0, LABELS, 20000), USUAL).astype(np.int32)
    queries = jnp.asarray(distinct[:200] + 1e-3 * rng.standard_normal((200, WIDTH)), jnp.float32)
    rows, mesh = place(keys, labels, 1)
    border = borders.choose_border(rows, LABELS, mesh, at_most=1.0)
    near = jax.jit(partial(search.search, k=k))(queries, rows).neighbours
    full = knn_probabilities(near.similarities, near.values, LABELS, 0.1)
    p_ner = jnp.asarray(rng.dirichlet(np.ones(LABELS), 200), jnp.float32)
    expected = np.asarray(interpolate(p_ner, full, 0.7).argmax(axis=1))
    said = rated(queries, border, k, 0.1, "cosine", mesh)
    label = np.asarray(borders.settle(p_ner, said, border.usual, jnp.float32(0.7)))
    settled = label != borders.UNSURE
    np.testing.assert_array_equal(label[settled], expected[settled])
    assert USUAL in label[settled]


def test_a_lead_within_rounding_settles_nothing():
    border = chosen(workload)[1]
    query, error = jnp.ones((1, WIDTH)), (WIDTH + 8) * 2.0**-22
    for temperature, knn_weight in ((0.001, 0.5), (1.0, 0.1)):
        said = borders.vote_of_all(jnp.full((1, LABELS), 0.25), border, query, jnp.float32(temperature), "cosine")
        needed = 1e-5 + knn_weight * np.expm1(2 * error / temperature)
        for lead, expected in ((0.9 * needed, False), (1.1 * needed, True)):
            p_ner = np.full((1, LABELS), 0.1)
            p_ner[0, USUAL] += lead / (1 - knn_weight)
            label = borders.settle(jnp.float32(p_ner), said, border.usual, jnp.float32(knn_weight))[0]
            assert int(label) == (USUAL if expected else borders.UNSURE)


@pytest.mark.parametrize(("following", "doubtful"), [(0.5, False), (0.7 - 1e-6, True)])
def test_a_tie_at_the_last_place_is_doubt(following, doubtful):
    border = chosen(workload)[1]
    near = Neighbours(jnp.float32([[0.9, 0.7, following]]), jnp.int32([[0, 1, 2]]), jnp.int32([[USUAL, USUAL, 0]]))
    said = borders.vote(near, 2, border, jnp.ones((1, WIDTH)), jnp.float32(1.0), LABELS, "cosine")
    share = np.exp(0.7) / (np.exp(0.7) + np.exp(0.9))  # of the second, which may lose its place
    np.testing.assert_allclose(said.doubt[0], 2 * share if doubtful else 0.0, atol=1e-4)


def told(similarities, left_out, query=(0.0, 1.0, 0.0, 0.0, 0.0, 0.0), k=2, metric="cosine"):
    """A vote of made-up neighbours, none of which has the usual tag."""
    rows, _ = place(np.ones((4, WIDTH), np.float32), np.zeros(4, np.int32), 1)
    near = Neighbours(
        *(jnp.asarray([column]) for column in (similarities, range(len(similarities)), [0] * len(similarities)))
    )
    border = borders.Border(rows, jnp.int32(USUAL), borders.LeftOut(*map(jnp.float32, left_out)))
    return borders.vote(near, k, border, jnp.float32([query]), jnp.float32(1.0), LABELS, metric)


FIRST_AXIS = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("metric", "length"), [("cosine", 1.0), ("ip", 1.0), ("ip", 30.0), ("l2", 1.0), ("l2", 30.0)])
def test_a_row_left_out_must_be_farther_than_the_last_that_votes_by_more_than_rounding(metric, length):
    left_out = (FIRST_AXIS, -0.6, length, length)
    query = (0.0, length, 0.0, 0.0, 0.0, 0.0)
    nearest = {"cosine": 0.8, "ip": 0.8 * length**2, "l2": -0.4 * length**2}[metric]  # the sine of an angle of cosine -0.6
    scale = {"cosine": 1.0, "ip": length**2, "l2": (2 * length) ** 2}[metric]
    error = (WIDTH + 8) * 2.0**-22 * scale
    bound = float(borders.most_similar(jnp.float32([query]), borders.LeftOut(*map(jnp.float32, left_out)), metric)[0])
    assert nearest <= bound <= nearest + 8 * error
    for ahead, expected in ((3 * error, False), (6 * error, True)):
        said = told([bound + 1e-3 * length**2, bound + ahead], left_out, query, metric=metric)
        assert bool(said.is_true[0]) == expected


BEYOND = (FIRST_AXIS, -0.6, 1.0, 1.0)


def test_a_border_with_fewer_than_k_rows_leaves_out_what_could_vote():
    for similarities, expected in (([0.99, 0.98], True), ([0.99], False), ([0.99, -np.inf], False)):
        assert bool(told(similarities, BEYOND).is_true[0]) == expected
    assert bool(told([0.99], (FIRST_AXIS, -np.inf, 1.0, 1.0)).is_true[0])


@pytest.mark.parametrize("metric", METRICS)
def test_of_a_query_that_is_nearly_zero_nothing_is_known(metric):
    for length, expected in ((1e-25, False), (1e-5, True)):
        said = told([2.0, 2.0], BEYOND, (0.0, length, 0.0, 0.0, 0.0, 0.0), metric=metric)
        assert bool(said.is_true[0]) == expected


def test_every_product_that_chooses_the_border_is_float32_accurate():
    _, keys, labels = clouds()
    rows, mesh = place(keys, labels, 1)
    divide = jax.shard_map(
        partial(borders._divide, num_values=LABELS),
        mesh=mesh,
        in_specs=(borders._DIVIDED,),
        out_specs=borders._EVERYWHERE,
        check_vma=False,
    )
    text = jax.jit(divide).lower(rows).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_the_border_is_kept_as_the_keys_are():
    _, keys, labels = workload()
    rows, mesh = place(keys.astype(jnp.bfloat16), labels, 1)
    assert borders.choose_border(rows, LABELS, mesh, at_most=1.0).rows.keys.dtype == jnp.bfloat16


@pytest.mark.sampled(4)
@pytest.mark.parametrize("make", [workload, clouds])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("metric", METRICS)
def test_words_settled_for_a_sweep_are_the_usual_tag_by_every_setting_in_it(metric, devices, make):
    every_k, temperatures = (1, 8, 40, "all"), (0.1, 0.5) if metric == "cosine" else (2.0, 9.0)
    queries, keys, labels = make()
    mesh, border = chosen(make, devices)
    p_ner = np.random.default_rng(13).dirichlet(np.where(np.arange(LABELS) == USUAL, 4.0, 1.0), QUERIES).astype(np.float32)
    find = partial(search.search, jnp.asarray(queries), border.rows, metric=metric, num_values=LABELS, mesh=mesh)
    result = jax.jit(lambda: find(k=41, temperatures=jnp.float32(temperatures)))()
    sweep = borders.Sweep(border, jnp.float32(temperatures), jnp.float32([0.1, 0.8]), every_k)
    arguments = jnp.asarray(p_ner), jnp.asarray(queries), result.neighbours, result.knn_probs, sweep
    settled = np.asarray(jax.jit(borders.settle_sweep, static_argnames="metric")(*arguments, metric=metric))
    by_setting = []
    for k in every_k:
        ids, similarities = oracle.search(queries, keys, len(keys) if k == "all" else k, metric)
        for temperature in temperatures:
            true = oracle.vote(similarities, labels[ids], LABELS, temperature)
            by_setting += [oracle.interpolate(p_ner, true, weight).argmax(axis=1) for weight in np.linspace(0.1, 0.8, 15)]
    always_usual = (np.array(by_setting) == USUAL).all(axis=0)
    assert always_usual[settled].all()
    assert not always_usual.all()
    # Copies of keys with other tags are decided by rounding.
    assert settled.sum() >= (always_usual.sum() / 4 if make is clouds else 1)
