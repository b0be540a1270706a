"""A trained and evaluated run: tagger, datastore, what dev chose, and the labels that a full search gives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from knn_ner_jax.data.corpus import Split, read_corpus
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.knn.combine import KnnParams, interpolate
from knn_ner_jax.knn_tagger import KnnTagger, open_knn_tagger
from knn_ner_jax.run_dir import Stopwatch, TrainedModel, load_evaluation

LENGTH_MULTIPLE = 16  # few shapes, so little to compile


@dataclass(frozen=True)
class EvaluatedRun:
    """A run to measure.

    Attributes:
        corpus: name of its folder.
        splits: dev and test among them.
        knn_tagger: tagger and datastore.
        setting: what dev chose.
    """

    corpus: str
    splits: dict[str, Split]
    knn_tagger: KnnTagger
    setting: KnnParams

    def encode(self, split: str, sentences: int | None = None) -> EncodedSplit:
        """Encode the first sentences of a split, or all."""
        first = self.splits[split].sentences[:sentences]
        label_set = self.knn_tagger.label_set.union(LabelSet.of(sentence.tags for sentence in first))
        return self.knn_tagger.encode(first, label_set)


def evaluation_folder(run: Path) -> Path:
    """Return the folder of a run's evaluation: its own, or where `benchmarks.seeds` puts that of the paper's key."""
    return run if (run / "eval.json").exists() else run / "last_layer"


def open_run(run: Path, evaluation: Path | None = None) -> EvaluatedRun:
    """Load a run.

    Args:
        run: a folder that train.py has filled.
        evaluation: a folder that eval.py has filled; None: see `evaluation_folder`.

    Raises:
        InputError: the run has not been trained and evaluated.
    """
    folder = evaluation or evaluation_folder(run)
    evaluation = load_evaluation(folder)
    config, setting = replace(evaluation.config, run_dir=str(run)), KnnParams(**evaluation.selected)
    knn_tagger = open_knn_tagger(config, TrainedModel.load(run), folder, None, Stopwatch())
    knn_tagger = replace(knn_tagger, pad_to_multiple_of=LENGTH_MULTIPLE)
    corpus = read_corpus(config.data)
    return EvaluatedRun(Path(config.data.dir).name, dict(corpus.splits), knn_tagger, setting)


def mixed_by_full_search(
    knn_tagger: KnnTagger, setting: KnnParams, split: EncodedSplit, weights: Sequence[float]
) -> dict[float, np.ndarray]:
    """Return [words, labels], p(y) of every word when every word is looked up among all rows, by knn_weight."""
    mixed = knn_tagger.label_split(split, setting, knn_tagger.retrieve_for(split, setting))
    p_ner, p_knn = jnp.asarray(mixed.p_ner), jnp.asarray(mixed.p_knn)
    return {weight: np.asarray(interpolate(p_ner, p_knn, weight)) for weight in weights}
