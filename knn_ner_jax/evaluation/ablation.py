"""Computes the cells of a study; whatever is finished is on the disk, and is not computed again.

Dev is searched first, for all cells. Where dev has a choice to make, it is written down; then test is searched, for the
reference and for what dev chose. Cells that share a tagger share its training, cells that share keys one search.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from knn_ner_jax import runs
from knn_ner_jax.config import Config
from knn_ner_jax.data.corpus import Corpus, check_types, find_split, read_corpus, read_splits, resolve_path
from knn_ner_jax.data.encoding import EncodedSplit, encode
from knn_ner_jax.data.labels import LabelSet
from knn_ner_jax.evaluation import opening, scoring, tuning
from knn_ner_jax.evaluation.opening import KnnTagger, Stopwatch
from knn_ner_jax.evaluation.outcomes import Outcome
from knn_ner_jax.evaluation.study import Cell, Study, Values, digest
from knn_ner_jax.evaluation.tuning import Cache, Setting, Trial
from knn_ner_jax.knn.vote import interpolate

FILES = ("study.yaml", "study.environment.json", "taggers", "datastores", "dev", "choices", "test")

Train = Callable[[Config], None]  # trains the tagger of a configuration in its run_dir, or continues


# What is compared, and which labels of an outcome those are; the outcomes of learned mixing are files of their own.
METHODS = {"vanilla": "tagger alone", "knn": "kNN-NER", "learned": "learned mixing"}
_COLUMN = {"gold": "gold", "vanilla": "vanilla", "knn": "knn", "learned": "knn"}


def _folder(split: str, method: str) -> str:
    return f"learned_{split}" if method == "learned" else split


class Corpora:
    """Corpora by folder, each read once."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str, str], Corpus] = {}

    def of(self, config: Config) -> Corpus:
        """The whole corpus of a configuration."""
        data = config.data
        given = data.dir, data.scheme, data.on_error
        if given not in self._read:
            self._read[given] = read_corpus(*given)
            tuning.refuse_test_as_dev(self._read[given].dev, self._read[given].test)
        return self._read[given]

    def fingerprint(self, config: Config) -> list[str]:
        """Hashes of train and dev, and of what else is remembered."""
        corpus, other = self.of(config), config.datastore.corpus
        files = [corpus.train.sha256, corpus.dev.sha256]
        if other is not None:
            path = find_split(resolve_path(other), "train", "datastore.corpus")
            files.append(read_splits({"train": path}, config.data.scheme, config.data.on_error)[0]["train"].sha256)
        return files


@dataclass(frozen=True)
class Opened:
    """Tagger and datastore of some cells.

    Attributes:
        knn_tagger: both.
        corpus: with the shares that the configuration draws.
        protocol: of the configuration.
        unseen_types: see `DataConfig`.
    """

    knn_tagger: KnnTagger
    corpus: Corpus
    protocol: str
    unseen_types: Any

    @cached_property
    def label_set(self) -> LabelSet:
        """Of the gold, which may have types that nothing can predict."""
        known = self.knn_tagger.label_set
        return known.union(LabelSet(tuple(check_types([self.corpus.dev, self.corpus.test], known, self.unseen_types))))

    def encode(self, name: str) -> EncodedSplit:
        """A split with its gold."""
        model = self.knn_tagger.model
        return encode(getattr(self.corpus, name).sentences, model.tokenizer, model.window, self.label_set, model.pinyin)

    def search(self, split: EncodedSplit, metric: str, grids: Sequence[tuning.Grid]) -> Cache:
        """One search that answers for every setting of the grids."""
        finite = [k for grid in grids for k in grid.k if k != "all"]
        temperatures = sorted({value for grid in grids if "all" in grid.k for value in grid.temperature})
        k: tuning.K = max(finite) if finite else "all"
        wanted = temperatures or None
        return tuning.collect(self.knn_tagger.retrieve(split, k, metric, wanted), split.num_words, wanted)


def open_cell(cell: Cell, corpora: Corpora) -> Opened:
    """Builds the datastore of a cell, or finishes building it, and loads it."""
    config, folder = cell.config, Path(cell.config.eval_dir or cell.config.run_dir)
    whole, model = corpora.of(config), runs.TrainedModel.load(Path(config.run_dir))
    remembered = opening.remember(config, whole, model)
    opening.check_settings(config, model, remembered.encoded.num_words)
    built = (folder / "datastore").exists()
    knn_tagger = opening.open_knn_tagger(config, model, folder, None if built else remembered, Stopwatch())
    drawn = whole.draw(config.data.train_share, config.data.dev_share, config.seed)
    return Opened(knn_tagger, drawn, config.protocol, config.data.unseen_types)


def make_outcome(cache: Cache, setting: Setting, split: EncodedSplit, label_set: LabelSet) -> Outcome:
    """The labels of a split under one setting, from what was found."""
    p_knn = tuning.vote(cache, setting)
    mixed = np.asarray(interpolate(jnp.asarray(cache.p_ner), p_knn, setting.knn_weight))
    p_ner, voted, scored = cache.p_ner, np.asarray(p_knn), split.scored
    columns = {
        "sentence_ids": split.sentence_ids,
        "gold": split.label_ids,
        "vanilla": p_ner.argmax(axis=1).astype(np.int32),
        "knn": mixed.argmax(axis=1).astype(np.int32),
        "confidence": p_ner.max(axis=1),
        "voted": voted.argmax(axis=1).astype(np.int32),
        "agreement": voted.max(axis=1),
    }
    return Outcome(label_set.names, **{name: values[scored] for name, values in columns.items()})


def score(outcome: Outcome, protocol: str) -> dict[str, Any]:
    """Scores of both methods (see `scoring.score`)."""
    tags = (outcome.tags(ids) for ids in (outcome.gold, outcome.vanilla, outcome.knn))
    return scoring.score(scoring.Columns((), *tags), protocol)


@dataclass(frozen=True)
class Results:
    """The files of a study.

    Attributes:
        study: whose.
    """

    study: Study

    def path(self, cell: Cell, split: str, suffix: str = ".json") -> Path:
        """The file of a cell's results on a split; `.npz`: its outcome."""
        return self.study.folder / split / f"{cell.key}{suffix}"

    def missing(self, cells: Iterable[Cell], split: str) -> list[Cell]:
        """Those that have no results yet; of cells with one key the first."""
        by_key = {cell.key: cell for cell in reversed(list(cells))}
        return [cell for cell in reversed(by_key.values()) if not self.path(cell, split).exists()]

    def read(self, cell: Cell, split: str) -> dict[str, Any]:
        """A cell's results on a split."""
        return json.loads(self.path(cell, split).read_text(encoding="utf-8"))

    def outcome(self, cell: Cell, split: str) -> Outcome:
        """A cell's labels of a split."""
        return Outcome.load(self.path(cell, split, ".npz"))

    def write(self, cell: Cell, split: str, outcome: Outcome, more: dict[str, Any]) -> None:
        """The outcome first: the results say that all is there."""
        outcome.save(self.path(cell, split, ".npz"))
        varied = {"condition": cell.condition, "choice": cell.choice, "seed": cell.config.seed}
        scores = score(outcome, cell.config.protocol)
        runs.write_json(self.path(cell, split), varied | more | scores | runs.environment())

    def scores(self, cell: Cell, split: str, method: str) -> dict[str, Any] | None:
        """Precision, recall, F1 and `per_type` of a method on a split; None where it has not been computed."""
        path = self.path(cell, _folder(split, method))
        return json.loads(path.read_text(encoding="utf-8"))[_COLUMN[method]] if path.exists() else None

    def tags(self, cell: Cell, split: str, method: str) -> list[list[str]]:
        """The tags that a method, or `gold`, gives the sentences of a split."""
        outcome = self.outcome(cell, _folder(split, method))
        return outcome.tags(getattr(outcome, _COLUMN[method]))

    def choice_path(self, condition: Values) -> Path:
        """Where what dev chose for a condition is written down."""
        return self.study.folder / "choices" / f"{digest(condition)}.json"


def _trial_rows(trials: Sequence[Trial]) -> list[dict[str, object]]:
    return [trial.as_dict() for trial in trials]


def search_dev(opened: Opened, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Chooses k, temperature and knn_weight for cells that share their keys; yields each when it is written."""
    started, split, metric = time.perf_counter(), opened.encode("dev"), str(cells[0].config.knn.metric)
    rows = opened.knn_tagger.num_rows
    grids = [opening.make_grid(cell.config, rows) for cell in cells]
    cache = opened.search(split, metric, grids)
    for cell, grid in zip(cells, grids, strict=True):
        trials = tuning.run_grid(cache, split, opened.label_set, grid, metric)
        best = tuning.select(trials)
        outcome = make_outcome(cache, best.setting, split, opened.label_set)
        facts = {"rows": rows, "dim": opened.knn_tagger.stored.datastore.keys.shape[1], "skipped_k": grid.skipped_k}
        chosen = {"selected": asdict(best.setting), "trials": _trial_rows(trials)}
        results.write(cell, "dev", outcome, facts | chosen | {"seconds": time.perf_counter() - started})
        yield cell


def search_test(opened: Opened, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Labels test with what dev chose, for cells that share their keys; yields each when it is written."""
    started, split = time.perf_counter(), opened.encode("test")
    settings = [Setting(**results.read(cell, "dev")["selected"]) for cell in cells]
    grids = [tuning.Grid((one.k,), (one.temperature,), (one.knn_weight,)) for one in settings]
    cache = opened.search(split, settings[0].metric, grids)
    for cell, setting in zip(cells, settings, strict=True):
        outcome = make_outcome(cache, setting, split, opened.label_set)
        facts = {"selected": asdict(setting), "file": opened.corpus.test.sha256}
        results.write(cell, "test", outcome, facts | {"seconds": time.perf_counter() - started})
        yield cell


def choose(study: Study, results: Results, condition: Values) -> list[Values]:
    """The reference and what dev chose for a condition, by the mean of the seeds' best dev F1; written down before test.

    Returns:
        One or two choices.
    """
    reference, path = study.choices[0], results.choice_path(condition)
    mean_f1 = [
        fmean(results.read(cell, "dev")["knn"]["f1"] for cell in study.seeds_of(condition, choice))
        for choice in study.choices
    ]
    listed = [{"choice": choice, "dev_f1": f1} for choice, f1 in zip(study.choices, mean_f1, strict=True)]
    chosen = study.choices[mean_f1.index(max(mean_f1))]
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, {"condition": condition, "chosen": chosen, "reference": reference, "dev": listed})
    return [reference] if chosen == reference else [reference, chosen]


class Step(NamedTuple):
    """A cell whose results on a split have been written, in words, and how many are left of this part of the study."""

    what: str
    left: int


@dataclass(frozen=True)
class _Computation:
    study: Study
    results: Results
    corpora: Corpora
    train: Train

    def search(self, cells: Sequence[Cell], splits: Sequence[str]) -> Iterator[Step]:
        """Computes what is missing of some splits; a datastore serves all of them and goes when they are done."""
        missing = {split: self.results.missing(cells, split) for split in splits}
        left = sum(map(len, missing.values()))
        for group in self.study.by_keys({cell.key: cell for split in splits for cell in missing[split]}.values()):
            opened = self._open(group[0])
            for split in splits:
                wanted = [cell for cell in missing[split] if cell.keys_key == group[0].keys_key]
                for cell in _SEARCH[split](opened, wanted, self.results) if wanted else ():
                    left -= 1
                    f1 = self.results.read(cell, split)["knn"]["f1"]
                    yield Step(f"{split} {describe(cell)}: strict F1 {f1:.2f}", left)
            if not self.study.config.ablation.keep_datastores:
                shutil.rmtree(Path(group[0].config.eval_dir or "") / "datastore")

    def _open(self, cell: Cell) -> Opened:
        if not (Path(cell.config.run_dir) / "train.json").exists():
            self.train(replace(cell.config, eval_dir=None))
        return open_cell(cell, self.corpora)


_SEARCH = {"dev": search_dev, "test": search_test}


def compute(study: Study, corpora: Corpora, train: Train) -> Iterator[Step]:
    """Computes whatever is missing.

    Args:
        study: what.
        corpora: what it is computed from.
        train: trains a tagger.
    """
    results = Results(study)
    work = _Computation(study, results, corpora, train)
    if len(study.choices) == 1:
        yield from work.search(study.cells, ("dev", "test"))
        return
    yield from work.search(study.cells, ("dev",))
    for_test = [
        cell
        for condition in study.conditions
        for choice in choose(study, results, condition)
        for cell in study.seeds_of(condition, choice)
    ]
    yield from work.search(for_test, ("test",))


def describe(cell: Cell) -> str:
    """`seed 0, data.train_share 0.05`."""
    return ", ".join([f"seed {cell.config.seed}", *(f"{k} {v}" for k, v in (cell.condition | cell.choice).items())])
