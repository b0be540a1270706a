"""Texts with spans, as annotation tools keep them, and the sentences of tagged words that they become, and back.

A reader of `data/formats` hands over a `Draft` for each text: the text, and the spans as its file writes them. Here they
become `Span`s in code points, each is verified where the file repeats its text, and the words they cover get BIO tags. What
cannot be a tag is left out and counted in `RawSplit.skipped`, by its reason; what contradicts its format is a bad line.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import regex

from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.readers import BAD_BYTE, RawSplit, read_bytes, shorten
from knn_ner_jax.data.words import word_spans

CutSpans = Literal["snap", "refuse"]
CUT_SNAP = "span that cuts a word, read as the whole words"
CUT_REFUSE = "span that cuts a word"
OVERLAP = "span that overlaps a longer or earlier one"
TWICE = "span that occurs twice"
EMPTY = "empty span"
BLANK = "span of blank text"
ACROSS = "span across the end of a sentence"
DISCONTINUOUS = "discontinuous span"
BLANK_TOKEN = "blank token"

# A NUL ends words for some tools, and UTF-8 cannot hold half of a surrogate pair.
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_LINE = re.compile(r"[^\n\r\x0b\x0c\x85\u2028\u2029]+")


class Span(NamedTuple):
    """An entity of a text: code points `start` to `end` (exclusive) carry the type `type`."""

    start: int
    end: int
    type: str


class Mark(NamedTuple):
    """A span as its file writes it, nothing of it checked: offsets in the format's unit, its type, its text if repeated."""

    start: Any
    end: Any
    type: Any
    text: Any = None


class Draft(NamedTuple):
    """A text as its file holds it.

    Attributes:
        text: the text that the offsets of the marks count in.
        marks: its spans.
        line: where it stands in the file, for messages.
        words: where the format's own words begin and end in code points, in order; None: by `word_spans`.
        sentences: where the format's own sentences begin and end in code points, and the line of each; None: by line ends.
    """

    text: str
    marks: Sequence[Mark]
    line: int
    words: Sequence[tuple[int, int]] | None = None
    sentences: Sequence[tuple[int, int, int]] | None = None


class Document(NamedTuple):
    """A text with its spans in code points; `place` is the line of its file, and the rest is as in `Draft`."""

    text: str
    spans: Sequence[Span]
    place: int
    words: Sequence[tuple[int, int]] | None = None
    sentences: Sequence[tuple[int, int, int]] | None = None


class Reading(NamedTuple):
    """What the offsets of a format count, one of `UNITS`, and whether a span's end is its last unit or the one after."""

    unit: str = "code points"
    inclusive: bool = False


# The length of a character in each unit; None: all have the same.
UNITS: dict[str, Callable[[str], int] | None] = {
    "code points": None,
    "UTF-16 code units": lambda character: 1 + (character > "\uffff"),
    "bytes": lambda character: len(character.encode()),
    "grapheme clusters": None,
}


class Offsets:
    """The place in code points of every offset in another unit.

    >>> [Offsets("😀é", "UTF-16 code units").get(offset) for offset in range(5)]
    [0, None, 1, 2, None]
    """

    def __init__(self, text: str, unit: str):
        size = UNITS[unit]
        self._length = len(text)
        self._places: dict[int, int] | None = None
        if unit == "grapheme clusters":
            starts = (cluster.start() for cluster in regex.finditer(r"\X", text))
            self._places = dict(enumerate(itertools.chain(starts, [len(text)])))
        elif size is not None and not text.isascii():
            ends = itertools.accumulate(map(size, text), initial=0)
            self._places = {offset: place for place, offset in enumerate(ends)}

    def get(self, offset: int) -> int | None:
        """Return the place of an offset; None where it lies outside the text or within a character."""
        if self._places is None:
            return offset if 0 <= offset <= self._length else None
        return self._places.get(offset)


def read_text(path: Path) -> tuple[RawSplit, str]:
    """Return an empty `RawSplit` of a text file, and its text with every line end as it is.

    Of a file that is not UTF-8 the text is empty, and each line that is not is a bad line.
    """
    raw, content = read_bytes(path)
    text = content.decode("utf-8", errors="surrogateescape")
    if not BAD_BYTE.search(text):
        return raw, text
    for number, line in enumerate(text.split("\n"), start=1):
        if bad_byte := BAD_BYTE.search(line):
            raw.reject(number, f"byte {ord(bad_byte[0]) - 0xDC00:#x}", "UTF-8 text")
    return raw, ""


def is_fit(raw: RawSplit, line: int, text: object, what: str = "text") -> bool:
    """Return whether something is text without NULs and halves of surrogate pairs; add a bad line where it is not."""
    if not isinstance(text, str):
        raw.reject(line, f"{what} {shorten(text)}", "text")
    elif unfit := _UNFIT.search(text):
        raw.reject(line, f"U+{ord(unfit[0]):04X} in {what}", "characters that UTF-8 can hold, and no NUL")
    else:
        return True
    return False


def _squeeze(text: str) -> str:
    # Tools write line ends within a span as spaces, or trim them.
    return " ".join(text.split())


def _fault_of_type(name: Any) -> str | None:
    if not isinstance(name, str) or not name:
        return f"the type {shorten(name)}"
    # Column files strip blanks from tags; the evaluation strips hyphens from types.
    if name != name.strip(" -") or _UNFIT.search(name) or any(char.isspace() and char != " " for char in name):
        return f"the type {shorten(name)}"
    return None


def place_span(mark: Mark, text: str, offsets: Offsets, inclusive: bool = False) -> Span | tuple[str, str]:
    """Return a mark as a span in code points; or what was found and what was expected instead."""
    for offset in mark[:2]:
        if not isinstance(offset, int) or isinstance(offset, bool):
            return f"the offset {shorten(offset)}", "an integer"
    if fault := _fault_of_type(mark.type):
        return fault, "a name without line ends, and without blanks or hyphens at its ends"
    start, end = offsets.get(mark.start), offsets.get(mark.end + inclusive)
    if start is None or end is None or start > end:
        at = f"a span from {shorten(mark.start)} to {shorten(mark.end)}"
        return f"{at} in a text of {len(text)} characters", "offsets of whole characters within the text, the end not first"
    if mark.text is not None:
        if not isinstance(mark.text, str):
            return f"the text {shorten(mark.text)} of a span", "text"
        if _squeeze(text[start:end]) != _squeeze(mark.text):
            actual = f"{shorten(text[start:end])} from {mark.start} to {mark.end}"
            return actual, f"{shorten(mark.text)}, the text that the file gives that span"
    return Span(start, end, mark.type)


def _num_faults(draft: Draft, reading: Reading) -> int:
    offsets = Offsets(draft.text, reading.unit)
    return sum(not isinstance(place_span(mark, draft.text, offsets, reading.inclusive), Span) for mark in draft.marks)


def add_drafts(raw: RawSplit, drafts: Iterable[Draft], readings: Sequence[Reading], cut_spans: CutSpans) -> RawSplit:
    """Add the sentences of texts to a `RawSplit`, and a bad line for each span that contradicts its text.

    Args:
        raw: what to add to.
        drafts: the texts of one file; those that UTF-8 cannot hold are bad lines.
        readings: how releases of the format write offsets. The file is read as the one under which the fewest spans
            contradict the text that the file gives them; of equals, the first.
        cut_spans: what to do with spans that cut a word, see `add_document`.

    Returns:
        The same `RawSplit`.
    """
    texts = [draft for draft in drafts if is_fit(raw, draft.line, draft.text)]
    reading = readings[0]
    if len(readings) > 1:
        reading = min(readings, key=lambda candidate: sum(_num_faults(draft, candidate) for draft in texts))
    for draft in texts:
        offsets = Offsets(draft.text, reading.unit)
        spans = []
        for mark in draft.marks:
            span = place_span(mark, draft.text, offsets, reading.inclusive)
            if isinstance(span, Span):
                spans.append(span)
            else:
                raw.reject(draft.line, *span)
        add_document(raw, Document(draft.text, spans, draft.line, draft.words, draft.sentences), cut_spans)
    return raw


def lines_of(text: str) -> Iterator[tuple[int, int]]:
    r"""Yield where each line that is not empty begins and ends.

    >>> list(lines_of("one\r\ntwo"))
    [(0, 3), (5, 8)]
    """
    return (line.span() for line in _LINE.finditer(text))


def _words_of(document: Document, start: int, end: int) -> list[tuple[int, int]]:
    """Return the words of a sentence that begins and ends there."""
    if document.words is None:
        return [(start + first, start + last) for first, last in word_spans(document.text[start:end])]
    begin = bisect_left(document.words, (start, start))
    return list(itertools.takewhile(lambda word: word[1] <= end, itertools.islice(document.words, begin, None)))


def add_document(raw: RawSplit, document: Document, cut_spans: CutSpans = "snap") -> None:
    """Add the sentences of a text to a `RawSplit`, tags in BIO; count the spans that cannot be tags, by their reason.

    Of spans that overlap, the longest is kept, of equals the first.

    Args:
        raw: what to add to.
        document: the text and its spans.
        cut_spans: `snap` reads a span that cuts a word as the whole words and counts it; `refuse` makes it a bad line.
    """
    sentences = document.sentences
    if sentences is None:
        sentences = [(start, end, document.place) for start, end in lines_of(document.text)]
    groups = [_words_of(document, start, end) for start, end, _ in sentences]
    words = [word for word in itertools.chain.from_iterable(groups) if document.text[slice(*word)].strip()]
    if document.words is not None:
        _account_for_the_others(raw, document, words)
    tags = _tags(raw, document, words, sentences, cut_spans)
    begin = 0
    for _, end, line in sentences:
        stop = bisect_left(words, (end, end), lo=begin)
        if stop > begin:
            raw.add_record(line, [document.text[slice(*word)].strip(" ") for word in words[begin:stop]], tags[begin:stop])
        begin = stop


def _account_for_the_others(raw: RawSplit, document: Document, words: list[tuple[int, int]]) -> None:
    """Count the format's own words that are blank, and refuse those that lie in no sentence."""
    read = set(words)
    for word in document.words or ():
        if word not in read:
            text = document.text[slice(*word)]
            if text.strip():
                raw.reject(document.place, f"the token {shorten(text)}", "tokens that lie within a line or a sentence")
            else:
                raw.skipped[BLANK_TOKEN] += 1


def _tags(
    raw: RawSplit,
    document: Document,
    words: list[tuple[int, int]],
    sentences: Sequence[tuple[int, int, int]],
    cut_spans: CutSpans,
) -> list[str]:
    ends_of_sentences = [end for _, end, _ in sentences]
    starts, ends = [start for start, _ in words], [end for _, end in words]
    candidates: dict[tuple[int, int, str], int] = {}  # first word, last word and type of a span -> its length
    for span in document.spans:
        if span.start == span.end:
            raw.skipped[EMPTY] += 1
            continue
        first, last = bisect_right(ends, span.start), bisect_left(starts, span.end) - 1
        if first > last:
            raw.skipped[BLANK] += 1
        elif (sentence := bisect_left(ends_of_sentences, ends[first])) != bisect_left(ends_of_sentences, ends[last]):
            raw.skipped[ACROSS] += 1
        elif (first, last, span.type) in candidates:
            raw.skipped[TWICE] += 1
        else:
            if starts[first] < span.start or span.end < ends[last]:
                texts = document.text[slice(*span[:2])], document.text[starts[first] : ends[last]]
                _report_cut(raw, sentences[sentence][2], *texts, cut_spans)
            candidates[first, last, span.type] = ends[last] - starts[first]
    tags = [tag_schemes.OUTSIDE] * len(words)
    for first, last, type_ in sorted(candidates, key=lambda key: (-candidates[key], key[0])):  # stable: else the first
        if any(tag != tag_schemes.OUTSIDE for tag in tags[first : last + 1]):
            raw.skipped[OVERLAP] += 1
        else:
            tags[first : last + 1] = [f"B-{type_}", *[f"I-{type_}"] * (last - first)]
    return tags


def _report_cut(raw: RawSplit, line: int, text: str, words: str, cut_spans: CutSpans) -> None:
    if cut_spans == "snap":
        raw.skipped[CUT_SNAP] += 1
    else:
        raw.skipped[CUT_REFUSE] += 1
        actual = f"the span {shorten(text)}, which cuts {shorten(words)}"
        raw.reject(line, actual, "a span of whole words (cut_spans: snap reads it as them)")


def tags_to_spans(words: Sequence[tuple[int, int]], tags: Sequence[str], scheme: str = "BIO") -> list[Span]:
    """Return the entities of a sentence as spans of its text; what breaks the scheme is none.

    >>> tags_to_spans([(0, 3), (4, 8), (9, 13)], ["B-LOC", "I-LOC", "O"])
    [Span(start=0, end=8, type='LOC')]

    Args:
        words: where each word begins and ends in the text.
        tags: the tag of each word.
        scheme: a name in `tag_schemes.PREFIXES`.
    """
    entities = tag_schemes.strict_spans(tags, scheme)
    return [Span(words[start][0], words[end - 1][1], type_) for type_, start, end in entities]
