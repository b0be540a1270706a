"""An evaluation: dev chooses the kNN parameters, test is labelled with them once; all that eval.json says."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from knn_ner_jax import calibration, metrics
from knn_ner_jax.config import Config, as_list
from knn_ner_jax.data.corpus import Corpus, check_types
from knn_ner_jax.data.tag_schemes import LabelSet, scored_spans
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.evaluation.predictions import (
    TaggedSentences,
    score_partial_matches,
    score_tagged,
    tagged_sentences,
    write_predictions,
)
from knn_ner_jax.knn.combine import Cache, CountedLabels, KnnParams, labels_by_vote
from knn_ner_jax.knn.examples import DatastoreExamples
from knn_ner_jax.knn.similarity import PADDING
from knn_ner_jax.knn_tagger import KnnTagger, open_knn_tagger
from knn_ner_jax.models.pretrained import fingerprint
from knn_ner_jax.run_dir import Stopwatch, TrainedModel, environment
from knn_ner_jax.sharding import is_primary_host

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuningResult:
    """What dev chose.

    Attributes:
        trial: the parameters and their F1 on dev.
        selected_on: `dev`, `published` (`knn.selection`), or `config` where there was nothing to choose from.
        trials: all that were scored.
        skipped_k: configured numbers of neighbours that exceed the rows.
        retrieved: for the words of dev, with the metric of `trial` (`tuning.retrieve_for_grid`).
    """

    trial: tuning.Trial
    selected_on: str
    trials: tuple[tuning.Trial, ...]
    skipped_k: tuple[int, ...]
    retrieved: Cache


def tune(knn_tagger: KnnTagger, config: Config, split: EncodedSplit, label_set: LabelSet, split_name: str) -> TuningResult:
    """Choose k, temperature, knn_weight and metric with one search for each metric.

    Args:
        knn_tagger: tagger and datastore.
        config: `config.knn` is the grid.
        split: dev.
        label_set: labels of tagger, datastore and gold.
        split_name: must be `dev`.

    Raises:
        InputError: every k exceeds the rows, or the split is not dev.
    """
    tuning.refuse_all_but_dev(split_name)
    grid = tuning.make_grid(config.knn, knn_tagger.num_rows)
    trials: list[tuning.Trial] = []
    for metric in as_list(config.knn.metric):
        cache = tuning.retrieve_for_grid(knn_tagger, split, grid, metric)
        trials += tuning.run_grid(cache, split, label_set, grid, metric)
        if tuning.select(trials).knn_params.metric == metric:
            retrieved = cache
    selection = config.knn.selection
    selected_on = "config" if selection == "dev" and len(trials) == 1 else selection
    return TuningResult(tuning.select(trials), selected_on, tuple(trials), grid.skipped_k, retrieved)


def _describe(corpus: Corpus, config: Config, knn_tagger: KnnTagger) -> dict[str, Any]:
    """Return what was evaluated: data read and left out, datastore, device."""
    splits = corpus.splits
    store, border = knn_tagger.stored, knn_tagger.border
    return {
        "run_dir": config.run_dir,
        "scheme": corpus.scheme,
        "corpus": {
            name: {
                "file": str(split.path),
                "sha256": split.sha256,
                "sentences": len(split.sentences),
                "words": split.num_words,
                "skipped_lines": dict(split.skipped),
                "illegal_tags": len(split.illegal_tags),
                "ragged_lines": len(split.ragged_lines),
            }
            for name, split in splits.items()
        },
        "illegal_tags": [tag for split in splits.values() for tag in split.illegal_tags],
        "ragged_lines": [line for split in splits.values() for line in split.ragged_lines],
        "datastore": {
            "rows": knn_tagger.num_rows,
            "dim": store.datastore.keys.shape[1],
            **asdict(config.datastore),
            "fraction": store.source.fraction,
            "include_o": store.source.include_o,
            "border": 0 if border is None else int((border.rows.squared_norms != PADDING).sum()),
            "source": asdict(store.source),
        },
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
    }


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        result: the content of eval.json.
        knn_tagger: what labelled.
        knn_params: what dev chose.
        test: words and labels of test.
    """

    result: dict[str, Any]
    knn_tagger: KnnTagger
    knn_params: KnnParams
    test: TaggedSentences


def _count_words(split: EncodedSplit) -> dict[str, int]:
    return {
        "words": split.num_words,
        "tokens": int(split.lengths.sum()),
        "num_empty_words": split.num_empty_words,
        "num_long_sentences": split.num_long_sentences,
    }


def _count_searches(labels: CountedLabels) -> dict[str, int]:
    return {
        "words_at_border": labels.at_border,
        "words_searched": labels.searched,
        "words_within_rounding": labels.within_rounding,
    }


def _doubts(scores: dict[str, dict[str, Any]]) -> list[str]:
    """Return what `metrics.scheme_doubt` says of the tagger's scores on each split, where it says something."""
    taggers = {name: split["tagger"] for name, split in scores.items() if "f1_default" in split["tagger"]}
    doubts = (metrics.scheme_doubt(row["f1"], row["f1_default"], name) for name, row in taggers.items())
    return [doubt for doubt in doubts if doubt]


@dataclass(frozen=True)
class PredictedEntities:
    """The entities that the mix predicts in a split, in order, as scores count them (`tag_schemes.scored_spans`).

    Attributes:
        sentence_ids: number of each one's sentence.
        raw: its score before calibration: the smallest, over its words, of the probability of the word's label.
        is_right: whether the gold has it, with the same bounds and type.
        num_gold: entities of the gold.
    """

    sentence_ids: Int[np.ndarray, " entities"]
    raw: Float[np.ndarray, " entities"]
    is_right: Bool[np.ndarray, " entities"]
    num_gold: int


def _predicted_entities(
    p: Float[np.ndarray, " words"], encoded: EncodedSplit, tagged: TaggedSentences, protocol: str
) -> PredictedEntities:
    """Score the predicted entities of a split.

    Args:
        p: the mixed probability of each word's label.
        encoded: the split.
        tagged: labels and gold as tags by sentence.
        protocol: of the tags.
    """
    entities, first, num_gold = [], 0, 0
    for number, (gold, predicted) in enumerate(zip(tagged.gold, tagged.knn, strict=True)):
        spans = set(scored_spans(gold, protocol))
        for span in scored_spans(predicted, protocol):
            entities.append((number, first + span.start, first + span.end, span in spans))
        first += len(gold)
        num_gold += len(spans)
    sentence_ids, starts, ends, is_right = np.array(entities, np.int64).reshape(-1, 4).T
    if not entities:
        return PredictedEntities(sentence_ids, np.zeros(0), is_right.astype(bool), num_gold)
    scored = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    p_words = p[encoded.is_scored][scored].astype(np.float64)
    raw = np.minimum.reduceat(p_words, np.cumsum(ends - starts) - (ends - starts))
    return PredictedEntities(sentence_ids, raw, is_right.astype(bool), num_gold)


def _calibrate(dev: PredictedEntities, test: PredictedEntities) -> dict[str, Any]:
    """Calibrate scores on dev; return how, and what it changes on each split, on dev by folds held out."""
    fit = calibration.fit(dev.raw, dev.is_right, dev.sentence_ids)
    calibrated = {"dev": (dev, fit.held_out), "test": (test, fit.calibration.apply(test.raw))}
    described: dict[str, Any] = {**asdict(fit.calibration), "log_loss": fit.log_loss}
    for name, (entities, after) in calibrated.items():
        described[name] = {"entities": len(entities.raw)}
        for when, scores in (("before", entities.raw), ("after", after)):
            described[name][f"ece_{when}"] = calibration.expected_calibration_error(scores, entities.is_right)
            bins = calibration.reliability(scores, entities.is_right)
            described[name][f"bins_{when}"] = [each._asdict() for each in bins]
        points = calibration.precision_at_recall(fit.calibration.apply(entities.raw), entities.is_right, entities.num_gold)
        described[name]["precision_at_recall"] = [point._asdict() for point in points]
    return described


def evaluate_splits(
    config: Config,
    folder: Path,
    corpus: Corpus,
    model: TrainedModel,
    examples: DatastoreExamples | None,
    watch: Stopwatch,
) -> Evaluation:
    """Tune on dev, label test with what dev chose, and write the predictions of both.

    Dev is searched once: its labels come from the search that tuned.

    Args:
        config: of the run.
        folder: where the datastore is, or is written; receives the predictions.
        corpus: dev and test.
        model: the trained tagger without its parameters.
        examples: what to build the datastore from; None: it is there.
        watch: takes the time of each stage.
    """
    knn_tagger = open_knn_tagger(config, model, folder, examples, watch)
    unseen = check_types([corpus.dev, corpus.test], knn_tagger.label_set, config.data.unseen_types)
    gold_labels = knn_tagger.label_set.union(LabelSet(tuple(unseen)))
    with watch.stage("tokenize"):
        dev, test = (knn_tagger.encode(split.sentences, gold_labels) for split in (corpus.dev, corpus.test))
    with watch.stage("tune"):
        choice = tune(knn_tagger, config, dev, gold_labels, "dev")
    knn_params = choice.trial.knn_params
    with watch.stage("dev"):
        dev_labels = labels_by_vote(choice.retrieved, knn_params)
    with watch.stage("compile"):
        knn_tagger.compile_for(test, knn_params)
    with watch.stage("test"):
        test_labels = knn_tagger.label_split(test, knn_params, with_scores=True)
    with watch.stage("score"):
        scores, tagged, entities = {}, {}, {}
        for name, split, encoded, labels in (
            ("dev", corpus.dev, dev, dev_labels),
            ("test", corpus.test, test, test_labels),
        ):
            tagged[name] = tagged_sentences(split, encoded, gold_labels, labels.tagger, labels.knn, model.tokenizer)
            if is_primary_host():
                write_predictions(folder / "predictions" / f"{name}.conll", tagged[name])
            scores[name] = score_tagged(tagged[name], gold_labels.protocol) | _count_words(encoded)
            scores[name]["partial"] = score_partial_matches(tagged[name], gold_labels.protocol)
    with watch.stage("calibrate"):
        for name, encoded, labels in (("dev", dev, dev_labels), ("test", test, test_labels)):
            assert labels.probabilities is not None
            entities[name] = _predicted_entities(labels.probabilities.p, encoded, tagged[name], gold_labels.protocol)
        described = _calibrate(entities["dev"], entities["test"])
    doubts = _doubts(scores)
    for doubt in doubts:
        logger.warning("%s", doubt)
    result = {
        "protocol": config.protocol,
        "warnings": doubts,
        "selected_on": choice.selected_on,
        "selected": asdict(knn_params),
        "selected_dev_f1": choice.trial.f1,
        "weights": fingerprint(knn_tagger.params),
        "unseen_types": unseen,
        "dev": scores["dev"],
        "test": scores["test"] | _count_searches(test_labels),
        "calibration": described,
        "seconds": dict(watch.seconds),
        "tokens_per_second": scores["test"]["tokens"] / watch.seconds["test"],
        **_describe(corpus, config, knn_tagger),
        **environment(),
        "folder": str(Path.cwd()),  # which relative paths of the configuration are relative to
        "skipped_k": choice.skipped_k,
        "trials": [trial.as_dict() for trial in choice.trials],
    }
    return Evaluation(result, knn_tagger, knn_params, tagged["test"])
