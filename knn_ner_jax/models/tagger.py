"""The tagger: encoder, dropout and classification head as pure functions of explicit parameters (paper, section 3.1)."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from knn_ner_jax.models.bert import Bert, BertConfig, dropout

Params = dict[str, Any]  # nested dictionaries of arrays


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
    def __init__(self, config: BertConfig, num_labels: int, head: str, rngs: nnx.Rngs):
        self.encoder = Bert(config, rngs)
        self.head = _MlpHead(config, num_labels, rngs) if head == "mlp" else _head_layer(config, num_labels, rngs)


@dataclass(frozen=True)
class Tagger:
    """A tagger without its parameters; hashable, so it can be a static argument of a jitted function.

    Attributes:
        config: the encoder's sizes.
        num_labels: number of labels.
        dtype: arithmetic of the encoder, `float32` or `bfloat16`; parameters and head are always float32.
        head: `linear` is one dense layer; `mlp` is a dense layer, tanh, and a second one.
        remat: whether the backward pass keeps only the input of each layer and computes the rest again.
    """

    config: BertConfig
    num_labels: int
    dtype: str = "float32"
    head: str = "linear"
    remat: bool = False

    def _network(self, key: Key[Array, ""]) -> _Network:
        return _Network(self.config, self.num_labels, self.head, nnx.Rngs(key))

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
        attention_mask: Bool[Array | np.ndarray, "batch length"],
        token_type_ids: Int[Array, "batch length"] | None = None,
        key: Key[Array, ""] | None = None,
        pinyin_ids: Int[Array | np.ndarray, "batch length letters"] | None = None,
    ) -> TaggerOutput:
        """Run the network; there is dropout only with a key, and ChineseBERT needs `pinyin_ids` beside the tokens."""
        graphdef, abstract = _abstract_network(self)
        abstract = jax.tree.map(lambda leaf: leaf, abstract)  # a copy, to be filled
        nnx.replace_by_pure_dict(abstract, {"encoder": _cast(params["encoder"], self.dtype), "head": params["head"]})
        network = nnx.merge(graphdef, abstract)
        encoder_key, head_key = (None, None) if key is None else jax.random.split(key)
        inputs = jnp.asarray(token_ids), jnp.asarray(attention_mask), token_type_ids
        pinyin_ids = None if pinyin_ids is None else jnp.asarray(pinyin_ids)
        # Queries and keys are made of the states: float32 means that on every device, not TF32 or bfloat16 passes.
        with jax.default_matmul_precision("highest") if self.dtype == "float32" else nullcontext():
            states = network.encoder(*inputs, encoder_key, pinyin_ids, self.remat)
        hidden_states = tuple(state.astype(jnp.float32) for state in states)
        logits = network.head(dropout(hidden_states[-1], self.config.hidden_dropout_prob, head_key))
        return TaggerOutput(logits, hidden_states)


@cache
def _abstract_network(tagger: Tagger) -> tuple[nnx.GraphDef[_Network], nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: tagger._network(jax.random.key(0))), nnx.Param)


def _cast(params: Params, dtype: str) -> Params:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
