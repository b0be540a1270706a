"""The text behind a datastore: the words of every sentence that has rows, by its number, and cut around a word."""

from pathlib import Path

import numpy as np
import pytest
from helpers import stores
from hypothesis import given
from hypothesis import strategies as st

from knn_ner_jax.data.corpus import Split
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.io import file_sha256
from knn_ner_jax.knn.examples import CONTEXT, DatastoreExamples, neighbour_in_sentence
from knn_ner_jax.knn.storage import DatastoreError, StoredSentences

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)


def stored(folder, content):
    (folder / "sentences.jsonl").write_bytes(content)
    manifest = {"sentences": file_sha256(folder / "sentences.jsonl"), "source": {"path": "train.conll"}}
    return StoredSentences(folder, manifest)


@given(st.lists(st.tuples(st.booleans(), st.lists(words, min_size=1, max_size=4)), min_size=1, max_size=9), st.data())
def test_the_words_of_every_sentence_with_rows_are_found_by_its_number(tmp_path_factory, drawn, data):
    """Whatever characters they are of (ends of lines, quotes), and whichever sentences were drawn."""
    first = data.draw(st.integers(0, 5))
    numbers = np.arange(first, first + 2 * len(drawn), 2, dtype=np.int32)
    has_rows = np.array([has for has, _ in drawn])
    has_rows[data.draw(st.integers(0, len(drawn) - 1))] = True
    rows = numbers[has_rows]
    split = Split(Path("train.conll"), tuple(Sentence(tuple(text), ("O",) * len(text), 1) for _, text in drawn))
    encoded = EncodedSplit((), rows, np.zeros_like(rows), np.zeros_like(rows), 0, 0)
    examples = DatastoreExamples(split, stores.SOURCE, numbers, encoded, LabelSet(()))
    sentences = stored(tmp_path_factory.mktemp("store"), examples.sentence_lines)
    assert [sentences[number] for number in rows.tolist()] == [
        (tuple(text), "train.conll") for (_, text), has in zip(drawn, has_rows, strict=True) if has
    ]


def test_sentences_are_read_when_first_asked_for_and_a_damaged_file_is_named(tmp_path):
    sentences = stored(tmp_path, stores.SENTENCES)
    sentences.added[4] = ("Emu",), "birds"
    (tmp_path / "sentences.jsonl").write_bytes(stores.SENTENCES.replace(b"Paris", b"Turku"))
    assert sentences[4] == (("Emu",), "birds")
    with pytest.raises(DatastoreError, match=r"sentences\.jsonl: damaged: expected SHA-256"):
        sentences[0]


def test_a_sentence_is_cut_where_it_has_more_words_than_are_shown():
    words = tuple(map(str, range(2 * CONTEXT + 2)))
    for word, cut in ((0, (False, True)), (CONTEXT, (False, True)), (CONTEXT + 1, (True, False))):
        near = neighbour_in_sentence(words, word, "O", 0.5)
        assert (*near.before, near.word, *near.after) == words[max(0, word - CONTEXT) : word + CONTEXT + 1]
        assert near.cut == cut
    assert neighbour_in_sentence(words[: 2 * CONTEXT + 1], CONTEXT, "O", 0.5).cut == (False, False)
