#!/usr/bin/env bash
# JAX 0.10.2 on CPU: jax.nn.gelu(x, approximate=False) does not compute the formula of its documentation,
# x/2 (1 + erf(x / sqrt 2)), but erfc. XLA has no short form of erfc on CPU: it evaluates two approximations, an exponential and
# a division for every number and selects among them. By erf, as PyTorch computes it, the same function is 5 operations of the
# compiled program instead of 61, as near to float64, and took 1.4 ms instead of 3.4 on two cores with AVX-512 (3 million
# numbers). One would expect the library's own function to be the fast one.
#
# Seen with Python 3.11 (the times go to standard error, and are not compared):
#   jax.nn.gelu: 61 operations, error below 1e-6: True
#   by erf: 5 operations, error below 1e-6: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/run.py" << 'PYTHON'
import math
import re
import sys
import time

import jax
import numpy as np

x = np.random.default_rng(0).normal(size=(2048, 1536)).astype(np.float32)
some = x.ravel()[:20_000]
exact = np.array([v / 2 * math.erfc(-v / math.sqrt(2)) for v in some.astype(np.float64)])


def by_erf(x):
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


for name, function in (("jax.nn.gelu", lambda x: jax.nn.gelu(x, approximate=False)), ("by erf", by_erf)):
    compiled = jax.jit(function).lower(x).compile()
    body = compiled.as_text().split("ENTRY")[0]
    operations = len(re.findall(r" = f32\S* (?!parameter|constant|broadcast)", body))
    error = abs(np.asarray(function(some), np.float64) - exact).max()
    given, times = jax.device_put(x), []
    for _ in range(15):
        start = time.perf_counter()
        compiled(given).block_until_ready()
        times.append(time.perf_counter() - start)
    print(f"{name}: {operations} operations, error below 1e-6: {error < 1e-6}")
    print(f"{name}: {sorted(times)[7] * 1e3:.1f} ms", file=sys.stderr)
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/run.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/seen" - << 'EXPECTED'
jax.nn.gelu: 61 operations, error below 1e-6: True
by erf: 5 operations, error below 1e-6: True
EXPECTED
