"""Findings along a condition of numbers, such as shares of train: where kNN-NER with less meets the tagger with all."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from knn_ner_jax.ablation.findings import Finding, Tested, compare, count_entities, in_words
from knn_ner_jax.ablation.results import METHODS, Results
from knn_ner_jax.ablation.significance import Comparison, Estimate
from knn_ner_jax.ablation.study import Axis, Values

ENOUGH = 3  # values of an axis that make a curve
SHARES = ("data.train_share", "datastore.share")  # of which the largest value is all there is, so that others are less


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
    points: dict[float, Tested]
    over_the_last: dict[float, Comparison]
    over_the_first: dict[float, Comparison] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """`kNN-NER (datastore.share 1.0)`."""
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


def find_curves(results: Results, findings: Sequence[Finding]) -> list[Curve]:
    """The curves along a study's first share that has numbers enough, or its first such field; none where there is none."""
    numbers = _axis(results.study.config.ablation.conditions)
    if numbers is None:
        return []
    axis, name = numbers
    points: dict[str, tuple[Values, dict[float, Tested]]] = {}
    for finding in findings:
        others = {key: value for key, value in finding.condition.items() if key not in axis}
        if finding.tested:
            points.setdefault(str(others), (others, {}))[1][finding.condition[name]] = finding.tested[-1]
    in_order = [(others, dict(sorted(found.items()))) for others, found in points.values()]
    curves = []
    for others, found in in_order:
        is_compared = name in SHARES and len(found) == len(axis[name])
        curves.append(Curve(name, others, found, _over_the_last(results, found) if is_compared else {}))
    return [dataclasses.replace(curve, over_the_first=_over(results, curve.points, curves[0].points)) for curve in curves]


def _over_the_last(results: Results, points: dict[float, Tested]) -> dict[float, Comparison]:
    last = points[max(points)]
    if len({tested.cells[0].config.run_dir for tested in points.values()}) == 1:
        return {}
    if any(tested.seeds != last.seeds for tested in points.values()):
        return {}
    alone = count_entities(results, last.cells, "vanilla")
    return {value: compare(results, alone, count_entities(results, one.cells, "knn")) for value, one in points.items()}


def _over(results: Results, points: dict[float, Tested], first: dict[float, Tested]) -> dict[float, Comparison]:
    compared = {}
    for value in points.keys() & first.keys():
        both = first[value], points[value]
        taggers = [[(cell.config.seed, cell.config.run_dir) for cell in one.cells] for one in both]
        files = [[results.path(cell, "test") for cell in one.cells] for one in both]
        if taggers[0] == taggers[1] and files[0] != files[1]:
            compared[value] = compare(results, *(count_entities(results, one.cells, "knn") for one in both))
    return compared
