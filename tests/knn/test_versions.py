"""Versions of a datastore on disk: who reads and who writes them, what is refused, and what a kill leaves."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import edit_process, oracle
from helpers.edit_process import (
    BUILT,
    BUILT_WORDS,
    MEMORY,
    OTHERS,
    OTHERS_WORDS,
    add,
    contents,
    expected,
    modelled,
    write_datastore,
)

from knn_ner_jax import sharding
from knn_ner_jax.io import InputError
from knn_ner_jax.knn import memory as memory_module
from knn_ner_jax.knn import search, storage
from knn_ner_jax.knn.datastore import WRITE_ROWS, EditableRows
from knn_ner_jax.knn.memory import History, Memory


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield write_datastore(Path(path) / "store", BUILT, BUILT_WORDS)


NEW = [(["Turku", "won"], ["B-LOC", "O"], [[3, 0, 0, 1], [0, 0, 0, 2]]), (["Eurovision"], ["B-EVENT"], [[0, 9, 0, 0]])]


def rows_of(history, devices=1):
    version = history.at(history.version)
    return EditableRows(history.take, version.rows, version.labels, None, sharding.make_mesh(devices))


def changed(rows, history):
    version = history.at(history.version)
    rows.change(version.rows, version.labels)
    return rows.datastore


def arrays(store):
    columns = ("keys", "squared_norms", "labels", "sentence_ids", "word_ids", "num_rows")
    return {name: np.asarray(getattr(store, name)).tobytes() for name in columns}


@pytest.mark.parametrize("devices", [1, 8])
def test_to_add_and_to_remove_leave_the_same_bytes(folder, devices):
    history = History(folder)
    rows, version = rows_of(history, devices), history.at(0)
    before = arrays(rows.datastore)
    add(history, NEW, "news")
    assert arrays(changed(rows, history)) != before
    history.commit(lambda: history.removal("news", None), None)
    assert arrays(changed(rows, history)) == before
    after = history.at(2)
    assert (after.rows.tolist(), after.labels.tolist(), after.types) == (
        version.rows.tolist(), version.labels.tolist(), version.types
    )  # fmt: skip


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("number", [3, WRITE_ROWS + 3])
def test_what_was_removed_is_never_retrieved_and_what_was_added_is(folder, devices, number):
    history = History(folder)
    rows = rows_of(history, devices)
    many = [(["x"], ["B-EVENT"], [[0, 9, 0, n]]) for n in range(number)]
    add(history, many, "many")
    queries = np.float32([[0, 9, 0, 0], [1, 0, 0, 0]])

    def nearest(store, k):
        found = search.search(
            jnp.asarray(queries), store.rows, k=k, metric="ip", mesh=None if devices == 1 else sharding.make_mesh(devices)
        )
        return np.asarray(found.neighbours.ids), np.asarray(found.neighbours.similarities)

    store = changed(rows, history)
    assert int(store.num_rows) == 5 + number
    ids, similarities = nearest(store, 5 + number)
    keys = history.take("keys", np.arange(5 + number))
    np.testing.assert_array_equal((ids, similarities), oracle.search(queries, keys, 5 + number, "ip"))
    history.commit(lambda: history.removal(None, [0, *range(2, 2 + number)]), None)
    store = changed(rows, history)
    ids, similarities = nearest(store, 4)
    assert np.asarray(store.word_ids)[ids[0, :3]].tolist() == [2, 0, 1]
    assert set(np.asarray(store.sentence_ids)[ids[:, :3]].ravel().tolist()) == {1}
    assert (similarities[:, 3] == -np.inf).all()


def test_rows_that_come_back_stand_in_their_order(folder):
    history = History(folder)
    rows = rows_of(history)
    history.commit(lambda: history.removal(None, [0]), None)
    changed(rows, history)
    history.commit(lambda: history.rollback(0, 1), None)
    assert np.asarray(changed(rows, history).sentence_ids)[:5].tolist() == [0, 0, 1, 1, 1]


def test_rows_have_the_same_shape_until_the_room_is_used_up(folder):
    history = History(folder)
    rows = rows_of(history)
    room = len(rows.datastore.labels)
    assert room == 5 + 1024
    add(history, [(["x"], ["O"], [[0, 0, 0, 0]])] * 1024, "all of it")
    assert len(changed(rows, history).labels) == room
    add(history, NEW, "more")
    assert len(changed(rows, history).labels) == 5 + 1024 + 3 + 1024


def test_who_edits_is_in_the_log_where_they_say_so(folder, monkeypatch):
    memory = Memory(folder)
    monkeypatch.delenv("KNN_NER_WHO", raising=False)
    assert memory.relabel({(0, 0): "O"}).who is None
    assert memory.relabel({(0, 0): "B-LOC"}, who="Aino").who == "Aino"
    monkeypatch.setenv("KNN_NER_WHO", "a desk")
    assert memory.remove(ids=[0]).who == "a desk"
    assert [edit.who for edit in Memory(folder).log()] == [None, "Aino", "a desk"]
    assert [(edit.version, edit.action, edit.sentences, edit.rows) for edit in memory.log()] == [
        (1, "relabel", 1, 1), (2, "relabel", 1, 1), (3, "remove", 1, 2)
    ]  # fmt: skip
    assert all(edit.when.endswith("+00:00") for edit in memory.log())


def test_who_reads_keeps_the_version_and_who_edits_goes_on_from_the_newest(folder):
    reader, one, two = History(folder), History(folder), Memory(folder)
    add(one, NEW, "one")
    two.relabel({(2, 0): "B-PER"})  # a sentence that `two` had not seen
    add(one, NEW, "again")
    assert [edit.action for edit in Memory(folder).log()] == ["add", "relabel", "add"]
    assert reader.version == 0
    assert contents(reader.stored, reader.at(0)) == expected(modelled(BUILT, BUILT_WORDS))
    newest = History(folder)
    assert [row[:3] for row in contents(newest.stored, newest.at(3))[5:]] == [
        (2, 0, "B-PER"), (2, 1, "O"), (3, 0, "B-EVENT"), (4, 0, "B-LOC"), (4, 1, "O"), (5, 0, "B-EVENT")
    ]  # fmt: skip


def test_no_rollback_undoes_what_nobody_has_seen(folder):
    one, two = Memory(folder), Memory(folder)
    two.remove(ids=[0])
    with pytest.raises(InputError, match=r"rollback: expected version 0 to be the newest, found 1; see the log first"):
        one.rollback(0)
    assert len(one.log()) == 1
    assert one.rollback(0).target == 0


def test_an_edit_that_fails_leaves_the_version_before_and_the_next_goes_on(folder, monkeypatch):
    memory = Memory(folder)
    memory.relabel({(0, 0): "O"})
    write_json = memory_module.write_json

    def full(path, content):
        if path.name == "log.json":
            raise OSError(28, "No space left on device")
        write_json(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(memory_module, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            memory.remove(ids=[0])
    assert len(Memory(folder).log()) == 1
    memory.remove(ids=[1])
    assert Memory(folder).verify() == 2


@pytest.mark.parametrize("name", ["edit-00001.safetensors", "edit-00001.json"])
def test_an_edit_that_could_not_be_read_once_is_read_later(folder, name):
    reader = History(folder)
    add(History(folder), NEW, "one")
    hidden = (folder / name).rename(folder / "hidden")
    with pytest.raises((storage.DatastoreError, OSError)):
        reader.refresh()
    assert contents(reader.stored, reader.at(reader.version)) == expected(modelled(BUILT, BUILT_WORDS))
    hidden.rename(folder / name)
    reader.refresh()
    add(reader, NEW, "two")
    newest = History(folder)
    assert contents(reader.stored, reader.at(2)) == contents(newest.stored, newest.at(2))
    assert len(contents(reader.stored, reader.at(2))) == 5 + 3 + 3


@pytest.mark.parametrize("name", ["sentences.jsonl", "rows-00001.safetensors", "edit-00001.safetensors", "edit-00001.json"])
def test_a_damaged_file_is_named(folder, name):
    add(History(folder), NEW, "news")
    memory = Memory(folder)
    assert memory.verify() == 8
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(storage.DatastoreError, match=rf"{name}: damaged: expected SHA-256 \w+, found \w+"):
        memory.verify()
    path.unlink()
    with pytest.raises(storage.DatastoreError, match=rf"{name}: expected a file with SHA-256"):
        memory.verify()


def test_a_datastore_that_was_built_again_is_not_edited_as_if_it_were_the_first(folder):
    memory = Memory(folder)
    memory.remove(ids=[0])
    (folder / "log.json").unlink()
    with pytest.raises(storage.DatastoreError, match="expected the datastore that was opened, found another; load it again"):
        memory.log()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda memory: memory.remove(), "remove: expected a source, or numbers of sentences"),
        (lambda memory: memory.remove(source="news"), r"remove: expected a source of .* \(none\) .*, got news"),
        (lambda memory: memory.remove(ids=[0, 7, 9]), r"remove: .* sentences stored, got 7, 9"),
        (lambda memory: memory.remove(ids=[]), r"remove: .* got no number"),
        (lambda memory: memory.remove(ids=[0, 1]), "remove: expected a sentence to be left, got all"),
        (lambda memory: memory.relabel({}), "relabel: expected words with their tags, got none"),
        (
            lambda memory: memory.relabel({(0, 0): "S-X"}),
            "relabel: sentence 0, word 0: expected O, B-TYPE or I-TYPE, got 'S-X'",
        ),
        (lambda memory: memory.relabel({(0, 5): "O"}), "relabel: expected a word that is stored, got word 5 of sentence 0"),
        (lambda memory: memory.rollback(1), "version: expected 0 to 0, got 1"),
        (lambda memory: memory.rollback(-1), "version: expected 0 to 0, got -1"),
        (lambda memory: memory.add([(["x"], ["O"])], "x"), "add: expected a loaded tagger"),
    ],
)
def test_what_cannot_be_edited_is_refused_in_one_line_and_leaves_no_trace(folder, edit, message):
    memory = Memory(folder)
    with pytest.raises(InputError, match=message) as error:
        edit(memory)
    assert "\n" not in str(error.value)
    assert memory.log() == ()
    assert not list(folder.glob("edit-*"))


def test_a_datastore_of_another_tagger_is_not_merged(folder, tmp_path):
    other = write_datastore(tmp_path / "other", OTHERS, OTHERS_WORDS)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["fingerprint"]["weights"] = "v" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    history = History(folder)
    with pytest.raises(storage.DatastoreError, match=r"weights: the datastore has v+, this run has w+"):
        history.merger(History(other), None)


def start(folder: Path, name: str, edits: int) -> subprocess.Popen:
    paths = os.pathsep.join([str(Path(edit_process.__file__).parents[2]), *sys.path])
    command = [sys.executable, edit_process.__file__, str(folder), name, str(edits)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths})


@pytest.mark.slow
def test_processes_that_edit_at_the_same_time_lose_nothing(folder):
    processes = [start(folder, name, 25) for name in "pq"]
    acknowledged = [process.communicate(timeout=300)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(map(int, itertools.chain(*acknowledged))) == list(range(1, 51))
    history = History(folder)
    assert {(words[0], source) for words, source in history.sentences.added.values()} == {("p", "p"), ("q", "q")}
    for name in "pq":
        assert [words[1] for words, source in history.sentences.added.values() if source == name] == [
            str(n) for n in range(25)
        ]
    assert Memory(folder).verify() == 5 + 2 * 50


@pytest.mark.slow
def test_no_edit_that_was_acknowledged_is_lost_to_a_kill(folder):
    rng, acknowledged = random.Random(0), 0
    for _ in range(6):
        process = start(folder, "p", 10**6)
        line = process.stdout.readline()
        assert int(line) > acknowledged  # it goes on where the one before was killed
        time.sleep(rng.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        lines = [line, *process.communicate(timeout=300)[0].splitlines(keepends=True)]
        acknowledged = max(int(each) for each in lines if each.endswith("\n"))
        assert process.returncode == -signal.SIGKILL
        edits = Memory(folder).log()
        assert len(edits) in (acknowledged, acknowledged + 1)  # one more that was killed before it could say so
        assert Memory(folder).verify() == 5 + 2 * len(edits)
        acknowledged = len(edits)
