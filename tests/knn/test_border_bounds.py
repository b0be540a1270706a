"""No row that is left out is more similar to a query than its bound, and some are nearly as similar."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from jax.sharding import PartitionSpec

from knn_ner_jax import sharding
from knn_ner_jax.knn import border as borders
from knn_ner_jax.knn.similarity import METRICS, PADDING
from knn_ner_jax.knn.topk import Rows
from knn_ner_jax.sharding import AXIS

pytestmark = pytest.mark.isa

ROWS, WIDTH, USUAL = 1003, 7, 2


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def on_devices(function, keys, labels, devices, divided):
    """What a function of the rows of one device returns on each."""
    mesh = sharding.make_mesh(devices)
    placed = sharding.put_rows(keys, mesh)
    norms = jnp.where(jnp.arange(len(placed)) < len(keys), jnp.sum(placed.astype(jnp.float32) ** 2, axis=1), PADDING)
    by_row = PartitionSpec(AXIS)
    specs = Rows(by_row, by_row, by_row)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(specs,), out_specs=by_row if divided else PartitionSpec())
    return np.asarray(jax.jit(mapped)(Rows(placed, norms, sharding.put_rows(labels, mesh))))


def two_clouds(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(ROWS) < 0.8, USUAL, rng.integers(0, 2, ROWS)).astype(np.int32)
    keys = rng.standard_normal((ROWS, WIDTH)) + 3 * np.where(labels[:, None] == USUAL, 1, -1) * np.eye(WIDTH)[0]
    return (keys * rng.uniform(0.5, 2, (ROWS, 1))).astype(np.float32), labels


@pytest.mark.sampled(3)
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_direction_goes_from_the_mean_of_one_tag_to_that_of_the_others(devices, dtype, monkeypatch):
    monkeypatch.setattr(borders, "_BLOCK_ROWS", 50)
    keys, labels = two_clouds()
    keys[5] = 0
    keys = keys.astype(jnp.dtype(dtype))
    found = on_devices(
        lambda rows: borders.separating_direction(rows, jnp.int32(USUAL)), keys, labels, devices, divided=False
    )
    exact = keys.astype(np.float64)
    units, kept = unit(np.delete(exact, 5, axis=0)), np.delete(labels, 5)
    expected = unit(units[kept != USUAL].mean(axis=0) - units[kept == USUAL].mean(axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    cosines = on_devices(
        lambda rows: borders.direction_cosines(rows, jnp.float32(expected)), keys, labels, devices, divided=True
    )
    whole = np.insert(units @ expected, 5, 0.0)
    np.testing.assert_allclose(cosines[:ROWS], whole, atol=1e-5)
    assert (cosines[ROWS:] == 0).all()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_a_limit_leaves_a_share_on_one_side(devices, share):
    keys, labels = two_clouds()
    axis = jnp.eye(WIDTH)[0]

    def limit(rows):
        among = (rows.squared_norms != PADDING) & (rows.values == USUAL)
        return borders.cosine_limit(borders.direction_cosines(rows, axis), among, share)

    found = on_devices(limit, keys, labels, devices, divided=False)
    cosines = unit(keys)[labels == USUAL, 0]
    reached, next_edge = (cosines >= found).mean(), (cosines >= found + 2 / 2048).mean()
    assert reached >= share > next_edge


def bounded(queries, direction, metric, shortest, longest, limit):
    left_out = borders.LeftOut(*map(jnp.float32, (direction, limit, shortest, longest)))
    return np.asarray(borders.most_similar(jnp.asarray(queries, jnp.float32), left_out, metric))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [2, 3, 40])
@pytest.mark.parametrize("limit", [-0.9, -0.2, 0.0, 0.6, 1.0])
def test_nothing_on_the_other_side_of_a_limit_is_more_similar_than_its_bound(metric, width, limit):
    rng = np.random.default_rng(1)
    direction = unit(rng.standard_normal(width))
    # Rows at the very limit and beyond it, some of them in the planes of the queries, and both lengths.
    queries = rng.standard_normal((50, width)) + 2 * width**0.5 * rng.standard_normal((50, 1)) * direction
    queries *= rng.uniform(0.02, 0.6, (50, 1))
    queries[0] = 0
    queries[1] = direction
    sideways = np.concatenate([queries[2:], -queries[2:], rng.standard_normal((3000, width))])
    sideways = unit(sideways - (sideways @ direction)[:, None] * direction)
    cosines = np.where(rng.random(len(sideways)) < 0.5, limit, rng.uniform(-1, limit, len(sideways)))
    cosines[: 2 * 48] = limit
    units = cosines[:, None] * direction + np.sqrt(1 - cosines[:, None] ** 2) * sideways
    keys = np.concatenate([0.5 * units, 2 * units, rng.uniform(0.5, 2, (len(units), 1)) * units])
    true = oracle.similarity(queries, keys, metric).max(axis=1)
    # The last operations round, by less than a similarity of these lengths may be wrong for rounding.
    norms = np.linalg.norm(queries, axis=1)
    rounding = 4 * 2.0**-24 * {"cosine": 1, "ip": 2 * norms, "l2": (norms + 2) ** 2}[metric]
    bound = bounded(queries, direction, metric, 0.5, 2.0, limit)
    assert (bound + rounding >= true).all()
    assert (bounded(queries, direction, metric, 0.5, 2.0, -np.inf) == -np.inf).all()  # nothing is left out
    # One of the rows at the limit attains the bound; with l2 only if it also has the right length.
    if metric != "l2":
        beyond = unit(queries[2:]) @ direction > limit
        scale = 2 * norms[2:] if metric == "ip" else 1.0
        assert (np.abs(bound - true)[2:] / scale < 2e-3)[beyond].all()
        assert 0 < beyond.sum() < len(beyond) or limit == 1.0
