"""What a grid of settings costs beside one evaluation, on the dev split of a trained and evaluated run.

    python -m benchmarks.grid RUN

One evaluation: encode, search and score with seqeval. The grid: 1,000 settings of k, temperature and knn_weight, scored on
device from the result of that search. Writes `results/grid.json`.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from benchmarks.trained import EvaluatedRun, open_run
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


def _search(run: EvaluatedRun, split: EncodedSplit, temperatures: Sequence[float] | None) -> Cache:
    return run.knn_tagger.retrieve(split, GRID.largest_k, run.setting.metric, temperatures)


def _evaluate(run: EvaluatedRun, split: EncodedSplit) -> None:
    """Search and score once, with one setting and neighbours alone: what `all` needs beside them is left out."""
    cache = _search(run, split, None)
    labels = run.knn_tagger.label_split(split, replace(run.setting, k=GRID.largest_k), cache)
    names, bounds = np.array(run.knn_tagger.label_set.names, object), np.flatnonzero(np.diff(split.sentence_ids)) + 1
    predicted = [part.tolist() for part in np.split(names[labels.knn], bounds)]
    metrics.score([sentence.tags for sentence in run.splits["dev"].sentences], predicted)


def measure(folder: Path) -> dict[str, Any]:
    """Time one evaluation and the grid on dev, compiled before the clock starts; medians of 3."""
    run = open_run(folder)
    split = run.encode("dev")
    label_set = run.knn_tagger.label_set.union(LabelSet.of(s.tags for s in run.splits["dev"].sentences))
    cache = _search(run, split, GRID.temperature)
    works = {
        "evaluation": lambda: _evaluate(run, split),
        "grid": lambda: tuning.run_grid(cache, split, label_set, GRID, run.setting.metric),
    }
    seconds = {name: statistics.median(measuring.seconds(work, REPEATS)) for name, work in works.items()}
    return {
        "corpus": run.corpus,
        "words": split.num_words,
        "rows": run.knn_tagger.num_rows,
        "settings": len(GRID.k) * len(GRID.temperature) * len(GRID.knn_weight),
        "seconds": seconds,
        "grid_over_evaluation": seconds["grid"] / seconds["evaluation"],
        **environment(),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder that train.py and eval.py have filled")
    result = measure(parser.parse_args().run)
    write_json(RESULT, result)
    print(f"{result['settings']} settings: {result['grid_over_evaluation']:.2f} x one evaluation")


if __name__ == "__main__":
    main()
