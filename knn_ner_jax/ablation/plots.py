"""The plots of a study: scores along a condition, gains with their intervals, choices on dev."""

from collections.abc import Mapping, Sequence
from typing import Any

from knn_ner_jax.ablation.results import METHODS, Results
from knn_ner_jax.ablation.study import Axis, Values
from knn_ner_jax.ablation.summary import Finding, Tested, in_words
from knn_ner_jax.evaluation import figures
from knn_ner_jax.evaluation.page import Figure

ENOUGH_FOR_A_CURVE = 3  # values of an axis

Plots = Mapping[str, Figure]


def plot(results: Results, findings: Sequence[Finding]) -> Plots:
    """`curve`: F1 on test along a condition that has numbers; `gains` on test; `choices` of the last condition on dev.

    Only those for which there is something to show.
    """
    plots = {"curve": _curve(results, findings), "gains": _gains(findings), "choices": _choices(findings)}
    return {name: figure for name, figure in plots.items() if figure is not None}


def _gains(findings: Sequence[Finding]) -> Figure | None:
    tested = [(finding, one) for finding in findings for one in finding.tested]
    if not tested:
        return None
    several = len({in_words(one.choice) for _, one in tested}) > 1
    names = [_short(f.condition | (one.choice if several else {})) for f, one in tested]
    series = []
    for method in list(METHODS)[1:]:
        has = [(name, one.gains[method].gain) for name, (_, one) in zip(names, tested, strict=True) if method in one.gains]
        if has:
            x, gains = [name for name, _ in has], [gain for _, gain in has]
            ends = [gain.low for gain in gains], [gain.high for gain in gains]
            series.append(figures.Series(METHODS[method], x, [gain.mean for gain in gains], *ends))
    said = "; ".join(
        f"{each.name}, {_one_line(x)}: {y:+.1f}" for each in series for x, y in zip(each.x, each.y, strict=True)
    )
    caption = "Gain in test F1 over the tagger alone, with 95% intervals"
    return Figure(figures.bars(series, "points of F1"), f"Bars: {caption}. {said}.", caption)


def _curve_axis(axes: Sequence[Axis]) -> tuple[Axis, str] | None:
    """An axis and a field of it that has numbers enough for a curve."""
    for axis in axes:
        for name, values in axis.items():
            numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
            if len(numbers) == len(values) >= ENOUGH_FOR_A_CURVE:
                return axis, name
    return None


def _curve(results: Results, findings: Sequence[Finding]) -> Figure | None:
    found = _curve_axis(results.study.config.ablation.conditions)
    if found is None:
        return None
    axis, name = found
    by_others: dict[str, dict[float, Tested]] = {}
    for finding in findings:
        others = {key: value for key, value in finding.condition.items() if key not in axis}
        if finding.tested:
            by_others.setdefault(in_words(others) if others else "", {})[finding.condition[name]] = finding.tested[-1]
    if not by_others:
        return None
    first = next(iter(by_others.values()))
    vanilla = [one.gains["knn"].first for one in first.values()]
    series = [_series(METHODS["vanilla"], list(first), vanilla)]
    for name_of_others, points in by_others.items():
        knn = [one.gains["knn"].second for one in points.values()]
        series.append(_series(f"{METHODS['knn']} {name_of_others}".strip(), list(points), knn))
    said = "; ".join(f"{each.name}, {x}: {y:.1f}" for each in series for x, y in zip(each.x, each.y, strict=True))
    svg = figures.lines(series[: len(figures.COLOURS)], name, "F1 on test, percent")
    return Figure(svg, f"Lines: F1 on test by {name}. {said}.", f"F1 on test by {name}, with 95% intervals")


def _short(values: Values) -> str:
    """A line for each field, without its section."""
    return "\n".join(f"{name.rpartition('.')[2]} {value}" for name, value in values.items()) or "as configured"


def _one_line(name: object) -> str:
    return str(name).replace("\n", ", ")


def _series(name: str, x: list[float], estimates: Sequence[Any]) -> figures.Series:
    values = ([getattr(one, part) for one in estimates] for part in ("mean", "low", "high"))
    return figures.Series(name, x, *values)


def _choices(findings: Sequence[Finding]) -> Figure | None:
    if not findings or len(findings[-1].dev) == 1:
        return None
    finding = findings[-1]
    names, spreads = [_short(choice) for choice, _ in finding.dev], [f1 for _, f1 in finding.dev]
    ends = [f1.mean - f1.std for f1 in spreads], [f1.mean + f1.std for f1 in spreads]
    series = figures.Series(METHODS["knn"], names, [f1.mean for f1 in spreads], *ends)
    caption = f"F1 on dev by choice, mean and standard deviation over seeds; {in_words(finding.condition)}"
    said = "; ".join(f"{_one_line(name)}: {f1}" for name, f1 in zip(names, spreads, strict=True))
    return Figure(figures.bars([series], "F1 on dev, percent"), f"Bars: {caption}. {said}.", caption)
