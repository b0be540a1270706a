"""A tiny study: a corpus of letters, an encoder that trains in seconds, 36 steps with a checkpoint after half of them."""

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.sentences import made_up_corpus
from knn_ner_jax import cli
from knn_ner_jax.config import KnnConfig
from knn_ner_jax.contrib.combiner import LabelledWords, RetrievedWords
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.knn_tagger import KnnTagger
from knn_ner_jax.main import train

_BASE = """
run_dir: study
data: {dir: corpus, pad_to_multiple_of: 24, unseen_types: miss}
model:
  backbone: scratch
  scratch: {vocab: corpus/vocab.txt, hidden_size: 16, intermediate_size: 24, max_position_embeddings: 24}
train: {epochs: 6, batch_size: 4, learning_rate: 0.01, save_every: 0, evaluate_every: 18}
"""


def write_study(folder: Path, varied: str) -> None:
    """Writes `study.yaml`, the given text after what all studies share, and its corpus."""
    (folder / "corpus").mkdir()
    made_up_corpus(folder / "corpus", {"train": 24, "dev": 8, "test": 8})
    (folder / "study.yaml").write_text(_BASE + varied)


def run_study(*options: str) -> None:
    """Runs ablate.py in the working directory."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        cli.run("ablate", "ablate.py", ["--config", "study.yaml", *options])
    finally:
        signal.signal(signal.SIGTERM, handler)


def counted(patch: pytest.MonkeyPatch) -> Counter:
    """Counts trainings and searches."""
    counts: Counter[str] = Counter()
    fine_tune, retrieve = train.run, KnnTagger.retrieve_batches

    def counting_train(*args, **named):
        counts["trained"] += 1
        return fine_tune(*args, **named)

    def counting_retrieve(*args, **named):
        counts["searched"] += 1
        return retrieve(*args, **named)

    patch.setattr(train, "run", counting_train)
    patch.setattr(KnnTagger, "retrieve_batches", counting_retrieve)
    return counts


def finish_study(folder: Path, varied: str) -> Counter[str]:
    """Writes a study and runs it there; returns what it took."""
    write_study(folder, varied)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        counts = counted(patch)
        run_study()
    return counts


class UniformCombiner:
    """A combiner that is as small as one can be: tagger and vote of two neighbours have equal weights."""

    name, k, needs_train = "uniform", 2, False

    def __init__(self, knn: KnnConfig):
        self.settings: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    def fit(self, train: LabelledWords | None, dev: LabelledWords, label_set: LabelSet, seed: int) -> "UniformCombiner":
        assert train is None
        return self

    def predict(self, words: RetrievedWords) -> np.ndarray:
        p_ner, labels = np.asarray(words.p_ner), np.asarray(words.neighbour_labels)
        return (p_ner + (labels[:, :, None] == np.arange(p_ner.shape[1])).mean(axis=1)) / 2


class NoCombiner:
    """What lacks something that a combiner has."""

    name, k = "none", 1

    def __init__(self, knn: KnnConfig):
        pass
