"""Choosing settings on dev, tagging dev and test with them, and all that eval.json says."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import PreTrainedTokenizerBase

from knn_ner_jax.config import Config, as_list
from knn_ner_jax.data.batching import BatchPlan, placed_batches
from knn_ner_jax.data.corpus import Corpus, Split, check_types
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit, encode
from knn_ner_jax.evaluation import predictions, tuning
from knn_ner_jax.io import InputError
from knn_ner_jax.knn_tagger import DatastoreExamples, KnnTagger, Stopwatch, make_grid, open_knn_tagger
from knn_ner_jax.models.pretrained import fingerprint
from knn_ner_jax.report.explorer import Explorer, explore
from knn_ner_jax.run_dir import TrainedModel, environment
from knn_ner_jax.sharding import is_primary_host


@dataclass(frozen=True)
class TuningResult:
    """What dev chose.

    Attributes:
        trial: the setting and its dev F1.
        selected_on: `dev`, `published` (`knn.selection`), or `config` where there was nothing to choose from.
        trials: all that were scored.
        skipped_k: neighbours that were asked for and exceed the rows.
    """

    trial: tuning.Trial
    selected_on: str
    trials: tuple[tuning.Trial, ...]
    skipped_k: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """What eval.json says first of it."""
        setting = asdict(self.trial.setting)
        return {"selected_on": self.selected_on, "selected": setting, "selected_dev_f1": self.trial.f1}


def tune(knn_tagger: KnnTagger, config: Config, split: EncodedSplit, label_set: LabelSet, split_name: str) -> TuningResult:
    """Chooses k, temperature, knn_weight and metric; one search for each metric.

    Args:
        knn_tagger: tagger and datastore.
        config: `config.knn` is the grid.
        split: encoded dev.
        label_set: gold labels included.
        split_name: must be `dev`.

    Raises:
        InputError: every k exceeds the rows, or the split is not dev.
    """
    tuning.refuse_all_but_dev(split_name)
    grid = make_grid(config, knn_tagger.num_rows)
    temperatures = grid.temperature if "all" in grid.k else None
    trials: list[tuning.Trial] = []
    for metric in as_list(config.knn.metric):
        found = knn_tagger.retrieve(split, grid.largest_k, metric, temperatures)
        trials += tuning.run_grid(tuning.collect(found, split.num_words, temperatures), split, label_set, grid, metric)
    selection = config.knn.selection
    selected_on = "config" if selection == "dev" and len(trials) == 1 else selection
    return TuningResult(tuning.select(trials), selected_on, tuple(trials), grid.skipped_k)


def compile_for(knn_tagger: KnnTagger, setting: tuning.KnnParams, splits: Sequence[EncodedSplit]) -> int:
    """Compiles the program for every batch shape of the splits, so that what follows is timed without it.

    Returns:
        The words of the largest split, for which there is room in what has been compiled.
    """
    room = max(split.num_words for split in splits)
    for length in sorted({plan.length for split in splits for plan in knn_tagger.plan(split)}):
        empty = BatchPlan(np.empty(0, np.int64), length)
        for batch in placed_batches(splits[0], [empty], knn_tagger.batch_size, knn_tagger.mesh):
            jax.block_until_ready(knn_tagger.tag(knn_tagger.begin(room), setting, batch, False))
    return room


@dataclass(frozen=True)
class LabelIds:
    """Label ids of every word of a split, in order.

    Attributes:
        tagger: the tagger's.
        knn: with neighbours.
        scouted: words looked up among the scouts, a few rows that settle most of them; 0 at weights below one half.
        at_border: words looked up among the rows of the border, who settle most others.
        searched: words looked up among all.
        again: of these, words for which a scan in bfloat16 did not do (see `search.search`).
        within_rounding: of these, words whose label rounding may change (see `similarity.summation_error`).
    """

    tagger: np.ndarray
    knn: np.ndarray
    scouted: int
    at_border: int
    searched: int
    again: int
    within_rounding: int


def tag_split(knn_tagger: KnnTagger, setting: tuning.KnnParams, split: EncodedSplit, room: int) -> LabelIds:
    """Labels every word; the host only waits at the end.

    Args:
        knn_tagger: tagger and datastore.
        setting: of the vote.
        split: at most `room` words.
        room: see `compile_for`.
    """
    tagging, left = knn_tagger.begin(room), len(knn_tagger.plan(split))
    for batch in knn_tagger.batches(split):
        left -= 1
        tagging = knn_tagger.tag(tagging, setting, batch, left == 0)
    asked = (queue.asked for queue in (tagging.for_scouts, tagging.for_border, tagging.for_all))
    of_all = tagging.for_all.again, tagging.for_all.within_rounding
    tagger, knn, *counts = jax.device_get((tagging.tagger, tagging.knn, *asked, *of_all))
    return LabelIds(tagger[: split.num_words], knn[: split.num_words], *map(int, counts))


def describe(corpus: Corpus, config: Config, knn_tagger: KnnTagger) -> dict[str, Any]:
    """What was evaluated: data read and left out, datastore, device."""
    splits = corpus.splits
    store, panels = knn_tagger.stored, knn_tagger.panels
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
            "scouts": 0 if panels is None else len(panels.scouts.rows.values),
            "border": 0 if panels is None else len(panels.border.rows.values),
            "source": asdict(store.source),
        },
        "search_dtype": knn_tagger.spec.search_dtype,
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
    }


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        result: the content of eval.json.
        explorer: of test, or None.
        why_no_explorer: where one was wanted and there is none.
    """

    result: dict[str, Any]
    explorer: Explorer | None = None
    why_no_explorer: str = ""


def _explore(
    knn_tagger: KnnTagger, setting: tuning.KnnParams, test: predictions.TaggedSentences
) -> tuple[Explorer | None, str]:
    try:
        return explore(knn_tagger, setting, test, "test"), ""
    except InputError as error:  # the scores stand without
        return None, str(error)


def _score(
    file: Path,
    split: Split,
    encoded: EncodedSplit,
    tagged: LabelIds,
    gold_labels: LabelSet,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[predictions.TaggedSentences, dict[str, Any]]:
    """Writes the predictions of a split; returns them and what eval.json says of it."""
    columns = predictions.tagged_sentences(split, encoded, gold_labels, tagged.tagger, tagged.knn, tokenizer)
    if is_primary_host():
        predictions.write_predictions(file, columns)
    return columns, predictions.score_tagged(columns, gold_labels.protocol) | _counts(encoded, tagged)


def _counts(split: EncodedSplit, tagged: LabelIds) -> dict[str, int]:
    return {
        "words": split.num_words,
        "words_scouted": tagged.scouted,
        "words_at_border": tagged.at_border,
        "words_searched": tagged.searched,
        "words_searched_again": tagged.again,
        "words_within_rounding": tagged.within_rounding,
        "tokens": int(split.lengths.sum()),
        "num_empty_words": split.num_empty_words,
        "num_long_sentences": split.num_long_sentences,
    }


def evaluate_splits(
    config: Config,
    folder: Path,
    corpus: Corpus,
    model: TrainedModel,
    remembered: DatastoreExamples | None,
    explores: bool = False,
) -> Evaluated:
    """Tunes on dev, tags dev and test with what dev chose, writes the predictions.

    Args:
        config: of the run.
        folder: where the datastore is, or is written; receives the predictions.
        corpus: dev and test.
        model: what was trained.
        remembered: what the datastore is built from; None: it is there.
        explores: also look up the words of test that neighbours changed, for a page.
    """
    watch = Stopwatch()
    knn_tagger = open_knn_tagger(config, model, folder, remembered, watch)
    unseen = check_types([corpus.dev, corpus.test], knn_tagger.label_set, config.data.unseen_types)
    gold_labels = knn_tagger.label_set.union(LabelSet(tuple(unseen)))
    with watch.stage("tokenize"):
        encoded = {
            name: encode(getattr(corpus, name).sentences, model.tokenizer, model.max_length, gold_labels, model.pinyin)
            for name in ("dev", "test")
        }
    with watch.stage("tune"):
        choice = tune(knn_tagger, config, encoded["dev"], gold_labels, "dev")
    setting = choice.trial.setting
    with watch.stage("compile"):
        room = compile_for(knn_tagger, setting, list(encoded.values()))
    weights = fingerprint(knn_tagger.params)
    result = {"protocol": config.protocol, **choice.as_dict(), "weights": weights, "unseen_types": unseen}
    columns: dict[str, predictions.TaggedSentences] = {}
    for name, split in encoded.items():
        with watch.stage(name):
            tagged = tag_split(knn_tagger, setting, split, room)
        with watch.stage("score"):
            file, gold = folder / "predictions" / f"{name}.conll", getattr(corpus, name)
            columns[name], result[name] = _score(file, gold, split, tagged, gold_labels, model.tokenizer)
    with watch.stage("explore"):
        explored = _explore(knn_tagger, setting, columns["test"]) if explores else (None, "")
    result["seconds"] = watch.seconds
    result["tokens_per_second"] = result["test"]["tokens"] / watch.seconds["test"]
    result |= describe(corpus, config, knn_tagger) | environment()
    result |= {"skipped_k": choice.skipped_k, "trials": [trial.as_dict() for trial in choice.trials]}
    return Evaluated(result, *explored)
