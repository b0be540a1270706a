"""The plots of a study: scores along a condition, gains with their intervals, choices on dev."""

from collections.abc import Mapping, Sequence
from typing import Any

from knn_ner_jax.ablation.curves import Curve
from knn_ner_jax.ablation.findings import Finding, in_words
from knn_ner_jax.ablation.results import METHODS
from knn_ner_jax.ablation.study import Values
from knn_ner_jax.evaluation import figures
from knn_ner_jax.evaluation.page import Figure

Plots = Mapping[str, Figure]


def plot(findings: Sequence[Finding], curves: Sequence[Curve]) -> Plots:
    """`curve`: F1 on test along a condition that has numbers; `gains` on test; `choices` of the last condition on dev.

    Only those for which there is something to show.
    """
    plots = {"curve": _curve(curves), "gains": _gains(findings), "choices": _choices(findings)}
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


def _curve(curves: Sequence[Curve]) -> Figure | None:
    if not curves:
        return None
    points = curves[0].points
    series = [_series(METHODS["vanilla"], list(points), [one.gains["knn"].first for one in points.values()])]
    for curve in curves:
        knn = [one.gains["knn"].second for one in curve.points.values()]
        which = f" {in_words(curve.others)}" if curve.others else ""
        series.append(_series(f"{METHODS['knn']}{which}", list(curve.points), knn))
    said = "; ".join(f"{each.name}, {x}: {y:.1f}" for each in series for x, y in zip(each.x, each.y, strict=True))
    name, shown = curves[0].field, series[: len(figures.COLOURS)]
    caption = f"F1 on test by {name}, with 95% intervals"
    if len(shown) < len(series):
        caption += f"; the first {len(shown)} of {len(series)} lines"
    return Figure(figures.lines(shown, name, "F1 on test, percent"), f"Lines: F1 on test by {name}. {said}.", caption)


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
    names, spreads = [_short(one.choice) for one in finding.dev], [one.knn for one in finding.dev]
    ends = [f1.mean - f1.std for f1 in spreads], [f1.mean + f1.std for f1 in spreads]
    series = figures.Series(METHODS["knn"], names, [f1.mean for f1 in spreads], *ends)
    caption = f"F1 on dev by choice, mean and standard deviation over seeds; {in_words(finding.condition)}"
    said = "; ".join(f"{_one_line(name)}: {f1}" for name, f1 in zip(names, spreads, strict=True))
    return Figure(figures.bars([series], "F1 on dev, percent"), f"Bars: {caption}. {said}.", caption)
