"""Keeps what studies found: tables, trials, selections and plots go to `results/ablations`, summaries into docs/findings.md.

    python -m benchmarks.findings runs/ablations/low_resource_wnut17 ...

A study may be unfinished: its summary says how many seeds each number has. Without arguments docs/findings.md is written
again from what is there. Its table of answers takes its numbers from the summaries of the studies of keys.
"""

import argparse
import itertools
import shutil
import sys
from pathlib import Path

from benchmarks.report import ROOT, replace_region
from knn_ner_jax.ablation.report import GAIN, PREFERRED, UNFINISHED
from knn_ner_jax.ablation.store import PLOTS, TEST_LOG
from knn_ner_jax.io import InputError
from knn_ner_jax.report.document import Table, markdown_table, read_markdown_row

KEPT = ROOT / "benchmarks" / "results" / "ablations"
PAGE = ROOT / "docs" / "findings.md"
FILES = ("study.environment.json", TEST_LOG, "summary.md", "scores.csv", "breakdown.csv", "trials.parquet", *PLOTS)

KEY_STUDIES = {"key_wnut17": "WNUT-17", "key_bc5cdr": "BC5CDR"}
ANSWERS = (
    *("corpus", "condition", "tagger", "the paper's key [95%]", "key selected on dev", "its gain [95%]"),
    *("with the combiner [95%]", "method that dev prefers"),
)


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
    if (study / "selected").exists():
        shutil.copytree(study / "selected", folder / "selected")


def region(summary: str, folder: str) -> list[str]:
    """The sections of a summary, two headings deeper, its plots looked for in a folder."""
    sections = summary[summary.index("## ") :].replace("](", f"]({folder}/")
    return [
        "",
        *([UNFINISHED, ""] if UNFINISHED in summary else ()),
        *("##" + line if line.startswith("## ") else line for line in sections.strip().splitlines()),
        "",
    ]


def _table(summary: str, heading: str) -> list[list[str]]:
    """The first table under a heading: its header, then its rows."""
    lines = summary.partition(f"\n## {heading}\n")[2].splitlines()
    table = itertools.takewhile(
        lambda line: line.startswith("|"), itertools.dropwhile(lambda line: not line.startswith("|"), lines)
    )
    header, _, *rows = map(read_markdown_row, table)
    return [header, *rows]


def answers(kept: Path) -> list[str]:
    """Return the gains of the paper's key, the key that dev selected and a combiner, by corpus and condition."""
    rows_of_all = []
    for study, corpus in KEY_STUDIES.items():
        path = kept / study / "summary.md"
        text = path.read_text(encoding="utf-8") if path.exists() else UNFINISHED
        if UNFINISHED in text:
            continue
        header, *rows = _table(text, "Test")
        one_weight, combiner = (number for number, name in enumerate(header) if name == GAIN)
        prefers = header.index(PREFERRED)
        for condition in dict.fromkeys(row[0] for row in rows):
            of_condition = [row for row in rows if row[0] == condition]
            reference, selected = of_condition[0], of_condition[-1]
            key = "the paper's" if selected is reference else selected[1]
            gains = key, selected[one_weight], selected[combiner], selected[prefers]
            rows_of_all.append([corpus, condition, reference[3], reference[one_weight], *gains])
    return markdown_table(Table.of(ANSWERS, rows_of_all, 2))[:-1]


def write_page(text: str, kept: Path) -> str:
    """The text of docs/findings.md with the answers, and the tables of every study, that it has a place for."""
    regions = {"answers": ["", *answers(kept), ""]}
    for path in sorted(kept.glob("*/summary.md")):
        name = path.parent.name
        regions[name] = region(path.read_text(encoding="utf-8"), f"../benchmarks/results/ablations/{name}")
    for name, lines in regions.items():
        if f"<!-- {name} -->" in text:
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
