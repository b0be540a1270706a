"""Results as Markdown tables; what has not been measured has no table, and a peer that was left out no column."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.aims import aims
from benchmarks.reading import NAMES, measured, ours, parts_of, ratio
from tools.pages import markdown


def duration(seconds: Sequence[float]) -> str:
    """Format the median, in seconds or milliseconds."""
    median = statistics.median(seconds)
    return f"{median:.2f} s" if median >= 0.1 else f"{1000 * median:.2f} ms"


def tagging_table(part: Mapping[str, Any]) -> list[str]:
    """Tabulate tokens per second of training and forward pass."""
    peers = measured(part)
    first, *others = peers
    header = ["MiniLM-L6, length-bucketed batches of 16", *(NAMES[name] for name in peers)]
    header += [f"{NAMES[first]} over {NAMES[name]}" for name in others]
    rows = []
    for work in ("forward", "train"):
        rates = [f"{result['tokens'] / statistics.median(result[work]):,.0f}" for result in peers.values()]
        ratios = [f"{ratio(peers[first][work], peers[name][work]):.2f}" for name in others]
        rows.append([f"{work}, tokens/s", *rates, *ratios])
    return markdown(header, rows)


def search_table(part: Mapping[str, Any]) -> list[str]:
    """Tabulate the time of every k, the peers' over ours, the bare product's share of ours, peak memory."""
    peers, options = measured(part), part["options"]
    others = list(peers)[1:]
    header = [f"{options['queries']} queries, {options['rows']:,} x {options['dim']} keys", *(NAMES[name] for name in peers)]
    header += [f"{NAMES[name]} / ours" for name in others] + ["product / ours", "peak beyond the keys, MiB"]
    rows = []
    for name, result in ours(part).items():
        having = {peer: peers[peer].get(name) for peer in peers}
        cells = [duration(one["seconds"]) if one else "" for one in having.values()]
        cells += [f"{ratio(result['seconds'], having[peer]['seconds']):.2f}" if having[peer] else "" for peer in others]
        product = ours(part).get("product bfloat16" if name.endswith("bfloat16") else "product")
        is_search = product is not None and not name.startswith("product")
        cells.append(f"{ratio(result['seconds'], product['seconds']):.2f}" if is_search else "")
        peaks = [f"{one['peak_mb']:,.0f}" if one and "peak_mb" in one else "-" for one in having.values()]
        rows.append([name, *cells, " / ".join(peaks)])
    return markdown(header, rows)


def memory_table(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tabulate peak memory by the number of rows."""
    options = parts[0]["options"]
    header = [f"peak memory of a search beyond the keys, {options['queries']} queries, k = {options['k']}", "MiB"]
    return markdown(header, [[f"{p['options']['rows']:,} rows", f"{ours(p)['peak_mb']:,.0f}"] for p in parts])


def build_table(part: Mapping[str, Any]) -> list[str]:
    """Tabulate tokens per second of building beside the forward pass."""
    result, options = ours(part), part["options"]
    rates = {work: f"{result['tokens'] / statistics.median(result[work]):,.0f}" for work in ("forward", "build")}
    header = [f"{options['encoder']}, {options['dtype']}, {result['tokens']:,} tokens", "tokens/s", "of the forward pass"]
    share = f"{ratio(result['build'], result['forward']):.2f}"
    return markdown(header, [["forward pass alone", rates["forward"], ""], ["building a datastore", rates["build"], share]])


def evaluation_table(part: Mapping[str, Any]) -> list[str]:
    """Tabulate labels with neighbours beside labels without: time, words looked up, labels unlike a full search's."""
    result = ours(part)
    setting, seconds, tagger = result["setting"], result["seconds"], result["seconds"]["tagger"]

    def times(name: str) -> list[str]:
        return [duration(seconds[name]), f"{ratio(tagger, seconds[name]):.2f}"]

    header = [
        f"{result['corpus']}, {result['sentences']:,} sentences of test: {result['words']:,} words, "
        f"{result['rows']:,} rows, k {setting['k']}, {result['batch_size']} windows at a time",
        *("time", "x without kNN", "asked the scouts", "the border", "all rows", "other labels than a full search"),
    ]
    rows = [["without kNN", *times("tagger"), "0", "0", "0", ""]]
    for name, searched in result["searched"].items():
        counts = (result["scouted"][name], result["at_border"][name], searched, result["other_labels"][name])
        words = [f"{number:,}" for number in counts]
        rows.append([f"labels, knn_weight {name}", *times(name), *words])
    if "full" in seconds:
        rows.append(["every word looked up, any knn_weight", *times("full"), "0", "0", f"{result['words']:,}", ""])
    return markdown(header, rows)


def compression_table(part: Mapping[str, Any]) -> list[str]:
    """Tabulate keys in bfloat16 beside keys in float32."""
    result = ours(part)
    header = [
        f"{result['corpus']}, {result['queries']} words of test, {result['rows']:,} x {result['dim']} keys",
        *("keys, MiB", "time", "peak beyond the keys, MiB", "neighbours changed"),
    ]
    rows = []
    for dtype in ("float32", "bfloat16"):
        for name, one in result[dtype].items():
            if name == "keys_mb":
                continue
            cells = [f"{result[dtype]['keys_mb']:,.0f}", duration(one["seconds"]), f"{one['peak_mb']:,.0f}"]
            rows.append([f"{dtype}, {name}", *cells, f"{100 * one['changed']:.2f}%"])
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


def page(results: Mapping[str, Any]) -> list[str]:
    """Return everything about one machine, in lines of Markdown."""
    hardware = results["hardware"]
    versions = ", ".join(f"{package} {version}" for package, version in hardware["packages"].items() if version)
    repeats = max((part["options"]["repeats"] for part in results["parts"].values()), default=0)
    lines = [f"{hardware['name']}; medians of {repeats}; {versions}.", ""]
    rows = [[aim.text, f"{aim.limit:g}", f"{aim.value:.4g}", "yes" if aim.reached else "**no**"] for aim in aims(results)]
    lines += markdown(["aim", "limit", "measured", "reached"], rows) if rows else []
    for part in parts_of(results, "tagging"):
        lines += tagging_table(part)
    for part in parts_of(results, "search"):
        lines += search_table(part)
    lines += memory_table(parts_of(results, "memory")) if parts_of(results, "memory") else []
    for kind, table in {"build": build_table, "evaluation": evaluation_table, "compression": compression_table}.items():
        for part in parts_of(results, kind):
            lines += table(part)
    return [*lines, *(line for reason in missing(results) for line in (reason, ""))]
