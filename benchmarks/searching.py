"""Exact search: ours, FAISS IndexFlatIP and torch mm + topk; `all` against a chunked torch softmax times one-hot.

A peer returns, for every k and for the bare matrix `product`, `seconds` and, on a CPU, `peak_mb` beyond the keys.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from knn_ner_jax.knn import search
from knn_ner_jax.knn.similarity import squared_norms

LABELS = 9
TEMPERATURE = 0.1
CHUNK = search.BLOCK_ROWS  # rows PyTorch compares at a time for `all`, as many as ours
MADE_AT_ONCE = 1024  # keys, which stay in the cache between the steps of making them
JAX_ALIGNMENT = 64  # bytes; an array that begins at a multiple of it becomes a JAX array on CPU without a copy

Workload = tuple[np.ndarray, np.ndarray, np.ndarray]


def _empty(rows: int, dim: int) -> np.ndarray:
    raw = np.empty(rows * dim * 4 + JAX_ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % JAX_ALIGNMENT
    return raw[offset : offset + rows * dim * 4].view(np.float32).reshape(rows, dim)


def workload(rows: int, dim: int, num_queries: int) -> Workload:
    """Make random queries, keys of length 1 and a label for each key; beside the keys nothing of their size is ever held."""
    rng = np.random.default_rng(0)
    keys = _empty(rows, dim)
    for start in range(0, rows, MADE_AT_ONCE):
        chunk = keys[start : start + MADE_AT_ONCE]
        rng.random(dtype=np.float32, out=chunk)
        chunk -= 0.5
        chunk /= np.linalg.norm(chunk, axis=1, keepdims=True)
    queries = keys[rng.integers(0, rows, num_queries)] + 0.05 * rng.standard_normal((num_queries, dim), np.float32)
    return queries.astype(np.float32), keys, rng.integers(0, LABELS, rows).astype(np.int32)


def place(queries: np.ndarray, keys: np.ndarray, labels: np.ndarray) -> tuple[jax.Array, search.Rows]:
    """Put queries and rows on the device."""
    on_device = jax.device_put(keys)
    rows = search.Rows(on_device, jax.jit(squared_norms)(on_device), jax.device_put(labels))
    return jax.block_until_ready((jax.device_put(queries), rows))


def _finite(k: Sequence[int | str]) -> list[int]:
    return [value for value in k if isinstance(value, int)]


def measure(repeats: int, program: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
    """Measure seconds and peak memory of a compiled JAX program."""

    def call() -> None:
        jax.block_until_ready(program(*arguments, **named))

    if jax.default_backend() == "cpu":
        return measuring.on_host(call, repeats)
    peak = program.memory_analysis().temp_size_in_bytes / measuring.MEBIBYTE
    return {"seconds": measuring.seconds(call, repeats), "peak_mb": peak}


def measure_search(repeats: int, queries: jax.Array, rows: search.Rows, k: int | str) -> dict[str, Any]:
    """Compile a search for the k nearest rows or, for `all`, for the vote of all rows; then measure it."""
    temperatures = jnp.float32([TEMPERATURE]) if k == "all" else None
    arguments: dict[str, Any] = {"k": None if k == "all" else k, "num_values": LABELS, "metric": "ip"}
    program = jax.jit(partial(search.search, **arguments)).lower(queries, rows, temperatures=temperatures).compile()
    return measure(repeats, program, queries, rows, temperatures=temperatures)


def ours(repeats: int, rows: int, dim: int, queries: int, k: Sequence[int | str]) -> dict[str, Any]:
    """Measure `search.search` for every k, and XLA's bare product of queries and keys, which bounds it.

    Args:
        repeats: timed calls.
        rows: keys.
        dim: their width.
        queries: looked up at a time.
        k: neighbours, or `all`.
    """
    vectors, on_device = place(*workload(rows, dim, queries))
    results = {f"k={value}": measure_search(repeats, vectors, on_device, value) for value in k}
    product = jax.jit(lambda a, b: jnp.einsum("qd,rd->qr", a, b, precision="highest", preferred_element_type=jnp.float32))
    compiled = product.lower(vectors, on_device.keys).compile()
    return results | {"product": measure(repeats, compiled, vectors, on_device.keys)}


def peak(repeats: int, rows: int, dim: int, queries: int, k: int) -> dict[str, Any]:
    """Measure our search with a single k, for its peak memory."""
    return measure_search(repeats, *place(*workload(rows, dim, queries)), k)


def faiss(repeats: int, rows: int, dim: int, queries: int, k: Sequence[int | str]) -> dict[str, Any]:
    """Measure FAISS's exact inner-product index on CPU; it has no `all`."""
    import faiss

    vectors, keys, _ = workload(rows, dim, queries)
    index = faiss.IndexFlatIP(dim)
    index.add(keys)
    del keys
    return {f"k={value}": measuring.on_host(partial(index.search, vectors, value), repeats) for value in _finite(k)}


def cuvs(repeats: int, rows: int, dim: int, queries: int, k: Sequence[int | str]) -> dict[str, Any]:
    """Measure cuVS's exact inner-product index on a GPU; it has no `all`."""
    import cupy
    from cuvs.neighbors import brute_force

    vectors, keys = (cupy.asarray(array) for array in workload(rows, dim, queries)[:2])
    index = brute_force.build(keys, metric="inner_product")

    def call(value: int) -> None:
        cupy.asnumpy(brute_force.search(index, vectors, value)[1])

    return {f"k={value}": {"seconds": measuring.seconds(partial(call, value), repeats)} for value in _finite(k)}


def pytorch(repeats: int, rows: int, dim: int, queries: int, k: Sequence[int | str]) -> dict[str, Any]:
    """Measure the authors' way: one product, then topk; for `all` a softmax over chunks, so that it fits the same memory."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    vectors, keys, labels = (torch.from_numpy(array).to(device) for array in workload(rows, dim, queries))
    one_hot = torch.nn.functional.one_hot(labels.long(), LABELS).float()
    chunks = list(zip(keys.split(CHUNK), one_hot.split(CHUNK), strict=True))

    def everything() -> torch.Tensor:
        maximum = torch.full((queries, 1), -torch.inf, device=device)
        sums = torch.zeros(queries, LABELS, device=device)
        for chunk, values in chunks:
            scores = (vectors @ chunk.T) / TEMPERATURE
            larger = torch.maximum(maximum, scores.amax(1, keepdim=True))
            sums = sums * torch.exp(maximum - larger) + torch.exp(scores - larger) @ values
            maximum = larger
        return sums / sums.sum(1, keepdim=True)

    def measure(call: Callable[[], Any]) -> dict[str, Any]:
        if device == "cpu":
            return measuring.on_host(call, repeats)

        def wait() -> None:
            call()
            torch.cuda.synchronize()

        return {"seconds": measuring.seconds(wait, repeats)}

    def nearest(a: torch.Tensor, b: torch.Tensor, value: int) -> Any:
        return (a @ b.T).topk(value)

    finite = _finite(k)
    with torch.inference_mode():
        results = {f"k={value}": measure(partial(nearest, vectors, keys, value)) for value in finite}
        if "all" in k:
            results["k=all"] = measure(everything)
    return results
