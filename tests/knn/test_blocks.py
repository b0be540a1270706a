"""Words that wait for full blocks, in their order; and which labels are counted as hanging on rounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import margins, oracle

from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.knn.border import all_rows
from knn_ner_jax.knn.inference import Queue, Words, label_by_all, look_up
from knn_ner_jax.knn.search import SearchSpec
from knn_ner_jax.knn.similarity import METRICS
from knn_ner_jax.knn.topk import Rows

pytestmark = pytest.mark.isa

BLOCK = 4  # words
POSITIONS = 11  # of a batch


@jax.jit
def tell_blocks(queue, parts, is_open, last):
    """Results that tell all words of their block; void rows must not add to them."""
    return look_up(lambda block: block.queries[:, :1] + 100 * block.queries[:, 0].sum(), queue, parts, is_open, last)


def words_of(word_index):
    """Words whose state is their number and one more."""
    states = (word_index + 1.0)[..., None] * jnp.ones((*word_index.shape, 2))
    return Words(states, jnp.ones((*word_index.shape, 3)), word_index)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "counts",
    [(0,), (3,), (11,), (2, 3, 0, 9), (4, 4, 0), (8, 0), (11, 1, 11, 11)],
    ids=lambda counts: "-".join(map(str, counts)),
)
def test_blocks_are_full_but_the_last_and_hold_the_words_in_their_order(counts):
    rng = np.random.default_rng(sum(counts))
    queue, stream, done = Queue.empty(1, BLOCK, 2, 3), [], []
    for number, count in enumerate(counts):
        is_open = np.isin(np.arange(POSITIONS), rng.permutation(POSITIONS)[:count])
        word_index = jnp.arange(POSITIONS) + number * POSITIONS
        words = words_of(word_index[None])
        last = number == len(counts) - 1
        halves = [jax.tree.map(lambda array: array[:, :5], words), jax.tree.map(lambda array: array[:, 5:], words)]
        order, _, results, queue = tell_blocks(queue, halves, jnp.asarray(is_open)[None], jnp.bool_(last))
        order = np.asarray(order)[0]
        stream += np.asarray(word_index)[is_open].tolist()
        now = order[order != NO_WORD].tolist()
        whole = len(stream) if last else len(stream) // BLOCK * BLOCK
        assert done + now == stream[:whole]
        assert int(queue.number[0]) == len(stream) - whole
        blocks = [now[start : start + BLOCK] for start in range(0, len(now), BLOCK)]
        expected = [word + 1 + 100 * (sum(block) + len(block)) for block in blocks for word in block]
        np.testing.assert_array_equal(np.asarray(results)[0, order != NO_WORD, 0], expected)
        done += now


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "counts", [((0, 0, 0), (9, 0, 2)), ((9, 1, 5), (0, 0, 0), (3, 8, 0)), ((1, 1, 1), (9, 9, 9))], ids=str
)
def test_every_device_gives_its_words_once_and_in_order(counts):
    rng, devices, share = np.random.default_rng(7), 3, 2
    queue = Queue.empty(devices, devices * share, 2, 3)
    streams, done = [[], [], []], [[], [], []]
    for number, wanted in enumerate(counts):
        is_open = np.array([np.isin(np.arange(POSITIONS), rng.permutation(POSITIONS)[:count]) for count in wanted])
        word_index = np.arange(devices * POSITIONS).reshape(devices, -1) + number * devices * POSITIONS
        last = number == len(counts) - 1
        found, _, results, queue = tell_blocks(queue, [words_of(jnp.asarray(word_index))], is_open, jnp.bool_(last))
        found = np.asarray(found)
        for device in range(devices):
            streams[device] += word_index[device][is_open[device]].tolist()
            done[device] += found[device][found[device] != NO_WORD].tolist()
            waiting = int(queue.number[device])
            assert done[device] == streams[device][: len(streams[device]) - waiting]
            assert waiting < share if not last else waiting == 0
        expected = np.zeros(found.shape)
        for start in range(0, found.shape[1] - share + 1, share):
            block = found[:, start : start + share]
            expected[:, start : start + share] = np.where(block != NO_WORD, block + 1 + 100 * (block + 1).sum(), 0)
        np.testing.assert_array_equal(np.where(found != NO_WORD, np.asarray(results)[..., 0], 0), expected)


CLUSTERS, SIDES, NUM_LABELS = 9, 4, 3  # every word has a cluster of four rows


def clusters(num_tied):
    """Queries, keys and labels: of the first words, two rows that tie but for rounding decide between labels 1 and 2."""
    queries = np.eye(CLUSTERS, CLUSTERS + SIDES)
    cosines = np.tile([0.9, 0.8, 0.7, 0.6], (CLUSTERS, 1))
    cosines[:num_tied, 3] = 0.7 * (1 + 1e-7 * np.linspace(-1, 1, num_tied))
    labels = np.tile([1, 1, 1, 2], (CLUSTERS, 1))
    labels[:num_tied, 1] = 2
    sides = np.eye(SIDES, CLUSTERS + SIDES, CLUSTERS)
    keys = cosines[:, :, None] * queries[:, None] + np.sqrt(1 - cosines[:, :, None] ** 2) * sides
    return queries.astype(np.float32), keys.reshape(-1, CLUSTERS + SIDES).astype(np.float32), labels.reshape(-1)


def balanced(num_tied):
    """Likewise where all rows vote: as many as near for either label."""
    queries, keys, labels = clusters(0)
    keys, labels = keys.reshape(CLUSTERS, SIDES, -1), labels.reshape(CLUSTERS, SIDES)
    keys[:num_tied, 1::2] = keys[:num_tied, ::2] * np.float32(1 + 1e-7)
    labels[:num_tied] = [1, 2, 1, 2]
    return queries, keys.reshape(CLUSTERS * SIDES, -1), labels.reshape(-1)


def hangs_on_rounding(queries, keys, labels, p_ner, k, temperature, knn_weight, metric):
    """[Q] whether the label changes under some of 300 random changes of all similarities, in float64."""
    rng = np.random.default_rng(0)
    similarities, error = oracle.similarity(queries, keys, metric), margins.rounding(queries, keys, metric)[:, None]

    def label(similarities):
        ids = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        p_knn = oracle.vote(np.take_along_axis(similarities, ids, axis=1), labels[ids], NUM_LABELS, temperature)
        return oracle.interpolate(p_ner, p_knn, knn_weight).argmax(axis=1)

    changed = [label(similarities + error * rng.choice([-1, 1], similarities.shape)) for _ in range(300)]
    return (np.array(changed) != label(similarities)).any(axis=0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("num_tied", [0, 4])
@pytest.mark.parametrize(("k", "metric"), [*((3, metric) for metric in METRICS), ("all", "cosine"), ("all", "l2")])
def test_words_are_counted_whose_label_hangs_on_rounding(k, metric, num_tied):
    queries, keys, labels = (balanced if k == "all" else clusters)(num_tied)
    temperature, knn_weight = (0.02, 0.7) if k == "all" else (1.0, 0.7)
    p_ner = np.full((CLUSTERS, NUM_LABELS), 1 / NUM_LABELS, np.float32)
    expected = hangs_on_rounding(
        queries, keys, labels, p_ner, len(keys) if k == "all" else k, temperature, knn_weight, metric
    )
    np.testing.assert_array_equal(np.flatnonzero(expected), np.arange(num_tied))
    rows = Rows(jnp.asarray(keys), jnp.sum(jnp.asarray(keys) ** 2, axis=1), jnp.asarray(labels, jnp.int32))
    words = Words(jnp.asarray(queries), jnp.asarray(p_ner), jnp.arange(CLUSTERS))
    compiled = jax.jit(functools.partial(label_by_all, spec=SearchSpec(k=k, num_labels=NUM_LABELS, metric=metric)))
    found, _, hangs = compiled(all_rows(rows), words, jnp.float32(temperature), jnp.float32(knn_weight))
    np.testing.assert_array_equal(hangs[:, 0], expected)
    np.testing.assert_array_equal(np.asarray(found)[~expected], 1)
    assert set(np.asarray(found)[expected, 0].tolist()) <= {1, 2}
