"""For what test has been opened: a file in the folder of a study that only grows, whatever becomes of the study.

Test says how good a tagger is with some neighbours and one setting. Who has seen that, and then changes the study, may have
been led by it: so the study goes on to say what test was opened for, even after `--overwrite`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knn_ner_jax.ablation.results import Results
from knn_ner_jax.ablation.study import Cell, digest
from knn_ner_jax.files import write_text

FILE = "opened.jsonl"

Entry = dict[str, Any]


def _tagger(cell: Cell) -> str:
    return Path(cell.config.run_dir).name


def _result(cell: Cell, setting: Mapping[str, Any] | None) -> str:
    """What test says is known by this, whatever the fields are called that led to it."""
    return cell.learned_key if setting is None else digest(cell.keys_key, setting)


def read(folder: Path) -> list[Entry]:
    """All entries of a study, the latest last."""
    path = folder / FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def note(results: Results, cell: Cell, setting: Mapping[str, Any] | None) -> None:
    """Writes down that test is about to be opened for a cell.

    Args:
        results: of its study.
        cell: which.
        setting: what dev chose of k, temperature, knn_weight and metric; None: learned mixing.
    """
    entry = {"tagger": _tagger(cell), "result": _result(cell, setting), "seed": cell.config.seed}
    entry |= {"condition": cell.condition, "choice": cell.choice, "setting": setting}
    entries = read(results.study.folder)
    if entry["result"] not in [earlier["result"] for earlier in entries]:
        lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in (*entries, entry))
        write_text(results.study.folder / FILE, "".join(lines))


def no_longer_shown(results: Results) -> list[Entry]:
    """What test was opened for with taggers of a study, and the study as it is now does not show."""
    study, shown = results.study, set[str]()
    for condition in study.conditions:
        for choice in results.for_test(condition):
            for cell in results.searched(study.seeds_of(condition, choice), "dev"):
                shown.add(_result(cell, results.read(cell, "dev")["selected"]))
                if study.config.ablation.learned_mixing:
                    shown.add(_result(cell, None))
    taggers = set(map(_tagger, study.cells))
    return [entry for entry in read(study.folder) if entry["tagger"] in taggers and entry["result"] not in shown]
