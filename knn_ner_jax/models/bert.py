"""BERT (Devlin et al. 2019) as flax.nnx modules, numerically equal to transformers' BertModel and RobertaModel.

Modules hold parameters only. Randomness is an explicit key: without one there is no dropout. Attention is one formula,
computed by the kernel that suits the kind of device (`platform`); that also decides what is kept for the backward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from knn_ner_jax.config import PART_LENGTH
from knn_ner_jax.io import InputError

Params = dict[str, Any]  # nested dictionaries of arrays


def dropout(x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """Zero a fraction `rate` of the entries and scale up the others; without a key, return `x` as it is.

    Sixteen random bits an entry: half the generator's work, and the rate is exact to 1/65536, which the scale accounts for.
    """
    if key is None or rate == 0.0:
        return x
    threshold = min(round(rate * 65536), 65535)
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= threshold
    # A float32 scale: rounded to bfloat16 it would make all states too small by the same part.
    scaled = (x * jnp.float32(65536 / (65536 - threshold))).astype(x.dtype)
    return jnp.where(keep, scaled, jnp.zeros((), x.dtype))


# Added to the attention scores of what a token does not see. Finite, so that a row without any token stays free of NaN.
MASKED = float(jnp.finfo(jnp.float32).min)


def _heads_first(
    q_blhd: Float[Array, "batch length heads head_dim"],
    k_blhd: Float[Array, "batch length heads head_dim"],
    v_blhd: Float[Array, "batch length heads head_dim"],
    bias: Float[Array, "batch 1 #length length"],
    rate: float,
    key: Key[Array, ""] | None,
) -> Float[Array, "batch length heads head_dim"]:
    # Heads before positions: both products then read contiguous rows, in half the time on CPU.
    q_bhld, k_bhld, v_bhld = (x.transpose(0, 2, 1, 3) for x in (q_blhd, k_blhd, v_blhd))
    scaled_bhld = q_bhld * q_bhld.shape[-1] ** -0.5
    scores_bhlm = jnp.einsum("bhld,bhmd->bhlm", scaled_bhld, k_bhld, preferred_element_type=jnp.float32) + bias
    weights_bhlm = dropout(jax.nn.softmax(scores_bhlm).astype(v_bhld.dtype), rate, key)
    return jnp.einsum("bhlm,bhmd->bhld", weights_bhlm, v_bhld).transpose(0, 2, 1, 3)


def _fused(
    q_blhd: Float[Array, "batch length heads head_dim"],
    k_blhd: Float[Array, "batch length heads head_dim"],
    v_blhd: Float[Array, "batch length heads head_dim"],
    bias: Float[Array, "batch 1 #length length"],
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "batch length heads head_dim"]:
    # A mask rather than the bias, which is minus infinity in bfloat16: rows without any token would be NaN.
    length = q_blhd.shape[1]
    mask = jnp.broadcast_to(bias == 0.0, (len(bias), 1, length, length))
    return jax.nn.dot_product_attention(q_blhd, k_blhd, v_blhd, mask=mask, implementation=implementation)


def _in_parts(attention: Callable[..., Array], qkv_blhd: Sequence[Array], bias: Float[Array, "batch 1 row row"]) -> Array:
    """Compute attention within parts of `PART_LENGTH` where no token sees another part than its own, else within rows."""
    part, parts = PART_LENGTH, bias.shape[-1] // PART_LENGTH
    bias_bpqpq = bias.reshape(-1, parts, part, parts, part)
    is_own = jnp.eye(parts, dtype=bool)[None, :, None, :, None]
    of_parts = jnp.diagonal(bias_bpqpq, axis1=1, axis2=3).transpose(0, 3, 1, 2).reshape(-1, 1, part, part)

    def within_parts() -> Array:
        return attention(*(x.reshape(-1, part, *x.shape[2:]) for x in qkv_blhd), of_parts).reshape(qkv_blhd[0].shape)

    is_alone = (is_own | (bias_bpqpq == MASKED)).all()
    return jax.lax.cond(is_alone, within_parts, lambda: attention(*qkv_blhd, bias))


def attend(
    q_blhd: Float[Array, "batch length heads head_dim"],
    k_blhd: Float[Array, "batch length heads head_dim"],
    v_blhd: Float[Array, "batch length heads head_dim"],
    bias: Float[Array, "batch 1 #length length"],
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
    platform: str = "cpu",
) -> Float[Array, "batch length heads head_dim"]:
    """Compute scaled dot-product attention.

    Args:
        q_blhd: queries.
        k_blhd: keys.
        v_blhd: values.
        bias: added to the score of each query (third axis) and key: 0, or `MASKED` where the query does not see the key.
        rate: dropout rate of the attention weights.
        key: PRNG key for dropout; without it there is none.
        platform: what computes it (see `tagger.Tagger`). On a GPU it is cuDNN, which never stores the scores, wherever that
            has a kernel: in half precision, without dropout of the weights. On a CPU long rows cost more than short ones:
            where windows keep within parts of rows, scores are those of parts.
    """
    length, _, head_dim = q_blhd.shape[1:]
    has_kernel = q_blhd.dtype in (jnp.bfloat16, jnp.float16) and length % 2 == 0 and head_dim % 8 == 0 and head_dim <= 128
    if platform == "gpu" and has_kernel and (key is None or rate == 0.0):
        return _fused(q_blhd, k_blhd, v_blhd, bias)
    if platform == "cpu" and key is None and length > PART_LENGTH and length % PART_LENGTH == 0 and bias.shape[2] == length:
        return _in_parts(partial(_heads_first, rate=0.0, key=None), (q_blhd, k_blhd, v_blhd), bias)
    return _heads_first(q_blhd, k_blhd, v_blhd, bias, rate, key)


def _gelu(x: Float[Array, "*shape"], approximate: bool) -> Float[Array, "*shape"]:
    # In float32: several roundings fewer, and XLA fuses it with the products around it.
    x_f32 = x.astype(jnp.float32)
    if approximate:
        return jax.nn.gelu(x_f32, approximate=True).astype(x.dtype)
    # By erf, as PyTorch does. jax.nn.gelu takes erfc, which XLA computes in several times the time on CPU.
    return (0.5 * x_f32 * (1.0 + jax.lax.erf(x_f32 * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(_gelu, approximate=False),
    "gelu_new": partial(_gelu, approximate=True),
    "relu": jax.nn.relu,
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes and constants of an encoder; names follow transformers' config.json.

    Attributes:
        vocab_size: number of subwords.
        hidden_size: width of the hidden states.
        num_hidden_layers: number of layers.
        num_attention_heads: attention heads in each layer.
        intermediate_size: width inside the feed-forward blocks.
        max_position_embeddings: rows of the position table.
        type_vocab_size: number of token types.
        layer_norm_eps: epsilon of the layer norms.
        hidden_act: one of `ACTIVATIONS`.
        hidden_dropout_prob: dropout rate of hidden states.
        attention_probs_dropout_prob: dropout rate of attention weights.
        initializer_range: standard deviation of random initial weights.
        family: name in `hf_checkpoint.FAMILIES`.
        position_offset: row of the first position; RoBERTa leaves the rows before it to padding.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    family: str = "bert"
    position_offset: int = 0

    def __post_init__(self) -> None:
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size: expected a multiple of num_attention_heads {self.num_attention_heads}, got {self.hidden_size}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(f"hidden_act: expected one of {', '.join(ACTIVATIONS)}, got {self.hidden_act}")
        if self.max_length < 1:
            raise InputError(
                f"max_position_embeddings: expected more than {self.position_offset}, got {self.max_position_embeddings}"
            )

    @property
    def max_length(self) -> int:
        """Most tokens that can be encoded at once."""
        return self.max_position_embeddings - self.position_offset

    def make_embeddings(self, rngs: nnx.Rngs) -> "Embeddings":
        """Return the module that turns tokens into the encoder's first hidden state."""
        return Embeddings(self, rngs)


def _linear(config: BertConfig, features_in: int, features_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Linear(features_in, features_out, kernel_init=init, rngs=rngs)


def _embed(config: BertConfig, size: int, rngs: nnx.Rngs) -> nnx.Embed:
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Embed(size, config.hidden_size, embedding_init=init, rngs=rngs)


def _layer_norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance E[x^2] - E[x]^2 cancels and misses PyTorch by more than the tolerance.
    return nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs)


# Besides a layer's input, accelerators keep for the backward pass what `_kept` marks: what products and norms read or write,
# in the encoder's dtype. Attention weights, dropout masks and activations are computed again, which takes less time than to
# write and read them.
_KEPT = jax.checkpoint_policies.save_only_these_names("kept")


def _kept(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return checkpoint_name(x, "kept")


class Embeddings(nnx.Module):
    """Word + position + token-type embeddings, normalised."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.word = _embed(config, config.vocab_size, rngs)
        self.position = _embed(config, config.max_position_embeddings, rngs)
        self.token_type = _embed(config, config.type_vocab_size, rngs)
        self.norm = _layer_norm(config, rngs)
        self.dropout_rate = config.hidden_dropout_prob
        self.position_offset = config.position_offset

    def tokens(
        self, token_ids: Int[Array, "batch length"], pinyin_ids: Int[Array, "batch length letters"] | None
    ) -> Float[Array, "batch length hidden"]:
        """Return the embeddings of tokens, wherever they stand; BERT ignores pinyin."""
        del pinyin_ids
        return self.word(token_ids)

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        token_type_ids: Int[Array, "batch length"],
        positions: Int[Array, "batch length"],
        key: Key[Array, ""] | None = None,
        pinyin_ids: Int[Array, "batch length letters"] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Embed tokens at their positions, from 0 on; there is dropout only with a key."""
        # A row may be padded beyond the positions there are.
        numbers = jnp.minimum(positions + self.position_offset, self.position.num_embeddings - 1)
        positions = self.position(numbers)
        summed = self.tokens(token_ids, pinyin_ids) + self.token_type(token_type_ids) + positions
        return dropout(self.norm(summed), self.dropout_rate, key)


def window_positions(segments: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Return the position of each token in its window.

    >>> window_positions(jnp.array([[1, 1, 2, 2, 2, 0]])).tolist()
    [[0, 1, 0, 1, 2, 0]]

    Args:
        segments: see `batching.Batch`.
    """
    numbers = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=segments.dtype), segments.shape)
    before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    return numbers - jax.lax.cummax(jnp.where(segments != before, numbers, 0), axis=1)


class Attention(nnx.Module):
    """Multi-head self-attention with its residual connection and norm."""

    def __init__(self, config: BertConfig, platform: str, rngs: nnx.Rngs):
        hidden = config.hidden_size
        self.query, self.key, self.value, self.output = (_linear(config, hidden, hidden, rngs) for _ in range(4))
        self.norm = _layer_norm(config, rngs)
        self.heads = config.num_attention_heads
        self.platform = platform
        self.attention_dropout_rate = config.attention_probs_dropout_prob
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self,
        hidden: Float[Array, "batch length hidden"],
        bias: Float[Array, "batch 1 #length length"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Apply attention; `bias` is that of `attend`, and there is dropout only with a key."""
        weights_key, output_key = (None, None) if key is None else jax.random.split(key)
        per_head = (*hidden.shape[:2], self.heads, -1)
        q_blhd, k_blhd, v_blhd = (_kept(dense(hidden)).reshape(per_head) for dense in (self.query, self.key, self.value))
        context_blhd = attend(q_blhd, k_blhd, v_blhd, bias, self.attention_dropout_rate, weights_key, self.platform)
        context = _kept(context_blhd.reshape(hidden.shape))
        return self.norm(_kept(hidden + dropout(self.output(context), self.dropout_rate, output_key)))


class FeedForward(nnx.Module):
    """Two dense layers with their residual connection and norm."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.up = _linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.down = _linear(config, config.intermediate_size, config.hidden_size, rngs)
        self.norm = _layer_norm(config, rngs)
        self.activation = config.hidden_act
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self, hidden: Float[Array, "batch length hidden"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch length hidden"]:
        """Transform each position by itself; there is dropout only with a key."""

        def down(inner: Float[Array, "batch length inner"]) -> Float[Array, "batch length hidden"]:
            return self.down(ACTIVATIONS[self.activation](inner))

        # The backward pass computes the activation again: that takes less time than to write and read what it would keep,
        # which is four times as wide as a hidden state and as many times as large again.
        transformed = jax.checkpoint(down, prevent_cse=False)(_kept(self.up(hidden)))
        return self.norm(_kept(hidden + dropout(transformed, self.dropout_rate, key)))


class Layer(nnx.Module):
    """One transformer layer."""

    def __init__(self, config: BertConfig, platform: str, rngs: nnx.Rngs):
        self.attention = Attention(config, platform, rngs)
        self.feed_forward = FeedForward(config, rngs)

    def __call__(
        self,
        hidden: Float[Array, "batch length hidden"],
        bias: Float[Array, "batch 1 #length length"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Apply attention, then the feed-forward block; arguments are those of `Attention`."""
        attention_key, feed_forward_key = (None, None) if key is None else jax.random.split(key)
        return self.feed_forward(self.attention(hidden, bias, attention_key), feed_forward_key)


class Bert(nnx.Module):
    """The encoder.

    Parameters of the layers are stacked, [num_hidden_layers, ...]: one layer is compiled, and scanned.
    """

    def __init__(self, config: BertConfig, platform: str, rngs: nnx.Rngs):
        self.embeddings = config.make_embeddings(rngs)
        self.num_layers = config.num_hidden_layers
        self.platform = platform

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Layer:
            return Layer(config, platform, rngs)

        self.layers = stack(rngs)

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        segments: Int[Array, "batch length"] | Bool[Array, "batch length"],
        token_type_ids: Int[Array, "batch length"] | None = None,
        key: Key[Array, ""] | None = None,
        pinyin_ids: Int[Array, "batch length letters"] | None = None,
        remat: bool = False,
        dtype: str = "float32",
    ) -> tuple[Float[Array, "batch length hidden"], ...]:
        """Return the output of the embeddings and of every layer, the last of which is the encoder's output.

        States that the caller does not use are never stored: the last one is carried out of the loop apart from the others.

        Args:
            token_ids: vocabulary ids.
            segments: number of the window that each token is of, 0 at padding (see `batching.Batch`); or a mask, where
                every row is one window. Tokens see those of their window alone, and the positions of each begin at 0.
            token_type_ids: type of each token; default: zeros.
            key: PRNG key for dropout; without it there is none.
            pinyin_ids: letters of each token's pinyin; ChineseBERT needs them, others ignore them.
            remat: whether the backward pass keeps only the input of each layer and computes the rest again.
            dtype: arithmetic of the layers; that of the embeddings is float32, in which the gradients of a row that many
                tokens share are added up.

        Returns:
            num_hidden_layers + 1 states.
        """
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(token_ids)
        embeddings_key, layers_key = (None, None) if key is None else jax.random.split(key)
        layer_keys = None if layers_key is None else jax.random.split(layers_key, self.num_layers)
        segments = segments.astype(jnp.int32)
        sees = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]
        bias = jnp.where(sees, 0.0, MASKED)[:, None]
        graphdef, stacked = nnx.split(self.layers)

        def run_layer(
            hidden: Float[Array, "batch length hidden"], scanned: tuple[Any, Key[Array, ""] | None]
        ) -> tuple[Float[Array, "batch length hidden"], Float[Array, "batch length hidden"]]:
            # Here, and not of all layers before: their copies would be held throughout.
            parameters, layer_key = jax.tree.map(lambda leaf: leaf.astype(dtype), scanned[0]), scanned[1]
            hidden = nnx.merge(graphdef, parameters)(hidden, bias, layer_key)
            return hidden, hidden

        positions = window_positions(segments)
        embedded = self.embeddings(token_ids, token_type_ids, positions, embeddings_key, pinyin_ids).astype(dtype)
        if remat or self.platform != "cpu":
            run_layer = jax.checkpoint(run_layer, prevent_cse=False, policy=None if remat else _KEPT)
        last, states = jax.lax.scan(run_layer, embedded, (stacked, layer_keys))
        return (embedded, *states[:-1], last)
