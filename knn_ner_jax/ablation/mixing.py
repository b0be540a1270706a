"""Learned mixing: a small network says, word by word, how many neighbours vote and how much the tagger counts.

This is Adaptive kNN-MT (Zheng et al. 2021, arXiv 2105.13022) for tagging. The network reads the similarities of a word's K
nearest neighbours, how many distinct labels the first 1, 2, ..., K of them have, and how sure the tagger is. It gives each k
in {0, 1, 2, 4, ..., K} a share:

    p(y) = share_0 * p_NER(y) + sum over k of share_k * p_kNN(y), p_kNN by the k nearest (paper, equation 3)

so that it settles weight and k at once. `mixing_fit` fits it.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation.tuning import Cache
from knn_ner_jax.knn.similarity import PRECISION
from knn_ner_jax.knn.vote import knn_probabilities

CHUNK_WORDS = 1024  # mixed at a time: a chunk holds arrays of [words, K, K] and [words, options, labels]
LEAST_DOUBT = 1e-6  # float32 cannot tell apart probabilities that are nearer to 1

_Tree = TypeVar("_Tree")


class Evidence(NamedTuple):
    """What a mixer knows of some words.

    Attributes:
        p_ner: the tagger's probabilities.
        similarities: of the K nearest neighbours, nearest first.
        neighbour_labels: their label ids.
    """

    p_ner: Float[Array, "words labels"]
    similarities: Float[Array, "words k"]
    neighbour_labels: Int[Array, "words k"]


class Network(NamedTuple):
    """Parameters of the network: one hidden layer, tanh, one output for each number of neighbours."""

    hidden_kernel: Float[Array, "features hidden"]
    hidden_bias: Float[Array, " hidden"]
    output_kernel: Float[Array, "hidden options"]
    output_bias: Float[Array, " options"]

    @classmethod
    def init(cls, key: Key[Array, ""], k: int, hidden_size: int) -> "Network":
        """Random parameters that give every option the same share."""
        kernel = jax.nn.initializers.lecun_normal()(key, (2 * k + 1, hidden_size))
        options = len(numbers_of_neighbours(k))
        return cls(kernel, jnp.zeros(hidden_size), jnp.zeros((hidden_size, options)), jnp.zeros(options))

    def __call__(self, features: Float[Array, "words features"]) -> Float[Array, "words options"]:
        """Shares, which add up to 1, from standardised features."""
        hidden = jnp.tanh(jnp.matmul(features, self.hidden_kernel, precision=PRECISION) + self.hidden_bias[None])
        return jax.nn.softmax(jnp.matmul(hidden, self.output_kernel, precision=PRECISION) + self.output_bias[None], axis=1)


class Mixer(NamedTuple):
    """A network and what it was fitted with.

    Attributes:
        network: its parameters.
        mean: of each feature over the words it was fitted to.
        scale: their standard deviation; 1 where a feature is always the same.
        temperature: of every vote.
    """

    network: Network
    mean: Float[Array, " features"]
    scale: Float[Array, " features"]
    temperature: Float[Array, ""]

    @property
    def k(self) -> int:
        """K, the most neighbours that vote."""
        return (len(self.mean) - 1) // 2


class Mixed(NamedTuple):
    """What a mixer says of some words.

    Attributes:
        probabilities: p(y).
        shares: of each of `numbers_of_neighbours`, in that order; the first is the tagger's.
    """

    probabilities: Float[Array | np.ndarray, "words labels"]
    shares: Float[Array | np.ndarray, "words options"]


def numbers_of_neighbours(k: int) -> tuple[int, ...]:
    """0, 1, 2, 4, ..., k: what a mixer chooses from; k is a power of 2."""
    return (0, *(2**power for power in range(k.bit_length())))


def evidence_of(cache: Cache, k: int) -> Evidence:
    """The k nearest neighbours of every word, on the default device.

    Raises:
        InputError: the cache has fewer.
    """
    if cache.similarities is None or cache.neighbour_labels is None or cache.similarities.shape[1] < k:
        held = 0 if cache.similarities is None else cache.similarities.shape[1]
        raise InputError(f"learned mixing: expected a search for at least {k} neighbours, got one for {held}")
    return Evidence(*jax.device_put((cache.p_ner, cache.similarities[:, :k], cache.neighbour_labels[:, :k])))


def distinct_labels(neighbour_labels: Int[Array, "words k"]) -> Int[Array, "words k"]:
    """How many different labels the first 1, 2, ..., k neighbours have."""
    same = neighbour_labels[:, :, None] == neighbour_labels[:, None, :]
    seen_before = (same & jnp.tri(neighbour_labels.shape[1], k=-1, dtype=bool)[None]).any(axis=2)
    return jnp.cumsum(~seen_before, axis=1)


def features(evidence: Evidence) -> Float[Array, "words features"]:
    """What the network reads of each word, before it is standardised.

    Returns:
        The similarities, nearest first; the `distinct_labels`; the log-odds of the tagger's own label, in which 0.99 and
        0.9999 differ as much as 0.5 and 0.99.
    """
    confidence = evidence.p_ner.max(axis=1, keepdims=True)
    log_odds = jnp.log(confidence) - jnp.log(jnp.maximum(1 - confidence, LEAST_DOUBT))
    distinct = distinct_labels(evidence.neighbour_labels).astype(jnp.float32)
    return jnp.concatenate([evidence.similarities, distinct, log_odds], axis=1)


def opinions(evidence: Evidence, temperature: Float[Array, ""] | float) -> Float[Array, "words options labels"]:
    """p_NER, then p_kNN by the 1, 2, 4, ..., K nearest."""
    p_ner, similarities, neighbour_labels = evidence
    votes = [
        knn_probabilities(similarities[:, :k], neighbour_labels[:, :k], p_ner.shape[1], temperature)
        for k in numbers_of_neighbours(similarities.shape[1])[1:]
    ]
    return jnp.stack([p_ner, *votes], axis=1)


def by_chunk(function: Callable[..., _Tree], *words: object) -> _Tree:
    """Applies a function to chunks of the words and joins the results, so that its memory grows with a chunk alone.

    Args:
        function: of arrays that begin with a dimension of words, to such arrays.
        words: its arguments, trees of arrays.
    """
    num_words = len(jax.tree.leaves(words)[0])
    rows = min(CHUNK_WORDS, num_words)
    chunks = -(-num_words // rows)

    def cut(array: Array) -> Array:
        padding = [(0, chunks * rows - num_words)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding, mode="edge").reshape(chunks, rows, *array.shape[1:])

    results = jax.lax.map(lambda chunk: function(*chunk), jax.tree.map(cut, words))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:num_words], results)


def mix(mixer: Mixer, evidence: Evidence) -> Mixed:
    """p(y) of every word, and the shares that made it."""

    def of_chunk(chunk: Evidence) -> Mixed:
        shares = mixer.network((features(chunk) - mixer.mean[None]) / mixer.scale[None])
        return Mixed((shares[:, :, None] * opinions(chunk, mixer.temperature)).sum(axis=1), shares)

    return by_chunk(of_chunk, evidence)


_mix = jax.jit(mix)


def predict(mixer: Mixer, cache: Cache) -> Mixed:
    """p(y) of every word of a split, and the shares that made it, on the host.

    Args:
        mixer: fitted.
        cache: of a search for at least `mixer.k` neighbours.

    Raises:
        InputError: the cache has fewer neighbours.
    """
    return jax.device_get(_mix(mixer, evidence_of(cache, mixer.k)))
