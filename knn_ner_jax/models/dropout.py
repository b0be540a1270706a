"""Dropout with an explicit key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """Zeroes a share `rate` of the entries and scales up the rest; the identity without a key.

    Sixteen random bits an entry: half the generator's work, and the rate is exact to 1/65536, which the scale accounts for.
    """
    if key is None or rate == 0.0:
        return x
    threshold = min(round(rate * 65536), 65535)
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= threshold
    return jnp.where(keep, x * (65536 / (65536 - threshold)), jnp.zeros((), x.dtype))
