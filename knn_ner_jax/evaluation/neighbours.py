"""What a search found for a word, for a person to read: neighbours in their sentences, and the vote they make up."""

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from knn_ner_jax import mesh as placement
from knn_ner_jax.data import hub
from knn_ner_jax.data.corpus import parse
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation.opening import KnnTagger
from knn_ner_jax.evaluation.tuning import Cache
from knn_ner_jax.knn.storage import Source

CONTEXT = 5  # words of a neighbour's sentence shown on either side


@dataclass(frozen=True)
class Neighbour:
    """A training word near a word of the text.

    Attributes:
        similarity: to the word of the text.
        label: its tag.
        word: itself.
        before: words of its sentence before it, at most `CONTEXT`.
        after: likewise behind it.
        cut: whether its sentence has more words before those, and behind them.
    """

    similarity: float
    label: str
    word: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    cut: tuple[bool, bool]


def remembered_words(source: Source) -> list[tuple[str, ...]]:
    """The words of every sentence of the file that a datastore was built from.

    Tags are left alone, because rows have their labels: neither the scheme they were read under matters here, nor what was
    told of them then.

    Raises:
        InputError: the file is gone or changed.
    """
    path = Path(source.path)
    if not hub.is_hub(path) and not path.is_file():
        raise InputError(f"{path}: expected the file the datastore was built from, found none")
    parsed = parse(path)
    if parsed.sha256 != source.sha256:
        raise InputError(
            f"{path}: changed since the datastore was built: expected SHA-256 {source.sha256}, got {parsed.sha256}"
        )
    return [tuple(row.word for row in rows) for rows in parsed.sentences]


def _take(sentence_ids: Array, word_ids: Array, rows: Array) -> Int[Array, "2 rows"]:
    return jnp.stack([sentence_ids[rows], word_ids[rows]])


class Neighbourhood:
    """Row numbers of the datastore -> words in their sentences.

    Raises:
        InputError: the corpus of the datastore is gone or changed.
    """

    def __init__(self, knn_tagger: KnnTagger):
        self._words = remembered_words(knn_tagger.stored.source)
        self._names = knn_tagger.label_set.names
        store = knn_tagger.stored.datastore
        # Looked up on the devices, because no host need hold all rows.
        take = jax.jit(_take, out_shardings=placement.replicated(knn_tagger.mesh))
        self._take = partial(take, store.sentence_ids, store.word_ids)

    def nearest(self, cache: Cache, slot: int, count: int) -> tuple[Neighbour, ...]:
        """The nearest rows of a word, nearest first.

        Args:
            cache: with neighbours and their ids.
            slot: number of the word.
            count: how many are wanted.
        """
        rows = cache.neighbour_ids[slot, :count]  # type: ignore[index]
        labels, similarities = cache.neighbour_labels[slot], cache.similarities[slot]  # type: ignore[index]
        sentences, words = np.asarray(self._take(rows))
        found = zip(sentences, words, labels[:count], similarities[:count], strict=True)
        return tuple(itertools.starmap(self._describe, found))

    def _describe(self, sentence: int, word: int, label: int, similarity: float) -> Neighbour:
        words = self._words[sentence]
        before, after = words[max(0, word - CONTEXT) : word], words[word + 1 : word + 1 + CONTEXT]
        cut = word > CONTEXT, word + CONTEXT + 1 < len(words)
        return Neighbour(float(similarity), self._names[label], words[word], before, after, cut)
