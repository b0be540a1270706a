"""A fit learns when neighbours are right, dev selects, and the same key gives the same mixer."""

from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from knn_ner_jax.config import KnnConfig
from knn_ner_jax.contrib import adaptive
from knn_ner_jax.contrib.adaptive import AdaptiveCombiner, AdaptiveSettings, fit
from knn_ner_jax.contrib.combiner import Combiner, LabelledWords, RetrievedWords
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import Cache

LABEL_SET = LabelSet(("LOC", "PER"))
LABELS, K = len(LABEL_SET), 4
TRAIN_WORDS, DEV_WORDS, LENGTH = 1200, 300, 5
SETTINGS = AdaptiveSettings(k=K, hidden_size=8, temperature=(0.05, 0.5), epochs=6, batch_size=50, learning_rate=0.01)
KEY = jax.random.key(0)


def problem(words, seed):
    """Neighbours that are right exactly where the nearest is near, and a tagger that is right in 7 of 10 and never sure."""
    rng = np.random.default_rng(seed)
    gold = rng.choice([0, 1, 3], words).astype(np.int32)
    another = (gold + rng.integers(1, LABELS, words)) % LABELS
    near = rng.random(words) < 0.5
    nearest = np.where(near, rng.uniform(0.8, 1.0, words), rng.uniform(0.2, 0.6, words))
    similarities = (nearest[:, None] - 0.01 * np.arange(K)).astype(np.float32)
    neighbour_labels = np.repeat(np.where(near, gold, another)[:, None], K, axis=1).astype(np.int32)
    labels = np.where(rng.random(words) < 0.7, gold, (gold + rng.integers(1, LABELS, words)) % LABELS)
    p_ner = (0.1 + 0.5 * np.eye(LABELS)[labels]).astype(np.float32)
    return LabelledWords(RetrievedWords(p_ner, similarities, neighbour_labels), gold, np.arange(words) // LENGTH)


def encoded(gold):
    sentence_ids, word_ids = np.divmod(np.arange(len(gold), dtype=np.int32), LENGTH)
    return EncodedSplit((), sentence_ids, word_ids, gold, 0, 0)


def strict_f1(gold, predicted):
    columns = ([[LABEL_SET.names[label] for label in row] for row in ids.reshape(-1, LENGTH)] for ids in (gold, predicted))
    return 100 * f1_score(*columns, mode="strict", scheme=IOB2, zero_division=0)


@pytest.fixture(scope="module")
def fitted():
    """Train, dev and what `fit` made of them."""
    train, dev = problem(TRAIN_WORDS, 0), problem(DEV_WORDS, 1)
    adaptive._run.clear_cache()
    result = fit(train, dev, LABEL_SET, SETTINGS, KEY)
    return train, dev, result, adaptive._run._cache_size()


def test_a_learned_mixture_beats_every_constant_one(fitted):
    _, dev, result, _ = fitted
    cache = Cache(*dev.words, None, None)
    grid = tuning.Grid((1, 2, 4), SETTINGS.temperature, tuple(np.linspace(0, 1, 11).tolist()))
    constant = tuning.select(tuning.run_grid(cache, encoded(dev.gold), LABEL_SET, grid, "cosine"))
    assert result.selected.f1 > constant.f1 + 5
    weights = adaptive.predict(result.mixer, dev.words).mixture_weights
    near = dev.words.similarities[:, 0] > 0.7
    assert weights[near, 0].mean() < 0.1
    assert weights[~near, 0].mean() > 0.9
    losses = [trial.loss for trial in result.trials[: SETTINGS.epochs]]
    assert losses[-1] < 0.7 * losses[0]


def test_every_trial_is_listed_and_the_first_of_the_best_is_kept(fitted):
    _, dev, result, _ = fitted
    cells = [(temperature, epoch) for temperature in SETTINGS.temperature for epoch in range(1, SETTINGS.epochs + 1)]
    assert [(trial.temperature, trial.epoch) for trial in result.trials] == cells
    scores = [trial.f1 for trial in result.trials]
    assert result.selected is result.trials[scores.index(max(scores))]
    assert result.mixer.temperature == np.float32(result.selected.temperature)
    predicted = adaptive.predict(result.mixer, dev.words).probabilities.argmax(axis=1)
    # Counts are exact; the one division is float32.
    assert result.selected.f1 == pytest.approx(strict_f1(dev.gold, predicted), rel=4 * 2.0**-24)
    assert result.left_out == 0
    assert result.facts["selected"] == asdict(result.selected) | {"k": K}
    assert result.facts["trials"][0].keys() == {"temperature", "epoch", "f1", "loss"}
    weights = adaptive.predict(result.mixer, dev.words).mixture_weights
    assert result.tagger_weight == pytest.approx(weights[:, 0].mean(), rel=1e-4)


def test_all_temperatures_and_keys_share_one_program(fitted):
    train, dev, _, programs = fitted
    assert programs == 1
    fit(train, dev, LABEL_SET, SETTINGS, jax.random.key(7))
    assert adaptive._run._cache_size() == 1


def test_the_same_key_gives_the_same_mixer_and_another_another(fitted):
    train, dev, result, _ = fitted
    again, other = (fit(train, dev, LABEL_SET, SETTINGS, jax.random.key(seed)) for seed in (0, 1))
    assert again.trials == result.trials
    assert other.trials != result.trials
    assert jax.tree.all(jax.tree.map(np.array_equal, again.mixer, result.mixer))


def test_words_nobody_can_label_are_counted(fitted):
    train, dev, _, _ = fitted
    gold = train.gold.copy()
    gold[[3, 8, 9]] = LABELS, LABELS + 1, LABELS
    assert fit(train._replace(gold=gold), dev, LABEL_SET, SETTINGS, KEY).left_out == 3


def test_loss_by_hand_and_what_nobody_can_give_does_not_count():
    network = adaptive.MetaKNetwork.init(jax.random.key(0), 1, 3)  # equal weights
    p_gold = jnp.asarray([[0.5, 0.25], [1.0, 0.0], [0.0, 0.0], [0.25, 0.75]])
    examples = adaptive._Examples(jnp.zeros((4, 3)), p_gold, jnp.asarray([True, True, True, False]))
    expected = -np.log([0.375, 0.5, 1e-10]).mean()
    loss = jax.jit(adaptive._loss)
    np.testing.assert_allclose(loss(network, examples), expected, rtol=1e-5)
    assert loss(network, examples._replace(counts=jnp.zeros(4, bool))) == 0


def test_examples_are_what_each_option_gives_the_gold_label():
    words, gold, _ = problem(30, 2)
    gold[[3, 4]] = LABELS, LABELS + 3  # types that only the gold has
    nearest = adaptive.first_neighbours(words, K)
    temperature = jnp.float32(0.1)
    examples = jax.jit(adaptive._examples)(nearest, jnp.asarray(gold), temperature)
    options = np.asarray(jax.jit(adaptive.candidate_distributions)(nearest, temperature))
    counted = np.flatnonzero(gold < LABELS)
    np.testing.assert_array_equal(examples.counts, gold < LABELS)
    np.testing.assert_allclose(np.asarray(examples.p_gold)[counted], options[counted, :, gold[counted]], rtol=0, atol=1e-6)


def test_features_are_standardised_and_constant_ones_are_left():
    values = np.random.default_rng(3).normal(5, 3, (40, 3)).astype(np.float32)
    values[:, 1] = 1
    examples = adaptive._Examples(jnp.asarray(values), jnp.zeros((40, 2)), jnp.ones(40, bool))
    standardised, mean, scale = jax.device_get(jax.jit(adaptive._standardised)(examples))
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale, [values[:, 0].std(), 1, values[:, 2].std()], rtol=1e-5)
    np.testing.assert_allclose(standardised.features, (values - mean) / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 6}, "adaptive.k: expected a power of 2, got 6"),
        ({"k": 0}, "adaptive.k: expected a power of 2, got 0"),
        ({"epochs": 0}, "adaptive.epochs: expected at least 1, got 0"),
        ({"temperature": ()}, "adaptive.temperature: expected one or more"),
        ({"temperature": (0.1, 0.0)}, "adaptive.temperature: .*more than 0, got .0.1, 0.0."),
        ({"learning_rate": 0.0}, "adaptive.learning_rate: expected more than 0, got 0.0"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **change)


def test_words_that_do_not_fit_are_refused():
    train, dev = problem(20, 0), problem(10, 1)
    with pytest.raises(InputError, match="train: expected as many words as gold labels, 19, got 20"):
        fit(train._replace(gold=train.gold[:19]), dev, LABEL_SET, SETTINGS, KEY)
    with pytest.raises(InputError, match="dev: expected as many words as gold labels, 5, got 10"):
        fit(train, dev._replace(gold=dev.gold[:5]), LABEL_SET, SETTINGS, KEY)
    with pytest.raises(InputError, match="at least 8 neighbours, got one for 4"):
        fit(train, dev, LABEL_SET, replace(SETTINGS, k=8), KEY)


def test_the_combiner_fits_to_as_many_neighbours_as_there_are_and_temperatures_are_those_of_the_metric(monkeypatch):
    fits: list[AdaptiveSettings] = []
    monkeypatch.setattr(adaptive, "fit", lambda *arguments: fits.append(arguments[3]))
    by_cosine: Combiner = AdaptiveCombiner(KnnConfig(temperature=[0.5]))
    by_l2 = AdaptiveCombiner(KnnConfig(metric="l2", temperature=[1.0, 3.0]))
    for combiner in (by_cosine, by_l2):
        combiner.fit(problem(20, 0), problem(10, 1), LABEL_SET, 0)
    assert [settings.k for settings in fits] == [K, K]
    assert [settings.temperature for settings in fits] == [AdaptiveSettings().temperature, (1.0, 3.0)]
    assert by_cosine.settings != by_l2.settings
    with pytest.raises(InputError, match="expected training words, got none"):
        by_cosine.fit(None, problem(10, 1), LABEL_SET, 0)
