"""The files of a study: for every cell and split its scores, and the labels they are of.

For what test has been opened: a file in the folder of a study that only grows, whatever becomes of the study.

Test says how good a tagger is with some neighbours and one setting. Who has seen that, and then changes the study, may have
been led by it: so the study goes on to say what test was opened for, even after `--overwrite`.

"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knn_ner_jax.ablation.study import Cell, Study, Values, digest
from knn_ner_jax.config import flatten
from knn_ner_jax.evaluation import predictions
from knn_ner_jax.evaluation.predictions import Predictions
from knn_ner_jax.io import write_json, write_text
from knn_ner_jax.run_dir import config_to_dict, environment

# What is compared, and which labels of an outcome those are; the outcomes of learned mixing are files of their own.
METHODS = {"tagger": "tagger alone", "knn": "kNN-NER", "learned": "learned mixing"}
# What is written with the extra `report`; which of the plots depends on what there is to show.
TABLES = tuple(f"{name}.{kind}" for name in ("scores", "trials", "where") for kind in ("csv", "parquet"))
PLOTS_ON_TEST, PLOTS_ON_DEV = ("curve", "gains"), ("choices", "by_k", "surface")
PLOTS = tuple(f"{name}.svg" for name in PLOTS_ON_TEST + PLOTS_ON_DEV)
_COLUMN = {"gold": "gold", "tagger": "tagger", "knn": "knn", "learned": "knn"}


def _folder(split: str, method: str) -> str:
    return f"learned_{split}" if method == "learned" else split


def score_predictions(outcome: Predictions, protocol: str) -> dict[str, Any]:
    """Scores of both methods (see `predictions.score_tagged`)."""
    tags = (outcome.tags(ids) for ids in (outcome.gold, outcome.tagger, outcome.knn))
    return predictions.score_tagged(predictions.TaggedSentences((), *tags), protocol)


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

    def outcome(self, cell: Cell, split: str) -> Predictions:
        """A cell's labels of a split."""
        return Predictions.load(self.path(cell, split, ".npz"))

    def write(self, cell: Cell, split: str, outcome: Predictions, more: dict[str, Any]) -> None:
        """The outcome first: the results say that all is there."""
        outcome.save(self.path(cell, split, ".npz"))
        varied = {"condition": cell.condition, "choice": cell.candidate, "seed": cell.config.seed}
        scores = score_predictions(outcome, cell.config.protocol)
        write_json(self.path(cell, split), varied | more | scores | environment())

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
        config = self.study.seeds_of(condition, self.study.candidates[0])[0].config
        read = flatten(config_to_dict(config))
        named = {name: read[name] if read.get(name) == value else value for name, value in condition.items()}
        return self.study.folder / "choices" / f"{digest(named)}.json"

    def choices_made(self, condition: Values) -> list[dict[str, Any]]:
        """What dev has chosen for a condition, the latest last."""
        path = self.choice_path(condition)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def for_test(self, condition: Values) -> list[Values]:
        """The reference and, once dev has chosen another choice, that one."""
        reference = self.study.candidates[0]
        return [reference, *(made["chosen"] for made in self.choices_made(condition)[-1:] if made["chosen"] != reference)]


OPENED_FILE = "opened.jsonl"

Entry = dict[str, Any]


def _tagger(cell: Cell) -> str:
    return Path(cell.config.run_dir).name


def _opened_result(cell: Cell, setting: Mapping[str, Any] | None) -> str:
    """What test says is known by this, whatever the fields are called that led to it."""
    return cell.learned_key if setting is None else digest(cell.keys_key, setting)


def read_opened(folder: Path) -> list[Entry]:
    """All entries of a study, the latest last."""
    path = folder / OPENED_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def note_opened(results: Results, cell: Cell, setting: Mapping[str, Any] | None) -> None:
    """Writes down that test is about to be opened for a cell.

    Args:
        results: of its study.
        cell: which.
        setting: what dev chose of k, temperature, knn_weight and metric; None: learned mixing.
    """
    entry = {"tagger": _tagger(cell), "result": _opened_result(cell, setting), "seed": cell.config.seed}
    entry |= {"condition": cell.condition, "choice": cell.candidate, "setting": setting}
    entries = read_opened(results.study.folder)
    if entry["result"] not in [earlier["result"] for earlier in entries]:
        lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in (*entries, entry))
        write_text(results.study.folder / OPENED_FILE, "".join(lines))


def no_longer_shown(results: Results) -> list[Entry]:
    """What test was opened for with taggers of a study, and the study as it is now does not show."""
    study, shown = results.study, set[str]()
    for condition in study.conditions:
        for choice in results.for_test(condition):
            for cell in results.searched(study.seeds_of(condition, choice), "dev"):
                shown.add(_opened_result(cell, results.read(cell, "dev")["selected"]))
                if study.config.ablation.adaptive:
                    shown.add(_opened_result(cell, None))
    taggers = set(map(_tagger, study.cells))
    return [entry for entry in read_opened(study.folder) if entry["tagger"] in taggers and entry["result"] not in shown]
