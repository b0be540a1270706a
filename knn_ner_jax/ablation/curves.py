"""Findings along a condition of numbers, such as shares of train: where kNN-NER with less meets the tagger with all."""

from collections.abc import Sequence
from dataclasses import dataclass

from knn_ner_jax.ablation.findings import Finding, Tested, compare, count_entities, in_words
from knn_ner_jax.ablation.results import Results
from knn_ner_jax.ablation.significance import Comparison
from knn_ner_jax.ablation.study import Axis, Values

ENOUGH = 3  # values of an axis that make a curve


@dataclass(frozen=True)
class Curve:
    """What dev chose, on test, along one field, where the other conditions are the same.

    Attributes:
        field: that has the numbers.
        others: the other conditions.
        points: by its value, in the order of the axis.
        over_the_last: what kNN-NER at a value gains over the tagger alone at the largest; only where the seeds are the same,
            and nothing where the tagger is the same at all values.
    """

    field: str
    others: Values
    points: dict[float, Tested]
    over_the_last: dict[float, Comparison]

    @property
    def last(self) -> float:
        """The largest value."""
        return max(self.points)

    @property
    def meets_at(self) -> float | None:
        """The smallest value from which on kNN-NER's mean is never below that of the tagger alone at the largest."""
        at = None
        for value in sorted(self.over_the_last, reverse=True):
            if self.over_the_last[value].gain.mean < 0:
                break
            at = value
        return at

    def in_words(self) -> str:
        """Where the two meet, as a sentence."""
        which = f"kNN-NER ({in_words(self.others)})" if self.others else "kNN-NER"
        tagger = f"the tagger alone at {self.field} {self.last}"
        if self.meets_at is None:
            return f"{which} does not reach {tagger}."
        return f"{which} reaches {tagger} from {self.meets_at} on."


def _axis(axes: Sequence[Axis]) -> tuple[Axis, str] | None:
    """An axis and a field of it that has numbers enough."""
    for axis in axes:
        for name, values in axis.items():
            numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
            if len(numbers) == len(values) >= ENOUGH:
                return axis, name
    return None


def find_curves(results: Results, findings: Sequence[Finding]) -> list[Curve]:
    """The curves of a study's first condition that has numbers; none where no condition has enough of them."""
    numbers = _axis(results.study.config.ablation.conditions)
    if numbers is None:
        return []
    axis, name = numbers
    points: dict[str, tuple[Values, dict[float, Tested]]] = {}
    for finding in findings:
        others = {key: value for key, value in finding.condition.items() if key not in axis}
        if finding.tested:
            points.setdefault(str(others), (others, {}))[1][finding.condition[name]] = finding.tested[-1]
    return [Curve(name, others, found, _over_the_last(results, found)) for others, found in points.values()]


def _over_the_last(results: Results, points: dict[float, Tested]) -> dict[float, Comparison]:
    last = points[max(points)]
    if len({tested.cells[0].config.run_dir for tested in points.values()}) == 1:
        return {}
    alone = count_entities(results, last.cells, "vanilla")
    return {
        value: compare(results, alone, count_entities(results, tested.cells, "knn"))
        for value, tested in points.items()
        if tested.seeds == last.seeds
    }
