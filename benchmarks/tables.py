"""Results of `benchmarks.run` as Markdown: what was reached, tables of times and memory, and what has not been measured."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.pages import markdown

MeasuredPart = Mapping[str, Any]  # options; peers: name -> what it returned

NAMES = {
    "ours": "ours",
    "ours_bf16": "ours, bfloat16",
    "faiss": "FAISS",
    "pytorch": "PyTorch",
    "torch_eager_bf16": "PyTorch, bfloat16",
    "torch_compile": "torch.compile, bfloat16",
}
# Limits of the aims.
FAISS = {"k=8": 0.82, "k=64": 0.82, "k=1024": 0.75}  # XLA's bare product is about 0.89 of FAISS on CPU
TRAINING = {"pytorch": 1.0, "torch_eager_bf16": 1.3, "torch_compile": 1.0}
EVALUATION = 1.15  # of the time without neighbours
ALL = 1.5  # of the time of k 64
PEAK_MIB, PEAK_SPREAD = 512, 1.1


@dataclass(frozen=True)
class Aim:
    """A measured value and the limit it is to reach.

    Attributes:
        text: what was measured.
        value: what came out.
        limit: the least it should be, or the most.
        at_most: whether the limit is the most.
    """

    text: str
    value: float
    limit: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the value keeps to the limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def aims_table(aims: Sequence[Aim]) -> list[str]:
    """Tabulate what was measured against its limits."""
    rows = [[aim.text, f"{aim.limit:g}", f"{aim.value:.4g}", "yes" if aim.reached else "**no**"] for aim in aims]
    return markdown(["aim", "limit", "measured", "reached"], rows) if rows else []


def measured(part: MeasuredPart) -> dict[str, Any]:
    """Return the peers of a part that have results, by name, ours first."""
    return {name: result for name, result in part["peers"].items() if "left_out" not in result and "failed" not in result}


def parts_of(results: Mapping[str, Any], kind: str) -> list[MeasuredPart]:
    """Return the parts of a kind in which the first peer, ours, has results."""
    parts = [part for name, part in results["parts"].items() if name.split(" ")[0] == kind]
    return [part for part in parts if list(part["peers"])[:1] == list(measured(part))[:1] != []]


def ours(part: MeasuredPart) -> Any:
    """Return what the first peer returned."""
    return next(iter(part["peers"].values()))


def ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Return the peer's median time over ours: above 1 ours is faster."""
    return statistics.median(peer) / statistics.median(ours)


def _search_aims(part: MeasuredPart) -> Iterator[Aim]:
    peers, options = measured(part), part["options"]
    work = f"{options['rows']:,} x {options['dim']}"
    for name, result in peers["ours"].items():
        faiss, torch = (peers.get(peer, {}).get(name) for peer in ("faiss", "pytorch"))
        if faiss and name in FAISS:
            yield Aim(f"{work}, {name}: speed, of FAISS", ratio(result["seconds"], faiss["seconds"]), FAISS[name])
        if torch:
            yield Aim(f"{work}, {name}: speed, of PyTorch", ratio(result["seconds"], torch["seconds"]), 1.0)
    if len(both := [peers["ours"][k]["seconds"] for k in ("k=64", "k=all") if k in peers["ours"]]) == 2:
        yield Aim(f"{work}, k=all: time, of k=64", ratio(*both), ALL, at_most=True)


def _evaluation_aims(part: MeasuredPart) -> Iterator[Aim]:
    result = ours(part)
    words = f"labels of {result['words']:,} words"
    for weight, others in result["other_labels"].items():
        times = ratio(result["seconds"]["tagger"], result["seconds"][weight])
        yield Aim(f"{words}, knn_weight {weight}: time, of that without kNN", times, EVALUATION, at_most=True)
        yield Aim(f"{words}, knn_weight {weight}: other than a full search gives", others, 0, at_most=True)


def _memory_aims(parts: Sequence[MeasuredPart]) -> Iterator[Aim]:
    peaks, rows = [ours(part)["peak_mb"] for part in parts], [part["options"]["rows"] for part in parts]
    k = parts[0]["options"]["k"]
    yield Aim(f"largest peak memory beyond the keys, k = {k}, MiB", max(peaks), PEAK_MIB, at_most=True)
    if len(parts) > 1:
        text = f"largest over smallest peak, {min(rows):,} to {max(rows):,} rows"
        yield Aim(text, max(peaks) / max(min(peaks), 1.0), PEAK_SPREAD, at_most=True)


def aims(results: Mapping[str, Any]) -> list[Aim]:
    """Return every value that has a limit, with that limit."""
    all_aims = [aim for part in parts_of(results, "search") for aim in _search_aims(part)]
    all_aims += [aim for part in parts_of(results, "evaluation") for aim in _evaluation_aims(part)]
    if memory := parts_of(results, "memory"):
        all_aims += _memory_aims(memory)
    for part in parts_of(results, "tagging"):
        for peer, result in list(measured(part).items())[1:]:
            for work in ("forward", "train"):
                speed = ratio(ours(part)[work], result[work])
                all_aims.append(Aim(f"{work}: speed, of {NAMES[peer]}", speed, TRAINING[peer]))
    return all_aims


def duration(seconds: Sequence[float]) -> str:
    """Format the median, in seconds or milliseconds."""
    median = statistics.median(seconds)
    return f"{median:.2f} s" if median >= 0.1 else f"{1000 * median:.2f} ms"


def tagging_table(part: MeasuredPart) -> list[str]:
    """Tabulate tokens per second of training and forward pass."""
    peers = measured(part)
    first, *others = peers
    header = ["MiniLM-L6, batches of 16", *(NAMES[name] for name in peers)]
    header += [f"{NAMES[first]} over {NAMES[name]}" for name in others]
    rows = []
    for work in ("forward", "train"):
        rates = [f"{result['tokens'] / statistics.median(result[work]):,.0f}" for result in peers.values()]
        ratios = [f"{ratio(peers[first][work], peers[name][work]):.2f}" for name in others]
        rows.append([f"{work}, tokens/s", *rates, *ratios])
    return markdown(header, rows)


def search_table(part: MeasuredPart) -> list[str]:
    """Tabulate the time of every k, the peers' over ours, the bare product's share of ours, peak memory."""
    peers, options = measured(part), part["options"]
    others = list(peers)[1:]
    header = [f"{options['queries']} queries, {options['rows']:,} x {options['dim']} keys", *(NAMES[name] for name in peers)]
    header += [f"{NAMES[name]} / ours" for name in others] + ["product / ours", "peak beyond the keys, MiB"]
    rows = []
    for name, result in ours(part).items():
        having = {peer: peers[peer].get(name) for peer in peers}
        cells = [duration(one["seconds"]) if one else "" for one in having.values()]
        compared = [*(having[peer] for peer in others), None if name == "product" else ours(part).get("product")]
        cells += [f"{ratio(result['seconds'], one['seconds']):.2f}" if one else "" for one in compared]
        peaks = [f"{one['peak_mb']:,.0f}" if one and "peak_mb" in one else "-" for one in having.values()]
        rows.append([name, *cells, " / ".join(peaks)])
    return markdown(header, rows)


def memory_table(parts: Sequence[MeasuredPart]) -> list[str]:
    """Tabulate peak memory by the number of rows."""
    options = parts[0]["options"]
    header = [f"peak memory of a search beyond the keys, {options['queries']} queries, k = {options['k']}", "MiB"]
    return markdown(header, [[f"{p['options']['rows']:,} rows", f"{ours(p)['peak_mb']:,.0f}"] for p in parts])


def evaluation_table(part: MeasuredPart) -> list[str]:
    """Tabulate labels with neighbours beside labels without: time, words looked up, labels unlike a full search's."""
    result = ours(part)
    setting, seconds = result["setting"], result["seconds"]

    def times(name: str) -> list[str]:
        return [duration(seconds[name]), f"{ratio(seconds['tagger'], seconds[name]):.2f}"]

    header = [
        f"{result['corpus']}, {result['sentences']:,} sentences of test: {result['words']:,} words, "
        f"{result['rows']:,} rows, k {setting['k']}, {result['batch_size']} windows at a time",
        *("time", "x without kNN", "compared with all rows", "other labels than a full search"),
    ]
    rows = [["without kNN", *times("tagger"), "0", ""]]
    for name, searched in result["searched"].items():
        rows.append([f"labels, knn_weight {name}", *times(name), f"{searched:,}", f"{result['other_labels'][name]:,}"])
    if "full" in seconds:
        rows.append(["every word looked up, any knn_weight", *times("full"), f"{result['words']:,}", ""])
    return markdown(header, rows)


def missing(results: Mapping[str, Any]) -> Iterator[str]:
    """Return one line for everything that was not measured, and why."""
    for name, reason in results["left_out"].items():
        yield f"Not measured: {name}; {reason}."
    for name, part in results["parts"].items():
        for peer, result in part["peers"].items():
            for what in ("left_out", "failed"):
                if what in result:
                    yield f"Not measured: {NAMES.get(peer, peer)} in {name}; {result[what]}."


def machine(results: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> str:
    """Return the name of a machine, the versions of packages on it, and the revisions that parts were measured at."""
    packages = [f"{name} {version}" for name, version in results["hardware"]["packages"].items() if version]
    revisions = (part.get("git_revision") or "unknown" for part in parts)
    shown = " and ".join(sorted({one[:7] + "+changes" * one.endswith("+changes") for one in revisions}))
    return ", ".join([results["hardware"]["name"], *packages, f"revision {shown}"])


def page(results: Mapping[str, Any]) -> list[str]:
    """Return everything about one machine, in lines of Markdown."""
    repeats = " or ".join(sorted({str(p["options"]["repeats"]) for n, p in results["parts"].items() if "memory" not in n}))
    lines = [
        f"{machine(results, results['parts'].values())}; medians of {repeats}.",
        "",
        *aims_table(aims(results)),
    ]
    tables = {"tagging": tagging_table, "search": search_table, "evaluation": evaluation_table}
    for kind, table in tables.items():
        lines += [line for part in parts_of(results, kind) for line in table(part)]
    if memory := parts_of(results, "memory"):
        lines += memory_table(memory)
    return [*lines, *(line for reason in missing(results) for line in (reason, ""))]
