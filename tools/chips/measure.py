"""Run the programs of `tools.chips` on the devices that are there, and write their times beside what was estimated.

    python -m tools.chips.measure [TEXT ...] [--minutes 5]

Parameters, keys and words are made up; so nearly every word asks the border, and many all rows. How many did is counted, and
estimates are for as many. A file for each kind of device goes to benchmarks/results/chips_measured.
"""

import argparse
import inspect
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from knn_ner_jax import sharding
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.knn.inference import RetrievalSpec, Retrieved
from tools.chips import programs
from tools.chips.page import MEASURED, read_results

REPEATS = 5
KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
}
_VALUES = {"temperature": 0.1, "knn_weight": 0.5, "squared_norms": 1.0, "segments": 1}
_VALUES |= {"temperatures": 0.1, "knn_weights": 0.5}
_RANGES = {"token_ids": 512, "labels": programs.LABELS, "values": programs.LABELS}


def _make(arguments: tuple[Any, ...], names: list[str]) -> tuple[Any, ...]:
    """Make arrays of such shapes and shardings; what stands for words has as many words as tokens have."""

    def array(path: Any, leaf: Any) -> jax.Array:
        name = re.findall(r"\w+", jax.tree_util.keystr(path))[-1]
        name = names[int(name)] if name.isdigit() else name
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if name in _VALUES or leaf.dtype == jnp.bool_:
            return jnp.full(leaf.shape, _VALUES.get(name, 0), leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return 0.03 * jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype)
        numbers = jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape)
        if name == "word_index" and leaf.ndim == 2:
            return jnp.where(numbers % 13 < 13 * programs.WORDS_A_TOKEN, numbers % programs.SPLIT_WORDS, NO_WORD)
        return numbers % _RANGES.get(name, 1)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments)
    return jax.jit(lambda: jax.tree_util.tree_map_with_path(array, arguments), out_shardings=shardings)()


def rounds_of_tag(counts: Sequence[tuple[int, int]], spec: RetrievalSpec, border: bool) -> list[float]:
    """Return the rounds of the loops of `tag` in one call, on average: words wait from call to call until they fill a block.

    Args:
        counts: words that were looked up among the border, and among all rows, until the end of each call.
        spec: what `tag` was compiled for.
        border: whether the border was asked.
    """
    at_border, searched = ((last - first) / (len(counts) - 1) for first, last in zip(counts[0], counts[-1], strict=True))
    return [*([at_border / spec.query_rows] if border else []), searched / spec.rest_rows]


def rounds_of_retrieve(result: Retrieved, spec: RetrievalSpec, border_rows: int) -> list[float] | None:
    """Return the rounds of the loops of `retrieve` in a call: each device gives as many words, or void ones, to a block.

    Args:
        result: of the call.
        spec: what `retrieve` was compiled for.
        border_rows: rows of the border that is asked first; 0 without one. Its rows are numbered from 0, too, so that a word
            that asked all rows is one with a neighbour beyond these. None is returned where no neighbours tell.
    """
    is_word = np.asarray(result.word_index) != NO_WORD
    neighbours = result.result.neighbours
    if border_rows and neighbours is None:
        return None
    asked = [(is_word, spec.query_rows)]
    if border_rows and neighbours is not None:
        asked += [(is_word & (np.asarray(neighbours.ids) >= border_rows).any(axis=1), spec.rest_rows)]
    by_device = [(words.reshape(spec.num_devices, -1).sum(axis=1), rows // spec.num_devices) for words, rows in asked]
    return [float(np.ceil(words / max(rows, 1)).max()) for words, rows in by_device]


def measure(spec: programs.Spec, mesh: Mesh, platform: str) -> dict[str, Any]:
    """Return the seconds of several calls of a program, and of `tag` and `retrieve` the rounds of their loops in one."""
    call = programs.make_call(spec, mesh, platform)
    names = list(inspect.signature(call.function).parameters)
    arguments = _make(call.arguments, names)
    program = call.function.lower(*call.arguments, **call.static).compile()
    seconds, counts = [], []
    for _ in range(REPEATS + 1):
        jax.block_until_ready(arguments)
        started = time.perf_counter()
        result = jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - started)
        if call.carried is not None:
            arguments = (call.carried(result), *arguments[1:])
        if spec.job == "tag":
            counts.append((int(result.at_border), int(result.searched)))
    rounds = None
    if spec.job == "tag":
        rounds = rounds_of_tag(counts, call.static["spec"], spec.border)
    elif spec.job == "retrieve":
        border_rows = len(call.arguments[-1].border.rows.values) if spec.border else 0
        rounds = rounds_of_retrieve(result, call.static["spec"], border_rows)
    return {"seconds": seconds[1:], "rounds": rounds}


def estimated_ms(result: dict[str, Any], rounds: list[float] | None) -> float:
    """Return what a program was estimated to take, with as many rounds of its loops as there were."""
    default = [loop["rounds"][-1] for loop in result["loops"]]
    return result["fixed_ms"] + sum(
        n * loop["ms_a_round"] for n, loop in zip(rounds or default, result["loops"], strict=True)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the file after each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["-base-"], help="texts that a program's name holds")
    parser.add_argument("--minutes", type=float, default=5, help="programs that have not begun by then are left out")
    parser.add_argument("--tiny", action="store_true", help="small ones, which show that everything runs")
    parser.add_argument("--folder", type=Path, default=MEASURED)
    arguments = parser.parse_args(argv)
    until = time.monotonic() + 60 * arguments.minutes
    device, mesh = jax.devices()[0], sharding.make_mesh()
    if device.platform == "cpu" and not arguments.tiny:
        remedy = "install JAX for the device as docs/scaling.md says, or measure small programs with --tiny"
        sys.exit(f"measure: JAX's devices: expected a GPU or TPU, found only a CPU: {remedy}")
    kind = next((name for text, name in KINDS.items() if device.device_kind.startswith(text)), "")
    results, estimates = {}, read_results()
    chosen = programs.TINY if arguments.tiny else [spec for spec, _ in programs.choose(False, arguments.names)]
    if not chosen:
        sys.exit(f"measure: expected texts that `python -m tools.chips` knows names with, got {' '.join(arguments.names)}")
    for spec in chosen:
        if spec.name in results or time.monotonic() > until:
            continue
        result = measure(spec, mesh, device.platform)
        known = [one for one in estimates.get((f"{kind}-{mesh.size}", spec.name), []) if "loops" in one]
        result["estimated_ms"] = estimated_ms(known[-1], result["rounds"]) if known else None
        results[spec.name] = result
        print(
            f"{spec.name}: {1e3 * statistics.median(result['seconds']):.1f} ms, estimated {result['estimated_ms']}",
            flush=True,
        )
        arguments.folder.mkdir(parents=True, exist_ok=True)
        path = arguments.folder / f"{re.sub('[^a-z0-9]+', '_', device.device_kind.lower())}_{mesh.size}.json"
        described = {"device": device.device_kind, "devices": mesh.size, "jax": jax.__version__, "programs": results}
        path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
