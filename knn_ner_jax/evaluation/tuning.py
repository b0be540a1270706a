"""The grid of kNN parameters, scored on dev from one search for each metric, and the choice among its trials."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax import metrics
from knn_ner_jax.config import K, KnnConfig, as_list
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.border import Sweep
from knn_ner_jax.knn.combine import Cache, KnnParams, cached_knn_probabilities, interpolate
from knn_ner_jax.knn_tagger import KnnTagger


@dataclass(frozen=True)
class Trial:
    """Parameters and the strict micro F1 on dev that they reach, in percent."""

    knn_params: KnnParams
    f1: float

    def as_dict(self) -> dict[str, Any]:
        """Return a flat dictionary, as eval.json lists trials."""
        return {**asdict(self.knn_params), "f1": self.f1}


@dataclass(frozen=True)
class Grid:
    """Values to try; all combinations are scored.

    Attributes:
        k: numbers of neighbours, `all` among them or not.
        temperature: each > 0.
        knn_weight: each in [0, 1].
        skipped_k: configured values that exceed the rows of the datastore.
    """

    k: tuple[K, ...]
    temperature: tuple[float, ...]
    knn_weight: tuple[float, ...]
    skipped_k: tuple[int, ...] = ()

    @property
    def largest_k(self) -> K:
        """The neighbours one search must return so that those of every finite k are among them; `all` without a finite k."""
        return max((k for k in self.k if k != "all"), default="all")


def search_space(knn: KnnConfig) -> KnnConfig:
    """Return the configuration with what there is to choose from: its own lists, or what a paper published."""
    if knn.selection == "dev":
        return knn
    published: dict[str, Any] = asdict(knn.published)
    return replace(knn, **published)


def make_grid(knn: KnnConfig, num_rows: int) -> Grid:
    """Return the grid of a configuration without every k beyond the rows of the datastore.

    >>> make_grid(KnnConfig(k=[8, 512, "all"], temperature=0.1, knn_weight=0.5), num_rows=100)
    Grid(k=(8, 'all'), temperature=(0.1,), knn_weight=(0.5,), skipped_k=(512,))

    Raises:
        InputError: no k is left.
    """
    space = search_space(knn)
    every_k: list[K] = as_list(space.k)
    fitting = tuple(k for k in every_k if k == "all" or k <= num_rows)
    if not fitting:
        name = "knn.k" if knn.selection == "dev" else "knn.published.k"
        raise InputError(
            f"{name}: expected at most {num_rows} (the rows of the datastore), got {', '.join(map(str, every_k))}"
        )
    skipped = tuple(k for k in every_k if k != "all" and k > num_rows)
    return Grid(fitting, tuple(as_list(space.temperature)), tuple(as_list(space.knn_weight)), skipped)


class Gold(NamedTuple):
    """The gold labels of a split, its sentences laid end to end with a gap after each.

    Attributes:
        label_ids: of each word.
        positions: where each word stands.
        is_word: False in gaps and at special tokens.
    """

    label_ids: Int[Array, " words"]
    positions: Int[Array, " words"]
    is_word: Bool[Array, "1 positions"]


def lay_out(split: EncodedSplit) -> Gold:
    """Put the gold labels of a split on the default device."""
    is_word = np.zeros((1, split.num_words + int(split.sentence_ids[-1]) + 1), bool)
    is_word[0, split.flat_positions] = split.is_scored
    return Gold(*jax.device_put((split.label_ids, split.flat_positions, is_word)))


def micro_f1(gold: Gold, predicted: Int[Array, " words"], label_set: LabelSet) -> Float[Array, ""]:
    """Compute the strict micro F1 of label ids of a split's words, in percent, on device."""
    outside = jnp.zeros(gold.is_word.shape, jnp.int32)
    counts = metrics.span_counts(
        outside.at[0, gold.positions].set(gold.label_ids),
        outside.at[0, gold.positions].set(predicted),
        gold.is_word,
        label_set.names,
        label_set.protocol,
    )
    return metrics.precision_recall_f1(*(count.sum() for count in counts))[2]


@partial(jax.jit, static_argnames="label_set")
def _f1_by_weight(
    p_ner: Float[Array, "words labels"],
    p_knn: Float[Array, "words labels"],
    knn_weights: Float[Array, " weights"],
    gold: Gold,
    *,
    label_set: LabelSet,
) -> Float[Array, " weights"]:
    def f1(knn_weight: Float[Array, ""]) -> Float[Array, ""]:
        return micro_f1(gold, interpolate(p_ner, p_knn, knn_weight).argmax(axis=1), label_set)

    return jax.lax.map(f1, knn_weights)


def retrieve_for_grid(knn_tagger: KnnTagger, split: EncodedSplit, grid: Grid, metric: str) -> Cache:
    """Search once for what gives every word of a split its label by every setting of a grid.

    Words that the border settles for all settings (`border.Sweep`) have its neighbours, which vote for the same label.
    """
    border, k = knn_tagger.border, grid.largest_k
    sweep, temperatures = None, np.asarray(grid.temperature, np.float32)
    if border is not None and (k == "all" or k < len(border.rows.values)):
        ends = np.array([min(grid.knn_weight), max(grid.knn_weight)], np.float32)
        sweep = Sweep(border, temperatures, ends, grid.k)  # type: ignore[arg-type]
    return knn_tagger.retrieve(split, k, metric, grid.temperature if "all" in grid.k else None, sweep=sweep)


def run_grid(cache: Cache, split: EncodedSplit, label_set: LabelSet, grid: Grid, metric: str) -> list[Trial]:
    """Score every point of the grid from what one search returned.

    Args:
        cache: for the tuning split.
        split: gold labels and sentence bounds.
        label_set: of the gold labels; its first labels are those of tagger and datastore.
        grid: what to try.
        metric: the one the search used.
    """
    knn_weights = np.asarray(grid.knn_weight, np.float32)
    p_ner, gold = jax.device_put(cache.p_ner), lay_out(split)
    trials = []
    for k in grid.k:
        votes = cached_knn_probabilities(cache, k, grid.temperature)
        for temperature, p_knn in zip(grid.temperature, votes, strict=True):
            scores = _f1_by_weight(p_ner, p_knn, knn_weights, gold, label_set=label_set)
            trials += [
                Trial(KnnParams(metric, k, temperature, knn_weight), float(f1))
                for knn_weight, f1 in zip(grid.knn_weight, np.asarray(scores), strict=True)
            ]
    return trials


def select(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the highest F1; among equals the one of least knn_weight, then the first."""
    return max(trials, key=lambda trial: (trial.f1, -trial.knn_params.knn_weight))


def has_choice(knn: KnnConfig) -> bool:
    """Return whether some of k, temperature, knn_weight and metric is a list of several values."""
    knn = search_space(knn)
    return any(len(as_list(values)) > 1 for values in (knn.k, knn.temperature, knn.knn_weight, knn.metric))


def refuse_all_but_dev(split_name: str) -> None:
    """Raise InputError unless the split to tune on is dev."""
    if split_name != "dev":
        raise InputError(f"knn parameters are chosen on dev, never on another split; got {split_name}")
