"""Means over seeds, and how sure a gain is: a paired bootstrap, on device, of two systems on the same sentences.

What a mean over R seeds owes to chance is of three kinds. Other sentences would have been easier or harder for all seeds:
each resample draws sentences with replacement, the same ones for both systems and all seeds. Each seed errs on sentences of
its own: the same draw shows that too, since every seed's score is taken on it. And some seeds are better than others: to
each resample comes a mean effect of seeds, drawn from Student's t with R - 1 degrees of freedom, whose variance is that
between the seeds' scores less the part that sentences explain, or 0 where they explain all of it.

The pigeonhole bootstrap (Owen 2007) would draw seeds with replacement instead, and so counts a seed's own errors up to three
times: two seeds err alike, but what kNN-NER changes in them is hardly correlated. Its interval would hold 0 too often. And
where seeds differ by much, three are too few for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from knn_ner_jax import metrics
from knn_ner_jax.data.tag_schemes import strict_spans
from knn_ner_jax.io import InputError


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds.

    Attributes:
        mean: nan where no seed has a value.
        std: nan where fewer than two have.
        seeds: how many have one.
    """

    mean: float
    std: float
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float] | np.ndarray) -> "Spread":
        """Return the spread of one value for each seed; nan where a seed has none.

        >>> str(Spread.of([50.0, 52.0, float("nan")]))
        '51.0 ± 1.4'
        """
        numbers = np.asarray(list(values), float)
        numbers = numbers[~np.isnan(numbers)]
        mean = float(numbers.mean()) if len(numbers) else float("nan")
        return cls(mean, float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan"), len(numbers))

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.std:.1f}" if self.seeds > 1 else f"{self.mean:.1f}"


CHUNK = 64  # resamples at a time; memory grows with this times the number of sentences
COUNTS = ("true_positives", "predicted", "gold")


class Estimate(NamedTuple):
    """The mean over seeds, and the ends of its interval; in percent F1 or in points of it."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True where the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


class Comparison(NamedTuple):
    """Strict micro F1 of two systems, and what the second gains over the first."""

    first: Estimate
    second: Estimate
    gain: Estimate


def sentence_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Int[np.ndarray, "sentences 3"]:
    """Count the entities of each sentence: true positives, predicted, gold; strict IOB2, so their sums are seqeval's.

    Args:
        gold: IOB2 tags by sentence.
        predicted: as many, as long.

    Raises:
        InputError: they are not as many or not as long.
    """
    if [len(tags) for tags in gold] != [len(tags) for tags in predicted]:
        raise InputError("predicted: expected as many sentences as gold, each as long, got others")
    counts = np.zeros((len(gold), len(COUNTS)), np.int32)
    for row, tags, predicted_tags in zip(counts, gold, predicted, strict=True):
        gold_spans, spans = set(strict_spans(tags, "BIO")), set(strict_spans(predicted_tags, "BIO"))
        row[:] = len(gold_spans & spans), len(spans), len(gold_spans)
    return counts


def _figures(totals: Array) -> Array:
    """Return F1 of the first system, of the second, and the gain, [3, seeds], from counts of a split, [2, seeds, 3]."""
    f1 = metrics.precision_recall_f1(*jnp.moveaxis(totals, -1, 0))[2]
    return jnp.concatenate([f1, f1[1:] - f1[:1]])


@partial(jax.jit, static_argnames="resamples")
def bootstrap(
    counts: Int[Array, "2 seeds sentences 3"], key: Array, level: Float[Array, ""] | float, *, resamples: int
) -> Float[Array, "3 3"]:
    """Compute `compare` on device.

    Args:
        counts: of the first and the second system, as in `sentence_counts`; fewer than 2**24 entities.
        key: decides all draws.
        level: share of the resamples that lie in an interval.
        resamples: how many.

    Returns:
        Mean, low and high (columns) of the first system's F1, the second's, and the gain (rows).
    """
    num_seeds, num_sentences = counts.shape[1:3]
    sentence_key, seed_key = jax.random.split(key)
    observed = _figures(counts.sum(axis=2))

    def resample(key: Array) -> Array:
        drawn = jax.random.randint(key, (num_sentences,), 0, num_sentences)
        times = jnp.zeros(num_sentences, jnp.float32).at[drawn].add(1.0)
        totals = jnp.einsum("n,csnf->csf", times, counts.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
        return _figures(totals)

    resampled = jax.lax.map(resample, jax.random.split(sentence_key, resamples), batch_size=min(CHUNK, resamples))
    means = resampled.mean(axis=2)
    if num_seeds > 1:
        explained = (resampled - observed[None]).var(axis=2, ddof=1).mean(axis=0)
        of_seeds = jnp.maximum(observed.var(axis=1, ddof=1) - explained, 0.0) / num_seeds
        effects = jax.random.t(seed_key, num_seeds - 1.0, (resamples,))
        means += effects[:, None] * jnp.sqrt(of_seeds)[None]
        means = jnp.clip(means, jnp.array([[0.0, 0.0, -100.0]]), 100.0)  # t has long tails, F1 and its gains have ends
    tail = (1.0 - level) / 2.0
    low, high = jnp.quantile(means, jnp.stack([tail, 1.0 - tail]), axis=0)
    return jnp.stack([observed.mean(axis=1), low, high], axis=1)


def compare(
    first: Int[np.ndarray, "..."],
    second: Int[np.ndarray, "..."],
    key: Array,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Comparison:
    """Return mean strict micro F1 over seeds of two systems and of the gain, with percentile intervals.

    With one seed the interval says nothing of other seeds. Two or three tell little of the spread between seeds: where seeds
    differ by more than sentences explain, the interval is wide, and still excludes 0 somewhat too often
    (`benchmarks/results/calibration.md`).

    Args:
        first: [seeds, sentences, 3] `sentence_counts` of one system for each seed, on the same sentences.
        second: of the other, likewise.
        key: decides all draws; same key, same intervals.
        resamples: how many.
        level: of the intervals, between 0 and 1.

    Raises:
        InputError: shapes that are not those above or of each other; gold that is not the same everywhere; a level or a
            number of resamples out of range.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim != 3 or first.shape[2] != len(COUNTS) or not first.size:
        raise InputError(f"counts: expected two arrays [seeds, sentences, 3], got shapes {first.shape} and {second.shape}")
    counts = np.stack([first, second])
    if (counts[..., 2] != counts[0, 0, :, 2]).any():
        raise InputError("counts: expected the same sentences, so the same gold entities, for all seeds and both systems")
    if not 0 < level < 1:
        raise InputError(f"level: expected between 0 and 1, got {level}")
    if resamples < 1:
        raise InputError(f"resamples: expected at least 1, got {resamples}")
    estimates = np.asarray(bootstrap(counts, key, level, resamples=resamples))
    return Comparison(*(Estimate(*row) for row in estimates.tolist()))
