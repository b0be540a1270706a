"""A check that the labels of a run are those of a search of all rows for every word, on every word of dev and test.

    python -m tools.same_labels RUN

What saves searches (the margin, pruning) must change no label. Every split is searched in full with the k that dev chose
and with `all`, and tagged with several weights. Killed and started again it continues: a finished row is not repeated.
Results of all runs together: benchmarks/results/same_labels.json and same_labels.md.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluating import EvaluatedRun, mixed_by_full_search, open_run
from benchmarks.run import WEIGHTS
from knn_ner_jax.config import K
from knn_ner_jax.io import write_json
from knn_ner_jax.models.pretrained import fingerprint
from knn_ner_jax.run_dir import environment
from tools.pages import RESULTS, markdown

NEAR_TIE = 1e-5  # two float32 searches may order probabilities otherwise that are no further apart

Row = dict[str, Any]


def compare(labels: np.ndarray, mixed: np.ndarray) -> dict[str, int]:
    """Count how many labels differ from those of the full search, and for how many of them the two are as good as equal.

    Args:
        labels: [words] label ids.
        mixed: [words, labels] probabilities by the full search.
    """
    words = np.arange(len(labels))
    behind = mixed.max(axis=1) - mixed[words, labels]
    differing = labels != mixed.argmax(axis=1)
    return {"differing": int(differing.sum()), "near_ties": int((differing & (behind <= NEAR_TIE)).sum())}


def _identity(run: EvaluatedRun, split: str, sentences: int | None, k: K, weight: float) -> Row:
    """Return what a row is about; of two rows these fields differ."""
    setting = asdict(replace(run.setting, k=k, knn_weight=weight))
    count = len(run.splits[split].sentences[:sentences])
    row = {"corpus": run.corpus, "tagger": fingerprint(run.knn_tagger.params), "split": split, "sentences": count}
    return row | setting


def check(run: EvaluatedRun, sentences: int | None, weights: Sequence[float], done: Sequence[Row]) -> Iterator[Row]:
    """Compute the rows that are not done yet.

    Args:
        run: tagger, datastore and splits.
        sentences: the first of each split; None: all.
        weights: of the vote.
        done: rows of earlier calls.
    """
    for split in ("dev", "test"):
        encoded = run.encode(split, sentences)
        for k in dict.fromkeys((run.setting.k, "all")):
            identities = {weight: _identity(run, split, sentences, k, weight) for weight in weights}
            missing = [weight for weight, row in identities.items() if not any(row.items() <= one.items() for one in done)]
            if not missing:
                continue
            setting = replace(run.setting, k=k)
            mixed = mixed_by_full_search(run.knn_tagger, setting, encoded, missing)
            for weight in missing:
                tagged = run.knn_tagger.label_split(encoded, replace(setting, knn_weight=weight))
                counts = {"words": encoded.num_words, "rows": run.knn_tagger.num_rows}
                counts |= {"at_border": tagged.at_border, "searched": tagged.searched}
                counts |= compare(tagged.knn, mixed[weight])
                yield identities[weight] | counts | {"git_revision": environment()["git_revision"]}


def table(rows: Sequence[Row]) -> str:
    """Format a Markdown table of all rows."""
    header = ["corpus, split", "k", "temperature", "knn_weight", "words", "rows", "looked up among the border"]
    header += ["among all rows", "labels that differ", f"of them near-ties ({NEAR_TIE:g})"]
    lines = [
        [
            *(f"{row['corpus']} {row['split']}", str(row["k"]), f"{row['temperature']:g}", f"{row['knn_weight']:g}"),
            *(f"{row[name]:,}" for name in ("words", "rows", "at_border", "searched", "differing", "near_ties")),
        ]
        for row in rows
    ]
    return "\n".join(markdown(header, lines))


def main() -> None:
    """Compare and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder that train.py has filled")
    parser.add_argument("--evaluation", type=Path, help="a folder that eval.py has filled; without it RUN")
    parser.add_argument("--sentences", type=int, help="only the first of each split")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the results are, and are written")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / "same_labels.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for row in check(open_run(arguments.run, arguments.evaluation), arguments.sentences, WEIGHTS, tuple(rows)):
        rows.append(row)
        write_json(path, rows)
        path.with_suffix(".md").write_text(table(rows), encoding="utf-8")
        print(row, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
