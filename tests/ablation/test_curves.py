"""Where kNN-NER with less meets the tagger alone with all: by its mean, and surely."""

import pytest

from knn_ner_jax.ablation.curves import Curve
from knn_ner_jax.ablation.significance import Comparison, Estimate

SHARES = (0.1, 0.5, 1.0)
MATCHES = "kNN-NER (datastore.share 1.0) matches the tagger alone at data.train_share 1.0: by its mean"


@pytest.mark.parametrize(
    ("gains", "meets", "exceeds", "words"),
    [
        ([-2.0, -0.1, 1.3], 1.0, 1.0, "at 1.0 alone, with the whole interval above 0 at 1.0 alone."),
        ([-2.0, 0.3, 1.3], 0.5, 1.0, "from 0.5 on, with the whole interval above 0 at 1.0 alone."),
        ([0.0, 1.1, 1.3], 0.1, 0.5, "from 0.1 on, with the whole interval above 0 from 0.5 on."),
        ([0.5, 2.0, 1.0], 0.1, None, "from 0.1 on, with the whole interval above 0 nowhere."),
        ([0.5, -0.1, 0.3], 1.0, None, "at 1.0 alone, with the whole interval above 0 nowhere."),
        ([2.0, 2.0, -0.3], None, None, "nowhere, with the whole interval above 0 nowhere."),
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
    assert curve.in_words() == f"{MATCHES} {words}"
