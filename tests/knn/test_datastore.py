"""The datastore: which row is which word, what a key is, and what is refused."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import margins, oracle, stores

from knn_ner_jax import sharding
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import NO_WORD, encode
from knn_ner_jax.io import InputError
from knn_ner_jax.knn import datastore, search
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.tagger import Tagger

pytestmark = pytest.mark.isa

WIDTH, RANK = 32, 12  # of the tiny backbone; of the whitening
TOLERANCE = 1e-5  # of a module, DESIGN: states of one sentence alone and in a batch


@pytest.fixture(scope="module")
def source(tiny_backbone: Path, tiny_corpus: Path):
    """A tagger, its parameters, the training sentences, and the same encoded."""
    sentences = read_splits({"train": tiny_corpus / "train.conll"})[0]["train"].sentences
    label_set = LabelSet.of(sentence.tags for sentence in sentences)
    backbone = pretrained.open_backbone(tiny_backbone)
    tagger = Tagger(backbone.config, len(label_set))
    params = backbone.initial_params(tagger, jax.random.key(0))
    return tagger, params, sentences, encode(sentences, backbone.tokenizer, 64, label_set)


def build(source, layers=(2,), whitening_dim=None, devices=1, params=None, shard_rows=1000, key_dtype="float32"):
    tagger, own_params, _, split = source
    return stores.build(
        tagger,
        params or own_params,
        split,
        layers=layers,
        whitening_dim=whitening_dim,
        batch_size=64,
        mesh=sharding.make_mesh(devices),
        shard_rows=shard_rows,
        key_dtype=key_dtype,
    )


@pytest.fixture(scope="module")
def states(source):
    """[states, words, hidden] hidden states of every word, each sentence encoded by itself, unpadded to a common length."""
    tagger, params, _, split = source
    forward = jax.jit(tagger)
    collected = np.zeros((3, split.num_words, WIDTH), np.float32)
    for window in split.windows:
        ids, mask = np.zeros((1, 64), np.int32), np.zeros((1, 64), bool)
        ids[0, : len(window.token_ids)], mask[0, : len(window.token_ids)] = window.token_ids, True
        found = np.asarray(forward(params, ids, mask).hidden_states)[:, 0]
        is_word = np.flatnonzero(window.word_index != NO_WORD)
        collected[:, window.word_index[is_word]] = found[:, is_word]
    return collected


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shard_rows", [97, 1000])
def test_a_row_for_every_word_in_order(source, states, shard_rows):
    store = build(source, shard_rows=shard_rows)
    _, _, sentences, split = source
    words = [(number, place) for number, sentence in enumerate(sentences) for place in range(len(sentence.words))]
    names = LabelSet.of(sentence.tags for sentence in sentences).names
    assert int(store.num_rows) == len(words) == split.num_words
    np.testing.assert_array_equal(np.stack([store.sentence_ids, store.word_ids], axis=1), words)
    assert [names[label] for label in np.asarray(store.labels)] == [tag for sentence in sentences for tag in sentence.tags]
    np.testing.assert_allclose(store.keys, states[2], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(store.squared_norms, (np.asarray(store.keys, np.float64) ** 2).sum(axis=1), rtol=1e-5)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("layers", [(1, 2, 1), (2, 0), (0,)])
def test_several_layers_are_concatenated_in_the_given_order(source, states, layers):
    store = build(source, layers=layers)
    assert store.keys.shape[1] == WIDTH * len(layers)
    np.testing.assert_allclose(store.keys, np.concatenate(states[list(layers)], axis=1), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("whitening_dim", [None, RANK])
def test_rows_do_not_depend_on_the_devices(source, whitening_dim):
    one, eight = build(source, whitening_dim=whitening_dim), build(source, whitening_dim=whitening_dim, devices=8)
    rows = int(one.num_rows)
    assert rows % 8  # the last device has fewer rows
    assert int(eight.num_rows) == rows
    assert len(eight.keys) % 8 == 0
    assert len(eight.keys.sharding.device_set) == 8
    for name in ("labels", "sentence_ids", "word_ids"):
        np.testing.assert_array_equal(getattr(eight, name)[:rows], getattr(one, name)[:rows])
    if whitening_dim is None:
        np.testing.assert_allclose(eight.keys[:rows], one.keys[:rows], rtol=0, atol=TOLERANCE)
    else:
        # Signs of directions are free, and small ones magnify rounding: compare what a search compares.
        keys = (np.asarray(store.keys, np.float64)[:rows] for store in (one, eight))
        np.testing.assert_allclose(*(x @ x.T for x in keys), rtol=0, atol=rounding_of_whitened(one))


def rounding_of_whitened(store):
    """How far inner products of keys may be off when every number in a state is off by TOLERANCE."""
    longest = np.sqrt(np.asarray(store.squared_norms).max())
    return 2 * longest * np.linalg.norm(store.projection.matrix, 2) * TOLERANCE * np.sqrt(len(store.projection.mean))


def numpy_whitening(words, rank):
    """[words, width] -> (mean, matrix) by the covariance's eigenvectors, in float64."""
    words = np.asarray(words, np.float64)
    variances, directions = np.linalg.eigh(np.cov(words, rowvar=False, bias=True))
    variances, directions = variances[::-1][:rank], directions[:, ::-1][:, :rank]
    return words.mean(axis=0), directions / np.sqrt(variances)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("layers", "shard_rows"), [((2,), 1000), ((1, 2), 1000), ((1, 2), 97)])
def test_whitening_is_numpys(source, states, layers, shard_rows):
    store = build(source, layers=layers, whitening_dim=RANK, shard_rows=shard_rows)
    words = np.concatenate(states[list(layers)], axis=1).astype(np.float64)
    keys = np.asarray(store.keys, np.float64)
    assert keys.shape == (len(words), RANK)
    np.testing.assert_allclose(keys.mean(axis=0), 0, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.cov(keys, rowvar=False, bias=True), np.eye(RANK), rtol=0, atol=1e-3)
    mean, matrix = numpy_whitening(words, RANK)
    expected = (words - mean) @ matrix
    np.testing.assert_allclose(keys @ keys.T, expected @ expected.T, rtol=0, atol=rounding_of_whitened(store))
    cosines, expected_cosines = (oracle.similarity(x, x, "cosine") for x in (keys, expected))
    shortest = np.linalg.norm(expected, axis=1).min()
    np.testing.assert_allclose(cosines, expected_cosines, rtol=0, atol=rounding_of_whitened(store) / shortest**2)


def test_whitening_merges_parts_of_any_size_and_ignores_empty_ones():
    rng = np.random.default_rng(0)
    words = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6)) + 100.0

    def moments(part):
        mean = part.mean(axis=0) if len(part) else np.zeros(6)
        return jnp.float32(len(part)), mean, (part - mean).T @ (part - mean)

    parts = [words[:0], words[:1], words[1:150], words[150:150], words[150:]]
    projection = datastore.fit_projection(map(moments, parts), 4)
    mean, matrix = numpy_whitening(words, 4)
    np.testing.assert_allclose(projection.mean, mean, rtol=1e-6)
    whitened, expected = (words - np.asarray(projection.mean)) @ projection.matrix, (words - mean) @ matrix
    np.testing.assert_allclose(whitened @ whitened.T, expected @ expected.T, rtol=0, atol=1e-3)


def test_directions_without_variance_are_not_magnified():
    projection = datastore.fit_projection([(jnp.float32(10), np.zeros(3), 10 * np.diag([4.0, 1.0, 0.0]))], 3)
    np.testing.assert_allclose(np.abs(projection.matrix).max(axis=0), [0.5, 1.0, 500.0], rtol=1e-6)


def test_keys_and_queries_share_one_function(source, states):
    store = build(source, layers=(1, 2), whitening_dim=RANK)
    keys = datastore.key_states(list(jnp.asarray(states[:, None])), (1, 2), store.projection)
    np.testing.assert_allclose(keys[0], store.keys, rtol=0, atol=rounding_of_whitened(store))


@pytest.mark.parametrize("whitening_dim", [WIDTH + 1, 1000])
def test_a_rank_beyond_the_width_is_refused_and_both_are_named(source, whitening_dim):
    with pytest.raises(InputError, match=rf"datastore\.whitening_dim: .*\b{WIDTH}\b.*got {whitening_dim}$"):
        build(source, whitening_dim=whitening_dim)


def test_keys_that_are_not_finite_are_refused(source):
    params = source[1]
    broken = {**params, "encoder": jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), params["encoder"])}
    with pytest.raises(InputError, match="finite"):
        build(source, params=broken)


def test_keys_in_bfloat16_are_the_float32_ones_rounded(source):
    exact, store = build(source), build(source, key_dtype="bfloat16")
    assert store.keys.dtype == jnp.bfloat16
    np.testing.assert_array_equal(store.keys, exact.keys.astype(jnp.bfloat16))
    keys = np.asarray(store.keys, np.float64)
    np.testing.assert_allclose(store.squared_norms, (keys**2).sum(axis=1), rtol=1e-6)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("devices", [1, 8])
def test_a_search_is_exact_for_bfloat16_keys_as_stored(devices, metric):
    rng = np.random.default_rng(8)
    queries, exact = rng.standard_normal((40, 16), np.float32), rng.standard_normal((300, 16), np.float32)
    keys, columns = exact.astype(jnp.bfloat16), (np.arange(300, dtype=np.int32) for _ in range(3))
    mesh = sharding.make_mesh(devices)
    store = stores.assemble(keys, *columns, None, mesh)
    run = functools.partial(search.search, k=20, metric=metric, block_rows=64, mesh=mesh)
    found = jax.jit(run)(queries, store.rows).neighbours
    exact_keys = keys.astype(np.float64)
    ids, similarities = oracle.search(queries, exact_keys, 20, metric)
    error = margins.rounding(queries, exact_keys, metric)
    clear = margins.clear_order(oracle.similarity(queries, exact_keys, metric), 20, error)
    assert clear.sum() > 10
    np.testing.assert_array_equal(np.asarray(found.ids)[clear], ids[clear])
    np.testing.assert_allclose(found.similarities, similarities, rtol=0, atol=TOLERANCE)
    assert (oracle.search(queries, exact, 20, metric)[0] != ids).any()


@pytest.mark.parametrize(
    ("layers", "expected"), [([-1], (6,)), ([0, 6], (0, 6)), ([-7, 3, -4], (0, 3, 3)), ([6, 0, -2], (6, 0, 5))]
)
def test_layers_are_counted_from_either_end(layers, expected):
    assert datastore.resolve_layers(layers, 6) == expected


@pytest.mark.parametrize("layers", [[7], [-8], [0, 9], []])
def test_layers_the_encoder_does_not_have_are_refused(layers):
    with pytest.raises(InputError, match=r"datastore\.layers: .*\b6\b.*-7") as error:
        datastore.resolve_layers(layers, 6)
    assert str(layers) in str(error.value)
