"""Plots as SVG text, for a page or a file: readable on light and on dark, and by the colour-blind.

Text and lines have the colours of the page they stand in (`--ink`, `--series-1` and so on), or those below in a file of
their own. The same numbers make the same bytes.
"""

import io
import math
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

Method = Literal["tagger", "knn", "learned"]

# After Okabe and Ito, whom the colour-blind can follow; the last two are darker, to be seen on white too. Markers and dashes
# say the same.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#948000", "#3B8FC9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("--", "-", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), ":")
_OF_METHOD: dict[Method, tuple[int, ...]] = {"tagger": (0, 5), "knn": (1, 3, 4), "learned": (2,)}
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
    """Those of one method differ in colour and marker while it has some left, then in dashes."""
    before, looks = Counter[Method](), []
    for each in series:
        own = _OF_METHOD[each.method]
        again, number = divmod(before[each.method], len(own))
        looks.append(_Look(COLOURS[own[number]], MARKERS[own[number]], DASHES[(own[number] + again) % len(DASHES)]))
        before[each.method] += 1
    return looks


def _places(series: Sequence[Series]) -> list[float] | list[str]:
    """Every x, in order; names in that of their first use."""
    if not 1 <= len(series) <= MOST_SERIES:
        raise ValueError(f"series: expected 1 to {MOST_SERIES}, got {len(series)}")
    every = list(dict.fromkeys(x for each in series for x in each.x))
    return every if any(isinstance(x, str) for x in every) else sorted(every)  # type: ignore[return-value]


def _to_svg(figure: Figure, salt: str) -> str:
    """The `svg` element alone; its ids, which must differ from those of other plots on a page, are made of the salt."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts may well have it
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    # In tags alone: between them stand names from a corpus, which may look like a style.
    return re.sub(r"<[^>]*>", lambda tag: _restyled(tag[0], used), text).strip()


def _restyled(tag: str, used: Container[str]) -> str:
    """A tag without an id that nothing refers to, with the page's font and colours."""
    tag = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", tag)
    tag = re.sub(r"(font: [^;\"]*?px |font-family: )[^;\"]+", r"\1var(--font, sans-serif)", tag)
    for colour, name in _VARIABLES.items():
        tag = re.sub(rf"(: ){colour}\b", rf"\1var(--{name}, {colour})", tag, flags=re.IGNORECASE)
    return tag


def lines(series: Sequence[Series], x_label: str, y_label: str, level: float | None = None) -> str:
    """Lines over an axis, each with a band where it has intervals.

    Positive numbers of which the largest is more than eight times the smallest stand by their logarithm.

    Args:
        series: at most `MOST_SERIES`.
        x_label: of the axis.
        y_label: likewise.
        level: a value that all are compared with: a line across the axis.

    Raises:
        ValueError: no series, or too many.
    """
    places = _places(series)
    named = isinstance(places[0], str)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.7), layout="constrained")
        axes = figure.add_subplot()
        if level is not None:
            axes.axhline(level, color=COLOURS[0], linestyle=DASHES[0], linewidth=0.8)
        for each, look in zip(series, _looks(series), strict=True):
            x = [places.index(value) for value in each.x] if named else each.x  # type: ignore[arg-type]
            axes.plot(x, each.y, color=look.colour, marker=look.marker, linestyle=look.dashes, markersize=4, label=each.name)
            if each.low is not None and each.high is not None:
                axes.fill_between(x, each.low, each.high, color=look.colour, alpha=0.18, linewidth=0)
        if not named and 0 < _LOGARITHMIC * places[0] < places[-1]:  # type: ignore[operator]
            axes.set_xscale("log")
            x_label += ", log scale"
        axes.set_xticks(range(len(places)) if named else places, [_short(place) for place in places])
        axes.minorticks_off()
        _finish(figure, axes, x_label, y_label, "y")
        _drop_colliding(figure, axes)
        return _to_svg(figure, f"lines {series}{x_label}{y_label}{level}")


def dots(series: Sequence[Series], value_label: str, alone: tuple[str, float] | None = None) -> str:
    """A row for each x, with a dot of each series on it, and its interval where it has one, on an axis cut to the values.

    Args:
        series: at most `MOST_SERIES`; a name in their x may have several lines.
        value_label: of the axis.
        alone: name and value of a tagger alone with which all are compared: a line across the rows.

    Raises:
        ValueError: no series, or too many.
    """
    places = [str(place) for place in _places(series)]
    apart = min(0.24, 0.6 / len(series))
    with matplotlib.rc_context(_STYLE):
        lines_of_a_name = max(place.count("\n") + 1 for place in places)
        height = 0.6 + _ROW * len(places) * max(1.0, 0.5 * len(series), 0.55 * lines_of_a_name)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        if alone is not None:
            axes.axvline(alone[1], color=COLOURS[0], linestyle=DASHES[0], linewidth=1.5, label=alone[0])
        for number, (each, look) in enumerate(zip(series, _looks(series), strict=True)):
            offset = (number - (len(series) - 1) / 2) * apart
            rows = [places.index(str(x)) + offset for x in each.x]
            if each.low is not None and each.high is not None:
                axes.hlines(rows, each.low, each.high, color=look.colour, linewidth=1.5)
                axes.plot([each.low, each.high], [rows, rows], color=look.colour, marker="|", linestyle="", markersize=6)
            axes.plot(each.y, rows, color=look.colour, marker=look.marker, linestyle="", markersize=3.5, label=each.name)
        axes.set_yticks(range(len(places)), places)
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        _finish(figure, axes, value_label, "", "both")
        return _to_svg(figure, f"dots {series}{value_label}{alone}")


def heat_map(
    values: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str,
    column_label: str,
    marked: tuple[int, int] | None = None,
) -> str:
    """A table in which a cell's colour says how large its number is; the number stands in it.

    Args:
        values: NaN where there is none.
        rows: names.
        columns: names.
        row_label: what the rows are.
        column_label: what the columns are.
        marked: row and column of a cell to frame.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.8 + _ROW * len(rows)), layout="constrained")
        axes = figure.add_subplot()
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
        return _to_svg(figure, f"heat map {values.tolist()}{rows}{columns}{row_label}{column_label}{marked}")


def _short(place: float | str) -> str:
    return place if isinstance(place, str) else f"{place:g}"


def _drop_colliding(figure: Figure, axes: Axes) -> None:
    """Hides labels along x that would lie on others; of two the one at the right stays."""
    figure.draw_without_rendering()
    ends = math.inf
    for label in reversed(axes.get_xticklabels()):
        box = label.get_window_extent()
        if box.x1 + _GAP > ends:
            label.set_visible(False)
        else:
            ends = box.x0


def _finish(figure: Figure, axes: Axes, x_label: str, y_label: str, grid: Literal["x", "y", "both"]) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis=grid, color=INK, alpha=0.25, linewidth=0.6)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        columns = max(1, min(3, _LEGEND_WIDTH // (max(map(len, names)) + 5)))
        names = [textwrap.fill(name, _LEGEND_WIDTH) for name in names]
        rows = sum(name.count("\n") + 1 for name in names) / columns
        figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * math.ceil(rows))
        figure.legend(handles, names, fontsize=8, loc="outside upper left", ncols=columns)
