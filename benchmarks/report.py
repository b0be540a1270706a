"""Plots and tables of results: an SVG beside each of `results/speed`, tables in benchmarks/README.md and docs/scaling.md.

python -m benchmarks.report
"""

import json
import sys
from pathlib import Path

from benchmarks import plots, scaling, tables
from benchmarks.bench import RESULTS, Results
from knn_ner_jax.io import InputError
from tools.pages import ROOT, replace_region

README, SCALING = ROOT / "benchmarks" / "README.md", ROOT / "docs" / "scaling.md"


def read_results(folder: Path) -> dict[str, Results]:
    """Read the results of every machine, by the name of the file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def readme(text: str, results: dict[str, Results]) -> str:
    """Return the text of benchmarks/README.md with a section for each machine."""
    lines = []
    for stem, of_machine in results.items():
        name = of_machine["hardware"]["name"]
        lines += [f"### {name}", "", f"![Times and memory on {name}](results/speed/{stem}.svg)", ""]
        lines += tables.page(of_machine)
    return replace_region(text, "speed", ["", *lines])


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
