"""Building a datastore on disk beside the bare forward pass over the same batches; random weights and random tokens."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks import measuring
from knn_ner_jax import sharding
from knn_ner_jax.data.batching import Batch, placed_batches, plan_evaluation
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit, Window
from knn_ner_jax.knn import build, storage
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.tagger import Params, Tagger

NUM_LABELS, BATCH_SIZE, LENGTH_MULTIPLE = 9, 32, 8
VOCABULARY, LONGEST = 30522, 64
SHARD_ROWS = 65_536
WORDS = 0.75  # share of the tokens that begin a word, as in news text
ENCODERS = {
    "tiny": BertConfig(VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
    "MiniLM-L6": BertConfig(
        VOCABULARY, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "BERT-base": BertConfig(
        VOCABULARY, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    ),
}


def workload(sentences: int) -> EncodedSplit:
    """Make sentences of 8 to 64 random tokens, special ones included."""
    rng = np.random.default_rng(0)
    windows, sentence_ids, word_ids = [], [], []
    for sentence in range(sentences):
        length = int(rng.integers(8, LONGEST + 1))
        is_word = rng.random(length) < WORDS
        is_word[1], is_word[[0, -1]] = True, False
        word_index = np.full(length, NO_WORD, np.int32)
        word_index[is_word] = len(word_ids) + np.arange(is_word.sum())
        windows.append(Window(rng.integers(0, VOCABULARY, length).astype(np.int32), word_index))
        sentence_ids += [sentence] * int(is_word.sum())
        word_ids += range(int(is_word.sum()))
    labels = rng.integers(0, NUM_LABELS, len(word_ids)).astype(np.int32)
    return EncodedSplit(tuple(windows), np.array(sentence_ids, np.int32), np.array(word_ids, np.int32), labels, 0, 0)


def make_plan(tagger: Tagger) -> storage.Plan:
    """Plan a datastore of float32 keys of the last layer, as eval.py stores them."""
    layers = (tagger.config.num_hidden_layers,)
    how = storage.Fingerprint("random", "random", layers, None, "first", LONGEST, tagger.dtype, "float32")
    return storage.Plan(how, storage.Source("random", "random", (), 1.0, 0, True), SHARD_ROWS, BATCH_SIZE, LENGTH_MULTIPLE)


def build_datastore(tagger: Tagger, params: Params, split: EncodedSplit, mesh: Mesh) -> None:
    """Build a datastore as eval.py does, synced to the disk, and delete it."""
    with tempfile.TemporaryDirectory() as folder:
        build.build_datastore(Path(folder) / "datastore", tagger, params, split, make_plan(tagger), mesh)


def ours(repeats: int, sentences: int, encoder: str, dtype: str) -> dict[str, Any]:
    """Time building a datastore, and in turn a jitted forward pass over batches that are on the device already.

    Args:
        repeats: timed builds.
        sentences: to encode.
        encoder: one of `ENCODERS`.
        dtype: of its arithmetic.
    """
    mesh, split = sharding.make_mesh(), workload(sentences)
    tagger = Tagger(ENCODERS[encoder], NUM_LABELS, dtype)
    params = jax.device_put(tagger.init(jax.random.key(0)), sharding.replicated(mesh))
    plans = plan_evaluation(split.lengths, BATCH_SIZE, LENGTH_MULTIPLE)
    on_device: list[Batch] = list(placed_batches(split, plans, mesh))
    forward = jax.jit(lambda params, batch: tagger(params, batch.token_ids, batch.segments).logits)
    calls = {
        "forward": lambda: jax.block_until_ready([forward(params, batch) for batch in on_device]),
        "build": lambda: build_datastore(tagger, params, split, mesh),
    }
    return {"tokens": int(split.lengths.sum()), **measuring.interleaved_seconds(calls, repeats)}
