"""The score of a predicted entity as a probability: calibrated on dev, judged by its error, and put to use by thresholds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Method = Literal["none", "temperature", "isotonic"]
Scores = Float[np.ndarray, " entities"]
Rights = Bool[np.ndarray, " entities"]

FEWEST_ENTITIES = 100  # on dev; a curve through fewer says more about chance
FOLDS = 5
BINS = 15  # of equal width, as Guo et al. (2017) take them
RECALL_LEVELS = tuple(range(10, 100, 10))  # percent
_INVERSE_TEMPERATURES = 0.05, 20.0  # where one is looked for; without bounds it is infinite where all entities are right
_LEAST = 1e-6  # distance of a probability from 0 and 1 in logarithms


@dataclass(frozen=True)
class Calibration:
    """A map from raw scores of entities to probabilities that they are right; it never puts a lower score above a higher.

    >>> Calibration("temperature", temperature=2.0).apply(np.array([0.5, 0.9])).round(3).tolist()
    [0.5, 0.75]
    >>> Calibration("isotonic", knots=((0.4, 0.1), (0.8, 0.7))).apply(np.array([0.2, 0.6, 0.9])).round(3).tolist()
    [0.1, 0.4, 0.7]

    Attributes:
        method: `none`, which leaves scores as they are; `temperature`, which divides their log odds; or `isotonic`, the best
            of all maps that never fall.
        temperature: of the method of that name, > 0; above 1 where raw scores are too sure.
        knots: of `isotonic`: raw score and probability, rising; straight lines between them, constant outside.
    """

    method: Method = "none"
    temperature: float | None = None
    knots: tuple[tuple[float, float], ...] = ()

    def apply(self, raw: Scores) -> Scores:
        """Return the probabilities for raw scores, both in [0, 1]."""
        if self.method == "temperature" and self.temperature is not None:
            return _scale(raw, 1 / self.temperature)
        if self.method == "isotonic":
            return np.interp(raw, *np.array(self.knots).T)
        return raw

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Calibration":
        """Return the calibration of a dictionary with its fields, such as JSON holds, whatever else stands beside them."""
        knots = tuple((float(raw), float(probability)) for raw, probability in fields["knots"])
        return cls(fields["method"], fields["temperature"], knots)


RAW = Calibration()


class Fit(NamedTuple):
    """A calibration and how it was chosen.

    Attributes:
        calibration: the chosen one, fitted to all entities.
        held_out: for each entity the probability by the same method, fitted to the other folds.
        log_loss: of each method, in nats by entity, on entities that it was not fitted to; empty where there were too few.
    """

    calibration: Calibration
    held_out: Scores
    log_loss: dict[Method, float]


def _scale(raw: Scores, inverse_temperature: float) -> Scores:
    raw = np.clip(raw, _LEAST, 1 - _LEAST)
    return 1 / (1 + ((1 - raw) / raw) ** inverse_temperature)


def _log_losses(scores: Scores, is_right: Rights) -> Float[np.ndarray, " entities"]:
    return -np.log(np.clip(np.where(is_right, scores, 1 - scores), _LEAST, 1))


def _standard_error(values: Float[np.ndarray, " entities"]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _fit_temperature(raw: Scores, is_right: Rights) -> Calibration:
    from scipy.optimize import minimize_scalar  # takes long to import, and who tags fits nothing

    # The loss is convex in 1 / temperature: that is the slope of a logistic regression on the log odds.
    best = minimize_scalar(
        lambda inverse: _log_losses(_scale(raw, inverse), is_right).mean(), bounds=_INVERSE_TEMPERATURES, method="bounded"
    )
    return Calibration("temperature", temperature=1 / float(best.x))


def _fit_isotonic(raw: Scores, is_right: Rights) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    # One right entity with the lowest score and a wrong one with the highest, made up, keep both ends from certainty: the
    # more so the fewer entities there are.
    scores, rights = np.append(raw, [raw.min(), raw.max()]), np.append(is_right, [True, False])
    curve = IsotonicRegression(out_of_bounds="clip").fit(scores, rights)
    return Calibration("isotonic", knots=tuple(zip(curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist(), strict=True)))


# From the simplest on.
_FITS: dict[Method, Callable[[Scores, Rights], Calibration]] = {
    "none": lambda raw, is_right: RAW,
    "temperature": _fit_temperature,
    "isotonic": _fit_isotonic,
}


def fit(raw: Scores, is_right: Rights, sentence_ids: Int[np.ndarray, " entities"]) -> Fit:
    """Choose a method by the log loss on held-out entities, and fit it to all.

    It is the simplest whose loss exceeds the least one by at most a standard error of their difference.

    Folds are stretches of sentences, so that what stands close together, often in one document, is in one fold. With fewer
    than `FEWEST_ENTITIES` scores stay as they are.

    Args:
        raw: scores of the predicted entities of dev.
        is_right: whether each is in the gold.
        sentence_ids: ascending numbers of their sentences.
    """
    if len(raw) < FEWEST_ENTITIES:
        return Fit(RAW, raw, {})
    _, sentences = np.unique(sentence_ids, return_inverse=True)
    folds = sentences * FOLDS // (sentences[-1] + 1)
    held_out: dict[Method, Scores] = {}
    for method, fit_method in _FITS.items():
        held_out[method] = np.empty_like(raw)
        for fold in np.unique(folds):
            is_held = folds == fold
            fitted = fit_method(raw[~is_held], is_right[~is_held]) if not is_held.all() else RAW
            held_out[method][is_held] = fitted.apply(raw[is_held])
    losses = {method: _log_losses(scores, is_right) for method, scores in held_out.items()}
    least = min(losses.values(), key=np.mean)
    chosen = next(method for method, each in losses.items() if (each - least).mean() <= _standard_error(each - least))
    return Fit(
        _FITS[chosen](raw, is_right), held_out[chosen], {method: float(each.mean()) for method, each in losses.items()}
    )


class Bin(NamedTuple):
    """The entities whose scores lie in one interval: their mean score, their precision, both in [0, 1], and their number."""

    score: float
    precision: float
    entities: int


def reliability(scores: Scores, is_right: Rights, bins: int = BINS) -> list[Bin]:
    """Return the bins of equal width that have entities, from the lowest scores on; each includes its upper end.

    >>> reliability(np.array([0.4, 0.9, 0.7]), np.array([False, True, False]), bins=2)
    [Bin(score=0.4, precision=0.0, entities=1), Bin(score=0.8, precision=0.5, entities=2)]
    """
    numbers = np.digitize(scores, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    members = (numbers == number for number in np.unique(numbers))
    return [Bin(float(scores[each].mean()), float(is_right[each].mean()), int(each.sum())) for each in members]


def expected_calibration_error(scores: Scores, is_right: Rights, bins: int = BINS) -> float:
    """Return the mean distance of score and precision over bins of equal width, weighted by entities, in percent.

    It is the ECE of Guo et al. (2017), of entities; 0 without any.

    >>> round(expected_calibration_error(np.array([0.4, 0.9, 0.7]), np.array([False, True, False]), bins=2), 2)
    33.33
    """
    distances = [each.entities * abs(each.score - each.precision) for each in reliability(scores, is_right, bins)]
    return 100 * sum(distances) / max(len(scores), 1)


class OperatingPoint(NamedTuple):
    """What the highest threshold that reaches a recall leaves; None where no threshold reaches it.

    Attributes:
        recall: the one to reach, in percent.
        precision: of entities with at least `threshold`, in percent.
        threshold: of the score.
    """

    recall: int
    precision: float | None
    threshold: float | None


def precision_at_recall(
    scores: Scores, is_right: Rights, num_gold: int, levels: Sequence[int] = RECALL_LEVELS
) -> list[OperatingPoint]:
    """Return precision, and the threshold to get it, at levels of recall.

    >>> scores, is_right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True])
    >>> precision_at_recall(scores, is_right, num_gold=6, levels=[20, 50])
    [OperatingPoint(recall=20, precision=100.0, threshold=0.8), OperatingPoint(recall=50, precision=75.0, threshold=0.6)]

    Args:
        scores: of the predicted entities.
        is_right: whether each is in the gold.
        num_gold: entities of the gold, found or not.
        levels: of recall, in percent.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(is_right[order])
    # A threshold cannot tell equal scores apart.
    cuts = np.flatnonzero(np.diff(ordered, append=-1) != 0)

    def point(level: int) -> OperatingPoint:
        reaching = cuts[100 * hits[cuts] >= level * num_gold]
        if not len(reaching):
            return OperatingPoint(level, None, None)
        cut = reaching[0]
        return OperatingPoint(level, 100 * float(hits[cut] / (cut + 1)), float(ordered[cut]))

    return [point(level) for level in levels]
