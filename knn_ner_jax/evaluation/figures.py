"""Plots as SVG text, for a page or a file: readable on light and on dark, and by the colour-blind.

Text and lines have the colours of the page they stand in (`--ink`, `--series-1` and so on), or those below in a file of
their own. The same numbers make the same bytes.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Okabe and Ito's colours, which the colour-blind tell apart; markers and dashes say the same.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
INK = "#757677"  # contrast above 4 on white and on black pages alike
STRONG = "#777675"  # of what lies on a colour
_VARIABLES = {INK: "ink", STRONG: "text"} | {colour: f"series-{number}" for number, colour in enumerate(COLOURS, start=1)}
_STYLE: dict[Any, Any] = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{"axes.edgecolor": INK, "axes.labelcolor": INK, "axes.facecolor": "none", "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "font.size": 9.0, "legend.frameon": False},
    **{"svg.fonttype": "none", "text.parse_math": False},
}
_WIDTH, _ROW = 4.4, 0.32  # inches: of a plot, and of a row of one that has rows
_MOST_TICKS = 12


@dataclass(frozen=True)
class Series:
    """A line, or the bars of one colour.

    Attributes:
        name: for the legend.
        x: numbers; or names, which stand at equal distances.
        y: one for each x; NaN where there is none.
        low: lower ends of the intervals, or None.
        high: upper ends, given with `low`.
    """

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def _places(series: Sequence[Series]) -> list[float] | list[str]:
    """Every x, in order; names in that of their first use."""
    if not 1 <= len(series) <= len(COLOURS):
        raise ValueError(f"series: expected 1 to {len(COLOURS)} (the colours), got {len(series)}")
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
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--font, sans-serif)", text)
    for colour, name in _VARIABLES.items():
        text = re.sub(rf"(: ){colour}\b", rf"\1var(--{name}, {colour})", text, flags=re.IGNORECASE)
    return text.strip()


def lines(series: Sequence[Series], x_label: str, y_label: str, log_x: bool = False) -> str:
    """Lines over an axis, each with a band where it has intervals.

    Args:
        series: at most as many as there are colours.
        x_label: of the axis.
        y_label: likewise.
        log_x: numbers by their logarithm, each > 0.

    Raises:
        ValueError: no series, or too many.
    """
    places = _places(series)
    named = isinstance(places[0], str)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for each, colour, marker, dashes in zip(series, COLOURS, MARKERS, DASHES, strict=False):
            x = [places.index(value) for value in each.x] if named else each.x  # type: ignore[arg-type]
            axes.plot(x, each.y, color=colour, marker=marker, linestyle=dashes, markersize=4, label=each.name)
            if each.low is not None and each.high is not None:
                axes.fill_between(x, each.low, each.high, color=colour, alpha=0.18, linewidth=0)
        if log_x and not named:
            axes.set_xscale("log")
        if len(places) <= _MOST_TICKS:
            axes.set_xticks(range(len(places)) if named else places, [_short(place) for place in places])
            axes.minorticks_off()
        _finish(figure, axes, x_label, y_label, "y", len(series))
        return _to_svg(figure, f"lines {series}{x_label}{y_label}")


def bars(series: Sequence[Series], value_label: str) -> str:
    """Horizontal bars, those of one x together, each with its interval where it has one; a name may have several lines.

    Args:
        series: at most as many as there are colours.
        value_label: of the axis.

    Raises:
        ValueError: no series, or too many.
    """
    places = [str(place) for place in _places(series)]
    width = 0.8 / len(series)
    with matplotlib.rc_context(_STYLE):
        lines_of_a_name = max(place.count("\n") + 1 for place in places)
        height = 0.8 + _ROW * len(places) * max(1.0, 0.5 * len(series), 0.55 * lines_of_a_name)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        for number, (each, colour) in enumerate(zip(series, COLOURS, strict=False)):
            offset = (number - (len(series) - 1) / 2) * width
            rows = [places.index(str(x)) + offset for x in each.x]
            axes.barh(rows, each.y, 0.9 * width, color=colour, label=each.name)
            if each.low is not None and each.high is not None:
                axes.hlines(rows, each.low, each.high, color=STRONG, linewidth=1.5)
        axes.set_yticks(range(len(places)), places)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        _finish(figure, axes, value_label, "", "x", len(series))
        return _to_svg(figure, f"bars {series}{value_label}")


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


def _finish(figure: Figure, axes: Axes, x_label: str, y_label: str, grid: Literal["x", "y"], num_series: int) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis=grid, color=INK, alpha=0.25, linewidth=0.6)
    if num_series > 1:
        figure.legend(fontsize=8, loc="outside upper left", ncols=min(num_series, 3))
