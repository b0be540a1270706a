"""Keeps what studies found: tables, trials, choices and plots go to `results/ablations`, summaries into docs/findings.md.

    python -m benchmarks.findings runs/ablations/low_resource_wnut17 ...

A study may be unfinished: its summary says how many seeds each number has. Without arguments docs/findings.md is written
again from what is there.
"""

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks.report import ROOT, replace_region
from knn_ner_jax.errors import InputError

KEPT = ROOT / "benchmarks" / "results" / "ablations"
PAGE = ROOT / "docs" / "findings.md"
FILES = ("study.environment.json", "summary.md", "scores.csv", "trials.parquet", "curve.svg", "gains.svg", "choices.svg")


def keep(study: Path, kept: Path) -> None:
    """Puts the results of a study in the place of those that were kept of it, with the versions they were written by.

    Raises:
        InputError: ablate.py has written none.
    """
    if not (study / "summary.md").is_file():
        raise InputError(f"{study}: expected a study (summary.md), found none; run ablate.py first")
    folder = kept / study.name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in FILES:
        if (study / name).exists():
            shutil.copyfile(study / name, folder / name)
    if (study / "choices").exists():
        shutil.copytree(study / "choices", folder / "choices")


def region(summary: str, folder: str) -> list[str]:
    """The sections of a summary, two headings deeper, its plots looked for in a folder."""
    sections = summary[summary.index("## ") :].replace("](", f"]({folder}/")
    return ["", *("##" + line if line.startswith("## ") else line for line in sections.strip().splitlines()), ""]


def write_page(text: str, kept: Path) -> str:
    """The text of docs/findings.md with the tables of every study that it has a place for."""
    for path in sorted(kept.glob("*/summary.md")):
        name = path.parent.name
        if f"<!-- {name} -->" in text:
            lines = region(path.read_text(encoding="utf-8"), f"../benchmarks/results/ablations/{name}")
            text = replace_region(text, name, lines)
    return text


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="*", help="folders that ablate.py has filled")
    given = parser.parse_args()
    try:
        for study in given.studies:
            keep(study, KEPT)
        PAGE.write_text(write_page(PAGE.read_text(encoding="utf-8"), KEPT), encoding="utf-8")
    except InputError as error:
        sys.exit(f"findings: error: {error}")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
