"""Vote and mix (paper, section 3.2), which words no vote can change, and what another way to combine must offer."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.data.tag_schemes import LabelSet

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


class RetrievedWords(NamedTuple):
    """Words as a combiner reads them.

    Attributes:
        p_ner: the tagger's probabilities.
        similarities: of the k nearest neighbours of each word, nearest first.
        neighbour_labels: label ids of these neighbours.
    """

    p_ner: Float[Array | np.ndarray, "words labels"]
    similarities: Float[Array | np.ndarray, "words k"]
    neighbour_labels: Int[Array | np.ndarray, "words k"]


class LabelledWords(NamedTuple):
    """The words of a split with their gold labels, which a combiner is fitted to.

    Attributes:
        words: the tagger's probabilities and the neighbours.
        gold: label ids; those beyond the columns of `p_ner` are labels that only the gold has.
        sentence_ids: sentence number of each word, ascending.
    """

    words: RetrievedWords
    gold: Int[np.ndarray, " words"]
    sentence_ids: Int[np.ndarray, " words"]


class FittedCombiner(Protocol):
    """A way to combine tagger and neighbours that is ready to use."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What to write beside the scores of how it was fitted, as JSON; its `trials` are listed with those of the study."""
        ...

    def predict(self, words: RetrievedWords) -> Float[np.ndarray, "words labels"]:
        """Return p(y) of every word; rows add up to 1."""
        ...


class Combiner(Protocol):
    """A way to combine tagger and neighbours, beside `interpolate` with one weight for all words.

    A class that is made of the configuration's `knn` section alone, `Combiner(knn)`; `ablation.combiner` names one as
    `module:ClassName`.
    """

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that decides its results beside the data, as JSON: results of other settings are computed again."""
        ...

    @property
    def k(self) -> int:
        """The most neighbours of a word that it reads; it gets fewer where the datastore is too small."""
        ...

    @property
    def needs_train(self) -> bool:
        """Whether it is fitted to training words, whose neighbours are then those of other sentences alone."""
        ...

    def fit(self, train: LabelledWords | None, dev: LabelledWords, label_set: LabelSet, seed: int) -> FittedCombiner:
        """Return the combiner fitted to some words.

        Args:
            train: training words; None unless `needs_train`.
            dev: those of dev.
            label_set: of the gold; its first labels are the columns of `p_ner`.
            seed: of everything random.
        """
        ...
