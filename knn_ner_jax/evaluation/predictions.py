"""The labels of a split with and without neighbours: by word for statistics, by sentence for files, pages and scores."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from knn_ner_jax import metrics
from knn_ner_jax.data.corpus import Split
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit, Tokenizer
from knn_ner_jax.io import write_bytes, write_text

NEAREST = 8  # neighbours that a page shows one by one
METHODS = {"tagger": "tagger", "knn": "kNN-NER"}  # what is compared everywhere: key in files -> name in print


@dataclass(frozen=True)
class Predictions:
    """Label ids and confidences of both methods, by scored word of a split.

    Attributes:
        label_names: what the ids mean.
        sentence_ids: sentence number of each word, ascending; every sentence has a word.
        gold: label ids.
        tagger: the tagger's.
        knn: those of the mix.
        confidence: the tagger's probability of its own label, in [0, 1].
        voted: the label that the neighbours alone would give.
        agreement: their p_kNN of it, in [0, 1].
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
        """Return label ids of all words as tags by sentence."""
        bounds = np.flatnonzero(np.diff(self.sentence_ids)) + 1
        names = np.array(self.label_names, object)
        return [part.tolist() for part in np.split(names[ids], bounds)]

    def save(self, path: Path) -> None:
        """Write an .npz file atomically."""
        buffer = io.BytesIO()
        arrays = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "label_names"}
        np.savez_compressed(buffer, label_names=np.array(self.label_names), **arrays)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote."""
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls(label_names=tuple(map(str, arrays.pop("label_names"))), **arrays)


Sentences = Sequence[Sequence[str]]


@dataclass(frozen=True)
class TaggedSentences:
    """The content of a predictions file, by sentence: words (or pieces), and their gold and predicted tags."""

    tokens: Sentences
    gold: Sentences
    tagger: Sentences
    knn: Sentences

    @classmethod
    def of(cls, split: Split, predictions: Predictions) -> "TaggedSentences":
        """Put the predictions for a split beside its words."""
        words = [sentence.words for sentence in split.sentences]
        return cls(words, *map(predictions.tags, (predictions.gold, predictions.tagger, predictions.knn)))


def _pieces(encoded: EncodedSplit, tokenizer: Tokenizer) -> np.ndarray:
    """Return the piece that each word index stands for."""
    pieces = np.empty(encoded.num_words, object)
    for window in encoded.windows:
        is_word = window.word_index != NO_WORD
        pieces[window.word_index[is_word]] = tokenizer.subwords(window.token_ids[is_word].tolist())
    return pieces


def tagged_sentences(
    split: Split,
    encoded: EncodedSplit,
    label_set: LabelSet,
    tagger: Int[np.ndarray, " words"],
    knn: Int[np.ndarray, " words"],
    tokenizer: Tokenizer,
) -> TaggedSentences:
    """Put label ids of all words in sentences; special tokens, which protocol wang2022 labels too, are left out.

    Args:
        split: the sentences.
        encoded: the same sentences, encoded, with their gold labels.
        label_set: of the ids.
        tagger: the tagger's label ids.
        knn: those of the mix.
        tokenizer: names the pieces under protocol wang2022.
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


def write_predictions(path: Path, tagged: TaggedSentences) -> None:
    """Write a predictions file atomically.

    A line has a token and its gold, tagger and kNN tags (IOB2; BMES under protocol wang2022), tab-separated; an empty line
    ends a sentence.
    """
    sentences = zip(tagged.tokens, tagged.gold, tagged.tagger, tagged.knn, strict=True)
    blocks = ("".join("\t".join(line) + "\n" for line in zip(*sentence, strict=True)) for sentence in sentences)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{block}\n" for block in blocks))


def score_tagged(tagged: TaggedSentences, protocol: str) -> dict[str, Any]:
    """Return the scores of each of `METHODS`: by seqeval, under protocol wang2022 by the decoder of its authors."""
    score = metrics.score if protocol == "words" else metrics.score_wang2022
    return {method: score(tagged.gold, getattr(tagged, method)) for method in METHODS}


def score_partial_matches(tagged: TaggedSentences, protocol: str) -> dict[str, Any]:
    """Return the scores of partial matches of each of `METHODS` (`metrics.partial_scores`)."""
    return {method: metrics.partial_scores(tagged.gold, getattr(tagged, method), protocol) for method in METHODS}
