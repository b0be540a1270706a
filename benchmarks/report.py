"""Plots and tables of results: an SVG beside each of `results/speed`, tables in benchmarks/README.md and docs/scaling.md.

python -m benchmarks.report
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import plots, scaling, seeds, tables
from benchmarks.bench import RESULTS, Results
from knn_ner_jax.io import InputError

ROOT = Path(__file__).parent.parent
README, SCALING = ROOT / "benchmarks" / "README.md", ROOT / "docs" / "scaling.md"


def read_results(folder: Path) -> dict[str, Results]:
    """Read the results of every machine, by the name of the file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


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


def seed_tables() -> list[str]:
    """Return the tables of `benchmarks.seeds`, one for each configuration, and what training took."""
    lines = []
    for path in sorted(seeds.RESULTS.glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or "training_minutes" not in rows[0]:
            continue
        minutes = [row["training_minutes"] for row in rows]
        spent = f"{min(minutes):.0f}" + (f" to {max(minutes):.0f}" if len(rows) > 1 else "")
        lines += [f"`{path.stem}`, {len(rows)} seed{'s' * (len(rows) > 1)}, {spent} minutes of training each:", ""]
        lines += [*seeds.table(rows).splitlines(), ""]
    return lines


def readme(text: str, results: dict[str, Results]) -> str:
    """Return the text of benchmarks/README.md with a section for each machine and the scores over seeds."""
    lines = []
    for stem, of_machine in results.items():
        name = of_machine["hardware"]["name"]
        lines += [f"### {name}", "", f"![Times and memory on {name}](results/speed/{stem}.svg)", ""]
        lines += tables.page(of_machine)
    text = replace_region(text, "speed", ["", *lines])
    return replace_region(text, "seeds", ["", *seed_tables()])


def scaling_page(text: str, results: dict[str, Results]) -> str:
    """Return the text of docs/scaling.md with its tables."""
    return replace_region(text, "billion", ["", *scaling.page(list(results.values()))])


def main() -> None:
    """Write plots and pages."""
    results = read_results(RESULTS)
    for stem, of_machine in results.items():
        plots.plot(of_machine, RESULTS / f"{stem}.svg")
    for path, write in ((README, readme), (SCALING, scaling_page)):
        try:
            path.write_text(write(path.read_text(encoding="utf-8"), results), encoding="utf-8")
        except InputError as error:
            sys.exit(f"report: {path}: {error}")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
