"""A run under the authors' protocol: pieces are stored, searched, written and scored, and the numbers are the oracle's."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import margins, oracle
from helpers.evaluated_run import use_devices

import knn_ner_jax as kn
from knn_ner_jax import cli
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tag_schemes import wang2022_spans
from knn_ner_jax.data.tokenization import NO_WORD, encode
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import interpolate, knn_probabilities


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 2)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_corpus, settings):
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("wang2022")
    shutil.copytree(tiny_corpus, folder / "corpus")
    changed = ("--protocol=wang2022", "--train.epochs=3", "--knn.k=[4,all]", "--knn.temperature=0.1", "--knn.prune=false")
    names = [argument.partition("=")[0] for argument in changed]
    arguments = [*changed, *(setting for setting in settings if setting.partition("=")[0] not in names)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("train", "eval"):
            cli.run(name, f"{name}.py", arguments)
    return folder


@pytest.fixture(scope="module")
def knn_tagger(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        return kn.load(run / "run")


def prf(pairs):
    right = sum(len(set(there) & set(found)) for there, found in pairs)
    found, there = (sum(len(side) for side in sides) for sides in zip(*(pair[::-1] for pair in pairs), strict=True))
    precision, recall = 100 * right / max(found, 1), 100 * right / there
    return [precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)]


def test_the_scores_are_those_of_the_predictions_file_by_the_rules(run):
    found = json.loads((run / "run" / "eval.json").read_text())
    assert found["protocol"] == "wang2022"
    for split in ("dev", "test"):
        blocks = (run / "run" / "predictions" / f"{split}.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
        sentences = [list(zip(*(line.split("\t") for line in block.split("\n")), strict=True)) for block in blocks]
        assert all(token not in ("[CLS]", "[SEP]") for tokens, *_ in sentences for token in tokens)
        assert any(token.startswith("##") for tokens, *_ in sentences for token in tokens)
        for column, method in ((2, "tagger"), (3, "knn")):
            expected = prf([(wang2022_spans(columns[1]), wang2022_spans(columns[column])) for columns in sentences])
            scores = found[split][method]
            assert [scores[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected, rel=1e-6, abs=1e-6)
            assert "f1_default" not in scores
    dev_trials = {trial["f1"] for trial in found["trials"]}
    assert found["selected_dev_f1"] == max(dev_trials) == pytest.approx(found["dev"]["knn"]["f1"], rel=1e-6)


def test_special_tokens_are_stored_as_outside(run, knn_tagger):
    model, store = knn_tagger.model, knn_tagger.stored.datastore
    train = encode(
        read_corpus(DataConfig(f"{run}/corpus")).train.sentences, model.tokenizer, model.max_length, knn_tagger.label_set
    )
    rows = int(store.num_rows)
    assert rows == train.num_words
    special = np.asarray(store.word_ids)[:rows] == NO_WORD
    assert special.sum() == 2 * (train.sentence_ids[-1] + 1)
    assert not np.asarray(store.labels)[:rows][special].any()
    prefixes = {knn_tagger.label_set.names[label][0] for label in np.asarray(store.labels)[:rows]}
    assert prefixes == set("OBMES")


@pytest.mark.parametrize("k", [4, "all"])
def test_vote_and_mix_are_the_oracles(run, knn_tagger, k):
    model, store = knn_tagger.model, knn_tagger.stored.datastore
    dev = encode(
        read_corpus(DataConfig(f"{run}/corpus")).dev.sentences, model.tokenizer, model.max_length, knn_tagger.label_set
    )
    cache = knn_tagger.retrieve(dev, k, "cosine", [0.1] if k == "all" else None, with_ids=k != "all")
    forward = jax.jit(model.tagger)
    queries = np.zeros((dev.num_words, store.keys.shape[1]), np.float32)
    for window in dev.windows:
        ids, mask = np.zeros((1, model.max_length), np.int32), np.arange(model.max_length)[None] < len(window.token_ids)
        ids[0, : len(window.token_ids)] = window.token_ids
        speaks = window.word_index != NO_WORD
        state = np.asarray(forward(knn_tagger.params, ids, mask).hidden_states[-1])[0, : len(window.word_index)]
        queries[window.word_index[speaks]] = state[speaks]
    rows = int(store.num_rows)
    keys, labels, num_labels = np.asarray(store.keys)[:rows], np.asarray(store.labels)[:rows], len(knn_tagger.label_set)
    error, similarities = margins.rounding(queries, keys)[:, None], oracle.similarity(queries, keys, "cosine")
    if k == "all":
        ids, p_knn = np.tile(np.arange(rows), (dev.num_words, 1)), cache.knn_probs[0]
    else:
        ids = cache.neighbour_ids
        p_knn = knn_probabilities(jnp.asarray(cache.similarities), jnp.asarray(cache.neighbour_labels), num_labels, 0.1)
        # Words lie close together: a row may take the place of another that is as near but for rounding.
        nearest = oracle.search(queries, keys, k)[1]
        assert (abs(np.take_along_axis(similarities, ids, axis=1) - nearest) <= 2 * error).all()
        np.testing.assert_array_equal(cache.neighbour_labels, labels[ids])
    expected = oracle.vote(np.take_along_axis(similarities, ids, axis=1), labels[ids], num_labels, 0.1)
    tolerance = np.expm1(2 * error / 0.1)
    assert (abs(p_knn - expected) <= tolerance).all()
    mixed = interpolate(jnp.asarray(cache.p_ner), jnp.asarray(p_knn), 0.4)
    assert (abs(mixed - oracle.interpolate(cache.p_ner, expected, 0.4)) <= 0.4 * tolerance + 1e-6).all()


def test_plain_text_is_refused(knn_tagger):
    with pytest.raises(InputError, match="protocol: expected a run with words, got wang2022"):
        knn_tagger.tag("Paris")
