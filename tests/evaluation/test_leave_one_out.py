"""Training words learn from the rows of other sentences alone, and a copy of a sentence is no other."""

from pathlib import Path

import numpy as np
import pytest
from helpers import margins, stores

from benchmarks import evaluating
from knn_ner_jax import sharding
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.evaluation.leave_one_out import NOT_STORED, exclude_own, number_sentences, retrieve_others, search_width
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.storage import Stored
from knn_ner_jax.knn.topk import Neighbours

K = 4
LENGTHS = (1, 6, 3, 9, 2, 7)
ROW_NUMBERS = np.repeat(np.arange(len(LENGTHS)), LENGTHS).astype(np.int32)
WITH_A_COPY = np.where(ROW_NUMBERS == 5, 1, ROW_NUMBERS)  # as if the last sentence were the second again
ROWS = len(ROW_NUMBERS)


def nearest(scores, k):
    """Every training word's k nearest rows, its own among them."""
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
    return Neighbours(np.take_along_axis(scores, ids, axis=1), ids, ids % 3)


@pytest.fixture(scope="module")
def scores():
    """[words, rows] similarities of training words to all rows, ties among them; a word's own sentence is nearest."""
    rng = np.random.default_rng(0)
    own = ROW_NUMBERS[:, None] == ROW_NUMBERS
    return (rng.integers(0, 8, (ROWS, ROWS)) + 5 * own).astype(np.float32)


@pytest.mark.parametrize(("numbers", "most"), [(ROW_NUMBERS, 9), (WITH_A_COPY, 6 + 7)], ids=["all differ", "one twice"])
def test_no_own_row_is_left_and_the_nearest_others_are(scores, numbers, most):
    width = search_width(K, numbers)
    assert width == K + most
    kept = exclude_own(nearest(scores, width), numbers, numbers, K)
    assert not (numbers[kept.ids] == numbers[:, None]).any()
    for word in range(ROWS):
        others = [row for row in range(ROWS) if numbers[row] != numbers[word]]
        expected = sorted(others, key=lambda row: (-scores[word, row], row))[:K]
        np.testing.assert_array_equal(kept.ids[word], expected)
        np.testing.assert_array_equal(kept.similarities[word], scores[word, expected])
        np.testing.assert_array_equal(kept.values[word], np.array(expected) % 3)


def test_sentences_of_the_same_words_have_one_number_in_any_file():
    a, b, c, d = (tuple(text.split()) for text in ("in Rome", "in Oslo", "Rome", "Oslo in"))
    row_sentence_ids = np.int32([2, 2, 3, 3, 5, 7, 8, 8])  # of a file of ten; of one sentence only one word is kept
    columns = row_sentence_ids, row_sentence_ids, row_sentence_ids
    store = stores.assemble(np.ones((8, 2), np.float32), *columns, None, sharding.make_mesh(1))
    stored = Stored(store, stores.SOURCE, Path(), {2: (a, ""), 3: (b, ""), 5: (a, ""), 7: (c, ""), 8: (b, "")})
    rows, words = number_sentences(stored, [Sentence(words, ("B-LOC",) * len(words), 4) for words in (c, d, a, b, a)])
    assert rows.tolist() == [2, 2, 3, 3, 2, 7, 3, 3]
    assert words.tolist() == [7, NOT_STORED, 2, 3, 2]


def test_words_of_sentences_that_are_not_stored_keep_their_nearest(scores):
    found = nearest(scores, K + 3)
    for kept, column in zip(exclude_own(found, ROW_NUMBERS, np.full(ROWS, NOT_STORED), K), found, strict=True):
        np.testing.assert_array_equal(kept, column[:, :K])


def test_too_few_others_are_an_error_that_names_the_word(scores):
    with pytest.raises(InputError, match=r"a word of sentence 3: expected 4 neighbours .*, got 3 among the 12"):
        exclude_own(nearest(scores, K + max(LENGTHS) - 1), ROW_NUMBERS, ROW_NUMBERS, K)


def test_a_search_is_never_wider_than_the_datastore(scores):
    assert search_width(ROWS, ROW_NUMBERS) == ROWS
    with pytest.raises(InputError, match=f"got {ROWS - max(LENGTHS)} among the {ROWS}"):
        exclude_own(nearest(scores, ROWS), ROW_NUMBERS, ROW_NUMBERS, ROWS - 8)


def test_training_words_of_a_run_are_looked_up_among_the_others(evaluated: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(evaluated)
        opened = evaluating.open_run(Path("run"))
    knn_tagger, split = opened.knn_tagger, opened.encode("train")
    row_numbers = np.asarray(knn_tagger.stored.datastore.sentence_ids)[: knn_tagger.num_rows]
    np.testing.assert_array_equal(row_numbers, split.sentence_ids)
    everything = knn_tagger.retrieve(split, knn_tagger.num_rows, "cosine", with_ids=True)
    assert (everything.neighbour_ids[:, 0] == np.arange(split.num_words)).mean() > 0.9  # a word finds itself

    found = retrieve_others(knn_tagger, split, row_numbers, split.sentence_ids, K, "cosine")
    # Blocks of another k are cut otherwise, so that similarities agree to rounding, and rows as near may change places.
    error, compared = margins.rounding_of_width(knn_tagger.stored.datastore.keys.shape[1]), 0
    for word, sentence in enumerate(split.sentence_ids):
        others = np.flatnonzero(row_numbers[everything.neighbour_ids[word]] != sentence)[: K + 1]
        similarities = everything.similarities[word, others]
        np.testing.assert_allclose(found.similarities[word], similarities[:K], rtol=0, atol=error)
        if (-np.diff(similarities) > 2 * error).all():
            compared += 1
            for name in ("neighbour_ids", "neighbour_labels"):
                np.testing.assert_array_equal(getattr(found, name)[word], getattr(everything, name)[word, others[:K]])
    assert compared > 50
