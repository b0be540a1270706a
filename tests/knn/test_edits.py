"""Edits of a datastore on disk, and of its rows on the devices, beside a list of sentences that is edited alike."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers.edit_process import (
    BUILT,
    BUILT_WORDS,
    DIM,
    MEMORY,
    OTHERS,
    OTHERS_WORDS,
    TYPES,
    add,
    contents,
    expected,
    modelled,
    write_datastore,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from knn_ner_jax import sharding
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.datastore import EditableRows
from knn_ner_jax.knn.memory import History, Memory
from knn_ner_jax.knn.similarity import PADDING

DEVICES = 3
TAGS = ("O", "B-LOC", "I-PER", "B-EVENT", "B-ART", "I-ART")

sentences = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.sampled_from(TAGS), st.lists(st.integers(-3, 3), min_size=DIM, max_size=DIM)
        ),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=3,
)


def on_devices(store, names):
    """The rows, behind which all is padding."""
    is_row = np.asarray(store.squared_norms) != PADDING
    columns = (store.sentence_ids, store.word_ids, store.labels, store.keys)
    sentence_ids, word_ids, labels, keys = (np.asarray(column)[is_row].tolist() for column in columns)
    assert is_row.tolist() == (np.arange(len(is_row)) < int(store.num_rows)).tolist()
    rows = zip(sentence_ids, word_ids, labels, keys, strict=True)
    return [(sentence, word, names[label], key) for sentence, word, label, key in rows]


class Edits(RuleBasedStateMachine):
    """A datastore on disk, its rows on the devices, and a list of sentences; each edit is made of all."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        path = Path(self.folder.name)
        self.path = write_datastore(path / "own", BUILT, BUILT_WORDS)
        self.history = History(self.path)
        self.other, self.sibling = (
            History(write_datastore(path / name, *built))
            for name, built in (("other", (OTHERS, OTHERS_WORDS)), ("sibling", (BUILT, BUILT_WORDS)))
        )
        self.model = modelled(BUILT, BUILT_WORDS)
        self.versions = [copy.deepcopy(self.model)]
        self.next_number = len(BUILT)
        self.others = {"other": modelled(OTHERS, OTHERS_WORDS), "sibling": []}
        version = self.history.at(0)
        mesh = sharding.make_mesh(DEVICES)
        self.rows = EditableRows(lambda *what: self.history.take(*what), version.rows, version.labels, None, mesh)

    def teardown(self):
        self.folder.cleanup()

    def edited(self):
        self.versions.append(copy.deepcopy(self.model))
        version = self.history.at(self.history.version)
        self.rows.change(version.rows, version.labels)

    def named(self, drawn, source):
        """Sentences of a list with words, and in the form that `add` takes."""
        words = [tuple(word for word, _, _ in each) for each in drawn]
        given = [
            (of, [tag for _, tag, _ in each], [[float(x) for x in key] for _, _, key in each])
            for of, each in zip(words, drawn, strict=True)
        ]
        rows = [{i: ([float(x) for x in key], tag) for i, (_, tag, key) in enumerate(each)} for each in drawn]
        return given, [{"words": of, "source": source, "rows": row} for of, row in zip(words, rows, strict=True)]

    def remember(self, new):
        for each in new:
            self.model.append({**copy.deepcopy(each), "number": self.next_number})
            self.next_number += 1

    @rule(drawn=sentences, source=st.sampled_from("xyz"))
    def add(self, drawn, source):
        given, new = self.named(drawn, source)
        edit = add(self.history, given, source)
        assert edit.first_sentence == self.next_number
        self.remember(new)
        self.edited()

    @rule(drawn=sentences, source=st.sampled_from("xyz"), which=st.sampled_from(["other", "sibling"]))
    def teach_another(self, drawn, source, which):
        given, new = self.named(drawn, source)
        edit = add(getattr(self, which), given, source)
        self.others[which] += [{**each, "number": edit.first_sentence + n} for n, each in enumerate(new)]

    @rule(which=st.sampled_from(["other", "sibling"]))
    def merge(self, which):
        def tagged(each):
            return each["words"], [(word, tag) for word, (_, tag) in each["rows"].items()]

        there = [tagged(each) for each in self.model]
        new = [each for each in self.others[which] if tagged(each) not in there]

        def commit():
            return self.history.commit(lambda: self.history.merger(getattr(self, which), None), None)

        if not new:
            with pytest.raises(InputError, match="merge: expected words to store that are not there yet, found none"):
                commit()
            return
        assert commit().sentences == len(new)
        self.remember(new)
        self.edited()

    @rule(source=st.sampled_from("xyz"))
    def remove_a_source(self, source):
        left = [each for each in self.model if each["source"] != source]
        if len(left) in (0, len(self.model)):
            with pytest.raises(InputError, match="remove: expected a s"):
                self.history.removal(source, None)
            return
        edit = self.history.commit(lambda: self.history.removal(source, None), None)
        assert edit.sentences == len(self.model) - len(left)
        self.model = left
        self.edited()

    @rule(data=st.data())
    def remove_sentences(self, data):
        numbers = [each["number"] for each in self.model]
        if len(numbers) == 1:
            return
        chosen = data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=len(numbers) - 1, unique=True))
        self.history.commit(lambda: self.history.removal(None, chosen), None)
        self.model = [each for each in self.model if each["number"] not in chosen]
        self.edited()

    @rule(data=st.data())
    def relabel(self, data):
        words = [(each["number"], word) for each in self.model for word in each["rows"]]
        tags = data.draw(st.dictionaries(st.sampled_from(words), st.sampled_from(TAGS), min_size=1, max_size=3))
        edit = self.history.commit(lambda: self.history.correction(tags), None)
        assert edit.rows == len(tags)
        for each in self.model:
            for word, (key, tag) in each["rows"].items():
                each["rows"][word] = key, tags.get((each["number"], word), tag)
        self.edited()

    @rule(data=st.data())
    def rollback(self, data):
        target = data.draw(st.integers(0, len(self.versions) - 1))
        self.history.commit(lambda: self.history.rollback(target, self.history.version), None)
        self.model = copy.deepcopy(self.versions[target])
        self.edited()

    @rule()
    def open_again(self):
        self.history = History(self.path)
        assert Memory(self.path).verify() == len(expected(self.model))

    @invariant()
    def every_version_is_what_the_list_was(self):
        assert self.history.version == len(self.versions) - 1
        for number, model in enumerate(self.versions):
            assert contents(self.history.stored, self.history.at(number)) == expected(model)
            assert all(self.history.sentences[each["number"]] == (each["words"], each["source"]) for each in model)

    @invariant()
    def the_rows_on_the_devices_are_those_of_the_list(self):
        version = self.history.at(self.history.version)
        assert on_devices(self.rows.datastore, LabelSet(version.types).names) == expected(self.model)

    @invariant()
    def no_type_is_left_that_nothing_has(self):
        extra = self.history.at(self.history.version).types[len(TYPES) :]
        assert not extra or any(tag[2:] == extra[-1] for _, _, tag, _ in expected(self.model))


Edits.TestCase.settings = settings(
    max_examples=25, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestEdits = Edits.TestCase
