"""What readers make of a file: a `RawSplit`, whose tag scheme is not known yet; and the reading of text and of JSON.

In JSON a sentence is a record: `tokens` are its words and `ner_tags` as many tag names; `data.columns` gives other names.
Every line is read, left out for a reason that is counted, or named in an error.
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.words import BLANK_TOKEN
from knn_ner_jax.io import InputError

# What surrogateescape makes of bytes that are not UTF-8, and UTF-8 cannot hold.
BAD_BYTE = re.compile(r"[\udc80-\udcff]")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_UTF16 = re.compile(rb"\xff\xfe|\xfe\xff")
BLANK = " \t\r\n"
_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
MOST = 0.9  # of the lines or cells, from which on what they have in common is what they are
BLANK_TOKENS = "blank token, read as unknown"
IO_HINT = "; data.scheme: IO reads types without a prefix"
RESPELT = "tag in another spelling (0, B_TYPE, TYPE-B)"


class DataError(InputError):
    """A corpus that cannot be used as it is; the message names file, line, what was found and what was expected."""


class Row(NamedTuple):
    """A word, its tag as written, its line, and the number of columns of that line.

    In JSON lines all words of a sentence stand on one line; in a table the line is the number of the row; neither has
    columns.
    """

    word: str
    tag: str
    line: int
    columns: int = 0


@dataclass
class RawSplit:
    """The content of a file before its tag scheme is known.

    Attributes:
        path: the file.
        sha256: hash of its content.
        sentences: the words that could be read; no sentence is empty.
        bad_lines: `file:line: what was found and what was expected` of every line that could not be read.
        skipped: number of lines and the like that were left out or read otherwise than they stand there, by reason.
        columns: which columns were read, as `data.columns` says it; None where there are no columns.
        other_tags: numbers, from 1, of columns with tags of the same types, which were not read.
    """

    path: Path
    sha256: str = ""
    sentences: list[list[Row]] = field(default_factory=list)
    bad_lines: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    columns: dict[str, int | str] | None = None
    other_tags: tuple[int, ...] = ()

    @property
    def rows(self) -> Iterator[Row]:
        """All words of all sentences."""
        return itertools.chain.from_iterable(self.sentences)

    @property
    def tags(self) -> list[list[str]]:
        """The tags of each sentence, as written."""
        return [[row.tag for row in rows] for rows in self.sentences]

    def reject(self, line: int, actual: str, expected: str) -> None:
        """Add a line to `bad_lines`."""
        self.bad_lines.append(f"{self.path}:{line}: found {actual}, expected {expected}")

    def add_record(
        self, line: int, tokens: Any, tags: Any, tag_names: Sequence[str] | None = None, scheme: str = "auto"
    ) -> None:
        """Add a sentence, or a bad line that says what is wrong with it.

        Args:
            line: where it stands.
            tokens: its words.
            tags: as many names of tags, or numbers of `tag_names`.
            tag_names: names by number.
            scheme: of the tags; IO has types alone.
        """
        for name, values in (("tokens", tokens), ("ner_tags", tags)):
            if not isinstance(values, list):
                return self.reject(line, f"{name} {values!r}", "a list")
        if len(tokens) != len(tags):
            return self.reject(line, f"{len(tokens)} tokens and {len(tags)} ner_tags", "as many of each")
        if tag_names is not None:
            # A number without a name stays one, and is refused.
            tags = [tag_names[tag] if _is_number(tag) and 0 <= tag < len(tag_names) else tag for tag in tags]
        names = [tag_schemes.respell(tag, scheme) if isinstance(tag, str) else tag for tag in tags]
        respelt = sum(name != tag for name, tag in zip(names, tags, strict=True))
        tags = names
        fault = next(filter(None, (*map(_word_fault, tokens), *(_tag_fault(tag, scheme) for tag in tags))), None)
        if fault:
            return self.reject(line, *fault)
        if not tokens:
            self.skipped["sentence without words"] += 1
            return None
        words = [word if word.strip(BLANK) else BLANK_TOKEN for word in tokens]
        self.skipped.update([BLANK_TOKENS] * words.count(BLANK_TOKEN) + [RESPELT] * respelt)
        self.sentences.append([Row(word, tag, line) for word, tag in zip(words, tags, strict=True)])
        return None

    def finish(self, data: DataConfig) -> "RawSplit":
        """Return the split with whole tags, and words without `data.token_prefix`.

        Bare tags (B, I, O) get the type `data.bare_type`; under the scheme IO a bare type gets the prefix I. Where some tags
        have types, bare ones are bad lines.
        """
        tags = {row.tag for row in self.rows}
        if data.token_prefix is None and data.scheme != "IO" and not any(map(tag_schemes.is_bare_tag, tags)):
            return self
        prefix = data.token_prefix or ""
        typed = any(map(tag_schemes.is_tag, tags - {tag_schemes.OUTSIDE}))

        def finish(row: Row) -> Row:
            word, tag = row.word.removeprefix(prefix) or BLANK_TOKEN, row.tag
            if data.scheme == "IO" and not tag_schemes.is_tag(tag):
                tag = f"I-{tag}"
            elif tag_schemes.is_bare_tag(tag):
                if typed:
                    self.reject(row.line, f"the tag {tag} without a type", "O or B-TYPE, as elsewhere in the file")
                tag = f"{tag}-{data.bare_type}"
            return row if (word, tag) == (row.word, row.tag) else row._replace(word=word, tag=tag)

        self.sentences = [[finish(row) for row in rows] for rows in self.sentences]
        return self


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text_fault(text: str) -> tuple[str, str] | None:
    if _HALF_CHARACTER.search(text):
        return f"{text!a}, which has half of a character (a lone surrogate)", "text that UTF-8 can hold"
    return None


def _word_fault(word: object) -> tuple[str, str] | None:
    """Return what was found and what was expected instead; None where nothing is wrong."""
    if not isinstance(word, str):
        return f"the token {word!r}", "a word"
    if word.strip(BLANK) and set(word) & set("\t\n\r"):
        return f"the token {word!r}", "a word without tabs and line ends"
    return _text_fault(word)


def _tag_fault(tag: object, scheme: str) -> tuple[str, str] | None:
    if _is_number(tag):
        return f"the number {tag} in ner_tags", "names (O or B-TYPE): data.tag_names gives the name of each number"
    is_type = isinstance(tag, str) and tag != "" and scheme == "IO"
    if isinstance(tag, str) and (is_type or tag_schemes.is_tag(tag) or tag_schemes.is_bare_tag(tag)):
        return _text_fault(tag)
    return f"{tag!r} in ner_tags", f"O or B-TYPE{IO_HINT if isinstance(tag, str) and tag else ''}"


def read_bytes(path: Path) -> tuple[RawSplit, bytes]:
    """Return an empty `RawSplit` of a file, and its content.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'none'}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be read: {error.strerror}") from error
    return RawSplit(path, hashlib.sha256(content).hexdigest()), content


def open_text(path: Path, content: bytes | None = None) -> tuple[RawSplit, Iterator[tuple[int, str]]]:
    """Return an empty `RawSplit` of a text file, and its numbered lines without their ends.

    Lines that are not UTF-8 are left out and added to the bad lines of the `RawSplit`.

    Args:
        path: the file.
        content: its content, where that was read before.

    Raises:
        DataError: there is no such file.
    """
    raw, content = read_bytes(path) if content is None else (RawSplit(path), content)
    if _UTF16.match(content):
        raise DataError(f"{path}: found UTF-16 (its byte order mark), expected UTF-8: iconv -f UTF-16 -t UTF-8 converts it")
    text = content.decode("utf-8-sig", errors="surrogateescape")
    return raw, _utf8_lines(raw, text)


def _utf8_lines(raw: RawSplit, text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines(): it would also break at form feeds and the like, which occur inside words.
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    is_utf8 = BAD_BYTE.search(text) is None
    for number, line in enumerate(text.split("\n"), start=1):
        if not is_utf8 and (bad_byte := BAD_BYTE.search(line)):
            raw.reject(number, f"byte {ord(bad_byte[0]) - 0xDC00:#x}", "UTF-8 text")
        else:
            if line.startswith("\ufeff"):  # as in files that were put together
                raw.skipped["byte order mark at the start of a line"] += 1
            yield number, line.lstrip("\ufeff")


def open_json(path: Path) -> tuple[RawSplit, Iterator[tuple[int, Any]]]:
    """Return an empty `RawSplit` of a JSON file, and its records with the numbers of the lines that they begin on."""
    raw, lines = open_text(path)
    by_number = dict(lines)
    text = "\n".join(by_number.get(number, "") for number in range(1, max(by_number, default=0) + 1))
    return raw, json_records(raw, text, object)


def json_records(raw: RawSplit, text: str, kind: type) -> Iterator[tuple[int, Any]]:
    """Yield the line and the content of each object of a JSON file; add what is none to the bad lines.

    After a bad line, JSON lines go on with the next; an array ends there, as nobody knows where its next object begins.

    Args:
        raw: the file, for messages.
        text: its content: an array of objects, or objects one after another.
        kind: dict makes what is no object a bad line, object does not.
    """
    text = text.removeprefix("\ufeff")
    position, line, line_place = _skip_blanks(text, 0), 1, 0
    is_array = text[position : position + 1] == "["
    if is_array:
        position = _skip_blanks(text, position + 1)
    while position < len(text) and not (is_array and text[position] == "]"):
        line += text.count("\n", line_place, position)
        line_place = position
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            # JSON lines that end too early go on being read into the next, where the error would lie.
            place = getattr(error, "lineno", line) if is_array else line
            raw.reject(place, f"what is no JSON ({getattr(error, 'msg', type(error).__name__)})", "objects")
            position = len(text) if is_array else text.find("\n{", position)
            if is_array or position < 0:
                return
            position += 1
            continue
        if isinstance(value, kind):
            yield line, value
        else:
            raw.reject(line, shorten(value), "an object")
        position = _skip_blanks(text, position)
        if is_array and text[position : position + 1] == ",":
            position = _skip_blanks(text, position + 1)
        elif is_array and text[position : position + 1] != "]":
            break
    if is_array and text[position:].strip(" \t\r\n") != "]":
        line += text.count("\n", line_place, position)
        raw.reject(line, shorten(text[position : position + 20]) if position < len(text) else "the end of the file", "]")


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def delimiter_of(texts: Sequence[str]) -> str:
    """Return what separates the cells of a table: tabs or semicolons where nearly all lines have them, else commas."""
    filled = [text for text in texts if text.strip(" \t")]
    marks = [mark for mark in "\t;," if sum(mark in text for text in filled) >= MOST * len(filled)]
    return "," if not marks or (marks[0] == ";" and "," in marks) else marks[0]


def shorten(value: object) -> str:
    """Return a value as Python writes it, cut to a length that fits in a message."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, a number of too many digits
        text = type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


FIELDS = {"token": "tokens", "tag": "ner_tags"}


def field_names(data: DataConfig, path: Path) -> list[str]:
    """Return the names of the fields that hold words and tags."""
    names = [(data.columns or {}).get(role, name) for role, name in FIELDS.items()]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"data.columns: {path}: expected the names of fields, because records have no order, got {names}")
    return [str(name) for name in names]


def parse_json(path: Path, data: DataConfig) -> RawSplit:
    """Read a JSON file (see `open_json`); other fields than those of words and tags are ignored."""
    raw, records = open_json(path)
    names = field_names(data, path)
    expected = f"an object with {' and '.join(names)}"
    for number, record in records:
        if not isinstance(record, dict) or not set(names) <= record.keys():
            kind = f"an object with {', '.join(record) or 'nothing'}" if isinstance(record, dict) else type(record).__name__
            raw.reject(number, kind, f"{expected}; data.columns gives other names")
        else:
            raw.add_record(number, record[names[0]], record[names[1]], data.tag_names, data.scheme)
    return raw
