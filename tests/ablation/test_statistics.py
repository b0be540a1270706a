"""The bootstrap: calibrated without a gain, powerful with one, and what NumPy computes."""

import logging

import jax
import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from knn_ner_jax.ablation.statistics import compare, sentence_counts
from knn_ner_jax.io import InputError
from tools.calibration import excludes_zero, f1s, gains, simulate, without_mean_gain

TRIALS = 500
SENTENCES = 400


def losses(counts):
    """[2, seeds, sentences] what each sentence adds to F1, to first order."""
    right, predicted, gold = np.moveaxis(counts, -1, 0)
    return 200 * right - f1s(counts.sum(axis=2))[..., None] * (predicted + gold)


def off_diagonal(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)]


def test_simulated_seeds_resemble_real_ones():
    # Three seeds of MiniLM on the test split of WNUT-17: errors correlate by 0.86 between seeds, by 0.91 to 0.97 between
    # the systems of one seed, and what kNN-NER adds by 0.0 to 0.2; it changes the counts of 3 to 12% of the sentences.
    counts = simulate(np.random.default_rng(0), 3, 20_000)
    of_system = losses(counts)
    for system in of_system:
        np.testing.assert_allclose(off_diagonal(np.corrcoef(system)), 0.86, atol=0.04)
    assert 0.91 < np.corrcoef(of_system[:, 0])[0, 1] < 0.97
    of_gains = off_diagonal(np.corrcoef(of_system[1] - of_system[0]))
    assert of_gains.min() > 0.02
    assert of_gains.max() < 0.25
    assert 0.03 < (counts[0] != counts[1]).any(axis=-1).mean() < 0.2


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seeds", [1, 3])
def test_without_a_gain_2_to_8_percent_are_significant(seeds):
    rng = np.random.default_rng(seeds)
    counts = simulate(rng, seeds, SENTENCES, 0.05)  # swapping undoes any gain
    swap = rng.random((TRIALS, 1, 1, SENTENCES, 1)) < 0.5
    assert 0.02 <= excludes_zero(np.where(swap, counts[::-1], counts)).mean() <= 0.08


@pytest.mark.slow
def test_where_seeds_gain_differently_fewer_than_a_tenth_are_significant():
    counts = without_mean_gain(np.random.default_rng(5), 3, 1.0, TRIALS)
    of_seeds = gains(counts)
    assert of_seeds.mean() == pytest.approx(0, abs=0.1)
    assert 0.02 <= excludes_zero(counts).mean() <= 0.1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_gain_of_2_is_significant_in_80_percent(seeds):
    rng = np.random.default_rng(seeds)
    counts = np.stack([simulate(rng, seeds, 1287, 0.04) for _ in range(60)])  # as many sentences as WNUT-17 tests on
    assert gains(counts).mean() == pytest.approx(2, abs=0.2)
    assert excludes_zero(counts).mean() >= 0.8


def numpy_interval(counts, rng, resamples):
    """[3, 3] what `bootstrap` returns: sentences drawn by index, every score taken on the drawn sentences."""
    _, seeds, sentences, _ = counts.shape

    def figures(of_sentences):
        first, second = f1s(of_sentences.sum(axis=2))
        return np.stack([first, second, second - first])

    observed = figures(counts)
    drawn = np.stack([figures(counts[:, :, rng.integers(0, sentences, sentences)]) for _ in range(resamples)])
    means = drawn.mean(axis=2)
    for row in range(3) if seeds > 1 else ():
        explained = np.mean([np.var(of_seeds - observed[row], ddof=1) for of_seeds in drawn[:, row]])
        variance = max(np.var(observed[row], ddof=1) - explained, 0)
        means[:, row] += rng.standard_t(seeds - 1, resamples) * np.sqrt(variance / seeds)
    return np.stack([observed.mean(axis=1), *np.quantile(means, [0.025, 0.975], axis=0)], axis=1)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seeds", [3, 1])
def test_intervals_are_those_of_numpy(seeds):
    rng = np.random.default_rng(2)
    counts = simulate(rng, seeds, 150)
    counts[1, 0, :30, 1] += 1  # one seed gains less than the others by more than sentences explain
    expected = numpy_interval(counts, rng, 4000)
    found = np.array(compare(*counts, jax.random.key(0), resamples=4000))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5)
    width = expected[:, 2] - expected[:, 1]
    # The ends of two intervals from 4,000 draws each: about 0.015 of a width apart, more where t has long tails.
    np.testing.assert_allclose((found - expected) / width[:, None], np.zeros((3, 3)), atol=0.06)


def test_seeds_that_sentences_do_not_tell_apart_have_the_interval_of_student():
    # All sentences are equal, so that resampling them changes nothing.
    right = np.array([[60, 62, 64], [63, 62, 70]])
    counts = np.tile(np.stack([right, np.full((2, 3), 100), np.full((2, 3), 100)], axis=-1)[:, :, None], (1, 1, 20, 1))
    found = compare(*counts, jax.random.key(0), resamples=5000)
    assert found.gain.mean == pytest.approx(3, abs=1e-4)
    half = 4.303 * 3 / np.sqrt(3)  # t(2) at 0.975; gains of 3, 0 and 6
    assert found.gain.high - 3 == pytest.approx(half, rel=0.1)
    assert 3 - found.gain.low == pytest.approx(half, rel=0.1)


def test_no_interval_leaves_what_f1_can_be():
    right = np.array([0, 50, 100])  # seeds that have learned nothing, half and all
    counts = np.stack([right, np.full(3, 100), np.full(3, 100)], axis=-1)[:, None]
    found = compare(counts, counts[::-1], jax.random.key(0), 1000)
    for f1 in (found.first, found.second):
        assert (f1.mean, f1.low, f1.high) == (pytest.approx(50), 0, 100)
    assert (found.gain.low, found.gain.high) == (-100, 100)


def test_the_mean_is_that_of_seqeval_and_two_equal_systems_differ_by_nothing():
    rng = np.random.default_rng(3)
    gold, first, second = (
        [[["O", "B-X", "I-X", "B-Y", "I-Y"][tag] for tag in rng.integers(0, 5, 6)] for _ in range(40)] for _ in range(3)
    )
    second[:20] = gold[:20]
    counts = np.stack([sentence_counts(gold, tags) for tags in (first, second)])[:, None]
    found = compare(*counts, jax.random.key(0), resamples=200)
    expected = [100 * f1_score(gold, tags, mode="strict", scheme=IOB2) for tags in (first, second)]
    assert (found.first.mean, found.second.mean) == pytest.approx(expected, rel=1e-5)
    assert found.gain.mean == pytest.approx(expected[1] - expected[0], rel=1e-5)
    assert found.gain.excludes_zero
    assert found.gain.low < found.gain.mean < found.gain.high

    alike = compare(counts[0], counts[0], jax.random.key(0), resamples=200)
    assert alike.gain == (0, 0, 0)
    assert not alike.gain.excludes_zero
    assert alike.first == alike.second
    mirrored = compare(*counts[::-1], jax.random.key(0), resamples=200)
    assert mirrored.gain.mean == -found.gain.mean
    assert mirrored.gain.excludes_zero


def test_sentence_counts_are_those_of_seqeval():
    rng = np.random.default_rng(4)
    names = ["O", "O", "B-X", "I-X", "B-Y", "I-Y"]
    gold = [[names[tag] for tag in rng.integers(0, 6, length)] for length in rng.integers(1, 9, 300)]
    predicted = [[tag if rng.random() < 0.8 else names[rng.integers(0, 6)] for tag in tags] for tags in gold]
    right, found, there = sentence_counts(gold, predicted).sum(axis=0)
    assert right > 50
    strict = {"mode": "strict", "scheme": IOB2}
    assert right / found == pytest.approx(precision_score(gold, predicted, **strict))
    assert right / there == pytest.approx(recall_score(gold, predicted, **strict))

    counts = sentence_counts([["B-X", "I-X", "O"], ["O"], ["B-X", "B-Y"]], [["B-X", "O", "B-Y"], ["O"], ["B-X", "I-Y"]])
    assert counts.tolist() == [[0, 2, 1], [0, 0, 0], [1, 1, 2]]


def test_only_a_new_shape_compiles(caplog):
    counts = simulate(np.random.default_rng(5), 2, 23)

    def compiled(*arguments):
        caplog.clear()
        with caplog.at_level(logging.WARNING), jax.log_compiles():
            result = compare(*arguments, resamples=70)
        return result, sum("Compiling jit(bootstrap)" in record.getMessage() for record in caplog.records)

    first, once = compiled(*counts, jax.random.key(0))
    again, never = compiled(*counts, jax.random.key(0))
    other, neither = compiled(*counts[::-1], jax.random.key(7))
    assert (once, never, neither) == (1, 0, 0)
    assert first == again
    assert first.first[1:] != other.second[1:]


def test_mistakes_are_named():
    counts, key = simulate(np.random.default_rng(6), 2, 5), jax.random.key(0)
    with pytest.raises(InputError, match=r"shapes \(2, 5, 3\) and \(1, 5, 3\)"):
        compare(counts[0], counts[1, :1], key)
    other = counts.copy()
    other[1, 1, 0, 2] += 1
    with pytest.raises(InputError, match="the same gold entities"):
        compare(*other, key)
    with pytest.raises(InputError, match=r"level: expected between 0 and 1, got 95"):
        compare(*counts, key, level=95)
    with pytest.raises(InputError, match="resamples: expected at least 1, got 0"):
        compare(*counts, key, resamples=0)
    with pytest.raises(InputError, match="each as long"):
        sentence_counts([["O"], ["O"]], [["O"], ["O", "O"]])
