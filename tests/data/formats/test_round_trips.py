"""Spans to a file and back, for every format that can be written; spans to tags and back, in every scheme."""

import importlib.util
import itertools
import tempfile
from pathlib import Path

import pytest
from helpers.span_files import SUFFIXES, WRITERS, Text
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.formats import detection
from knn_ner_jax.data.readers import RawSplit
from knn_ner_jax.data.spans import Document, Span, add_document, tags_to_spans
from knn_ner_jax.data.words import word_spans

# Letters, a letter with its mark, a script without spaces, signs beyond the BMP and joined ones, what formats escape.
SIGNS = [
    *"aZ9é '-.,#_|[]*;:\\/&<>\"{}",
    "e\u0301",
    "京",
    "น้ำ",
    "😀",
    "👩\u200d🚒",
    "𝒳",
    "->",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\ufeff",
]
TYPES = st.sampled_from(["PER", "a_b", "GPE.x", "B-X", "名"])
LINES = st.lists(st.sampled_from(SIGNS), min_size=1, max_size=25).map("".join)
# The same examples at every run: what fuzzing finds is tools/fuzz_readers.py's.
EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@st.composite
def texts_with_spans(draw: st.DrawFn) -> Text:
    text = draw(LINES)
    words = word_spans(text)
    spans: list[Span] = []
    position = 0
    while position < len(words):
        length = draw(st.integers(0, min(3, len(words) - position)))
        if length:
            spans.append(Span(words[position][0], words[position + length - 1][1], draw(TYPES)))
        position += max(1, length)
    return Text(text, words, spans)


@pytest.mark.parametrize("name", WRITERS)
@EXAMPLES
@given(st.lists(texts_with_spans(), min_size=1, max_size=4))
def test_what_a_format_writes_is_read_as_it_was(name: str, texts: list[Text]):
    if name == "spacy" and not importlib.util.find_spec("spacy"):
        pytest.skip("needs the extra spacy")
    expected = [(item.word_texts, item.tags) for item in texts if item.words]
    assume(expected)  # a file without words has no names either, which CoNLL-U would refuse
    for write in WRITERS[name]:
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder, f"train{SUFFIXES.get(name, '.x')}"), texts)
            raw = detection.read(path, name)
        assert raw.bad_lines == []
        assert [([row.word for row in rows], [row.tag for row in rows]) for rows in raw.sentences] == expected


@pytest.mark.parametrize("scheme", [scheme for scheme in tag_schemes.PREFIXES if scheme != "IO"])  # which has no beginnings
@EXAMPLES
@given(texts_with_spans())
def test_spans_become_tags_and_the_same_spans_again(scheme: str, item: Text):
    tags = ["O"] * len(item.words)
    for number, span in enumerate(item.spans):
        first, last = item.word_numbers(span)
        begin, inside, end, single = {"BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU"}.get(scheme, "BIIB")
        # IOB1 has B- only between neighbours of one type.
        before = item.spans[number - 1] if number else None
        if scheme == "IOB1" and not (before and item.word_numbers(before)[1] == first - 1 and before.type == span.type):
            begin = single = "I"
        letters = single if first == last else begin + inside * (last - first - 1) + end
        tags[first : last + 1] = [f"{letter}-{span.type}" for letter in letters]
    assert tags_to_spans(item.words, tags, scheme) == list(item.spans)


@EXAMPLES
@given(texts_with_spans())
def test_a_document_of_whole_words_becomes_the_tags_of_its_spans(item: Text):
    raw = RawSplit(Path("x"))
    add_document(raw, Document(item.text, item.spans, 1), "refuse")
    assert raw.bad_lines == []
    assert raw.tags == ([item.tags] if item.words else [])
    assert tags_to_spans(item.words, item.tags) == list(item.spans)


@settings(EXAMPLES, max_examples=300)
@given(st.text() | LINES)
def test_words_of_any_text_are_exact_slices_in_order_that_do_not_overlap(text: str):
    words = word_spans(text)
    assert all(0 <= start < end <= len(text) for start, end in words)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(words))
    assert not any(set(text[start:end]) & set("\t\n\r ") for start, end in words)


@EXAMPLES
@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), TYPES), max_size=6))
def test_spans_of_any_places_in_any_text_are_tags_or_counted(text: str, places: list[tuple[int, int, str]]):
    raw = RawSplit(Path("x"))
    spans = [Span(start, end, type_) for start, end, type_ in places if start <= end <= len(text)]
    add_document(raw, Document(text, spans, 1))
    read_as_words = raw.skipped.pop("span that cuts a word, read as the whole words", 0)
    entities = sum(len(tag_schemes.strict_spans(tags, "BIO")) for tags in raw.tags)
    assert entities + raw.skipped.total() == len(spans)
    assert read_as_words <= len(spans)
