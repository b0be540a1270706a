"""Scaled dot-product attention: one formula, and the kernel that each kind of device computes it with."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from knn_ner_jax.models.dropout import dropout

# Added to the attention scores of padding. Finite, so that a row without any token stays free of NaN.
MASKED = float(jnp.finfo(jnp.float32).min)


def _heads_first(
    q_bhld: Float[Array, "batch heads length head_dim"],
    k_bhld: Float[Array, "batch heads length head_dim"],
    v_bhld: Float[Array, "batch heads length head_dim"],
    bias: Float[Array, "batch 1 1 length"],
    rate: float,
    key: Key[Array, ""] | None,
) -> Float[Array, "batch heads length head_dim"]:
    scaled_bhld = q_bhld * q_bhld.shape[-1] ** -0.5
    scores_bhlm = jnp.einsum("bhld,bhmd->bhlm", scaled_bhld, k_bhld, preferred_element_type=jnp.float32) + bias
    weights_bhlm = dropout(jax.nn.softmax(scores_bhlm).astype(v_bhld.dtype), rate, key)
    return jnp.einsum("bhlm,bhmd->bhld", weights_bhlm, v_bhld)


def attend(
    q_blhd: Float[Array, "batch length heads head_dim"],
    k_blhd: Float[Array, "batch length heads head_dim"],
    v_blhd: Float[Array, "batch length heads head_dim"],
    bias: Float[Array, "batch 1 1 length"],
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
    fused: bool | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """Scaled dot-product attention.

    Args:
        q_blhd: queries.
        k_blhd: keys.
        v_blhd: values.
        bias: added to the scores of each key position: 0, or `MASKED` at padding.
        rate: of dropout of the attention weights.
        key: switches dropout on.
        fused: whether `jax.nn.dot_product_attention` computes it, which never stores the scores on GPU but knows no dropout;
            by default wherever cuDNN has a kernel for it: half precision on GPU, without dropout of weights.

    Raises:
        ValueError: `fused` and dropout together.
    """
    dropping = key is not None and rate > 0.0
    if fused and dropping:
        raise ValueError("fused: expected False or None with dropout of the attention weights, got True")
    if fused is None:
        half = q_blhd.dtype in (jnp.bfloat16, jnp.float16) and q_blhd.shape[-1] % 8 == 0 and q_blhd.shape[-1] <= 128
        fused = half and jax.default_backend() == "gpu" and not dropping
    if fused:
        batch, length = q_blhd.shape[:2]
        # A mask rather than the bias, which is minus infinity in bfloat16: rows without any token would be NaN.
        mask = jnp.broadcast_to(bias == 0.0, (batch, 1, length, length))
        implementation: Literal["cudnn", "xla"] = "cudnn" if jax.default_backend() == "gpu" else "xla"
        return jax.nn.dot_product_attention(q_blhd, k_blhd, v_blhd, mask=mask, implementation=implementation)
    # Heads before positions: both products then read contiguous rows, in half the time on CPU.
    q_bhld, k_bhld, v_bhld = (x.transpose(0, 2, 1, 3) for x in (q_blhd, k_blhd, v_blhd))
    return _heads_first(q_bhld, k_bhld, v_bhld, bias, rate, key).transpose(0, 2, 1, 3)
