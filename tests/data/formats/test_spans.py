"""Spans that cannot be tags: each is counted by its reason; and what a span becomes beside words, sentences and others."""

from pathlib import Path

import pytest
from helpers.span_files import faults, sentences_of

from knn_ner_jax.data import spans
from knn_ner_jax.data.readers import RawSplit
from knn_ner_jax.data.spans import Document, Draft, Mark, Reading, Span, add_document, add_drafts


def read(text: str, *places: tuple[int, int, str], cut_spans: str = "snap", **own: object) -> RawSplit:
    raw = RawSplit(Path("train"))
    add_document(raw, Document(text, [Span(*place) for place in places], 7, **own), cut_spans)  # type: ignore[arg-type]
    return raw


@pytest.mark.parametrize(
    ("text", "place", "reason", "tags"),
    [
        ("Ann Lee", (3, 3, "X"), spans.EMPTY, "O O"),
        ("Ann  Lee", (3, 5, "X"), spans.BLANK, "O O"),
        ("Ann\nLee", (0, 7, "X"), spans.ACROSS, "O|O"),
        ("Ann\r\n\r\nLee", (2, 8, "X"), spans.ACROSS, "O|O"),
        ("Ann Lee", (1, 3, "X"), spans.CUT_SNAP, "B-X O"),
        ("Ann Lee", (2, 5, "X"), spans.CUT_SNAP, "B-X I-X"),
        ("😀 Lee", (2, 4, "X"), spans.CUT_SNAP, "O B-X"),
    ],
)
def test_each_limit_is_counted(text: str, place: tuple[int, int, str], reason: str, tags: str):
    raw = read(text, place)
    assert raw.skipped == {reason: 1}
    assert raw.tags == [line.split(" ") for line in tags.split("|")]
    assert raw.bad_lines == []


def test_blanks_around_a_span_cut_nothing():
    raw = read("Ann Lee\n", (3, 8, "X"))
    assert raw.tags == [["O", "B-X"]]
    assert not raw.skipped


def test_of_spans_that_overlap_the_longest_is_kept_then_the_first():
    raw = read("a b c d e", (0, 1, "X"), (0, 5, "Y"), (4, 9, "Z"), (0, 5, "X"), (0, 5, "Y"))
    assert raw.tags == [["B-Y", "I-Y", "I-Y", "O", "O"]]
    assert raw.skipped == {spans.OVERLAP: 3, spans.TWICE: 1}
    assert read("a b", (0, 1, "X"), (0, 1, "Y")).tags == [["B-X", "O"]]


def test_spans_side_by_side_are_two():
    assert read("北京上海", (0, 2, "X"), (2, 4, "X")).tags == [["B-X", "I-X", "B-X", "I-X"]]


def test_a_span_that_cuts_a_word_is_refused_on_demand_and_counted():
    raw = read("so\nAnn-Lee", (3, 6, "PER"), cut_spans="refuse")
    expected = "expected a span of whole words (cut_spans: snap reads it as them)"
    assert faults(raw) == [f"train:7: found the span 'Ann', which cuts 'Ann-Lee', {expected}"]
    assert raw.skipped == {spans.CUT_REFUSE: 1}


def test_sentences_are_lines_of_the_text_and_every_line_end_counts():
    raw = read("a\rb\nc\r\nd\u2028e\x85f", (0, 1, "X"), (9, 10, "Y"))
    assert sentences_of(raw) == ["a/B-X", "b/O", "c/O", "d/O", "e/B-Y", "f/O"]
    assert {rows[0].line for rows in raw.sentences} == {7}


def test_own_words_and_sentences_are_taken():
    own = {"words": [(0, 3), (3, 7), (8, 9), (9, 10)], "sentences": [(0, 7, 1), (8, 10, 2)]}
    raw = read("Ann-Lee x.", (0, 7, "PER"), **own)
    assert sentences_of(raw) == ["Ann/B-PER -Lee/I-PER", "x/O ./O"]
    assert [rows[0].line for rows in raw.sentences] == [1, 2]


def test_own_words_that_are_blank_are_counted_and_those_across_a_line_end_refused():
    raw = read("a \nb c\nd", words=[(0, 1), (1, 3), (3, 4), (5, 8)])
    assert sentences_of(raw) == ["a/O", "b/O"]
    assert raw.skipped == {spans.BLANK_TOKEN: 1}
    assert faults(raw) == ["train:7: found the token 'c\\nd', expected tokens that lie within a line or a sentence"]


def test_a_text_without_words_is_no_sentence():
    assert read(" \n\t\u200b").sentences == []


def test_the_reading_is_the_one_under_which_fewest_spans_contradict_their_texts():
    marks = [Mark(3, 6, "X", "Ann"), Mark(7, 10, "X", "Bob")]
    raw = RawSplit(Path("train"))
    add_drafts(raw, [Draft("😀 Ann Bob", marks, 1)], [Reading(), Reading("UTF-16 code units")], "snap")
    assert sentences_of(raw) == ["😀/O Ann/B-X Bob/B-X"]
    # Where all contradict it, the first is taken, and each span is a bad line.
    raw = RawSplit(Path("train"))
    add_drafts(raw, [Draft("Ann Bob", [Mark(0, 3, "X", "Eve")], 4)], [Reading(), Reading("bytes")], "snap")
    assert faults(raw) == ["train:4: found 'Ann' from 0 to 3, expected 'Eve', the text that the file gives that span"]


def test_the_text_beside_a_span_may_write_line_ends_as_blanks():
    raw = RawSplit(Path("train"))
    add_drafts(raw, [Draft("Ann\u00a0 Lee", [Mark(0, 8, "X", " Ann Lee ")], 1)], [Reading()], "snap")
    assert raw.tags == [["B-X", "I-X"]]


def test_many_nested_spans_take_no_long_time():
    text = "a " * 2000
    raw = read(text, *((start, 4000 - start, "X") for start in range(0, 2000)))
    assert raw.skipped.total() == 1999
