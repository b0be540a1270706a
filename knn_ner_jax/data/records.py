"""What every reader makes of a file: rows of a word and a tag, the lines it skipped, and the lines it could not use."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from knn_ner_jax.data import labels
from knn_ner_jax.errors import InputError

FOREIGN_BYTE = re.compile(
    r"[\udc80-\udcff]"
)  # what surrogateescape makes of bytes that are not UTF-8, and UTF-8 cannot hold


class DataError(InputError):
    """The corpus cannot be used as it is; the message names file, line, what was found and what was expected."""


class Row(NamedTuple):
    """A word, its tag as written, the line it stands on, and how many columns that line has.

    In a file of records all words of a sentence stand on one line; in a table the line is the row; both have no columns.
    """

    word: str
    tag: str
    line: int
    columns: int = 0


@dataclass
class Parsed:
    """A file before its scheme is known.

    Attributes:
        path: the file.
        sha256: hash of its content.
        sentences: what could be read; no sentence is empty.
        bad_lines: `file:line: what was found and what was expected` of every line that could not.
        skipped: how many lines were left out, by reason.
    """

    path: Path
    sha256: str = ""
    sentences: list[list[Row]] = field(default_factory=list)
    bad_lines: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> Iterator[Row]:
        """All words of all sentences."""
        return itertools.chain.from_iterable(self.sentences)

    @property
    def tags(self) -> list[list[str]]:
        """The tags of each sentence, as written."""
        return [[row.tag for row in rows] for rows in self.sentences]

    def reject(self, line: int, found: str, expected: str) -> None:
        """Notes a bad line."""
        self.bad_lines.append(f"{self.path}:{line}: found {found}, expected {expected}")

    def add_record(self, line: int, tokens: Any, tags: Any) -> None:
        """Takes a sentence as a list of words and a list of tag names, or notes what is wrong with it."""
        for name, values in (("tokens", tokens), ("ner_tags", tags)):
            if not isinstance(values, list):
                return self.reject(line, f"{name} {values!r}", "a list")
        if len(tokens) != len(tags):
            return self.reject(line, f"{len(tokens)} tokens and {len(tags)} ner_tags", "as many of each")
        fault = next(filter(None, (*map(_word_fault, tokens), *map(_tag_fault, tags))), None)
        if fault:
            self.reject(line, *fault)
        elif tokens:
            self.sentences.append([Row(word, tag, line) for word, tag in zip(tokens, tags, strict=True)])
        else:
            self.skipped["sentence without words"] += 1


def _word_fault(word: object) -> tuple[str, str] | None:
    """What was found and what was expected; None where nothing is wrong."""
    if isinstance(word, str) and word.strip(" ") and not set(word) & set("\t\n\r"):
        return None
    return f"the token {word!r}", "a word without tabs and line ends"


def _tag_fault(tag: object) -> tuple[str, str] | None:
    if isinstance(tag, str) and labels.is_tag(tag):
        return None
    if isinstance(tag, int):
        return f"the number {tag} in ner_tags", "names (O or B-TYPE): write the name of each number in its place"
    return f"{tag!r} in ner_tags", "O or B-TYPE"


def open_text(path: Path) -> tuple[Parsed, Iterator[tuple[int, str]]]:
    """A text file and its numbered lines, without their ends; lines that are not UTF-8 are noted as bad and left out.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none")
    content = path.read_bytes()
    parsed = Parsed(path, hashlib.sha256(content).hexdigest())
    text = content.decode("utf-8-sig", errors="surrogateescape")
    return parsed, _utf8_lines(parsed, text)


def _utf8_lines(parsed: Parsed, text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines(): it would also break at form feeds and the like, which occur inside words.
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if foreign := FOREIGN_BYTE.search(line):
            parsed.reject(number, f"byte {ord(foreign[0]) - 0xDC00:#x}", "UTF-8 text")
        else:
            yield number, line
