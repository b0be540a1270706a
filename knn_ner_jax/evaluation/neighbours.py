"""What a search found for a word, for a person to read: neighbours in their sentences, and the vote they make up.

Plain text -> entities, each with the training words that are nearest to it.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from knn_ner_jax import sharding
from knn_ner_jax.data import readers
from knn_ner_jax.data.corpus import parse
from knn_ner_jax.data.tag_schemes import OUTSIDE, Sentence, Span, strict_spans
from knn_ner_jax.data.tokenization import encode
from knn_ner_jax.evaluation.tuning import Cache, KnnParams, collect, vote
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import interpolate
from knn_ner_jax.knn.storage import Source
from knn_ner_jax.knn_tagger import KnnTagger

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
    if not readers.is_hub(path) and not path.is_file():
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
        take = jax.jit(_take, out_shardings=sharding.replicated(knn_tagger.mesh))
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


# A letter, digit or combining accent; ideographs and kana stand alone, because no spaces separate them.
_IDEOGRAPH = r"\u3040-\u30fa\u30fc-\u30ff\u3400-\u9fff\uf900-\ufaff"
_LETTER = rf"(?:[^\W_{_IDEOGRAPH}]|[\u0300-\u036f])"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|{_LETTER}+(?:['’.\-]{_LETTER}+)*|\S")
_CLITIC = re.compile(r"(?<=\w)(n['’]t|['’](?:s|re|ve|ll|d|m))$", re.IGNORECASE)


@dataclass(frozen=True)
class Entity:
    """An entity found: where, the probability of its first tag, and the neighbours of its first word, nearest first."""

    span: Span
    probability: float
    neighbours: tuple[Neighbour, ...]


def split_words(text: str) -> tuple[str, ...]:
    """Words and punctuation marks of plain text, English clitics apart: `Ann's` -> `Ann`, `'s`."""
    words: list[str] = []
    for word in _WORD.findall(text):
        words += [part for part in _CLITIC.split(word) if part]
    return tuple(words)


def tag_texts(
    knn_tagger: KnnTagger, setting: KnnParams, texts: Sequence[str], num_neighbours: int
) -> list[tuple[tuple[str, ...], list[Entity]]]:
    """Tags plain text.

    Args:
        knn_tagger: tagger and datastore.
        setting: k, temperature, knn_weight and metric.
        texts: one sentence each.
        num_neighbours: shown for each entity, at least 1; how many vote is the setting's affair.

    Returns:
        For each text its words and its entities.

    Raises:
        InputError: a text has no word, the corpus of the datastore is gone or changed, or the run labels pieces.
    """
    if knn_tagger.label_set.protocol != "words":
        raise InputError(f"protocol: expected a run with words, got {knn_tagger.label_set.protocol}, which labels pieces")
    sentences = [Sentence(words, (OUTSIDE,) * len(words), 0) for words in map(split_words, texts)]
    if not sentences or not all(sentence.words for sentence in sentences):
        raise InputError("text: expected at least one sentence, and at least one word in each, got none")
    neighbourhood, names = Neighbourhood(knn_tagger), knn_tagger.label_set.names
    model = knn_tagger.model
    split = encode(sentences, model.tokenizer, model.max_length, knn_tagger.label_set, model.pinyin)
    voters = 1 if setting.k == "all" else setting.k
    k = min(knn_tagger.num_rows, max(num_neighbours, voters))
    temperatures = [setting.temperature] if setting.k == "all" else None
    found = knn_tagger.retrieve(split, k, setting.metric, temperatures)
    cache = collect(found, split.num_words, temperatures, with_ids=True)
    mixed = np.asarray(interpolate(jnp.asarray(cache.p_ner), vote(cache, setting), setting.knn_weight))

    def entity(span: Span, first_slot: int) -> Entity:
        slot = first_slot + span.start
        return Entity(span, float(mixed[slot].max()), neighbourhood.nearest(cache, slot, num_neighbours))

    results, first_slot = [], 0
    for sentence in sentences:
        labels = mixed[first_slot : first_slot + len(sentence.words)].argmax(axis=1)
        spans = strict_spans([names[label] for label in labels], "BIO")
        results.append((sentence.words, [entity(span, first_slot) for span in spans]))
        first_slot += len(sentence.words)
    return results
