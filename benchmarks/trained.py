"""A trained and evaluated run: tagger, datastore, what dev chose, and the labels that a full search gives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from knn_ner_jax.data.corpus import Split, read_corpus
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit, encode
from knn_ner_jax.evaluation.tuning import KnnParams, collect, vote
from knn_ner_jax.knn.combine import interpolate
from knn_ner_jax.knn_tagger import KnnTagger, Stopwatch, load_evaluation, open_knn_tagger
from knn_ner_jax.run_dir import TrainedModel

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
        model, first_sentences = self.knn_tagger.model, self.splits[split].sentences[:sentences]
        label_set = self.knn_tagger.label_set.union(LabelSet.of(sentence.tags for sentence in first_sentences))
        return encode(first_sentences, model.tokenizer, model.max_length, label_set, model.pinyin)


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
    config, setting = load_evaluation(folder)
    config = replace(config, run_dir=str(run))
    knn_tagger = open_knn_tagger(config, TrainedModel.load(run), folder, None, Stopwatch())
    knn_tagger = replace(knn_tagger, pad_to_multiple_of=LENGTH_MULTIPLE)
    corpus = read_corpus(config.data.dir, config.data.scheme, config.data.on_error)
    return EvaluatedRun(Path(config.data.dir).name, dict(corpus.splits), knn_tagger, setting)


def mixed_by_full_search(
    knn_tagger: KnnTagger, setting: KnnParams, split: EncodedSplit, weights: Sequence[float]
) -> dict[float, np.ndarray]:
    """Return [words, labels], p(y) of every word when every word is looked up among all rows, by knn_weight."""
    temperatures = [setting.temperature] if setting.k == "all" else None
    cache = collect(knn_tagger.retrieve(split, setting.k, setting.metric, temperatures), split.num_words, temperatures)
    p_knn = vote(cache, setting)
    return {weight: np.asarray(interpolate(cache.p_ner, p_knn, weight)) for weight in weights}
