"""The training words behind a datastore: which are stored, before it is built; what a row stood for, when one is found.

The words of their sentences are stored beside the rows, so that a neighbour can be shown where the corpus is not.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Int

from knn_ner_jax.config import Config
from knn_ner_jax.data.corpus import Corpus, Split, read_train
from knn_ner_jax.data.tag_schemes import OUTSIDE, LabelSet
from knn_ner_jax.data.tokenization import ALL_SUBWORDS, EncodedSplit, encode, tokenizer_fingerprint
from knn_ner_jax.entities import Neighbour
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import Cache
from knn_ner_jax.knn.datastore import resolve_layers
from knn_ner_jax.knn.storage import Fingerprint, Source, Stored
from knn_ner_jax.run_dir import TrainedModel

CONTEXT = 5  # words of a neighbour's sentence that are shown on either side


@dataclass(frozen=True)
class DatastoreExamples:
    """The training words that a datastore is built from.

    Attributes:
        split: the sentences drawn from a file.
        source: the record of that file and of the draw that the datastore keeps.
        numbers: position of each sentence of `split` in the whole file, ascending.
        encoded: the words to store; their sentence ids are such positions, whatever was drawn.
        label_set: the labels the words are stored with.
    """

    split: Split
    source: Source
    numbers: Int[np.ndarray, " sentences"]
    encoded: EncodedSplit
    label_set: LabelSet

    @property
    def sentence_lines(self) -> bytes:
        """The content of the datastore's file of sentences (see `storage.StoredSentences`)."""
        stored = set(self.encoded.sentence_ids.tolist())
        lines = [""] * (1 + max(stored))
        for number, sentence in zip(self.numbers.tolist(), self.split.sentences, strict=True):
            if number in stored:
                lines[number] = json.dumps(sentence.words, ensure_ascii=False)
        return "".join(f"{line}\n" for line in lines).encode()


def read_datastore_corpus(config: Config) -> Split:
    """Read the train file of `datastore.corpus`."""
    return read_train(config.datastore.corpus or "", config.data, "datastore.corpus")


def select_datastore_examples(config: Config, corpus: Corpus, model: TrainedModel) -> DatastoreExamples:
    """Select and encode what a datastore stores: words of the train file of the corpus, or of `datastore.corpus`.

    Args:
        config: `config.datastore` says which words.
        corpus: the whole corpus, before a fraction is drawn.
        model: encodes the words.

    Raises:
        InputError: there is no such file, or no word to store in it.
    """
    settings, split, fraction = config.datastore, corpus.train, config.data.train_fraction
    if settings.corpus is not None:
        split, fraction = read_datastore_corpus(config), 1.0
    fraction = settings.fraction or fraction
    split, numbers = split.draw(fraction, config.seed)
    label_set = model.label_set.union(LabelSet.of(sentence.tags for sentence in split.sentences))
    encoded = encode(split.sentences, model.tokenizer, model.max_length, label_set, model.pinyin, settings.subwords == "all")
    if not settings.include_o:
        encoded = encoded.select(encoded.label_ids != label_set.ids()[OUTSIDE])
    if not encoded.num_words:
        raise InputError(f"datastore.include_o: expected an entity among the {len(numbers)} sentences stored, found none")
    encoded = replace(encoded, sentence_ids=numbers[encoded.sentence_ids])
    source = Source(str(split.path), split.sha256, label_set.types, fraction, config.seed, settings.include_o)
    return DatastoreExamples(split, source, numbers, encoded, label_set)


def fingerprint_of(config: Config, model: TrainedModel, weights: str) -> Fingerprint:
    """Return how a run makes keys with weights of this hash."""
    settings = config.datastore
    all_subwords = settings.subwords == "all" or model.label_set.protocol == "wang2022"
    return Fingerprint(
        weights=weights,
        tokenizer=tokenizer_fingerprint(model.tokenizer, model.pinyin),
        layers=resolve_layers(settings.layers, model.tagger.config.num_hidden_layers),
        whitening_dim=settings.whitening_dim,
        subwords=ALL_SUBWORDS[model.label_set.protocol] if all_subwords else "first",
        max_length=model.max_length,
        dtype=model.tagger.dtype,
        key_dtype=settings.key_dtype,
    )


def neighbour_in_sentence(
    words: tuple[str, ...], word_id: int, label: str, similarity: float, sentence_id: int = -1
) -> Neighbour:
    """Return a word of a sentence as a neighbour, with the words around it.

    >>> near = neighbour_in_sentence(("in", "Paris", "."), 1, "B-LOC", 0.9)
    >>> near.before, near.word, near.after, near.cut
    (('in',), 'Paris', ('.',), (False, False))
    """
    before, after = words[max(0, word_id - CONTEXT) : word_id], words[word_id + 1 : word_id + 1 + CONTEXT]
    cut = word_id > CONTEXT, word_id + CONTEXT + 1 < len(words)
    return Neighbour(similarity, label, words[word_id], before, after, cut, sentence_id, word_id)


def _take(sentence_ids: Array, word_ids: Array, rows: Array) -> Int[Array, "2 rows"]:
    return jnp.stack([sentence_ids[rows], word_ids[rows]])


@cache
def _taker(sharding: Sharding) -> Callable[[Array, Array, Array | np.ndarray], Array]:
    return jax.jit(_take, out_shardings=sharding)


class DatastoreText:
    """The sentences behind the rows of a datastore.

    Args:
        stored: the datastore.
        label_names: of the label ids.
    """

    def __init__(self, stored: Stored, label_names: tuple[str, ...]) -> None:
        self._sentences, self._names = stored.sentences, label_names
        store = stored.datastore
        # Looked up on the devices, because no host need hold all rows.
        self._take = partial(_taker(store.num_rows.sharding), store.sentence_ids, store.word_ids)

    def neighbours(self, cache: Cache, word_index: int, count: int) -> tuple[Neighbour, ...]:
        """Return the nearest training words of a word, nearest first.

        Args:
            cache: of a search that returned neighbours and their ids.
            word_index: position of the word in the split that was searched for.
            count: how many to return; fewer where the search returned fewer.

        Raises:
            DatastoreError: the file of the sentences is damaged.
        """
        if cache.similarities is None or cache.neighbour_labels is None or cache.neighbour_ids is None:
            raise ValueError("cache: expected neighbours with their ids, got none")
        labels, similarities = (column[word_index, :count] for column in (cache.neighbour_labels, cache.similarities))
        # All that were found are looked up, so that nothing is compiled for another number of them.
        sentence_ids, word_ids = np.asarray(self._take(cache.neighbour_ids[word_index]))[:, :count]
        return tuple(
            neighbour_in_sentence(self._sentences[sentence][0], word, self._names[label], float(similarity), sentence)
            for sentence, word, label, similarity in zip(
                sentence_ids.tolist(), word_ids.tolist(), labels, similarities, strict=True
            )
        )
