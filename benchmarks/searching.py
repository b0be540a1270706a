"""Exact search: ours, FAISS IndexFlatIP and torch mm + topk; `all` against a chunked torch softmax times one-hot."""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROWS, DIM, QUERIES, LABELS = 200_000, 768, 256, 9
K = (8, 64, 1024)
TEMPERATURE = 0.1
TORCH_CHUNK = 16384  # rows at a time, as many as ours
MEGABYTE = 2**20


def workload() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit-length random keys and queries, so that similarities are cosines, and a label for each key."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((ROWS, DIM), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    queries = keys[rng.integers(0, ROWS, QUERIES)] + 0.05 * rng.standard_normal((QUERIES, DIM), np.float32)
    return queries.astype(np.float32), keys, rng.integers(0, LABELS, ROWS).astype(np.int32)


def _memory(field: str) -> float:
    """A field of this process's memory status in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status: expected a field {field}, found none")


def _settled_memory() -> float:
    """MB this process holds, once what it has freed is given back, which takes a while after a transfer to the device."""
    gc.collect()
    held = [_memory("VmRSS")]
    while len(held) < 4 or max(held[-4:]) - min(held[-4:]) > 1:
        ctypes.CDLL(None).malloc_trim(0)
        time.sleep(0.5)
        held.append(_memory("VmRSS"))
    return held[-1]


def measure(search: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds of several runs after a warm-up, and the peak memory of all of them beyond what was held before."""
    before = _settled_memory()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    search()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        search()
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "peak_mb": _memory("VmHWM") - before}


def ours(repeats: int) -> dict[str, Any]:
    """`search.top_k`, `search.search` for `all`, and XLA's bare product, which bounds both."""
    from functools import partial

    import jax
    import jax.numpy as jnp

    from knn_ner_jax.knn import search
    from knn_ner_jax.knn.similarity import squared_norms

    queries, keys, labels = workload()
    queries, keys, labels = jax.block_until_ready(jax.device_put((queries, keys, labels)))
    results = {}
    for k in K:
        results[f"k={k}"] = measure(lambda k=k: jax.block_until_ready(search.top_k(queries, keys, k, metric="ip")), repeats)
    rows = jax.block_until_ready(search.Rows(keys, jax.jit(squared_norms)(keys), labels, jnp.int32(ROWS)))
    everything = jax.jit(partial(search.search, metric="ip", num_values=LABELS))
    temperatures = jnp.float32([TEMPERATURE])
    results["k=all"] = measure(lambda: jax.block_until_ready(everything(queries, rows, temperatures=temperatures)), repeats)
    product = jax.jit(lambda queries, keys: jnp.matmul(queries, keys.T, precision="highest"))
    results["product"] = measure(lambda: product(queries, keys).block_until_ready(), repeats)
    return results


def faiss(repeats: int) -> dict[str, Any]:
    """FAISS's exact inner-product index."""
    import faiss

    queries, keys, _ = workload()
    index = faiss.IndexFlatIP(DIM)
    index.add(keys)
    del keys
    return {f"k={k}": measure(lambda k=k: index.search(queries, k), repeats) for k in K}


def pytorch(repeats: int) -> dict[str, Any]:
    """The authors' way: one product, then topk; for `all` a softmax over chunks, so that it fits the same memory."""
    import torch

    queries, keys, labels = workload()
    queries, keys = torch.from_numpy(queries), torch.from_numpy(keys)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), LABELS).float()

    def everything() -> torch.Tensor:
        maximum, sums = torch.full((QUERIES, 1), -torch.inf), torch.zeros(QUERIES, LABELS)
        for chunk, values in zip(keys.split(TORCH_CHUNK), one_hot.split(TORCH_CHUNK), strict=True):
            scores = (queries @ chunk.T) / TEMPERATURE
            larger = torch.maximum(maximum, scores.amax(1, keepdim=True))
            sums = sums * torch.exp(maximum - larger) + torch.exp(scores - larger) @ values
            maximum = larger
        return sums / sums.sum(1, keepdim=True)

    with torch.inference_mode():
        results = {f"k={k}": measure(lambda k=k: (queries @ keys.T).topk(k), repeats) for k in K}
        results["k=all"] = measure(everything, repeats)
    return results
