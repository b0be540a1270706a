"""A panel of rows is asked about words, a block of words at a time."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Int

from knn_ner_jax.knn import retrieval, scouts
from knn_ner_jax.knn.retrieval import Retrieval
from knn_ner_jax.knn.scouts import UNSURE, Panel
from knn_ner_jax.knn.words import Waiting, Words, joined, label_full_blocks, put


class Answer(NamedTuple):
    """What a panel said of some words.

    Attributes:
        words: those that waited, then those of the batch.
        labels: or `UNSURE`.
        done: of which words it was asked.
        waiting: those that did not fill a block.
    """

    words: Words
    labels: Int[Array, " words"]
    done: Bool[Array, " words"]
    waiting: Waiting

    @property
    def unsettled(self) -> Bool[Array, " words"]:
        """Asked in vain."""
        return self.done & (self.labels == UNSURE)

    def put(self, labels: Int[Array, " all"]) -> Int[Array, " all"]:
        """Writes those that are settled among the labels of a split."""
        return put(labels, self.words.slots, self.labels, self.done & (self.labels != UNSURE))


def ask(
    panel: Panel,
    waiting: Waiting,
    words: Words,
    asked: Bool[Array, " words"],
    traced: tuple[Array, ...],
    settings: Retrieval,
) -> Answer:
    """Asks a panel about as many words as fill whole blocks.

    Args:
        panel: some rows of a datastore; with `k: all` one that leaves out rows of the usual tag alone.
        waiting: words that have to be asked about and did not fill a block.
        words: of a batch.
        asked: which of them to ask about.
        traced: temperature, knn_weight, and whether also to ask about a block that is not full.
        settings: what to compile for.
    """
    temperature, knn_weight, last = traced

    def label(block: Words) -> Int[Array, "rows 1"]:
        if settings.k == "all":
            shares = retrieval.search(block.queries, panel.rows, temperature[None], None, settings).shares
            said = scouts.vote_of_all(shares[0], panel, block.queries, temperature, settings.metric)  # type: ignore[index]
        else:
            wanted = min(settings.k + 1, len(panel.rows.values))
            near = retrieval.search(block.queries, panel.rows, None, wanted, settings, settings.scan).neighbours
            args = panel, block.queries, temperature, settings.num_labels, settings.metric
            said = scouts.vote(near, settings.k, *args)  # type: ignore[arg-type]
        return scouts.settle(block.p_ner, said, panel, knn_weight)[:, None]

    words, asked = joined(waiting, words, asked)
    said, done, waiting = label_full_blocks(label, words, asked, last, settings.query_rows)
    return Answer(words, said[:, 0], done, waiting)
