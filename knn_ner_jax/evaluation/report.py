"""What a person reads at the end: a table of scores, and tagged text with the neighbours that voted."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from knn_ner_jax.evaluation.explain import Entity

METHODS = {"vanilla": "vanilla", "knn": "kNN-NER"}
SCORES = {"precision": "precision", "recall": "recall", "f1": "F1", "f1_default": "F1 (default mode)"}
TITLES = {
    "words": "Percent, strict IOB2 spans of words (seqeval)",
    "wang2022": "Percent, protocol wang2022: BMES spans of word pieces; not comparable with scores of words",
}


def name_setting(setting: Mapping[str, Any]) -> str:
    """A setting in words."""
    numbers = f"k {setting['k']}, temperature {setting['temperature']:g}, knn_weight {setting['knn_weight']:g}"
    return f"{numbers}, {setting['metric']}"


def how_chosen(evaluation: Mapping[str, Any]) -> str:
    """Where the setting of an evaluation comes from."""
    return {
        "dev": f"chosen on dev from {len(evaluation['trials'])} settings",
        "published": "as published, whichever split that was chosen on",
        "config": "given by the configuration",
    }[evaluation["selected_on"]]


def has_page_extra() -> bool:
    """Whether a page can be written: the extra `report` brings what that needs."""
    return all(importlib.util.find_spec(package) for package in ("jinja2", "matplotlib", "pyarrow"))


def print_scores(console: Console, evaluation: dict[str, Any]) -> None:
    """Prints precision, recall and F1 of both methods on dev and test, and the setting they were reached with.

    Args:
        console: where to.
        evaluation: the content of eval.json.
    """
    table = Table(title=TITLES[evaluation["protocol"]], title_justify="left")
    scores = {name: title for name, title in SCORES.items() if name in evaluation["test"]["knn"]}
    for column in ("split", "method", *scores.values()):
        table.add_column(column, justify="left" if column in ("split", "method") else "right")
    for split in ("dev", "test"):
        for key, method in METHODS.items():
            row = evaluation[split][key]
            table.add_row(split, method, *(f"{row[name]:.2f}" for name in scores))
    console.print(table)
    chosen = f"{name_setting(evaluation['selected'])}: {how_chosen(evaluation)}"
    console.print(chosen, highlight=False, soft_wrap=True)
    if evaluation["skipped_k"]:
        rows = evaluation["datastore"]["rows"]
        console.print(f"skipped k {evaluation['skipped_k']}: more than the {rows} rows of the datastore", highlight=False)


def print_entities(console: Console, words: Sequence[str], entities: Sequence[Entity]) -> None:
    """Prints a sentence with its entities marked, then each entity with its neighbours."""
    shown, position = [], 0
    for entity in entities:
        shown += [escape(word) for word in words[position : entity.span.start]]
        text = " ".join(words[entity.span.start : entity.span.end])
        shown.append(f"[bold]{escape(f'[{text} | {entity.span.type}]')}[/bold]")
        position = entity.span.end
    console.print(" ".join(shown + [escape(word) for word in words[position:]]), highlight=False)
    for entity in entities:
        text = " ".join(words[entity.span.start : entity.span.end])
        console.print(f"  {escape(f'{text}: {entity.span.type}')}, p {entity.probability:.3f}", highlight=False)
        for near in entity.neighbours:
            context = [*map(escape, near.before), f"[bold]{escape(near.word)}[/bold]", *map(escape, near.after)]
            label = escape(f"{near.label:<12}")
            console.print(f"    {near.similarity:6.3f}  {label} {' '.join(context)}", highlight=False)
    if not entities:
        console.print("  no entities", highlight=False)
