"""The files of a study: for every cell and split its scores, and the labels they are of."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knn_ner_jax import runs
from knn_ner_jax.ablation.study import Cell, Study, Values, digest
from knn_ner_jax.config_files import flatten
from knn_ner_jax.evaluation import scoring
from knn_ner_jax.evaluation.outcomes import Outcome
from knn_ner_jax.files import write_json

# What is compared, and which labels of an outcome those are; the outcomes of learned mixing are files of their own.
METHODS = {"vanilla": "tagger alone", "knn": "kNN-NER", "learned": "learned mixing"}
# What is written with the extra `report`; which of the plots depends on what there is to show.
TABLES = tuple(f"{name}.{kind}" for name in ("scores", "trials", "where") for kind in ("csv", "parquet"))
PLOTS_ON_TEST, PLOTS_ON_DEV = ("curve", "gains"), ("choices", "by_k", "surface")
PLOTS = tuple(f"{name}.svg" for name in PLOTS_ON_TEST + PLOTS_ON_DEV)
_COLUMN = {"gold": "gold", "vanilla": "vanilla", "knn": "knn", "learned": "knn"}


def _folder(split: str, method: str) -> str:
    return f"learned_{split}" if method == "learned" else split


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
        keys = {
            "dev": cell.key,
            "test": cell.test_key,
            "learned_dev": cell.learned_key,
            "learned_test": cell.learned_test_key,
        }
        return self.study.folder / split / f"{keys[split]}{suffix}"

    def missing(self, cells: Iterable[Cell], split: str) -> list[Cell]:
        """Those that have no results yet; of cells that share them the first."""
        by_path: dict[Path, Cell] = {}
        for cell in cells:
            by_path.setdefault(self.path(cell, split), cell)
        return [cell for path, cell in by_path.items() if not path.exists()]

    def searched(self, cells: Iterable[Cell], split: str) -> list[Cell]:
        """Those that have results."""
        return [cell for cell in cells if self.path(cell, split).exists()]

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
        write_json(self.path(cell, split), varied | more | scores | runs.environment())

    def scores(self, cell: Cell, split: str, method: str) -> dict[str, Any] | None:
        """Precision, recall, F1 and `per_type` of a method on a split; None where it has not been computed."""
        path = self.path(cell, _folder(split, method))
        return json.loads(path.read_text(encoding="utf-8"))[_COLUMN[method]] if path.exists() else None

    def tags(self, cell: Cell, split: str, method: str) -> list[list[str]]:
        """The tags that a method, or `gold`, gives the sentences of a split."""
        outcome = self.outcome(cell, _folder(split, method))
        return outcome.tags(getattr(outcome, _COLUMN[method]))

    def choice_path(self, condition: Values) -> Path:
        """Where what dev chose for a condition is written down, by its values as configurations have them: 1 may be 1.0."""
        config = self.study.seeds_of(condition, self.study.choices[0])[0].config
        read = flatten(runs.what_to_store(config))
        named = {name: read[name] if read.get(name) == value else value for name, value in condition.items()}
        return self.study.folder / "choices" / f"{digest(named)}.json"

    def choices_made(self, condition: Values) -> list[dict[str, Any]]:
        """What dev has chosen for a condition, the latest last."""
        path = self.choice_path(condition)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def for_test(self, condition: Values) -> list[Values]:
        """The reference and, once dev has chosen another choice, that one."""
        reference = self.study.choices[0]
        return [reference, *(made["chosen"] for made in self.choices_made(condition)[-1:] if made["chosen"] != reference)]
