"""Datastores of integers on disk, and edits of them; run as a script, a process that edits until it is done or killed.

    python edit_process.py FOLDER SOURCE EDITS

adds a sentence under SOURCE so many times, and prints each version once it has been acknowledged.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.io import file_sha256, sync_and_hash
from knn_ner_jax.knn import storage
from knn_ner_jax.knn.memory import History

DIM = 4
TYPES = ("LOC", "PER")
HOW = storage.Fingerprint("w" * 64, "t" * 64, (2,), None, "first", 64, "float32", "float32")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where syncing does not wait for a disk
BUILT = [
    [([1.0, 0, 0, 0], "B-LOC"), ([0, 1.0, 0, 0], "O")],
    [([0, 0, 1.0, 0], "B-PER"), ([0, 0, 2.0, 0], "I-PER"), ([1.0, 1, 0, 0], "O")],
]
BUILT_WORDS = [("a", "b"), ("b", "a", "a")]
OTHERS = [[([5.0, 0, 0, 0], "B-LOC"), ([0, 5.0, 0, 1], "O")], [([7.0, 0, 2, 0], "O")]]
OTHERS_WORDS = [("Oslo", "is"), ("so",)]


def modelled(built, words):
    """Sentences as the list has them."""
    return [
        {"number": n, "words": words[n], "source": "corpus/train.conll", "rows": {i: row for i, row in enumerate(rows)}}
        for n, rows in enumerate(built)
    ]


def contents(stored, version):
    """The rows of a version as they are on disk: number and word of a sentence, tag, key."""
    names, take = LabelSet(version.types).names, stored.take
    places = zip(take("sentence_ids", version.rows).tolist(), take("word_ids", version.rows).tolist(), strict=True)
    keys = take("keys", version.rows).tolist()
    return [(*place, names[label], key) for place, label, key in zip(places, version.labels, keys, strict=True)]


def expected(model):
    """The rows that a list of sentences has."""
    return [(each["number"], word, tag, key) for each in model for word, (key, tag) in each["rows"].items()]


def write_datastore(
    folder: Path, sentences: list[list[tuple[list[float], str]]], texts: list[tuple[str, ...]], shard_rows: int = 3
) -> Path:
    """Writes sentences of keys and tags, and of words, as they were built: one file for so many rows."""
    folder.mkdir(parents=True)
    ids = LabelSet(TYPES).ids()
    rows = [(key, ids[tag], n, word) for n, words in enumerate(sentences) for word, (key, tag) in enumerate(words)]
    shards = []
    for number, start in enumerate(range(0, len(rows), shard_rows)):
        part = rows[start : start + shard_rows]
        path = folder / storage.shard_name(number)
        columns = storage.create_shard(path, len(part), storage.KeyFormat(DIM, "float32"))
        for name, values in zip(("keys", "labels", "sentence_ids", "word_ids"), zip(*part, strict=True), strict=True):
            columns[name][:] = values
        shards.append(storage.ShardFile(path.name, len(part), sync_and_hash(path))._asdict())
    source = storage.Source("corpus/train.conll", "5" * 64, TYPES, 1.0, 0, True)
    manifest = storage.Plan(HOW, source, shard_rows, 8, 8).describe(len(rows), DIM)
    (folder / storage.SENTENCES).write_text("".join(json.dumps(words) + "\n" for words in texts), encoding="utf-8")
    files = {"sentences": file_sha256(folder / storage.SENTENCES), "projection": None, "shards": shards}
    (folder / storage.MANIFEST).write_text(json.dumps(manifest | files))
    return folder


def add(history: History, sentences, source: str):
    """Adds sentences: of each the words, and the tag and the key of every word."""
    names = tuple(sorted({tag for _, tags, _ in sentences for tag in tags}))
    columns = {
        "keys": np.concatenate([np.float32(keys) for _, _, keys in sentences]),
        "labels": np.array([names.index(tag) for _, tags, _ in sentences for tag in tags], np.int32),
        "sentence_ids": np.array([n for n, (words, _, _) in enumerate(sentences) for _ in words], np.int32),
        "word_ids": np.array([n for words, _, _ in sentences for n in range(len(words))], np.int32),
    }
    named = [(tuple(words), source) for words, _, _ in sentences]
    return history.commit(lambda: history.addition("add", named, columns, names), None)


if __name__ == "__main__":
    folder, name, edits = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    opened = History(folder)
    for number in range(edits):
        edit = add(opened, [([name, str(number)], ["B-PER", "O"], np.full((2, DIM), number))], name)
        print(edit.version, flush=True)
    assert asdict(replace(opened.edits[-1])) == asdict(edit)
