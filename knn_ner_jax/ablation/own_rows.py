"""Neighbours of training words among the rows of other sentences.

A training word is in the datastore: it would find itself, and words of its own sentence, whose states have seen it. No word
of dev or test has such neighbours, so nothing can be learned from them.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from knn_ner_jax.data.encoding import EncodedSplit
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation.opening import KnnTagger
from knn_ner_jax.evaluation.tuning import Cache, collect

NOT_STORED = -1  # the number of a sentence that the datastore does not hold


def search_width(k: int, row_sentence_ids: Int[np.ndarray, " rows"]) -> int:
    """How many neighbours to search for so that k of other sentences are among them; at most all rows."""
    return min(k + int(np.bincount(row_sentence_ids).max()), len(row_sentence_ids))


def exclude_own(
    cache: Cache, row_sentence_ids: Int[np.ndarray, " rows"], sentence_ids: Int[np.ndarray, " words"], k: int
) -> Cache:
    """Drops the neighbours that come from a word's own sentence, and keeps the first k of the others.

    Args:
        cache: of a search that kept the row ids, for at least `search_width` neighbours.
        row_sentence_ids: sentence number of each row of the datastore.
        sentence_ids: sentence number of each word, as the datastore counts them; `NOT_STORED` where it does not hold the
            sentence, so that nothing is dropped.
        k: neighbours to keep.

    Raises:
        InputError: the cache has no row ids, or fewer than k neighbours are left to some word.
    """
    if cache.similarities is None or cache.neighbour_labels is None or cache.neighbour_ids is None:
        raise InputError("a word's own sentence is excluded: expected neighbours with row ids, got a cache without")
    own = row_sentence_ids[cache.neighbour_ids] == sentence_ids[:, None]
    left = (~own).sum(axis=1)
    if left.min() < k:
        word = int(left.argmin())
        raise InputError(
            f"word {word}, of sentence {sentence_ids[word]}: expected {k} neighbours of other sentences, got {left[word]} "
            f"among the {own.shape[1]} that were searched for"
        )
    others = np.argsort(own, axis=1, kind="stable")[:, :k]
    columns = cache.similarities, cache.neighbour_labels, cache.neighbour_ids
    similarities, labels, ids = (np.take_along_axis(column, others, axis=1) for column in columns)
    return replace(cache, similarities=similarities, neighbour_labels=labels, neighbour_ids=ids, shares=None)


def retrieve_others(
    knn_tagger: KnnTagger, split: EncodedSplit, sentence_ids: Int[np.ndarray, " words"], k: int, metric: str
) -> Cache:
    """Looks up training words among the rows of other sentences; one search.

    Args:
        knn_tagger: tagger and datastore.
        split: training sentences.
        sentence_ids: see `exclude_own`; `split.sentence_ids` where the datastore was built from these very sentences.
        k: neighbours of each word.
        metric: of the search.

    Raises:
        InputError: the datastore has too few rows of other sentences for some word.
    """
    row_sentence_ids = np.asarray(knn_tagger.stored.datastore.sentence_ids)[: knn_tagger.num_rows]
    found = knn_tagger.retrieve(split, search_width(k, row_sentence_ids), metric, None)
    return exclude_own(collect(found, split.num_words, with_ids=True), row_sentence_ids, sentence_ids, k)
