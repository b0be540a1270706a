"""Labels of a split by sentence: the predictions file, and the scores of both methods under the run's protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from knn_ner_jax import metrics
from knn_ner_jax.data.corpus import Split
from knn_ner_jax.data.encoding import NO_WORD, EncodedSplit
from knn_ner_jax.data.labels import LabelSet
from knn_ner_jax.evaluation.outcomes import Outcome

Sentences = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Columns:
    """What stands in a predictions file, by sentence: words (or pieces), and the tags of each."""

    tokens: Sentences
    gold: Sentences
    vanilla: Sentences
    knn: Sentences

    @classmethod
    def of(cls, split: Split, outcome: Outcome) -> "Columns":
        """The words of a split and what an outcome says of them."""
        words = [sentence.words for sentence in split.sentences]
        return cls(words, *map(outcome.tags, (outcome.gold, outcome.vanilla, outcome.knn)))


def _pieces(encoded: EncodedSplit, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The piece that speaks for each slot."""
    pieces = np.empty(encoded.num_words, object)
    for window in encoded.windows:
        speaks = window.slots != NO_WORD
        pieces[window.slots[speaks]] = tokenizer.convert_ids_to_tokens(window.token_ids[speaks].tolist())
    return pieces


def columns(
    split: Split,
    encoded: EncodedSplit,
    label_set: LabelSet,
    vanilla: np.ndarray,
    knn: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
) -> Columns:
    """Puts label ids of all slots in sentences; special tokens, which wang2022 labels too, are left out.

    Args:
        split: the sentences.
        encoded: the same, encoded; holds the gold.
        label_set: of the ids.
        vanilla: [N] the tagger's label ids.
        knn: [N] those of the mix.
        tokenizer: names the pieces under wang2022.
    """
    names = np.array(label_set.names, object)
    sentence_ids = encoded.sentence_ids[encoded.scored]
    bounds = np.searchsorted(sentence_ids, np.arange(1, len(split.sentences)))

    def by_sentence(values: np.ndarray) -> list[list[str]]:
        return [part.tolist() for part in np.split(values[encoded.scored], bounds)]

    if label_set.protocol == "words":
        tokens: Sentences = [sentence.words for sentence in split.sentences]
    else:
        tokens = by_sentence(_pieces(encoded, tokenizer))
    return Columns(tokens, *(by_sentence(names[ids]) for ids in (encoded.label_ids, vanilla, knn)))


def write_predictions(path: Path, found: Columns) -> None:
    """Tab-separated token, gold, vanilla, kNN; IOB2 (BMES under wang2022); every sentence in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sentence in zip(found.tokens, found.gold, found.vanilla, found.knn, strict=True):
            file.writelines("\t".join(line) + "\n" for line in zip(*sentence, strict=True))
            file.write("\n")


def score(found: Columns, protocol: str) -> dict[str, Any]:
    """Scores of both methods: seqeval's, or under wang2022 those of its own decoder."""
    scorer = metrics.score if protocol == "words" else metrics.score_wang2022
    return {"vanilla": scorer(found.gold, found.vanilla), "knn": scorer(found.gold, found.knn)}
