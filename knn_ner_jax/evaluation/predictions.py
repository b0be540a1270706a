"""What the tagger and kNN-NER say of every word of a split: what intervals, breakdowns and pages are made of.

Labels of a split by sentence: the predictions file, and the scores of both methods under the run's protocol.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerBase

from knn_ner_jax import metrics
from knn_ner_jax.data.corpus import Split
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit
from knn_ner_jax.io import write_bytes


@dataclass(frozen=True)
class Predictions:
    """Label ids and what led to them, by scored word of a split; N words.

    Attributes:
        label_names: what the ids mean.
        sentence_ids: [N] sentence number of each word, ascending; every sentence has a word.
        gold: [N] label ids.
        tagger: [N] the tagger's.
        knn: [N] those of the mix.
        confidence: [N] the tagger's probability of its own label, in [0, 1].
        voted: [N] the label that the neighbours alone would give.
        agreement: [N] their p_kNN of it, in [0, 1].
    """

    label_names: tuple[str, ...]
    sentence_ids: Int[np.ndarray, " words"]
    gold: Int[np.ndarray, " words"]
    tagger: Int[np.ndarray, " words"]
    knn: Int[np.ndarray, " words"]
    confidence: Float[np.ndarray, " words"]
    voted: Int[np.ndarray, " words"]
    agreement: Float[np.ndarray, " words"]

    def tags(self, ids: Int[np.ndarray, " words"]) -> list[list[str]]:
        """Label ids of all words -> tags by sentence."""
        bounds = np.flatnonzero(np.diff(self.sentence_ids)) + 1
        names = np.array(self.label_names, object)
        return [part.tolist() for part in np.split(names[ids], bounds)]

    def save(self, path: Path) -> None:
        """Writes an .npz file, whole or not at all."""
        buffer = io.BytesIO()
        arrays = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "label_names"}
        np.savez_compressed(buffer, label_names=np.array(self.label_names), **arrays)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls(label_names=tuple(map(str, arrays.pop("label_names"))), **arrays)


Sentences = Sequence[Sequence[str]]


@dataclass(frozen=True)
class TaggedSentences:
    """What stands in a predictions file, by sentence: words (or pieces), and the tags of each."""

    tokens: Sentences
    gold: Sentences
    tagger: Sentences
    knn: Sentences

    @classmethod
    def of(cls, split: Split, outcome: Predictions) -> "TaggedSentences":
        """The words of a split and what an outcome says of them."""
        words = [sentence.words for sentence in split.sentences]
        return cls(words, *map(outcome.tags, (outcome.gold, outcome.tagger, outcome.knn)))


def _pieces(encoded: EncodedSplit, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The piece that speaks for each slot."""
    pieces = np.empty(encoded.num_words, object)
    for window in encoded.windows:
        speaks = window.word_index != NO_WORD
        pieces[window.word_index[speaks]] = tokenizer.convert_ids_to_tokens(window.token_ids[speaks].tolist())
    return pieces


def tagged_sentences(
    split: Split,
    encoded: EncodedSplit,
    label_set: LabelSet,
    tagger: np.ndarray,
    knn: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
) -> TaggedSentences:
    """Puts label ids of all word_index in sentences; special tokens, which wang2022 labels too, are left out.

    Args:
        split: the sentences.
        encoded: the same, encoded; holds the gold.
        label_set: of the ids.
        tagger: [N] the tagger's label ids.
        knn: [N] those of the mix.
        tokenizer: names the pieces under wang2022.
    """
    names = np.array(label_set.names, object)
    sentence_ids = encoded.sentence_ids[encoded.is_scored]
    bounds = np.searchsorted(sentence_ids, np.arange(1, len(split.sentences)))

    def by_sentence(values: np.ndarray) -> list[list[str]]:
        return [part.tolist() for part in np.split(values[encoded.is_scored], bounds)]

    if label_set.protocol == "words":
        tokens: Sentences = [sentence.words for sentence in split.sentences]
    else:
        tokens = by_sentence(_pieces(encoded, tokenizer))
    return TaggedSentences(tokens, *(by_sentence(names[ids]) for ids in (encoded.label_ids, tagger, knn)))


def write_predictions(path: Path, found: TaggedSentences) -> None:
    """Tab-separated token, gold, tagger, kNN; IOB2 (BMES under wang2022); every sentence in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sentence in zip(found.tokens, found.gold, found.tagger, found.knn, strict=True):
            file.writelines("\t".join(line) + "\n" for line in zip(*sentence, strict=True))
            file.write("\n")


def score_tagged(found: TaggedSentences, protocol: str) -> dict[str, Any]:
    """Scores of both methods: seqeval's, or under wang2022 those of its own decoder."""
    scorer = metrics.score if protocol == "words" else metrics.score_wang2022
    return {"tagger": scorer(found.gold, found.tagger), "knn": scorer(found.gold, found.knn)}
