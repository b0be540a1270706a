"""What a grid of settings costs beside one evaluation, on the dev split of a trained and evaluated run.

    python -m benchmarks.grid RUN

One evaluation: encode, search and score with seqeval. The grid: 1,000 settings of k, temperature and knn_weight, scored on
device from what that one search found. Writes `results/grid.json`.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from benchmarks.trained import OpenedRun, open_run
from knn_ner_jax import metrics
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.io import write_json
from knn_ner_jax.knn.combine import Cache
from knn_ner_jax.run_dir import environment

REPEATS = 3
RESULT = Path(__file__).parent / "results" / "grid.json"
GRID = tuning.Grid(
    k=(1, 2, 4, 8, 16, 32, 64, 128, 256, "all"),
    temperature=tuple(float(value) for value in np.geomspace(0.003, 1.0, 10)),
    knn_weight=tuple(step / 10 for step in range(1, 11)),
)


def _search(opened: OpenedRun, split: EncodedSplit, temperatures: Sequence[float] | None) -> Cache:
    return opened.knn_tagger.retrieve(split, GRID.largest_k, opened.setting.metric, temperatures)


def _evaluate(opened: OpenedRun, split: EncodedSplit) -> None:
    """One setting, with neighbours alone: what `all` needs beside them is left out."""
    cache = _search(opened, split, None)
    labels = opened.knn_tagger.label_split(split, replace(opened.setting, k=GRID.largest_k), cache)
    names, bounds = np.array(opened.knn_tagger.label_set.names, object), np.flatnonzero(np.diff(split.sentence_ids)) + 1
    predicted = [part.tolist() for part in np.split(names[labels.knn], bounds)]
    metrics.score([sentence.tags for sentence in opened.splits["dev"].sentences], predicted)


def measure(run: Path) -> dict[str, Any]:
    """Seconds of one evaluation and of the grid on dev, compiled before the clock starts; medians of 3."""
    opened = open_run(run)
    split = opened.encode("dev")
    label_set = opened.knn_tagger.label_set.union(LabelSet.of(s.tags for s in opened.splits["dev"].sentences))
    cache = _search(opened, split, GRID.temperature)
    works = {
        "evaluation": lambda: _evaluate(opened, split),
        "grid": lambda: tuning.run_grid(cache, split, label_set, GRID, opened.setting.metric),
    }
    seconds = {name: statistics.median(measuring.seconds(work, REPEATS)) for name, work in works.items()}
    return {
        "corpus": opened.corpus,
        "words": split.num_words,
        "rows": opened.knn_tagger.num_rows,
        "settings": len(GRID.k) * len(GRID.temperature) * len(GRID.knn_weight),
        "seconds": seconds,
        "grid_over_evaluation": seconds["grid"] / seconds["evaluation"],
        **environment(),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder that train.py and eval.py have filled")
    found = measure(parser.parse_args().run)
    write_json(RESULT, found)
    print(f"{found['settings']} settings: {found['grid_over_evaluation']:.2f} x one evaluation")


if __name__ == "__main__":
    main()
