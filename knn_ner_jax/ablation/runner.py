"""Computes the cells of a study; whatever is finished is on the disk, and is not computed again.

Dev is searched first, for all cells. Where dev has a choice to make, it is written down; then test is searched, for the
reference and for what dev chose. Cells that share a tagger share its training, cells that share keys one search.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jax

from knn_ner_jax.ablation.cells import Opened, delete_datastore, open_cell, search_dev, search_test
from knn_ner_jax.ablation.corpora import Corpora
from knn_ner_jax.ablation.learned import mixing_settings, search_learned
from knn_ner_jax.ablation.locking import alone_in
from knn_ner_jax.ablation.results import PLOTS, TABLES, Results
from knn_ner_jax.ablation.study import Cell, Study, Values, describe
from knn_ner_jax.config import Config
from knn_ner_jax.files import write_json

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
    dev = [_on_dev(results, condition, choice) for choice in results.study.choices]
    if not any(one["settings"] for one in dev):
        return
    chosen = max(dev, key=lambda one: one["dev_f1"])["choice"]
    cells: dict[str, list[str]] = {}
    for choice in results.study.choices:
        for cell in results.searched(results.study.seeds_of(condition, choice), "dev"):
            cells.setdefault(str(cell.config.seed), []).append(cell.key)
    made = {"condition": condition, "chosen": chosen, "cells": cells, "dev": dev}
    earlier = results.choices_made(condition)
    if earlier and _say_the_same(earlier[-1], made):
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


def _say_the_same(earlier: dict[str, Any], made: dict[str, Any]) -> bool:
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
            with alone_in(folder, wait=True):  # of another study that shares the tagger, which may train it meanwhile
                self.train(cell.config)
        return open_cell(cell, self.corpora)


_SEARCH = {"dev": search_dev, "test": search_test, "learned": search_learned}
_WRITES = {"dev": "dev", "test": "test", "learned": "learned_test"}  # what says that a search is done


def _kinds_on_test(study: Study) -> tuple[str, ...]:
    return ("test", "learned") if study.config.ablation.learned_mixing else ("test",)


def count_missing(results: Results) -> int:
    """How many results are known to be missing; those on test of a choice that dev may yet make are not."""
    study = results.study
    missing = len(results.missing(study.cells, "dev"))
    if study.config.ablation.until == "test":
        references = [cell for cell in study.cells if cell.choice == study.choices[0]]
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
    if len(study.choices) == 1 and study.config.ablation.until == "test":
        yield from _one_choice(work)
        return
    on_dev = len(results.missing(study.cells, "dev"))
    then = count_missing(results) - on_dev  # and, perhaps, those of other choices
    for step in work.search(study.cells, ("dev",)):
        yield step._replace(left=step.left + then)
    for condition in study.conditions:
        choose(results, condition)
    if study.config.ablation.until == "choice":
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
