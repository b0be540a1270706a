"""The plots of a study: scores along a condition, gains with their intervals, choices and settings on dev."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from knn_ner_jax.ablation.analysis import ConditionResult, Curve, in_words, value_in_words
from knn_ner_jax.ablation.statistics import Estimate, Spread
from knn_ner_jax.ablation.store import METHODS
from knn_ner_jax.ablation.study import Values
from knn_ner_jax.report import figures
from knn_ner_jax.report.document import Figure
from knn_ner_jax.report.evaluation import by_k, surface
from knn_ner_jax.report.figures import Method, Series

Plots = Mapping[str, Figure]

_NAME_WIDTH = 28  # letters of a line of a row's name


def plot(findings: Sequence[ConditionResult], curves: Sequence[Curve]) -> Plots:
    """`curve`: F1 on test along a condition that has numbers; `gains` on test; on dev `choices`, `by_k` and `surface`.

    Those on dev are of the last condition, its settings of the choice made there. Only those for which there is something to
    show.
    """
    plots = {"curve": _curve(curves), "gains": _gains(findings), "choices": _choices(findings), **_settings(findings)}
    return {name: figure for name, figure in plots.items() if figure is not None}


def _gains(findings: Sequence[ConditionResult]) -> Figure | None:
    tested = [(finding, one) for finding in findings for one in finding.tested]
    if not tested:
        return None
    several = len({in_words(one.choice) for _, one in tested}) > 1
    by_name = {_name(finding.condition | (one.choice if several else {})): one.gains for finding, one in tested}
    with_neighbours: tuple[Method, ...] = "knn", "learned"
    series = []
    for method in with_neighbours:
        gains = {name: of[method].gain for name, of in by_name.items() if method in of}
        if gains:
            series.append(_series(METHODS[method], method, gains))
    caption = "Gain in test F1 over the tagger alone, with 95% intervals"
    svg = figures.dots(series, "points of F1", (METHODS["tagger"], 0.0))
    return Figure(svg, f"Dots: {caption}. {_said(series, '+.1f')}.", caption)


def _curve(curves: Sequence[Curve]) -> Figure | None:
    if not curves:
        return None
    series = _lines(curves)
    name, shown = curves[0].field, series[: figures.MOST_SERIES]
    caption = f"F1 on test by {name}, with 95% intervals"
    if len(shown) < len(series):
        caption += f"; the first {len(shown)} of {len(series)} lines"
    level = None
    if curves[0].over_the_last and len({curve.taggers for curve in curves}) == 1:
        level = curves[0].points[curves[0].last].gains["knn"].first.mean
        caption += f"; the line across is the tagger alone at {curves[0].last}"
    svg = figures.lines(shown, name, "F1 on test, percent", level)
    return Figure(svg, f"Lines: F1 on test by {name}. {_said(series, '.1f')}.", caption)


def _lines(curves: Sequence[Curve]) -> list[Series]:
    """Each tagger alone, once, then the curves that share it."""
    by_taggers: dict[frozenset[str], list[Curve]] = {}
    for curve in curves:
        by_taggers.setdefault(curve.taggers, []).append(curve)
    series = []
    for same in by_taggers.values():
        shared = {name: value for name, value in same[0].others.items() if all(one.others[name] == value for one in same)}
        name = _with(METHODS["tagger"], shared if len(by_taggers) > 1 else {})
        series.append(_series(name, "tagger", {x: one.gains["knn"].first for x, one in same[0].points.items()}))
        for curve in same:
            mixed = {x: one.gains["knn"].second for x, one in curve.points.items()}
            series.append(_series(_with(METHODS["knn"], curve.others), "knn", mixed))
    return series


def _choices(findings: Sequence[ConditionResult]) -> Figure | None:
    if not findings or len(findings[-1].dev) == 1:
        return None
    finding, tagger = findings[-1], METHODS["tagger"]
    by_name = {_name(one.choice): one for one in finding.dev}
    alone = {name: _around(one.tagger) for name, one in by_name.items()}
    series = [_series(METHODS["knn"], "knn", {name: _around(one.knn) for name, one in by_name.items()})]
    for_all = None
    if len({f1.mean for f1 in alone.values()}) == 1:
        for_all = tagger, finding.dev[0].tagger.mean
    else:
        series.insert(0, _series(tagger, "tagger", alone))
    caption = f"F1 on dev by choice, mean and standard deviation over seeds; {in_words(finding.condition)}"
    said = "; ".join(f"{_one_line(name)}: {one.knn}, {tagger} {one.tagger}" for name, one in by_name.items())
    return Figure(figures.dots(series, "F1 on dev, percent", for_all), f"Dots: {caption}. {said}.", caption)


def _settings(findings: Sequence[ConditionResult]) -> dict[str, Figure | None]:
    """F1 on dev by k, and by temperature and weight, means over seeds."""
    tested = [(finding, finding.tested[-1]) for finding in findings if finding.tested]
    if not tested or not tested[-1][1].trials:
        return {}
    finding, chosen = tested[-1]
    of = f"{in_words(finding.condition)}; {in_words(chosen.choice)}; means over seeds"

    def several(*names: str) -> bool:
        return len({tuple(trial[name] for name in names) for trial in chosen.trials}) > 1

    best = max(chosen.trials, key=lambda trial: trial["f1"])
    plotted = {
        "by_k": by_k(chosen.trials, chosen.dev["tagger"].mean) if several("k") else None,
        "surface": surface(chosen.trials, best, "the best by the mean") if several("temperature", "knn_weight") else None,
    }
    return {name: figure and replace(figure, alt=f"{figure.alt} {of}.") for name, figure in plotted.items()}


def _around(f1: Spread) -> Estimate:
    return Estimate(f1.mean, f1.mean - f1.std, f1.mean + f1.std)


def _series(name: str, method: Method, by_x: Mapping[Any, Estimate]) -> Series:
    mean, low, high = zip(*by_x.values(), strict=True)
    return Series(name, method, list(by_x), mean, low, high)


def _with(name: str, others: Values) -> str:
    return f"{name} ({in_words(others)})" if others else name


def _name(values: Values) -> str:
    """Fields in lines that break between them, without their sections but for one like `share` beside `train_fraction`."""
    last = {name: name.rpartition(".")[2] for name in values}
    short = {name: name if sum(part in other for other in last.values()) > 1 else part for name, part in last.items()}
    unbroken = [f"{short[name]} {value_in_words(value)}".replace(" ", "\u00a0") for name, value in values.items()]
    # A field that is longer than a line has one of its own, because half a list is another list.
    lines = textwrap.wrap(", ".join(unbroken), _NAME_WIDTH, break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines).replace("\u00a0", " ") or "as configured"


def _one_line(name: object) -> str:
    return str(name).replace("\n", " ")


def _said(series: Sequence[Series], form: str) -> str:
    points = [(each.name, _one_line(x), y) for each in series for x, y in zip(each.x, each.y, strict=True)]
    return "; ".join(f"{name}, {x}: {y:{form}}" for name, x, y in points)
