"""What every reader makes of a file: rows of a word and a tag, the lines it skipped, and the lines it could not use.

Column files: token first, tag last, tabs or spaces between, a blank line between sentences.

JSON lines: each line an object whose `tokens` are words and whose `ner_tags` are as many tag names.

Datasets of the `datasets` library: a local parquet file, or a split of a dataset on the hub.
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from knn_ner_jax.data import tag_schemes
from knn_ner_jax.io import InputError

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
class RawSplit:
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
    if isinstance(tag, str) and tag_schemes.is_tag(tag):
        return None
    if isinstance(tag, int):
        return f"the number {tag} in ner_tags", "names (O or B-TYPE): write the name of each number in its place"
    return f"{tag!r} in ner_tags", "O or B-TYPE"


def open_text(path: Path) -> tuple[RawSplit, Iterator[tuple[int, str]]]:
    """A text file and its numbered lines, without their ends; lines that are not UTF-8 are noted as bad and left out.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none")
    content = path.read_bytes()
    parsed = RawSplit(path, hashlib.sha256(content).hexdigest())
    text = content.decode("utf-8-sig", errors="surrogateescape")
    return parsed, _utf8_lines(parsed, text)


def _utf8_lines(parsed: RawSplit, text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines(): it would also break at form feeds and the like, which occur inside words.
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if foreign := FOREIGN_BYTE.search(line):
            parsed.reject(number, f"byte {ord(foreign[0]) - 0xDC00:#x}", "UTF-8 text")
        else:
            yield number, line


def split_columns(line: str) -> list[str]:
    """The columns of a line: between tabs where it has any, else between spaces."""
    # Not str.split(): it would also break at no-break and ideographic spaces, which occur as words.
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return [column for column in line.split(" ") if column]


def _is_comment(line: str) -> bool:
    # A tweet may begin with the word "#": only a hash that no tag follows is a comment.
    columns = split_columns(line)
    return line[:2] in ("#", "# ", "#\t") and not (len(columns) > 1 and tag_schemes.is_tag(columns[-1]))


def parse_columns(path: Path) -> RawSplit:
    """Reads a column file; every line is a word, a sentence's end, skipped for a counted reason, or noted as bad."""
    parsed, lines = open_text(path)
    sentence: list[Row] = []
    for number, raw in lines:
        line = raw.rstrip(" \t")
        docstart = line.startswith("-DOCSTART-")
        if not line or docstart:
            if sentence:
                parsed.sentences.append(sentence)
            sentence = []
            parsed.skipped.update(["-DOCSTART-"] * docstart)
        elif not sentence and _is_comment(line):
            parsed.skipped["comment"] += 1
        else:
            columns = split_columns(line)
            if len(columns) < 2 or not columns[0] or not tag_schemes.is_tag(columns[-1]):
                parsed.reject(number, repr(line), "a token, then a tag (O or B-TYPE)")
            else:
                sentence.append(Row(columns[0], columns[-1], number, len(columns)))
    if sentence:
        parsed.sentences.append(sentence)
    return parsed


def parse_jsonl(path: Path) -> RawSplit:
    """Reads a file of JSON lines; fields other than `tokens` and `ner_tags` are not looked at, nor are blank lines."""
    parsed, lines = open_text(path)
    for number, line in lines:
        if not line.strip(" \t"):
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            parsed.reject(number, f"what is no JSON ({error})", "an object with tokens and ner_tags")
            continue
        if not isinstance(record, dict) or not {"tokens", "ner_tags"} <= record.keys():
            kind = f"an object with {', '.join(record) or 'nothing'}" if isinstance(record, dict) else type(record).__name__
            parsed.reject(number, kind, "an object with tokens and ner_tags")
        else:
            parsed.add_record(number, record["tokens"], record["ner_tags"])
    return parsed


PREFIX = "hub:"
FIELDS = ("tokens", "ner_tags")


def is_hub(path: Path) -> bool:
    """True for `hub:OWNER/NAME[/CONFIG]` and the splits below it."""
    return str(path).startswith(PREFIX)


def _library(path: Path) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path}: expected the package datasets, found none; the extra datasets brings it: pip install -e '.[datasets]'"
        ) from error
    return datasets


def parse_parquet(path: Path) -> RawSplit:
    """Reads a parquet file; lines are row numbers from 1.

    Raises:
        DataError: no such file, no parquet file, no columns `tokens` and `ner_tags`, tags that are neither names nor numbers
            with names, or no package `datasets`.
    """
    datasets = _library(path)
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none")
    content = path.read_bytes()
    try:
        # Not Dataset.from_parquet, which would leave a copy in the cache of the library.
        table = parquet.read_table(pyarrow.BufferReader(content))
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: expected a parquet file: {error}") from error
    return _take(RawSplit(path, hashlib.sha256(content).hexdigest()), datasets.Dataset(datasets.table.InMemoryTable(table)))


def parse_hub(path: Path, stems: Sequence[str]) -> RawSplit:
    """Reads a split of a dataset on the hub, or of the library's cache when offline; lines are row numbers from 1.

    Args:
        path: `hub:OWNER/NAME/SPLIT` or `hub:OWNER/NAME/CONFIG/SPLIT`.
        stems: what the split may be called there.

    Raises:
        DataError: as in `parse_parquet`; or there is no such dataset or split.
    """
    owner, *rest, _ = path.parts
    if len(rest) not in (1, 2):
        raise DataError(f"{path.parent}: expected {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME/CONFIG")
    datasets = _library(path)
    try:
        splits = datasets.load_dataset(f"{owner.removeprefix(PREFIX)}/{rest[0]}", *rest[1:])
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path.parent}: expected a dataset of the hub, which says: {reason}") from error
    found = [name for name in splits if name in stems]
    if len(found) != 1:
        raise DataError(f"{path.parent}: expected exactly one split {' or '.join(stems)}, found {', '.join(splits)}")
    split = splits[found[0]]
    digest = hashlib.sha256(json.dumps(str(split.features)).encode())  # the names of numbered tags are there
    for record in split:
        digest.update(json.dumps([record.get(name) for name in FIELDS]).encode())
    return _take(RawSplit(path, digest.hexdigest()), split)


def _tag_names(path: Path, tags: Any) -> Sequence[str] | None:
    """The names of numbered tags, None where the tags are names already."""
    names = getattr(getattr(tags, "feature", None), "names", None)
    dtype = getattr(getattr(tags, "feature", None), "dtype", None)
    if names is None and dtype not in ("string", "large_string"):
        raise DataError(f"{path}: found ner_tags of {tags}, expected a list of names, or of numbers with names (ClassLabel)")
    return names


def _take(parsed: RawSplit, dataset: Any) -> RawSplit:
    missing = [name for name in FIELDS if name not in dataset.features]
    if missing:
        found = ", ".join(dataset.features)
        raise DataError(f"{parsed.path}: expected the columns {' and '.join(FIELDS)}, found {found}")
    names = _tag_names(parsed.path, dataset.features["ner_tags"])
    for row, record in enumerate(dataset.select_columns(list(FIELDS)), start=1):
        tags = record["ner_tags"]
        if names is not None and isinstance(tags, list):
            # A number without a name stays one, and is refused with its row.
            tags = [names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag for tag in tags]
        parsed.add_record(row, record["tokens"], tags)
    return parsed
