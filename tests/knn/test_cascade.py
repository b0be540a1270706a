"""Words on their way to labels: who is asked is asked about full blocks, in the order of the words; so is who comes next."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_ner_jax.knn.cascade import UNSURE, Ask, Queue, Said, Words, label_in_turn

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
