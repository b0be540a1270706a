"""The results of a study: means over seeds, what dev selected, gains on test with their intervals, and learning curves.

A learning curve runs along a condition of numbers, such as fractions of train; it shows where kNN-NER with less data matches
the tagger with all of it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

import jax
import numpy as np

from knn_ner_jax.ablation import statistics
from knn_ner_jax.ablation.config import Axis
from knn_ner_jax.ablation.statistics import Comparison, Estimate, Spread
from knn_ner_jax.ablation.store import Results
from knn_ner_jax.ablation.study import Cell, Values, describe
from knn_ner_jax.evaluation.predictions import METHODS
from knn_ner_jax.report.figures import TrialRow

SETTING = ("k", "temperature", "knn_weight", "metric")
EDGE = "*"  # behind the smallest or the largest value of a search space
KEY = 0  # of the draws behind the intervals
MIN_CURVE_POINTS = 3
FRACTIONS = ("data.train_fraction", "datastore.fraction")  # fields whose largest value is all the data
_BOUNDS = {"k": (1, "all"), "temperature": (), "knn_weight": (0.0, 1.0)}  # values that no search space can exceed


def _order(value: Any) -> float:
    return float("inf") if value == "all" else value


def _mark_edge(name: str, value: Any, search_space: Iterable[Any]) -> str:
    ordered = sorted(set(search_space), key=_order)
    is_edge = len(ordered) > 1 and value in (ordered[0], ordered[-1]) and value not in _BOUNDS[name]
    return f"{value}{EDGE}" if is_edge else str(value)


def describe_setting(dev: Mapping[str, Any]) -> dict[str, str]:
    """Return each value that dev selected, in words; `EDGE` behind those beyond which a better one may be.

    Args:
        dev: results of a cell on dev.

    >>> trials = [{"k": k, "temperature": 0.1, "knn_weight": 0.5} for k in (8, 64)]
    >>> describe_setting({"selected": trials[1] | {"metric": "cosine"}, "trials": trials})
    {'k': '64*', 'temperature': '0.1', 'knn_weight': '0.5', 'metric': 'cosine'}
    """
    selected, trials = dev["selected"], dev["trials"]
    numbers = {name: _mark_edge(name, selected[name], [trial[name] for trial in trials]) for name in _BOUNDS}
    return numbers | {"metric": str(selected["metric"])}


def describe_seeds(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the values of `SETTING` of each seed, one value where all seeds agree."""
    values = {name: [setting[name] for setting in settings] for name in SETTING}
    return [each[0] if len(set(each)) == 1 else "; ".join(each) for each in values.values()]


def mean_over_seeds(trials_of_seeds: Sequence[Iterable[TrialRow]]) -> list[TrialRow]:
    """Return the mean F1 of every setting that all seeds tried; k beyond the rows of a datastore is not tried."""
    by_setting: dict[tuple[Any, ...], list[float]] = {}
    for trials in trials_of_seeds:
        for trial in trials:
            by_setting.setdefault(tuple(trial[name] for name in SETTING), []).append(trial["f1"])
    tried_by_all = {setting: f1 for setting, f1 in by_setting.items() if len(f1) == len(trials_of_seeds)}
    return [dict(zip(SETTING, setting, strict=True)) | {"f1": fmean(f1)} for setting, f1 in tried_by_all.items()]


@dataclass(frozen=True)
class TestResult:
    """One candidate under one condition on test; methods are keys of `Results.methods`.

    Attributes:
        candidate: which.
        cells: by seed.
        dev: F1 on dev by method.
        f1: F1 on test by method.
        gains: over the tagger, by method.
        combiner_gain: what the combiner gains over kNN-NER with one weight, where the study has both.
        settings: what dev selected of k, temperature, knn_weight and metric for each seed, in words.
        trials: F1 on dev of every setting, means over seeds.
    """

    candidate: Values
    cells: tuple[Cell, ...]
    dev: dict[str, Spread]
    f1: dict[str, Spread]
    gains: dict[str, Comparison]
    combiner_gain: Comparison | None
    settings: tuple[dict[str, str], ...] = ()
    trials: tuple[TrialRow, ...] = ()

    @property
    def seeds(self) -> list[int]:
        """Those of the cells."""
        return [cell.config.seed for cell in self.cells]

    @property
    def preferred_method(self) -> str:
        """The method that is best on dev: `combiner` if better there than the best weight, else `knn`."""
        combiner = self.dev.get("combiner")
        return "combiner" if combiner and combiner.mean > self.dev["knn"].mean else "knn"


class DevResult(NamedTuple):
    """F1 of one candidate on dev.

    Attributes:
        candidate: which.
        tagger: of its tagger.
        knn: the best that k, temperature and knn_weight give.
        gain_vs_reference: over the best of the first candidate, seed by seed; None for that itself.
    """

    candidate: Values
    tagger: Spread
    knn: Spread
    gain_vs_reference: Spread | None


@dataclass(frozen=True)
class ConditionResult:
    """The results for one condition.

    Attributes:
        condition: which.
        dev: every candidate.
        test: the reference, then what dev selected if that is another; only what has been computed.
        selected_vs_reference: what the second gains over the first on test, where there are two.
    """

    condition: Values
    dev: tuple[DevResult, ...]
    test: tuple[TestResult, ...]
    selected_vs_reference: Comparison | None


def describe_interval(estimate: Estimate) -> str:
    """Return a gain with its interval.

    >>> describe_interval(Estimate(1.2, 0.3, 2.0))
    '+1.2 [+0.3, +2.0]'
    """
    return f"{estimate.mean:+.1f} [{estimate.low:+.1f}, {estimate.high:+.1f}]"


def count_entities(results: Results, cells: Sequence[Cell], method: str) -> np.ndarray:
    """Count the entities of test as `statistics.sentence_counts` does; [seeds, sentences, 3]."""
    gold = results.tags(cells[0], "test", "gold")
    return np.stack([statistics.sentence_counts(gold, results.tags(cell, "test", method)) for cell in cells])


def compare(results: Results, first: np.ndarray, second: np.ndarray) -> Comparison:
    """Return what the second system gains over the first; counts as of `count_entities`."""
    return statistics.compare(first, second, jax.random.key(KEY), results.study.config.ablation.resamples)


def _f1(results: Results, cells: Sequence[Cell], split: str, method: str) -> list[float]:
    scores_of_cells = (results.scores(cell, split, method) for cell in cells)
    return [scores["f1"] for scores in scores_of_cells if scores is not None]


def _gain_on_dev(results: Results, cells: Sequence[Cell], others: Sequence[Cell]) -> Spread:
    """Return what cells gain over others on dev, seed by seed, where there is both."""
    pairs = ([results.scores(cell, "dev", "knn") for cell in pair] for pair in zip(cells, others, strict=True))
    return Spread.of(first["f1"] - second["f1"] for first, second in pairs if first is not None and second is not None)


def _on_test(results: Results, candidate: Values, cells: Sequence[Cell]) -> TestResult:
    f1 = {method: _f1(results, cells, "test", method) for method in results.methods}
    complete = [method for method, values in f1.items() if len(values) == len(cells)]
    counts = {method: count_entities(results, cells, method) for method in complete}
    gains = {method: compare(results, counts["tagger"], counts[method]) for method in complete if method != "tagger"}
    on_dev = [results.read(cell, "dev") for cell in cells]
    return TestResult(
        candidate,
        tuple(cells),
        dev={method: Spread.of(_f1(results, cells, "dev", method)) for method in complete},
        f1={method: Spread.of(f1[method]) for method in complete},
        gains=gains,
        combiner_gain=compare(results, counts["knn"], counts["combiner"]) if "combiner" in counts else None,
        settings=tuple(map(describe_setting, on_dev)),
        trials=tuple(mean_over_seeds([dev["trials"] for dev in on_dev])),
    )


def analyse_condition(results: Results, condition: Values) -> ConditionResult | None:
    """Sum up the finished cells of a condition; None where there is none yet."""
    study = results.study
    dev, test = [], []
    reference = study.seeds_of(condition, study.candidates[0])
    for candidate in study.candidates:
        cells = study.seeds_of(condition, candidate)
        tagger, knn = (_f1(results, cells, "dev", method) for method in ("tagger", "knn"))
        if knn:
            gain = None if cells == reference else _gain_on_dev(results, cells, reference)
            dev.append(DevResult(candidate, Spread.of(tagger), Spread.of(knn), gain))
        on_test = [cell for cell in cells if results.path(cell, "test").exists()]
        if on_test and candidate in results.for_test(condition):
            test.append(_on_test(results, candidate, on_test))
    if not dev:
        return None
    selected_vs_reference = None
    if len(test) == 2 and test[0].seeds == test[1].seeds:
        selected_vs_reference = compare(results, *(count_entities(results, one.cells, "knn") for one in test))
    return ConditionResult(condition, tuple(dev), tuple(test), selected_vs_reference)


def analyse(results: Results) -> list[ConditionResult]:
    """Sum up every condition of which something has been computed."""
    return [one for condition in results.study.conditions if (one := analyse_condition(results, condition))]


@dataclass(frozen=True)
class Curve:
    """What dev selected, on test, along one field, where the other conditions are the same.

    Attributes:
        field: that has the numbers.
        others: the other conditions.
        points: by its value, the smallest first.
        gain_vs_full_data: what kNN-NER at a value gains over the tagger at the largest; empty where the field is no
            fraction, the tagger is the same at all values, or something is yet to be computed.
        gain_vs_first_curve: what kNN-NER at a value gains over that of the study's first curve with the same tagger and
            seeds; empty for the first curve, and where the two are one result.
    """

    field: str
    others: Values
    points: dict[float, TestResult]
    gain_vs_full_data: dict[float, Comparison]
    gain_vs_first_curve: dict[float, Comparison] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """`kNN-NER (datastore.fraction 1.0)`."""
        return f"{METHODS['knn']} ({describe(self.others)})" if self.others else METHODS["knn"]

    @property
    def last(self) -> float:
        """The largest value."""
        return max(self.points)

    @property
    def taggers(self) -> frozenset[str]:
        """Their folders."""
        return frozenset(cell.config.run_dir for point in self.points.values() for cell in point.cells)

    @property
    def matches_from(self) -> float | None:
        """The smallest value from which on kNN-NER's mean is never below that of the tagger at the largest."""
        return self._first_value(lambda gain: gain.mean >= 0)

    @property
    def exceeds_from(self) -> float | None:
        """The smallest value from which on the whole interval of kNN-NER's gain over that tagger is above 0."""
        return self._first_value(lambda gain: gain.low > 0)

    def _first_value(self, holds: Callable[[Estimate], bool]) -> float | None:
        first = None
        for value in sorted(self.gain_vs_full_data, reverse=True):
            if not holds(self.gain_vs_full_data[value].gain):
                break
            first = value
        return first

    def describe(self) -> str:
        """Return a sentence on where the two meet."""
        by_mean, by_interval = self._describe_value(self.matches_from), self._describe_value(self.exceeds_from)
        return (
            f"{self.name} matches the {METHODS['tagger']} at {self.field} {self.last}: by its mean {by_mean}, "
            f"with the whole interval above 0 {by_interval}."
        )

    def _describe_value(self, value: float | None) -> str:
        if value is None:
            return "nowhere"
        return f"at {value} alone" if value == self.last else f"from {value} on"


def _curve_axis(axes: Sequence[Axis]) -> tuple[Axis, str] | None:
    """Return an axis and a field of it with numbers enough, all different: the first fraction, or else the first."""
    numeric = []
    for axis in axes:
        for name, values in axis.items():
            numbers = {value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)}
            if len(numbers) == len(values) >= MIN_CURVE_POINTS:
                numeric.append((axis, name))
    return next((each for each in numeric if each[1] in FRACTIONS), numeric[0] if numeric else None)


def find_curves(results: Results, conditions: Sequence[ConditionResult]) -> list[Curve]:
    """Return curves along a study's first fraction that has numbers enough, or its first such field; none without such."""
    along = _curve_axis(results.study.config.ablation.conditions)
    if along is None:
        return []
    axis, name = along
    points_of: dict[str, tuple[Values, dict[float, TestResult]]] = {}
    for one in conditions:
        others = {key: value for key, value in one.condition.items() if key not in axis}
        if one.test:
            points_of.setdefault(str(others), (others, {}))[1][one.condition[name]] = one.test[-1]
    curves = []
    for others, unordered in points_of.values():
        points = dict(sorted(unordered.items()))
        is_comparable = name in FRACTIONS and len(points) == len(axis[name])
        curves.append(Curve(name, others, points, _gain_vs_full_data(results, points) if is_comparable else {}))
    return [replace(curve, gain_vs_first_curve=_gain_vs_curve(results, curve, curves[0])) for curve in curves]


def _gain_vs_full_data(results: Results, points: dict[float, TestResult]) -> dict[float, Comparison]:
    last = points[max(points)]
    if len({point.cells[0].config.run_dir for point in points.values()}) == 1:
        return {}
    if any(point.seeds != last.seeds for point in points.values()):
        return {}
    tagger = count_entities(results, last.cells, "tagger")
    return {value: compare(results, tagger, count_entities(results, one.cells, "knn")) for value, one in points.items()}


def _gain_vs_curve(results: Results, curve: Curve, first: Curve) -> dict[float, Comparison]:
    gains = {}
    for value in curve.points.keys() & first.points.keys():
        both = first.points[value], curve.points[value]
        taggers = [[(cell.config.seed, cell.config.run_dir) for cell in one.cells] for one in both]
        files = [[results.path(cell, "test") for cell in one.cells] for one in both]
        if taggers[0] == taggers[1] and files[0] != files[1]:
            gains[value] = compare(results, *(count_entities(results, one.cells, "knn") for one in both))
    return gains
