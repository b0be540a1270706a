"""Small datastores for tests: built in a folder, built and loaded, or put together from arrays."""

import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from knn_ner_jax import sharding
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit, Window
from knn_ner_jax.knn import build as building
from knn_ner_jax.knn import datastore, storage
from knn_ner_jax.knn.datastore import ROW_COLUMNS
from knn_ner_jax.models.bert import BertConfig

FINGERPRINT = storage.Fingerprint(
    weights="w" * 64,
    tokenizer="t" * 64,
    layers=(2,),
    whitening_dim=None,
    subwords="first",
    max_length=64,
    dtype="float32",
    key_dtype="float32",
)
SENTENCES = b'["Paris"]\n\n["in", "Rome"]\n'  # whatever the rows are
SOURCE = storage.Source("corpus/train.conll", "5" * 64, ("LOC", "PER"), 0.5, 3, False)
SHAPE = BertConfig(
    vocab_size=40,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=32,
    initializer_range=0.5,
)
LABELS = 5


def random_split(seed, sentences):
    """Windows of 5 to 14 tokens, a word at about every other one."""
    rng = np.random.default_rng(seed)
    windows, sentence_ids, word_ids, slot = [], [], [], 0
    for sentence in range(sentences):
        length = rng.integers(5, 15)
        is_word = rng.random(length) < 0.6
        is_word[1], is_word[[0, -1]] = True, False
        word_index = np.full(length, NO_WORD, np.int32)
        words = int(is_word.sum())
        word_index[is_word] = slot + np.arange(words)
        windows.append(Window(rng.integers(0, SHAPE.vocab_size, length).astype(np.int32), word_index))
        sentence_ids += [sentence] * words
        word_ids += range(words)
        slot += words
    columns = (np.array(column, np.int32) for column in (sentence_ids, word_ids, rng.integers(0, LABELS, slot)))
    return EncodedSplit(tuple(windows), *columns, 0, 0)


def make_plan(shard_rows=1000, batch_size=8, pad_to_multiple_of=8, **how):
    return storage.Plan(replace(FINGERPRINT, **how), SOURCE, shard_rows, batch_size, pad_to_multiple_of)


def build(tagger, params, split, *, layers, whitening_dim, batch_size, mesh, shard_rows=1000, key_dtype="float32"):
    """Builds in a folder that is gone afterwards, and loads."""
    # Padded so that most splits are of one batch shape, which is compiled once.
    plan = make_plan(shard_rows, batch_size, 32, layers=layers, whitening_dim=whitening_dim, key_dtype=key_dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "datastore"
        params = jax.device_put(params, sharding.replicated(mesh))
        building.build_datastore(path, tagger, params, split, SENTENCES, plan, mesh)
        return storage.load(path, plan.fingerprint, mesh).datastore


def assemble(keys, labels, sentence_ids, word_ids, projection, mesh):
    """Puts arrays of rows on the mesh as a datastore."""
    columns = dict(zip(ROW_COLUMNS, (keys, labels, sentence_ids, word_ids), strict=True))
    return datastore.place(lambda name, start, stop: columns[name][start:stop], len(keys), projection, mesh)
