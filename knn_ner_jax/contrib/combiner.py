"""The interface of other ways to combine tagger and neighbours than one weight for all words (`knn.combine.interpolate`)."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float, Int

from knn_ner_jax.data.tag_schemes import LabelSet


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
