"""Learned mixing: a small network says, word by word, how many neighbours vote and how much the tagger counts.

This is Adaptive kNN-MT (Zheng et al. 2021, arXiv 2105.13022) for tagging. The network reads the similarities of a word's K
nearest neighbours, how many distinct labels the first 1, 2, ..., K of them have, and how sure the tagger is. It gives each k
in {0, 1, 2, 4, ..., K} a share:

    p(y) = share_0 * p_NER(y) + sum over k of share_k * p_kNN(y), p_kNN by the k nearest (paper, equation 3)

so that it settles weight and k at once. `mixing_fit` fits it.

Fitting a mixer: the network learns from training words, dev chooses the temperature and the epoch, test is not seen.

What it learns from is not what it will meet. The tagger was fine-tuned on the very words that the network is fitted to, so
it is right, and sure of it, more often there than on dev. A fitted mixer can therefore trust the tagger too much. Choosing
temperature and epoch on dev is all that is done about it.

Most words are `O`, and most words count for nothing: where tagger and votes all give the gold label p = 1, the shares do not
matter and the gradient is zero. So words are neither weighted nor sampled.

"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from knn_ner_jax.config import KnnConfig, as_list, require
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.evaluation.tuning import Gold, lay_out, micro_f1, search_space
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import Cache, knn_probabilities
from knn_ner_jax.knn.similarity import PRECISION

CHUNK_WORDS = 1024  # mixed at a time: a chunk holds arrays of [words, K, K] and [words, options, labels]
LEAST_DOUBT = 1e-6  # float32 cannot tell apart probabilities that are nearer to 1

_Tree = TypeVar("_Tree")


class Features(NamedTuple):
    """What a mixer knows of some words.

    Attributes:
        p_ner: the tagger's probabilities.
        similarities: of the K nearest neighbours, nearest first.
        neighbour_labels: their label ids.
    """

    p_ner: Float[Array, "words labels"]
    similarities: Float[Array, "words k"]
    neighbour_labels: Int[Array, "words k"]


class MetaKNetwork(NamedTuple):
    """Parameters of the network: one hidden layer, tanh, one output for each number of neighbours."""

    hidden_kernel: Float[Array, "features hidden"]
    hidden_bias: Float[Array, " hidden"]
    output_kernel: Float[Array, "hidden options"]
    output_bias: Float[Array, " options"]

    @classmethod
    def init(cls, key: Key[Array, ""], k: int, hidden_size: int) -> "MetaKNetwork":
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

    network: MetaKNetwork
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


def evidence_of(cache: Cache, k: int) -> Features:
    """The k nearest neighbours of every word, on the default device.

    Raises:
        InputError: the cache has fewer.
    """
    if cache.similarities is None or cache.neighbour_labels is None or cache.similarities.shape[1] < k:
        held = 0 if cache.similarities is None else cache.similarities.shape[1]
        raise InputError(f"learned mixing: expected a search for at least {k} neighbours, got one for {held}")
    return Features(*jax.device_put((cache.p_ner, cache.similarities[:, :k], cache.neighbour_labels[:, :k])))


def distinct_labels(neighbour_labels: Int[Array, "words k"]) -> Int[Array, "words k"]:
    """How many different labels the first 1, 2, ..., k neighbours have."""
    same = neighbour_labels[:, :, None] == neighbour_labels[:, None, :]
    seen_before = (same & jnp.tri(neighbour_labels.shape[1], k=-1, dtype=bool)[None]).any(axis=2)
    return jnp.cumsum(~seen_before, axis=1)


def features(evidence: Features) -> Float[Array, "words features"]:
    """What the network reads of each word, before it is standardised.

    Returns:
        The similarities, nearest first; the `distinct_labels`; the log-odds of the tagger's own label, in which 0.99 and
        0.9999 differ as much as 0.5 and 0.99.
    """
    confidence = evidence.p_ner.max(axis=1, keepdims=True)
    log_odds = jnp.log(confidence) - jnp.log(jnp.maximum(1 - confidence, LEAST_DOUBT))
    distinct = distinct_labels(evidence.neighbour_labels).astype(jnp.float32)
    return jnp.concatenate([evidence.similarities, distinct, log_odds], axis=1)


def candidate_distributions(
    evidence: Features, temperature: Float[Array, ""] | float
) -> Float[Array, "words options labels"]:
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


def mix(mixer: Mixer, evidence: Features) -> Mixed:
    """p(y) of every word, and the shares that made it."""

    def of_chunk(chunk: Features) -> Mixed:
        shares = mixer.network((features(chunk) - mixer.mean[None]) / mixer.scale[None])
        return Mixed((shares[:, :, None] * candidate_distributions(chunk, mixer.temperature)).sum(axis=1), shares)

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


VERSION = 1  # results are named by it: another one where fitting or mixing computes something else from the same settings
LEAST_PROBABILITY = 1e-10  # of a gold label that neither tagger nor neighbours can give; its gradient is zero
CONSTANT = 1e-6  # a feature that varies less than this is left as it is


@dataclass(frozen=True)
class MixingSettings:
    """How a mixer is fitted.

    Attributes:
        k: the most neighbours that vote, a power of 2
        hidden_size: of the network
        temperature: of the votes; dev chooses one
        epochs: passes over train; dev chooses after which to stop
        batch_size: words in a step
        learning_rate: of Adam
    """

    k: int = 64
    hidden_size: int = 32
    temperature: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require(self.k >= 1 and not self.k & (self.k - 1), "mixing.k", "a power of 2", self.k)
        for name in ("hidden_size", "epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"mixing.{name}", "at least 1", getattr(self, name))
        are_positive = bool(self.temperature) and all(0 < value < float("inf") for value in self.temperature)
        require(are_positive, "mixing.temperature", "one or more, each more than 0", list(self.temperature))
        require(0 < self.learning_rate < float("inf"), "mixing.learning_rate", "more than 0", self.learning_rate)


def settings_for(knn: KnnConfig) -> MixingSettings:
    """How a mixer is fitted for neighbours that are searched so.

    The temperatures of the default are for cosine, which lies between -1 and 1 whatever the tagger. How far similarities by
    ip and l2 lie apart depends on the states: dev chooses among the temperatures that are tried with a constant weight.
    """
    if as_list(knn.metric) == ["cosine"]:
        return MixingSettings()
    return MixingSettings(temperature=tuple(as_list(search_space(knn).temperature)))


@dataclass(frozen=True)
class MixingTrial:
    """A mixer as it was after some epoch: its strict micro F1 on dev in percent, and the mean loss of the epoch in nats."""

    temperature: float
    epoch: int
    f1: float
    loss: float

    def as_dict(self) -> dict[str, float]:
        """Flat, for a report."""
        return asdict(self)


@dataclass(frozen=True)
class Fitted:
    """What dev chose.

    Attributes:
        mixer: for `mixing.predict`.
        trial: the chosen one.
        trials: all, by temperature and epoch.
        left_out: training words that did not count, because tagger and datastore do not have their label.
    """

    mixer: Mixer
    trial: MixingTrial
    trials: tuple[MixingTrial, ...]
    left_out: int


class _Examples(NamedTuple):
    """What the network learns from: its input, what each option gives the gold label, and whether the word counts."""

    features: Float[Array, "words features"]
    p_gold: Float[Array, "words options"]
    counts: Bool[Array, " words"]


class _Epoch(NamedTuple):
    """What is known after an epoch; stacked over all of them by `_run`."""

    mixer: Mixer
    f1: Float[Array, ""]
    loss: Float[Array, ""]


def _loss(network: MetaKNetwork, examples: _Examples) -> Float[Array, ""]:
    """Mean cross-entropy of the gold labels under the mixed probabilities."""
    p_gold = (network(examples.features) * examples.p_gold).sum(axis=1)
    losses = jnp.where(examples.counts, -jnp.log(jnp.maximum(p_gold, LEAST_PROBABILITY)), 0.0)
    return losses.sum() / jnp.maximum(examples.counts.sum(), 1)


def _examples(evidence: Features, gold: Int[Array, " words"], temperature: Float[Array, ""]) -> _Examples:
    can_be_given = gold < evidence.p_ner.shape[1]
    column = jnp.where(can_be_given, gold, 0)[:, None, None]
    p_gold = jnp.take_along_axis(candidate_distributions(evidence, temperature), column, axis=2)[:, :, 0]
    return _Examples(features(evidence), p_gold, can_be_given)


def _standardised(examples: _Examples) -> tuple[_Examples, Float[Array, " features"], Float[Array, " features"]]:
    """Examples whose features have mean 0 and standard deviation 1, and what they had before."""
    mean, deviation = examples.features.mean(axis=0), examples.features.std(axis=0)
    scale = jnp.where(deviation > CONSTANT, deviation, 1.0)
    return examples._replace(features=(examples.features - mean[None]) / scale[None]), mean, scale


class _State(NamedTuple):
    network: MetaKNetwork
    opt_state: optax.OptState


def _train_epoch(
    state: _State, key: Key[Array, ""], examples: _Examples, settings: MixingSettings
) -> tuple[_State, Float[Array, ""]]:
    """Every example once, in random order; the last batch is filled up with examples of the first. Returns the mean loss."""
    num_words, optimizer = len(examples.counts), optax.adam(settings.learning_rate)
    shape = -(-num_words // settings.batch_size), settings.batch_size

    def step(state: _State, batch: Int[Array, " batch"]) -> tuple[_State, Float[Array, ""]]:
        chosen = jax.tree.map(lambda array: array[batch], examples)
        loss, gradients = jax.value_and_grad(_loss)(state.network, chosen)
        updates, opt_state = optimizer.update(gradients, state.opt_state)
        return _State(optax.apply_updates(state.network, updates), opt_state), loss

    state, losses = jax.lax.scan(step, state, jnp.resize(jax.random.permutation(key, num_words), shape))
    return state, losses.mean()


@partial(jax.jit, static_argnames=("settings", "label_set"))
def _run(
    train: tuple[Features, Int[Array, " words"]],
    dev: tuple[Features, Gold],
    temperature: Float[Array, ""],
    key: Key[Array, ""],
    *,
    settings: MixingSettings,
    label_set: LabelSet,
) -> _Epoch:
    """All epochs with one temperature, scored on dev: one program, whatever the temperature."""
    raw = by_chunk(lambda evidence, gold: _examples(evidence, gold, temperature), *train)
    examples, mean, scale = _standardised(raw)

    def epoch(state: _State, key: Key[Array, ""]) -> tuple[_State, _Epoch]:
        state, loss = _train_epoch(state, key, examples, settings)
        mixer = Mixer(state.network, mean, scale, temperature)
        predicted = mix(mixer, dev[0]).probabilities.argmax(axis=1)
        return state, _Epoch(mixer, micro_f1(dev[1], predicted, label_set), loss)

    init_key, *epoch_keys = jax.random.split(key, 1 + settings.epochs)
    network = MetaKNetwork.init(init_key, settings.k, settings.hidden_size)
    state = _State(network, optax.adam(settings.learning_rate).init(network))
    return jax.lax.scan(epoch, state, jnp.stack(epoch_keys))[1]


def _check_words(name: str, cache: Cache, words: int) -> None:
    if len(cache.p_ner) != words:
        raise InputError(f"learned mixing: {name}: expected as many words as gold labels, {words}, got {len(cache.p_ner)}")


def fit(
    train_cache: Cache,
    train_gold: Int[np.ndarray, " words"],
    dev_cache: Cache,
    dev_split: EncodedSplit,
    label_set: LabelSet,
    settings: MixingSettings,
    key: Key[Array, ""],
) -> Fitted:
    """Fits a mixer for each temperature; the one and the epoch with the highest dev F1 are kept, the first among equals.

    Args:
        train_cache: neighbours of training words among the rows of other sentences (see `own_rows`).
        train_gold: label id of each of those words.
        dev_cache: of dev, by the same datastore and metric.
        dev_split: gold labels and sentence bounds of dev.
        label_set: of the gold; its first labels are those of tagger and datastore.
        settings: how to fit.
        key: of the first parameters and the order of the words; the same for each temperature.

    Raises:
        InputError: a cache has fewer neighbours than `settings.k`, or another number of words than its gold.
    """
    _check_words("train", train_cache, len(train_gold))
    _check_words("dev", dev_cache, dev_split.num_words)
    train = evidence_of(train_cache, settings.k), jax.device_put(train_gold)
    dev = evidence_of(dev_cache, settings.k), lay_out(dev_split)
    trials, mixers = [], []
    for temperature in settings.temperature:
        run = _run(train, dev, jnp.float32(temperature), key, settings=settings, label_set=label_set)
        mixer, f1, loss = jax.device_get(run)
        for number in range(settings.epochs):
            trials.append(MixingTrial(temperature, number + 1, float(f1[number]), float(loss[number])))
            mixers.append(jax.tree.map(lambda array, number=number: array[number], mixer))
    best = max(range(len(trials)), key=lambda number: trials[number].f1)
    return Fitted(mixers[best], trials[best], tuple(trials), int((train_gold >= train_cache.p_ner.shape[1]).sum()))
