"""Tables of results: those of `benchmarks.whole` and `benchmarks.run` in benchmarks/README.md.

python -m benchmarks.report
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.tables import Aim
from knn_ner_jax.io import InputError
from tools.pages import RESULTS, ROOT, markdown, replace_region

README = ROOT / "benchmarks" / "README.md"
# Columns of whole evaluations: stages of eval.py and of the peer; what is left of the process is its start and the rest.
STAGES = {
    "build": ("build_datastore", "encode_train"),
    "tune": ("tune", "encode_dev", "search_dev"),
    "compile for test": ("compile",),
    "label dev and test": ("dev", "test", "score", "calibrate", "encode_test", "search_test", "score_test"),
    "page": ("explore",),
}
ROWS = {
    "cold": "eval.py, nothing compiled yet",
    "warm": "eval.py, compiled before",
    "base": "eval.py of an earlier build, nothing compiled yet",
    "FAISS": "by hand, PyTorch and FAISS",
    "PyTorch": "by hand, PyTorch alone",
}
COLD, WARM, BASE, TRAIN, PREDICT = 0.6, 0.5, 0.4, 1.3, 3.0  # limits


def _median(processes: Sequence[Mapping[str, Any]], name: str = "seconds") -> float:
    return statistics.median(one[name] for one in processes)


def whole_aims(results: Mapping[str, Any]) -> Iterator[Aim]:
    """Return the times of whole processes that have a limit, with that limit."""
    processes = results.get("eval", {}).get("processes", {})
    seconds = {name: _median(repeats) for name, repeats in processes.items()}
    if seconds:
        peers = [name for name in ("FAISS", "PyTorch") if name in seconds]
        peer, of = min(seconds[name] for name in peers), "the faster peer" if len(peers) > 1 else f"the peer with {peers[0]}"
        yield Aim(f"eval, nothing compiled: time, of {of}", seconds["cold"] / peer, COLD, at_most=True)
        yield Aim(f"eval, compiled before: time, of {of}", seconds["warm"] / peer, WARM, at_most=True)
        if "base" in seconds:
            yield Aim("eval, nothing compiled: of an earlier build", seconds["cold"] / seconds["base"], BASE, at_most=True)
        yield Aim("predict, one sentence, compiled before: seconds", seconds["predict"], PREDICT, at_most=True)
    if "train" in results:
        cold, peer = (_median(results["train"]["processes"][name]) for name in ("cold", "PyTorch"))
        yield Aim("train, nothing compiled: speed, of a PyTorch loop", peer / cold, TRAIN)


def _stages(measured: Mapping[str, Any]) -> dict[str, float]:
    known = {column: sum(measured["stages"].get(name, 0.0) for name in names) for column, names in STAGES.items()}
    return {"start, load, rest": measured["seconds"] - sum(known.values()), **known}


def whole_page(results: Mapping[str, Any]) -> list[str]:
    """Return everything about the whole processes on one corpus and machine, in lines of Markdown."""
    machine = tables.machine(results, (results[program] for program in ("eval", "train") if program in results))
    lines = [f"### {results['corpus']}, {results['hardware']['name']}", "", f"{machine}.", ""]
    lines += tables.aims_table(list(whole_aims(results)))
    if "eval" in results:
        part = results["eval"]
        columns = ["start, load, rest", *STAGES]
        rows = []
        for name in filter(part["processes"].get, ROWS):
            repeats = part["processes"][name]
            staged = [_stages(one) for one in repeats]
            cells = [_median(repeats), *(_median(staged, column) for column in columns), _median(repeats, "cpu_seconds")]
            rows.append([ROWS[name], *(f"{seconds:.1f}" for seconds in cells), f"{_median(repeats, 'peak_mb'):,.0f}"])
        header = [f"evaluation, {part['rows']:,} x {part['dim']} keys, seconds", "whole", *columns, "processor", "peak, MiB"]
        lines += markdown(header, rows)
        same = "Every process chose the same setting and reached the same F1 on dev and test, to two digits."
        lines += [line for text in part["differences"] or [same] for line in (text, "")]
    if "train" in results:
        part = results["train"]
        title = f"training, {part['epochs']} epochs, {part['batch_size']} sentences a step"
        header = [title, "seconds", "processor", "dev F1"]
        rows = []
        for name, text in {"cold": "train.py, nothing compiled yet", "PyTorch": "by hand, PyTorch"}.items():
            repeats = part["processes"][name]
            f1 = statistics.median(one["f1"]["dev"] for one in repeats)
            rows.append([text, f"{_median(repeats):.1f}", f"{_median(repeats, 'cpu_seconds'):.1f}", f"{f1:.1f}"])
        lines += markdown(header, rows)
    return lines


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read the results of every machine, by the name of the file."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def readme(text: str, results: Path = RESULTS) -> str:
    """Return the text of benchmarks/README.md with a section for each file of results."""
    whole = [line for one in read_results(results / "whole") for line in whole_page(one)]
    text = replace_region(text, "whole", ["", *whole])
    speed = [
        line
        for one in read_results(results / "speed")
        for line in ("", f"### {one['hardware']['name']}", "", *tables.page(one))
    ]
    return replace_region(text, "speed", speed)


def main() -> None:
    """Write the page."""
    try:
        README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    except InputError as error:
        sys.exit(f"report: {README}: {error}")
    print(f"wrote {README}")


if __name__ == "__main__":
    main()
