"""Where kNN-NER with less meets the tagger alone with all: by its mean, and surely."""

import pytest

from knn_ner_jax.ablation.curves import Curve
from knn_ner_jax.ablation.significance import Comparison, Estimate

SHARES = (0.1, 0.5, 1.0)
REACHES = "kNN-NER (datastore.share 1.0) reaches the tagger alone at data.train_share 1.0 from"


@pytest.mark.parametrize(
    ("gains", "meets", "exceeds", "words"),
    [
        ([-2.0, -0.1, 1.3], 1.0, 1.0, "1.0 on by its mean, from 1.0 on with its whole interval above 0."),
        ([-2.0, 0.3, 1.3], 0.5, 1.0, "0.5 on by its mean, from 1.0 on with its whole interval above 0."),
        ([0.0, 1.1, 1.3], 0.1, 0.5, "0.1 on by its mean, from 0.5 on with its whole interval above 0."),
        ([0.5, 2.0, 1.0], 0.1, None, "0.1 on by its mean, from no value on with its whole interval above 0."),
        ([0.5, -0.1, 0.3], 1.0, None, "1.0 on by its mean, from no value on with its whole interval above 0."),
        ([2.0, 2.0, -0.3], None, None, "no value on, not even by its mean."),
    ],
)
def test_two_curves_meet_where_the_mean_stays_above_and_surely_where_the_interval_does(gains, meets, exceeds, words):
    estimate = Estimate(50.0, 49.0, 51.0)
    compared = {
        value: Comparison(estimate, estimate, Estimate(gain, gain - 1, gain + 1))
        for value, gain in zip(SHARES, gains, strict=True)
    }
    curve = Curve("data.train_share", {"datastore.share": 1.0}, dict.fromkeys(SHARES), compared)
    assert (curve.meets_at, curve.exceeds_at) == (meets, exceeds)
    assert curve.in_words() == f"{REACHES} {words}"
