"""The training words behind a datastore: which are stored, before it is built; what a row stood for, when one is found.

A datastore holds numbers only. What a person wants to see of a neighbour, the word in its sentence, is read again from the
file that the datastore was built from, which must not have changed since.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from knn_ner_jax.config import Config, DataConfig
from knn_ner_jax.data.corpus import Corpus, Split, parse, read_train, reading
from knn_ner_jax.data.tables import is_hub
from knn_ner_jax.data.tag_schemes import OUTSIDE, LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit, encode
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import Cache
from knn_ner_jax.knn.storage import Source, Stored
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
    source = Source(
        str(split.path), split.sha256, label_set.types, fraction, config.seed, settings.include_o, reading(config.data)
    )
    return DatastoreExamples(split, source, numbers, encoded, label_set)


@dataclass(frozen=True)
class Neighbour:
    """A training word that is near a query.

    Attributes:
        similarity: to the query.
        label: the tag it is stored with.
        word: the training word.
        before: at most `CONTEXT` words of its sentence before it.
        after: likewise after it.
        cut: whether its sentence has more words before `before`, and after `after`.
    """

    similarity: float
    label: str
    word: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    cut: tuple[bool, bool]


def read_source_words(source: Source) -> list[tuple[str, ...]]:
    """Read the words of every sentence of the file that a datastore was built from.

    Tags are not looked at, because each row has its label: neither the scheme nor warnings about bad lines matter here.

    Raises:
        InputError: the file is gone or has changed.
    """
    path = Path(source.path)
    if not is_hub(path) and not path.exists():
        raise InputError(
            f"{path}: expected the file the datastore was built from, found none; start in the folder that this path is "
            "relative to, or put the file back"
        )
    parsed = parse(path, DataConfig("", **source.reading))
    if parsed.sha256 != source.sha256:
        raise InputError(
            f"{path}: changed since the datastore was built: expected SHA-256 {source.sha256}, got {parsed.sha256}"
        )
    return [tuple(row.word for row in rows) for rows in parsed.sentences]


def neighbour_in_sentence(words: tuple[str, ...], word_id: int, label: str, similarity: float) -> Neighbour:
    """Return a word of a sentence as a neighbour, with the words around it.

    >>> neighbour_in_sentence(("in", "Paris", "."), 1, "B-LOC", 0.9)
    Neighbour(similarity=0.9, label='B-LOC', word='Paris', before=('in',), after=('.',), cut=(False, False))
    """
    before, after = words[max(0, word_id - CONTEXT) : word_id], words[word_id + 1 : word_id + 1 + CONTEXT]
    cut = word_id > CONTEXT, word_id + CONTEXT + 1 < len(words)
    return Neighbour(similarity, label, words[word_id], before, after, cut)


def _take(sentence_ids: Array, word_ids: Array, rows: Array) -> Int[Array, "2 rows"]:
    return jnp.stack([sentence_ids[rows], word_ids[rows]])


class DatastoreText:
    """The sentences behind the rows of a datastore.

    Args:
        stored: the datastore and its source.
        label_names: of the label ids.

    Raises:
        InputError: the file it was built from is gone or has changed.
    """

    def __init__(self, stored: Stored, label_names: tuple[str, ...]):
        self._sentences = read_source_words(stored.source)
        self._names = label_names
        store = stored.datastore
        # Looked up on the devices, because no host need hold all rows.
        take = jax.jit(_take, out_shardings=store.num_rows.sharding)
        self._take = partial(take, store.sentence_ids, store.word_ids)

    def neighbours(self, cache: Cache, word_index: int, count: int) -> tuple[Neighbour, ...]:
        """Return the nearest training words of a word, nearest first.

        Args:
            cache: of a search that returned neighbours and their ids.
            word_index: position of the word in the split that was searched for.
            count: how many to return; fewer where the search returned fewer.
        """
        if cache.similarities is None or cache.neighbour_labels is None or cache.neighbour_ids is None:
            raise ValueError("cache: expected neighbours with their ids, got none")
        columns = cache.neighbour_ids, cache.neighbour_labels, cache.similarities
        ids, labels, similarities = (column[word_index, :count] for column in columns)
        sentence_ids, word_ids = np.asarray(self._take(ids))
        return tuple(
            neighbour_in_sentence(self._sentences[sentence_id], word_id, self._names[label], float(similarity))
            for sentence_id, word_id, label, similarity in zip(sentence_ids, word_ids, labels, similarities, strict=True)
        )
