"""The tagger: encoder, dropout and classification head as pure functions of explicit parameters (paper, section 3.1)."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.models.bert import Bert, BertConfig, Params, dropout

NEVER = -1e9  # logit of a label that the head does not know: its probability is 0 in float32


class TaggerOutput(NamedTuple):
    """The tagger's output for a batch.

    Attributes:
        logits: [batch, length, labels], float32.
        hidden_states: output of the embeddings and of every layer, each [batch, length, hidden], float32; the head reads the
            last.
    """

    logits: Float[Array, "batch length labels"]
    hidden_states: tuple[Float[Array, "batch length hidden"], ...]


def _head_layer(config: BertConfig, features_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(config.initializer_range)
    # The logits are mixed with the vote, so they are float32-accurate on every device.
    precision = jax.lax.Precision.HIGHEST
    return nnx.Linear(config.hidden_size, features_out, kernel_init=init, precision=precision, rngs=rngs)


class _MlpHead(nnx.Module):
    def __init__(self, config: BertConfig, num_labels: int, rngs: nnx.Rngs):
        self.dense = _head_layer(config, config.hidden_size, rngs)
        self.output = _head_layer(config, num_labels, rngs)

    def __call__(self, hidden: Float[Array, "batch length hidden"]) -> Float[Array, "batch length labels"]:
        return self.output(jnp.tanh(self.dense(hidden)))


class _Network(nnx.Module):
    def __init__(self, tagger: "Tagger", rngs: nnx.Rngs):
        config, num_outputs = tagger.config, len(tagger.outputs) or tagger.num_labels
        self.encoder = Bert(config, tagger.platform, rngs)
        self.head = _MlpHead(config, num_outputs, rngs) if tagger.head == "mlp" else _head_layer(config, num_outputs, rngs)


def group_logits(
    logits: Float[Array, "*batch outputs"], outputs: tuple[int, ...], num_labels: int
) -> Float[Array, "*batch labels"]:
    """Return the logits of labels of which some have several outputs: their probabilities are added up.

    Args:
        logits: of the outputs.
        outputs: label id of each output.
        num_labels: width of the result; labels without an output have probability 0.
    """
    columns = []
    for label in range(num_labels):
        places = [place for place, target in enumerate(outputs) if target == label]
        if not places:
            columns.append(jnp.full(logits.shape[:-1], NEVER, logits.dtype))
        elif len(places) == 1:
            columns.append(logits[..., places[0]])
        else:
            columns.append(jax.nn.logsumexp(logits[..., np.array(places)], axis=-1))
    return jnp.stack(columns, axis=-1)


def iob1_to_iob2(
    logits: Float[Array, "batch length labels"],
    word_index: Int[Array | np.ndarray, "batch length"],
    segments: Int[Array | np.ndarray, "batch length"],
) -> Float[Array, "batch length labels"]:
    """Read the logits of a tagger that speaks IOB1 as those of IOB2 labels.

    A word's probability of a type X is that of B-X and I-X together. All of it goes to I-X where the most likely type of the
    word before is X, too, and p(I-X) >= p(B-X); else to B-X. So types are as likely as the tagger says, and what it says
    alone is what IOB1 means, with every I- behind a word of its type. Limits: whether a word begins an entity is decided by
    the tagger alone, before its probabilities are mixed with a vote; and the first word that a window labels, of those that
    cover a long sentence, has no word before it.

    Args:
        logits: of O, and B- and I- of each type in turn.
        word_index: `NO_WORD` at positions that are no word.
        segments: number of the window that each position is of.
    """
    begin, inside = logits[..., 1::2], logits[..., 2::2]
    of_type = jnp.logaddexp(begin, inside)
    type_ids = jnp.concatenate([logits[..., :1], of_type], axis=-1).argmax(axis=-1)  # 0: O
    positions = jnp.where(jnp.asarray(word_index) != NO_WORD, jnp.arange(logits.shape[1])[None, :], -1)
    latest = jax.lax.cummax(positions, axis=1)
    before = jnp.pad(latest, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    type_before, window_before = (
        jnp.take_along_axis(values, jnp.maximum(before, 0), axis=1) for values in (type_ids, jnp.asarray(segments))
    )
    type_before = jnp.where((before >= 0) & (window_before == segments), type_before, 0)
    goes_on = (type_before[..., None] == 1 + jnp.arange(begin.shape[-1])[None, None, :]) & (inside >= begin)
    pairs = jnp.stack([jnp.where(goes_on, NEVER, of_type), jnp.where(goes_on, of_type, NEVER)], axis=-1)
    return jnp.concatenate([logits[..., :1], pairs.reshape(*logits.shape[:-1], -1)], axis=-1)


@dataclass(frozen=True)
class Tagger:
    """A tagger without its parameters; hashable, so it can be a static argument of a jitted function.

    Attributes:
        config: the encoder's sizes.
        num_labels: number of labels.
        dtype: arithmetic of the encoder, `float32` or `bfloat16`; parameters and head are always float32.
        head: `linear` is one dense layer; `mlp` is a dense layer, tanh, and a second one.
        remat: whether the backward pass keeps only the input of each layer and computes the rest again.
        platform: kind of device that it runs on, `cpu`, `gpu` or `tpu`: decides how attention is computed, and what the
            backward pass keeps.
        outputs: for a head from elsewhere, the label id of each of its outputs; empty: the outputs are the labels.
        speaks_iob1: whether what the head says is IOB1 (see `iob1_to_iob2`).
    """

    config: BertConfig
    num_labels: int
    dtype: str = "float32"
    head: str = "linear"
    remat: bool = False
    platform: str = field(default_factory=jax.default_backend)
    outputs: tuple[int, ...] = ()
    speaks_iob1: bool = False

    def _network(self, key: Key[Array, ""]) -> _Network:
        return _Network(self, nnx.Rngs(key))

    def init(self, key: Key[Array, ""]) -> Params:
        """Return random parameters, initialised as BERT's are."""
        return nnx.to_pure_dict(nnx.split(self._network(key), nnx.Param)[1])

    def abstract_params(self) -> Params:
        """Return the shapes and dtypes of the parameters."""
        return nnx.to_pure_dict(_abstract_network(self)[1])

    def __call__(
        self,
        params: Params,
        token_ids: Int[Array | np.ndarray, "batch length"],
        segments: Int[Array | np.ndarray, "batch length"] | Bool[Array | np.ndarray, "batch length"],
        token_type_ids: Int[Array, "batch length"] | None = None,
        key: Key[Array, ""] | None = None,
        pinyin_ids: Int[Array | np.ndarray, "batch length letters"] | None = None,
        word_index: Int[Array | np.ndarray, "batch length"] | None = None,
    ) -> TaggerOutput:
        """Run the network on windows (see `batching.Batch`); there is dropout only with a key.

        ChineseBERT needs `pinyin_ids` beside the tokens, and a head that speaks IOB1 `word_index`, `NO_WORD` at no word.
        """
        graphdef, abstract = _abstract_network(self)
        abstract = jax.tree.map(lambda leaf: leaf, abstract)  # a copy, to be filled
        nnx.replace_by_pure_dict(abstract, params)
        network = nnx.merge(graphdef, abstract)
        encoder_key, head_key = (None, None) if key is None else jax.random.split(key)
        inputs = jnp.asarray(token_ids), jnp.asarray(segments), token_type_ids
        pinyin_ids = None if pinyin_ids is None else jnp.asarray(pinyin_ids)
        # Queries and keys are made of the states: float32 means that on every device, not TF32 or bfloat16 passes.
        with jax.default_matmul_precision("highest") if self.dtype == "float32" else nullcontext():
            states = network.encoder(*inputs, encoder_key, pinyin_ids, self.remat, self.dtype)
        hidden_states = tuple(state.astype(jnp.float32) for state in states)
        logits = network.head(dropout(hidden_states[-1], self.config.hidden_dropout_prob, head_key))
        if self.outputs:
            logits = group_logits(logits, self.outputs, self.num_labels)
        if self.speaks_iob1:
            if word_index is None:
                raise ValueError("word_index: expected where words stand, which IOB1 depends on, got None")
            logits = iob1_to_iob2(logits, word_index, segments)
        return TaggerOutput(logits, hidden_states)

    def run(self, params: Params, batch: Batch, key: Key[Array, ""] | None = None) -> TaggerOutput:
        """Run the network on a batch."""
        inputs = batch.token_ids, batch.segments
        return self(params, *inputs, key=key, pinyin_ids=batch.pinyin_ids, word_index=batch.word_index)


@cache
def _abstract_network(tagger: Tagger) -> tuple[nnx.GraphDef[_Network], nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: tagger._network(jax.random.key(0))), nnx.Param)
