"""Compute the cells of a study; whatever is finished is on the disk, and is not computed again.

Dev is searched first, for all cells. Where dev selects a candidate, that is written down; then test is searched, for the
reference and for what dev selected. Cells that share a tagger share its training, cells that share keys one search.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from knn_ner_jax.ablation.store import PLOTS, TABLES, Corpora, Results, log_test_search, write_selection
from knn_ner_jax.ablation.study import Cell, Study, describe, load_combiner
from knn_ner_jax.config import Config, as_list
from knn_ner_jax.contrib.combiner import Combiner, LabelledWords, RetrievedWords
from knn_ner_jax.data.corpus import Corpus, check_types
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.evaluation.leave_one_out import number_sentences, retrieve_others
from knn_ner_jax.evaluation.predictions import Predictions
from knn_ner_jax.io import exclusive_lock
from knn_ner_jax.knn.combine import Cache, KnnParams, labels_by_vote
from knn_ner_jax.knn.datastore import check_keys
from knn_ner_jax.knn.examples import select_datastore_examples
from knn_ner_jax.knn_tagger import KnnTagger, open_knn_tagger
from knn_ner_jax.run_dir import Stopwatch, TrainedModel, check_corpus

FILES = (
    *("study.yaml", "study.environment.json", "taggers", "datastores", "dev", "selected", "test"),
    *("combiner_dev", "combiner_test", "summary.md", "report.html"),
    *TABLES,
    *PLOTS,
)

# Every group compiles programs of its own shapes, and hundreds of them use up the memory maps that a process may have.
GROUPS_COMPILED = 16  # whose programs are kept in memory

Train = Callable[[Config], None]  # trains the tagger of a configuration in its run_dir, or continues


@dataclass(frozen=True)
class Searcher:
    """Tagger and datastore of some cells, and what has been retrieved with them.

    Attributes:
        knn_tagger: both.
        corpus: with the fractions that the configuration draws.
        row_numbers: of the sentence of each row (see `leave_one_out.number_sentences`).
        train_numbers: of each sentence of train.
        unseen_types: see `DataConfig`.
        metric: of every search.
        least_k: neighbours that every search keeps at least, for later ones.
        caches: of every search so far, by split.
    """

    knn_tagger: KnnTagger
    corpus: Corpus
    row_numbers: Int[np.ndarray, " rows"]
    train_numbers: Int[np.ndarray, " sentences"]
    unseen_types: Literal["error", "miss"]
    metric: str
    least_k: int = 0
    caches: dict[str, Cache] = field(default_factory=dict)

    @cached_property
    def label_set(self) -> LabelSet:
        """Labels of the gold, which may have types that nothing can predict."""
        known = self.knn_tagger.label_set
        return known.union(LabelSet(tuple(check_types([self.corpus.dev, self.corpus.test], known, self.unseen_types))))

    def encode(self, name: str) -> EncodedSplit:
        """Encode a split with its gold."""
        return self.knn_tagger.encode(getattr(self.corpus, name).sentences, self.label_set)

    def search(self, name: str, split: EncodedSplit, k: int, temperatures: Sequence[float] = ()) -> Cache:
        """Retrieve neighbours of every word of a split, unless an earlier search has them.

        Args:
            name: of the split.
            split: its words.
            k: neighbours needed; 0: none.
            temperatures: for which the probabilities by all rows are needed.
        """
        if not _is_enough(self.caches.get(name), k, temperatures):
            by_all, width = list(temperatures) or None, max(k, self.least_k)
            self.caches[name] = self.knn_tagger.retrieve(split, width or "all", self.metric, by_all)
        return self.caches[name]

    def search_for(self, name: str, split: EncodedSplit, grids: Sequence[tuning.Grid]) -> Cache:
        """Retrieve once what all settings of some grids need."""
        k = max((k for grid in grids for k in grid.k if k != "all"), default=0)
        temperatures = sorted({value for grid in grids if "all" in grid.k for value in grid.temperature})
        return self.search(name, split, k, temperatures)


def _is_enough(cache: Cache | None, k: int, temperatures: Sequence[float]) -> bool:
    if cache is None:
        return False
    width = 0 if cache.similarities is None else cache.similarities.shape[1]
    return k <= width and set(temperatures) <= set(cache.temperatures)


def delete_datastore(cell: Cell) -> None:
    """Delete the datastore of a cell, if there is one; a process that dies here leaves a whole one, or none of its name."""
    doomed = cell.folder.with_suffix(".gone")
    if doomed.exists():  # a process died here
        shutil.rmtree(doomed)
    if cell.folder.exists():
        cell.folder.rename(doomed)
        shutil.rmtree(doomed)


def open_cell(cell: Cell, corpora: Corpora) -> Searcher:
    """Build the datastore of a cell, or finish building it, and load it.

    Raises:
        InputError: a file has changed since the study was planned, whose cells are named by what it was then.
    """
    config, run_dir = cell.config, Path(cell.config.run_dir)
    whole, model = corpora.of(config), TrainedModel.load(run_dir)
    trained_on = json.loads((run_dir / "corpus.json").read_text(encoding="utf-8"))
    check_corpus(trained_on, {"train": whole.train, "dev": whole.dev}, f"delete {run_dir} and start again")
    examples = select_datastore_examples(config, whole, model)
    corpora.check_datastore_corpus(config, examples.split)
    check_keys(config.datastore, model.tagger.config)
    tuning.make_grid(config.knn, examples.encoded.num_words)
    is_built = (cell.folder / "datastore").exists()
    knn_tagger = open_knn_tagger(config, model, cell.folder, None if is_built else examples, Stopwatch())
    corpus = whole.draw(config.data.train_fraction, config.data.dev_fraction, config.seed)
    numbers = number_sentences(knn_tagger.stored, corpus.train.sentences)
    return Searcher(knn_tagger, corpus, *numbers, config.data.unseen_types, as_list(config.knn.metric)[0])


def to_predictions(
    p_ner: Float[np.ndarray, "words labels"],
    p_knn: Float[np.ndarray, "words labels"] | None,
    p: Float[np.ndarray, "words labels"],
    split: EncodedSplit,
    label_set: LabelSet,
) -> Predictions:
    """Return the labels of a split.

    Args:
        p_ner: the tagger's probabilities.
        p_knn: those of the neighbours; None where a combiner has none of its own: `voted` is then -1, `agreement` NaN.
        p: those of both.
        split: gold labels.
        label_set: of the gold.
    """
    no_vote = np.full(len(p), -1, np.int32), np.full(len(p), np.nan, np.float32)
    voted, agreement = no_vote if p_knn is None else (p_knn.argmax(axis=1).astype(np.int32), p_knn.max(axis=1))
    columns = {
        "sentence_ids": split.sentence_ids,
        "gold": split.label_ids,
        "tagger": p_ner.argmax(axis=1).astype(np.int32),
        "knn": p.argmax(axis=1).astype(np.int32),
        "confidence": p_ner.max(axis=1),
        "voted": voted,
        "agreement": agreement,
    }
    return Predictions(label_set.names, **{name: values[split.is_scored] for name, values in columns.items()})


def _predict(searcher: Searcher, cache: Cache, setting: KnnParams, split: EncodedSplit) -> Predictions:
    labels = labels_by_vote(cache, setting)
    return to_predictions(labels.p_ner, labels.p_knn, labels.p, split, searcher.label_set)


def search_dev(searcher: Searcher, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Select k, temperature and knn_weight for cells that share their keys; yield each when it is written."""
    started, split = time.perf_counter(), searcher.encode("dev")
    rows, dim = searcher.knn_tagger.num_rows, searcher.knn_tagger.stored.datastore.keys.shape[1]
    grids = [tuning.make_grid(cell.config.knn, rows) for cell in cells]
    cache = searcher.search_for("dev", split, grids)
    for cell, grid in zip(cells, grids, strict=True):
        trials = tuning.run_grid(cache, split, searcher.label_set, grid, searcher.metric)
        best = tuning.select(trials).knn_params
        facts = {"rows": rows, "dim": dim, "skipped_k": grid.skipped_k, "selected": asdict(best)}
        facts |= {"trials": [trial.as_dict() for trial in trials], "seconds": time.perf_counter() - started}
        results.write(cell, "dev", _predict(searcher, cache, best, split), facts)
        yield cell


def search_test(searcher: Searcher, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Label test with what dev selected, for cells that share their keys; yield each when it is written."""
    started, split = time.perf_counter(), searcher.encode("test")
    settings = [KnnParams(**results.read(cell, "dev")["selected"]) for cell in cells]
    grids = [tuning.Grid((one.k,), (one.temperature,), (one.knn_weight,)) for one in settings]
    for cell, setting in zip(cells, settings, strict=True):
        log_test_search(results, cell, asdict(setting))
    cache = searcher.search_for("test", split, grids)
    for cell, setting in zip(cells, settings, strict=True):
        facts = {"selected": asdict(setting), "file": searcher.corpus.test.sha256}
        labels = _predict(searcher, cache, setting, split)
        results.write(cell, "test", labels, facts | {"seconds": time.perf_counter() - started})
        yield cell


def combiners_of(results: Results, cells: Sequence[Cell]) -> list[Combiner]:
    """Return the combiner of each cell; none where the study has none."""
    spec = results.study.config.ablation.combiner
    return [] if spec is None else [load_combiner(spec, cell.config.knn) for cell in cells]


def num_neighbours(searcher: Searcher, combiners: Iterable[Combiner]) -> int:
    """Return how many neighbours combiners read: at most as many as every word has, for training words in other sentences.

    Returns:
        The largest of their k that every word has neighbours for; 0 without combiners.
    """
    most = searcher.knn_tagger.num_rows
    if any(combiner.needs_train for combiner in combiners):
        most = max(most - int(np.bincount(searcher.row_numbers).max()), 1)
    return min(max((combiner.k for combiner in combiners), default=0), most)


def search_combiner(searcher: Searcher, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Fit the combiner, label dev and test with it, for cells that share their keys.

    Training words are retrieved without the rows of their own sentences. Dev is written first; each cell is yielded when its
    test is written.
    """
    started, combiners = time.perf_counter(), combiners_of(results, cells)
    k = num_neighbours(searcher, combiners)
    splits = {name: searcher.encode(name) for name in ("train", "dev", "test")}
    train = None
    if any(combiner.needs_train for combiner in combiners):
        numbers = searcher.row_numbers, searcher.train_numbers[splits["train"].sentence_ids]
        train = retrieve_others(searcher.knn_tagger, splits["train"], *numbers, k, searcher.metric)
    for cell in cells:
        log_test_search(results, cell, None)
    caches = {name: searcher.search(name, splits[name], k) for name in ("dev", "test")}
    for cell, combiner in zip(cells, combiners, strict=True):
        width = min(combiner.k, k)  # the searches of a grid may have kept more
        on_train = _labelled(train, splits["train"], width) if train is not None and combiner.needs_train else None
        on_dev = _labelled(caches["dev"], splits["dev"], width)
        fitted = combiner.fit(on_train, on_dev, searcher.label_set, cell.config.seed)
        for name, cache in caches.items():
            p = np.asarray(fitted.predict(_words(cache, width)))
            labels = to_predictions(cache.p_ner, None, p, splits[name], searcher.label_set)
            seconds = time.perf_counter() - started
            results.write(cell, f"combiner_{name}", labels, dict(fitted.facts) | {"seconds": seconds})
        yield cell


def _words(cache: Cache, k: int) -> RetrievedWords:
    assert cache.similarities is not None
    assert cache.neighbour_labels is not None
    return RetrievedWords(cache.p_ner, cache.similarities[:, :k], cache.neighbour_labels[:, :k])


def _labelled(cache: Cache, split: EncodedSplit, k: int) -> LabelledWords:
    return LabelledWords(_words(cache, k), split.label_ids, split.sentence_ids)


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


_SEARCH = {"dev": search_dev, "test": search_test, "combiner_test": search_combiner}  # by the split that is written last


@dataclass(frozen=True)
class _Computation:
    study: Study
    results: Results
    corpora: Corpora
    train: Train

    def search(self, cells: Sequence[Cell], splits: Sequence[str]) -> Iterator[Step]:
        """Compute what is missing on some splits; a datastore serves all of them, and is deleted afterwards."""
        missing = {split: self.results.missing(cells, split) for split in splits}
        left = sum(map(len, missing.values()))
        groups = self.study.by_search({cell.dev_id: cell for split in splits for cell in missing[split]}.values())
        for number, (group, following) in enumerate(zip_longest(groups, groups[1:]), start=1):
            searcher = self._open(group[0])
            if "combiner_test" in splits:
                searcher = replace(searcher, least_k=num_neighbours(searcher, combiners_of(self.results, group)))
            of_group = {split: [cell for cell in missing[split] if cell.search_id == group[0].search_id] for split in splits}
            left_after = left - sum(map(len, of_group.values()))
            is_last_of_seed = following is None or following[0].config.seed != group[0].config.seed
            for split, unfinished in of_group.items():
                for cell in _SEARCH[split](searcher, unfinished, self.results) if unfinished else ():
                    left -= 1
                    yield Step(self._describe(cell, split), cell, left, is_last_of_seed and left == left_after)
            is_shared = following is not None and following[0].folder == group[0].folder
            if not (is_shared or self.study.config.ablation.keep_datastores):
                delete_datastore(group[0])
            if number % GROUPS_COMPILED == 0:
                jax.clear_caches()

    def _describe(self, cell: Cell, split: str) -> str:
        values = {"seed": cell.config.seed} | cell.condition | cell.candidate
        return (
            f"{split.replace('_', ' on ')} {describe(values)}: strict F1 {self.results.read(cell, split)['knn']['f1']:.2f}"
        )

    def _open(self, cell: Cell) -> Searcher:
        folder = Path(cell.config.run_dir)
        if not (folder / "train.json").exists():
            with exclusive_lock(folder, wait=True):  # of another study that shares the tagger, which may train it meanwhile
                self.train(cell.config)
        return open_cell(cell, self.corpora)


def _splits_on_test(study: Study) -> tuple[str, ...]:
    return ("test",) if study.config.ablation.combiner is None else ("test", "combiner_test")


def count_missing(results: Results) -> int:
    """Count results that are known to be missing; those on test of a candidate that dev may yet select are not."""
    study = results.study
    missing = len(results.missing(study.cells, "dev"))
    if not study.config.ablation.stop_before_test:
        references = [cell for cell in study.cells if cell.candidate == study.candidates[0]]
        missing += sum(len(results.missing(references, split)) for split in _splits_on_test(study))
    return missing


def compute(study: Study, corpora: Corpora, train: Train) -> Iterator[Step]:
    """Compute whatever is missing.

    Args:
        study: what.
        corpora: what it is computed from.
        train: trains a tagger.
    """
    results = Results(study)
    work = _Computation(study, results, corpora, train)
    if len(study.candidates) == 1 and not study.config.ablation.stop_before_test:
        yield from _compute_one_candidate(work)
        return
    on_dev = len(results.missing(study.cells, "dev"))
    on_test = count_missing(results) - on_dev  # and, perhaps, those of other candidates
    for step in work.search(study.cells, ("dev",)):
        yield step._replace(left=step.left + on_test)
    for condition in study.conditions:
        write_selection(results, condition)
    if study.config.ablation.stop_before_test:
        return
    for_test = [
        cell
        for condition in study.conditions
        for candidate in results.for_test(condition)
        for cell in study.seeds_of(condition, candidate)
    ]
    yield from work.search(for_test, _splits_on_test(study))


def _compute_one_candidate(work: _Computation) -> Iterator[Step]:
    """Compute seed by seed, one datastore for dev and test; a seed's setting is written down before its test is searched."""
    study, results = work.study, work.results
    for condition in study.conditions:
        write_selection(results, condition)  # where a process died before it had written it
    for step in work.search(study.cells, ("dev", *_splits_on_test(study))):
        for cell in study.cells:
            if cell.dev_id == step.cell.dev_id:  # conditions may share a result
                write_selection(results, cell.condition)
        yield step
