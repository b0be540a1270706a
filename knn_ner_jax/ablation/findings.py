"""What came out of a study: means over seeds, what dev chose, and gains on test with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from knn_ner_jax.ablation import significance
from knn_ner_jax.ablation.results import METHODS, Results
from knn_ner_jax.ablation.settings import Trial, chosen, mean_over_seeds
from knn_ner_jax.ablation.significance import Comparison, Estimate
from knn_ner_jax.ablation.spread import Spread
from knn_ner_jax.ablation.study import Cell, Values

KEY = 0  # of the draws behind the intervals


@dataclass(frozen=True)
class Tested:
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


class OnDev(NamedTuple):
    """F1 of one choice on dev.

    Attributes:
        choice: which.
        vanilla: of its tagger alone.
        knn: the best that k, temperature and knn_weight give.
        over_reference: what that is above the best of the first choice, seed by seed; None: that is it.
    """

    choice: Values
    vanilla: Spread
    knn: Spread
    over_reference: Spread | None


@dataclass(frozen=True)
class Finding:
    """What came out for one condition.

    Attributes:
        condition: which.
        dev: every choice.
        tested: the reference, then what dev chose if that is another; only what has been computed.
        between: what the second gains over the first on test, where there are two.
    """

    condition: Values
    dev: tuple[OnDev, ...]
    tested: tuple[Tested, ...]
    between: Comparison | None


def in_words(values: Values) -> str:
    """`data.train_share 0.05, datastore.share 1.0`."""
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
    return np.stack([significance.sentence_counts(gold, results.tags(cell, "test", method)) for cell in cells])


def compare(results: Results, first: np.ndarray, second: np.ndarray) -> Comparison:
    """What the second system gains over the first; counts as of `count_entities`."""
    return significance.compare(first, second, jax.random.key(KEY), results.study.config.ablation.resamples)


def _f1(results: Results, cells: Sequence[Cell], split: str, method: str) -> list[float]:
    found = (results.scores(cell, split, method) for cell in cells)
    return [scores["f1"] for scores in found if scores is not None]


def _over(results: Results, cells: Sequence[Cell], others: Sequence[Cell]) -> Spread:
    """What cells have over others on dev, seed by seed, where there is both."""
    pairs = ([results.scores(cell, "dev", "knn") for cell in pair] for pair in zip(cells, others, strict=True))
    return Spread.of(first["f1"] - second["f1"] for first, second in pairs if first is not None and second is not None)


def _tested(results: Results, choice: Values, cells: Sequence[Cell]) -> Tested:
    f1 = {method: _f1(results, cells, "test", method) for method in METHODS}
    whole = [method for method, values in f1.items() if len(values) == len(cells)]
    counts = {method: count_entities(results, cells, method) for method in whole}
    gains = {method: compare(results, counts["vanilla"], counts[method]) for method in whole if method != "vanilla"}
    dev = {method: Spread.of(_f1(results, cells, "dev", method)) for method in whole}
    between = compare(results, counts["knn"], counts["learned"]) if "learned" in counts else None
    on_dev = [results.read(cell, "dev") for cell in cells]
    settings, trials = tuple(map(chosen, on_dev)), tuple(mean_over_seeds([of["trials"] for of in on_dev]))
    spreads = {method: Spread.of(f1[method]) for method in whole}
    return Tested(choice, tuple(cells), dev, spreads, gains, between, settings, trials)


def find(results: Results, condition: Values) -> Finding | None:
    """Sums up the finished cells of a condition; None where there is none yet."""
    study = results.study
    dev, tested = [], []
    reference = study.seeds_of(condition, study.choices[0])
    for choice in study.choices:
        cells = study.seeds_of(condition, choice)
        vanilla, knn = (_f1(results, cells, "dev", method) for method in ("vanilla", "knn"))
        if knn:
            over = None if cells == reference else _over(results, cells, reference)
            dev.append(OnDev(choice, Spread.of(vanilla), Spread.of(knn), over))
        on_test = [cell for cell in cells if results.path(cell, "test").exists()]
        if on_test and choice in results.for_test(condition):
            tested.append(_tested(results, choice, on_test))
    if not dev:
        return None
    between = None
    if len(tested) == 2 and tested[0].seeds == tested[1].seeds:
        between = compare(results, *(count_entities(results, one.cells, "knn") for one in tested))
    return Finding(condition, tuple(dev), tuple(tested), between)
