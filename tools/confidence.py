"""How calibrated scores are, of finished evaluations: what benchmarks/results/confidence.json and docs/confidence.md say.

python -m tools.confidence NAME EVAL_DIR    # adds an evaluation, or replaces it
python -m tools.confidence                  # writes the page again
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knn_ner_jax.io import write_json, write_text
from tools.pages import RESULTS, ROOT, markdown, replace_region

RECORD = RESULTS / "confidence.json"
PAGE = ROOT / "docs" / "confidence.md"


def lines(records: Mapping[str, Any]) -> list[str]:
    """Return the tables of errors and of thresholds."""
    header = ["evaluation", "method", "entities of dev", "of test"]
    header += [f"ECE on {split}, {when}" for split in ("dev", "test") for when in ("before", "after")]
    rows = [
        [
            *(name, record["method"], *(str(record[split]["entities"]) for split in ("dev", "test"))),
            *(f"{record[split][f'ece_{when}']:.1f}" for split in ("dev", "test") for when in ("before", "after")),
        ]
        for name, record in records.items()
    ]
    tables = markdown(header, rows)
    for name, record in records.items():
        points = zip(record["dev"]["precision_at_recall"], record["test"]["precision_at_recall"], strict=True)
        reached = [
            [
                str(row[0]["recall"]),
                *("–" if point[what] is None else f"{point[what]:{spec}}" for point in row for what, spec in COLUMNS),
            ]
            for row in points
            if any(point["threshold"] is not None for point in row)
        ]
        tables += [f"{name}, precision at recall:", ""]
        tables += markdown(["recall", *(f"{what}, {split}" for split in ("dev", "test") for what, _ in COLUMNS)], reached)
    return tables[:-1]


COLUMNS = (("precision", ".1f"), ("threshold", ".3f"))


def write_page(text: str, records: Mapping[str, Any]) -> str:
    """Return the page with the tables of these records."""
    return replace_region(text, "confidence", lines(records))


def main() -> None:
    """Add an evaluation where one is given, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="what to call the evaluation")
    parser.add_argument("eval_dir", nargs="?", type=Path, help="where eval wrote eval.json")
    options = parser.parse_args()
    records = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if options.eval_dir is not None:
        result = json.loads((options.eval_dir / "eval.json").read_text(encoding="utf-8"))
        kept = ("selected", "weights", "git_revision")
        records[options.name] = result["calibration"] | {name: result[name] for name in kept}
        write_json(RECORD, records)
    write_text(PAGE, write_page(PAGE.read_text(encoding="utf-8"), records))


if __name__ == "__main__":
    main()
