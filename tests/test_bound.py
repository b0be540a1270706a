"""The study of a bound in few dimensions: the bound is one, and what it proves is what a full search finds."""

import jax.numpy as jnp
import numpy as np
import pytest

from tools import bound


@pytest.fixture(scope="module")
def vectors():
    """Queries and keys of length 1 that mostly lie in eight directions."""
    rng = np.random.default_rng(0)
    raw = rng.standard_normal((900, 24)) * np.where(np.arange(24) < 8, 4, 0.5) + 3 * np.eye(24)[0]
    sentence_ids = np.repeat(np.arange(300), 3)
    return bound.split_rows(raw.astype(np.float32), sentence_ids)


def test_queries_are_of_sentences_that_have_no_rows(vectors):
    queries, keys = vectors
    assert len(keys) == 900 - 14 * 3
    assert (queries @ keys.T).max() < 1 - 1e-6
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, rtol=1e-5)


def test_no_product_exceeds_its_bound_and_all_dimensions_are_exact(vectors):
    queries, keys = vectors
    cosines, basis = queries @ keys.T, bound.basis_of(keys)
    slack = [(bound.shorten(queries, basis, d) @ bound.shorten(keys, basis, d).T - cosines) for d in (2, 8, 24)]
    assert all(one.min() > -1e-5 for one in slack)
    assert slack[0].mean() > slack[1].mean() > slack[2].mean()
    assert abs(slack[2]).max() < 1e-3  # the root of a rounding error is left of the rest


def test_what_is_proved_is_what_a_full_search_finds(vectors):
    queries, keys = vectors
    short_queries, short = (bound.shorten(each, bound.basis_of(keys), 6) for each in (queries, keys))
    arguments = (jnp.asarray(queries), jnp.asarray(short_queries), jnp.asarray(keys), bound.rows_of(jnp.asarray(short)))
    best, proved = bound.search_by_bound(*arguments, 8, 24)
    expected = -np.sort(-(queries @ keys.T), axis=1)[:, :8]
    proved = np.asarray(proved)
    assert 0 < proved.mean() < 1
    np.testing.assert_allclose(np.asarray(best)[proved], expected[proved], atol=1e-5)
    assert (np.asarray(best)[~proved] <= expected[~proved] + 1e-5).all()
