"""Outcomes: tags by sentence; what is saved is what is loaded."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from knn_ner_jax.evaluation.predictions import Predictions

OUTCOME = Predictions(
    label_names=("O", "B-PER", "I-PER"),
    sentence_ids=np.array([0, 0, 0, 1, 2, 2]),
    gold=np.array([0, 1, 2, 0, 1, 0]),
    tagger=np.array([0, 1, 0, 0, 1, 0]),
    knn=np.array([0, 1, 2, 0, 0, 0]),
    confidence=np.array([1.0, 0.5, 0.75, 1.0, 0.5, 0.25]),
    voted=np.array([0, 1, 2, 0, 0, 0]),
    agreement=np.array([1.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
)


def test_tags_stand_in_their_sentences():
    assert OUTCOME.tags(OUTCOME.gold) == [["O", "B-PER", "I-PER"], ["O"], ["B-PER", "O"]]


def test_a_saved_outcome_is_loaded_as_it_was(tmp_path: Path):
    OUTCOME.save(tmp_path / "new" / "outcome.npz")
    loaded = Predictions.load(tmp_path / "new" / "outcome.npz")
    assert loaded.label_names == OUTCOME.label_names
    for entry in fields(Predictions)[1:]:
        assert np.array_equal(getattr(loaded, entry.name), getattr(OUTCOME, entry.name))
        assert getattr(loaded, entry.name).dtype == getattr(OUTCOME, entry.name).dtype
