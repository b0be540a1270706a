"""Sentences a second of predict.py, labels with neighbours, beside transformers' pipeline with the same tagger without them.

    python -m tools.throughput RUN [--sentences 20000] [--repeats 3]

RUN is the folder of a training and its evaluation. The texts of its test and train files, in random order and again from the
start until there are enough, are tagged by whole processes, which take turns: `predict.py --no-neighbours`, and PyTorch's
`pipeline` with each batch size, texts sorted by their length or not; the fastest of these counts. predict.py also tags a
tenth of the texts, which shows how its memory grows. Times are medians of the repeats, with the least and the most beside.
Results: benchmarks/results/throughput.json.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.run import describe_hardware
from benchmarks.whole import Measured, interleave, wait_for, with_cache
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.io import write_json
from knn_ner_jax.run_dir import TrainedModel, environment, load_evaluation
from tools.pages import RESULTS, ROOT

AIM = 1.5  # times the sentences a second of the pipeline


def peer(tagger: str, texts: str, batch_size: int, is_sorted: bool) -> None:
    """Tag the lines of a file with transformers' pipeline and print its entities, a line of JSON for each."""
    from transformers import pipeline

    lines = Path(texts).read_text(encoding="utf-8").splitlines()
    order = sorted(range(len(lines)), key=lambda number: len(lines[number])) if is_sorted else range(len(lines))
    tag = pipeline("token-classification", model=tagger, aggregation_strategy="first", batch_size=batch_size)
    entities = dict(zip(order, tag([lines[number] for number in order]), strict=True))
    for number in range(len(lines)):
        print(json.dumps(entities[number], default=float))


def write_texts(run: Path, number: int, path: Path) -> None:
    """Write sentences of test and train, words separated by blanks, one on each line."""
    config = load_evaluation(run).config
    corpus = read_corpus(DataConfig(config.data.dir, unseen_types="miss"))
    texts = [" ".join(each.words) for split in (corpus.test, corpus.train) for each in split.sentences]
    random.Random(0).shuffle(texts)
    path.write_text("".join(f"{text}\n" for text in itertools.islice(itertools.cycle(texts), number)), encoding="utf-8")


def measure(run: Path, number: int, batch_sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Measure all processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, tenth, tagger = folder / "texts", folder / "tenth", folder / "tagger"
        write_texts(run, number, texts)
        write_texts(run, number // 10, tenth)
        variables = with_cache(folder / "cache")
        wait_for([ROOT / "export.py", load_evaluation(run).config.run_dir, tagger], variables)

        def predict(_: Path, lines: Path) -> Measured:
            options: list[str | Path] = ["--tokens", "--no-neighbours", "--output=jsonl", "--input", lines]
            return wait_for([ROOT / "predict.py", run, *options], variables)[0]

        def pipeline(_: Path, batch_size: int, is_sorted: bool) -> Measured:
            options = [str(batch_size), "sorted" if is_sorted else "as given"]
            return wait_for(["-m", "tools.throughput", "--peer", tagger, texts, *options], variables)[0]

        predict(folder, tenth)  # compiles
        ways: dict[str, Callable[[Path], Measured]] = {
            "predict": partial(predict, lines=texts),
            "predict, a tenth": partial(predict, lines=tenth),
        }
        for size, is_sorted in itertools.product(batch_sizes, (False, True)):
            title = f"pipeline, {size} at a time" + ", sorted" * is_sorted
            ways[title] = partial(pipeline, batch_size=size, is_sorted=is_sorted)
        return interleave(ways, folder, repeats)


def describe(run: Path) -> dict[str, Any]:
    """Return the settings that labels come from, the rows of the datastore, and the size of the encoder."""
    evaluation = load_evaluation(run)
    encoder = TrainedModel.load(Path(evaluation.config.run_dir)).tagger.config
    sizes = {name: getattr(encoder, name) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")}
    rows = json.loads((run / "eval.json").read_text(encoding="utf-8"))["datastore"]["rows"]
    return {**evaluation.selected, "rows": rows, "encoder": sizes}


def summarize(processes: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """Return the median of the seconds of each way, the least and the most of them, and the ratio of medians."""
    all_seconds = {name: [one["seconds"] for one in measured] for name, measured in processes.items()}
    seconds = {name: statistics.median(each) for name, each in all_seconds.items()}
    best = min((name for name in seconds if name.startswith("pipeline")), key=lambda name: seconds[name])
    spread = {name: [min(each), max(each)] for name, each in all_seconds.items()}
    return {"best": best, "ratio": seconds[best] / seconds["predict"], "seconds": seconds, "spread": spread}


def main() -> None:
    """Measure, print and write the result."""
    if sys.argv[1:2] == ["--peer"]:
        tagger, texts, batch_size, order = sys.argv[2:]
        return peer(tagger, texts, int(batch_size), order == "sorted")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of an evaluation")
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="of the pipeline")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.json")
    arguments = parser.parse_args()
    processes = measure(arguments.run.resolve(), arguments.sentences, arguments.batch_sizes, arguments.repeats)
    summary = summarize(processes)
    for name, seconds in summary["seconds"].items():
        least, most = summary["spread"][name]
        peak = max(one["peak_mb"] for one in processes[name])
        print(f"{name:<32} {seconds:8.1f} s ({least:.1f} to {most:.1f}) {peak:8.0f} MiB")
    print(f"predict tags {summary['ratio']:.2f} times the sentences of {summary['best']!r} (aim: {AIM})")
    setting = {"sentences": arguments.sentences, "repeats": arguments.repeats} | describe(arguments.run) | summary
    write_json(arguments.output, setting | {"processes": processes, "hardware": describe_hardware(), **environment()})


if __name__ == "__main__":
    main()
