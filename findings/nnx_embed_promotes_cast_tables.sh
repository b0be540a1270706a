#!/usr/bin/env bash
# Flax 0.12.8 (nnx): the parameters of a module are replaced by bfloat16 copies, the usual way to compute in half precision
# with float32 masters. nnx.Linear and nnx.LayerNorm then return bfloat16; nnx.Embed returns float32: it remembers the dtype
# its table was *made* in and promotes what it looks up to that. Behind the embeddings every sum is float32, and each Linear,
# whose dtype is None, promotes its bfloat16 kernel to the float32 of its input: a network that was cast as a whole computes in
# float32 throughout, at twice the memory, without a word. One would expect the lookup to have its table's dtype.
#
# Seen with Python 3.11, jax 0.10.2:
#   cast before: Linear bfloat16, LayerNorm bfloat16, Embed float32
#   Linear behind Embed, all cast: float32
#   Embed made with dtype=bfloat16: bfloat16
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
cat > "$folder/run.py" << 'PYTHON'
import jax
import jax.numpy as jnp
from flax import nnx


def cast(module):
    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))


rngs = nnx.Rngs(0)
states = jnp.ones((2, 4), jnp.bfloat16)
linear, norm, embed = (cast(one) for one in (nnx.Linear(4, 4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs), nnx.Embed(9, 4, rngs=rngs)))
found = embed(jnp.array([1, 2]))
print(f"cast before: Linear {linear(states).dtype}, LayerNorm {norm(states).dtype}, Embed {found.dtype}")
print(f"Linear behind Embed, all cast: {linear(found).dtype}")
print(f"Embed made with dtype=bfloat16: {cast(nnx.Embed(9, 4, dtype=jnp.bfloat16, rngs=rngs))(jnp.array([1])).dtype}")
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/run.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/seen" - << 'EXPECTED'
cast before: Linear bfloat16, LayerNorm bfloat16, Embed float32
Linear behind Embed, all cast: float32
Embed made with dtype=bfloat16: bfloat16
EXPECTED
