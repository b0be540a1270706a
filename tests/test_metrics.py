"""Span counts on device and seqeval's scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2, Entities

from knn_ner_jax import metrics
from knn_ner_jax.data.tag_schemes import LabelSet, Span, wang2022_spans

MAX_LENGTH = 9
# The last set is not in a label set's order: counts follow the types as the labels name them.
LABEL_SETS = {
    "1 type": LabelSet(("X",)).names,
    "2 types": LabelSet(("creative-work", "X")).names,
    "4 types": LabelSet(("PER", "LOC", "ORG", "EVENT")).names,
    "another order": ("I-B", "B-B", "O", "I-A", "B-A"),
}
count_on_device = jax.jit(metrics.span_counts, static_argnames=("labels", "protocol"))


def random_ids(rng: np.random.Generator, labels: tuple[str, ...], number: int) -> tuple[np.ndarray, ...]:
    """Gold and predictions that agree often enough, and a mask that cuts rows to random lengths, 0 included."""
    gold = rng.integers(0, len(labels), (number, MAX_LENGTH))
    predicted = np.where(rng.random(gold.shape) < 0.25, rng.integers(0, len(labels), gold.shape), gold)
    mask = np.arange(MAX_LENGTH)[None] < rng.integers(0, MAX_LENGTH + 1, number)[:, None]
    return gold, predicted, mask


def tags_of(ids: np.ndarray, mask: np.ndarray, labels: tuple[str, ...]) -> list[list[str]]:
    return [[labels[i] for i in row[row_mask]] for row, row_mask in zip(ids, mask, strict=True)]


def seqeval_counts(gold: list[list[str]], predicted: list[list[str]], labels: tuple[str, ...]) -> list[list[int]]:
    types = list(dict.fromkeys(label[2:] for label in labels if label != "O"))
    entities = [Entities(tags, IOB2) for tags in (gold, predicted)]
    by_type = [[of_side.filter(type_) for type_ in types] for of_side in entities]
    right = [len(in_gold & actual) for in_gold, actual in zip(*by_type, strict=True)]
    return [right, [len(actual) for actual in by_type[1]], [len(in_gold) for in_gold in by_type[0]]]


@pytest.mark.parametrize("name", LABEL_SETS)
def test_span_counts_equal_seqevals_strict_mode_in_both_layouts(name: str):
    labels = LABEL_SETS[name]
    gold, predicted, mask = random_ids(np.random.default_rng(0), labels, 2500)
    expected = seqeval_counts(tags_of(gold, mask, labels), tags_of(predicted, mask, labels), labels)
    assert all(count > 50 for counts in expected for count in counts)
    padded = count_on_device(gold, predicted, mask, labels=labels)
    assert [counts.tolist() for counts in padded] == expected

    # Sentences end to end, one masked gap after each; what stands in a gap must not matter.
    lengths = mask.sum(1)
    places = (np.arange(mask.sum()) + np.repeat(np.arange(len(mask)), lengths))[None]
    size = mask.sum() + len(mask)
    flat_mask = np.zeros((1, size), bool)
    flat_gold, flat_predicted = (np.random.default_rng(1).integers(0, len(labels), (1, size)) for _ in range(2))
    flat_mask[:, places], flat_gold[:, places], flat_predicted[:, places] = True, gold[mask], predicted[mask]
    flattened = count_on_device(flat_gold, flat_predicted, flat_mask, labels=labels)
    assert [counts.tolist() for counts in flattened] == expected


def hand_counts(gold: str, predicted: str) -> list[list[int]]:
    labels = LabelSet(("X", "Y")).names
    ids = [np.array([[labels.index(tag) for tag in tags.split()]]) for tags in (gold, predicted)]
    return [counts.tolist() for counts in count_on_device(*ids, np.ones(ids[0].shape, bool), labels=labels)]


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        ("B-X I-X O", "B-X I-X O", [[1, 0], [1, 0], [1, 0]]),
        ("B-X I-X O", "B-X O O", [[0, 0], [1, 0], [1, 0]]),
        ("B-X I-X O", "B-X I-X I-X", [[0, 0], [1, 0], [1, 0]]),
        ("B-X I-X O", "B-Y I-Y O", [[0, 0], [0, 1], [1, 0]]),
        ("B-X I-X O", "I-X I-X O", [[0, 0], [0, 0], [1, 0]]),
        ("B-X I-X O", "B-X B-X O", [[0, 0], [2, 0], [1, 0]]),
        ("B-X O B-Y", "B-X I-Y B-Y", [[1, 1], [1, 1], [1, 1]]),
        ("O O B-Y", "O O B-Y", [[0, 1], [0, 1], [0, 1]]),
    ],
)
def test_hand_written_counts(gold: str, predicted: str, expected: list[list[int]]):
    assert hand_counts(gold, predicted) == expected


def test_precision_recall_and_f1_are_percentages_and_zero_where_nothing_is_there():
    counts = [jnp.asarray(values) for values in ([3, 0, 0, 0, 2], [4, 0, 5, 0, 2], [6, 0, 0, 5, 2])]
    precision, recall, f1 = metrics.precision_recall_f1(*counts)
    # float32 quotients of small integers: one rounding each
    np.testing.assert_allclose(precision, [75, 0, 0, 0, 100], rtol=1e-6)
    np.testing.assert_allclose(recall, [50, 0, 0, 0, 100], rtol=1e-6)
    np.testing.assert_allclose(f1, [60, 0, 0, 0, 100], rtol=1e-6)


@pytest.mark.parametrize("name", ["1 type", "4 types"])
def test_scores_equal_those_of_seqeval_called_directly(name: str):
    labels = LABEL_SETS[name]
    gold_ids, predicted_ids, mask = random_ids(np.random.default_rng(2), labels, 150)
    gold, predicted = tags_of(gold_ids, mask, labels), tags_of(predicted_ids, mask, labels)
    actual = metrics.score([tuple(tags) for tags in gold], [tuple(tags) for tags in predicted])
    strict = {"mode": "strict", "scheme": IOB2}
    assert actual["precision"] == pytest.approx(100 * precision_score(gold, predicted, **strict), abs=1e-9)
    assert actual["recall"] == pytest.approx(100 * recall_score(gold, predicted, **strict), abs=1e-9)
    assert actual["f1"] == pytest.approx(100 * f1_score(gold, predicted, **strict), abs=1e-9)
    assert actual["f1_default"] == pytest.approx(100 * f1_score(gold, predicted), abs=1e-9)
    assert abs(actual["f1"] - actual["f1_default"]) > 1
    right, in_predicted, in_gold = seqeval_counts(gold, predicted, labels)
    types = [label[2:] for label in labels if label.startswith("B-")]
    assert actual["per_type"].keys() == set(types)
    for number, type_ in enumerate(types):
        expected = {
            "precision": 100 * right[number] / in_predicted[number],
            "recall": 100 * right[number] / in_gold[number],
            "f1": 200 * right[number] / (in_predicted[number] + in_gold[number]),
            "support": in_gold[number],
        }
        assert actual["per_type"][type_] == pytest.approx(expected, abs=1e-9)


def test_device_counts_and_reported_scores_agree():
    labels = LABEL_SETS["4 types"]
    gold, predicted, mask = random_ids(np.random.default_rng(3), labels, 100)
    counts = [np.asarray(counts) for counts in count_on_device(gold, predicted, mask, labels=labels)]
    on_device = metrics.score_counts(*counts, metrics.types_of(labels))
    reported = metrics.score(tags_of(gold, mask, labels), tags_of(predicted, mask, labels))
    del reported["f1_default"]
    per_type, expected_per_type = on_device.pop("per_type"), reported.pop("per_type")
    # float32 against float64: one rounding of a number below 100
    assert on_device == pytest.approx(reported, rel=1e-6)
    assert per_type.keys() == expected_per_type.keys()
    for name, row in expected_per_type.items():
        assert per_type[name] == pytest.approx(row, rel=1e-6)


@pytest.mark.parametrize(
    ("gold", "predicted", "per_type"),
    [
        ([["O", "O"], ["O"]], [["O", "O"], ["O"]], {}),
        ([["O", "I-X"]], [["I-X", "O"]], {}),
        ([["O", "B-X"]], [["O", "O"]], {"X": {"precision": 0, "recall": 0, "f1": 0, "support": 1}}),
        ([["O", "O"]], [["O", "B-X"]], {"X": {"precision": 0, "recall": 0, "f1": 0, "support": 0}}),
    ],
    ids=["none", "illegal tags only", "none predicted", "none in the gold"],
)
def test_where_nothing_can_be_right_all_scores_are_zero_and_nothing_warns(gold: list, predicted: list, per_type: dict):
    actual = metrics.score(gold, predicted)
    assert actual == {"precision": 0, "recall": 0, "f1": 0, "f1_default": 0, "per_type": per_type}


def test_span_counts_under_wang2022_are_those_of_its_rules():
    labels = LabelSet(("X", "creative-work"), "wang2022").names
    gold, predicted, mask = random_ids(np.random.default_rng(0), labels, 10_000)
    pairs = [[wang2022_spans(tags) for tags in tags_of(ids, mask, labels)] for ids in (gold, predicted)]

    def counts(spans_by_sentence: list[list[Span]]) -> list[int]:
        return [sum(span.type == type_ for spans in spans_by_sentence for span in spans) for type_ in ("X", "creative-work")]

    right = [sorted(set(there) & set(actual)) for there, actual in zip(*pairs, strict=True)]
    expected = [counts(right), counts(pairs[1]), counts(pairs[0])]
    assert all(count > 1000 for actual in expected for count in actual)
    actual = count_on_device(gold, predicted, mask, labels=labels, protocol="wang2022")
    assert [count.tolist() for count in actual] == expected


def test_scores_under_wang2022_by_hand():
    gold = [["B-X", "E-X", "O", "S-Y"], ["S-X", "S-X", "O"]]
    predicted = [["B-X", "E-X", "S-Y", "B-Y"], ["B-X", "S-X", "O"]]  # right: X and Y of the first, the first X of the second
    actual = metrics.score_wang2022(gold, predicted)
    assert (actual["precision"], actual["recall"], actual["f1"]) == pytest.approx((75, 75, 75), rel=1e-6)
    assert actual["per_type"]["X"] == pytest.approx({"precision": 100, "recall": 200 / 3, "f1": 80, "support": 3}, rel=1e-6)
    assert actual["per_type"]["Y"] == pytest.approx({"precision": 50, "recall": 100, "f1": 200 / 3, "support": 1}, rel=1e-6)


def test_partial_scores_by_hand():
    gold = [
        ["B-X", "I-X", "I-X", "O", "B-Y", "O"],  # the first is found too short, the second with another type
        ["B-X", "O", "B-Y", "I-Y", "O", "O"],  # found; found too long and of another type
        ["B-Y", "I-Y", "O", "O", "O", "O"],  # missed
        ["O", "O", "O", "O", "O", "O"],
    ]
    predicted = [
        ["B-X", "I-X", "O", "O", "B-X", "O"],
        ["B-X", "O", "B-X", "I-X", "I-X", "O"],
        ["O", "O", "O", "O", "B-Y", "I-Y"],  # spurious
        ["O", "I-X", "O", "O", "O", "O"],  # no entity
    ]
    expected = {  # correct, incorrect, partial, missed, spurious
        "strict": (1, 3, 0, 1, 1),
        "exact": (2, 2, 0, 1, 1),
        "partial": (2, 0, 2, 1, 1),
        "ent_type": (2, 2, 0, 1, 1),
    }
    actual = metrics.partial_scores(gold, predicted, "words")
    assert actual.keys() == expected.keys()
    for scheme, counts in expected.items():
        right = counts[0] + counts[2] / 2
        assert tuple(actual[scheme].values()) == pytest.approx((*counts, *[100 * right / 5] * 3)), scheme


def test_partial_scores_are_strict_where_they_say_so_and_count_every_entity_once():
    labels = LABEL_SETS["4 types"]
    gold_ids, predicted_ids, mask = random_ids(np.random.default_rng(4), labels, 400)
    gold, predicted = tags_of(gold_ids, mask, labels), tags_of(predicted_ids, mask, labels)
    partial, strict = metrics.partial_scores(gold, predicted, "words"), metrics.score(gold, predicted)
    right, in_predicted, in_gold = (sum(counts) for counts in seqeval_counts(gold, predicted, labels))
    assert [partial["strict"][name] for name in ("precision", "recall", "f1")] == pytest.approx(
        [strict[name] for name in ("precision", "recall", "f1")], rel=1e-12
    )
    assert partial["strict"]["correct"] == right
    for row in partial.values():
        matched = row["correct"] + row["incorrect"] + row["partial"]
        assert (matched + row["spurious"], matched + row["missed"]) == (in_predicted, in_gold)
    assert partial["strict"]["f1"] < min(partial[scheme]["f1"] for scheme in ("exact", "partial", "ent_type"))
    in_spans = [[Entities([tags], IOB2).entities[0] for tags in side] for side in (gold, predicted)]
    same_bounds = sum(
        len({(e.start, e.end) for e in true} & {(e.start, e.end) for e in guess})
        for true, guess in zip(*in_spans, strict=True)
    )
    assert partial["exact"]["correct"] == partial["partial"]["correct"] == same_bounds


def test_partial_scores_of_nothing_are_zero():
    for scores in metrics.partial_scores([["O", "O"]], [["I-X", "O"]], "words").values():
        assert set(scores.values()) == {0}


def test_partial_scores_under_wang2022_are_of_its_entities():
    row = metrics.partial_scores([["B-X", "E-X", "S-Y"]], [["B-X", "E-X", "S-X"]], "wang2022")
    assert (row["strict"]["correct"], row["strict"]["incorrect"], row["exact"]["correct"]) == (1, 1, 2)
