"""What readers make of a file: a `RawSplit`, whose tag scheme is not known yet; and the reading of text and of JSON.

In JSON a sentence is a record: `tokens` are its words and `ner_tags` as many tag names; `data.columns` gives other names.
Every line is read, left out for a reason that is counted, or named in an error.
"""

import bisect
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
from knn_ner_jax.io import InputError

# What surrogateescape makes of bytes that are not UTF-8, and UTF-8 cannot hold.
_BAD_BYTE = re.compile(r"[\udc80-\udcff]")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_UTF16 = re.compile(rb"\xff\xfe|\xfe\xff")
BLANK = " \t\r\n"
BLANK_TOKEN = "\ufffd"  # stands for a word that is empty or blank; every tokenizer reads it as unknown
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
        prefix = data.token_prefix or ""
        typed = any(tag_schemes.is_tag(row.tag) and row.tag != tag_schemes.OUTSIDE for row in self.rows)

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


def open_text(path: Path) -> tuple[RawSplit, Iterator[tuple[int, str]]]:
    """Return an empty `RawSplit` of a text file, and its numbered lines without their ends.

    Lines that are not UTF-8 are left out and added to the bad lines of the `RawSplit`.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none")
    content = path.read_bytes()
    raw = RawSplit(path, hashlib.sha256(content).hexdigest())
    if _UTF16.match(content):
        raise DataError(f"{path}: found UTF-16 (its byte order mark), expected UTF-8: iconv -f UTF-16 -t UTF-8 converts it")
    text = content.decode("utf-8-sig", errors="surrogateescape")
    return raw, _utf8_lines(raw, text)


def _utf8_lines(raw: RawSplit, text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines(): it would also break at form feeds and the like, which occur inside words.
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if bad_byte := _BAD_BYTE.search(line):
            raw.reject(number, f"byte {ord(bad_byte[0]) - 0xDC00:#x}", "UTF-8 text")
        else:
            if line.startswith("\ufeff"):  # as in files that were put together
                raw.skipped["byte order mark at the start of a line"] += 1
            yield number, line.lstrip("\ufeff")


def open_json(path: Path) -> tuple[RawSplit, Iterator[tuple[int, Any]]]:
    """Return an empty `RawSplit` of a JSON file, and its records with the numbers of the lines that they begin on.

    The file may be JSON lines, one array of records, or records that are laid out over several lines. What is no JSON is
    added to the bad lines: in JSON lines each such line, otherwise the first, with which reading ends.
    """
    raw, lines = open_text(path)
    content = [(number, line) for number, line in lines if line.strip(" \t")]
    return raw, (_json_lines if _is_json_lines(content) else _json_values)(raw, content)


def _is_json_lines(lines: Sequence[tuple[int, str]]) -> bool:
    if not lines or lines[0][1].strip().startswith("["):
        return False
    try:
        json.loads(lines[0][1])
    except ValueError:
        # A broken line among whole ones is a bad line; an object that goes on is not.
        return len(lines) > 1 and lines[0][1].strip() != "{" and lines[1][1].lstrip().startswith("{")
    return True


def _reject_json(raw: RawSplit, line: int, error: ValueError | RecursionError) -> None:
    raw.reject(line, f"what is no JSON ({error})", "a record")


def _json_lines(raw: RawSplit, lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            _reject_json(raw, number, error)


def _json_values(raw: RawSplit, lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    text = "\n".join(line for _, line in lines)
    starts = list(itertools.accumulate((len(line) + 1 for _, line in lines), initial=0))
    is_array, place = text.lstrip().startswith("["), 0
    decoder = json.JSONDecoder()
    blank = re.compile(r"[ \t\n\r]*")

    def line_at(place: int) -> int:
        return lines[min(bisect.bisect_right(starts, place), len(lines)) - 1][0]

    def skip(place: int) -> int:
        match = blank.match(text, place)
        return match.end() if match else place

    place = skip(place) + is_array
    while (place := skip(place)) < len(text):
        if is_array and text[place] == "]":
            if (place := skip(place + 1)) < len(text):
                raw.reject(line_at(place), repr(text[place : place + 20]), "nothing after the array")
            return
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            return _reject_json(raw, line_at(getattr(error, "pos", place)), error)
        yield line_at(place), value
        place = skip(end)
        if place < len(text) and text[place] == "," and is_array:
            place += 1
        elif is_array and place < len(text) and text[place] != "]":
            return raw.reject(line_at(place), repr(text[place : place + 20]), "a comma or the end of the array")
    if is_array:
        raw.reject(lines[-1][0], "the end of the file", "the end of the array")


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
