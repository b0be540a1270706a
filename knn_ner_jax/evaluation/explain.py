"""Plain text -> entities, each with the training words that are nearest to it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from knn_ner_jax.data.corpus import Sentence
from knn_ner_jax.data.encoding import encode
from knn_ner_jax.data.labels import OUTSIDE, Span, strict_spans
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation.neighbours import Neighbour, Neighbourhood
from knn_ner_jax.evaluation.opening import KnnTagger
from knn_ner_jax.evaluation.tuning import Setting, collect, vote
from knn_ner_jax.knn.vote import interpolate

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
    knn_tagger: KnnTagger, setting: Setting, texts: Sequence[str], num_neighbours: int
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
    split = encode(sentences, model.tokenizer, model.window, knn_tagger.label_set, model.pinyin)
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
