"""Results as an SVG that can be read on a light and on a dark page, and by the colour-blind."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reading import NAMES, MeasuredPart, measured, ours, parts_of

# Okabe and Ito's colours, which the colour-blind tell apart; the order of the bars says the same.
COLOURS = {
    **{"ours": "#0072B2", "ours_bf16": "#0072B2", "faiss": "#E69F00"},
    **{"pytorch": "#D55E00", "torch_eager_bf16": "#D55E00", "torch_compile": "#CC79A7"},
}
INK = "#767676"  # contrast above 4 on white and on black pages alike
STYLE = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{"axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.facecolor": "none"},
    **{"axes.spines.top": False, "axes.spines.right": False, "font.size": 9.0, "legend.frameon": False},
    **{"svg.fonttype": "none", "svg.hashsalt": "knn-ner-jax"},  # the same results make the same file
}


def _bars(axes: Axes, groups: Sequence[str], heights: Mapping[str, Mapping[str, float]], form: str) -> None:
    """Draw bars side by side: groups along the axis, `heights[peer][group]` where there is one, its value above it."""
    width = 0.8 / len(heights)
    for number, (peer, of_peer) in enumerate(heights.items()):
        places = [i + (number - (len(heights) - 1) / 2) * width for i, group in enumerate(groups) if group in of_peer]
        values = [of_peer[group] for group in groups if group in of_peer]
        bars = axes.bar(places, values, 0.92 * width, color=COLOURS[peer], label=NAMES[peer])
        axes.bar_label(bars, fmt=form, padding=2, fontsize=7, color=INK)
    axes.set_xticks(range(len(groups)), [group.replace(" ", "\n") for group in groups])
    if len(heights) > 1:
        axes.legend(fontsize=8)
    axes.margins(y=0.25)


def _search(axes: Axes, part: MeasuredPart) -> None:
    options, result = part["options"], ours(part)
    groups = [name for name in result if not name.startswith("product")]
    medians = {
        peer: {name: statistics.median(of_peer[name]["seconds"]) for name in groups if name in of_peer}
        for peer, of_peer in measured(part).items()
    }
    if "product" in result:
        axes.axhline(
            statistics.median(result["product"]["seconds"]), color=INK, linestyle="--", linewidth=1, label="bare product"
        )
    _bars(axes, groups, medians, "%.2g")
    axes.set_title(f"{options['queries']} queries, {options['rows']:,} x {options['dim']} keys")
    axes.set_ylabel("seconds")


def _tagging(axes: Axes, part: MeasuredPart) -> None:
    works = ("forward", "train")
    rates = {
        peer: {work: result["tokens"] / statistics.median(result[work]) for work in works}
        for peer, result in measured(part).items()
    }
    _bars(axes, works, rates, "%.0f")
    axes.set_title("MiniLM-L6")
    axes.set_ylabel("tokens per second")


def _evaluation(axes: Axes, part: MeasuredPart) -> None:
    result = ours(part)
    tagger = statistics.median(result["seconds"]["tagger"])
    names = {"without kNN": "tagger", **{f"weight {w}": w for w in result["searched"]}, "all looked up": "full"}
    seconds = {name: result["seconds"][key] for name, key in names.items() if key in result["seconds"]}
    times = {name: statistics.median(timed) / tagger for name, timed in seconds.items()}
    _bars(axes, list(times), {"ours": times}, "%.2f")
    axes.set_title(f"labels of {result['words']:,} words, {result['rows']:,} rows")
    axes.set_ylabel("time, of that without kNN")


def _memory(axes: Axes, parts: Sequence[MeasuredPart]) -> None:
    peaks = {f"{part['options']['rows']:,} rows": ours(part)["peak_mb"] for part in parts}
    _bars(axes, list(peaks), {"ours": peaks}, "%.0f")
    axes.set_title("peak memory of a search beyond the keys")
    axes.set_ylabel("MiB")


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw what has been measured on one machine.

    Args:
        results: of `bench.run_parts`.
        path: of the SVG file.
    """
    panels: list[tuple[Callable[[Axes, Any], None], Any]] = [(_search, part) for part in parts_of(results, "search")]
    panels += [(_tagging, part) for part in parts_of(results, "tagging")]
    panels += [(_evaluation, part) for part in parts_of(results, "evaluation")]
    if memory := parts_of(results, "memory"):
        panels.append((_memory, memory))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * columns, 3.2 * rows), layout="constrained")
        for number, (draw, part) in enumerate(panels, start=1):
            draw(figure.add_subplot(rows, columns, number), part)
        figure.suptitle(results["hardware"]["name"])
        figure.savefig(path, transparent=True, metadata={"Date": None})
