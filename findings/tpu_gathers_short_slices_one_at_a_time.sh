#!/usr/bin/env bash
# libtpu 0.0.52 with jax 0.10.2, compiled for a TPU v5e on a machine that has none: from scores [256, 32768] each of the 256
# queries takes 64 slices of 16 neighbouring scores (a vmapped dynamic_slice, one gather in StableHLO). The TPU compiler makes
# of it a loop over all 16,384 slices, one at a time, which it estimates at several times ten million cycles: tens of
# milliseconds, a hundred times the matrix product that made the scores. The same scores taken by a product of their four
# bytes with a one-hot matrix, which is exact in bfloat16, hold no such loop. One would expect a gather of contiguous slices
# to be the cheap way, as it is on CPU and GPU; top-k by group maxima, which looks at few groups of a row, meets it at once.
#
# Seen:
#   gather: one at a time, 16384 rounds
#   one-hot product: no loop
#   the same scores: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.52
cat > "$folder/run.py" << 'PYTHON'
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

QUERIES, GROUPS, GROUP, K = 256, 2048, 16, 64


def gather(scores, groups):
    def one(row, number):
        return jax.lax.dynamic_slice_in_dim(row, number * GROUP, GROUP)

    return jax.vmap(jax.vmap(one, (None, 0)))(scores, groups)


def product(scores, groups):
    bits = jax.lax.bitcast_convert_type(scores.reshape(len(scores), -1, GROUP), jnp.uint32)
    parts = jnp.concatenate([(bits >> shift) & 255 for shift in (0, 8, 16, 24)], axis=2).astype(jnp.bfloat16)
    one_hot = jax.nn.one_hot(groups, parts.shape[1], dtype=jnp.bfloat16)
    taken = jnp.einsum("qkg,qgb->qkb", one_hot, parts, preferred_element_type=jnp.float32)
    a, b, c, d = jnp.split(taken.astype(jnp.uint32), 4, axis=2)
    return jax.lax.bitcast_convert_type(a | b << 8 | c << 16 | d << 24, jnp.float32)


topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1))
place = jax.sharding.SingleDeviceSharding(topology.devices[0])
shapes = (
    jax.ShapeDtypeStruct((QUERIES, GROUPS * GROUP), jnp.float32, sharding=place),
    jax.ShapeDtypeStruct((QUERIES, K), jnp.int32, sharding=place),
)
for name, take in {"gather": gather, "one-hot product": product}.items():
    text = jax.jit(take).lower(*shapes).compile().as_text()
    loops = len(re.findall(r" while\(", text))
    rounds = {int(number) for number in re.findall(r"constant\((\d+)\)", text)} & {QUERIES * K}
    print(f"{name}: one at a time, {rounds.pop()} rounds" if loops and rounds else f"{name}: {loops or 'no'} loop")
generator = np.random.default_rng(0)
scores = jnp.asarray(generator.standard_normal((3, 10 * GROUP)), jnp.float32)
groups = jnp.asarray(generator.integers(0, 10, (3, 4)), jnp.int32)
print("the same scores:", bool((gather(scores, groups) == product(scores, groups)).all()))
PYTHON
TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-1 TPU_WORKER_HOSTNAMES=localhost JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 \
    "$folder/venv/bin/python" "$folder/run.py" 2> "$folder/errors" > "$folder/seen" || { tail -5 "$folder/errors"; exit 1; }
cat "$folder/seen"
diff "$folder/seen" - << 'EXPECTED'
gather: one at a time, 16384 rounds
one-hot product: no loop
the same scores: True
EXPECTED
