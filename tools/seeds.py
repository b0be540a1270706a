"""One configuration, trained and evaluated with several seeds: a table of means and spreads.

    python -m tools.seeds --name wnut17_minilm --seeds 0 1 2 -- --config configs/wnut17_minilm.yaml --data.dir DIR

Every seed is trained once and evaluated with each key in KEYS. Killed and started again it continues: a finished part is
not repeated. Results: benchmarks/results/NAME.json and NAME.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools.pages import RESULTS

KEYS: dict[str, list[str]] = {"last layer": [], "last layer, whitened to 64": ["--datastore.whitening_dim", "64"]}


def run(program: str, arguments: list[str]) -> None:
    """Run a script of the repository; raise where it fails."""
    subprocess.run([sys.executable, program, *arguments], check=True)


def evaluate_seed(folder: Path, seed: int, arguments: list[str]) -> dict[str, Any]:
    """Train and evaluate one seed, as far as that has not been done; return scores and settings by key."""
    common = [*arguments, "--seed", str(seed), "--run_dir", str(folder)]
    started = time.perf_counter()
    trained_before = (folder / "train.json").exists()
    run("train.py", common)
    if not trained_before:
        (folder / "minutes.json").write_text(json.dumps((time.perf_counter() - started) / 60))
    minutes = folder / "minutes.json"
    row: dict[str, Any] = {
        "seed": seed,
        "training_minutes": json.loads(minutes.read_text(encoding="utf-8")) if minutes.exists() else None,
    }
    for name, extra in KEYS.items():
        eval_dir = folder / name.replace(",", "").replace(" ", "_")
        run("eval.py", [*common, *extra, "--eval_dir", str(eval_dir)])
        result = json.loads((eval_dir / "eval.json").read_text())
        row[name] = {field: result[field] for field in ("selected", "selected_on", "seconds", "git_revision", "device")}
        for split in ("dev", "test"):
            scores = result[split]
            row[name][split] = {
                method: {score: scores[method][score] for score in ("precision", "recall", "f1", "f1_default")}
                for method in ("tagger", "knn")
            }
    return row


def mean_and_spread(values: list[float]) -> str:
    """Format `mean ± sample standard deviation`; one value has none."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def page(name: str, rows: list[dict[str, Any]]) -> str:
    """Return the page of a configuration: strict F1 on dev and test, and the gain over tagger on test seed by seed."""

    def scores(key: str, split: str, method: str) -> list[float]:
        return [row[key][split][method]["f1"] for row in rows]

    first = next(iter(KEYS))
    minutes = sorted({f"{row['training_minutes']:.0f}" for row in rows if row["training_minutes"] is not None}, key=int)
    spent = f", {' to '.join([minutes[0], *minutes[1:][-1:]])} minutes of training each" if minutes else ""
    lines = [f"# `{name}`, {len(rows)} seed{'s' * (len(rows) > 1)}{spent}", ""]
    lines += ["| method | dev F1 | test F1 | test gain by seed |", "|---|--:|--:|---|"]
    tagger = scores(first, "test", "tagger")
    lines.append(f"| tagger | {mean_and_spread(scores(first, 'dev', 'tagger'))} | {mean_and_spread(tagger)} | |")
    for key in KEYS:
        test = scores(key, "test", "knn")
        gains = [knn - plain for knn, plain in zip(test, tagger, strict=True)]
        cells = f"{mean_and_spread(scores(key, 'dev', 'knn'))} | {mean_and_spread(test)}"
        listed = ", ".join(f"{gain:+.1f}" for gain in gains)
        mean = f" (mean {statistics.mean(gains):+.1f})" if len(gains) > 1 else ""
        lines.append(f"| kNN-NER, {key} | {cells} | {listed}{mean} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, evaluate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the result files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("arguments", nargs="+", help="after --: what train.py and eval.py get")
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        rows.append(evaluate_seed(arguments.runs / arguments.name / f"seed{seed}", seed, arguments.arguments))
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{arguments.name}.json").write_text(json.dumps(rows, indent=2) + "\n")
        (RESULTS / f"{arguments.name}.md").write_text(page(arguments.name, rows))
    print(page(arguments.name, rows))


if __name__ == "__main__":
    main()
