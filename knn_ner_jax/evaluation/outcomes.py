"""What the tagger and kNN-NER say of every word of a split: what intervals, breakdowns and pages are made of."""

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from knn_ner_jax.files import write_bytes


@dataclass(frozen=True)
class Outcome:
    """Label ids and what led to them, by scored word of a split; N words.

    Attributes:
        label_names: what the ids mean.
        sentence_ids: [N] sentence number of each word, ascending; every sentence has a word.
        gold: [N] label ids.
        vanilla: [N] the tagger's.
        knn: [N] those of the mix.
        confidence: [N] the tagger's probability of its own label, in [0, 1].
        voted: [N] the label that the neighbours alone would give.
        agreement: [N] their p_kNN of it, in [0, 1].
    """

    label_names: tuple[str, ...]
    sentence_ids: Int[np.ndarray, " words"]
    gold: Int[np.ndarray, " words"]
    vanilla: Int[np.ndarray, " words"]
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
    def load(cls, path: Path) -> "Outcome":
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls(label_names=tuple(map(str, arrays.pop("label_names"))), **arrays)
