"""How often an interval of a gain excludes 0 where there is no gain, by the number of seeds and how much they differ.

    python -m tools.calibration

Systems are simulated, as like each other as MiniLM with and without neighbours on WNUT-17. In each trial the seeds' true
gains are drawn around 0, with a standard deviation that is some multiple of what sentences alone make of one seed's gain.
Writes benchmarks/results/calibration.md.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from knn_ner_jax.ablation.statistics import bootstrap
from knn_ner_jax.io import write_text
from tools.pages import RESULTS

PAGE = RESULTS / "calibration.md"
LEVEL, RESAMPLES, TRIALS, SENTENCES = 0.95, 1000, 2000, 400
SEEDS, SPREADS = (2, 3, 5), (0.0, 1.0, 2.0, 3.0)
SLOTS = 4  # places for entities in a sentence


def simulate(
    rng: np.random.Generator, seeds: int, sentences: int, shifts: float | Sequence[float] = 0.0
) -> Int[np.ndarray, "2 seeds sentences 3"]:
    """Simulate the counts of a tagger, and of one that changes a few of its decisions, as `statistics.bootstrap` takes them.

    An entity is found, and a spurious one predicted, where an easiness exceeds 0. It is shared by all seeds, but for a part
    of each seed's own, one of each system's, and one of each system in each seed.

    Args:
        rng: draws.
        seeds: of each system.
        sentences: of the split.
        shifts: make the second system better, in all seeds or in each by as much as it says.
    """
    shape = (sentences, SLOTS)
    shared, of_system = rng.normal(size=shape), rng.normal(size=(2, 1, *shape))
    of_seed, of_both = rng.normal(size=(1, seeds, *shape)), rng.normal(size=(2, seeds, *shape))
    easy = shared + 0.16 * of_seed + 0.05 * of_system + 0.08 * of_both
    is_entity = rng.random(shape) < 0.25
    better = np.stack([np.zeros(seeds), np.broadcast_to(shifts, seeds)])[:, :, None, None]
    is_predicted, is_spurious = (easy + better > 0.1) & is_entity, (easy - better > 1.1) & ~is_entity
    true_positives = is_predicted.sum(axis=-1)
    gold = np.broadcast_to(is_entity.sum(axis=-1), true_positives.shape)
    return np.stack([true_positives, true_positives + is_spurious.sum(axis=-1), gold], axis=-1).astype(np.int32)


def f1s(counts: Int[np.ndarray, "*any 3"]) -> Float[np.ndarray, "*any"]:
    """Return F1 in percent."""
    true_positives, predicted, gold = np.moveaxis(counts, -1, 0)
    return 200 * true_positives / (predicted + gold)


def gains(counts: Int[np.ndarray, "trials 2 seeds sentences 3"]) -> Float[np.ndarray, "trials seeds"]:
    """Return what the second system gains in each seed."""
    return np.diff(f1s(counts.sum(axis=3)), axis=1)[:, 0]


@jax.jit
def _intervals(counts: Int[jax.Array, "trials 2 seeds sentences 3"]) -> Float[jax.Array, "trials 3 3"]:
    # One key for all: what differs between trials is the data.
    return jax.lax.map(lambda each: bootstrap(each, jax.random.key(1), LEVEL, resamples=RESAMPLES), counts, batch_size=50)


def excludes_zero(counts: Int[np.ndarray, "trials 2 seeds sentences 3"]) -> Bool[np.ndarray, " trials"]:
    """Return whether the interval of the gain lies on one side of 0."""
    _, low, high = np.moveaxis(np.asarray(_intervals(counts))[:, 2], -1, 0)
    return (low > 0) | (high < 0)


def without_mean_gain(
    rng: np.random.Generator, seeds: int, spread: float, trials: int
) -> Int[np.ndarray, "trials 2 seeds sentences 3"]:
    """Simulate trials whose seeds gain differently, and nothing on the average of all seeds that there might be.

    Args:
        rng: draws.
        seeds: of each trial.
        spread: standard deviation of the seeds' true gains, in units of what sentences alone make of one seed's gain.
        trials: how many.
    """
    by_chance = gains(np.stack([simulate(rng, 1, SENTENCES) for _ in range(400)])).std()
    by_a_tenth = gains(np.stack([simulate(rng, 1, SENTENCES, 0.1) for _ in range(400)])).mean()
    deviation = spread * by_chance * 0.1 / by_a_tenth
    return np.stack([simulate(rng, seeds, SENTENCES, rng.normal(size=seeds) * deviation) for _ in range(trials)])


def main() -> None:
    """Simulate and write the page."""
    rng = np.random.default_rng(0)
    lines = [
        "| seeds | " + " | ".join(f"spread {spread:g}" for spread in SPREADS) + " |",
        "| --: |" + " --: |" * len(SPREADS),
    ]
    for seeds in SEEDS:
        rates = [100 * excludes_zero(without_mean_gain(rng, seeds, spread, TRIALS)).mean() for spread in SPREADS]
        lines.append(f"| {seeds} | " + " | ".join(f"{rate:.1f}%" for rate in rates) + " |")
    caption = (
        f"How often the {LEVEL:.0%} interval of a gain excludes 0 where there is none: {TRIALS} simulated trials each. The "
        "spread is that of the seeds' true gains, in units of what sentences alone make of one seed's gain."
    )
    write_text(PAGE, "\n".join(["# Calibration of the intervals", "", caption, "", *lines, ""]))
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
