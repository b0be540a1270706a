"""How near two vectors are: cosine, inner product or minus the squared distance, float32-accurate on every device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

METRICS = ("cosine", "ip", "l2")
# DEFAULT would mean bfloat16 passes on TPU and TF32 on GPU; at temperature 0.001 either changes a vote beyond recognition.
PRECISION = jax.lax.Precision.HIGHEST
_SMALLEST = float(jnp.finfo(jnp.float32).tiny)


def squared_norms(keys: Float[Array, "rows dim"]) -> Float[Array, " rows"]:
    """|key|^2 of every row, float32."""
    keys = keys.astype(jnp.float32)
    return jnp.sum(keys * keys, axis=-1)


def _inverse_norms(squares: Float[Array, " rows"]) -> Float[Array, " rows"]:
    # Where the square underflows, the vector counts as zero.
    return jnp.where(squares > 0, 1.0 / jnp.sqrt(jnp.maximum(squares, _SMALLEST)), 0.0)


def similarity(
    queries: Float[Array, "queries dim"],
    keys: Float[Array, "rows dim"],
    norms: Float[Array, " rows"],
    metric: str,
) -> Float[Array, "queries rows"]:
    """cosine, inner product (`ip`) or minus squared Euclidean distance (`l2`); a zero vector has cosine 0 to anything.

    Keys may be bfloat16: each is the float32 number it stands for.
    """
    products = jnp.einsum(
        "qd,rd->qr", queries, keys.astype(jnp.float32), precision=PRECISION, preferred_element_type=jnp.float32
    )
    if metric == "cosine":
        # Scaled after the product, not before: integer products are exact, so equal integer keys stay equal.
        products = products * _inverse_norms(squared_norms(queries))[:, None] * _inverse_norms(norms)[None, :]
    elif metric == "l2":
        products = 2 * products - norms[None, :] - squared_norms(queries)[:, None]
    # top_k ranks +0.0 above -0.0, which would break ties by sign instead of by row.
    return jnp.where(products == 0, 0.0, products)
