"""Plain text: its words, its entities, and the training words each is explained with."""

import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import oracle

from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.data.tokenization import NO_WORD, encode
from knn_ner_jax.evaluation.neighbours import CONTEXT, Neighbourhood, remembered_words, split_words, tag_texts
from knn_ner_jax.evaluation.tuning import KnnParams
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.storage import Source

CASES = {
    "Ann's dog didn't bark.": "Ann 's dog did n't bark .",
    "I'm sure we've, they'll, he'd, you're": "I 'm sure we 've , they 'll , he 'd , you 're",
    "CAN'T": "CA N'T",
    "Ann’s dog didn’t bark": "Ann ’s dog did n’t bark",
    "the dogs' home": "the dogs ' home",
    "O'Brien": "O'Brien",
    "state-of-the-art, Franco-German": "state-of-the-art , Franco-German",
    "1990-1995 – and": "1990-1995 – and",
    "a 3.5% rise to $1.2": "a 3.5 % rise to $ 1.2",
    "U.S.A and Ph.D students": "U.S.A and Ph.D students",
    "(Paris)": "( Paris )",
    "“Paris”": "“ Paris ”",
    "我爱北京。": "我 爱 北 京 。",
    "东京タワー3号": "东 京 タ ワ ー 3 号",
    "COVID-19疫情": "COVID-19 疫 情",
    "Zürich  Łódź\tСанкт-Петербург": "Zürich Łódź Санкт-Петербург",
    "cafe\u0301s": "cafe\u0301s",
    "@ann #news": "@ ann # news",
    " \t\n": "",
}


@pytest.mark.parametrize("text", CASES)
def test_words_of_plain_text(text):
    assert split_words(text) == tuple(CASES[text].split())


@pytest.mark.parametrize("text", CASES)
def test_no_sign_is_lost(text):
    assert "".join(split_words(text)) == "".join(text.split())


@pytest.fixture(scope="module")
def training(evaluated):
    """Words and tags of the training sentences."""
    blocks = (evaluated / "corpus" / "train.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
    sentences = [[line.split("\t") for line in block.split("\n")] for block in blocks]
    return [([word for word, _ in rows], [tag for _, tag in rows]) for rows in sentences]


forward = jax.jit(lambda params, ids, mask, tagger: tagger(params, ids, mask), static_argnames="tagger")


def brute_force(knn_tagger, words, setting):
    """Probabilities of every word, and every row of the datastore by its distance from the word: ids, similarities."""
    model, store = knn_tagger.model, knn_tagger.stored.datastore
    split = encode([Sentence(words, ("O",) * len(words), 0)], model.tokenizer, model.max_length, knn_tagger.label_set)
    queries, logits = np.zeros((len(words), store.keys.shape[1])), np.zeros((len(words), model.tagger.num_labels))
    for window in split.windows:
        ids = np.zeros((1, model.max_length), np.int32)
        ids[0, : len(window.token_ids)] = window.token_ids
        mask = np.arange(model.max_length)[None] < len(window.token_ids)
        output = forward(knn_tagger.params, ids, mask, tagger=model.tagger)
        places = np.flatnonzero(window.word_index != NO_WORD)
        queries[window.word_index[places]] = np.asarray(output.hidden_states)[-1, 0, places]
        logits[window.word_index[places]] = np.asarray(output.logits)[0, places]
    p_ner = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = int(store.num_rows)
    ids, similarities = oracle.search(queries, np.asarray(store.keys)[:rows], rows, setting.metric)
    k = rows if setting.k == "all" else setting.k
    labels = np.asarray(store.labels)[ids]
    p_knn = oracle.vote(similarities[:, :k], labels[:, :k], len(knn_tagger.label_set), setting.temperature)
    return oracle.interpolate(p_ner, p_knn, setting.knn_weight), ids, similarities


@pytest.mark.parametrize(("k", "num_neighbours"), [(4, 2), (4, 6), ("all", 2)])  # fewer and more are shown than vote
def test_entities_their_probabilities_and_their_neighbours_are_those_of_brute_force(knn_tagger, training, k, num_neighbours):
    setting = KnnParams("cosine", k, 0.1, 0.6)
    texts = [" ".join(words) for words, _ in training[:6]]
    texts.append("Amazon Basin Rubber, despite its name, owns no land in Norway; Jacqueline Du Plessis doesn't, either.")
    names, store = knn_tagger.label_set.names, knn_tagger.stored.datastore
    sentence_ids, word_ids = np.asarray(store.sentence_ids), np.asarray(store.word_ids)
    found = tag_texts(knn_tagger, setting, texts, num_neighbours)
    assert [words for words, _ in found] == [split_words(text) for text in texts]
    entities, cut = 0, set()
    for words, tagged in found:
        mixed, ids, similarities = brute_force(knn_tagger, words, setting)
        np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=0, atol=1e-6)
        tags = [names[label] for label in mixed.argmax(axis=1)]
        begins = [place for place, tag in enumerate(tags) if tag.startswith("B-")]
        assert [entity.span.start for entity in tagged] == begins
        entities += len(tagged)
        for entity in tagged:
            start, end = entity.span.start, entity.span.end
            assert tags[start:end] == [f"B-{entity.span.type}"] + [f"I-{entity.span.type}"] * (end - start - 1)
            assert end == len(tags) or tags[end] != f"I-{entity.span.type}"
            # States of two compilations agree to 1e-5, so cosines to 2e-5.
            assert entity.probability == pytest.approx(mixed[start].max(), abs=np.expm1(2 * 2e-5 / setting.temperature))
            assert len(entity.neighbours) == num_neighbours
            for place, near in enumerate(entity.neighbours):
                row = ids[start, place]
                source, tags_there = training[sentence_ids[row]]
                word = int(word_ids[row])
                assert near.similarity == pytest.approx(similarities[start, place], abs=2e-5)
                assert (near.word, near.label) == (source[word], tags_there[word])
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
    ((_, entities),) = tag_texts(knn_tagger, KnnParams("cosine", 1, 0.1, 1.0), [" ".join(words)], 4)
    assert [entity.span.start for entity in entities] == [place for place, tag in enumerate(tags) if tag.startswith("B-")]
    for entity in entities:
        near = entity.neighbours[0]
        start = entity.span.start
        assert (near.word, near.label) == (words[start], tags[start])
        assert near.before == tuple(words[max(0, start - CONTEXT) : start])
        assert near.similarity == pytest.approx(1, abs=2e-5)
        assert entity.probability == pytest.approx(1, abs=1e-6)


def test_more_neighbours_than_rows_are_not_shown(knn_tagger, training):
    ((_, entities),) = tag_texts(knn_tagger, KnnParams("cosine", 1, 0.1, 1.0), [" ".join(training[0][0])], 10**6)
    for entity in entities:
        assert len(entity.neighbours) == knn_tagger.num_rows


@pytest.mark.parametrize("texts", [["Paris", " "], [""], []])
def test_a_text_without_words_is_refused(knn_tagger, texts):
    with pytest.raises(InputError, match="expected at least one"):
        tag_texts(knn_tagger, KnnParams("cosine", 1, 0.1, 1.0), texts, 1)


def test_a_corpus_file_that_has_changed_is_refused(knn_tagger, monkeypatch, tmp_path, evaluated):
    shutil.copytree(evaluated / "corpus", tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "corpus" / "train.conll").open("a", encoding="utf-8") as file:
        file.write("\nmore\tO\n")
    arguments = knn_tagger, KnnParams("cosine", 1, 0.1, 1.0), ["Paris"], 1
    with pytest.raises(InputError, match=r"corpus/train\.conll: changed .* expected SHA-256 \w{64}, got \w{64}"):
        tag_texts(*arguments)
    (tmp_path / "corpus" / "train.conll").unlink()
    with pytest.raises(InputError, match=r"corpus/train\.conll: expected the file the datastore was built from, found none"):
        tag_texts(*arguments)


def test_blemishes_that_the_datastore_was_built_with_are_not_told_again(tmp_path, caplog):
    path = tmp_path / "train.conll"
    path.write_text("Paris\tB-LOC\n\nin\tO\tO\nRome\tB-LOC\nNow\tI-PER\n", encoding="utf-8")
    split = read_splits({"train": path}, on_error="report")[0]["train"]
    assert (len(split.illegal_tags), len(split.ragged_lines), len(caplog.records)) == (1, 1, 2)
    caplog.clear()
    assert remembered_words(Source(str(path), split.sha256, ("LOC",), 1.0, 0, True)) == [("Paris",), ("in", "Rome", "Now")]
    assert not caplog.records


def test_a_sentence_is_cut_where_it_has_more_words_than_are_shown():
    words = tuple(map(str, range(2 * CONTEXT + 2)))
    there = SimpleNamespace(_words=[words], _names=("O",))
    for word, cut in ((0, (False, True)), (CONTEXT, (False, True)), (CONTEXT + 1, (True, False))):
        near = Neighbourhood._describe(there, 0, word, 0, 0.5)
        assert (*near.before, near.word, *near.after) == words[max(0, word - CONTEXT) : word + CONTEXT + 1]
        assert near.cut == cut
    there._words = [words[: 2 * CONTEXT + 1]]
    assert Neighbourhood._describe(there, 0, CONTEXT, 0, 0.5).cut == (False, False)
