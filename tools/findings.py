"""Results of studies: tables, trials, selections and plots go to `results/ablations`, summaries to docs/findings.md.

    python -m tools.findings runs/ablations/low_resource_wnut17 ...

A study may be unfinished: its summary says how many seeds each number has. Without arguments both pages are written
again from what is there. Its table of answers takes its numbers from the summaries of the studies of keys.
"""

import argparse
import itertools
import shutil
import sys
from pathlib import Path

from knn_ner_jax.ablation.report import GAIN, PREFERRED, UNFINISHED
from knn_ner_jax.ablation.store import PLOTS, TEST_LOG
from knn_ner_jax.io import InputError
from knn_ner_jax.report.document import Table, markdown_table, read_markdown_row
from tools import pages
from tools.pages import ROOT, replace_region

RESULTS = pages.RESULTS / "ablations"
PAGE, README = ROOT / "docs" / "findings.md", ROOT / "README.md"
TABLES = ("scores.csv", "breakdown.csv", "trials.parquet")
FILES = ("study.environment.json", TEST_LOG, "summary.md", *TABLES, *PLOTS)

KEY_STUDIES = {"key_wnut17": "WNUT-17", "key_bc5cdr": "BC5CDR"}
ANSWERS = (
    *("corpus", "condition", "tagger", "the paper's key [95%]", "key selected on dev", "its gain [95%]"),
    *("with the adaptive combiner [95%]", "dev prefers"),
)
# The rows of the README's table: study, condition in it, corpus, what the tagger was trained on.
IN_BRIEF = (
    ("key_wnut17", "data.train_fraction 1.0, train.epochs 5", "WNUT-17", "all of train"),
    ("key_wnut17", "data.train_fraction 0.2, train.epochs 10", "WNUT-17", "20% of train"),
    ("key_bc5cdr", "data.train_fraction 1.0, train.epochs 2", "BC5CDR", "all of train"),
    ("key_bc5cdr", "data.train_fraction 0.1, train.epochs 6", "BC5CDR", "10% of train"),
    ("cross_domain_politics", "datastore.fraction 1.0", "CrossNER politics", "another domain; datastore: 200 sentences"),
    ("cross_domain_science", "datastore.fraction 1.0", "CrossNER science", "another domain; datastore: 200 sentences"),
)


def copy_results(study: Path, results: Path) -> None:
    """Copy the results of a study, with the versions they were written by, over those of an earlier run of it.

    Raises:
        InputError: ablate.py has written none.
    """
    if not (study / "summary.md").is_file():
        raise InputError(f"{study}: expected a study (summary.md), found none; run ablate.py first")
    folder = results / study.name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in FILES:
        if (study / name).exists():
            shutil.copyfile(study / name, folder / name)
    if (study / "selected").exists():
        shutil.copytree(study / "selected", folder / "selected")


def region(summary: str, folder: str) -> list[str]:
    """Return the sections of a summary, two headings deeper, its plots looked for in a folder."""
    sections = summary[summary.index("## ") :].replace("](", f"]({folder}/")
    return [
        "",
        *([UNFINISHED, ""] if UNFINISHED in summary else ()),
        *("##" + line if line.startswith("## ") else line for line in sections.strip().splitlines()),
        "",
    ]


def _table(summary: str, heading: str) -> list[list[str]]:
    """Read the first table under a heading: its header, then its rows."""

    def is_row(line: str) -> bool:
        return line.startswith("|")

    lines = summary.partition(f"\n## {heading}\n")[2].splitlines()
    table = itertools.takewhile(is_row, itertools.dropwhile(lambda line: not is_row(line), lines))
    header, _, *rows = map(read_markdown_row, table)
    return [header, *rows]


def answers(results: Path) -> list[str]:
    """Tabulate what the paper's key, dev's key and the adaptive combiner gain in finished studies, by condition."""
    rows_of_all = []
    for study, corpus in KEY_STUDIES.items():
        path = results / study / "summary.md"
        text = path.read_text(encoding="utf-8") if path.exists() else UNFINISHED
        if UNFINISHED in text:
            continue
        header, *rows = _table(text, "Test")
        one_weight, adaptive = (number for number, name in enumerate(header) if name == GAIN)
        prefers = header.index(PREFERRED)
        for condition in dict.fromkeys(row[0] for row in rows):
            of_condition = [row for row in rows if row[0] == condition]
            reference, selected = of_condition[0], of_condition[-1]
            key = "the paper's" if selected is reference else selected[1]
            gains = key, selected[one_weight], selected[adaptive], selected[prefers]
            rows_of_all.append([corpus, condition, reference[3], reference[one_weight], *gains])
    return markdown_table(Table.of(ANSWERS, rows_of_all, 2))[:-1]


def in_brief(results: Path) -> list[str]:
    """Tabulate what the paper's key gains, for the README."""
    rows = []
    for study, condition, corpus, trained_on in IN_BRIEF:
        table = _table((results / study / "summary.md").read_text(encoding="utf-8"), "Test")
        reference = next(row for row in table[1:] if row[0] == condition)
        rows.append([corpus, trained_on, *reference[3:6]])
    header = ["corpus", "tagger trained on", "tagger", "kNN-NER", GAIN]
    return markdown_table(Table.of(header, rows, 2))[:-1]


def write_readme(text: str, results: Path) -> str:
    """Return the text of README.md with its table of results."""
    return replace_region(text, "results", ["", *in_brief(results), ""])


def write_page(text: str, results: Path) -> str:
    """Return the text of docs/findings.md with the answers, and the tables of every study, that it has a place for."""
    regions = {"answers": ["", *answers(results), ""]}
    for path in sorted(results.glob("*/summary.md")):
        name = path.parent.name
        regions[name] = region(path.read_text(encoding="utf-8"), f"../benchmarks/results/ablations/{name}")
    for name, lines in regions.items():
        if f"<!-- {name} -->" in text:
            text = replace_region(text, name, lines)
    return text


def main() -> None:
    """Copy the results of studies and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="*", help="folders that ablate.py has filled")
    arguments = parser.parse_args()
    try:
        for study in arguments.studies:
            copy_results(study, RESULTS)
        for path, write in ((PAGE, write_page), (README, write_readme)):
            path.write_text(write(path.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    except InputError as error:
        sys.exit(f"findings: error: {error}")
    print(f"wrote {PAGE} and {README}")


if __name__ == "__main__":
    main()
