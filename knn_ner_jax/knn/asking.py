"""Who can be asked for the label of a word: panels of some rows, which are not always sure, and all rows."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from knn_ner_jax.knn import retrieval, scouts
from knn_ner_jax.knn.retrieval import Retrieval
from knn_ner_jax.knn.rows import Rows
from knn_ner_jax.knn.scouts import Panel
from knn_ner_jax.knn.search import Found
from knn_ner_jax.knn.vote import interpolate, knn_probabilities
from knn_ner_jax.knn.words import Said, Words


def _again(found: Found, words: Words) -> Bool[Array, " words"]:
    return jnp.zeros(len(words.slots), bool) if found.uncertified is None else found.uncertified


def ask_panel(
    panel: Panel, words: Words, temperature: Float[Array, ""], knn_weight: Float[Array, ""], settings: Retrieval
) -> Said:
    """The labels that a panel is sure of.

    Args:
        panel: some rows of a datastore; with `k: all` one that leaves out rows of the usual tag alone.
        words: any.
        temperature: of the vote.
        knn_weight: of the mix.
        settings: what to compile for.
    """
    if settings.k == "all":
        found = retrieval.search(words.queries, panel.rows, temperature[None], None, settings)
        said = scouts.vote_of_all(found.shares[0], panel, words.queries, temperature, settings.metric)  # type: ignore[index]
    else:
        wanted = min(settings.k + 1, len(panel.rows.values))
        found = retrieval.search(words.queries, panel.rows, None, wanted, settings, settings.scan)
        args = panel, words.queries, temperature, settings.num_labels, settings.metric
        said = scouts.vote(found.neighbours, settings.k, *args)  # type: ignore[arg-type]
    return Said(scouts.settle(words.p_ner, said, panel, knn_weight), _again(found, words))


def ask_all(
    rows: Rows, words: Words, temperature: Float[Array, ""], knn_weight: Float[Array, ""], settings: Retrieval
) -> Said:
    """The labels with the largest p(y) by the vote of all rows (paper, equations 3 and 4)."""
    if settings.k == "all":
        found = retrieval.search(words.queries, rows, temperature[None], None, settings)
        p_knn = found.shares[0]  # type: ignore[index]
    else:
        found = retrieval.search(words.queries, rows, None, min(settings.k, len(rows.values)), settings, settings.scan)
        near = found.neighbours
        p_knn = knn_probabilities(near.similarities, near.values, settings.num_labels, temperature)  # type: ignore[union-attr]
    return Said(interpolate(words.p_ner, p_knn, knn_weight).argmax(axis=1), _again(found, words))
