"""Exact nearest neighbours among your own vectors: `python examples/exact_search.py`."""

import numpy as np

import knn_ner_jax as kn


def main(num_keys: int = 100_000, dim: int = 64, k: int = 5) -> None:
    """Search random keys for copies of some of them, to which a little noise was added; each query must find its own key."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((num_keys, dim)).astype(np.float32)
    rows = np.array([3, 1_000, num_keys - 1])
    queries = keys[rows] + 0.1 * rng.standard_normal((len(rows), dim)).astype(np.float32)
    similarities, ids = kn.top_k(queries, keys, k, metric="cosine")
    for row, near, nearest_ids in zip(rows, np.asarray(similarities), np.asarray(ids), strict=True):
        print(f"key {row}: {', '.join(f'{i} ({s:.3f})' for i, s in zip(nearest_ids, near, strict=True))}")
        assert nearest_ids[0] == row


if __name__ == "__main__":
    main()
