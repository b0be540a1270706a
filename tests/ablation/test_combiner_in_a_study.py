"""Combiners of a study: the rows that a training word must not retrieve, and a combiner that needs no training words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.sentences import made_up_corpus
from helpers.studies import UniformCombiner, write_study

from knn_ner_jax import cli
from knn_ner_jax.ablation import run
from knn_ner_jax.ablation.run import num_neighbours, open_cell, search_combiner
from knn_ner_jax.ablation.store import Corpora, Results, read_test_log
from knn_ner_jax.ablation.study import Axis, Study, StudyConfig, plan
from knn_ner_jax.contrib.adaptive import AdaptiveCombiner
from knn_ner_jax.contrib.combiner import LabelledWords
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.evaluation.leave_one_out import NOT_STORED
from knn_ner_jax.knn.combine import Cache

DEVICES = 3  # which divide the rows of no datastore here
VARIED = "knn: {{k: [1, 3]}}\nablation: {{seeds: [0], taggers: {taggers}}}"
ADAPTIVE = "knn_ner_jax.contrib.adaptive:AdaptiveCombiner"
UNIFORM = "helpers.studies:UniformCombiner"


def study(candidates: list[Axis], *options: str, combiner: str | None = None) -> Study:
    """The study in the working directory, with other options, and candidates that need no other tagger."""
    config = cli.parse("ablate.py", "", StudyConfig, ["--config", "study.yaml", *options])[0]
    ablation = replace(config.ablation, candidates=candidates, combiner=combiner)
    return plan(replace(config, ablation=ablation), Corpora().files)


@pytest.fixture(scope="module", autouse=True)
def with_trained_tagger(tmp_path_factory, taggers):
    """A study of which nothing is computed but its tagger; the working directory is its."""
    folder = tmp_path_factory.mktemp("combined")
    write_study(folder, VARIED.format(taggers=taggers))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.mark.sampled(2)
@pytest.mark.parametrize("corpus", ["more", "corpus"])
def test_rows_of_a_words_own_sentence_are_known_wherever_the_datastore_is_from(corpus):
    Path("more").mkdir(exist_ok=True)
    made_up_corpus(Path("more"), {"test": 1, "dev": 9})
    own, others = (Path(path).read_text().split("\n\n") for path in ("corpus/train.conll", "more/dev.conll"))
    Path("more/train.conll").write_text("\n\n".join([*others, *own[1:], *own[12:]]))
    (cell,) = study([], "--datastore.corpus", corpus, "--datastore.include_o", "false").cells
    searcher = open_cell(cell, Corpora())
    stored = [sentence.words for sentence in read_splits({"train": Path(corpus, "train.conll")})[0]["train"].sentences]
    row_sentence_ids = np.asarray(searcher.knn_tagger.stored.datastore.sentence_ids)[: searcher.knn_tagger.num_rows]
    with_rows = {stored[number] for number in row_sentence_ids}  # others have no entity
    for sentence, number in zip(searcher.corpus.train.sentences, searcher.train_numbers, strict=True):
        assert (number == NOT_STORED) == (sentence.words not in with_rows)
        has_its_words = [stored[sentence_id] == sentence.words for sentence_id in row_sentence_ids]
        assert np.array_equal(searcher.row_numbers == number, has_its_words)
    assert len(with_rows) < len(set(stored))


def test_a_combiner_is_fitted_to_neighbours_from_other_sentences_alone(monkeypatch):
    alone = study([], combiner=ADAPTIVE)
    searcher, caches, fits = open_cell(alone.cells[0], Corpora()), list[Cache](), list[LabelledWords]()
    retrieve, fit = run.retrieve_others, AdaptiveCombiner.fit

    def retrieve_and_keep(*arguments):
        caches.append(retrieve(*arguments))
        return caches[-1]

    def fit_and_keep(combiner, train, *others):
        fits.append(train)
        return fit(combiner, train, *others)

    monkeypatch.setattr(run, "retrieve_others", retrieve_and_keep)
    monkeypatch.setattr(AdaptiveCombiner, "fit", fit_and_keep)
    assert tuple(search_combiner(searcher, alone.cells, Results(alone))) == alone.cells
    (cache,), (fitted_to,) = caches, fits
    np.testing.assert_array_equal(fitted_to.words.neighbour_labels, cache.neighbour_labels)
    sentences = read_splits({"train": Path("corpus/train.conll")})[0]["train"].sentences
    row_sentence_ids = np.asarray(searcher.knn_tagger.stored.datastore.sentence_ids)
    sentence_ids = [number for number, sentence in enumerate(sentences) for _ in sentence.words]
    for sentence_id, neighbours in zip(sentence_ids, cache.neighbour_ids, strict=True):
        words = {sentences[number].words for number in row_sentence_ids[neighbours]}
        assert len(neighbours) == num_neighbours(searcher, [AdaptiveCombiner(alone.cells[0].config.knn)])
        assert sentences[sentence_id].words not in words


def test_a_combiner_of_ten_lines_is_searched_scored_and_logged():
    alone = study([], combiner=UNIFORM)
    searcher, results = open_cell(alone.cells[0], Corpora()), Results(alone)
    (cell,) = search_combiner(searcher, alone.cells, results)
    for name in ("dev", "test"):
        labels, cache = results.predictions(cell, f"combiner_{name}"), searcher.caches[name]
        votes = np.eye(cache.p_ner.shape[1])[cache.neighbour_labels[:, : UniformCombiner.k]].mean(axis=1)
        np.testing.assert_array_equal(labels.knn, (cache.p_ner + votes).argmax(axis=1))
        np.testing.assert_array_equal(labels.tagger, cache.p_ner.argmax(axis=1))
        assert results.scores(cell, name, "combiner") == results.read(cell, f"combiner_{name}")["knn"]
    assert "train" not in searcher.caches
    assert results.methods == {"tagger": "tagger", "knn": "kNN-NER", "combiner": "uniform"}
    assert read_test_log(alone.folder)[-1]["combiner"] == "uniform"


def test_rows_of_one_sentence_and_its_copies_leave_fewer_neighbours():
    (cell,) = study([]).cells
    searcher, combiner = open_cell(cell, Corpora()), AdaptiveCombiner(cell.config.knn)
    rows = searcher.knn_tagger.num_rows
    mostly_copies = replace(searcher, row_numbers=(np.arange(rows) < 9).astype(np.int32))
    assert num_neighbours(mostly_copies, [combiner]) == 9 < combiner.k
    assert num_neighbours(mostly_copies, [UniformCombiner(cell.config.knn)]) == UniformCombiner.k
    assert num_neighbours(searcher, []) == 0


def test_of_a_wider_search_a_combiner_gets_what_training_words_have_too(monkeypatch):
    alone = study([], combiner=ADAPTIVE)
    searcher, widths, fit = open_cell(alone.cells[0], Corpora()), [], AdaptiveCombiner.fit
    rows = searcher.knn_tagger.num_rows
    searcher = replace(searcher, row_numbers=(np.arange(rows) < 9).astype(np.int32))
    searcher.search("dev", searcher.encode("dev"), 16)  # as a grid with k 16 does

    def fit_and_keep(combiner, train, dev, *others):
        widths.append([labelled.words.similarities.shape[1] for labelled in (train, dev)])
        return fit(combiner, train, dev, *others)

    monkeypatch.setattr(AdaptiveCombiner, "fit", fit_and_keep)
    assert tuple(search_combiner(searcher, alone.cells, Results(alone))) == alone.cells
    assert widths == [[9, 9]]


def test_a_list_of_one_metric_is_that_metric():
    (cell,) = study([], "--knn.metric", "[l2]").cells
    assert open_cell(cell, Corpora()).metric == "l2"
