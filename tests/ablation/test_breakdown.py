"""Groups, changes and votes against examples written by hand, brute force and seqeval."""

import math

import numpy as np
import pytest

from knn_ner_jax import metrics
from knn_ner_jax.ablation import analysis
from knn_ner_jax.ablation.breakdown import (
    BINS,
    Breakdown,
    PredictionDiff,
    breakdown_rows,
    count_occurrences,
    diff_predictions,
)
from knn_ner_jax.ablation.statistics import Spread
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.evaluation.predictions import Predictions
from knn_ner_jax.io import InputError

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ID = {name: index for index, name in enumerate(NAMES)}


def sentence(text, tags):
    return Sentence(tuple(text.split()), tuple(tags.split()), 1)


def outcome(sentences, tagger, knn, confidence=None, voted=None, agreement=None):
    """Tags of all words in one string; what is not given does not matter."""
    number = sum(len(of.words) for of in sentences)
    ids = [np.array([ID[tag] for tag in tags.split()]) for tags in (tagger, knn, voted or knn)]
    gold = np.array([ID[tag] for of in sentences for tag in of.tags])
    return Predictions(
        NAMES,
        np.repeat(np.arange(len(sentences)), [len(of.words) for of in sentences]),
        gold,
        ids[0],
        ids[1],
        np.ones(number, np.float32) if confidence is None else np.array(confidence, np.float32),
        ids[2],
        np.ones(number, np.float32) if agreement is None else np.array(agreement, np.float32),
    )


# New York is a LOC of two words, once in train (as "O O"); Ann occurs twice there, "New" thrice, "Bo" never.
TRAIN = (sentence("Ann saw New York and New Ann", "B-PER O O O O O O"), sentence("York New", "O O"))
SENTENCES = (
    sentence("Ann met Bo in New York", "B-PER O B-PER O B-LOC I-LOC"),
    sentence("Bo left", "B-PER O"),
)
#         Ann   met Bo    in New   York  | Bo    left
TAGGER = "B-PER O B-LOC O B-LOC O O O"  # Bo is a place, New alone is one, the second Bo is missed
KNN = "O O B-PER O B-LOC I-LOC B-PER B-LOC"  # Ann is lost, the rest is right, and a spurious place is new
CONFIDENCE = [0.95, 1.0, 0.6, 1.0, 0.8, 0.4, 0.95, 1.0]


@pytest.fixture(scope="module")
def by_hand() -> PredictionDiff:
    voted = "O O B-PER O O I-LOC O B-LOC"
    agreement = [0.5, 1.0, 0.75, 1.0, 0.5, 1.0, 0.75, 0.25]
    return diff_predictions(SENTENCES, [outcome(SENTENCES, TAGGER, KNN, CONFIDENCE, voted, agreement)], [TRAIN])


def table(found, kind):
    """{group: (gold, (predicted, precision, recall, f1) of the tagger, of kNN-NER)}; means, None where there is none."""
    return {
        group.name: (
            group.gold.mean,
            *(
                tuple(
                    round(figure.mean, 3) if figure.seeds else None
                    for figure in (of.predicted, of.precision, of.recall, of.f1)
                )
                for of in (group.tagger, group.knn)
            ),
        )
        for group in found.groups
        if group.kind == kind
    }


NOTHING = (0, 0, 0, 0)
EMPTY = (0, (0, None, None, None), (0, None, None, None))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("type", {"LOC": (1, (2, 0, 0, 0), (2, 50, 100, 66.667)), "PER": (3, (1, 100, 33.333, 50), (2, 100, 66.667, 80))}),
        (
            "occurrences in train",
            {
                # Bo as a place; Bo twice as a person, and "left"
                "0": (2, (1, 0, 0, 0), (3, 66.667, 100, 80)),
                "1": (1, NOTHING, (1, 100, 100, 100)),  # New York
                "2-5": (1, (2, 50, 100, 66.667), NOTHING),  # Ann, and New alone
                "6+": EMPTY,
            },
        ),
        (
            "length in words",
            {
                "1": (3, (3, 33.333, 33.333, 33.333), (3, 66.667, 66.667, 66.667)),
                "2": (1, NOTHING, (1, 100, 100, 100)),
                "3": EMPTY,
                "4+": EMPTY,
            },
        ),
        (
            "tagger's confidence",
            {
                "below 0.5": (1, NOTHING, (1, 100, 100, 100)),  # New York: 0.4, of York
                "0.5-0.7": (1, (1, 0, 0, 0), (1, 100, 100, 100)),
                "0.7-0.9": (0, (1, 0, 0, 0), NOTHING),  # New alone: 0.8
                "0.9-0.99": (2, (1, 100, 50, 66.667), (1, 100, 50, 66.667)),
                "0.99-1": (0, NOTHING, (1, 0, 0, 0)),
            },
        ),
    ],
)
def test_groups_by_hand(by_hand: PredictionDiff, kind: str, expected: dict[str, tuple]):
    assert table(by_hand, kind) == expected


def test_changes_by_hand(by_hand: PredictionDiff):
    entities = by_hand.entities
    counts = (entities.fixed, entities.broken, entities.spurious_gone, entities.spurious_new)
    # Bo twice and New York; Ann; Bo as a place and New alone; "left"
    assert [count.mean for count in counts] == [3, 1, 2, 1]
    rows = {row.change: (row.words.mean, row.vote_is_taggers.mean, row.agreement.mean) for row in by_hand.words}
    nan = float("nan")
    assert rows == {
        "fixed": (3, pytest.approx(100 / 3), pytest.approx(250 / 3)),  # Bo, York and Bo, for which only the first two vote
        "broken": (2, 0, 37.5),  # Ann and "left"
        "another error": (0, pytest.approx(nan, nan_ok=True), pytest.approx(nan, nan_ok=True)),
        "unchanged": (3, pytest.approx(200 / 3), pytest.approx(250 / 3)),  # met, in, New, for which O votes
    }


def test_numbers_of_seeds_are_averaged(by_hand: PredictionDiff):
    seeds = [outcome(SENTENCES, TAGGER, tags, CONFIDENCE) for tags in (KNN, TAGGER, KNN.replace("B-PER", "B-LOC"))]
    found = diff_predictions(SENTENCES, seeds, [TRAIN] * 3)
    assert found.entities.fixed == Spread(pytest.approx(4 / 3), pytest.approx(np.std([3, 0, 1], ddof=1)), 3)
    fixed, _, other, _ = found.words
    assert fixed.words == Spread(pytest.approx(4 / 3), pytest.approx(np.std([3, 0, 1], ddof=1)), 3)
    assert fixed.vote_is_taggers == Spread(0, 0, 2)  # of the two seeds that fixed any
    assert other.words.mean == pytest.approx(1 / 3)
    assert other.vote_is_taggers.mean == 0
    assert math.isnan(other.vote_is_taggers.std)
    places = next(group for group in found.groups if group.name == "LOC")
    assert places.tagger.f1 == Spread(0, 0, 3)
    knn = [200 * 1 / 3, 0, 200 * 1 / 5]
    assert places.knn.f1 == Spread(pytest.approx(np.mean(knn)), pytest.approx(np.std(knn, ddof=1)), 3)
    assert places.gain == places.knn.f1
    people = next(group for group in found.groups if group.name == "PER")
    assert people.tagger.f1.mean == pytest.approx(50)
    assert people.gain.mean == pytest.approx((80 + 50 + 0) / 3 - 50)


def test_rows_have_means_and_spreads_of_every_group_and_change(by_hand: PredictionDiff):
    found = diff_predictions(SENTENCES, [outcome(SENTENCES, TAGGER, tags) for tags in (KNN, TAGGER)], [TRAIN] * 2)
    tested = analysis.TestResult({"layers": [1, 2]}, (), {}, {}, {}, None)

    def rows_of(diff, fraction):
        condition = analysis.ConditionResult({"data.train_fraction": fraction}, (), (), None)
        rows = list(breakdown_rows([Breakdown(condition, tested, diff)]))
        assert {(row["data.train_fraction"], row["layers"]) for row in rows} == {(fraction, "[1, 2]")}
        return {(row["kind"], row["group"]): row for row in rows}

    of_two, of_one = rows_of(found, 0.5), rows_of(by_hand, 1.0)
    means = {"number": 3, "tagger_f1": 50, "knn_f1": pytest.approx(65), "gain": pytest.approx(15)}
    spreads = {
        "number_std": 0,
        "tagger_f1_std": 0,
        "knn_f1_std": pytest.approx(450**0.5),
        "gain_std": pytest.approx(450**0.5),
    }
    assert of_two["type", "PER"].items() >= (means | spreads).items()
    assert of_two["words", "fixed"]["number"] == 1.5
    assert of_two["words", "another error"]["agreement"] is None
    assert of_one["words", "broken"]["agreement"] == 37.5
    assert of_one["entities of one system", "spurious_gone"]["number"] == 2
    assert of_one["type", "LOC"]["gain_std"] is None
    assert len(of_one) == len(by_hand.groups) + len(by_hand.words) + 4


def test_a_seed_without_a_groups_entities_does_not_count_in_its_mean():
    sure, unsure = [0.95] * 8, [0.95] * 6 + [0.3, 0.95]  # of the last sentence's Bo, which both systems find
    seeds = [outcome(SENTENCES, KNN, KNN, confidence) for confidence in (sure, unsure)]
    found = diff_predictions(SENTENCES, seeds, [TRAIN] * 2)
    below = next(group for group in found.groups if group.name == "below 0.5")
    assert (below.knn.f1.mean, below.knn.f1.seeds) == (100, 1)
    assert (below.gain.mean, below.gain.seeds) == (0, 1)
    assert (below.gold.mean, below.gold.seeds) == (0.5, 2)


def test_each_seed_counts_occurrences_in_sentences_of_its_own():
    one = outcome(SENTENCES, KNN, KNN)
    found = diff_predictions(SENTENCES, [one, one], [TRAIN, TRAIN[1:]])
    seen = {group.name: group for group in found.groups if group.kind == "occurrences in train"}
    # Ann and New York are in the first sentence alone, so for the second seed all four entities occur nowhere.
    assert {name: (group.gold.mean, group.gold.seeds) for name, group in seen.items()} == {
        "0": (3, 2),
        "1": (0.5, 2),
        "2-5": (0.5, 2),
        "6+": (0, 2),
    }
    assert seen["1"].knn.f1.seeds == 1


def random_sentences(rng, number, vocabulary):
    sentences = []
    for length in rng.integers(1, 9, number):
        words = tuple(vocabulary[word] for word in rng.integers(0, len(vocabulary), length))
        tags = [NAMES[tag] for tag in rng.choice(5, length, p=[0.4, 0.15, 0.15, 0.15, 0.15])]
        legal = [tag if tag[0] != "I" or (i and tags[i - 1][2:] == tag[2:]) else "O" for i, tag in enumerate(tags)]
        legal = [tag if tag[0] != "I" or legal[i - 1] != "O" else "O" for i, tag in enumerate(legal)]
        sentences.append(Sentence(words, tuple(legal), 1))
    return sentences


def test_types_are_those_of_seqeval_and_every_kind_adds_up_to_the_whole():
    rng = np.random.default_rng(0)
    sentences = random_sentences(rng, 300, "abc")
    gold = np.array([ID[tag] for of in sentences for tag in of.tags])
    seeds = []
    for _ in range(2):
        tags = [np.where(rng.random(len(gold)) < 0.2, rng.integers(0, 5, len(gold)), gold) for _ in range(2)]
        tagger, knn = (" ".join(NAMES[index] for index in ids) for ids in tags)
        seeds.append(outcome(sentences, tagger, knn, rng.random(len(gold))))
    found = diff_predictions(sentences, seeds, [random_sentences(rng, 4, "abc") for _ in seeds])

    for system in ("tagger", "knn"):
        reports = [metrics.score(of.tags(of.gold), of.tags(getattr(of, system))) for of in seeds]
        for group in found.groups:
            if group.kind != "type":
                continue
            scores = getattr(group, system)
            for figure in ("precision", "recall", "f1"):
                expected = [report["per_type"][group.name][figure] for report in reports]
                assert getattr(scores, figure).mean == pytest.approx(np.mean(expected), rel=1e-5)
                assert getattr(scores, figure).std == pytest.approx(np.std(expected, ddof=1), rel=1e-3)
            assert group.gold.mean == reports[0]["per_type"][group.name]["support"] > 50

    for number in range(2):
        alone = diff_predictions(sentences, seeds[number : number + 1], [random_sentences(rng, 4, "abc")])
        recall = metrics.score(seeds[number].tags(gold), seeds[number].tags(seeds[number].knn))["recall"]
        for kind in ("type", *BINS):
            groups = [group for group in alone.groups if group.kind == kind]
            groups = [group for group in groups if group.gold.mean]
            there = sum(group.gold.mean for group in groups)
            assert there == sum(tag.startswith("B-") for of in sentences for tag in of.tags)
            assert sum(group.gold.mean * group.knn.recall.mean for group in groups) / there == pytest.approx(
                recall, rel=1e-5
            )


def test_occurrences_are_those_of_brute_force():
    rng = np.random.default_rng(1)
    train = random_sentences(rng, 60, "abA")
    surfaces = {of.words[:length] for of in random_sentences(rng, 60, "abAz") for length in (1, 2, 3)}
    found = count_occurrences(surfaces, train)
    for surface in surfaces:
        windows = (of.words[i : i + len(surface)] for of in train for i in range(len(of.words)))
        assert found[surface] == sum(window == surface for window in windows)
    assert sum(found[surface] > 0 for surface in surfaces) > 20


def test_predictions_of_other_sentences_are_refused():
    seeds = [outcome(SENTENCES, TAGGER, KNN)]
    with pytest.raises(InputError, match=r"predictions\[0\]: expected the words and gold tags of the sentences, got others"):
        diff_predictions(SENTENCES[:1], seeds, [TRAIN])
    with pytest.raises(InputError, match=r"predictions\[0\]"):
        diff_predictions((SENTENCES[0], sentence("Bo left", "O O")), seeds, [TRAIN])
    with pytest.raises(InputError, match="got none"):
        diff_predictions(SENTENCES, [], [])
    with pytest.raises(InputError, match="trains: expected one for each of 1 seeds, got 2"):
        diff_predictions(SENTENCES, seeds, [TRAIN] * 2)
