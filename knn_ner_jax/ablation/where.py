"""Tables of where neighbours help: by group of entities, and what became of words and entities."""

from typing import NamedTuple

from knn_ner_jax.ablation.breakdown import Breakdown
from knn_ner_jax.ablation.closeup import Focus
from knn_ner_jax.ablation.findings import in_words
from knn_ner_jax.ablation.spread import Spread

HEADER = ["group", "entities", "tagger F1", "kNN-NER F1", "difference"]


class Titled(NamedTuple):
    """A table; its first column holds words."""

    title: str
    header: list[str]
    rows: list[list[str]]


def said(focus: Focus) -> tuple[str, ...]:
    """What the tables are of, and what they do not show."""
    of = f"{in_words(focus.finding.condition)}; {in_words(focus.tested.choice)}; test, means over seeds."
    doubt = "Entities of a group may be few. Occurrences are counted in the sentences of train that each seed draws."
    if len(focus.tested.cells) > 1:
        doubt = f"± is the standard deviation between seeds, which says nothing of other sentences. {doubt}"
    return of, doubt


def tables(found: Breakdown) -> list[Titled]:
    """All tables of a breakdown."""
    listed = []
    for kind in dict.fromkeys(group.kind for group in found.groups):
        groups = [group for group in found.groups if group.kind == kind]
        digits = 0 if all(group.gold.mean.is_integer() for group in groups) else 1
        rows = [
            [
                *(group.name, _number(group.gold, digits)),
                *(_number(group.vanilla.f1), _number(group.knn.f1), difference(group.gain)),
            ]
            for group in groups
        ]
        listed.append(Titled(f"By {kind}", HEADER, rows))
    words = [[one.change, _number(one.words), _number(one.vote_is_taggers), _number(one.agreement)] for one in found.words]
    columns = ["words", "number", "vote is the tagger's, %", "mean share of the voted tag, %"]
    changes = [[name.replace("_", " "), _number(getattr(found.entities, name))] for name in vars(found.entities)]
    return [
        *listed,
        Titled("What became of the tagger's tags", columns, words),
        Titled("Entities that only one of the two finds", ["entities", "number"], changes),
    ]


def _number(spread: Spread, digits: int = 1) -> str:
    return f"{spread.mean:,.{digits}f}" if spread.seeds else "–"


def difference(spread: Spread) -> str:
    """`+1.2 ± 0.3`."""
    std = f" ± {spread.std:.1f}" if spread.seeds > 1 else ""
    return f"{spread.mean:+.1f}{std}" if spread.seeds else "–"
