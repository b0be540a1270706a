"""Adaptive kNN-MT (Zheng et al. 2021, arXiv 2105.13022) for tagging: a small network weighs tagger and neighbours by word.

The network reads the similarities of a word's K nearest neighbours, how many distinct labels the first 1, 2, ..., K of them
have, and how sure the tagger is. It gives each k in {0, 1, 2, 4, ..., K} a mixture weight:

    p(y) = weight_0 * p_NER(y) + sum over k of weight_k * p_kNN(y), p_kNN by the k nearest (paper, equation 3)

It is fitted to training words; dev selects the temperature and the epoch; test has no part. What it learns from is not what
it will meet: the tagger was fine-tuned on the very words that the network is fitted to, so it is right, and sure of it, more
often there than on dev. A fitted network can therefore trust the tagger too much. Selecting temperature and epoch on dev is
all that is done about it.

Most words are `O`, and most words do not matter: where tagger and votes all give the gold label p = 1, the weights do not
matter and the gradient is zero. So words are neither weighted nor sampled.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from knn_ner_jax.config import KnnConfig, as_list, require
from knn_ner_jax.contrib.combiner import LabelledWords, RetrievedWords
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.evaluation.tuning import Gold, lay_out, micro_f1, search_space
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import knn_probabilities
from knn_ner_jax.knn.similarity import PRECISION

VERSION = 1  # part of the names of results; changed whenever fitting or mixing is computed otherwise from the same settings
CHUNK_WORDS = 1024  # mixed at a time: a chunk holds arrays of [words, K, K] and [words, options, labels]
LEAST_DOUBT = 1e-6  # float32 cannot tell apart probabilities that are nearer to 1
LEAST_PROBABILITY = 1e-10  # of a gold label that neither tagger nor neighbours can give; its gradient is zero
CONSTANT = 1e-6  # a feature that varies less than this is left as it is

_Tree = TypeVar("_Tree")


class MetaKNetwork(NamedTuple):
    """Parameters of the network: one hidden layer, tanh, one output for each number of neighbours."""

    hidden_kernel: Float[Array, "features hidden"]
    hidden_bias: Float[Array, " hidden"]
    output_kernel: Float[Array, "hidden options"]
    output_bias: Float[Array, " options"]

    @classmethod
    def init(cls, key: Key[Array, ""], k: int, hidden_size: int) -> "MetaKNetwork":
        """Return random parameters that give every option the same weight."""
        kernel = jax.nn.initializers.lecun_normal()(key, (2 * k + 1, hidden_size))
        options = len(numbers_of_neighbours(k))
        return cls(kernel, jnp.zeros(hidden_size), jnp.zeros((hidden_size, options)), jnp.zeros(options))

    def __call__(self, features: Float[Array, "words features"]) -> Float[Array, "words options"]:
        """Return mixture weights, which add up to 1, from standardised features."""
        hidden = jnp.tanh(jnp.matmul(features, self.hidden_kernel, precision=PRECISION) + self.hidden_bias[None])
        return jax.nn.softmax(jnp.matmul(hidden, self.output_kernel, precision=PRECISION) + self.output_bias[None], axis=1)


class Mixer(NamedTuple):
    """A network and what it was fitted with."""

    network: MetaKNetwork
    mean: Float[Array | np.ndarray, " features"]  # over the words it was fitted to
    scale: Float[Array | np.ndarray, " features"]  # their standard deviation; 1 where a feature is always the same
    temperature: Float[Array, ""]  # of every vote

    @property
    def k(self) -> int:
        """K, the most neighbours that vote."""
        return (len(self.mean) - 1) // 2


class Mixture(NamedTuple):
    """The probabilities of some words, and the weights of `numbers_of_neighbours` that made them, the tagger's first."""

    probabilities: Float[Array | np.ndarray, "words labels"]
    mixture_weights: Float[Array | np.ndarray, "words options"]


def numbers_of_neighbours(k: int) -> tuple[int, ...]:
    """Return 0, 1, 2, 4, ..., k, the numbers that are weighed; k is a power of 2.

    >>> numbers_of_neighbours(8)
    (0, 1, 2, 4, 8)
    """
    return (0, *(2**power for power in range(k.bit_length())))


def first_neighbours(words: RetrievedWords, k: int) -> RetrievedWords:
    """Return words with their k nearest neighbours, on the default device.

    Raises:
        InputError: they have fewer.
    """
    width = words.similarities.shape[1]
    if width < k:
        raise InputError(f"adaptive: expected a search for at least {k} neighbours, got one for {width}")
    return RetrievedWords(*jax.device_put((words.p_ner, words.similarities[:, :k], words.neighbour_labels[:, :k])))


def distinct_labels(neighbour_labels: Int[Array | np.ndarray, "words k"]) -> Int[Array, "words k"]:
    """Count the different labels of the first 1, 2, ..., k neighbours."""
    neighbour_labels = jnp.asarray(neighbour_labels)
    same = neighbour_labels[:, :, None] == neighbour_labels[:, None, :]
    seen_before = (same & jnp.tri(neighbour_labels.shape[1], k=-1, dtype=bool)[None]).any(axis=2)
    return jnp.cumsum(~seen_before, axis=1)


def features(words: RetrievedWords) -> Float[Array, "words features"]:
    """Return what the network reads of each word, before it is standardised.

    Returns:
        The similarities, nearest first; the `distinct_labels`; the log-odds of the tagger's own label, in which 0.99 and
        0.9999 differ as much as 0.5 and 0.99.
    """
    confidence = words.p_ner.max(axis=1, keepdims=True)
    log_odds = jnp.log(confidence) - jnp.log(jnp.maximum(1 - confidence, LEAST_DOUBT))
    distinct = distinct_labels(jnp.asarray(words.neighbour_labels)).astype(jnp.float32)
    return jnp.concatenate([words.similarities, distinct, log_odds], axis=1)


def candidate_distributions(
    words: RetrievedWords, temperature: Float[Array | np.ndarray, ""] | float
) -> Float[Array, "words options labels"]:
    """Return p_NER, then p_kNN by the 1, 2, 4, ..., K nearest."""
    p_ner, similarities, neighbour_labels = map(jnp.asarray, words)
    votes = [
        knn_probabilities(similarities[:, :k], neighbour_labels[:, :k], p_ner.shape[1], jnp.asarray(temperature))
        for k in numbers_of_neighbours(similarities.shape[1])[1:]
    ]
    return jnp.stack([p_ner, *votes], axis=1)


def by_chunk(function: Callable[..., _Tree], *words: object) -> _Tree:
    """Apply a function to chunks of the words and join the results, so that memory grows with a chunk alone.

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


def mix(mixer: Mixer, words: RetrievedWords) -> Mixture:
    """Return p(y) of every word, and the weights that made it."""

    def mix_chunk(chunk: RetrievedWords) -> Mixture:
        weights = mixer.network((features(chunk) - mixer.mean[None]) / mixer.scale[None])
        p = (weights[:, :, None] * candidate_distributions(chunk, mixer.temperature)).sum(axis=1)
        return Mixture(p, weights)

    return by_chunk(mix_chunk, words)


_mix = jax.jit(mix)


def predict(mixer: Mixer, words: RetrievedWords) -> Mixture:
    """Return p(y) of every word of a split, and the weights that made it, on the host.

    Args:
        mixer: fitted.
        words: with at least `mixer.k` neighbours.

    Raises:
        InputError: they have fewer neighbours.
    """
    return jax.device_get(_mix(mixer, first_neighbours(words, mixer.k)))


@dataclass(frozen=True)
class AdaptiveSettings:
    """How a mixer is fitted."""

    k: int = 64  # the most neighbours that vote, a power of 2
    hidden_size: int = 32  # of the network
    temperature: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)  # of the votes; dev selects one
    epochs: int = 10  # passes over train; dev selects after which to stop
    batch_size: int = 256  # words in a step
    learning_rate: float = 1e-3  # of Adam

    def __post_init__(self) -> None:
        require(self.k >= 1 and not self.k & (self.k - 1), "adaptive.k", "a power of 2", self.k)
        for name in ("hidden_size", "epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"adaptive.{name}", "at least 1", getattr(self, name))
        are_positive = bool(self.temperature) and all(0 < value < float("inf") for value in self.temperature)
        require(are_positive, "adaptive.temperature", "one or more, each more than 0", list(self.temperature))
        require(0 < self.learning_rate < float("inf"), "adaptive.learning_rate", "more than 0", self.learning_rate)


def settings_for(knn: KnnConfig) -> AdaptiveSettings:
    """Return how a mixer is fitted for neighbours that are searched in some way.

    The temperatures of the default are for cosine, which is between -1 and 1 whatever the tagger. The range of similarities
    by ip and l2 depends on the states: dev selects among the temperatures that are tried with a constant weight.
    """
    if as_list(knn.metric) == ["cosine"]:
        return AdaptiveSettings()
    return AdaptiveSettings(temperature=tuple(as_list(search_space(knn).temperature)))


@dataclass(frozen=True)
class EpochResult:
    """A mixer after some epoch: its strict micro F1 on dev in percent, and the mean loss of the epoch in nats."""

    temperature: float
    epoch: int
    f1: float
    loss: float


@dataclass(frozen=True)
class FittedMixer:
    """What dev selected; a `contrib.combiner.FittedCombiner`.

    Attributes:
        mixer: the best one.
        selected: its epoch.
        trials: all epochs, by temperature and number.
        left_out: training words that did not count, because tagger and datastore do not have their label.
        tagger_weight: mean weight of the tagger on dev.
    """

    mixer: Mixer
    selected: EpochResult
    trials: tuple[EpochResult, ...]
    left_out: int
    tagger_weight: float

    @property
    def facts(self) -> dict[str, Any]:
        """All but the parameters, as JSON."""
        facts = {name: value for name, value in asdict(self).items() if name != "mixer"}
        return facts | {"selected": facts["selected"] | {"k": self.mixer.k}}

    def predict(self, words: RetrievedWords) -> Float[np.ndarray, "words labels"]:
        """Return p(y) of every word."""
        return np.asarray(predict(self.mixer, words).probabilities)


class _Examples(NamedTuple):
    """What the network learns from: its input, what each option gives the gold label, and whether the word counts."""

    features: Float[Array, "words features"]
    p_gold: Float[Array, "words options"]
    counts: Bool[Array, " words"]


class _Epoch(NamedTuple):
    """The state after an epoch; stacked over all of them by `_run`."""

    mixer: Mixer
    f1: Float[Array, ""]
    loss: Float[Array, ""]
    tagger_weight: Float[Array, ""]


def _loss(network: MetaKNetwork, examples: _Examples) -> Float[Array, ""]:
    """Return the mean cross-entropy of the gold labels under the mixed probabilities."""
    p_gold = (network(examples.features) * examples.p_gold).sum(axis=1)
    losses = jnp.where(examples.counts, -jnp.log(jnp.maximum(p_gold, LEAST_PROBABILITY)), 0.0)
    return losses.sum() / jnp.maximum(examples.counts.sum(), 1)


def _examples(words: RetrievedWords, gold: Int[Array, " words"], temperature: Float[Array, ""]) -> _Examples:
    can_be_given = gold < words.p_ner.shape[1]
    column = jnp.where(can_be_given, gold, 0)[:, None, None]
    p_gold = jnp.take_along_axis(candidate_distributions(words, temperature), column, axis=2)[:, :, 0]
    return _Examples(features(words), p_gold, can_be_given)


def _standardised(examples: _Examples) -> tuple[_Examples, Float[Array, " features"], Float[Array, " features"]]:
    """Return examples whose features have mean 0 and standard deviation 1, and what they had before."""
    mean, deviation = examples.features.mean(axis=0), examples.features.std(axis=0)
    scale = jnp.where(deviation > CONSTANT, deviation, 1.0)
    return examples._replace(features=(examples.features - mean[None]) / scale[None]), mean, scale


class _State(NamedTuple):
    network: MetaKNetwork
    opt_state: optax.OptState


def _train_epoch(
    state: _State, key: Key[Array, ""], examples: _Examples, settings: AdaptiveSettings
) -> tuple[_State, Float[Array, ""]]:
    """Train on every example once, in random order, and return the mean loss.

    The last batch is filled up with examples of the first.
    """
    num_words, optimizer = len(examples.counts), optax.adam(settings.learning_rate)
    shape = -(-num_words // settings.batch_size), settings.batch_size

    def step(state: _State, batch: Int[Array, " batch"]) -> tuple[_State, Float[Array, ""]]:
        drawn = jax.tree.map(lambda array: array[batch], examples)
        loss, gradients = jax.value_and_grad(_loss)(state.network, drawn)
        updates, opt_state = optimizer.update(gradients, state.opt_state)
        return _State(optax.apply_updates(state.network, updates), opt_state), loss

    state, losses = jax.lax.scan(step, state, jnp.resize(jax.random.permutation(key, num_words), shape))
    return state, losses.mean()


@partial(jax.jit, static_argnames=("settings", "label_set"))
def _run(
    train: tuple[RetrievedWords, Int[Array, " words"]],
    dev: tuple[RetrievedWords, Gold],
    temperature: Float[Array, ""],
    key: Key[Array, ""],
    *,
    settings: AdaptiveSettings,
    label_set: LabelSet,
) -> _Epoch:
    """Train all epochs with one temperature, scored on dev: one program, whatever the temperature."""
    examples, mean, scale = _standardised(by_chunk(lambda words, gold: _examples(words, gold, temperature), *train))

    def epoch(state: _State, key: Key[Array, ""]) -> tuple[_State, _Epoch]:
        state, loss = _train_epoch(state, key, examples, settings)
        mixer = Mixer(state.network, mean, scale, temperature)
        mixture = mix(mixer, dev[0])
        f1 = micro_f1(dev[1], mixture.probabilities.argmax(axis=1), label_set)
        return state, _Epoch(mixer, f1, loss, mixture.mixture_weights[:, 0].mean())

    init_key, *epoch_keys = jax.random.split(key, 1 + settings.epochs)
    network = MetaKNetwork.init(init_key, settings.k, settings.hidden_size)
    state = _State(network, optax.adam(settings.learning_rate).init(network))
    return jax.lax.scan(epoch, state, jnp.stack(epoch_keys))[1]


def fit(
    train: LabelledWords, dev: LabelledWords, label_set: LabelSet, settings: AdaptiveSettings, key: Key[Array, ""]
) -> FittedMixer:
    """Fit a mixer for each temperature; the one and the epoch with the highest dev F1 are kept, the first among equals.

    Args:
        train: training words with neighbours from other sentences (see `leave_one_out`).
        dev: words of dev, with neighbours from the same datastore by the same metric.
        label_set: of the gold; its first labels are those of tagger and datastore.
        settings: how to fit.
        key: of the first parameters and the order of the words; the same for each temperature.

    Raises:
        InputError: words have fewer neighbours than `settings.k`, or are not as many as their gold labels.
    """
    for name, split in (("train", train), ("dev", dev)):
        if len(split.words.p_ner) != len(split.gold):
            expected = f"as many words as gold labels, {len(split.gold)}"
            raise InputError(f"adaptive: {name}: expected {expected}, got {len(split.words.p_ner)}")
    train_examples = first_neighbours(train.words, settings.k), jax.device_put(train.gold)
    laid_out = lay_out(EncodedSplit((), dev.sentence_ids, np.zeros_like(dev.sentence_ids), dev.gold, 0, 0))
    dev_examples = first_neighbours(dev.words, settings.k), laid_out
    trials, epochs = [], []
    for temperature in settings.temperature:
        run = _run(train_examples, dev_examples, jnp.float32(temperature), key, settings=settings, label_set=label_set)
        stacked = jax.device_get(run)
        for number in range(settings.epochs):
            epochs.append(jax.tree.map(lambda array, number=number: array[number], stacked))
            trials.append(EpochResult(temperature, number + 1, float(epochs[-1].f1), float(epochs[-1].loss)))
    best = max(range(len(trials)), key=lambda number: trials[number].f1)
    left_out = int((train.gold >= train.words.p_ner.shape[1]).sum())
    return FittedMixer(epochs[best].mixer, trials[best], tuple(trials), left_out, float(epochs[best].tagger_weight))


class AdaptiveCombiner:
    """Adaptive kNN-MT as a `contrib.combiner.Combiner`."""

    name = "adaptive"
    needs_train = True

    def __init__(self, knn: KnnConfig):
        self._settings = settings_for(knn)
        self.k = self._settings.k
        self.settings = asdict(self._settings) | {"version": VERSION}

    def fit(self, train: LabelledWords | None, dev: LabelledWords, label_set: LabelSet, seed: int) -> FittedMixer:
        """Fit the network to the largest power of 2 neighbours that the words have; see the function `fit`."""
        if train is None:
            raise InputError("adaptive: expected training words, got none")
        width = min(self.k, dev.words.similarities.shape[1])
        settings = replace(self._settings, k=1 << (width.bit_length() - 1))
        return fit(train, dev, label_set, settings, jax.random.key(seed))
