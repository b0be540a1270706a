"""Pages that scripts write parts of: regions between two marks, and tables."""

from collections.abc import Sequence
from pathlib import Path

from knn_ner_jax.io import InputError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def replace_region(text: str, name: str, lines: Sequence[str]) -> str:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        InputError: the text does not have the one mark after the other, each once.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise InputError(f"expected {first} and after it {last}, each once")
    before, after = text.split(first)[0], text.split(last)[1]
    return "\n".join([before + first, *lines, last + after])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Format a table: the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]
