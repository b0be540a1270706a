"""Vote, mix, and the bound that says which words no vote can change, by hand and against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.stores import LABELS

from knn_ner_jax.knn.combine import ROUNDING_SLACK, interpolate, knn_probabilities, needs_retrieval

pytestmark = pytest.mark.isa

U = 2.0**-24  # float32 rounding
WEIGHTS = (0.1, 0.24, 0.41, 0.49, 0.7, 1.0)


def test_votes_by_hand():
    similarities = jnp.log(jnp.asarray([[4.0, 2.0, 1.0, 1.0], [8.0, 8.0, 4.0, 4.0]]))
    labels = jnp.asarray([[2, 0, 2, 1], [1, 1, 1, 1]])
    at_1 = [[1 / 4, 1 / 8, 5 / 8], [0, 1, 0]]
    np.testing.assert_allclose(knn_probabilities(similarities, labels, 3, 1.0), at_1, rtol=0, atol=8 * U)
    at_half = [[4 / 22, 1 / 22, 17 / 22], [0, 1, 0]]  # the weights are squared
    np.testing.assert_allclose(knn_probabilities(similarities, labels, 3, 0.5), at_half, rtol=0, atol=16 * U)


@pytest.mark.parametrize("offset", [-1e4, 0.0, 1e4])
def test_votes_neither_overflow_nor_vanish_at_low_temperature(offset):
    similarities = jnp.asarray([[offset, offset - 1, offset - 2], [offset, offset, offset - 1]])
    votes = knn_probabilities(similarities, jnp.asarray([[1, 0, 0], [1, 0, 0]]), 2, 0.001)
    np.testing.assert_array_equal(votes, [[0, 1], [0.5, 0.5]])


def test_mix_by_hand():
    p_ner, p_knn = jnp.asarray([[0.5, 0.25, 0.25], [1, 0, 0]]), jnp.asarray([[0, 0, 1.0], [0.5, 0.5, 0]])
    np.testing.assert_array_equal(interpolate(p_ner, p_knn, 0.25), [[0.375, 0.1875, 0.4375], [0.875, 0.125, 0]])
    np.testing.assert_array_equal(interpolate(p_ner, p_knn, 0.0), p_ner)
    np.testing.assert_array_equal(interpolate(p_ner, p_knn, 1.0), p_knn)
    on_host = interpolate(np.asarray(p_ner), np.asarray(p_knn), 0.25)
    assert isinstance(on_host, np.ndarray)  # nothing was compiled for it
    np.testing.assert_array_equal(on_host, interpolate(p_ner, p_knn, 0.25))


@pytest.mark.parametrize("knn_weight", [0.0, *WEIGHTS])
def test_words_are_settled_by_the_bound_and_its_slack(knn_weight):
    p_ner = np.random.default_rng(0).dirichlet(np.full(LABELS, 0.1), 4000).astype(np.float32)
    if 0 < knn_weight < 0.49:
        # Gaps that miss or exceed the bound by half and by twice the slack.
        gap = (knn_weight + np.array([-0.5, 0.5, 2.0]) * ROUNDING_SLACK) / (1 - knn_weight)
        p_ner[:3, :2], p_ner[:3, 2:] = np.stack([(1 + gap) / 2, (1 - gap) / 2], axis=1), 0
        np.testing.assert_array_equal(needs_retrieval(p_ner[:3], knn_weight), [True, True, False])
    settled = ~np.asarray(needs_retrieval(p_ner, knn_weight))
    assert oracle.decide_bound(p_ner, knn_weight)[settled].all()
    top = np.sort(p_ner.astype(np.float64), axis=1)
    excess = (1 - knn_weight) * (top[:, -1] - top[:, -2]) - knn_weight
    beyond_rounding = abs(excess - ROUNDING_SLACK) > 4 * U
    np.testing.assert_array_equal(settled[beyond_rounding], (excess > ROUNDING_SLACK)[beyond_rounding])
    for label in range(LABELS):
        extreme = interpolate(jnp.asarray(p_ner), jnp.eye(LABELS)[jnp.full(len(p_ner), label)], knn_weight)
        np.testing.assert_array_equal(extreme.argmax(axis=1)[settled], p_ner.argmax(axis=1)[settled])


def test_a_temperature_or_weight_out_of_range_is_refused():
    with pytest.raises(ValueError, match="temperature: expected more than 0, got 0"):
        knn_probabilities(jnp.ones((1, 2)), jnp.zeros((1, 2), jnp.int32), 2, 0.0)
    with pytest.raises(ValueError, match=r"knn_weight: expected a weight in \[0, 1\], got 1.5"):
        interpolate(jnp.ones((1, 2)), jnp.ones((1, 2)), 1.5)


def test_a_temperature_and_a_weight_that_a_compiled_function_closes_over_are_looked_at():
    similarities, labels, p_ner = jnp.float32([[0.9, 0.1]]), jnp.int32([[0, 1]]), jnp.float32([[0.2, 0.8]])

    def compiled(temperature, knn_weight):
        return jax.jit(lambda s: interpolate(p_ner, knn_probabilities(s, labels, 2, temperature), knn_weight))(similarities)

    traced = jax.jit(lambda t, w: interpolate(p_ner, knn_probabilities(similarities, labels, 2, t), w))
    np.testing.assert_array_equal(compiled(jnp.float32(0.1), jnp.float32(0.5)), traced(0.1, 0.5))
    with pytest.raises(ValueError, match="temperature: expected more than 0, got -1"):
        compiled(jnp.float32(-1), jnp.float32(0.5))
    with pytest.raises(ValueError, match="knn_weight: expected a weight"):
        compiled(jnp.float32(1), jnp.float32(2))
