"""The results of a study as tidy tables, as CSV and as parquet: scores, trials, and where neighbours help."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from knn_ner_jax.ablation.breakdown import Focus
from knn_ner_jax.ablation.statistics import Spread
from knn_ner_jax.ablation.store import METHODS, Results
from knn_ner_jax.ablation.study import Cell
from knn_ner_jax.io import atomic_path

SCORES = ("precision", "recall", "f1", "f1_default")
Row = dict[str, Any]


def _plain(value: Any) -> Any:
    """A value that fits a column: a list as its JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def _varied(cell: Cell) -> Row:
    return {name: _plain(value) for name, value in (cell.condition | cell.candidate).items()} | {"seed": cell.config.seed}


def _text_of_k(setting: Row) -> Row:
    k = setting["k"]
    return setting | {"k": None if k is None else str(k)}


def scores(results: Results) -> list[Row]:
    """Every score that has been computed; k is text, because it may be `all`."""
    rows = []
    for cell in results.study.cells:
        for split in ("dev", "test"):
            for method in METHODS:
                found = results.scores(cell, split, method)
                if found is not None:
                    numbers = {name: found.get(name) for name in SCORES}
                    setting = results.read(cell, split)["selected"] if method == "knn" else {}
                    chosen = {name: setting.get(name) for name in ("k", "temperature", "knn_weight", "metric")}
                    rows.append(_varied(cell) | {"split": split, "method": method} | numbers | _text_of_k(chosen))
    return rows


def trials(results: Results) -> Iterator[Row]:
    """Every setting, and every epoch of learned mixing, that was tried on dev."""
    for cell in results.study.cells:
        if results.path(cell, "dev").exists():
            for trial in results.read(cell, "dev")["trials"]:
                yield _varied(cell) | {"method": "knn"} | _text_of_k(trial)
        if results.path(cell, "learned_dev").exists():
            for trial in results.read(cell, "learned_dev")["trials"]:
                yield _varied(cell) | {"method": "learned"} | trial


def where(looks: Iterable[Focus]) -> Iterator[Row]:
    """Where neighbours help, for every configuration that was tested; numbers, and F1 in percent, are means over seeds.

    A row is of a group of entities, of words that the same became of, or of entities that only one system finds.
    """
    for focus in looks:
        varied = {name: _plain(value) for name, value in (focus.finding.condition | focus.tested.choice).items()}
        for group in focus.breakdown.groups:
            systems = {"tagger_f1": group.tagger.f1, "knn_f1": group.knn.f1, "gain": group.gain}
            yield varied | {"kind": group.kind, "group": group.name} | _means({"number": group.gold} | systems)
        for word in focus.breakdown.words:
            more = {"number": word.words, "vote_is_taggers": word.vote_is_taggers, "agreement": word.agreement}
            yield varied | {"kind": "words", "group": word.change} | _means(more)
        for name, number in vars(focus.breakdown.entities).items():
            yield varied | {"kind": "entities of one system", "group": name} | _means({"number": number})


def _means(spreads: dict[str, Spread]) -> Row:
    """Means, None where no seed has a value, and standard deviations, None where fewer than two have."""
    means = {name: spread.mean if spread.seeds else None for name, spread in spreads.items()}
    return means | {f"{name}_std": spread.std if spread.seeds > 1 else None for name, spread in spreads.items()}


def write(rows: Iterable[Row], path: Path) -> None:
    """Writes `path`.csv and `path`.parquet, each whole or not at all."""
    import pyarrow
    from pyarrow import csv, parquet

    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in row))
    table = pyarrow.table({name: pyarrow.array(_of_one_type([row.get(name) for row in listed])) for name in names})
    for suffix, write_to in ((".csv", csv.write_csv), (".parquet", parquet.write_table)):
        with atomic_path(path.with_suffix(suffix)) as part:
            write_to(table, part)


def _of_one_type(column: list[Any]) -> list[Any]:
    """Numbers stay numbers where all are; otherwise everything is text."""
    given = [value for value in column if value is not None]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    if numbers and any(isinstance(value, float) for value in given):
        return [None if value is None else float(value) for value in column]
    return column if numbers else [None if value is None else str(value) for value in column]
