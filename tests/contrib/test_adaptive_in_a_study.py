"""Learned mixing of a study: the rows that a training word must not find, and the temperatures that dev chooses among."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.sentences import made_up_corpus
from helpers.studies import write_study

from knn_ner_jax import cli
from knn_ner_jax.ablation.run import open_cell
from knn_ner_jax.ablation.store import Results
from knn_ner_jax.ablation.study import Corpora, Study, plan
from knn_ner_jax.config import Axis, StudyConfig
from knn_ner_jax.contrib import leave_one_out
from knn_ner_jax.contrib.adaptive import AdaptiveSettings
from knn_ner_jax.contrib.leave_one_out import NOT_STORED
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.main import train

VARIED = "knn: {k: [1, 3]}\nablation: {seeds: [0]}"


def study(choices: list[Axis], *options: str) -> Study:
    """The study in the working directory, with other options, and choices that need no other tagger."""
    config = cli.parse("ablate.py", "", StudyConfig, ["--config", "study.yaml", *options])[0]
    return plan(replace(config, ablation=replace(config.ablation, candidates=choices)), Corpora().files)


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory):
    """A study whose tagger is trained, and of which nothing else is computed; the working directory is its."""
    folder = tmp_path_factory.mktemp("combiner")
    write_study(folder, VARIED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.run(study([]).cells[0].config, overwrite=False)
        yield


@pytest.mark.parametrize("corpus", ["corpus", "more"])
def test_rows_of_a_words_own_sentence_are_known_wherever_the_datastore_is_from(corpus):
    Path("more").mkdir(exist_ok=True)
    made_up_corpus(Path("more"), {"test": 1, "dev": 9})
    own, others = (Path(path).read_text().split("\n\n") for path in ("corpus/train.conll", "more/dev.conll"))
    Path("more/train.conll").write_text("\n\n".join([*others, *own[1:], *own[12:]]))
    (cell,) = study([], "--datastore.corpus", corpus, "--datastore.include_o", "false").cells
    opened = open_cell(cell, Corpora())
    stored = [sentence.words for sentence in read_splits({"train": Path(corpus, "train.conll")})[0]["train"].sentences]
    row_sentence_ids = np.asarray(opened.knn_tagger.stored.datastore.sentence_ids)[: opened.knn_tagger.num_rows]
    for sentence, number in zip(opened.corpus.train.sentences, opened.train_numbers, strict=True):
        assert (number == NOT_STORED) == (sentence.words not in stored)
        has_its_words = [stored[sentence_id] == sentence.words for sentence_id in row_sentence_ids]
        assert np.array_equal(opened.row_numbers == number, has_its_words)
    assert (opened.train_numbers == NOT_STORED).any() == (corpus == "more")


def test_a_mixer_is_fitted_to_neighbours_of_other_sentences_alone(monkeypatch):
    alone = study([])
    opened, caches = open_cell(alone.cells[0], Corpora()), []
    fit = leave_one_out.fit
    monkeypatch.setattr(leave_one_out, "fit", lambda *given: caches.append(given[0]) or fit(*given))
    assert tuple(leave_one_out.search_learned(opened, alone.cells, Results(alone))) == alone.cells
    (cache,) = caches
    sentences = read_splits({"train": Path("corpus/train.conll")})[0]["train"].sentences
    row_sentence_ids = np.asarray(opened.knn_tagger.stored.datastore.sentence_ids)
    sentence_ids = [number for number, sentence in enumerate(sentences) for _ in sentence.words]
    for sentence_id, neighbours in zip(sentence_ids, cache.neighbour_ids, strict=True):
        found = {sentences[number].words for number in row_sentence_ids[neighbours]}
        assert len(neighbours) == leave_one_out.mixing_settings(opened, alone.cells[0]).k
        assert sentences[sentence_id].words not in found


def test_temperatures_are_those_of_the_metric(monkeypatch):
    choices = [{"knn.temperature": [[1.0, 3.0], [10.0]]}, {"knn.knn_weight": [0.3, 0.7]}]
    by_l2 = study(choices, "--knn.metric", "l2")
    opened, results = open_cell(by_l2.cells[0], Corpora()), Results(by_l2)
    fits: list[tuple[float, ...]] = []
    fit = leave_one_out.fit
    monkeypatch.setattr(leave_one_out, "fit", lambda *given: fits.append(given[5].temperature) or fit(*given))
    list(leave_one_out.search_learned(opened, results.missing(by_l2.cells, "combiner_test"), results))
    assert fits == [(1.0, 3.0), (10.0,)]
    for cell in by_l2.cells:
        tried = {trial["temperature"] for trial in results.read(cell, "combiner_dev")["trials"]}
        assert tried == set(cell.config.knn.temperature)
    (by_cosine,) = study([], "--knn.temperature", "[0.5]").cells
    assert leave_one_out.mixing_settings(opened, by_cosine).temperature == AdaptiveSettings().temperature


def test_rows_of_one_sentence_and_its_copies_leave_fewer_neighbours():
    (cell,) = study([]).cells
    opened = open_cell(cell, Corpora())
    mostly_copies = (np.arange(opened.knn_tagger.num_rows) < 9).astype(np.int32)
    assert leave_one_out.mixing_settings(replace(opened, row_numbers=mostly_copies), cell).k == 8


def test_a_list_of_one_metric_is_that_metric():
    (cell,) = study([], "--knn.metric", "[l2]").cells
    assert open_cell(cell, Corpora()).metric == "l2"
