"""Training words learn from the rows of other sentences alone."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import trained
from knn_ner_jax.ablation.own_rows import NOT_STORED, exclude_own, retrieve_others, search_width
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation.tuning import Cache, collect

K = 4
LENGTHS = (1, 6, 3, 9, 2, 7)
ROW_SENTENCE_IDS = np.repeat(np.arange(len(LENGTHS)), LENGTHS).astype(np.int32)
ROWS = len(ROW_SENTENCE_IDS)
COLUMNS = ("similarities", "neighbour_labels", "neighbour_ids")


def nearest(scores, k):
    """Every training word's k nearest rows, its own among them."""
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
    return Cache(np.full((len(scores), 3), 1 / 3, np.float32), np.take_along_axis(scores, ids, axis=1), ids % 3, ids, None)


@pytest.fixture(scope="module")
def scores():
    """[words, rows] similarities of training words to all rows, ties among them; a word's own sentence is nearest."""
    rng = np.random.default_rng(0)
    own = ROW_SENTENCE_IDS[:, None] == ROW_SENTENCE_IDS
    return (rng.integers(0, 8, (ROWS, ROWS)) + 5 * own).astype(np.float32)


def test_no_own_row_is_left_and_the_nearest_others_are(scores):
    width = search_width(K, ROW_SENTENCE_IDS)
    assert width == K + max(LENGTHS)
    kept = exclude_own(nearest(scores, width), ROW_SENTENCE_IDS, ROW_SENTENCE_IDS, K)
    assert not (ROW_SENTENCE_IDS[kept.neighbour_ids] == ROW_SENTENCE_IDS[:, None]).any()
    for word in range(ROWS):
        others = [row for row in range(ROWS) if ROW_SENTENCE_IDS[row] != ROW_SENTENCE_IDS[word]]
        expected = sorted(others, key=lambda row: (-scores[word, row], row))[:K]
        np.testing.assert_array_equal(kept.neighbour_ids[word], expected)
        np.testing.assert_array_equal(kept.similarities[word], scores[word, expected])
        np.testing.assert_array_equal(kept.neighbour_labels[word], np.array(expected) % 3)


def test_words_of_sentences_that_are_not_stored_keep_their_nearest(scores):
    cache = nearest(scores, K + 3)
    kept = exclude_own(cache, ROW_SENTENCE_IDS, np.full(ROWS, NOT_STORED), K)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(kept, name), getattr(cache, name)[:, :K])


def test_too_few_others_are_an_error_that_names_the_word(scores):
    with pytest.raises(InputError, match=r"word \d+, of sentence 3: expected 4 neighbours .*, got 3 among the 12"):
        exclude_own(nearest(scores, K + max(LENGTHS) - 1), ROW_SENTENCE_IDS, ROW_SENTENCE_IDS, K)


def test_a_search_is_never_wider_than_the_datastore(scores):
    assert search_width(ROWS, ROW_SENTENCE_IDS) == ROWS
    with pytest.raises(InputError, match=f"got {ROWS - max(LENGTHS)} among the {ROWS}"):
        exclude_own(nearest(scores, ROWS), ROW_SENTENCE_IDS, ROW_SENTENCE_IDS, ROWS - 8)


def test_without_row_ids_nothing_can_be_excluded():
    cache = Cache(np.ones((1, 1)), np.ones((1, 2)), np.ones((1, 2), int), None, None)
    with pytest.raises(InputError, match="expected neighbours with row ids, got a cache without"):
        exclude_own(cache, ROW_SENTENCE_IDS, np.zeros(1, int), 1)


def test_training_words_of_a_run_are_looked_up_among_the_others(evaluated: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(evaluated)
        opened = trained.open_run(Path("run"))
    knn_tagger, split = opened.knn_tagger, opened.encode("train")
    row_sentence_ids = np.asarray(knn_tagger.stored.datastore.sentence_ids)[: knn_tagger.num_rows]
    np.testing.assert_array_equal(row_sentence_ids, split.sentence_ids)
    everything = collect(knn_tagger.retrieve(split, knn_tagger.num_rows, "cosine", None), split.num_words, with_ids=True)
    assert (everything.neighbour_ids[:, 0] == np.arange(split.num_words)).mean() > 0.9  # a word finds itself

    found = retrieve_others(knn_tagger, split, split.sentence_ids, K, "cosine")
    for word, sentence in enumerate(split.sentence_ids):
        others = np.flatnonzero(row_sentence_ids[everything.neighbour_ids[word]] != sentence)[:K]
        for name in COLUMNS:
            # Blocks of another k are cut otherwise, so that similarities agree to rounding.
            expected = getattr(everything, name)[word, others]
            np.testing.assert_allclose(getattr(found, name)[word], expected, rtol=0, atol=1e-6)
