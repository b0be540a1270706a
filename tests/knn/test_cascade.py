"""Words on their way to labels: who is asked is asked about full blocks, in the order of the words; so is who comes next."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import margins, oracle

from knn_ner_jax.knn.cascade import UNSURE, Ask, Queue, Said, Words, ask_all, label_in_turn
from knn_ner_jax.knn.search import SearchSpec
from knn_ner_jax.knn.similarity import METRICS
from knn_ner_jax.knn.topk import Rows

pytestmark = pytest.mark.isa

BLOCKS = (4, 4, 3)  # words that each of three is asked about at a time
POSITIONS = 11  # of a batch
UNLABELLED = -7


def settled(who, numbers):
    """Of which words the first and the second are sure; the third always is."""
    return numbers % 3 == who if who < 2 else numbers >= 0


def ask(who, block):
    """Labels that tell who gave them and all words of the block; void rows must not add to them."""
    numbers = block.queries[:, 0].astype(jnp.int32)
    everyone = jnp.full(len(numbers), 10 * block.queries[:, 0].sum() + who, jnp.int32)
    return Said(jnp.where(settled(who, numbers), everyone, UNSURE), numbers % 2 == 0, numbers % 5 == 0)


@functools.partial(jax.jit, static_argnames="asked")
def label(labels, queues, words, wanted, last, asked, worth_asking):
    asks = [Ask(functools.partial(ask, who), worth_asking[who]) for who in asked]
    return label_in_turn(asks, labels, queues, words, wanted, last)


def expected(batches, ended, asked, worth_asking):
    """Labels, and how many were asked of each, again, and within rounding: the words in their order, cut into blocks."""
    labels, counts = np.full(POSITIONS * len(batches), UNLABELLED), []
    stream = np.flatnonzero(np.concatenate(batches)) + 1  # numbers of words begin at 1, so that zeros are no words
    for who in asked:
        rows = BLOCKS[who]
        done = stream if ended else stream[: len(stream) // rows * rows]
        for start in range(0, len(done), rows):
            block = done[start : start + rows]
            sure = block[settled(who, block) & worth_asking[who]]
            labels[sure - 1] = 10 * block.sum() + who
        asked_about = done if worth_asking[who] else done[:0]
        of_them = (asked_about % 2 == 0).sum(), (asked_about % 5 == 0).sum()
        counts.append((len(asked_about), *of_them, len(stream) - len(done)))
        stream = done[~(settled(who, done) & worth_asking[who])]
    return labels, counts


@pytest.mark.sampled(5)
@pytest.mark.parametrize("worth_asking", [(True, True, True), (False, True, True)], ids=["all", "not-the-first"])
@pytest.mark.parametrize("asked", [(0, 1, 2), (1, 2), (2,)])
@pytest.mark.parametrize(
    "counts",
    [(0,), (3,), (11,), (2, 3, 0, 9), (4, 4, 0), (8, 0), (11, 1, 11, 11)],
    ids=lambda counts: "-".join(map(str, counts)),
)
def test_blocks_are_full_but_the_last_and_every_word_is_labelled_by_the_first_that_is_sure(counts, asked, worth_asking):
    rng = np.random.default_rng(sum(counts))
    batches = [np.isin(np.arange(POSITIONS), rng.permutation(POSITIONS)[:count]) for count in counts]
    labels = jnp.full(POSITIONS * len(batches), UNLABELLED)
    queues = tuple(Queue.empty(BLOCKS[who], 2, 3) for who in asked)
    for number, wanted in enumerate(batches):
        word_index = jnp.arange(POSITIONS) + number * POSITIONS
        words = Words((word_index + 1.0)[:, None] * jnp.ones((1, 2)), jnp.ones((POSITIONS, 3)), word_index)
        ends = number == len(batches) - 1
        labels, queues = label(labels, queues, words, jnp.asarray(wanted), jnp.bool_(ends), asked, worth_asking)
        so_far, numbers = expected(batches[: number + 1], ends, asked, worth_asking)
        np.testing.assert_array_equal(labels[: len(so_far)], so_far)
        counted = [(queue.asked, queue.again, queue.within_rounding, queue.number) for queue in queues]
        assert jax.tree.map(int, counted) == numbers


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
    compiled = jax.jit(functools.partial(ask_all, spec=SearchSpec(k=k, num_labels=NUM_LABELS, metric=metric)))
    said = compiled(rows, words, jnp.float32(temperature), jnp.float32(knn_weight))
    np.testing.assert_array_equal(said.within_rounding, expected)
    np.testing.assert_array_equal(np.asarray(said.labels)[~expected], 1)
    assert set(np.asarray(said.labels)[expected].tolist()) <= {1, 2}
