"""Reference kNN-NER arithmetic in float64 NumPy: slow, obvious, and the judge of every fast path.

Shapes: Q queries, N datastore rows, D hidden size, C labels.
Similarity is "larger is nearer" for every metric; equal similarities are ordered by the lower row id.
"""

import numpy as np


def similarity(queries, keys, metric):
    """[Q, D], [N, D] -> [Q, N] float64.  metric: cosine | ip | l2 (minus the squared Euclidean distance)."""
    q, k = np.asarray(queries, np.float64), np.asarray(keys, np.float64)
    if metric == "ip":
        return q @ k.T
    if metric == "cosine":

        def unit(x):
            return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)

        return unit(q) @ unit(k).T
    if metric == "l2":
        return -((q[:, None, :] - k[None, :, :]) ** 2).sum(-1)
    raise ValueError(f"metric must be cosine, ip or l2, got {metric!r}")


def search(queries, keys, k, metric="cosine"):
    """The k nearest rows of every query: ids [Q, k], similarities [Q, k], nearest first, ties by row id."""
    s = similarity(queries, keys, metric)
    if not 1 <= k <= s.shape[1]:
        raise ValueError(f"k must be in 1..{s.shape[1]}, got {k}")
    ids = np.argsort(-s, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(s, ids, axis=1)


def vote(similarities, neighbour_labels, num_labels, temperature):
    """p_kNN [Q, C]: softmax of similarity / temperature over the neighbours, summed by label."""
    z = np.asarray(similarities, np.float64) / temperature
    w = np.exp(z - z.max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    p = np.zeros((len(w), num_labels))
    for row, (weights, labels) in enumerate(zip(w, np.asarray(neighbour_labels), strict=True)):
        np.add.at(p[row], labels, weights)
    return p


def interpolate(p_ner, p_knn, knn_weight):
    """knn_weight * p_kNN + (1 - knn_weight) * p_NER."""
    return knn_weight * np.asarray(p_knn, np.float64) + (1.0 - knn_weight) * np.asarray(p_ner, np.float64)


def decide_bound(p_ner, knn_weight):
    """True where no p_kNN whatever can change the arg max: (1 - w) * (top1 - top2) > w.  [Q, C] -> [Q]."""
    top = np.sort(np.asarray(p_ner, np.float64), axis=1)
    return (1.0 - knn_weight) * (top[:, -1] - top[:, -2]) > knn_weight
