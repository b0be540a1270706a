"""The plots of a study: scores along a condition, gains with their intervals, candidates and settings on dev."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from knn_ner_jax.ablation.analysis import ConditionResult, Curve
from knn_ner_jax.ablation.statistics import Estimate, Spread
from knn_ner_jax.ablation.study import Values, describe, describe_value
from knn_ner_jax.evaluation.predictions import METHODS
from knn_ner_jax.report import figures
from knn_ner_jax.report.document import Figure
from knn_ner_jax.report.figures import Method, Series

Plots = Mapping[str, Figure]

_NAME_WIDTH = 28  # letters of a line of a row's name


def plot(conditions: Sequence[ConditionResult], curves: Sequence[Curve], methods: Mapping[str, str]) -> Plots:
    """Draw whatever there is to show, by name.

    On test: `curve`, F1 along a condition that has numbers, and `gains`. On dev, of the last condition: `candidates`, and of
    the one selected there `by_k` and `surface`, F1 by temperature and weight.

    Args:
        conditions: results of a study.
        curves: of these.
        methods: names of what the study compares (`Results.methods`).
    """
    plots = {
        "curve": _curve(curves),
        "gains": _gains(conditions, methods),
        "candidates": _candidates(conditions),
        **_settings(conditions),
    }
    return {name: replace(figure, file=f"{name}.svg") for name, figure in plots.items() if figure is not None}


def _gains(conditions: Sequence[ConditionResult], methods: Mapping[str, str]) -> Figure | None:
    tested = [(one.condition, result) for one in conditions for result in one.test]
    if not tested:
        return None
    several = len({describe(result.candidate) for _, result in tested}) > 1
    by_name = {_row_name(condition | (result.candidate if several else {})): result.gains for condition, result in tested}
    with_neighbours: tuple[Method, ...] = "knn", "combiner"
    series = []
    for method in with_neighbours:
        gains = {name: of[method].gain for name, of in by_name.items() if method in of}
        if gains:
            series.append(_series(methods[method], method, gains))
    caption = f"Gain in test F1 over the {METHODS['tagger']}, with 95% intervals"
    svg = figures.dots(series, "points of F1", (METHODS["tagger"], 0.0))
    return Figure(svg, f"Dots: {caption}. {_describe_points(series, '+.1f')}.", caption)


def _curve(curves: Sequence[Curve]) -> Figure | None:
    if not curves:
        return None
    series = _lines(curves)
    name, shown = curves[0].field, series[: figures.MOST_SERIES]
    caption = f"F1 on test by {name}, with 95% intervals"
    if len(shown) < len(series):
        caption += f"; the first {len(shown)} of {len(series)} lines"
    level = None
    if curves[0].gain_vs_full_data and len({curve.taggers for curve in curves}) == 1:
        level = curves[0].points[curves[0].last].gains["knn"].first.mean
        caption += f"; the line across is the {METHODS['tagger']} at {curves[0].last}"
    svg = figures.lines(shown, name, "F1 on test, percent", level)
    return Figure(svg, f"Lines: F1 on test by {name}. {_describe_points(series, '.1f')}.", caption)


def _lines(curves: Sequence[Curve]) -> list[Series]:
    """Return each tagger, once, then the curves that share it."""
    by_taggers: dict[frozenset[str], list[Curve]] = {}
    for curve in curves:
        by_taggers.setdefault(curve.taggers, []).append(curve)
    series = []
    for same in by_taggers.values():
        shared = {name: value for name, value in same[0].others.items() if all(one.others[name] == value for one in same)}
        name = _with(METHODS["tagger"], shared if len(by_taggers) > 1 else {})
        series.append(_series(name, "tagger", {x: one.gains["knn"].first for x, one in same[0].points.items()}))
        for curve in same:
            f1 = {x: one.gains["knn"].second for x, one in curve.points.items()}
            series.append(_series(_with(METHODS["knn"], curve.others), "knn", f1))
    return series


def _candidates(conditions: Sequence[ConditionResult]) -> Figure | None:
    if not conditions or len(conditions[-1].dev) == 1:
        return None
    last, tagger = conditions[-1], METHODS["tagger"]
    by_name = {_row_name(one.candidate): one for one in last.dev}
    of_taggers = {name: _one_std(one.tagger) for name, one in by_name.items()}
    series = [_series(METHODS["knn"], "knn", {name: _one_std(one.knn) for name, one in by_name.items()})]
    reference = None
    if len({f1.mean for f1 in of_taggers.values()}) == 1:
        reference = tagger, last.dev[0].tagger.mean
    else:
        series.insert(0, _series(tagger, "tagger", of_taggers))
    caption = f"F1 on dev by candidate, mean and standard deviation over seeds; {describe(last.condition)}"
    numbers = "; ".join(f"{_one_line(name)}: {one.knn}, {tagger} {one.tagger}" for name, one in by_name.items())
    return Figure(figures.dots(series, "F1 on dev, percent", reference), f"Dots: {caption}. {numbers}.", caption)


def _settings(conditions: Sequence[ConditionResult]) -> dict[str, Figure | None]:
    """Draw F1 on dev by k, and by temperature and weight, means over seeds."""
    tested = [(one.condition, one.test[-1]) for one in conditions if one.test]
    if not tested or not tested[-1][1].trials:
        return {}
    condition, result = tested[-1]
    what = f"{describe(condition)}; {describe(result.candidate)}; means over seeds"

    def several(*names: str) -> bool:
        return len({tuple(trial[name] for name in names) for trial in result.trials}) > 1

    best = max(result.trials, key=lambda trial: trial["f1"])
    plots = {
        "by_k": figures.by_k(result.trials, result.dev["tagger"].mean) if several("k") else None,
        "surface": figures.surface(result.trials, best, "the best by the mean")
        if several("temperature", "knn_weight")
        else None,
    }
    return {name: figure and replace(figure, alt=f"{figure.alt} {what}.") for name, figure in plots.items()}


def _one_std(f1: Spread) -> Estimate:
    return Estimate(f1.mean, f1.mean - f1.std, f1.mean + f1.std)


def _series(name: str, method: Method, by_x: Mapping[Any, Estimate]) -> Series:
    mean, low, high = zip(*by_x.values(), strict=True)
    return Series(name, method, list(by_x), mean, low, high)


def _with(name: str, others: Values) -> str:
    return f"{name} ({describe(others)})" if others else name


def _row_name(values: Values) -> str:
    """Return fields in lines that break between them, without their sections except where one name is part of another.

    `fraction` keeps its section beside `train_fraction`.
    """
    last = {name: name.rpartition(".")[2] for name in values}
    short = {name: name if sum(part in other for other in last.values()) > 1 else part for name, part in last.items()}
    unbroken = [f"{short[name]} {describe_value(value)}".replace(" ", "\u00a0") for name, value in values.items()]
    # A field that is longer than a line has one of its own, because half a list is another list.
    lines = textwrap.wrap(", ".join(unbroken), _NAME_WIDTH, break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines).replace("\u00a0", " ") or "as configured"


def _one_line(name: object) -> str:
    return str(name).replace("\n", " ")


def _describe_points(series: Sequence[Series], form: str) -> str:
    points = [(each.name, _one_line(x), y) for each in series for x, y in zip(each.x, each.y, strict=True)]
    return "; ".join(f"{name}, {x}: {y:{form}}" for name, x, y in points)
