"""What scouts and border prove is true, and what they settle is right."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle

from knn_ner_jax import sharding
from knn_ner_jax.knn import pruning, search
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
    """The devices of a made-up datastore and both panels, however large."""
    _, keys, labels = make()
    rows, mesh = place(keys, labels, devices)
    return mesh, pruning.choose_panels(rows, LABELS, mesh, at_most=1.0)


def cosines_with(direction, keys):
    norms = np.linalg.norm(keys, axis=1)
    return keys @ direction / np.where(norms > 0, norms, 1)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("devices", [8, 1])
@pytest.mark.parametrize("make", [clouds, workload])
def test_which_rows_are_in_the_panels(make, devices):
    _, keys, labels = make()
    mesh, panels = chosen(make, devices)
    usual, sampled = labels == USUAL, np.arange(len(labels)) % pruning.SAMPLE_EVERY == 0
    zero = ~keys.any(axis=1)
    cosines = cosines_with(np.asarray(panels.scouts.left_out.direction), keys)
    strays = ~usual & (cosines <= panels.scouts.left_out.others_above)
    at_border = usual & (cosines >= panels.border.left_out.usual_below)
    expected = {"scouts": (usual & sampled) | strays | zero, "border": (usual & sampled) | at_border | ~usual | zero}
    for name, wanted in expected.items():
        panel = getattr(panels, name)
        assert int(panel.usual) == USUAL
        real = np.asarray(panel.rows.squared_norms) != PADDING
        np.testing.assert_array_equal(np.asarray(panel.rows.keys)[real], keys[wanted])
        np.testing.assert_array_equal(np.asarray(panel.rows.values)[real], labels[wanted])
        assert panel.rows.keys.sharding.is_equivalent_to(sharding.split(mesh), 2)
        norms = np.linalg.norm(keys, axis=1)
        np.testing.assert_allclose(panel.left_out.longest, norms.max(), rtol=1e-6)
        np.testing.assert_allclose(panel.left_out.shortest, norms[norms > 0].min(), rtol=1e-6)
    if make is clouds:
        assert pruning.STRAYS <= strays.sum() / (~usual).sum() <= pruning.STRAYS + 0.02
        assert pruning.BORDER <= at_border.sum() / usual.sum() <= pruning.BORDER + 0.02


def test_no_panels_where_the_border_would_be_too_large():
    keys = workload()[1]
    rows, mesh = place(keys, np.arange(ROWS, dtype=np.int32) % LABELS, 1)
    assert pruning.choose_panels(rows, LABELS, mesh) is None


def test_one_tag_alone_is_what_everything_is():
    keys = clouds()[1]
    rows, mesh = place(keys, np.full(len(keys), USUAL, np.int32), 1)
    panels = pruning.choose_panels(rows, LABELS, mesh)
    said = rated(jnp.asarray(keys[10:20]), panels.border, 8, 0.1, "cosine", mesh)
    settled = pruning.settle(jnp.full((10, LABELS), 0.25), said, panels.border, jnp.float32(0.5))
    assert (np.asarray(settled) == USUAL).all()


@partial(jax.jit, static_argnames=("k", "metric", "mesh"))
def rated(queries, panel, k, temperature, metric, mesh):
    """The vote of a panel, by the search."""
    find = partial(search.search, queries, panel.rows, metric=metric, num_values=LABELS, mesh=mesh)
    temperature = jnp.float32(temperature)
    if k == "all":
        return pruning.vote_of_all(find(temperatures=temperature[None]).knn_probs[0], panel, queries, temperature, metric)
    near = find(k=min(k + 1, len(panel.rows.values))).neighbours
    return pruning.vote(near, k, panel, queries, temperature, LABELS, metric)


settle = jax.jit(pruning.settle)


@pytest.mark.sampled(13)
@pytest.mark.parametrize("make", [workload, clouds])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 8, 300, "all"])
@pytest.mark.parametrize("metric", METRICS)
def test_what_a_panel_says_is_true_and_what_it_settles_is_right(metric, k, devices, make):
    temperature = 0.1 if metric == "cosine" else 2.0
    queries, keys, labels = make()
    ids, similarities = oracle.search(queries, keys, len(keys) if k == "all" else k, metric)
    true = oracle.vote(similarities, labels[ids], LABELS, temperature)
    mesh, panels = chosen(make, devices)
    usual, rounding = np.arange(LABELS) == USUAL, 1e-4
    p_ner = np.random.default_rng(12).dirichlet(np.ones(LABELS), QUERIES).astype(np.float32)
    settled_as = []
    for panel in panels[1:] if k == "all" else panels:
        said = rated(jnp.asarray(queries), panel, k, temperature, metric, mesh)
        p_knn, underrates, is_true = (np.asarray(value) for value in (said.p_knn, said.underrates, said.is_true))
        excess = np.where(usual, p_knn - true, true - p_knn)
        allowed = rounding + np.asarray(said.doubt)[:, None]
        assert (excess <= allowed)[underrates].all()
        assert (abs(excess) <= allowed)[is_true].all()
        assert (underrates | ~is_true).all()
        assert underrates.all() or panel is panels.scouts
        for knn_weight in (0.2, 0.7, 1.0):
            label = np.asarray(settle(jnp.asarray(p_ner), said, panel, jnp.float32(knn_weight)))
            settled = label != pruning.UNSURE
            assert (oracle.interpolate(p_ner, true, knn_weight).argmax(axis=1)[settled] == label[settled]).all()
            settled_as += label[settled].tolist()
    assert USUAL in settled_as
    if make is clouds and k in (1, 8):
        assert set(settled_as) == set(range(LABELS))


def test_the_bounds_let_either_panel_settle_many_words():
    queries, keys, labels = clouds()
    rows, mesh = place(keys, labels, 1)
    panels = pruning.choose_panels(rows, LABELS, mesh)
    scouts, border = (rated(jnp.asarray(queries), panel, 8, 0.1, "cosine", mesh) for panel in panels)
    on_the_usual_side = np.asarray(scouts.underrates)[-QUERIES // 3 :]
    on_the_other_side = np.asarray(border.is_true)[: QUERIES // 3]
    assert on_the_usual_side.mean() > 0.5 < on_the_other_side.mean()
    assert not np.asarray(scouts.is_true).any()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("k", [4, 1])
def test_copies_of_a_key_with_other_tags_settle_nothing_that_rounding_may_change(k):
    """The scouts' products may round otherwise than those of all rows, and which copy is the k-th decides the vote."""
    rng = np.random.default_rng(13)
    distinct = rng.standard_normal((1000, WIDTH)).astype(np.float32)
    origins = rng.integers(0, len(distinct), 20000)
    keys, mixed = distinct[origins], (origins % 2 == 1) & (rng.random(20000) < 0.4)
    labels = np.where(mixed, rng.integers(0, LABELS, 20000), USUAL).astype(np.int32)
    queries = jnp.asarray(distinct[:200] + 1e-3 * rng.standard_normal((200, WIDTH)), jnp.float32)
    rows, mesh = place(keys, labels, 1)
    panels = pruning.choose_panels(rows, LABELS, mesh)
    near = jax.jit(partial(search.search, k=k))(queries, rows).neighbours
    full = knn_probabilities(near.similarities, near.values, LABELS, 0.1)
    p_ner = jnp.asarray(rng.dirichlet(np.ones(LABELS), 200), jnp.float32)
    expected, settled_as = np.asarray(interpolate(p_ner, full, 0.7).argmax(axis=1)), []
    for panel in panels:
        label = np.asarray(pruning.settle(p_ner, rated(queries, panel, k, 0.1, "cosine", mesh), panel, jnp.float32(0.7)))
        settled = label != pruning.UNSURE
        np.testing.assert_array_equal(label[settled], expected[settled])
        settled_as += label[settled].tolist()
    assert USUAL in settled_as


def test_a_lead_within_rounding_settles_nothing():
    border = chosen(workload)[1].border
    query, error = jnp.ones((1, WIDTH)), (WIDTH + 8) * 2.0**-22
    for temperature, knn_weight in ((0.001, 0.5), (1.0, 0.1)):
        said = pruning.vote_of_all(jnp.full((1, LABELS), 0.25), border, query, jnp.float32(temperature), "cosine")
        needed = 1e-5 + knn_weight * np.expm1(2 * error / temperature)
        for lead, expected in ((0.9 * needed, False), (1.1 * needed, True)):
            p_ner = np.full((1, LABELS), 0.1)
            p_ner[0, USUAL] += lead / (1 - knn_weight)
            label = pruning.settle(jnp.float32(p_ner), said, border, jnp.float32(knn_weight))[0]
            assert int(label) == (USUAL if expected else pruning.UNSURE)


@pytest.mark.parametrize(("following", "doubtful"), [(0.5, False), (0.7 - 1e-6, True)])
def test_a_tie_at_the_last_place_is_doubt(following, doubtful):
    border = chosen(workload)[1].border
    near = Neighbours(jnp.float32([[0.9, 0.7, following]]), jnp.int32([[0, 1, 2]]), jnp.int32([[USUAL, USUAL, 0]]))
    said = pruning.vote(near, 2, border, jnp.ones((1, WIDTH)), jnp.float32(1.0), LABELS, "cosine")
    share = np.exp(0.7) / (np.exp(0.7) + np.exp(0.9))  # of the second, which may lose its place
    np.testing.assert_allclose(said.doubt[0], 2 * share if doubtful else 0.0, atol=1e-4)


def told(similarities, left_out, query=(0.0, 1.0, 0.0, 0.0, 0.0, 0.0), k=2, metric="cosine"):
    """A vote of made-up neighbours, none of which has the usual tag."""
    rows, _ = place(np.ones((4, WIDTH), np.float32), np.zeros(4, np.int32), 1)
    near = Neighbours(
        *(jnp.asarray([column]) for column in (similarities, range(len(similarities)), [0] * len(similarities)))
    )
    panel = pruning.Panel(rows, jnp.int32(USUAL), pruning.LeftOut(*map(jnp.float32, left_out)))
    return pruning.vote(near, k, panel, jnp.float32([query]), jnp.float32(1.0), LABELS, metric)


FIRST_AXIS = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("metric", "length"), [("cosine", 1.0), ("ip", 1.0), ("ip", 30.0), ("l2", 1.0), ("l2", 30.0)])
def test_a_row_left_out_must_be_farther_than_the_last_that_votes_by_more_than_rounding(metric, length):
    left_out = (FIRST_AXIS, -0.6, np.inf, length, length)
    query = (0.0, length, 0.0, 0.0, 0.0, 0.0)
    nearest = {"cosine": 0.8, "ip": 0.8 * length**2, "l2": -0.4 * length**2}[metric]  # the sine of an angle of cosine -0.6
    scale = {"cosine": 1.0, "ip": length**2, "l2": (2 * length) ** 2}[metric]
    error = (WIDTH + 8) * 2.0**-22 * scale
    bound = float(pruning.most_similar(jnp.float32([query]), pruning.LeftOut(*map(jnp.float32, left_out)), metric)[0][0])
    assert nearest <= bound <= nearest + 8 * error
    for ahead, expected in ((3 * error, False), (6 * error, True)):
        said = told([bound + 1e-3 * length**2, bound + ahead], left_out, query, metric=metric)
        assert bool(said.is_true[0]) == expected
        assert bool(said.underrates[0])


def test_a_panel_with_fewer_than_k_rows_leaves_out_what_could_vote():
    some_of_both = (FIRST_AXIS, -0.6, 0.9, 1.0, 1.0)
    for similarities, expected in (([0.99, 0.98], True), ([0.99], False), ([0.99, -np.inf], False)):
        said = told(similarities, some_of_both)
        assert (bool(said.underrates[0]), bool(said.is_true[0])) == (expected, expected)
    nothing = (FIRST_AXIS, -np.inf, np.inf, 1.0, 1.0)
    assert bool(told([0.99], nothing).is_true[0])


@pytest.mark.parametrize("metric", METRICS)
def test_of_a_query_that_is_nearly_zero_nothing_is_known(metric):
    some_of_both = (FIRST_AXIS, -0.6, 0.9, 1.0, 1.0)
    for length, expected in ((1e-25, False), (1e-5, True)):
        said = told([2.0, 2.0], some_of_both, (0.0, length, 0.0, 0.0, 0.0, 0.0), metric=metric)
        assert (bool(said.underrates[0]), bool(said.is_true[0])) == (expected, expected)


def test_every_product_that_chooses_a_panel_is_float32_accurate():
    _, keys, labels = clouds()
    rows, mesh = place(keys, labels, 1)
    divide = jax.shard_map(
        pruning._divide,
        mesh=mesh,
        in_specs=(pruning._DIVIDED, pruning._EVERYWHERE),
        out_specs=pruning._EVERYWHERE,
        check_vma=False,
    )
    text = jax.jit(divide).lower(rows, jnp.int32(USUAL)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_panels_are_kept_as_the_keys_are():
    _, keys, labels = workload()
    rows, mesh = place(keys.astype(jnp.bfloat16), labels, 1)
    for panel in pruning.choose_panels(rows, LABELS, mesh):
        assert panel.rows.keys.dtype == jnp.bfloat16
