"""Vote and mix (paper, section 3.2), and which words no vote can change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.config import K

ROUNDING_SLACK = 1e-5  # slack for float32 rounding in the bound below
MARGIN_SETTLES_BELOW = 0.5  # knn_weight from which on a vote can change any label whatever the tagger says


def knn_probabilities(
    similarities: Float[Array, "words k"],
    neighbour_labels: Int[Array, "words k"],
    num_labels: int,
    temperature: Float[Array, ""] | float,
) -> Float[Array, "words labels"]:
    """p_kNN: the softmax of similarity / temperature over the neighbours, summed by label (paper, equation 3).

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
    p_ner: Float[Array, "words labels"],
    p_knn: Float[Array, "words labels"],
    knn_weight: Float[Array, ""] | float,
) -> Float[Array, "words labels"]:
    """knn_weight * p_kNN + (1 - knn_weight) * p_NER (paper, equation 4, where lambda is on p_NER).

    Args:
        p_ner: the tagger's probabilities.
        p_knn: those of the vote.
        knn_weight: share of the vote, in [0, 1]; may be traced.

    Raises:
        ValueError: the weight is outside [0, 1] (one that is traced cannot be looked at).
    """
    if not isinstance(knn_weight, jax.core.Tracer) and not 0 <= float(knn_weight) <= 1:
        raise ValueError(f"knn_weight: expected a weight in [0, 1], got {knn_weight}")
    # Rounded first, so that a weight given as a Python float and one that is traced make the same 1 - w.
    weight = jnp.asarray(knn_weight, p_ner.dtype)
    return weight * p_knn + (1.0 - weight) * p_ner


def needs_retrieval(p_ner: Float[Array, "words labels"], knn_weight: Float[Array, ""] | float) -> Bool[Array, " words"]:
    """False where no vote whatever can change the arg max: (1 - w) (p1 - p2) > w, p1 and p2 the two largest."""
    # Two passes: to select the two largest takes seven times as long.
    is_first = jax.nn.one_hot(p_ner.argmax(axis=1), p_ner.shape[1], dtype=bool)
    second = jnp.where(is_first, -jnp.inf, p_ner).max(axis=1)
    return (1.0 - knn_weight) * (p_ner.max(axis=1) - second) <= knn_weight + ROUNDING_SLACK


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
        yield from (jnp.asarray(cache.knn_probs[cache.temperatures.index(value)]) for value in temperatures)
        return
    if cache.similarities is None or cache.neighbour_labels is None or cache.similarities.shape[1] < k:
        width = 0 if cache.similarities is None else cache.similarities.shape[1]
        raise ValueError(f"k {k}: expected a search for at least as many neighbours, got one for {width}")
    voters = jax.device_put((cache.similarities[:, :k], cache.neighbour_labels[:, :k]))
    for temperature in temperatures:
        yield _knn_probabilities(*voters, cache.p_ner.shape[1], temperature)
