"""What labels of an evaluated run cost with and without neighbours, and whether they are those of a full search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measuring
from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.corpus import Split, read_corpus
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.io import tune_memory
from knn_ner_jax.knn.combine import KnnParams, interpolate, labels_by_vote
from knn_ner_jax.knn_tagger import KnnTagger, open_knn_tagger
from knn_ner_jax.run_dir import Stopwatch, TrainedModel, load_evaluation


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


def open_run(run: Path, evaluation: Path | None = None) -> EvaluatedRun:
    """Load a run.

    Args:
        run: a folder that train.py has filled.
        evaluation: a folder that eval.py has filled; None: the same.

    Raises:
        InputError: the run has not been trained and evaluated.
    """
    folder = evaluation or run
    evaluated = load_evaluation(folder)
    config, setting = replace(evaluated.config, run_dir=str(run)), KnnParams(**evaluated.selected)
    knn_tagger = open_knn_tagger(config, TrainedModel.load(run), folder, None, Stopwatch())
    corpus = read_corpus(config.data)
    return EvaluatedRun(Path(config.data.dir).name, dict(corpus.splits), knn_tagger, setting)


def mixed_by_full_search(
    knn_tagger: KnnTagger, setting: KnnParams, split: EncodedSplit, weights: Sequence[float]
) -> dict[float, np.ndarray]:
    """Return [words, labels], p(y) of every word when every word is looked up among all rows, by knn_weight."""
    mixed = labels_by_vote(knn_tagger.retrieve_for(split, setting), setting)
    return {weight: np.asarray(interpolate(mixed.p_ner, mixed.p_knn, weight)) for weight in weights}


def tagging(repeats: int, run: str, sentences: int | None, weights: list[float]) -> dict[str, Any]:
    """Time labels of the first sentences of test: the tagger's alone, with neighbours for each weight, and a full search.

    Memory is kept as in eval.py, for all of them.

    Args:
        repeats: timed passes, the programs in turn.
        run: a folder that train.py and eval.py have filled.
        sentences: how many; None: all.
        weights: of the vote.

    Returns:
        `seconds` of `tagger`, of each weight, and of `full` (every word looked up, without vote and mix); for each weight
        how many words were `searched` among all rows, and how many got `other_labels` than the full search gives.
    """
    tune_memory()
    evaluated_run = open_run(Path(run))
    knn_tagger, setting, split = evaluated_run.knn_tagger, evaluated_run.setting, evaluated_run.encode("test", sentences)
    settings = {str(weight): replace(setting, knn_weight=weight) for weight in weights}

    @jax.jit
    def labels(params: Any, batch: Batch) -> jax.Array:
        output = knn_tagger.model.tagger(params, batch.token_ids, batch.segments, pinyin_ids=batch.pinyin_ids)
        return output.logits.argmax(axis=-1)

    programs: dict[str, Callable[[], Any]] = {
        "tagger": lambda: jax.block_until_ready([labels(knn_tagger.params, batch) for batch in knn_tagger.batches(split)]),
        "full": lambda: knn_tagger.retrieve_for(split, setting),
    }
    programs |= {name: partial(knn_tagger.label_split, split, one) for name, one in settings.items()}
    seconds = measuring.interleaved_seconds(programs, repeats)
    expected = {weight: p.argmax(axis=1) for weight, p in mixed_by_full_search(knn_tagger, setting, split, weights).items()}
    tagged = {name: knn_tagger.label_split(split, one) for name, one in settings.items()}
    return {
        "corpus": evaluated_run.corpus,
        "sentences": len(evaluated_run.splits["test"].sentences[:sentences]),
        "words": split.num_words,
        "rows": knn_tagger.num_rows,
        "batch_size": knn_tagger.batch_size,
        "setting": {"k": setting.k, "temperature": setting.temperature, "metric": setting.metric},
        "seconds": seconds,
        "searched": {name: labels.searched for name, labels in tagged.items()},
        "other_labels": {name: int((tagged[name].knn != expected[one.knn_weight]).sum()) for name, one in settings.items()},
    }
