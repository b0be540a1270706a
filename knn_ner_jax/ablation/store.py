"""The files of a study: corpora and backbones that it reads, results that it writes, and a log of every search of test.

Test shows how good a tagger is with some neighbours and one setting. Somebody who has seen that, and then changes the study,
may have been led by it: so the log only grows, and the study reports what test was searched for even after `--overwrite`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from knn_ner_jax.ablation.study import Cell, Files, Study, Values, digest
from knn_ner_jax.config import Config, ScratchConfig, flatten
from knn_ner_jax.data.corpus import Corpus, Split, check_dev, read_corpus, read_train, reading
from knn_ner_jax.evaluation import predictions
from knn_ner_jax.evaluation.predictions import METHODS, Predictions
from knn_ner_jax.io import InputError, atomic_path, file_sha256, resolve_path, write_json, write_text
from knn_ner_jax.knn.datastore import check_keys
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.hf_checkpoint import PINYIN_FOLDER
from knn_ner_jax.run_dir import config_to_dict, environment

TEST_LOG = "test_searches.jsonl"
# Written with the extra `report`; which of the plots depends on what there is to show.
TABLES = tuple(f"{name}.{kind}" for name in ("scores", "trials", "breakdown") for kind in ("csv", "parquet"))
PLOTS = tuple(f"{name}.svg" for name in ("curve", "gains", "candidates", "by_k", "surface"))
SCORES = ("precision", "recall", "f1", "f1_default")
# Where the labels of each method are: the prefix of a split's folder, and a field of the predictions in it.
_LABELS = {"gold": ("", "gold"), "tagger": ("", "tagger"), "knn": ("", "knn"), "combiner": ("combiner_", "knn")}

Row = dict[str, Any]  # of a tidy table, by column
Entry = dict[str, Any]  # of the log of searches of test


class Corpora:
    """Corpora and backbones by folder, each read once."""

    def __init__(self) -> None:
        self._corpora: dict[str, Corpus] = {}
        self._datastore_hashes: dict[tuple[str, str], str] = {}
        self._backbones: dict[tuple[str, ScratchConfig], tuple[str, BertConfig]] = {}

    def of(self, config: Config) -> Corpus:
        """Return the whole corpus of a configuration."""
        key = repr((config.data.dir, reading(config.data), config.data.on_error))
        if key not in self._corpora:
            self._corpora[key] = read_corpus(config.data)
            check_dev(self._corpora[key].dev, self._corpora[key].test)
        return self._corpora[key]

    def files(self, config: Config) -> Files:
        """Return hashes of all that a configuration reads.

        Raises:
            InputError: a file is missing, or the backbone does not have the layers or the width of the keys.
        """
        corpus = self.of(config)
        tagger = corpus.train.sha256, corpus.dev.sha256, self._backbone(config)
        return Files(tagger, self._datastore_hash(config), corpus.test.sha256)

    def check_datastore_corpus(self, config: Config, split: Split) -> None:
        """Raise InputError where a datastore would be built from another text than the one in its name."""
        known = self._datastore_hash(config)
        if known and known != (split.sha256,):
            raise InputError(f"datastore.corpus: {split.path}: changed since the study was planned; start again")

    def _datastore_hash(self, config: Config) -> tuple[str, ...]:
        """Return the hash of the train file of `datastore.corpus`, if that is set."""
        folder = config.datastore.corpus
        if folder is None:
            return ()
        key = folder, repr((config.data.dir, reading(config.data), config.data.on_error))
        if key not in self._datastore_hashes:
            self._datastore_hashes[key] = read_train(folder, config.data, "datastore.corpus").sha256
        return (self._datastore_hashes[key],)

    def _backbone(self, config: Config) -> str:
        """Return the hash of a backbone's files, or of a scratch model's vocabulary; check that it has the keys' layers."""
        name, scratch = config.model.backbone, config.model.scratch
        if (name, scratch) not in self._backbones:
            encoder = pretrained.backbone_of(config.model).config
            path = resolve_path(scratch.vocab) if name == "scratch" else pretrained.locate(name)
            files = [[file.name, file_sha256(file)] for file in ([path] if path.is_file() else _files(path))]
            files += [[f"{PINYIN_FOLDER}/{file.name}", file_sha256(file)] for file in _files(path / PINYIN_FOLDER)]
            self._backbones[name, scratch] = digest(files), encoder
        sha256, encoder = self._backbones[name, scratch]
        check_keys(config.datastore, encoder)
        return sha256


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder, if it exists, by name, without those in its folders."""
    return sorted(path for path in folder.glob("*") if path.is_file())


def score_predictions(labels: Predictions, protocol: str) -> dict[str, Any]:
    """Return the scores of both methods (see `predictions.score_tagged`)."""
    tags = (labels.tags(ids) for ids in (labels.gold, labels.tagger, labels.knn))
    return predictions.score_tagged(predictions.TaggedSentences((), *tags), protocol)


@dataclass(frozen=True)
class Results:
    """The results of a study: for every cell and split its scores, and the labels that were scored.

    A split is `dev` or `test`, or `combiner_dev` or `combiner_test` for the labels of the combiner.

    Attributes:
        study: whose.
    """

    study: Study

    @cached_property
    def methods(self) -> dict[str, str]:
        """What the study compares, and what reports call it."""
        name = self.study.combiner_name
        return METHODS if name is None else METHODS | {"combiner": name}

    def path(self, cell: Cell, split: str, suffix: str = ".json") -> Path:
        """Return the file of a cell's results on a split; `.npz`: that of its labels."""
        ids = {
            "dev": cell.dev_id,
            "test": cell.test_id,
            "combiner_dev": cell.combiner_id,
            "combiner_test": cell.combiner_test_id,
        }
        return self.study.folder / split / f"{ids[split]}{suffix}"

    def missing(self, cells: Iterable[Cell], split: str) -> list[Cell]:
        """Return the cells without results; of cells that share them the first."""
        by_path: dict[Path, Cell] = {}
        for cell in cells:
            by_path.setdefault(self.path(cell, split), cell)
        return [cell for path, cell in by_path.items() if not path.exists()]

    def finished(self, cells: Iterable[Cell], split: str) -> list[Cell]:
        """Return the cells with results."""
        return [cell for cell in cells if self.path(cell, split).exists()]

    def read(self, cell: Cell, split: str) -> dict[str, Any]:
        """Read a cell's results on a split."""
        return json.loads(self.path(cell, split).read_text(encoding="utf-8"))

    def predictions(self, cell: Cell, split: str) -> Predictions:
        """Read a cell's labels of a split."""
        return Predictions.load(self.path(cell, split, ".npz"))

    def write(self, cell: Cell, split: str, labels: Predictions, facts: Mapping[str, Any]) -> None:
        """Write labels, their scores and some facts; the labels first, since the results show that all is there."""
        labels.save(self.path(cell, split, ".npz"))
        varied = {"condition": cell.condition, "candidate": cell.candidate, "seed": cell.config.seed}
        scores = score_predictions(labels, cell.config.protocol)
        write_json(self.path(cell, split), varied | dict(facts) | scores | environment())

    def scores(self, cell: Cell, split: str, method: str) -> dict[str, Any] | None:
        """Return precision, recall, F1 and `per_type` of a method on dev or test; None where it has not been computed."""
        prefix, field = _LABELS[method]
        path = self.path(cell, prefix + split)
        return json.loads(path.read_text(encoding="utf-8"))[field] if path.exists() else None

    def tags(self, cell: Cell, split: str, method: str) -> list[list[str]]:
        """Return the tags that a method, or `gold`, gives the sentences of dev or test."""
        prefix, field = _LABELS[method]
        labels = self.predictions(cell, prefix + split)
        return labels.tags(getattr(labels, field))

    def selection_path(self, condition: Values) -> Path:
        """Return where dev's selections for a condition are, by its values as configurations have them: 1 may be 1.0."""
        config = self.study.seeds_of(condition, self.study.candidates[0])[0].config
        read = flatten(config_to_dict(config))
        named = {name: read[name] if read.get(name) == value else value for name, value in condition.items()}
        return self.study.folder / "selected" / f"{digest(named)}.json"

    def selections(self, condition: Values) -> list[dict[str, Any]]:
        """Read what dev has selected for a condition, the latest last."""
        path = self.selection_path(condition)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def for_test(self, condition: Values) -> list[Values]:
        """Return the reference and, once dev has selected another candidate, that one."""
        reference = self.study.candidates[0]
        latest = [selection["selected"] for selection in self.selections(condition)[-1:]]
        return [reference, *(candidate for candidate in latest if candidate != reference)]


def write_selection(results: Results, condition: Values) -> None:
    """Write down what dev selects for a condition, by the mean of the seeds' best dev F1; before test is searched.

    Beside every candidate is what dev selected of k, temperature and knn_weight for each seed. A study that has changed
    since may select again; earlier selections stay in the list. The same selection from the same candidates is written again
    only where seeds have been added.
    """
    dev = [_on_dev(results, condition, candidate) for candidate in results.study.candidates]
    if not any(one["settings"] for one in dev):
        return
    best = max(dev, key=lambda one: one["dev_f1"])["candidate"]
    cells: dict[str, list[str]] = {}
    for candidate in results.study.candidates:
        for cell in results.finished(results.study.seeds_of(condition, candidate), "dev"):
            cells.setdefault(str(cell.config.seed), []).append(cell.dev_id)
    selection = {"condition": condition, "selected": best, "cells": cells, "dev": dev}
    earlier = results.selections(condition)
    if earlier and _same_selection(earlier[-1], selection):
        if cells.keys() <= earlier[-1]["cells"].keys():
            return
        if earlier[-1]["cells"].keys() <= cells.keys():
            earlier.pop()
    path = results.selection_path(condition)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [*earlier, selection])


def _on_dev(results: Results, condition: Values, candidate: Values) -> dict[str, Any]:
    """Return what a selection records of one candidate: of the seeds that have been searched, while others may be left."""
    cells = results.finished(results.study.seeds_of(condition, candidate), "dev")
    by_seed = {str(cell.config.seed): results.read(cell, "dev") for cell in cells}
    f1 = fmean(one["knn"]["f1"] for one in by_seed.values()) if by_seed else 0.0
    return {"candidate": candidate, "dev_f1": f1, "settings": {seed: one["selected"] for seed, one in by_seed.items()}}


def _same_selection(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Return whether the same is selected from the same candidates, and the seeds that both have had the same results."""
    before, after = ((one["selected"], [listed["candidate"] for listed in one["dev"]]) for one in (earlier, later))
    shared = earlier["cells"].keys() & later["cells"].keys()
    return before == after and all(earlier["cells"][seed] == later["cells"][seed] for seed in shared)


def _tagger(cell: Cell) -> str:
    return Path(cell.config.run_dir).name


def _test_result(cell: Cell, setting: Mapping[str, Any] | None) -> str:
    """Return a name of what test is searched for, whatever fields led to it."""
    return cell.combiner_id if setting is None else digest(cell.search_id, setting)


def read_test_log(folder: Path) -> list[Entry]:
    """Read all entries of a study's log, the latest last."""
    path = folder / TEST_LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def log_test_search(results: Results, cell: Cell, setting: Mapping[str, Any] | None) -> None:
    """Write to the log that test is about to be searched for a cell, unless an earlier entry is of the same result.

    Args:
        results: of its study.
        cell: which.
        setting: k, temperature, knn_weight and metric, which dev has selected; None: the combiner.
    """
    entry = {"tagger": _tagger(cell), "result": _test_result(cell, setting), "seed": cell.config.seed}
    entry |= {"condition": cell.condition, "candidate": cell.candidate, "setting": setting}
    if setting is None:
        entry["combiner"] = results.methods["combiner"]
    entries = read_test_log(results.study.folder)
    if entry["result"] not in [earlier["result"] for earlier in entries]:
        lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in (*entries, entry))
        write_text(results.study.folder / TEST_LOG, "".join(lines))


def no_longer_shown(results: Results) -> list[Entry]:
    """Return entries of the log with taggers of a study whose results the study as it is now does not show."""
    study, shown = results.study, set[str]()
    for condition in study.conditions:
        for candidate in results.for_test(condition):
            for cell in results.finished(study.seeds_of(condition, candidate), "dev"):
                shown.add(_test_result(cell, results.read(cell, "dev")["selected"]))
                if study.config.ablation.combiner is not None:
                    shown.add(_test_result(cell, None))
    taggers = set(map(_tagger, study.cells))
    return [entry for entry in read_test_log(study.folder) if entry["tagger"] in taggers and entry["result"] not in shown]


def plain_values(values: Values) -> Row:
    """Return values that fit a column: a list as its JSON."""
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in values.items()}


def _varied(cell: Cell) -> Row:
    return plain_values(cell.condition | cell.candidate) | {"seed": cell.config.seed}


def _with_text_k(setting: Row) -> Row:
    k = setting["k"]
    return setting | {"k": None if k is None else str(k)}


def score_rows(results: Results) -> list[Row]:
    """Return a row for every score that has been computed; k is text, because it may be `all`."""
    rows = []
    for cell in results.study.cells:
        for split in ("dev", "test"):
            for method, name in results.methods.items():
                scores = results.scores(cell, split, method)
                if scores is not None:
                    numbers = {score: scores.get(score) for score in SCORES}
                    setting = results.read(cell, split)["selected"] if method == "knn" else {}
                    selected = {field: setting.get(field) for field in ("k", "temperature", "knn_weight", "metric")}
                    shown = name if method == "combiner" else method
                    rows.append(_varied(cell) | {"split": split, "method": shown} | numbers | _with_text_k(selected))
    return rows


def trial_rows(results: Results) -> Iterator[Row]:
    """Yield a row for every setting that was tried on dev, and for every trial of the combiner."""
    for cell in results.study.cells:
        if results.path(cell, "dev").exists():
            for trial in results.read(cell, "dev")["trials"]:
                yield _varied(cell) | {"method": "knn"} | _with_text_k(trial)
        if "combiner" in results.methods and results.path(cell, "combiner_dev").exists():
            for trial in results.read(cell, "combiner_dev").get("trials", ()):
                yield _varied(cell) | {"method": results.methods["combiner"]} | trial


def write_table(rows: Iterable[Row], path: Path) -> None:
    """Write `path`.csv and `path`.parquet, each whole or not at all."""
    import pyarrow
    from pyarrow import csv, parquet

    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in row))
    table = pyarrow.table({name: pyarrow.array(_of_one_type([row.get(name) for row in listed])) for name in names})
    for suffix, write in ((".csv", csv.write_csv), (".parquet", parquet.write_table)):
        with atomic_path(path.with_suffix(suffix)) as part:
            write(table, part)


def _of_one_type(column: list[Any]) -> list[Any]:
    """Return a column of numbers where all are numbers, of text otherwise; None stays."""
    values = [value for value in column if value is not None]
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if are_numbers and any(isinstance(value, float) for value in values):
        return [None if value is None else float(value) for value in column]
    return column if are_numbers else [None if value is None else str(value) for value in column]
