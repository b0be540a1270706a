"""A trained tagger with its datastore: both ways to label agree, and text is tagged as brute force says."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import margins, oracle

import knn_ner_jax as kn
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import Sentence, read_corpus
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.data.words import split_words
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import KnnParams, labels_by_vote
from knn_ner_jax.knn.examples import CONTEXT
from knn_ner_jax.knn_tagger import KnnTagger

COSINE_ERROR = 2 * margins.rounding_of_width(32)  # queries are computed twice here, the keys once more
ONE = KnnParams("cosine", 1, 0.1, 1.0)


def vote_error(temperature: float) -> float:
    """How far probabilities may be apart whose similarities differ by `COSINE_ERROR`: each weight by a factor of at most
    exp(2 COSINE_ERROR / temperature)."""
    return float(np.expm1(2 * COSINE_ERROR / temperature))


def decided(mixed: np.ndarray, similarities: np.ndarray | None, params: KnnParams) -> np.ndarray:
    """The words whose label two computations must agree on: no near tie of probabilities, nor of the last neighbour."""
    first, second = np.sort(mixed)[:, :-3:-1].T
    is_decided = first - second > 2 * vote_error(params.temperature)
    if params.k != "all":
        is_decided &= similarities[:, params.k - 1] - similarities[:, params.k] > 2 * COSINE_ERROR
    return is_decided


SCRIPTS = (
    "Angela Merkel met Nokia's Risto Siilasmaa (in Helsinki).",
    "🙂 Ann-Lee  visited\u3000Rome\t, didn't she?",
    "मैं दिल्ली में रहता हूँ। नरेन्द्र मोदी",
    "สมชายอยู่ที่เชียงใหม่ 北京大学 東京タワー",
    "מֹשֶׁה גר בחיפה. صلاح الدين في القاهرة",
    "e\u0301tude a\u200db \x00x \u202eabc\u202c",
)


@pytest.fixture(scope="module")
def training(evaluated):
    """Words and tags of the training sentences."""
    blocks = (evaluated / "corpus" / "train.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
    sentences = [[line.split("\t") for line in block.split("\n")] for block in blocks]
    return [([word for word, _ in rows], [tag for _, tag in rows]) for rows in sentences]


def test_entities_of_a_text_are_exact_slices_of_it(knn_tagger: KnnTagger):
    everything = replace(knn_tagger, knn_params=ONE)  # neighbours alone name more entities
    results = everything.tag(SCRIPTS)
    assert sum(len(result.entities) for result in results) > 2
    for text, result in zip(SCRIPTS, results, strict=True):
        assert result.text == text
        for entity in result.entities:
            assert entity.word == text[entity.start : entity.end] == entity.word.strip()
            words = result.words[slice(*entity.words)]
            assert "".join(entity.word.split()) == "".join("".join(words).split())
    for result in results:
        (tokens,) = everything.tag([list(result.words)])
        assert tokens.text == " ".join(result.words)
        for entity in tokens.entities:
            assert entity.word == tokens.text[entity.start : entity.end] == " ".join(result.words[slice(*entity.words)])


def test_a_record_keeps_its_fields_and_an_empty_text_its_place(knn_tagger: KnnTagger, training):
    words = training[0][0]
    given = [{"tokens": words, "id": 7}, "", {"text": " ".join(words), "ner_tags": []}, [], words]
    results = replace(knn_tagger, knn_params=ONE).tag(given)
    assert [result.fields for result in results] == [{"id": 7}, {"text": ""}, given[2], {}, {}]
    assert [len(result.words) for result in results] == [len(words), 0, len(words), 0, len(words)]
    assert results[0].entities == results[2].entities == results[4].entities != ()
    record = json.loads(json.dumps(results[2].to_dict()))
    assert record["text"] == " ".join(words)
    assert record["ner_tags"] == list(results[2].labels)
    assert knn_tagger.tag([]) == []
    assert knn_tagger.tag(given[0]) == knn_tagger.tag([given[0]])


def test_the_size_of_batches_changes_no_label(knn_tagger: KnnTagger):
    expected = [result.labels for result in knn_tagger.tag(SCRIPTS)]
    assert [result.labels for result in knn_tagger.tag(SCRIPTS, batch_size=1)] == expected
    with pytest.raises(InputError, match="batch_size: expected at least 1, got 0"):
        knn_tagger.tag(SCRIPTS, batch_size=0)


@pytest.mark.parametrize("k", [4, "all"])
def test_labels_of_the_compiled_pass_are_those_voted_from_a_search_of_every_word(knn_tagger: KnnTagger, k):
    params = KnnParams("cosine", k, 0.1, 0.6)
    split = knn_tagger.encode(read_corpus(DataConfig("corpus")).test.sentences)
    retrieved = knn_tagger.retrieve_for(split, params, num_neighbours=5)
    fast, full = knn_tagger.label_split(split, params), labels_by_vote(retrieved, params)
    must_agree = decided(full.p, retrieved.similarities, params)
    assert must_agree.mean() > 0.5
    np.testing.assert_array_equal(fast.knn[must_agree], full.knn[must_agree])
    first, second = np.sort(full.p_ner)[:, :-3:-1].T
    np.testing.assert_array_equal(fast.tagger[first - second > 1e-4], full.tagger[first - second > 1e-4])
    assert k == "all" or (full.tagger != full.knn).any()
    assert 0 < fast.searched <= split.num_words
    assert full.knn.dtype == fast.knn.dtype == np.int32
    np.testing.assert_array_equal(full.knn, full.p.argmax(axis=1))
    np.testing.assert_allclose(full.p, 0.6 * full.p_knn + 0.4 * full.p_ner, rtol=0, atol=1e-6)


forward = jax.jit(lambda params, ids, mask, tagger: tagger(params, ids, mask), static_argnames="tagger")


def brute_force(knn_tagger, words, params):
    """Probabilities of every word by name, and every row of the datastore by its distance from it: ids, similarities."""
    model, store = knn_tagger.model, knn_tagger.stored.datastore
    split = knn_tagger.encode([Sentence(words, ("O",) * len(words), 0)])
    queries, logits = np.zeros((len(words), store.keys.shape[1])), np.zeros((len(words), model.tagger.num_labels))
    for window in split.windows:
        ids = np.zeros((1, model.max_length), np.int32)
        ids[0, : len(window.token_ids)] = window.token_ids
        mask = np.arange(model.max_length)[None] < len(window.token_ids)
        output = forward(knn_tagger.params, ids, mask, tagger=model.tagger)
        positions = np.flatnonzero(window.word_index != NO_WORD)
        queries[window.word_index[positions]] = np.asarray(output.hidden_states)[-1, 0, positions]
        logits[window.word_index[positions]] = np.asarray(output.logits)[0, positions]
    p_ner = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = int(store.num_rows)
    ids, similarities = oracle.search(queries, np.asarray(store.keys)[:rows], rows, params.metric)
    k = rows if params.k == "all" else params.k
    labels = np.asarray(store.labels)[ids]
    p_knn = oracle.vote(similarities[:, :k], labels[:, :k], len(knn_tagger.label_set), params.temperature)
    parts = {"score": oracle.interpolate(p_ner, p_knn, params.knn_weight), "p_tagger": p_ner, "p_knn": p_knn}
    return parts, ids, similarities


def test_sentences_of_another_length_compile_nothing(knn_tagger, caplog):
    knn_tagger = replace(knn_tagger)  # whose sentences of neighbours are its own
    knn_tagger.tag("Amazon Basin Rubber owns no land in Norway", 2)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        assert knn_tagger.tag("Nokia met Angela Merkel .", 2) != knn_tagger.tag(["Paris", "in Rome"], 2)
    assert [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")] == []


@pytest.mark.parametrize(("k", "num_neighbours"), [(4, 2), (4, 6), ("all", 2)])  # fewer and more are shown than vote
def test_entities_their_probabilities_and_their_neighbours_are_those_of_brute_force(knn_tagger, training, k, num_neighbours):
    params = KnnParams("cosine", k, 0.1, 0.6)
    texts = [" ".join(words) for words, _ in training[:6]]
    texts.append("Amazon Basin Rubber, despite its name, owns no land in Norway; Jacqueline Du Plessis doesn't, either.")
    names, store, label_ids = np.array(knn_tagger.label_set.names), knn_tagger.stored.datastore, knn_tagger.label_set.ids()
    sentence_ids, word_ids = np.asarray(store.sentence_ids), np.asarray(store.word_ids)
    results = replace(knn_tagger, knn_params=params).tag(texts, num_neighbours)
    assert [result.words for result in results] == [split_words(text) for text in texts]
    entities, cut = 0, set()
    for result in results:
        parts, ids, similarities = brute_force(knn_tagger, result.words, params)
        mixed = parts["score"]
        must_agree, labels = decided(mixed, similarities, params), np.array(result.labels)
        assert list(labels[must_agree]) == list(names[mixed.argmax(axis=1)][must_agree])
        begins = [position for position, label in enumerate(labels) if label.startswith("B-")]
        assert [entity.words[0] for entity in result.entities if entity.is_strict] == begins
        for entity in result.entities:
            start, end = entity.words
            first, type_ = "B" if entity.is_strict else "I", entity.entity_group
            assert list(labels[start:end]) == [f"{first}-{type_}"] + [f"I-{type_}"] * (end - start - 1)
            assert end == len(labels) or labels[end] != f"I-{type_}"
            assert len(entity.neighbours) == num_neighbours
            if must_agree[start:end].all():
                entities += 1
                for name, probabilities in parts.items():
                    least = min(
                        row[label_ids[label]] for row, label in zip(probabilities[start:end], labels[start:end], strict=True)
                    )
                    assert getattr(entity, name) == pytest.approx(least, abs=vote_error(params.temperature))
            for place, near in enumerate(entity.neighbours):
                assert near.similarity == pytest.approx(similarities[start, place], abs=COSINE_ERROR)
                if (np.diff(similarities[start, max(0, place - 1) : place + 2]) > -2 * COSINE_ERROR).any():
                    continue  # two rows are equally near: either may stand here
                source, tags = training[sentence_ids[ids[start, place]]]
                word = int(word_ids[ids[start, place]])
                assert (near.word, near.label) == (source[word], tags[word])
                assert near.before == tuple(source[max(0, word - CONTEXT) : word])
                assert near.after == tuple(source[word + 1 : word + 1 + CONTEXT])
                assert near.cut == (len(near.before) < word, word + 1 + len(near.after) < len(source))
                cut.add(near.cut)
    assert entities >= 3
    assert {begin for begin, _ in cut} == {end for _, end in cut} == {True, False}


def test_a_training_sentence_finds_itself(knn_tagger, training):
    words, tags = next(
        (words, tags) for words, tags in training if "B-PER" in tags and list(split_words(" ".join(words))) == words
    )
    (result,) = replace(knn_tagger, knn_params=ONE).tag(" ".join(words), neighbours=4)
    begins = [position for position, tag in enumerate(tags) if tag.startswith("B-")]
    assert [entity.words[0] for entity in result.entities] == begins
    for entity in result.entities:
        near, start = entity.neighbours[0], entity.words[0]
        assert (near.word, near.label) == (words[start], tags[start])
        assert near.before == tuple(words[max(0, start - CONTEXT) : start])
        assert near.similarity == pytest.approx(1, abs=COSINE_ERROR)
        assert entity.score == entity.p_knn == pytest.approx(1, abs=1e-6)


def test_words_are_taken_as_they_are_and_neighbours_are_returned_on_request_only(knn_tagger, training):
    words, _ = training[0]
    tagger = replace(knn_tagger, knn_params=KnnParams("cosine", "all", 0.1, 0.6))
    (without,), (two,) = tagger.tag([words]), tagger.tag([words], neighbours=2)
    assert without.words == two.words == tuple(words)
    assert without.labels == two.labels
    assert {len(entity.neighbours) for entity in without.entities} == {0}
    assert {len(entity.neighbours) for entity in two.entities} == {2}
    assert tagger.tag([["Ann's", "dog"]])[0].words == ("Ann's", "dog")


def test_a_loaded_tagger_tags_with_what_dev_chose(evaluated, monkeypatch):
    monkeypatch.chdir(evaluated)
    tagger = kn.load("run")
    assert isinstance(tagger, kn.KnnTagger)
    assert tagger.knn_params.k in (1, 4, "all")
    assert tagger.knn_params == kn.load(evaluated / "run").knn_params


NEEDLESS = (
    "transformers",
    "torch",
    "huggingface_hub",
    "sklearn",
    "pandas",
    "pyarrow",
    "matplotlib",
    "jinja2",
    "tensorboardX",
)


def test_who_tags_waits_for_no_package_that_only_others_need(evaluated):
    code = f"""import sys
from knn_ner_jax import cli
cli.run("predict", "predict.py", ["run", "Angela Merkel met Nokia in Helsinki."])
print(sorted(sys.modules.keys() & {set(NEEDLESS)}))"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=evaluated, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_folder_without_an_evaluation_is_not_loaded(tmp_path):
    with pytest.raises(InputError, match=r"expected a finished evaluation \(eval\.json\), found none"):
        kn.load(tmp_path)


def test_nothing_is_tagged_before_parameters_were_chosen(knn_tagger):
    with pytest.raises(InputError, match="without chosen parameters"):
        replace(knn_tagger, knn_params=None).tag("Paris")


def test_more_neighbours_than_rows_are_not_shown(knn_tagger, training):
    (result,) = replace(knn_tagger, knn_params=ONE).tag([training[0][0]], neighbours=10**6)
    assert {len(entity.neighbours) for entity in result.entities} == {knn_tagger.num_rows}


def test_fewer_than_no_neighbours_are_refused(knn_tagger):
    with pytest.raises(InputError, match="neighbours: expected at least 0, got -1"):
        replace(knn_tagger, knn_params=ONE).tag(["Nokia"], neighbours=-1)
