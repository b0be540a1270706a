#!/usr/bin/env bash
# jax2onnx 0.17.1, the converter of JAX functions to ONNX that is kept up: three programs that jax.jit runs and it refuses, and
# one that it converts into a model that onnxruntime 1.32.0 refuses to load. A jax.lax.fori_loop may use what stands around it
# and end where an input says; the converter wants all that its body uses among what is carried, and an end that is known. The
# positions that jnp.nonzero finds for each row come of a scatter that it has no pattern for. A running maximum of integers
# becomes MaxPool, which ONNX has for floats (and bytes) alone. One would expect the model, or a refusal that names the line.
#
# Seen with Python 3.11, jax 0.10.2:
#   fori_loop, all that its body uses carried: as JAX
#   fori_loop, its body uses an array from outside: TracerArrayConversionError: The numpy
#   fori_loop, its end depends on an input: TracerArrayConversionError: The numpy
#   cummax of integers: InvalidGraph: [ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model. Type Err
#   cummax of floats: as JAX
#   nonzero under vmap: NotImplementedError: scatter pattern not supported in plugins
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q jax==0.10.2 jaxlib==0.10.2 jax2onnx==0.17.1 onnxruntime==1.32.0
cat > "$folder/run.py" << 'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from jax2onnx import to_onnx

NUMBERS = np.arange(4, dtype=np.int32)


def seen(name, function):
    expected = np.asarray(function(NUMBERS))
    try:
        model = to_onnx(function, [jax.ShapeDtypeStruct((4,), jnp.int32)])
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found = session.run(None, {session.get_inputs()[0].name: NUMBERS})[0]
        print(f"{name}: {'as JAX' if np.array_equal(found, expected) else f'{found.tolist()}, JAX {expected.tolist()}'}")
    except Exception as error:
        text = str(error).split(".")[0] if "Tracer" in type(error).__name__ else str(error).split("failed:")[-1]
        print(f"{name}: {type(error).__name__}: {text.splitlines()[0][:110]}")


def loop_over(body, end):
    return jax.lax.fori_loop(0, end, body, jnp.int32(0))


seen("fori_loop, all that its body uses carried", lambda x: jax.lax.fori_loop(0, 3, lambda i, c: (c[0] + i, c[1]), (jnp.int32(0), x))[0])
seen("fori_loop, its body uses an array from outside", lambda x: loop_over(lambda i, c: c + x[0] + i, 3))
seen("fori_loop, its end depends on an input", lambda x: loop_over(lambda i, c: c + i, x[3]))
seen("cummax of integers", lambda x: jax.lax.cummax(x))
seen("cummax of floats", lambda x: jax.lax.cummax(x.astype(jnp.float32)))
seen("nonzero under vmap", lambda x: jax.vmap(lambda row: jnp.nonzero(row, size=2)[0])(x.reshape(2, 2) > 1))
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/run.py" | cut -c1-110 > "$folder/seen"
cat "$folder/seen"
diff "$folder/seen" - << 'EXPECTED'
fori_loop, all that its body uses carried: as JAX
fori_loop, its body uses an array from outside: TracerArrayConversionError: The numpy
fori_loop, its end depends on an input: TracerArrayConversionError: The numpy
cummax of integers: InvalidGraph: [ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model. Type Err
cummax of floats: as JAX
nonzero under vmap: NotImplementedError: scatter pattern not supported in plugins
EXPECTED
