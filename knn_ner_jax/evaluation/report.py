"""What a person reads at the end: a table of scores, and tagged text with the neighbours that voted."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from knn_ner_jax.evaluation.explain import Entity

METHODS = {"vanilla": "vanilla", "knn": "kNN-NER"}


def score_table(evaluation: dict[str, Any]) -> Table:
    """Precision, recall and F1 of both methods on dev and test.

    Args:
        evaluation: the content of eval.json.
    """
    chosen = evaluation["selected"]
    how = "chosen on dev" if evaluation["selected_on"] == "dev" else "given by the configuration"
    setting = (
        f"k {chosen['k']}, temperature {chosen['temperature']:g}, knn_weight {chosen['knn_weight']:g}, {chosen['metric']}"
    )
    caption = f"{setting}: {how} ({len(evaluation['trials'])} settings tried)"
    table = Table(title="Scores in percent: strict IOB2 spans of words (seqeval)", caption=caption, title_justify="left")
    for column in ("split", "method", "precision", "recall", "F1", "F1 (default mode)"):
        table.add_column(column, justify="left" if column in ("split", "method") else "right")
    for split in ("dev", "test"):
        for key, method in METHODS.items():
            row = evaluation[split][key]
            table.add_row(split, method, *(f"{row[name]:.2f}" for name in ("precision", "recall", "f1", "f1_default")))
    return table


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
        console.print(f"  {escape(text)}: {entity.span.type}, p {entity.probability:.3f}", highlight=False)
        for near in entity.neighbours:
            context = [*near.before, f"[bold]{escape(near.word)}[/bold]", *near.after]
            console.print(f"    {near.similarity:6.3f}  {near.label:<12} {' '.join(context)}", highlight=False)
    if not entities:
        console.print("  no entities", highlight=False)
