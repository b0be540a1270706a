"""Words on their way to a search: blocks are full but the last, whose void rows are zeros."""

import jax.numpy as jnp
import numpy as np
import pytest

from knn_ner_jax.knn.words import Words, label_full_blocks

ROWS, TOTAL = 4, 11


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("count", [0, 3, 4, 6, 11])
def test_only_the_last_block_has_void_rows_and_they_are_zeros(count, last):
    wanted = np.zeros(TOTAL, bool)
    wanted[np.random.default_rng(count).permutation(TOTAL)[:count]] = True
    numbers = jnp.arange(1, TOTAL + 1)
    words = Words(numbers[:, None] * jnp.ones(2)[None], jnp.ones((TOTAL, 3)), numbers)

    def label(block: Words):
        neighbours = jnp.broadcast_to(block.queries[:, :1].sum(), (ROWS, 1))  # of all words of its block
        return jnp.concatenate([block.queries[:, :1], neighbours], axis=1)

    said, done, waiting = label_full_blocks(label, words, jnp.asarray(wanted), jnp.asarray(last), ROWS)
    asked = np.flatnonzero(wanted) + 1
    labelled = len(asked) if last else len(asked) // ROWS * ROWS
    np.testing.assert_array_equal(np.flatnonzero(done) + 1, asked[:labelled])
    for start in range(0, labelled, ROWS):
        block = asked[start : min(start + ROWS, labelled)]
        np.testing.assert_array_equal(said[block - 1], [[word, block.sum()] for word in block])
    assert waiting.number == len(asked) - labelled
    np.testing.assert_array_equal(waiting.words.slots[: waiting.number], asked[labelled:])
