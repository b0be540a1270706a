"""Which words of a test hang on rounding. Neighbours, votes and labels of real numbers are compared where they do not.

Two float32 computations of one similarity may differ, because devices, processors and batch shapes sum in other orders. The
bound is that of an inner product, (width + 8) * 2^-24 to either side, twice where sums are truncated; most of it is left for
hidden states that are themselves rounded otherwise, which a tiny encoder moves by less than 2^-20 of their length.
"""

import numpy as np

from helpers import oracle

SLACK = 1e-5  # of a difference of probabilities


def rounding_of_width(width):
    """How far two computations of a cosine of so many numbers may lie apart."""
    return (width + 8) * 2.0**-22


def rounding(queries, keys, metric="cosine"):
    """[Q] how far two computations of one similarity may lie apart; two of a query change places only within twice that."""
    norms = np.linalg.norm(np.asarray(queries, np.float64), axis=1)
    longest = np.linalg.norm(np.asarray(keys, np.float64), axis=1).max()
    scale = {"cosine": np.ones_like(norms), "ip": norms * longest, "l2": (norms + longest) ** 2}[metric]
    return rounding_of_width(np.shape(queries)[1]) * scale


def clear_order(similarities, k, error):
    """[Q] whether the k nearest rows are the same, in the same order, whatever rounding does.

    similarities: [Q, N] to all rows; error: [Q] of `rounding`.
    """
    nearest = -np.sort(-similarities, axis=1)[:, : k + 1]
    return (-np.diff(nearest, axis=1) > 2 * error[:, None]).all(axis=1)


def clear_labels(mixed, similarities, row_labels, error, k, temperature, knn_weight):
    """[Q] whether the arg max of p(y) is the same whatever rounding does.

    mixed: [Q, C] p(y) in float64; similarities: [Q, N] to all rows; row_labels: [N] or [Q, N]; error: [Q] of `rounding`.
    """
    best = np.sort(mixed, axis=1)
    margins = best[:, -1] - best[:, -2]
    similarities, k = np.asarray(similarities, np.float64), similarities.shape[1] if k == "all" else k
    row_labels = np.broadcast_to(row_labels, similarities.shape)
    order = np.argsort(-similarities, axis=1, kind="stable")
    # Every weight of a vote is multiplied by at most exp(error / temperature), and so is their sum.
    change = np.expm1(2 * error / temperature)
    for word, (row_similarities, rows) in enumerate(zip(similarities, order, strict=True)):
        nearest, threshold = row_similarities[rows], row_similarities[rows[k - 1]]
        exchangeable = rows[np.abs(nearest - threshold) <= 2 * error[word]]
        if k == len(rows) or threshold - nearest[k] > 2 * error[word]:
            continue
        # The last of the voters may give way to another row as near, of the same label or of another.
        weights = np.exp((nearest[:k] - nearest[0]) / temperature)
        lost = weights[nearest[:k] <= threshold + 2 * error[word]].sum() / weights.sum()
        one_label = len(set(row_labels[word, exchangeable].tolist())) == 1
        change[word] = np.expm1(6 * error[word] / temperature) if one_label else change[word] + 2 * lost
    return margins > SLACK + knn_weight * change


def clear_words(knn_tagger, split, knn_params):
    """[words] whether the label of each word of a split is the same whatever rounding does; cosine alone."""
    cache = knn_tagger.retrieve(split, knn_tagger.num_rows, "cosine")
    k = knn_tagger.num_rows if knn_params.k == "all" else knn_params.k
    voters = cache.similarities[:, :k], cache.neighbour_labels[:, :k]
    p_knn = oracle.vote(*voters, len(knn_tagger.label_set), knn_params.temperature)
    mixed = oracle.interpolate(cache.p_ner, p_knn, knn_params.knn_weight)
    error = np.full(split.num_words, rounding_of_width(knn_tagger.stored.datastore.keys.shape[1]))
    assert knn_params.metric == "cosine"
    rest = knn_params.k, knn_params.temperature, knn_params.knn_weight
    return clear_labels(mixed, cache.similarities, cache.neighbour_labels, error, *rest)
