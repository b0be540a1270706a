"""What a mixer reads and what it predicts: by hand, and as the vote it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_ner_jax.contrib import adaptive
from knn_ner_jax.contrib.adaptive import MetaKNetwork, Mixer
from knn_ner_jax.contrib.combiner import RetrievedWords
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import knn_probabilities

K, LABELS, TEMPERATURE = 8, 5, 0.1
WORDS = 37
OPTIONS = adaptive.numbers_of_neighbours(K)


@pytest.fixture(scope="module")
def words():
    """Neighbours of made-up words; more than the mixer takes."""
    rng = np.random.default_rng(0)
    similarities = -np.sort(-rng.uniform(0.2, 1.0, (WORDS, K + 3))).astype(np.float32)
    p_ner = rng.dirichlet(np.full(LABELS, 0.3), WORDS).astype(np.float32)
    return RetrievedWords(p_ner, similarities, rng.integers(0, LABELS, (WORDS, K + 3)).astype(np.int32))


features, distributions = jax.jit(adaptive.features), jax.jit(adaptive.candidate_distributions)


def mixer_with(network):
    width = 2 * K + 1
    return Mixer(network, jnp.zeros(width), jnp.ones(width), jnp.float32(TEMPERATURE))


def only(option):
    """A mixer that gives one option all."""
    network = MetaKNetwork.init(jax.random.key(0), K, 4)
    return mixer_with(network._replace(output_bias=jnp.zeros(len(OPTIONS)).at[option].set(1e4)))


@pytest.fixture(scope="module")
def varied():
    """A mixer whose weights differ from word to word."""
    network = MetaKNetwork.init(jax.random.key(1), K, 4)
    kernel = np.random.default_rng(1).normal(0, 2, network.output_kernel.shape).astype(np.float32)
    return mixer_with(network._replace(output_kernel=jnp.asarray(kernel)))


def test_a_mixer_chooses_from_none_and_the_powers_of_2():
    assert OPTIONS == (0, 1, 2, 4, 8)
    assert adaptive.numbers_of_neighbours(1) == (0, 1)


def test_features_by_hand():
    p_ner = [[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]
    similarities = [[0.9, 0.8, 0.7, 0.5], [1.0, 0.5, 0.25, 0.125]]
    labels = [[2, 2, 0, 1], [1, 0, 1, 0]]
    computed = features(RetrievedWords(jnp.asarray(p_ner), jnp.asarray(similarities), jnp.asarray(labels)))
    log_odds = [np.log(3), np.log(1e6)]  # the second is as sure as float32 can tell
    expected = [[*similarities[0], 1, 1, 2, 3, log_odds[0]], [*similarities[1], 1, 2, 2, 2, log_odds[1]]]
    np.testing.assert_allclose(computed, expected, rtol=1e-6)


def test_distinct_labels_are_those_of_sets():
    labels = np.random.default_rng(2).integers(0, 6, (50, 16))
    expected = [[len(set(row[: i + 1])) for i in range(16)] for row in labels.tolist()]
    np.testing.assert_array_equal(adaptive.distinct_labels(jnp.asarray(labels)), expected)


def test_all_for_the_tagger_is_the_tagger(words):
    mixed = adaptive.predict(only(0), words)
    np.testing.assert_array_equal(mixed.probabilities, words.p_ner)
    np.testing.assert_array_equal(mixed.mixture_weights, np.eye(len(OPTIONS))[np.zeros(WORDS, int)])


@pytest.mark.parametrize("option", range(1, len(OPTIONS)))
def test_all_for_one_k_is_the_vote_of_so_many(words, option):
    k = OPTIONS[option]
    voters = jnp.asarray(words.similarities[:, :k]), jnp.asarray(words.neighbour_labels[:, :k])
    expected = knn_probabilities(*voters, LABELS, TEMPERATURE)
    np.testing.assert_allclose(adaptive.predict(only(option), words).probabilities, expected, rtol=0, atol=1e-6)


def test_weights_are_those_of_a_network_written_out_and_weigh_the_options(words, varied):
    mixed = adaptive.predict(varied, words)
    nearest = adaptive.first_neighbours(words, K)
    network = [np.asarray(array, np.float64) for array in varied.network]
    logits = np.tanh(np.asarray(features(nearest)) @ network[0] + network[1]) @ network[2] + network[3]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mixed.mixture_weights, expected, rtol=0, atol=1e-5)
    assert expected.std(axis=0).min() > 0.01  # words differ
    of_options = np.asarray(distributions(nearest, TEMPERATURE))
    np.testing.assert_allclose(mixed.probabilities, np.einsum("no,nol->nl", expected, of_options), rtol=0, atol=1e-5)
    np.testing.assert_allclose(mixed.probabilities.sum(axis=1), 1, rtol=0, atol=1e-5)


def test_features_are_standardised_by_what_the_mixer_keeps(words, varied):
    moved = varied._replace(mean=jnp.full(2 * K + 1, -1.0), scale=jnp.full(2 * K + 1, 2.0))
    raw = np.asarray(features(adaptive.first_neighbours(words, K)))
    expected = varied.network((jnp.asarray(raw) + 1) / 2)
    np.testing.assert_allclose(adaptive.predict(moved, words).mixture_weights, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 12])
def test_chunks_change_nothing(words, varied, rows, monkeypatch):
    whole = adaptive.predict(varied, words)
    monkeypatch.setattr(adaptive, "CHUNK_WORDS", rows)
    chunked = jax.jit(lambda *args: adaptive.mix(*args))(varied, adaptive.first_neighbours(words, K))
    for there, here in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-6)


def test_a_search_for_too_few_neighbours_is_refused(words):
    for k in (5, 0):
        short = RetrievedWords(words.p_ner, words.similarities[:, :k], words.neighbour_labels[:, :k])
        with pytest.raises(InputError, match=f"expected a search for at least 8 neighbours, got one for {k}"):
            adaptive.predict(only(0), short)
