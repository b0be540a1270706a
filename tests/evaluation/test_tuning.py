"""The grid on dev: every cell is what brute force and seqeval say, and dev alone chooses."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from knn_ner_jax.config import KnnConfig, PublishedConfig
from knn_ner_jax.data.corpus import Split, check_dev
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit
from knn_ner_jax.evaluation import evaluate, tuning
from knn_ner_jax.evaluation.tuning import Trial
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import Cache, KnnParams
from knn_ner_jax.knn.inference import Retrieved, collect
from knn_ner_jax.knn.search import Neighbours, SearchResult

LABEL_SET = LabelSet(("LOC", "PER"))
NAMES = LABEL_SET.names
LENGTHS = (1, 7, 12, 3, 20, 9, 2, 15)
WORDS, ROWS, WIDTH = sum(LENGTHS), 60, 4


def likely_tags(rng, length):
    """Tags in which most spans are legal."""
    tags = []
    while len(tags) < length:
        kind = rng.integers(0, 3)
        tags += [0] if kind == 0 else [2 * kind - 1] + [2 * kind] * rng.integers(0, 3)
    return tags[:length]


@pytest.fixture(scope="module")
def dev():
    """Gold, the tagger's probabilities, similarities to all rows, and the labels of the rows."""
    rng = np.random.default_rng(4)
    gold = np.array([tag for length in LENGTHS for tag in likely_tags(rng, length)], np.int32)
    row_labels = rng.integers(0, len(NAMES), ROWS).astype(np.int32)
    # Both the tagger and the neighbours know something of the gold, so that scores differ from cell to cell.
    p_ner = rng.dirichlet(np.full(len(NAMES), 0.5), WORDS) + 0.2 * np.eye(len(NAMES))[gold]
    similarities = rng.uniform(-0.2, 0.2, (WORDS, ROWS)) + 0.05 * (row_labels[None] == gold[:, None])
    p_ner = (p_ner / p_ner.sum(axis=1, keepdims=True)).astype(np.float32)
    return gold, p_ner, similarities.astype(np.float32), row_labels


def encoded(gold):
    sentence_ids = np.repeat(np.arange(len(LENGTHS)), LENGTHS).astype(np.int32)
    word_ids = np.concatenate([np.arange(length) for length in LENGTHS]).astype(np.int32)
    return EncodedSplit((), sentence_ids, word_ids, gold, 0, 0)


def nearest(similarities, k):
    return np.argsort(-similarities, axis=1, kind="stable")[:, :k]


def votes(similarities, row_labels, k, temperature):
    ids = nearest(similarities, ROWS if k == "all" else k)
    return oracle.vote(np.take_along_axis(similarities, ids, 1), row_labels[ids], len(NAMES), temperature)


def make_cache(dev, grid):
    _, p_ner, similarities, row_labels = dev
    ids = nearest(similarities, grid.largest_k)
    tables = [votes(similarities, row_labels, "all", temperature) for temperature in grid.temperature]
    shares = np.stack(tables).astype(np.float32)
    return Cache(p_ner, np.take_along_axis(similarities, ids, 1), row_labels[ids], None, shares, tuple(grid.temperature))


def strict_f1(gold, predicted, names=NAMES):
    bounds = np.cumsum(LENGTHS)[:-1]
    columns = ([[names[label] for label in part] for part in np.split(ids, bounds)] for ids in (gold, predicted))
    return 100 * f1_score(*columns, mode="strict", scheme=IOB2, zero_division=0)


def test_every_cell_is_what_brute_force_and_seqeval_say(dev):
    gold, p_ner, similarities, row_labels = dev
    grid = tuning.Grid(k=(3, "all", 1, 16), temperature=(0.02, 0.2), knn_weight=(0.0, 0.35, 0.8))
    trials = tuning.run_grid(make_cache(dev, grid), encoded(gold), LABEL_SET, grid, "l2")
    cells = [("l2", k, t, w) for k in grid.k for t in grid.temperature for w in grid.knn_weight]
    assert [trial.knn_params for trial in trials] == [KnnParams(*cell) for cell in cells]
    for trial in trials:
        setting = trial.knn_params
        p_knn = votes(similarities, row_labels, setting.k, setting.temperature)
        mixed = oracle.interpolate(p_ner, p_knn, setting.knn_weight)
        # Counts are exact; the one division is float32.
        assert trial.f1 == pytest.approx(strict_f1(gold, mixed.argmax(axis=1)), rel=4 * 2.0**-24), setting
    assert len({trial.f1 for trial in trials}) > len(cells) // 3  # the cells differ


def test_spans_do_not_reach_over_sentences():
    gold = np.zeros(WORDS, np.int32)
    gold[0], gold[1] = 1, 2  # B-LOC ends a sentence of one word, I-LOC begins the next
    gold[20:22] = 3, 4
    p_ner = np.eye(len(NAMES), dtype=np.float32)[gold]
    p_ner[1] = np.eye(len(NAMES))[0]
    cache = Cache(p_ner, np.ones((WORDS, 1), np.float32), np.zeros((WORDS, 1), np.int32), None, None)
    (trial,) = tuning.run_grid(cache, encoded(gold), LABEL_SET, tuning.Grid((1,), (1.0,), (0.0,)), "ip")
    assert trial.f1 == strict_f1(gold, p_ner.argmax(axis=1)) == 100


@pytest.mark.parametrize("k", [3, "all"])
def test_gold_of_a_type_nobody_can_predict_counts_as_missed(dev, k):
    gold, p_ner, similarities, row_labels = dev
    label_set, gold = LABEL_SET.union(LabelSet(("ORG",))), gold.copy()
    gold[[10, 11, 30]] = 5, 6, 5
    grid = tuning.Grid(k=(k,) if k == "all" else (k, "all"), temperature=(0.1,), knn_weight=(0.5,))
    cache = make_cache(dev, tuning.Grid((3, "all"), grid.temperature, grid.knn_weight))
    trial = tuning.run_grid(cache, encoded(gold), label_set, grid, "cosine")[0]
    mixed = oracle.interpolate(p_ner, votes(similarities, row_labels, k, 0.1), 0.5)
    assert trial.f1 == pytest.approx(strict_f1(gold, mixed.argmax(axis=1), label_set.names), rel=4 * 2.0**-24)


def test_k_beyond_the_rows_is_skipped_and_reported():
    grid = tuning.make_grid(KnnConfig([1, 60, 61, "all", 512], 0.1, [0.5, 0.6]), num_rows=60)
    assert grid == tuning.Grid((1, 60, "all"), (0.1,), (0.5, 0.6), skipped_k=(61, 512))
    assert grid.largest_k == 60
    assert tuning.make_grid(KnnConfig([512, "all"], 0.1, 0.5), num_rows=60).largest_k == "all"


@pytest.mark.parametrize("k", [[61], [61, 512]])
def test_only_k_beyond_the_rows_is_an_error_that_names_both(k):
    with pytest.raises(InputError, match=rf"knn\.k: .*\b60\b.*got {', '.join(map(str, k))}$"):
        tuning.make_grid(KnnConfig(k, 0.1, 0.5), num_rows=60)


def test_the_highest_f1_is_chosen_and_among_equals_the_least_weight_then_the_first():
    cells = [(0.7, 51.0), (0.6, 52.0), (0.2, 52.0), (0.1, 50.0), (0.2, 52.0), (0.3, 52.0)]
    trials = [Trial(KnnParams("cosine", number + 1, 0.1, weight), f1) for number, (weight, f1) in enumerate(cells)]
    assert tuning.select(trials) is trials[2]
    assert tuning.select(trials[:2]) is trials[1]
    assert tuning.select(trials[3:4]) is trials[3]


def test_published_settings_take_the_place_of_the_lists():
    published = PublishedConfig("all", 0.071, 0.41)
    by_dev = KnnConfig(k=[1, 2], temperature=[0.1, 0.2], knn_weight=0.5, published=published)
    assert tuning.search_space(by_dev) is by_dev
    assert tuning.has_choice(by_dev)
    as_published = replace(by_dev, selection="published")
    offered = tuning.search_space(as_published)
    assert (offered.k, offered.temperature, offered.knn_weight) == ("all", 0.071, 0.41)
    assert not tuning.has_choice(as_published)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "knn.published: expected k, temperature and knn_weight, because .*, got .None, None, None.$"),
        ({"published": PublishedConfig(8, 0.1)}, "knn.published: expected k, temperature and knn_weight"),
        ({"published": PublishedConfig(8, 0.1, 0.2), "metric": ["ip", "l2"]}, "knn.metric: expected one metric"),
    ],
)
def test_published_without_a_whole_setting_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        KnnConfig(selection="published", **change)


@pytest.mark.parametrize("split", ["test", "train", "Dev", ""])
def test_no_split_but_dev_chooses(split):
    with pytest.raises(InputError, match=f"dev.*got {split}$"):
        tuning.refuse_all_but_dev(split)
    with pytest.raises(InputError, match=f"dev.*got {split}$"):
        evaluate.tune(None, None, None, (), split)  # refused before anything is looked at


def test_dev_that_is_test_in_another_order_is_refused():
    sentences = [Sentence(("Ann", "ran"), ("B-PER", "O"), 1), *[Sentence(("Hi",), ("O",), 4)] * 2]
    test = Split(Path("test.conll"), tuple(sentences))
    with pytest.raises(InputError, match=r"dev\.conll and test\.conll hold the same sentences"):
        check_dev(Split(Path("dev.conll"), tuple(sentences[::-1])), test)
    check_dev(Split(Path("dev.conll"), tuple(sentences[:2])), test)  # one of them stands there once
    with pytest.raises(InputError, match=r"dev\.conll: expected at least one entity, .* found none in 2 sentences; knn\."):
        check_dev(Split(Path("dev.conll"), tuple(sentences[1:])), test)


def retrieved(word_index, k=2, temperatures=3):
    """What a batch would return for these words: every number says which word it is about."""
    about = jnp.where(jnp.asarray(word_index) == NO_WORD, -7, jnp.asarray(word_index))
    rows = about[:, None] * 10 + jnp.arange(k)[None]
    shares = about[None, :, None] * 100 + jnp.arange(temperatures)[:, None, None] * 10 + jnp.arange(4)[None, None]
    found = SearchResult(Neighbours(rows / 2, rows, rows + 1), shares.astype(jnp.float32), top1_prob=shares[:, :, :1] + 5)
    return Retrieved(jnp.asarray(word_index), jnp.tile(about[:, None] / 4, (1, 4)), found)


@pytest.mark.parametrize(
    "batches", [[[0, 1, 2, 3, 4]], [[4, 2, -1, -1], [0, 3, 1, -1]], [[3, -1], [-1, -1], [4, 0], [2, -1], [1, -1]]]
)
def test_collected_rows_stand_in_the_order_of_the_words(batches):
    cache = collect((retrieved(word_index) for word_index in batches), 5, with_ids=True)
    words = np.arange(5)
    rows = words[:, None] * 10 + np.arange(2)
    np.testing.assert_array_equal(cache.p_ner, np.tile(words[:, None] / 4, (1, 4)))
    np.testing.assert_array_equal(cache.similarities, rows / 2)
    np.testing.assert_array_equal(cache.neighbour_ids, rows)
    np.testing.assert_array_equal(cache.neighbour_labels, rows + 1)
    expected = words[None, :, None] * 100 + np.arange(3)[:, None, None] * 10 + np.arange(4)
    np.testing.assert_array_equal(cache.knn_probs, expected)
    np.testing.assert_array_equal(cache.top1_prob, expected[:, :, :1] + 5)


def test_what_was_not_asked_for_is_not_collected():
    whole = retrieved([1, 0])
    neighbours = collect([whole._replace(result=SearchResult(whole.result.neighbours, None))], 2)
    assert neighbours.knn_probs is None
    assert neighbours.top1_prob is None
    assert neighbours.neighbour_ids is None
    knn_probs = collect([whole._replace(result=SearchResult(None, whole.result.knn_probs))], 2)
    assert knn_probs.similarities is None
    assert knn_probs.neighbour_labels is None
