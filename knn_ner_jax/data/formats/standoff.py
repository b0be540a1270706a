"""Readers of texts whose spans stand apart from them: brat, BioC, PubTator, spaCy's DocBin.

Each turns the texts of a file into `spans.Draft`s. Where an offset lies and what it counts is taken from the page that the
reader names.
"""

import hashlib
import itertools
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

from knn_ner_jax.data import spans
from knn_ner_jax.data.readers import DataError, RawSplit, shorten
from knn_ner_jax.data.spans import DISCONTINUOUS, CutSpans, Document, Draft, Mark, Offsets, Reading, Span

_BRAT_SPAN = re.compile(r"T[0-9]+\t(\S+) ([0-9]+ [0-9]+(?:;[0-9]+ [0-9]+)*)\t(.*)", re.DOTALL)
_PASSAGE = re.compile(r"([^|\t]+)\|([a-z]+)\|(.*)")
_LINE_OF_ELEMENT = "line of the file"  # no attribute of a file has a blank in its name


def number(text: str | None) -> int | str | None:
    """Return the integer that a text of a few digits writes; anything else as it is, for the message that refuses it.

    >>> number("12"), number("1.5"), number(None)
    (12, '1.5', None)
    """
    if text is not None and text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    return text


def read_brat(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read brat's pairs of a .txt and an .ann file: one pair, or all that lie in a folder and those below it.

    Offsets are characters of the .txt, line ends as they are, the end exclusive (https://brat.nlplab.org/standoff.html). The
    text beside a span is compared. A discontinuous span is left out, unless only blanks lie between its parts, as where brat
    writes a span over a line end. Relations, events, attributes and notes are counted.

    The line of a sentence is that of the .txt; in a folder, it is the number of the pair.
    """
    if not path.is_dir():
        return _read_pair(path, cut_spans)
    whole, digest = RawSplit(path), hashlib.sha256()
    texts, annotations = (
        {file.relative_to(path).with_suffix("").as_posix() for file in path.rglob(f"*{suffix}")}
        for suffix in (".txt", ".ann")
    )
    whole.skipped.update({"text without annotations": len(texts - annotations)} if texts - annotations else {})
    for place, name in enumerate(sorted(annotations), start=1):
        if name not in texts:
            whole.bad_lines.append(f"{path / name}.ann: found no .txt beside it, expected the text that it annotates")
            continue
        raw = _read_pair(path / f"{name}.ann", cut_spans)
        digest.update(f"{name}\0{raw.sha256}\n".encode(errors="surrogateescape"))
        whole.sentences += [[row._replace(line=place) for row in rows] for rows in raw.sentences]
        whole.bad_lines += raw.bad_lines
        whole.skipped += raw.skipped
    whole.sha256 = digest.hexdigest()
    return whole


def _read_pair(path: Path, cut_spans: CutSpans) -> RawSplit:
    raw, text = spans.read_text(path.with_suffix(".txt"))
    annotations, content = spans.read_text(path.with_suffix(".ann"))
    raw.sha256 = hashlib.sha256(f"{raw.sha256} {annotations.sha256}".encode()).hexdigest()
    if raw.bad_lines or not spans.is_fit(raw, 1, text):
        return raw
    offsets, entities = Offsets(text, "code points"), []
    for line, row in enumerate(re.split(r"\r?\n", content), start=1):
        if row[:1] in tuple("#REAMN*"):
            raw.skipped["annotation that is no span"] += 1
        elif row.strip():
            match = _BRAT_SPAN.fullmatch(row)
            parts = [tuple(map(number, part.split(" "))) for part in match[2].split(";")] if match else []
            if not match:
                annotations.reject(line, shorten(row), "T1, a tab, TYPE START END, a tab and the text")
            elif not _is_continuous(parts, text):
                raw.skipped[DISCONTINUOUS] += 1
            else:
                span = spans.place_span(Mark(parts[0][0], parts[-1][1], match[1], match[3]), text, offsets)
                if isinstance(span, Span):
                    entities.append(span)
                else:
                    annotations.reject(line, *span)
    raw.bad_lines += annotations.bad_lines
    ends = [match.end() for match in re.finditer(r"\r\n|\n|\r", text)]
    sentences = [(start, end, 1 + bisect_right(ends, start)) for start, end in spans.lines_of(text)]
    spans.add_document(raw, Document(text, entities, 1, sentences=sentences), cut_spans)
    return raw


def _is_continuous(parts: list[tuple[Any, ...]], text: str) -> bool:
    """Return whether nothing but blanks lies between the parts of a span."""
    return all(
        isinstance(end, int) and isinstance(start, int) and end <= start and not text[end:start].strip()
        for (_, end), (start, _) in itertools.pairwise(parts)
    )


def is_brat(path: Path, head: str) -> bool:
    """Return whether a path is a pair of brat's, or a folder with some."""
    if path.is_dir():
        return any(path.rglob("*.ann"))
    return path.suffix in (".ann", ".txt") and all(path.with_suffix(suffix).is_file() for suffix in (".ann", ".txt"))


class _RefusedXml(ValueError):
    """What an XML file has that is not read."""


def _parse_xml(content: bytes) -> Element:
    """Return the root of an XML file, whose every element knows its line.

    Nothing outside the file is fetched. A DOCTYPE that names a DTD, as BioC's files have it, is passed over; declarations in
    the file itself, of entities that could grow without bound, are refused.
    """

    def refuse(*_: object) -> None:
        raise _RefusedXml("declarations of entities or a DTD within the file")

    def start_doctype(name: str, system: str | None, public: str | None, has_declarations: bool) -> None:
        if has_declarations:
            refuse()

    def start_element(name: str, attributes: dict[str, str]) -> None:
        builder.start(name, attributes | {_LINE_OF_ELEMENT: str(parser.CurrentLineNumber)})

    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = start_doctype
    parser.EntityDeclHandler = parser.SkippedEntityHandler = refuse
    parser.StartElementHandler = start_element
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def read_bioc(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read BioC XML: the texts of passages or of their sentences, each a text of its own, and the annotations with a place.

    An offset counts from the start of the document, and a place has a length. The format's DTD says that offsets are bytes
    (https://github.com/tagtog/JBioC/wiki/BioC.dtd), while many programs write code points: the text beside each span tells
    which. The type is the infon `type`. A span in several places is left out; relations are not read.
    """
    raw, content = spans.read_bytes(path)
    try:
        root = _parse_xml(content)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raw.reject(getattr(error, "lineno", 1), f"what is not read as XML ({shorten(str(error))})", "a collection of BioC")
        return raw
    drafts = [draft for document in root.iter("document") for draft in _bioc_drafts(raw, document)]
    return spans.add_drafts(raw, drafts, [Reading("bytes"), Reading("code points")], cut_spans)


def _bioc_drafts(raw: RawSplit, document: Element) -> Iterator[Draft]:
    """Yield the texts of a document, in the order of their offsets."""
    places = []
    for passage in document.iter("passage"):
        for part in passage.findall("sentence") or [passage]:
            offset, text = number(part.findtext("offset")), part.findtext("text")
            if not isinstance(offset, int):
                raw.reject(_line(part), f"the offset {shorten(offset)}", "a number")
            elif text:
                places.append((offset, _line(part), text))
            else:
                raw.skipped[f"{part.tag} without text"] += 1
    places.sort(key=lambda place: place[0])
    starts = [offset for offset, _, _ in places]
    marks: list[list[Mark]] = [[] for _ in places]
    for annotation in document.iter("annotation"):
        locations = [(number(item.get("offset")), number(item.get("length"))) for item in annotation.findall("location")]
        type_ = next((item.text for item in annotation.findall("infon") if item.get("key") == "type"), None)
        if len(locations) != 1:
            raw.skipped[DISCONTINUOUS if locations else "annotation without a place"] += 1
            continue
        (start, length), *_ = locations
        if not isinstance(start, int) or not isinstance(length, int) or not starts or start < starts[0]:
            raw.reject(
                _line(annotation),
                f"a location at {shorten(start)} of length {shorten(length)}",
                "numbers, within a passage",
            )
            continue
        index = bisect_right(starts, start) - 1
        if index + 1 < len(starts) and start + length > starts[index + 1]:
            raw.skipped[spans.ACROSS] += 1
            continue
        begin = start - starts[index]
        marks[index].append(Mark(begin, begin + length, type_, annotation.findtext("text")))
    for (_, line, text), items in zip(places, marks, strict=True):
        yield Draft(text, items, line)


def _line(element: Element) -> int:
    return int(element.get(_LINE_OF_ELEMENT, 1))


def is_bioc(path: Path, head: str) -> bool:
    """Return whether a text begins as BioC XML."""
    return bool(re.match(r"\ufeff?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE[^>]*>\s*)?<collection[\s>]", head))


def read_pubtator(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read PubTator: `ID|t|title`, `ID|a|abstract`, and the spans, `ID start end text type`, with tabs between.

    Offsets are characters of title, one separator, and abstract, the end exclusive
    (https://github.com/lfurrer/bconv/wiki/PubTator); the text beside each span is compared. Title and abstract are each read
    as a sentence. Relations are counted.
    """
    raw, text = spans.read_text(path)
    drafts: list[Draft] = []
    passages: list[str] = []
    marks: list[Mark] = []
    name, first = "", 1
    for line, row in enumerate([*re.split(r"\r?\n", text.removeprefix("\ufeff")), ""], start=1):
        passage, cells = _PASSAGE.fullmatch(row), row.split("\t")
        if not row.strip():
            if passages:
                drafts.append(Draft("\n".join(passages), marks, first))
            passages, marks, name = [], [], ""
        elif passage and (passage[1] == name or not passages):
            name, first = passage[1], first if passages else line
            passages.append(passage[3])
        elif passage or cells[0] != name:
            raw.reject(line, shorten(row), f"lines of {name[:40]}, or an empty line" if name else "ID|t|title")
        elif len(cells) >= 5 and cells[1].isdecimal() and cells[2].isdecimal():
            marks.append(Mark(number(cells[1]), number(cells[2]), cells[4], cells[3]))
        elif len(cells) >= 4:
            raw.skipped["relation"] += 1
        else:
            raw.reject(line, shorten(row), "ID, start, end, text and type of a span, with tabs between")
    return spans.add_drafts(raw, drafts, [Reading()], cut_spans)


def is_pubtator(path: Path, head: str) -> bool:
    """Return whether a text begins with a title of PubTator's."""
    return bool(re.match(r"\ufeff?\s*[^|\s]+\|t\|", head))


def read_spacy(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read a DocBin of spaCy's: its tokens, `doc.ents`, and its sentences where they are set, else lines.

    Offsets are those of Python, in code points, the end exclusive (https://spacy.io/api/span, https://spacy.io/api/docbin).
    The line of a sentence is the number of its Doc. Spans in groups (`doc.spans`) and Docs without entities set are counted.

    Raises:
        DataError: there is no package `spacy`.
    """
    raw, content = spans.read_bytes(path)
    try:
        from spacy.tokens import DocBin
        from spacy.vocab import Vocab
    except ImportError as error:
        raise DataError(
            f"{path}: expected the package spacy, found none; the extra spacy brings it: pip install -e '.[spacy]'"
        ) from error
    try:
        docs = DocBin().from_bytes(content).get_docs(Vocab())
        drafts = [draft for place, doc in enumerate(docs, start=1) for draft in _spacy_drafts(raw, place, doc)]
    except Exception as error:  # whatever NumPy, zlib, msgpack and spaCy make of a damaged file
        raw.reject(1, f"what spaCy does not read ({type(error).__name__}: {shorten(str(error))})", "a DocBin")
        return raw
    return spans.add_drafts(raw, drafts, [Reading()], cut_spans)


def _spacy_drafts(raw: RawSplit, place: int, doc: Any) -> Iterator[Draft]:
    num_in_groups = sum(map(len, doc.spans.values()))
    raw.skipped.update({"span of a group": num_in_groups} if num_in_groups else {})
    if len(doc) and not doc.has_annotation("ENT_IOB"):
        raw.skipped["text whose entities are not set"] += 1
        return
    words = [(token.idx, token.idx + len(token)) for token in doc]
    sentences = None
    if doc.has_annotation("SENT_START"):
        sentences = [(sentence.start_char, sentence.end_char, place) for sentence in doc.sents]
    yield Draft(doc.text, [Mark(span.start_char, span.end_char, span.label_) for span in doc.ents], place, words, sentences)


def is_spacy(path: Path, head: str) -> bool:
    """Return whether a file is named as a DocBin."""
    return path.suffix == ".spacy"
