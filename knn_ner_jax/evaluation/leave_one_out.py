"""Neighbours of training words from other sentences: leave-one-sentence-out retrieval.

A training word is in the datastore: it would retrieve itself, and words of its own sentence, whose states have seen it, or
of a copy of its sentence, whose states are the very same. No word of dev or test has such neighbours, so nothing can be
learned from them.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import Cache
from knn_ner_jax.knn.inference import Retrieved, collect, one_behind
from knn_ner_jax.knn.search import SearchResult
from knn_ner_jax.knn.storage import Stored
from knn_ner_jax.knn.topk import Neighbours
from knn_ner_jax.knn_tagger import KnnTagger

NOT_STORED = -1  # the number of a sentence that the datastore does not hold


def number_sentences(
    stored: Stored, sentences: Sequence[Sentence]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " sentences"]]:
    """Give sentences numbers by their words, so that copies have one number, in whatever files they are.

    Args:
        stored: the datastore, on one host.
        sentences: of the words to look up, of the same file or of another.

    Returns:
        The number of each row's sentence, and of each of `sentences`: `NOT_STORED` where no stored one has its words.
    """
    sentence_ids = np.asarray(stored.datastore.sentence_ids)[: int(stored.datastore.num_rows)]
    first: dict[tuple[str, ...], int] = {}
    numbers, rows = np.unique(sentence_ids, return_inverse=True)
    of_stored = np.array([first.setdefault(stored.sentences[number][0], number) for number in numbers.tolist()], np.int32)
    of_sentences = np.array([first.get(sentence.words, NOT_STORED) for sentence in sentences], np.int32)
    return of_stored[rows], of_sentences


def search_width(k: int, row_numbers: Int[np.ndarray, " rows"]) -> int:
    """Return how many neighbours to search for so that k of other sentences are among them; at most all rows.

    Every word is looked up this widely, because one search has one width: a sentence of 5 words that the datastore holds
    1,000 times makes it k + 5,000, and the results of a batch, and the time to choose them, as much larger for all words.
    """
    return min(k + int(np.bincount(row_numbers).max()), len(row_numbers))


def exclude_own(
    neighbours: Neighbours, row_numbers: Int[np.ndarray, " rows"], word_numbers: Int[np.ndarray, " words"], k: int
) -> Neighbours:
    """Drop the neighbours that come from a word's own sentence or a copy of it, and keep the first k of the others.

    Args:
        neighbours: of some words, at least `search_width` of each.
        row_numbers: of the sentence of each row of the datastore (see `number_sentences`).
        word_numbers: of the sentence of each word; rows of the same number are dropped, none for `NOT_STORED`.
        k: neighbours to keep.

    Raises:
        InputError: fewer than k neighbours are left to some word.
    """
    own = row_numbers[neighbours.ids] == word_numbers[:, None]
    left = (~own).sum(axis=1)
    if left.min(initial=k) < k:
        word = int(left.argmin())
        raise InputError(
            f"a word of sentence {word_numbers[word]}: expected {k} neighbours of other sentences, got {left[word]} "
            f"among the {own.shape[1]} that were searched for"
        )
    others = np.argsort(own, axis=1, kind="stable")[:, :k]
    return Neighbours(*(np.take_along_axis(np.asarray(column), others, axis=1) for column in neighbours))  # type: ignore[arg-type]


def retrieve_others(
    knn_tagger: KnnTagger,
    split: EncodedSplit,
    row_numbers: Int[np.ndarray, " rows"],
    word_numbers: Int[np.ndarray, " words"],
    k: int,
    metric: str,
) -> Cache:
    """Retrieve neighbours of training words from other sentences, in one search.

    Args:
        knn_tagger: tagger and datastore.
        split: training sentences.
        row_numbers: see `exclude_own`.
        word_numbers: likewise.
        k: neighbours of each word.
        metric: of the search.

    Raises:
        InputError: the datastore has too few rows of other sentences for some word.
    """

    def others(batch: Retrieved) -> Retrieved:
        """Return a batch with k neighbours of each word, so that no more of them are held than needed."""
        is_word = np.asarray(batch.word_index) != NO_WORD
        words, p_ner, (neighbours, *_) = jax.tree.map(lambda column: np.asarray(column)[is_word], batch)
        return Retrieved(words, p_ner, SearchResult(exclude_own(neighbours, row_numbers, word_numbers[words], k), None))

    retrieved = knn_tagger.retrieve_batches(split, search_width(k, row_numbers), metric, None)
    return collect(map(others, one_behind(retrieved)), split.num_words, with_ids=True)
