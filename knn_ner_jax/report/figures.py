"""Plots as SVG text, for a page or a file: readable on light and on dark, and by the colour-blind.

Text and lines have the colours of the page that contains them (`--ink`, `--series-1` and so on), or those below in a file of
their own. The same numbers make the same bytes. Drawing needs the extra `report`; importing this module does not.
"""

import io
import math
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from knn_ner_jax.evaluation.predictions import METHODS
from knn_ner_jax.report.document import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Method = Literal["tagger", "knn", "combiner"]

# After Okabe and Ito, whom the colour-blind can follow; the last two are darker, to be seen on white too. Markers and dashes
# say the same.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#948000", "#3B8FC9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("--", "-", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), ":")
_OF_METHOD: dict[Method, tuple[int, ...]] = {"tagger": (0, 5), "knn": (1, 3, 4), "combiner": (2,)}
MOST_SERIES = len(COLOURS)
INK = "#757677"  # contrast above 4 on white and on black pages alike
_VARIABLES = {INK: "ink"} | {colour: f"series-{number}" for number, colour in enumerate(COLOURS, start=1)}
_STYLE: dict[Any, Any] = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{"axes.edgecolor": INK, "axes.labelcolor": INK, "axes.facecolor": "none", "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "font.size": 9.0, "legend.frameon": False},
    **{"svg.fonttype": "none", "text.parse_math": False},
}
_WIDTH, _ROW = 4.4, 0.32  # inches: of a plot, and of a row of one that has rows
_LEGEND_ROW, _LEGEND_WIDTH = 0.17, 58  # inches, and letters
_LOGARITHMIC = 8  # beyond this ratio of the largest to the smallest a linear axis would crowd the small ones
_GAP = 3  # pixels between two labels of ticks at least


@dataclass(frozen=True)
class Series:
    """A line, or the dots of one colour.

    Attributes:
        name: for the legend.
        method: what it is of, which decides its colour in every plot.
        x: numbers; or names, which stand at equal distances.
        y: one for each x; NaN where there is none.
        low: lower ends of the intervals, or None.
        high: upper ends, given with `low`.
    """

    name: str
    method: Method
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


class _Look(NamedTuple):
    colour: str
    marker: str
    dashes: Any


def _looks(series: Sequence[Series]) -> list[_Look]:
    """Return how each is drawn: those of one method differ in colour and marker while it has some left, then in dashes."""
    used, looks = Counter[Method](), []
    for each in series:
        styles = _OF_METHOD[each.method]
        rounds, number = divmod(used[each.method], len(styles))
        looks.append(
            _Look(COLOURS[styles[number]], MARKERS[styles[number]], DASHES[(styles[number] + rounds) % len(DASHES)])
        )
        used[each.method] += 1
    return looks


def _check_number(series: Sequence[Series]) -> None:
    if not 1 <= len(series) <= MOST_SERIES:
        raise ValueError(f"series: expected 1 to {MOST_SERIES}, got {len(series)}")


@contextmanager
def _axes(height: float) -> "Iterator[tuple[Canvas, Axes]]":
    """Yield an empty plot, `height` inches high, in the style of all plots."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        yield canvas, canvas.add_subplot()


def _to_svg(canvas: "Canvas", salt: str) -> str:
    """Return the `svg` element alone; its ids are made of the salt, and so differ from those of other plots on a page."""
    import matplotlib

    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts may well have it
        canvas.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    # In tags alone: between them stand names from a corpus, which may look like a style.
    return re.sub(r"<[^>]*>", lambda tag: _restyled(tag[0], used), text).strip()


def _restyled(tag: str, used: Container[str]) -> str:
    """Return a tag without an id that nothing refers to, with the page's font and colours."""
    tag = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", tag)
    tag = re.sub(r"(font: [^;\"]*?px |font-family: )[^;\"]+", r"\1var(--font, sans-serif)", tag)
    for colour, name in _VARIABLES.items():
        tag = re.sub(rf"(: ){colour}\b", rf"\1var(--{name}, {colour})", tag, flags=re.IGNORECASE)
    return tag


def lines(series: Sequence[Series], x_label: str, y_label: str, level: float | None = None) -> str:
    """Draw lines over an axis, each with a band where it has intervals.

    The axis is logarithmic for positive numbers of which the largest is more than eight times the smallest.

    Args:
        series: at most `MOST_SERIES`; all x are numbers, or all are names.
        x_label: of the axis.
        y_label: likewise.
        level: a value that all are compared with: a line across the axis.

    Returns:
        The `svg` element.

    Raises:
        ValueError: no series, or too many.
    """
    _check_number(series)
    values = list(dict.fromkeys(x for each in series for x in each.x))
    names = [x for x in values if isinstance(x, str)]
    numbers = sorted(x for x in values if not isinstance(x, str))
    with _axes(2.7) as (canvas, axes):
        if level is not None:
            axes.axhline(level, color=COLOURS[0], linestyle=DASHES[0], linewidth=0.8)
        for each, look in zip(series, _looks(series), strict=True):
            x = [names.index(value) if isinstance(value, str) else value for value in each.x]
            axes.plot(x, each.y, color=look.colour, marker=look.marker, linestyle=look.dashes, markersize=4, label=each.name)
            if each.low is not None and each.high is not None:
                axes.fill_between(x, each.low, each.high, color=look.colour, alpha=0.18, linewidth=0)
        if numbers and 0 < _LOGARITHMIC * numbers[0] < numbers[-1]:
            axes.set_xscale("log")
            x_label += ", log scale"
        ticks = list(range(len(names))) if names else numbers
        axes.set_xticks(ticks, names or [f"{number:g}" for number in numbers])
        axes.minorticks_off()
        _finish(canvas, axes, x_label, y_label, "y")
        _drop_colliding(canvas, axes)
        return _to_svg(canvas, f"lines {series}{x_label}{y_label}{level}")


def dots(series: Sequence[Series], value_label: str, reference: tuple[str, float] | None = None) -> str:
    """Draw a row for each x, with a dot of each series on it, and its interval if it has one, on an axis cut to the values.

    Args:
        series: at most `MOST_SERIES`; a name in their x may have several lines.
        value_label: of the axis.
        reference: name and value of what all are compared with: a line across the rows.

    Returns:
        The `svg` element.

    Raises:
        ValueError: no series, or too many.
    """
    _check_number(series)
    names = [str(x) for x in dict.fromkeys(x for each in series for x in each.x)]
    apart = min(0.24, 0.6 / len(series))
    lines_of_a_name = max(name.count("\n") + 1 for name in names)
    height = 0.6 + _ROW * len(names) * max(1.0, 0.5 * len(series), 0.55 * lines_of_a_name)
    with _axes(height) as (canvas, axes):
        if reference is not None:
            axes.axvline(reference[1], color=COLOURS[0], linestyle=DASHES[0], linewidth=1.5, label=reference[0])
        for number, (each, look) in enumerate(zip(series, _looks(series), strict=True)):
            offset = (number - (len(series) - 1) / 2) * apart
            rows = [names.index(str(x)) + offset for x in each.x]
            if each.low is not None and each.high is not None:
                axes.hlines(rows, each.low, each.high, color=look.colour, linewidth=1.5)
                axes.plot([each.low, each.high], [rows, rows], color=look.colour, marker="|", linestyle="", markersize=6)
            axes.plot(each.y, rows, color=look.colour, marker=look.marker, linestyle="", markersize=3.5, label=each.name)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        _finish(canvas, axes, value_label, "", "both")
        return _to_svg(canvas, f"dots {series}{value_label}{reference}")


def heat_map(
    values: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str,
    column_label: str,
    marked: tuple[int, int] | None = None,
) -> str:
    """Draw a table in which a cell's colour shows how large its number is; the number is written in it.

    Args:
        values: NaN where there is none.
        rows: names.
        columns: names.
        row_label: what the rows are.
        column_label: what the columns are.
        marked: row and column of a cell to frame.

    Returns:
        The `svg` element.
    """
    from matplotlib.patches import Rectangle

    with _axes(0.8 + _ROW * len(rows)) as (canvas, axes):
        axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", edgecolor="none")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                colour = "black" if value > middle else "white"
                axes.text(column + 0.5, row + 0.5, f"{value:.1f}", fontsize=7, ha="center", va="center", color=colour)
        if marked is not None:
            axes.add_patch(Rectangle((marked[1], marked[0]), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.5))
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(column_label)
        axes.set_ylabel(row_label)
        return _to_svg(canvas, f"heat map {values.tolist()}{rows}{columns}{row_label}{column_label}{marked}")


def _drop_colliding(canvas: "Canvas", axes: "Axes") -> None:
    """Hide labels along x that would lie on others; of two the one at the right stays."""
    canvas.draw_without_rendering()
    ends = math.inf
    for label in reversed(axes.get_xticklabels()):
        box = label.get_window_extent()
        if box.x1 + _GAP > ends:
            label.set_visible(False)
        else:
            ends = box.x0


def _finish(canvas: "Canvas", axes: "Axes", x_label: str, y_label: str, grid: Literal["x", "y", "both"]) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis=grid, color=INK, alpha=0.25, linewidth=0.6)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        columns = max(1, min(3, _LEGEND_WIDTH // (max(map(len, names)) + 5)))
        names = [textwrap.fill(name, _LEGEND_WIDTH) for name in names]
        rows = sum(name.count("\n") + 1 for name in names) / columns
        canvas.set_figheight(canvas.get_figheight() + _LEGEND_ROW * math.ceil(rows))
        canvas.legend(handles, names, fontsize=8, loc="outside upper left", ncols=columns)


TrialRow = Mapping[str, Any]  # as `evaluation.tuning.Trial.as_dict` gives it: k, temperature, knn_weight, metric, f1


def _best_f1(trials: Sequence[TrialRow], *names: str) -> dict[tuple[Any, ...], float]:
    """Return the best F1 for every combination of values of some fields."""
    best: dict[tuple[Any, ...], float] = {}
    for trial in trials:
        key = tuple(trial[name] for name in names)
        best[key] = max(trial["f1"], best.get(key, trial["f1"]))
    return best


def distinct_values(trials: Sequence[TrialRow], name: str, order: Callable[[Any], Any] | None = None) -> list[Any]:
    """Return the values that trials have of a field, each once, in order."""
    return sorted({trial[name] for trial in trials}, key=order)


def by_k(trials: Sequence[TrialRow], tagger_f1: float) -> Figure:
    """Plot the best F1 on dev by k, a line for each metric, beside the tagger's."""
    every_k = distinct_values(trials, "k", lambda k: float("inf") if k == "all" else k)
    names = [str(k) for k in every_k]
    best = _best_f1(trials, "metric", "k")
    series = [Series(METHODS["tagger"], "tagger", names, [tagger_f1] * len(names))]
    for metric in distinct_values(trials, "metric"):
        f1 = [best.get((metric, k), float("nan")) for k in every_k]
        series.append(Series(f"{METHODS['knn']}, {metric}", "knn", names, f1))
    numbers = "; ".join(f"{metric}, k {k}: {f1:.1f}" for (metric, k), f1 in best.items())
    return Figure(
        lines(series, "k", "F1 on dev, percent"),
        f"Lines: best F1 on dev by k. {numbers}; {METHODS['tagger']}: {tagger_f1:.1f}.",
        "Best F1 on dev by k, over temperatures and weights",
    )


def surface(trials: Sequence[TrialRow], selected: Mapping[str, Any], which: str = "the selected setting") -> Figure:
    """Plot F1 on dev by temperature and weight, for the k and metric of one setting, which is framed.

    Args:
        trials: of dev.
        selected: the setting.
        which: what it is, for the caption.
    """
    trials = [trial for trial in trials if trial["metric"] == selected["metric"] and trial["k"] == selected["k"]]
    temperatures, weights = distinct_values(trials, "temperature"), distinct_values(trials, "knn_weight")
    values = np.full((len(temperatures), len(weights)), np.nan)
    for (temperature, weight), f1 in _best_f1(trials, "temperature", "knn_weight").items():
        values[temperatures.index(temperature), weights.index(weight)] = f1
    marked = temperatures.index(selected["temperature"]), weights.index(selected["knn_weight"])
    rows, columns = ([f"{value:g}" for value in axis] for axis in (temperatures, weights))
    where = f"k {selected['k']}, {selected['metric']}"
    return Figure(
        heat_map(values, rows, columns, "temperature", "knn_weight", marked),
        f"Heat map: F1 on dev by temperature and knn_weight, {where}, from {np.nanmin(values):.1f} to "
        f"{np.nanmax(values):.1f}; the table of all trials has the numbers.",
        f"F1 on dev by temperature and weight, {where}; {which} is framed",
    )


def reliability(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], split: str) -> Figure:
    """Plot how often entities of a split are right by their score, before and after calibration.

    Args:
        before: bins, each with its `score` and `precision` in [0, 1], and its number of `entities`.
        after: likewise.
        split: name of the split.
    """
    by_name = {"before": before, "after": after} if before != after else {"score": before}
    points = [
        Series(name, "knn", [each["score"] for each in bins], [each["precision"] for each in bins])
        for name, bins in by_name.items()
    ]
    most = max((each["entities"] for bins in by_name.values() for each in bins), default=1)
    with _axes(3.6) as (canvas, axes):
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1, label="right as often as the score says")
        for each, bins, look in zip(points, by_name.values(), _looks(points), strict=True):
            axes.plot(each.x, each.y, color=look.colour, linestyle=look.dashes, linewidth=0.8)
            sizes = [8 + 72 * one["entities"] / most for one in bins]
            axes.scatter(each.x, each.y, sizes, color=look.colour, marker=look.marker, linewidths=0, label=each.name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        _finish(canvas, axes, "score", "precision", "both")
        svg = _to_svg(canvas, f"reliability {by_name}{split}")
    listed = (
        f"{name}: " + ", ".join(f"{each['score']:.2f} {each['precision']:.2f} ({each['entities']})" for each in bins)
        for name, bins in by_name.items()
    )
    return Figure(
        svg,
        f"Points: mean score and precision of the predicted entities of {split} in bins of the score, and their number. "
        f"{'; '.join(listed)}.",
        f"Precision on {split} by score{', before and after calibration' if len(by_name) > 1 else ''}; a larger point is of "
        "more entities",
    )
