"""Choosing k, temperature, knn_weight and metric on dev: one search for each metric, then the whole grid on device."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax import metrics
from knn_ner_jax.config import KnnConfig, as_list
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import interpolate, knn_probabilities
from knn_ner_jax.knn.inference import Retrieved

K = int | Literal["all"]


@dataclass(frozen=True)
class KnnParams:
    """One cell of the grid."""

    metric: str
    k: K
    temperature: float
    knn_weight: float


@dataclass(frozen=True)
class Trial:
    """A setting and its strict micro F1 on the tuning split, in percent."""

    setting: KnnParams
    f1: float

    def as_dict(self) -> dict[str, object]:
        """Flat, for a report."""
        return {**asdict(self.setting), "f1": self.f1}


@dataclass(frozen=True)
class Grid:
    """What to try.

    Attributes:
        k: numbers of neighbours, `all` among them or not.
        temperature: each > 0.
        knn_weight: each in [0, 1].
        skipped_k: values that were asked for and exceed the rows of the datastore.
    """

    k: tuple[K, ...]
    temperature: tuple[float, ...]
    knn_weight: tuple[float, ...]
    skipped_k: tuple[int, ...] = ()

    @property
    def largest_k(self) -> K:
        """What one search must return so that every finite k is a prefix of it; `all` when there is no finite one."""
        return max((k for k in self.k if k != "all"), default="all")


def make_grid(
    k: Sequence[K], temperature: Sequence[float], knn_weight: Sequence[float], num_rows: int, name: str = "knn.k"
) -> Grid:
    """Leaves out every k beyond the rows of the datastore.

    Args:
        k: numbers of neighbours, or `all`.
        temperature: each > 0.
        knn_weight: each in [0, 1].
        num_rows: of the datastore.
        name: of the field that `k` was given in.

    Raises:
        InputError: none is left.
    """
    fitting = tuple(value for value in k if value == "all" or value <= num_rows)
    skipped = tuple(value for value in k if value != "all" and value > num_rows)
    if not fitting:
        raise InputError(f"{name}: expected at most {num_rows} (the rows of the datastore), got {', '.join(map(str, k))}")
    return Grid(fitting, tuple(temperature), tuple(knn_weight), skipped)


@dataclass(frozen=True)
class Cache:
    """What one search found for every word of a split, in the order of the words; N words.

    Attributes:
        p_ner: [N, labels].
        similarities: [N, largest finite k], or None.
        neighbour_labels: likewise.
        neighbour_ids: likewise, where they were asked for.
        shares: [temperatures, N, labels] for `k: all`, or None.
        temperatures: those of the shares.
        top1_prob: [temperatures, N, 1] what the nearest row alone has of these shares, or None.
    """

    p_ner: Float[np.ndarray, "words labels"]
    similarities: Float[np.ndarray, "words k"] | None
    neighbour_labels: Int[np.ndarray, "words k"] | None
    neighbour_ids: Int[np.ndarray, "words k"] | None
    shares: Float[np.ndarray, "temperatures words labels"] | None
    temperatures: tuple[float, ...] = ()
    top1_prob: Float[np.ndarray, "temperatures words 1"] | None = None


def one_behind(retrieved: Iterable[Retrieved]) -> Iterator[Retrieved]:
    """Each batch when the next has been dispatched: the device computes while the host reads."""
    dispatched = iter(retrieved)
    batch = next(dispatched, None)
    while batch is not None:
        following = next(dispatched, None)
        yield batch
        batch = following


def collect(
    retrieved: Iterable[Retrieved], num_words: int, temperatures: Sequence[float] | None = None, with_ids: bool = False
) -> Cache:
    """Puts the results of batches in the order of the words.

    Args:
        retrieved: of every batch of a split.
        num_words: in the split.
        temperatures: that the shares were asked for, in this order.
        with_ids: also keep the row ids of the neighbours.
    """
    columns: dict[str, np.ndarray] = {}

    def put(name: str, word_index: np.ndarray, values: Array) -> None:
        rows = np.asarray(values)[: len(word_index)]
        if name not in columns:
            columns[name] = np.zeros((num_words, *rows.shape[1:]), rows.dtype)
        columns[name][word_index] = rows

    for batch in one_behind(retrieved):
        word_index = np.asarray(batch.word_index)
        word_index = word_index[word_index != NO_WORD]
        put("p_ner", word_index, batch.p_ner)
        if batch.found.neighbours is not None:
            put("similarities", word_index, batch.found.neighbours.similarities)
            put("neighbour_labels", word_index, batch.found.neighbours.values)
            if with_ids:
                put("neighbour_ids", word_index, batch.found.neighbours.ids)
        if batch.found.shares is not None:
            put("shares", word_index, batch.found.shares.swapaxes(0, 1))
        if batch.found.top1_prob is not None:
            put("top1_prob", word_index, batch.found.top1_prob.swapaxes(0, 1))
    shares, top1_prob = columns.get("shares"), columns.get("top1_prob")
    return Cache(
        columns["p_ner"],
        columns.get("similarities"),
        columns.get("neighbour_labels"),
        columns.get("neighbour_ids"),
        None if shares is None else shares.swapaxes(0, 1),
        tuple(temperatures or ()),
        None if top1_prob is None else top1_prob.swapaxes(0, 1),
    )


class Gold(NamedTuple):
    """The gold of a split, its sentences end to end with a gap after each.

    Attributes:
        label_ids: of each word.
        places: where it stands.
        is_word: False in gaps and at special tokens.
    """

    label_ids: Int[Array, " words"]
    places: Int[Array, " words"]
    is_word: Bool[Array, "1 places"]


def lay_out(split: EncodedSplit) -> Gold:
    """The gold of a split, on the default device."""
    is_word = np.zeros((1, split.num_words + int(split.sentence_ids[-1]) + 1), bool)
    is_word[0, split.flat_positions] = split.is_scored
    return Gold(*jax.device_put((split.label_ids, split.flat_positions, is_word)))


def micro_f1(gold: Gold, predicted: Int[Array, " words"], label_set: LabelSet) -> Float[Array, ""]:
    """Strict micro F1 of the label ids of a split's words, in percent, on device."""
    laid_out = jnp.zeros(gold.is_word.shape, jnp.int32)
    counts = metrics.span_counts(
        laid_out.at[0, gold.places].set(gold.label_ids),
        laid_out.at[0, gold.places].set(predicted),
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


_vote = jax.jit(knn_probabilities, static_argnames="num_labels")


def vote(cache: Cache, setting: KnnParams) -> Float[Array, "words labels"]:
    """p_kNN of every word under one setting; see `votes`."""
    return next(votes(cache, setting.k, [setting.temperature]))


def votes(cache: Cache, k: K, temperatures: Sequence[float]) -> Iterator[Float[Array, "words labels"]]:
    """p_kNN of every word for one k and each temperature; the neighbours are put on the device once.

    Args:
        cache: of a search for at least k neighbours, for `all` with these temperatures.
        k: how many vote.
        temperatures: of the vote.
    """
    if k == "all":
        yield from (jnp.asarray(cache.shares[cache.temperatures.index(value)]) for value in temperatures)  # type: ignore[index]
        return
    voters = jax.device_put((cache.similarities[:, :k], cache.neighbour_labels[:, :k]))  # type: ignore[index]
    for temperature in temperatures:
        yield _vote(*voters, cache.p_ner.shape[1], temperature)


def run_grid(cache: Cache, split: EncodedSplit, label_set: LabelSet, grid: Grid, metric: str) -> list[Trial]:
    """Scores every setting of the grid from what one search found.

    Args:
        cache: of the tuning split.
        split: gold labels and sentence bounds.
        label_set: of the gold; its first labels are those of tagger and datastore.
        grid: what to try.
        metric: the one the search used.
    """
    knn_weights = np.asarray(grid.knn_weight, np.float32)
    p_ner, gold = jax.device_put(cache.p_ner), lay_out(split)
    trials = []
    for k in grid.k:
        for temperature, p_knn in zip(grid.temperature, votes(cache, k, grid.temperature), strict=True):
            scores = _f1_by_weight(p_ner, p_knn, knn_weights, gold, label_set=label_set)
            trials += [
                Trial(KnnParams(metric, k, temperature, knn_weight), float(f1))
                for knn_weight, f1 in zip(grid.knn_weight, np.asarray(scores), strict=True)
            ]
    return trials


def search_space(knn: KnnConfig) -> KnnConfig:
    """What there is to choose from: the lists of the configuration, or nothing but what a paper published."""
    if knn.selection == "dev":
        return knn
    published: dict[str, Any] = asdict(knn.published)
    return replace(knn, **published)


def has_choice(knn: KnnConfig) -> bool:
    """True where some of k, temperature, knn_weight and metric is a list of several values."""
    knn = search_space(knn)
    return any(len(as_list(values)) > 1 for values in (knn.k, knn.temperature, knn.knn_weight, knn.metric))


def refuse_all_but_dev(split_name: str) -> None:
    """Raises InputError unless the split to tune on is dev."""
    if split_name != "dev":
        raise InputError(f"settings are chosen on dev, never on another split; got {split_name}")


def select(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest F1; among equals the least knn_weight, then the first."""
    return max(trials, key=lambda trial: (trial.f1, -trial.setting.knn_weight))
