"""Calibration of scores: the maps against scikit-learn and brute force, the choice where it is known which is right."""

from dataclasses import asdict

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

from knn_ner_jax import calibration
from knn_ner_jax.calibration import Calibration

NUMBER = 4000


def outcomes(seed: int, probability) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw scores, whether each entity is right, with a known probability of its score, and sentences of about two."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0.2, 0.999, NUMBER)
    return raw, rng.random(NUMBER) < probability(raw), np.sort(rng.integers(0, NUMBER // 2, NUMBER))


def odds(scores):
    return scores / (1 - scores)


def too_sure(raw):
    return odds(raw) ** 0.4 / (1 + odds(raw) ** 0.4)


def steps(raw):
    return np.where(raw < 0.7, 0.15, 0.6)


def test_a_temperature_is_the_slope_of_a_logistic_regression_on_the_log_odds():
    raw, is_right, _ = outcomes(0, too_sure)
    regression = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10).fit(np.log(odds(raw))[:, None], is_right)
    found = calibration._fit_temperature(raw, is_right)
    # The bounded search stops within 1e-5 of the inverse.
    assert 1 / found.temperature == pytest.approx(regression.coef_[0, 0], abs=2e-5)
    expected = regression.predict_proba(np.log(odds(raw))[:, None])[:, 1]
    np.testing.assert_allclose(found.apply(raw), expected, atol=1e-4)


def test_an_isotonic_curve_is_that_of_brute_force_with_a_right_and_a_wrong_entity_at_its_ends():
    raw, is_right, _ = outcomes(1, lambda raw: raw**3)
    raw, is_right = raw[:60], is_right[:60] & (raw[:60] > 0.5)
    raw[:2], is_right[:2] = 0.21, (True, False)  # two equal scores
    found = calibration._fit_isotonic(raw, is_right)
    points = {}
    pairs = zip([*raw, raw.min(), raw.max()], [*is_right, True, False], strict=True)
    for score, right in pairs:
        points.setdefault(score, []).append(right)
    scores = sorted(points)
    means = {
        (first, last): np.mean([right for score in scores[first : last + 1] for right in points[score]])
        for first in range(len(scores))
        for last in range(first, len(scores))
    }
    for place, score in enumerate(scores):
        expected = max(min(means[first, last] for last in range(place, len(scores))) for first in range(place + 1))
        assert found.apply(np.array([score]))[0] == pytest.approx(expected, abs=1e-12)
    low, high = found.apply(np.array([0.0, 1.0]))
    assert (low, high) == tuple(found.apply(np.array([min(raw), max(raw)])))
    assert 0 < low < high < 1


@pytest.mark.parametrize(
    ("probability", "method"), [(lambda raw: raw, "none"), (too_sure, "temperature"), (steps, "isotonic")]
)
def test_the_method_that_fits_is_chosen_and_lessens_the_error_of_entities_it_has_not_seen(probability, method):
    raw, is_right, sentences = outcomes(2, probability)
    fit = calibration.fit(raw, is_right, sentences)
    assert fit.calibration.method == method
    assert fit.log_loss.keys() == {"none", "temperature", "isotonic"}
    assert all(fit.log_loss[method] < loss + 1e-3 for loss in fit.log_loss.values())
    fresh, is_fresh_right, _ = outcomes(3, probability)
    before, after = (
        calibration.expected_calibration_error(scores, is_fresh_right) for scores in (fresh, fit.calibration.apply(fresh))
    )
    # The mean error of bins of about n / 15 entities by chance: at most sqrt(15 / (4 n)).
    chance = 100 * np.sqrt(calibration.BINS / (4 * NUMBER))
    assert after < chance
    assert (before > 2 * chance) == (method != "none")


def test_held_out_scores_are_those_of_a_fit_to_the_other_stretches_of_sentences():
    raw, is_right, sentences = outcomes(4, too_sure)
    fit = calibration.fit(raw, is_right, sentences)
    numbers = {sentence: number for number, sentence in enumerate(sorted(set(sentences.tolist())))}
    fifth = np.array([5 * numbers[sentence] // len(numbers) for sentence in sentences.tolist()])
    assert set(fifth) == set(range(5))
    for fold in range(5):
        slope = calibration._fit_temperature(raw[fifth != fold], is_right[fifth != fold])
        np.testing.assert_array_equal(fit.held_out[fifth == fold], slope.apply(raw[fifth == fold]))
    assert fit.calibration == calibration._fit_temperature(raw, is_right)


def test_a_map_that_is_no_better_than_chance_would_have_it_is_not_chosen():
    rng = np.random.default_rng(11)
    chosen = []
    for _ in range(40):
        raw = rng.uniform(0.2, 0.9, 500)
        chosen.append(calibration.fit(raw, rng.random(500) < raw, np.arange(500)).calibration.method)
    # By the least loss alone three of these would be temperatures.
    assert chosen.count("none") >= 38


@pytest.mark.parametrize("number", [0, 1, calibration.FEWEST_ENTITIES - 1])
def test_few_entities_leave_scores_as_they_are(number):
    raw, is_right, sentences = (column[:number] for column in outcomes(5, steps))
    fit = calibration.fit(raw, is_right, sentences)
    assert (fit.calibration, fit.log_loss) == (Calibration(), {})
    np.testing.assert_array_equal(fit.held_out, raw)


@pytest.mark.parametrize("is_right", [True, False])
def test_entities_that_are_all_right_or_all_wrong_make_nothing_certain(is_right):
    raw, _, sentences = (column[: calibration.FEWEST_ENTITIES] for column in outcomes(6, steps))
    fit = calibration.fit(raw, np.full(len(raw), is_right), sentences)
    scores = fit.calibration.apply(raw)
    assert ((scores > 0) & (scores < 1)).all()
    one_sentence = calibration.fit(raw, np.full(len(raw), is_right), np.zeros(len(raw), int))
    assert one_sentence.calibration.method == "none"


def test_a_calibration_survives_json_and_keeps_the_order_of_scores():
    raw, is_right, _ = outcomes(7, steps)
    scores = np.sort(np.random.default_rng(8).random(1000))
    for fitted in (Calibration(), calibration._fit_temperature(raw, is_right), calibration._fit_isotonic(raw, is_right)):
        again = Calibration.from_dict({**asdict(fitted), "knots": [list(knot) for knot in fitted.knots], "test": {}})
        assert again == fitted
        calibrated = again.apply(scores)
        assert (np.diff(calibrated) >= 0).all()
        assert ((calibrated >= 0) & (calibrated <= 1)).all()


def test_the_calibration_error_is_that_of_brute_force():
    raw, is_right, _ = outcomes(9, steps)
    raw[:3] = 0, 1, 1 / 3  # an upper end belongs to its bin
    total, bins = 0.0, []
    for number in range(15):
        inside = [
            (score, right)
            for score, right in zip(raw, is_right, strict=True)
            if number / 15 < score <= (number + 1) / 15 or (number == 0 and score == 0)
        ]
        total += abs(sum(score for score, _ in inside) - sum(right for _, right in inside))
        bins += [len(inside)] * bool(inside)
    assert calibration.expected_calibration_error(raw, is_right) == pytest.approx(100 * total / len(raw), rel=1e-12)
    assert [each.entities for each in calibration.reliability(raw, is_right)] == bins
    assert calibration.expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0
    assert calibration.reliability(np.zeros(0), np.zeros(0, bool)) == []


def test_precision_at_recall_is_that_of_scikit_learns_curve():
    raw, is_right, _ = outcomes(10, too_sure)
    raw = raw.round(2)  # many are equal
    missed = 700
    num_gold = int(is_right.sum()) + missed
    points = calibration.precision_at_recall(raw, is_right, num_gold)
    precision, recall, thresholds = precision_recall_curve(is_right, raw)
    recall = recall * is_right.sum() / num_gold
    assert [point.recall for point in points] == list(range(10, 100, 10))
    for point in points:
        reaching = np.flatnonzero(recall[:-1] >= point.recall / 100)
        if not len(reaching):
            assert (point.precision, point.threshold) == (None, None)
            continue
        highest = reaching[-1]
        assert point.threshold == thresholds[highest]
        assert point.precision == pytest.approx(100 * precision[highest], rel=1e-12)
    assert points[0].precision > points[5].precision
    assert points[-1].precision is None


def test_nothing_predicted_reaches_no_recall():
    points = calibration.precision_at_recall(np.zeros(0), np.zeros(0, bool), num_gold=3)
    assert {(point.precision, point.threshold) for point in points} == {(None, None)}
