"""The vote of the neighbours, and its mix with the tagger's probabilities (paper, 3.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.config import K

VOTES = 1024  # words that vote at a time, for which a program is compiled once
ROUNDING_SLACK = 1e-5  # what rounding may change in a difference of probabilities, the last bits of states included


def knn_probabilities(
    similarities: Float[Array, "words k"],
    neighbour_labels: Int[Array, "words k"],
    num_labels: int,
    temperature: Float[Array, ""] | float,
) -> Float[Array, "words labels"]:
    """Return p_kNN: the softmax of similarity / temperature over the neighbours, summed by label (paper, equation 3).

    >>> similarities, labels = jnp.log(jnp.float32([[4, 2, 2]])), jnp.int32([[0, 1, 1]])
    >>> knn_probabilities(similarities, labels, num_labels=3, temperature=1.0).round(3).tolist()
    [[0.5, 0.5, 0.0]]

    Args:
        similarities: larger is nearer.
        neighbour_labels: label id of each neighbour, 0 <= id < num_labels.
        num_labels: width of the result.
        temperature: > 0; may be traced.

    Raises:
        ValueError: the temperature is not positive (one that is traced cannot be looked at).
    """
    if not isinstance(temperature, jax.core.Tracer) and not float(temperature) > 0:
        raise ValueError(f"temperature: expected more than 0, got {temperature}")
    weights_qk = jax.nn.softmax((similarities - similarities.max(axis=1, keepdims=True)) / temperature, axis=1)

    def share(label: Int[Array, ""]) -> Float[Array, " words"]:
        return jnp.where(neighbour_labels == label, weights_qk, 0.0).sum(axis=1)

    # One label at a time: a one-hot would hold [words, k, labels].
    return jax.lax.map(share, jnp.arange(num_labels)).T


def interpolate(
    p_ner: Float[Array | np.ndarray, "words labels"],
    p_knn: Float[Array | np.ndarray, "words labels"],
    knn_weight: Float[Array, ""] | float,
) -> Float[Array | np.ndarray, "words labels"]:
    """Return knn_weight * p_kNN + (1 - knn_weight) * p_NER (paper, equation 4, where lambda is on p_NER).

    NumPy arrays are mixed by NumPy, for which nothing is compiled.

    >>> interpolate(jnp.float32([[0.5, 0.5]]), jnp.float32([[1, 0]]), knn_weight=0.5).tolist()
    [[0.75, 0.25]]

    Args:
        p_ner: the tagger's probabilities.
        p_knn: those of the vote.
        knn_weight: weight of the vote, in [0, 1]; may be traced.

    Raises:
        ValueError: the weight is outside [0, 1] (one that is traced cannot be looked at).
    """
    is_traced = isinstance(knn_weight, jax.core.Tracer)
    if not is_traced and not 0 <= float(knn_weight) <= 1:
        raise ValueError(f"knn_weight: expected a weight in [0, 1], got {knn_weight}")
    # Rounded first, so that a weight given as a Python float and one that is traced make the same 1 - w.
    weight = jnp.asarray(knn_weight, p_ner.dtype) if is_traced else p_ner.dtype.type(knn_weight)
    return weight * p_knn + (1.0 - weight) * p_ner


def margin(probabilities: Float[Array | np.ndarray, "words labels"]) -> Float[Array, " words"]:
    """Return how far the largest probability of each word is above the second; infinite where there is one label.

    >>> margin(jnp.float32([[0.25, 0.75, 0.0], [0.5, 0.0, 0.5]])).tolist()
    [0.5, 0.0]
    """
    # Two passes: to select the two largest takes seven times as long.
    is_first = jax.nn.one_hot(probabilities.argmax(axis=1), probabilities.shape[1], dtype=bool)
    return probabilities.max(axis=1) - jnp.where(is_first, -jnp.inf, probabilities).max(axis=1)


def needs_retrieval(
    p_ner: Float[Array | np.ndarray, "words labels"], knn_weight: Float[Array, ""] | float
) -> Bool[Array, " words"]:
    """Return False where no vote whatever can change the arg max: (1 - w) (p1 - p2) > w, p1 and p2 the two largest.

    >>> needs_retrieval(jnp.float32([[0.9, 0.1], [0.6, 0.4]]), knn_weight=0.3).tolist()
    [False, True]
    """
    return (1.0 - knn_weight) * margin(p_ner) <= knn_weight + ROUNDING_SLACK


@dataclass(frozen=True)
class KnnParams:
    """How neighbours are found, how they vote, and how much the vote counts: one point of the grid that dev chooses from.

    Attributes:
        metric: similarity of a query and a key: cosine, ip or l2.
        k: number of neighbours that vote, or `all`.
        temperature: of the softmax over similarities, > 0.
        knn_weight: weight of p_kNN in the mix, in [0, 1].
    """

    metric: str
    k: K
    temperature: float
    knn_weight: float


@dataclass(frozen=True)
class Cache:
    """What one search returned for every word of a split, in the order of the words, on the host.

    Attributes:
        p_ner: the tagger's probabilities.
        similarities: of the nearest rows, nearest first; None where no single neighbours were searched for.
        neighbour_labels: label ids of these rows; likewise.
        neighbour_ids: their row numbers; None where they were not asked for.
        knn_probs: p_kNN over all rows, for each of `temperatures`; None without temperatures.
        temperatures: those of `knn_probs`, in order.
        top1_prob: what the nearest row alone contributes to `knn_probs`; likewise.
    """

    p_ner: Float[np.ndarray, "words labels"]
    similarities: Float[np.ndarray, "words k"] | None = None
    neighbour_labels: Int[np.ndarray, "words k"] | None = None
    neighbour_ids: Int[np.ndarray, "words k"] | None = None
    knn_probs: Float[np.ndarray, "temperatures words labels"] | None = None
    temperatures: tuple[float, ...] = ()
    top1_prob: Float[np.ndarray, "temperatures words 1"] | None = None

    def blocks(self, num_words: int) -> Iterator["Cache"]:
        """Yield the columns in blocks of this number of words; zeros fill up the last."""
        axes = {"p_ner": 0, "similarities": 0, "neighbour_labels": 0, "neighbour_ids": 0, "knn_probs": 1, "top1_prob": 1}

        def part(column: np.ndarray | None, axis: int, start: int) -> np.ndarray | None:
            if column is None:
                return None
            words = column[(slice(None),) * axis + (slice(start, start + num_words),)]
            missing = num_words - words.shape[axis]
            return np.pad(words, [(0, missing if i == axis else 0) for i in range(words.ndim)])

        for start in range(0, len(self.p_ner), num_words):
            columns: dict[str, Any] = {name: part(getattr(self, name), axis, start) for name, axis in axes.items()}
            yield replace(self, **columns)


_knn_probabilities = jax.jit(knn_probabilities, static_argnames="num_labels")


def cached_knn_probabilities(cache: Cache, k: K, temperatures: Sequence[float]) -> Iterator[Float[Array, "words labels"]]:
    """Yield p_kNN of every word for one k and each temperature; the neighbours are copied to the device once.

    Args:
        cache: of a search for at least k neighbours; for `all`, with these temperatures.
        k: how many neighbours vote.
        temperatures: of the vote.

    Raises:
        ValueError: the search did not return what this k needs.
    """
    if k == "all":
        if cache.knn_probs is None:
            raise ValueError("k all: expected a search with temperatures, got one for single neighbours alone")
        if missing := set(temperatures) - set(cache.temperatures):
            raise ValueError(f"temperatures {sorted(missing)}: expected those of the search, {cache.temperatures}")
        yield from (jnp.asarray(cache.knn_probs[cache.temperatures.index(value)]) for value in temperatures)
        return
    if cache.similarities is None or cache.neighbour_labels is None or cache.similarities.shape[1] < k:
        width = 0 if cache.similarities is None else cache.similarities.shape[1]
        raise ValueError(f"k {k}: expected a search for at least as many neighbours, got one for {width}")
    voters = jax.device_put((cache.similarities[:, :k], cache.neighbour_labels[:, :k]))
    for temperature in temperatures:
        yield _knn_probabilities(*voters, cache.p_ner.shape[1], temperature)


class LabelProbabilities(NamedTuple):
    """The probability of the label that each word got.

    Attributes:
        p: of the mix.
        p_tagger: of the tagger alone.
        p_knn: of the vote alone.
    """

    p: Float[np.ndarray, " words"]
    p_tagger: Float[np.ndarray, " words"]
    p_knn: Float[np.ndarray, " words"]


@dataclass(frozen=True)
class SplitLabels:
    """Label ids of every word of a split, in order.

    Attributes:
        tagger: of the tagger alone.
        knn: with neighbours.
        probabilities: of `knn`; NaN for words labelled O where not all were looked up; None: labels alone were asked for.
    """

    tagger: Int[np.ndarray, " words"]
    knn: Int[np.ndarray, " words"]
    probabilities: LabelProbabilities | None


@dataclass(frozen=True)
class CountedLabels(SplitLabels):
    """Label ids, and how many words had to be looked up for them.

    Attributes:
        at_border: words looked up among the rows of the border, which settle most.
        searched: words looked up among all rows.
        within_rounding: of these, words whose label rounding may change (see `similarity.summation_error`).
    """

    at_border: int
    searched: int
    within_rounding: int


@dataclass(frozen=True)
class MixedLabels(SplitLabels):
    """Label ids, and the probabilities that they are the largest of.

    Attributes:
        p_ner: the tagger's.
        p_knn: those of the vote.
        p: those of the mix.
    """

    p_ner: Float[np.ndarray, "words labels"]
    p_knn: Float[np.ndarray, "words labels"]
    p: Float[np.ndarray, "words labels"]


def labels_by_vote(cache: Cache, knn_params: KnnParams) -> MixedLabels:
    """Return the labels that the vote of what a search returned gives to every word.

    Args:
        cache: of a search that serves these parameters.
        knn_params: how neighbours vote and count.
    """
    how = knn_params.k, [knn_params.temperature]
    votes = [next(cached_knn_probabilities(block, *how)) for block in cache.blocks(VOTES)]
    p_knn = np.concatenate([np.asarray(each) for each in votes])[: len(cache.p_ner)]
    p = np.asarray(interpolate(cache.p_ner, p_knn, knn_params.knn_weight))
    tagger, knn = (probabilities.argmax(axis=1).astype(np.int32) for probabilities in (cache.p_ner, p))
    of_label = LabelProbabilities(*(each[np.arange(len(knn)), knn] for each in (p, cache.p_ner, p_knn)))
    return MixedLabels(tagger, knn, of_label, cache.p_ner, p_knn, p)
