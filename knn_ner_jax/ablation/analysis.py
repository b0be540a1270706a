"""What dev chose of k, temperature, knn_weight and metric, and where a better one may lie beyond what was offered.

What came out of a study: means over seeds, what dev chose, and gains on test with their intervals.

Findings along a condition of numbers, such as shares of train: where kNN-NER with less meets the tagger with all.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import jax
import numpy as np

from knn_ner_jax.ablation import statistics
from knn_ner_jax.ablation.statistics import Comparison, Estimate, Spread
from knn_ner_jax.ablation.store import METHODS, Results
from knn_ner_jax.ablation.study import Cell, Values
from knn_ner_jax.config import Axis

Trial = Mapping[str, Any]

NAMES = ("k", "temperature", "knn_weight", "metric")
EDGE = "*"  # stands behind the smallest or the largest that was offered
_ENDS = {"k": (1, "all"), "temperature": (), "knn_weight": (0.0, 1.0)}  # beyond which there is nothing to offer


def _order(value: Any) -> float:
    return float("inf") if value == "all" else value


def _marked(name: str, value: Any, offered: Iterable[Any]) -> str:
    ordered = sorted(set(offered), key=_order)
    is_edge = len(ordered) > 1 and value in (ordered[0], ordered[-1]) and value not in _ENDS[name]
    return f"{value}{EDGE}" if is_edge else str(value)


def describe_chosen(dev: Mapping[str, Any]) -> dict[str, str]:
    """Each value that dev chose, in words; `EDGE` behind those beyond which a better one may lie.

    Args:
        dev: results of a cell on dev.
    """
    selected, trials = dev["selected"], dev["trials"]
    numbers = {name: _marked(name, selected[name], [trial[name] for trial in trials]) for name in _ENDS}
    return numbers | {"metric": str(selected["metric"])}


def describe_seeds(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """What is `chosen` for each seed, by name: one value where all seeds agree."""
    values = {name: [setting[name] for setting in settings] for name in NAMES}
    return [each[0] if len(set(each)) == 1 else "; ".join(each) for each in values.values()]


def mean_over_seeds(trials_of_seeds: Sequence[Iterable[Trial]]) -> list[Trial]:
    """Mean F1 of every setting that all seeds tried; k beyond the rows of a datastore is not tried."""
    by_setting: dict[tuple[Any, ...], list[float]] = {}
    for trials in trials_of_seeds:
        for trial in trials:
            by_setting.setdefault(tuple(trial[name] for name in NAMES), []).append(trial["f1"])
    tried_by_all = {setting: f1 for setting, f1 in by_setting.items() if len(f1) == len(trials_of_seeds)}
    return [dict(zip(NAMES, setting, strict=True)) | {"f1": fmean(f1)} for setting, f1 in tried_by_all.items()]


KEY = 0  # of the draws behind the intervals


@dataclass(frozen=True)
class TestResult:
    """One choice under one condition on test.

    Attributes:
        choice: which.
        cells: by seed.
        dev: F1 on dev by method.
        f1: by method.
        gains: over the tagger alone, by method.
        learned_over_constant: what learned mixing gains over kNN-NER, where there is both.
        settings: what dev chose of k, temperature, knn_weight and metric for each seed, in words.
        trials: F1 on dev of every setting, means over seeds.
    """

    choice: Values
    cells: tuple[Cell, ...]
    dev: dict[str, Spread]
    f1: dict[str, Spread]
    gains: dict[str, Comparison]
    learned_over_constant: Comparison | None
    settings: tuple[dict[str, str], ...] = ()
    trials: tuple[Trial, ...] = ()

    @property
    def seeds(self) -> list[int]:
        """Those of the cells."""
        return [cell.config.seed for cell in self.cells]

    @property
    def mixing(self) -> str:
        """The method that dev prefers: `learned` where that is better there than the best constant weight, else `knn`."""
        learned = self.dev.get("learned")
        return "learned" if learned and learned.mean > self.dev["knn"].mean else "knn"


class DevResult(NamedTuple):
    """F1 of one choice on dev.

    Attributes:
        choice: which.
        tagger: of its tagger alone.
        knn: the best that k, temperature and knn_weight give.
        over_reference: what that is above the best of the first choice, seed by seed; None: that is it.
    """

    choice: Values
    tagger: Spread
    knn: Spread
    over_reference: Spread | None


@dataclass(frozen=True)
class ConditionResult:
    """What came out for one condition.

    Attributes:
        condition: which.
        dev: every choice.
        tested: the reference, then what dev chose if that is another; only what has been computed.
        between: what the second gains over the first on test, where there are two.
    """

    condition: Values
    dev: tuple[DevResult, ...]
    tested: tuple[TestResult, ...]
    between: Comparison | None


def in_words(values: Values) -> str:
    """`data.train_fraction 0.05, datastore.fraction 1.0`."""
    return ", ".join(f"{name} {value_in_words(value)}" for name, value in values.items()) or "as configured"


def value_in_words(value: Any) -> str:
    """A value as it is written, but for null, which leaves a field to its default."""
    return "default" if value is None else str(value)


def interval(estimate: Estimate) -> str:
    """`+1.2 [+0.3, +2.0]`."""
    return f"{estimate.mean:+.1f} [{estimate.low:+.1f}, {estimate.high:+.1f}]"


def count_entities(results: Results, cells: Sequence[Cell], method: str) -> np.ndarray:
    """[seeds, sentences, 3] entities of test."""
    gold = results.tags(cells[0], "test", "gold")
    return np.stack([statistics.sentence_counts(gold, results.tags(cell, "test", method)) for cell in cells])


def compare(results: Results, first: np.ndarray, second: np.ndarray) -> Comparison:
    """What the second system gains over the first; counts as of `count_entities`."""
    return statistics.compare(first, second, jax.random.key(KEY), results.study.config.ablation.resamples)


def _f1(results: Results, cells: Sequence[Cell], split: str, method: str) -> list[float]:
    found = (results.scores(cell, split, method) for cell in cells)
    return [scores["f1"] for scores in found if scores is not None]


def _over(results: Results, cells: Sequence[Cell], others: Sequence[Cell]) -> Spread:
    """What cells have over others on dev, seed by seed, where there is both."""
    pairs = ([results.scores(cell, "dev", "knn") for cell in pair] for pair in zip(cells, others, strict=True))
    return Spread.of(first["f1"] - second["f1"] for first, second in pairs if first is not None and second is not None)


def _tested(results: Results, choice: Values, cells: Sequence[Cell]) -> TestResult:
    f1 = {method: _f1(results, cells, "test", method) for method in METHODS}
    whole = [method for method, values in f1.items() if len(values) == len(cells)]
    counts = {method: count_entities(results, cells, method) for method in whole}
    gains = {method: compare(results, counts["tagger"], counts[method]) for method in whole if method != "tagger"}
    dev = {method: Spread.of(_f1(results, cells, "dev", method)) for method in whole}
    between = compare(results, counts["knn"], counts["learned"]) if "learned" in counts else None
    on_dev = [results.read(cell, "dev") for cell in cells]
    settings, trials = tuple(map(describe_chosen, on_dev)), tuple(mean_over_seeds([of["trials"] for of in on_dev]))
    spreads = {method: Spread.of(f1[method]) for method in whole}
    return TestResult(choice, tuple(cells), dev, spreads, gains, between, settings, trials)


def find(results: Results, condition: Values) -> ConditionResult | None:
    """Sums up the finished cells of a condition; None where there is none yet."""
    study = results.study
    dev, tested = [], []
    reference = study.seeds_of(condition, study.candidates[0])
    for choice in study.candidates:
        cells = study.seeds_of(condition, choice)
        tagger, knn = (_f1(results, cells, "dev", method) for method in ("tagger", "knn"))
        if knn:
            over = None if cells == reference else _over(results, cells, reference)
            dev.append(DevResult(choice, Spread.of(tagger), Spread.of(knn), over))
        on_test = [cell for cell in cells if results.path(cell, "test").exists()]
        if on_test and choice in results.for_test(condition):
            tested.append(_tested(results, choice, on_test))
    if not dev:
        return None
    between = None
    if len(tested) == 2 and tested[0].seeds == tested[1].seeds:
        between = compare(results, *(count_entities(results, one.cells, "knn") for one in tested))
    return ConditionResult(condition, tuple(dev), tuple(tested), between)


ENOUGH = 3  # values of an axis that make a curve
SHARES = ("data.train_fraction", "datastore.fraction")  # of which the largest value is all there is, so that others are less


@dataclass(frozen=True)
class Curve:
    """What dev chose, on test, along one field, where the other conditions are the same.

    Attributes:
        field: that has the numbers.
        others: the other conditions.
        points: by its value, the smallest first.
        over_the_last: what kNN-NER at a value gains over the tagger alone at the largest; nothing where the field is no
            share, the tagger is the same at all values, or something is yet to be computed.
        over_the_first: what kNN-NER at a value gains over that of the study's first curve with the same tagger and seeds;
            nothing for the first curve, and where the two are one result.
    """

    field: str
    others: Values
    points: dict[float, TestResult]
    over_the_last: dict[float, Comparison]
    over_the_first: dict[float, Comparison] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """`kNN-NER (datastore.fraction 1.0)`."""
        return f"{METHODS['knn']} ({in_words(self.others)})" if self.others else METHODS["knn"]

    @property
    def last(self) -> float:
        """The largest value."""
        return max(self.points)

    @property
    def taggers(self) -> frozenset[str]:
        """Their folders."""
        return frozenset(cell.config.run_dir for tested in self.points.values() for cell in tested.cells)

    @property
    def meets_at(self) -> float | None:
        """The smallest value from which on kNN-NER's mean is never below that of the tagger alone at the largest."""
        return self._from_where(lambda gain: gain.mean >= 0)

    @property
    def exceeds_at(self) -> float | None:
        """The smallest value from which on the whole interval of kNN-NER's gain over that tagger is always above 0."""
        return self._from_where(lambda gain: gain.low > 0)

    def _from_where(self, holds: Callable[[Estimate], bool]) -> float | None:
        at = None
        for value in sorted(self.over_the_last, reverse=True):
            if not holds(self.over_the_last[value].gain):
                break
            at = value
        return at

    def in_words(self) -> str:
        """Where the two meet, as a sentence."""
        by_mean, surely = self._said(self.meets_at), self._said(self.exceeds_at)
        return (
            f"{self.name} matches the tagger alone at {self.field} {self.last}: by its mean {by_mean}, with the whole "
            f"interval above 0 {surely}."
        )

    def _said(self, value: float | None) -> str:
        if value is None:
            return "nowhere"
        return f"at {value} alone" if value == self.last else f"from {value} on"


def _axis(axes: Sequence[Axis]) -> tuple[Axis, str] | None:
    """An axis and a field of it that has numbers enough, each once: the first share, or else the first of all."""
    found = []
    for axis in axes:
        for name, values in axis.items():
            numbers = {value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)}
            if len(numbers) == len(values) >= ENOUGH:
                found.append((axis, name))
    return next((each for each in found if each[1] in SHARES), found[0] if found else None)


def find_curves(results: Results, findings: Sequence[ConditionResult]) -> list[Curve]:
    """The curves along a study's first share that has numbers enough, or its first such field; none where there is none."""
    numbers = _axis(results.study.config.ablation.conditions)
    if numbers is None:
        return []
    axis, name = numbers
    points: dict[str, tuple[Values, dict[float, TestResult]]] = {}
    for finding in findings:
        others = {key: value for key, value in finding.condition.items() if key not in axis}
        if finding.tested:
            points.setdefault(str(others), (others, {}))[1][finding.condition[name]] = finding.tested[-1]
    in_order = [(others, dict(sorted(found.items()))) for others, found in points.values()]
    curves = []
    for others, found in in_order:
        is_compared = name in SHARES and len(found) == len(axis[name])
        curves.append(Curve(name, others, found, _over_the_last(results, found) if is_compared else {}))
    return [
        dataclasses.replace(curve, over_the_first=_over_points(results, curve.points, curves[0].points)) for curve in curves
    ]


def _over_the_last(results: Results, points: dict[float, TestResult]) -> dict[float, Comparison]:
    last = points[max(points)]
    if len({tested.cells[0].config.run_dir for tested in points.values()}) == 1:
        return {}
    if any(tested.seeds != last.seeds for tested in points.values()):
        return {}
    alone = count_entities(results, last.cells, "tagger")
    return {value: compare(results, alone, count_entities(results, one.cells, "knn")) for value, one in points.items()}


def _over_points(
    results: Results, points: dict[float, TestResult], first: dict[float, TestResult]
) -> dict[float, Comparison]:
    compared = {}
    for value in points.keys() & first.keys():
        both = first[value], points[value]
        taggers = [[(cell.config.seed, cell.config.run_dir) for cell in one.cells] for one in both]
        files = [[results.path(cell, "test") for cell in one.cells] for one in both]
        if taggers[0] == taggers[1] and files[0] != files[1]:
            compared[value] = compare(results, *(count_entities(results, one.cells, "knn") for one in both))
    return compared
