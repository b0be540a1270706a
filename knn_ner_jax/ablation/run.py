"""What is computed for the cells of a study that share their keys: one search of a split serves them all.

Computes the cells of a study; whatever is finished is on the disk, and is not computed again.

Dev is searched first, for all cells. Where dev has a choice to make, it is written down; then test is searched, for the
reference and for what dev chose. Cells that share a tagger share its training, cells that share keys one search.

"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from knn_ner_jax.ablation import store
from knn_ner_jax.ablation.store import PLOTS, TABLES, Results
from knn_ner_jax.ablation.study import Cell, Corpora, Study, Values, describe
from knn_ner_jax.config import Config, as_list
from knn_ner_jax.contrib import adaptive
from knn_ner_jax.contrib.adaptive import Fitted, MixingSettings, fit, settings_for
from knn_ner_jax.contrib.leave_one_out import number_sentences, retrieve_others
from knn_ner_jax.data.corpus import Corpus, check_types
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit, encode
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.evaluation.predictions import Predictions
from knn_ner_jax.io import exclusive_lock, write_json
from knn_ner_jax.knn.combine import Cache, KnnParams
from knn_ner_jax.knn.examples import check_keys, select_datastore_examples
from knn_ner_jax.knn_tagger import KnnTagger, Stopwatch, open_knn_tagger
from knn_ner_jax.run_dir import TrainedModel, check_corpus


@dataclass(frozen=True)
class Opened:
    """Tagger and datastore of some cells.

    Attributes:
        knn_tagger: both.
        corpus: with the shares that the configuration draws.
        row_numbers: of the sentence of each row (see `own_rows.number_sentences`).
        train_numbers: of each sentence of train.
        unseen_types: see `DataConfig`.
        metric: of every search.
        least_k: neighbours that every search keeps at least, for whoever asks next.
        found: by every search so far, by split.
    """

    knn_tagger: KnnTagger
    corpus: Corpus
    row_numbers: Int[np.ndarray, " rows"]
    train_numbers: Int[np.ndarray, " sentences"]
    unseen_types: Literal["error", "miss"]
    metric: str
    least_k: int = 0
    found: dict[str, Cache] = field(default_factory=dict)

    @cached_property
    def label_set(self) -> LabelSet:
        """Of the gold, which may have types that nothing can predict."""
        known = self.knn_tagger.label_set
        return known.union(LabelSet(tuple(check_types([self.corpus.dev, self.corpus.test], known, self.unseen_types))))

    def encode(self, name: str) -> EncodedSplit:
        """A split with its gold."""
        model = self.knn_tagger.model
        return encode(getattr(self.corpus, name).sentences, model.tokenizer, model.max_length, self.label_set, model.pinyin)

    def search(self, name: str, split: EncodedSplit, k: int, temperatures: Sequence[float] = ()) -> Cache:
        """Neighbours of every word of a split; where an earlier search has them they are not looked for again.

        Args:
            name: of the split.
            split: its words.
            k: neighbours needed; 0: none.
            temperatures: of the shares of all rows needed.
        """
        if not _answers(self.found.get(name), k, temperatures):
            wanted, width = list(temperatures) or None, max(k, self.least_k)
            self.found[name] = self.knn_tagger.retrieve(split, width or "all", self.metric, wanted)
        return self.found[name]

    def search_for(self, name: str, split: EncodedSplit, grids: Sequence[tuning.Grid]) -> Cache:
        """One search that answers for every setting of the grids."""
        k = max((k for grid in grids for k in grid.k if k != "all"), default=0)
        temperatures = sorted({value for grid in grids if "all" in grid.k for value in grid.temperature})
        return self.search(name, split, k, temperatures)


def _answers(cache: Cache | None, k: int, temperatures: Sequence[float]) -> bool:
    if cache is None:
        return False
    held = 0 if cache.similarities is None else cache.similarities.shape[1]
    return k <= held and set(temperatures) <= set(cache.temperatures)


def delete_datastore(cell: Cell) -> None:
    """Deletes the datastore of a cell, if there is one; a process that dies here leaves a whole one, or none of its name."""
    gone = cell.folder.with_suffix(".gone")
    if gone.exists():  # a process died here
        shutil.rmtree(gone)
    if cell.folder.exists():
        cell.folder.rename(gone)
        shutil.rmtree(gone)


def open_cell(cell: Cell, corpora: Corpora) -> Opened:
    """Builds the datastore of a cell, or finishes building it, and loads it.

    Raises:
        InputError: a file has changed since the study was planned, whose cells are named by what it was then.
    """
    config, run_dir = cell.config, Path(cell.config.run_dir)
    whole, model = corpora.of(config), TrainedModel.load(run_dir)
    trained = json.loads((run_dir / "corpus.json").read_text(encoding="utf-8"))
    check_corpus(trained, {"train": whole.train, "dev": whole.dev}, f"delete {run_dir} and start again")
    remembered = select_datastore_examples(config, whole, model)
    corpora.check_remembered(config, remembered.split)
    check_keys(config, model.tagger.config)
    tuning.make_grid(config.knn, remembered.encoded.num_words)
    built = (cell.folder / "datastore").exists()
    knn_tagger = open_knn_tagger(config, model, cell.folder, None if built else remembered, Stopwatch())
    drawn = whole.draw(config.data.train_fraction, config.data.dev_fraction, config.seed)
    numbers = number_sentences(remembered, drawn.train.sentences)
    return Opened(knn_tagger, drawn, *numbers, config.data.unseen_types, as_list(config.knn.metric)[0])


def make_outcome(
    p_ner: Float[np.ndarray, "words labels"],
    p_knn: Float[np.ndarray, "words labels"],
    mixed: Float[np.ndarray, "words labels"],
    split: EncodedSplit,
    label_set: LabelSet,
) -> Predictions:
    """The labels of a split.

    Args:
        p_ner: the tagger's probabilities.
        p_knn: those of the neighbours.
        mixed: those of both.
        split: gold labels.
        label_set: of the gold.
    """
    columns = {
        "sentence_ids": split.sentence_ids,
        "gold": split.label_ids,
        "tagger": p_ner.argmax(axis=1).astype(np.int32),
        "knn": mixed.argmax(axis=1).astype(np.int32),
        "confidence": p_ner.max(axis=1),
        "voted": p_knn.argmax(axis=1).astype(np.int32),
        "agreement": p_knn.max(axis=1),
    }
    return Predictions(label_set.names, **{name: values[split.is_scored] for name, values in columns.items()})


def _by_setting(opened: Opened, cache: Cache, setting: KnnParams, split: EncodedSplit) -> Predictions:
    labels = opened.knn_tagger.label_split(split, setting, cache)
    return make_outcome(labels.p_ner, labels.p_knn, labels.p, split, opened.label_set)


def search_dev(opened: Opened, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Chooses k, temperature and knn_weight for cells that share their keys; yields each when it is written."""
    started, split = time.perf_counter(), opened.encode("dev")
    rows = opened.knn_tagger.num_rows
    grids = [tuning.make_grid(cell.config.knn, rows) for cell in cells]
    cache = opened.search_for("dev", split, grids)
    for cell, grid in zip(cells, grids, strict=True):
        trials = tuning.run_grid(cache, split, opened.label_set, grid, opened.metric)
        best = tuning.select(trials)
        outcome = _by_setting(opened, cache, best.knn_params, split)
        facts = {"rows": rows, "dim": opened.knn_tagger.stored.datastore.keys.shape[1], "skipped_k": grid.skipped_k}
        chosen = {"selected": asdict(best.knn_params), "trials": [trial.as_dict() for trial in trials]}
        results.write(cell, "dev", outcome, facts | chosen | {"seconds": time.perf_counter() - started})
        yield cell


def search_test(opened: Opened, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Labels test with what dev chose, for cells that share their keys; yields each when it is written."""
    started, split = time.perf_counter(), opened.encode("test")
    settings = [KnnParams(**results.read(cell, "dev")["selected"]) for cell in cells]
    grids = [tuning.Grid((one.k,), (one.temperature,), (one.knn_weight,)) for one in settings]
    for cell, setting in zip(cells, settings, strict=True):
        store.note_opened(results, cell, asdict(setting))
    cache = opened.search_for("test", split, grids)
    for cell, setting in zip(cells, settings, strict=True):
        outcome = _by_setting(opened, cache, setting, split)
        facts = {"selected": asdict(setting), "file": opened.corpus.test.sha256}
        results.write(cell, "test", outcome, facts | {"seconds": time.perf_counter() - started})
        yield cell


def mixing_settings(opened: Opened, cell: Cell) -> MixingSettings:
    """As `settings_for` says, with fewer neighbours where a small datastore has not enough rows of other sentences."""
    settings = settings_for(cell.config.knn)
    own = int(np.bincount(opened.row_numbers).max())
    most = min(settings.k, max(opened.knn_tagger.num_rows - own, 1))
    return replace(settings, k=1 << (most.bit_length() - 1))


def _outcome(opened: Opened, fitted: Fitted, cache: Cache, split: EncodedSplit) -> tuple[Predictions, float]:
    """Labels of a split, and the mean share of the tagger."""
    mixed = adaptive.predict(fitted.mixer, cache)
    p, own = np.asarray(mixed.probabilities), np.asarray(mixed.shares)[:, :1]
    p_knn = (p - own * cache.p_ner) / np.maximum(1 - own, np.finfo(np.float32).tiny)
    return make_outcome(cache.p_ner, p_knn.clip(0, 1), p, split, opened.label_set), float(own.mean())


def search_learned(opened: Opened, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Fits mixers on train, without the rows of a word's own sentence, and labels dev and test with them.

    Writes dev first; yields each cell when its test is written.
    """
    started, k = time.perf_counter(), mixing_settings(opened, cells[0]).k
    train, dev, test = (opened.encode(name) for name in ("train", "dev", "test"))
    numbers = opened.row_numbers, opened.train_numbers[train.sentence_ids]
    train_cache = retrieve_others(opened.knn_tagger, train, *numbers, k, opened.metric)
    for cell in cells:
        store.note_opened(results, cell, None)
    caches = [opened.search(name, split, k) for name, split in (("dev", dev), ("test", test))]
    key = jax.random.key(cells[0].config.seed)
    for cell in cells:
        settings = mixing_settings(opened, cell)
        fitted = fit(train_cache, train.label_ids, caches[0], dev, opened.label_set, settings, key)
        facts = {
            "selected": fitted.trial.as_dict() | {"k": k},
            "trials": [trial.as_dict() for trial in fitted.trials],
            "left_out": fitted.left_out,
        }
        for name, split, cache in (("dev", dev, caches[0]), ("test", test, caches[1])):
            outcome, own = _outcome(opened, fitted, cache, split)
            taken = {"mean_share_of_the_tagger": own, "seconds": time.perf_counter() - started}
            results.write(cell, f"learned_{name}", outcome, facts | taken)
        yield cell


FILES = (
    *("study.yaml", "study.environment.json", "taggers", "datastores", "dev", "choices", "test"),
    *("learned_dev", "learned_test", "compiled", "summary.md", "report.html"),
    *TABLES,
    *PLOTS,
)

# Every group compiles programs of its own shapes, and hundreds of them use up the memory maps that a process may have.
GROUPS_COMPILED = 16  # whose programs are kept in memory

Train = Callable[[Config], None]  # trains the tagger of a configuration in its run_dir, or continues


def choose(results: Results, condition: Values) -> None:
    """Writes down what dev chooses for a condition, by the mean of the seeds' best dev F1; before test is searched.

    With every choice stands what dev chose of k, temperature and knn_weight for each seed. A study that has changed since
    may choose again; what was chosen before stays in the list. The same choice among the same ones is written again only
    where seeds have been added.
    """
    dev = [_on_dev(results, condition, choice) for choice in results.study.candidates]
    if not any(one["settings"] for one in dev):
        return
    chosen = max(dev, key=lambda one: one["dev_f1"])["choice"]
    cells: dict[str, list[str]] = {}
    for choice in results.study.candidates:
        for cell in results.searched(results.study.seeds_of(condition, choice), "dev"):
            cells.setdefault(str(cell.config.seed), []).append(cell.key)
    made = {"condition": condition, "chosen": chosen, "cells": cells, "dev": dev}
    earlier = results.choices_made(condition)
    if earlier and _same_selection(earlier[-1], made):
        if cells.keys() <= earlier[-1]["cells"].keys():
            return
        if earlier[-1]["cells"].keys() <= cells.keys():
            earlier.pop()
    path = results.choice_path(condition)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [*earlier, made])


def _on_dev(results: Results, condition: Values, choice: Values) -> dict[str, Any]:
    """What a record says of one choice: of the seeds that have been searched, while others may be left."""
    cells = results.searched(results.study.seeds_of(condition, choice), "dev")
    read = {str(cell.config.seed): results.read(cell, "dev") for cell in cells}
    f1 = fmean(one["knn"]["f1"] for one in read.values()) if read else 0.0
    return {"choice": choice, "dev_f1": f1, "settings": {seed: one["selected"] for seed, one in read.items()}}


def _same_selection(earlier: dict[str, Any], made: dict[str, Any]) -> bool:
    """Whether the same is chosen among the same choices, and the seeds that both have had the same results to go by.

    Records without `cells`, of earlier versions, do not say what they went by.
    """
    if "cells" not in earlier:
        return False
    was, is_ = ((one["chosen"], [listed["choice"] for listed in one["dev"]]) for one in (earlier, made))
    shared = earlier["cells"].keys() & made["cells"].keys()
    return was == is_ and all(earlier["cells"][seed] == made["cells"][seed] for seed in shared)


class Step(NamedTuple):
    """A cell whose results on a split have been written.

    Attributes:
        what: in words.
        cell: which.
        left: how many are known to be left.
        ends_seed: nothing is left of its seed for now.
    """

    what: str
    cell: Cell
    left: int
    ends_seed: bool


@dataclass(frozen=True)
class _Computation:
    study: Study
    results: Results
    corpora: Corpora
    train: Train

    def search(self, cells: Sequence[Cell], kinds: Sequence[str]) -> Iterator[Step]:
        """Computes what is missing of some kinds; a datastore serves all of them and goes when they are done."""
        missing = {kind: self.results.missing(cells, _WRITES[kind]) for kind in kinds}
        left = sum(map(len, missing.values()))
        groups = self.study.by_keys({cell.key: cell for kind in kinds for cell in missing[kind]}.values())
        for number, (group, following) in enumerate(zip_longest(groups, groups[1:]), start=1):
            opened = self._open(group[0])
            if "learned" in kinds:
                opened = replace(opened, least_k=mixing_settings(opened, group[0]).k)
            wanted = {kind: [cell for cell in missing[kind] if cell.keys_key == group[0].keys_key] for kind in kinds}
            left_after = left - sum(map(len, wanted.values()))
            last_of_seed = following is None or following[0].config.seed != group[0].config.seed
            for kind, asked in wanted.items():
                for cell in _SEARCH[kind](opened, asked, self.results) if asked else ():
                    left -= 1
                    f1 = self.results.read(cell, _WRITES[kind])["knn"]["f1"]
                    what = f"{kind} {describe(cell)}: strict F1 {f1:.2f}"
                    yield Step(what, cell, left, last_of_seed and left == left_after)
            shared = following is not None and following[0].folder == group[0].folder
            if not (shared or self.study.config.ablation.keep_datastores):
                delete_datastore(group[0])
            if number % GROUPS_COMPILED == 0:
                jax.clear_caches()

    def _open(self, cell: Cell) -> Opened:
        folder = Path(cell.config.run_dir)
        if not (folder / "train.json").exists():
            with exclusive_lock(folder, wait=True):  # of another study that shares the tagger, which may train it meanwhile
                self.train(cell.config)
        return open_cell(cell, self.corpora)


_SEARCH = {"dev": search_dev, "test": search_test, "learned": search_learned}
_WRITES = {"dev": "dev", "test": "test", "learned": "learned_test"}  # what says that a search is done


def _kinds_on_test(study: Study) -> tuple[str, ...]:
    return ("test", "learned") if study.config.ablation.adaptive else ("test",)


def count_missing(results: Results) -> int:
    """How many results are known to be missing; those on test of a choice that dev may yet make are not."""
    study = results.study
    missing = len(results.missing(study.cells, "dev"))
    if not study.config.ablation.stop_before_test:
        references = [cell for cell in study.cells if cell.candidate == study.candidates[0]]
        missing += sum(len(results.missing(references, _WRITES[kind])) for kind in _kinds_on_test(study))
    return missing


def compute(study: Study, corpora: Corpora, train: Train) -> Iterator[Step]:
    """Computes whatever is missing.

    Args:
        study: what.
        corpora: what it is computed from.
        train: trains a tagger.
    """
    results = Results(study)
    work = _Computation(study, results, corpora, train)
    if len(study.candidates) == 1 and not study.config.ablation.stop_before_test:
        yield from _one_choice(work)
        return
    on_dev = len(results.missing(study.cells, "dev"))
    then = count_missing(results) - on_dev  # and, perhaps, those of other choices
    for step in work.search(study.cells, ("dev",)):
        yield step._replace(left=step.left + then)
    for condition in study.conditions:
        choose(results, condition)
    if study.config.ablation.stop_before_test:
        return
    for_test = [
        cell
        for condition in study.conditions
        for choice in results.for_test(condition)
        for cell in study.seeds_of(condition, choice)
    ]
    yield from work.search(for_test, _kinds_on_test(study))


def _one_choice(work: _Computation) -> Iterator[Step]:
    """Seed by seed, one datastore for dev and test: what dev chose for a seed is written before test is opened for it."""
    study, results = work.study, work.results
    for condition in study.conditions:
        choose(results, condition)  # where a process died before it had written it
    for step in work.search(study.cells, ("dev", *_kinds_on_test(study))):
        for cell in study.cells:
            if cell.key == step.cell.key:  # conditions may share a result
                choose(results, cell.condition)
        yield step
