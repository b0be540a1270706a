"""The table docs/paper-table.md: the paper's scores and, where runs exist, ours beside them.

    python -m tools.paper_table

The commands at the top of configs/paper/RECIPE.yaml leave their scores in runs/paper/RECIPE/; every eval.json below that
folder counts, and its eval.config.yaml says which seed, protocol and selection it stands for.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from knn_ner_jax.cli import parse
from knn_ner_jax.config import Config, flatten
from knn_ner_jax.io import InputError
from knn_ner_jax.run_dir import config_to_dict
from tools.pages import ROOT

SCORES = ("precision", "recall", "f1")
METHODS = ("tagger", "knn")
ROUNDING = 0.005  # half a unit of the last published digit
DATASETS = {
    ("conll", "en"): "English CoNLL 2003",
    ("onto", "en"): "English OntoNotes 5.0",
    ("onto", "zh"): "Chinese OntoNotes 4.0",
    ("ontonotes", "zh"): "Chinese OntoNotes 4.0",
    ("msra", "zh"): "Chinese MSRA",
    ("weibo", "zh"): "Chinese Weibo",
    ("resume", "zh"): "Chinese Resume",
}
BACKBONES = {
    "bert-base-cased": "BERT-Base",
    "bert-large-cased": "BERT-Large",
    "roberta-large": "RoBERTa-Large",
    "bert-base-chinese": "BERT-Base",
    "hfl/chinese-roberta-wwm-ext": "RoBERTa-Base",
    "hfl/chinese-roberta-wwm-ext-large": "RoBERTa-Large",
    "ShannonAI/ChineseBERT-base": "ChineseBERT-Base",
    "ShannonAI/ChineseBERT-large": "ChineseBERT-Large",
}
# Fields in which a run may differ from its recipe without its scores meaning something else, or that the table shows.
FREE = (
    *("run_dir", "eval_dir", "seed", "protocol", "knn.selection", "data.dir", "data.scheme", "data.on_error"),
    *("train.save_every", "train.log_every", "datastore.shard_rows", "eval.batch_size", "knn.block_rows"),
)
INTRODUCTION = """# The paper's scores and ours

Written by `make paper-table` from the runs in `runs/paper`; an empty cell has not been run. Precision / recall / F1 on test,
in percent; ours are means over seeds, ± the sample standard deviation. Protocol `words` is seqeval's strict IOB2 over words
(characters in Chinese), `wang2022` the authors' way of counting. Selection says where k, temperature and weight come from:
`dev`, `config` (a single setting was given) or `published` (the paper's, found on test). The paper's columns are neither
`words` nor `dev`: [paper.md](paper.md) says what can be compared.
"""
HEADER = (
    "| backbone | recipe | tagger, paper | tagger, ours | +kNN, paper | +kNN, ours | protocol | selection | seeds |\n"
    "|---|---|---|---|---|---|---|---|---|"
)

Row = tuple[str, str]  # dataset and backbone
Published = dict[Row, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Evaluation:
    """One eval.json.

    Attributes:
        path: of the file.
        seed: of the training.
        label: protocol, selection, and what differs from the recipe: `field value` each.
        scores: by method, precision, recall and F1 on test.
    """

    path: Path
    seed: int
    label: tuple[str, str, tuple[str, ...]]
    scores: dict[str, tuple[float, ...]]


def row_of(recipe: Mapping[str, Any]) -> Row:
    """Return dataset and backbone of a recipe, in the paper's words."""
    corpus = recipe["recipe"].removeprefix("chinesebert_").split("_")[0]
    return DATASETS[corpus, recipe["language"]], BACKBONES[recipe["backbone"]]


def read_published(path: Path) -> Published:
    """Read the rows of results.json: by dataset and backbone, then by method."""
    published: Published = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        published.setdefault((row["dataset"], row["backbone"]), {})[METHODS[row["knn"]]] = row
    return published


def f1_range(precision: float, recall: float) -> tuple[float, float]:
    """Return the least and the greatest F1 that a published precision and recall allow, since they are rounded."""

    def f1(p: float, r: float) -> float:
        return 2 * p * r / (p + r)

    return f1(precision - ROUNDING, recall - ROUNDING), f1(precision + ROUNDING, recall + ROUNDING)


def is_consistent(precision: float, recall: float, f1: float) -> bool:
    """Return whether some numbers that round to these have this F1."""
    low, high = f1_range(precision, recall)
    slack = ROUNDING + 1e-9  # of float arithmetic
    return low - slack <= f1 <= high + slack


def read_evaluations(folder: Path, recipe_file: Path) -> list[Evaluation]:
    """Read every eval.json below a folder, and what its configuration says of it.

    Raises:
        InputError: two of them have the same seed, protocol and selection, or they are of different corpora.
    """
    paths = sorted(folder.rglob("eval.json"))
    if not paths:
        return []
    recipe = flatten(config_to_dict(parse("paper_table", "", Config, ["--config", str(recipe_file)])[0]))
    evaluations: dict[Any, Evaluation] = {}
    corpora: set[tuple[str, ...]] = set()
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        config_path = path.with_name("eval.config.yaml")
        if not config_path.is_file():
            raise InputError(f"{path}: expected {config_path.name} beside it, found none")
        config = flatten(yaml.safe_load(config_path.read_text(encoding="utf-8")))
        changed = (f"{name} {config.get(name)}" for name in recipe if name not in FREE and config.get(name) != recipe[name])
        label = (config["protocol"], content["selected_on"], tuple(changed))
        corpora.add(tuple(split["sha256"] for split in content["corpus"].values()))
        scores = {method: tuple(content["test"][method][score] for score in SCORES) for method in METHODS}
        evaluation = Evaluation(path, config["seed"], label, scores)
        other = evaluations.setdefault((evaluation.seed, label), evaluation)
        if other is not evaluation:
            raise InputError(f"{other.path} and {path}: expected one evaluation of seed {evaluation.seed}, {label}, got two")
    if len(corpora) > 1:
        raise InputError(f"{folder}: expected evaluations of one corpus, got {len(corpora)} that differ")
    return list(evaluations.values())


def cell(values: list[tuple[float, ...]]) -> str:
    """Format `precision / recall / F1`, each a mean, with its spread where there are several."""
    columns = zip(*values, strict=True)
    return " / ".join(
        f"{statistics.mean(column):.2f}" + (f" ± {statistics.stdev(column):.2f}" if len(column) > 1 else "")
        for column in columns
    )


class Footnotes:
    """Numbered notes of a Markdown document; equal ones share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """Return the reference to a note."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[^{self.texts.index(text) + 1}]"

    def lines(self) -> Iterator[str]:
        """Return the notes themselves."""
        return (f"[^{number}]: {text}" for number, text in enumerate(self.texts, start=1))


def published_cell(row: Mapping[str, float], notes: Footnotes) -> str:
    """Format a published row, with a note where it contradicts itself."""
    scores = [row[score] for score in SCORES]
    text = " / ".join(f"{value:.2f}" for value in scores)
    if is_consistent(*scores):
        return text
    low, high = f1_range(scores[0], scores[1])
    range_text = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
    return text + notes.mark(f"F1 is published as {scores[2]:.2f}; the precision and recall beside it give {range_text}.")


def table_rows(
    row: Row, recipe: str | None, published: Published, evaluations: list[Evaluation], notes: Footnotes
) -> Iterator[str]:
    """Format the lines of a published row: one for each protocol and selection that was run, or a half empty one."""
    if row in published:
        paper = {method: published_cell(published[row][method], notes) for method in METHODS}
    else:
        paper = dict.fromkeys(METHODS, notes.mark(f"No row in the paper for {row[0]}."))
    name = f"`{recipe}`" if recipe else notes.mark(f"The authors' repository holds no script for {row[1]} on {row[0]}.")
    labels = sorted({evaluation.label for evaluation in evaluations})
    for label in labels or [("", "", ())]:
        group = sorted((one for one in evaluations if one.label == label), key=lambda one: one.seed)
        ours = {method: cell([one.scores[method] for one in group]) if group else "" for method in METHODS}
        changed = notes.mark(f"Differs from the recipe: {', '.join(label[2])}.") if label[2] else ""
        seeds = ", ".join(str(one.seed) for one in group)
        cells = (row[1], name + changed, paper["tagger"], ours["tagger"], paper["knn"], ours["knn"], *label[:2], seeds)
        yield f"| {' | '.join(cells)} |"


def paper_table(runs: Path) -> str:
    """Return the whole document.

    Args:
        runs: folder with a folder for each recipe.

    Raises:
        InputError: a folder in it is no recipe's, or see `read_evaluations`.
    """
    recipes = json.loads((ROOT / "docs/paper/recipes.json").read_text(encoding="utf-8"))["recipes"]
    published = read_published(ROOT / "docs/paper/results.json")
    names: dict[Row, str] = {row_of(recipe): recipe["recipe"] for recipe in recipes}
    strangers = [
        path for path in (runs.iterdir() if runs.is_dir() else ()) if path.is_dir() and path.name not in names.values()
    ]
    if strangers:
        raise InputError(f"{strangers[0]}: expected a folder named after a recipe in configs/paper")
    rows = [*published, *(row for row in names if row not in published)]
    notes, lines = Footnotes(), [INTRODUCTION]
    for dataset in dict.fromkeys(row[0] for row in rows):
        lines += [f"## {dataset}\n", HEADER]
        for row in (row for row in rows if row[0] == dataset):
            name = names.get(row)
            evaluations = read_evaluations(runs / name, ROOT / "configs" / "paper" / f"{name}.yaml") if name else []
            lines += table_rows(row, name, published, evaluations, notes)
        lines.append("")
    return "\n".join([*lines, *notes.lines()]) + "\n"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper", help="folder with a folder for each recipe")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "paper-table.md")
    arguments = parser.parse_args()
    try:
        arguments.output.write_text(paper_table(arguments.runs), encoding="utf-8")
    except InputError as error:
        sys.exit(f"paper_table: error: {error}")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
