"""Write the tables of docs/scaling.md: what a datastore of a billion keys would take on many chips.

    python -m docs.make_scaling

Sizes are arithmetic, times follow from the rates that `benchmarks.run` has measured.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import read_results
from benchmarks.tables import MeasuredPart, ours, parts_of
from tools.pages import RESULTS, ROOT, markdown, replace_region

PAGE = ROOT / "docs" / "scaling.md"
ROWS, CHIPS, DIM = 1_000_000_000, 64, 768
QUERIES = 1000
LABELS = 9  # of CoNLL 2003, for `all`
TOKENS_PER_WORD = 1.3
FLOAT, INT = 4, 4  # bytes
COLUMNS = 3 * INT + FLOAT  # of a row beside its key: label, sentence, word, squared norm
CANDIDATE = FLOAT + 2 * INT  # similarity, row id, label
GIGABYTE = 1e9


def rows_per_chip(rows: int = ROWS, chips: int = CHIPS) -> int:
    """Return the number of rows that a chip holds."""
    return -(-rows // chips)


def memory_table() -> list[str]:
    """Format the memory of a chip by the form of the keys, in GB of 10^9 bytes."""
    forms = {
        f"{DIM} x float32": DIM * FLOAT,
        f"{DIM} x bfloat16 (compression)": DIM * 2,
        "whitened to 64 x float32": 64 * FLOAT,
    }
    rows = [
        [name, f"{size:,} B", f"{COLUMNS} B", f"{rows_per_chip() * (size + COLUMNS) / GIGABYTE:.1f} GB"]
        for name, size in forms.items()
    ]
    return markdown(["keys", "key", "squared norm, label, sentence and word id", "on each chip"], rows)


def traffic_table() -> list[str]:
    """Format the bytes that travel for one query: the query to every chip, every chip's candidates to every other."""
    rows = [[f"k = {k}", f"{DIM * FLOAT:,} B", f"{CHIPS * k * CANDIDATE:,} B"] for k in (8, 64, 1024)]
    rows.append([f"k = all, {LABELS} labels", f"{DIM * FLOAT:,} B", f"{CHIPS * (LABELS + 1) * FLOAT:,} B"])
    return markdown(["", "query, received by each chip", f"candidates of {CHIPS} chips, received by each"], rows)


def seconds_per_search(part: MeasuredPart, seconds: Sequence[float]) -> float:
    """Return the seconds of `QUERIES` queries over a chip's share of the rows, at the rate of a measured search.

    Args:
        part: the search; rows, queries and dim of it are counted.
        seconds: of its repeats.
    """
    options = part["options"]
    comparisons = options["rows"] * options["queries"] * options["dim"]
    return statistics.median(seconds) * QUERIES * rows_per_chip() * DIM / comparisons


def rates_table(results: Mapping[str, Any]) -> list[str]:
    """Format the times of one kind of chip, by its largest measured search and its measured encoder."""
    searches = parts_of(results, "search")
    if not searches:
        return []
    part = max(searches, key=lambda one: one["options"]["rows"])
    options = part["options"]
    rows = [
        [name, f"{seconds_per_search(part, result['seconds']):,.2f} s"]
        for name, result in ours(part).items()
        if not name.startswith("product")
    ]
    for tagging in parts_of(results, "tagging"):
        rate = ours(tagging)["tokens"] / statistics.median(ours(tagging)["forward"])
        hours = ROWS * TOKENS_PER_WORD / rate / CHIPS / 3600
        rows.append(["encoding all keys once, MiniLM-L6", f"{hours:,.1f} h"])
    lines = [
        f"Chips as fast as one **{results['hardware']['name']}**, extrapolated from {options['queries']} queries over "
        f"{options['rows']:,} x {options['dim']} keys:",
        "",
    ]
    return lines + markdown([f"{QUERIES:,} words, every one looked up", "time"], rows)


def write_page(text: str) -> str:
    """Return the text of docs/scaling.md with its tables."""
    tables = [line for results in read_results(RESULTS / "speed") for line in rates_table(results)]
    return replace_region(text, "billion", ["", *memory_table(), *traffic_table(), *tables])


def main() -> None:
    """Write the page."""
    PAGE.write_text(write_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
