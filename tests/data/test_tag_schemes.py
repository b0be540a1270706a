"""Tag schemes -> IOB2 by strict spans, detection of the scheme, and label ids."""

import itertools

import numpy as np
import pytest
from seqeval import scheme as seqeval_scheme

from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.tag_schemes import LabelSet, Span
from knn_ner_jax.io import InputError

SEQEVAL = {
    "BIO": seqeval_scheme.IOB2,
    "IOB1": seqeval_scheme.IOB1,
    "BIOES": seqeval_scheme.IOBES,
    "BMES": seqeval_scheme.IOBES,
    "BILOU": seqeval_scheme.BILOU,
}
PREFIXES = {"BIO": "BI", "IOB1": "BI", "BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU"}
FIRST_INSIDE_LAST_UNIT = {"BIO": "BIIB", "IOB1": "IIII", "BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU"}


def seqeval_entities(tags: list[str], scheme: str) -> list[tuple[str, int, int]]:
    # seqeval has no BMES; its IOBES is the same but for the letter inside.
    iobes = [tag.replace("M-", "I-", 1) for tag in tags] if scheme == "BMES" else tags
    return [entity.to_tuple()[1:] for entity in seqeval_scheme.Entities([iobes], SEQEVAL[scheme]).entities[0]]


def spell(spans: list[Span], length: int, scheme: str) -> list[str]:
    """Writes disjoint spans in a scheme, the way an annotator would."""
    first, inside, last, unit = FIRST_INSIDE_LAST_UNIT[scheme]
    tags = ["O"] * length
    for number, (type_, start, end) in enumerate(spans):
        touches = scheme == "IOB1" and number and spans[number - 1][::2] == (type_, start)
        prefixes = [first, *[inside] * (end - start - 2), last] if end - start > 1 else [unit]
        prefixes[0] = "B" if touches else prefixes[0]
        tags[start:end] = [f"{prefix}-{type_}" for prefix in prefixes]
    return tags


def random_spans(rng: np.random.Generator, length: int) -> list[Span]:
    cuts = [0, *sorted(rng.choice(np.arange(1, length), min(length - 1, rng.integers(1, 6)), replace=False)), length]
    bounds = [(int(a), int(b)) for a, b in itertools.pairwise(cuts) if rng.random() < 0.7]
    return [Span(str(rng.choice(["PER", "LOC"])), start, end) for start, end in bounds]


@pytest.mark.parametrize("scheme", PREFIXES)
def test_random_tags_keep_exactly_the_entities_of_seqevals_strict_mode(scheme: str):
    rng = np.random.default_rng(0)
    vocabulary = ["O", *(f"{prefix}-{type_}" for prefix in PREFIXES[scheme] for type_ in ("PER", "creative-work"))]
    illegal_seen = 0
    for length in rng.integers(1, 9, 1000):
        tags = list(rng.choice(vocabulary, length))
        expected = seqeval_entities(tags, scheme)
        assert [tuple(span) for span in tag_schemes.strict_spans(tags, scheme)] == expected
        reading = tag_schemes.to_iob2(tags, scheme)
        assert seqeval_entities(list(reading.iob2), "BIO") == expected
        covered = {i for _, start, end in expected for i in range(start, end)}
        assert reading.illegal == tuple(i for i in range(length) if tags[i] != "O" and i not in covered)
        assert all(reading.iob2[i] == "O" for i in range(length) if i not in covered)
        assert tag_schemes.to_iob2(reading.iob2, "BIO") == (reading.iob2, ())
        illegal_seen += len(reading.illegal)
    assert illegal_seen > 100


@pytest.mark.parametrize("scheme", PREFIXES)
def test_well_formed_spans_are_recovered_and_their_scheme_is_detected(scheme: str):
    rng = np.random.default_rng(1)
    lengths = [int(length) for length in rng.integers(2, 12, 200)]
    gold = [random_spans(rng, length) for length in lengths]
    tags = [spell(spans, length, scheme) for spans, length in zip(gold, lengths, strict=True)]
    for spans, sequence, length in zip(gold, tags, lengths, strict=True):
        assert tag_schemes.strict_spans(sequence, scheme) == spans
        assert tag_schemes.to_iob2(sequence, scheme) == (tuple(spell(spans, length, "BIO")), ())
    assert tag_schemes.detect_scheme(tags) == scheme


@pytest.mark.parametrize(
    ("scheme", "tags", "iob2", "illegal"),
    [
        ("BIO", "B-X I-X O B-X B-X", "B-X I-X O B-X B-X", []),
        ("BIO", "I-X I-X O I-X", "O O O O", [0, 1, 3]),
        ("BIO", "B-X I-Y I-X", "B-X O O", [1, 2]),
        ("BIO", "B-X I-Y I-Y B-Y I-Y", "B-X O O B-Y I-Y", [1, 2]),
        ("IOB1", "I-X I-X O I-Y", "B-X I-X O B-Y", []),
        ("IOB1", "I-X B-X I-X", "B-X B-X I-X", []),
        ("IOB1", "I-X I-Y", "B-X B-Y", []),
        ("IOB1", "O B-X", "O O", [1]),
        ("IOB1", "I-X B-Y", "B-X O", [1]),
        ("BIOES", "B-X I-X E-X S-Y O", "B-X I-X I-X B-Y O", []),
        ("BIOES", "B-X E-X B-X E-X", "B-X I-X B-X I-X", []),
        ("BIOES", "B-X I-X O", "O O O", [0, 1]),
        ("BIOES", "B-X I-X", "O O", [0, 1]),
        ("BIOES", "I-X E-X", "O O", [0, 1]),
        ("BIOES", "B-X I-Y E-X", "O O O", [0, 1, 2]),
        ("BIOES", "B-X B-X E-X", "O B-X I-X", [0]),
        ("BIOES", "S-X I-X E-X S-X", "B-X O O B-X", [1, 2]),
        ("BMES", "B-X M-X M-X E-X S-X", "B-X I-X I-X I-X B-X", []),
        ("BMES", "M-X E-X O B-X", "O O O O", [0, 1, 3]),
        ("BILOU", "B-X I-X L-X U-Y O", "B-X I-X I-X B-Y O", []),
        ("BILOU", "B-X L-X B-X L-X", "B-X I-X B-X I-X", []),
        ("BILOU", "B-X I-X O I-X L-X", "O O O O O", [0, 1, 3, 4]),
        ("BILOU", "B-X L-Y U-X", "O O B-X", [0, 1]),
    ],
)
def test_hand_written_sequences(scheme: str, tags: str, iob2: str, illegal: list[int]):
    assert tag_schemes.to_iob2(tags.split(), scheme) == (tuple(iob2.split()), tuple(illegal))


def test_spans_carry_type_start_and_exclusive_end():
    assert tag_schemes.strict_spans(["O", "B-X", "I-X", "B-Y"], "BIO") == [Span("X", 1, 3), Span("Y", 3, 4)]


@pytest.mark.parametrize(
    ("sequences", "scheme"),
    [
        (["O O"], "BIO"),
        (["B-X I-X", "O B-X"], "BIO"),
        (["O I-X", "I-X B-X"], "IOB1"),
        (["B-X I-X", "B-X O", "I-X O"], "BIO"),
        (["I-X I-X", "I-X O", "O B-X"], "IOB1"),
        (["B-X I-X E-X"], "BIOES"),
        (["S-X"], "BIOES"),
        (["S-X", "B-X E-X"], "BIOES"),
        (["S-X", "B-X M-X E-X"], "BMES"),
        (["M-X"], "BMES"),
        (["B-X I-X L-X"], "BILOU"),
        (["U-X"], "BILOU"),
    ],
)
def test_detection_takes_the_scheme_that_forbids_least(sequences: list[str], scheme: str):
    assert tag_schemes.detect_scheme([tags.split() for tags in sequences]) == scheme


@pytest.mark.parametrize("sequences", [["B-X M-X", "I-X"], ["B-X I-X E-X S-X M-X"]])
def test_prefixes_of_two_schemes_are_an_error_that_names_them(sequences: list[str]):
    with pytest.raises(InputError) as error:
        tag_schemes.detect_scheme([tags.split() for tags in sequences])
    used = sorted({tag[0] for tags in sequences for tag in tags.split()})
    assert f"the tag prefixes {' '.join(used)};" in str(error.value)
    for scheme, prefixes in PREFIXES.items():
        assert f"{scheme} ({' '.join(prefixes)})" in str(error.value)


@pytest.mark.parametrize("text", ["O", "B-X", "I-PER.NAM", "M-X", "E-X", "S-creative-work", "L-X", "U-X"])
def test_what_is_a_tag(text: str):
    assert tag_schemes.is_tag(text)


@pytest.mark.parametrize("text", ["", "o", "B", "B-", "-X", "X-PER", "b-PER", "BX", "O-X", "B_X", "T-X"])
def test_what_is_no_tag(text: str):
    assert not tag_schemes.is_tag(text)


@pytest.mark.parametrize(("tag", "type_"), [("O", ""), ("B-PER.NAM", "PER.NAM"), ("I-creative-work", "creative-work")])
def test_the_type_of_a_tag(tag: str, type_: str):
    assert tag_schemes.tag_type(tag) == type_


def test_label_ids_are_outside_then_begin_and_inside_of_each_type():
    label_set = LabelSet(("PER", "LOC"))
    assert label_set.names == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert label_set.ids() == {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3, "I-LOC": 4}
    assert len(label_set) == 5
    assert len(LabelSet(())) == 1


def test_a_label_set_has_both_prefixes_of_every_type_in_sorted_order():
    assert LabelSet.of([["O", "B-Z"], ["B-A", "I-A", "O"], []]).types == ("A", "Z")
    assert LabelSet.of([["O"]]).names == ("O",)


def test_a_union_keeps_the_ids_of_the_first_set_and_appends_the_rest():
    first, second = LabelSet(("PER", "LOC")), LabelSet(("EVENT", "LOC", "ART"))
    union = first.union(second)
    assert union.types == ("PER", "LOC", "EVENT", "ART")
    assert first.ids().items() <= union.ids().items()
    assert set(union.types) == set(first.types) | set(second.types)
    assert first.union(first) == first
