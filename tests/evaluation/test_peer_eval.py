"""The evaluation written by hand computes what ours does."""

from pathlib import Path

import numpy as np
import torch
import transformers
from helpers.parity import WHOLE

from benchmarks import peer_eval, peer_train
from knn_ner_jax import KnnTagger
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.knn.combine import KnnParams, labels_by_vote
from knn_ner_jax.main import export

assert torch  # named for conftest.py, which skips this file where it is missing

TEMPERATURE = 0.1


def test_probabilities_and_the_vote_of_all_rows_are_ours(
    knn_tagger: KnnTagger, evaluated: Path, tmp_path: Path, window: int
):
    export.main([str(evaluated / "run"), str(tmp_path / "tagger")])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tagger")
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "tagger").eval()
    first_words = [words[:6] for words, _ in peer_train.read_columns(evaluated / "corpus", "test")]  # fit one window
    sentences = [(words, ["O"] * len(words)) for words in first_words]
    assert max(len(ids) for ids, _ in peer_train.tokenize(tokenizer, sentences)) <= window
    encoded = peer_eval.encode(model, tokenizer, sentences, 3)
    split = knn_tagger.encode([Sentence(tuple(words), tuple(tags), 0) for words, tags in sentences], knn_tagger.label_set)
    setting = KnnParams(k="all", temperature=TEMPERATURE, knn_weight=0.5, metric="cosine")
    ours = labels_by_vote(knn_tagger.retrieve_for(split, setting), setting)
    np.testing.assert_allclose(encoded.probabilities, ours.p_ner, rtol=0, atol=WHOLE)

    stored = knn_tagger.stored.datastore
    keys, labels = (np.asarray(array)[: knn_tagger.num_rows] for array in (stored.keys, stored.labels))
    keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    similarities, ids = peer_eval.Search(keys.astype(np.float32), "torch")(encoded.states, len(keys))
    p_knn = peer_eval.vote(similarities, labels[ids], TEMPERATURE, len(knn_tagger.label_set))
    # Where no similarity moves by more than d, no weight of a softmax moves by more than a factor of exp(2 d / temperature).
    np.testing.assert_allclose(p_knn, ours.p_knn, rtol=0, atol=np.expm1(2 * WHOLE / TEMPERATURE))
