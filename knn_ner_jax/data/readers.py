"""Readers of corpus files, one for each format; each turns a file into a `RawSplit`, whose tag scheme is not known yet.

Column files have the word first, the tag last, tabs or spaces between, and a blank line between sentences. In JSON lines,
each line is an object whose `tokens` are words and whose `ner_tags` are as many tag names. Parquet files and datasets of
the hub have columns of these names and are read by the extra `datasets`. Every line is read, skipped for a reason that is
counted, or named in an error. A new format is a new function here and an entry in `corpus.READERS`.
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

# What surrogateescape makes of bytes that are not UTF-8, and UTF-8 cannot hold.
_BAD_BYTE = re.compile(r"[\udc80-\udcff]")


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
        skipped: number of lines left out, by reason.
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

    def reject(self, line: int, actual: str, expected: str) -> None:
        """Add a line to `bad_lines`."""
        self.bad_lines.append(f"{self.path}:{line}: found {actual}, expected {expected}")

    def add_record(self, line: int, tokens: Any, tags: Any) -> None:
        """Add a sentence from a list of words and a list of tag names, or a bad line that says what is wrong with it."""
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
    """Return what was found and what was expected instead; None where nothing is wrong."""
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
    """Return an empty `RawSplit` of a text file, and its numbered lines without their ends.

    Lines that are not UTF-8 are left out and added to the bad lines of the `RawSplit`.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none")
    content = path.read_bytes()
    raw = RawSplit(path, hashlib.sha256(content).hexdigest())
    text = content.decode("utf-8-sig", errors="surrogateescape")
    return raw, _utf8_lines(raw, text)


def _utf8_lines(raw: RawSplit, text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines(): it would also break at form feeds and the like, which occur inside words.
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), start=1):
        if bad_byte := _BAD_BYTE.search(line):
            raw.reject(number, f"byte {ord(bad_byte[0]) - 0xDC00:#x}", "UTF-8 text")
        else:
            yield number, line


def split_columns(line: str) -> list[str]:
    r"""Return the columns of a line: what is between tabs where it has any, else between spaces.

    >>> split_columns("EU  NNP B-ORG"), split_columns("New York\tB-LOC")
    (['EU', 'NNP', 'B-ORG'], ['New York', 'B-LOC'])
    """
    # Not str.split(): it would also break at no-break and ideographic spaces, which occur as words.
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return [column for column in line.split(" ") if column]


def _is_comment(line: str) -> bool:
    # A tweet may begin with the word "#": only a hash that no tag follows is a comment.
    columns = split_columns(line)
    return line[:2] in ("#", "# ", "#\t") and not (len(columns) > 1 and tag_schemes.is_tag(columns[-1]))


def parse_columns(path: Path) -> RawSplit:
    """Read a column file; every line is a word, the end of a sentence, skipped for a counted reason, or bad."""
    raw, lines = open_text(path)
    sentence: list[Row] = []
    for number, text in lines:
        line = text.rstrip(" \t")
        docstart = line.startswith("-DOCSTART-")
        if not line or docstart:
            if sentence:
                raw.sentences.append(sentence)
            sentence = []
            raw.skipped.update(["-DOCSTART-"] * docstart)
        elif not sentence and _is_comment(line):
            raw.skipped["comment"] += 1
        else:
            columns = split_columns(line)
            if len(columns) < 2 or not columns[0] or not tag_schemes.is_tag(columns[-1]):
                raw.reject(number, repr(line), "a token, then a tag (O or B-TYPE)")
            else:
                sentence.append(Row(columns[0], columns[-1], number, len(columns)))
    if sentence:
        raw.sentences.append(sentence)
    return raw


def parse_jsonl(path: Path) -> RawSplit:
    """Read a file of JSON lines; fields other than `tokens` and `ner_tags` are ignored, and so are blank lines."""
    raw, lines = open_text(path)
    for number, line in lines:
        if not line.strip(" \t"):
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raw.reject(number, f"what is no JSON ({error})", "an object with tokens and ner_tags")
            continue
        if not isinstance(record, dict) or not {"tokens", "ner_tags"} <= record.keys():
            kind = f"an object with {', '.join(record) or 'nothing'}" if isinstance(record, dict) else type(record).__name__
            raw.reject(number, kind, "an object with tokens and ner_tags")
        else:
            raw.add_record(number, record["tokens"], record["ner_tags"])
    return raw


HUB_PREFIX = "hub:"
FIELDS = ("tokens", "ner_tags")


def is_hub(path: Path) -> bool:
    """Return whether a path is `hub:OWNER/NAME[/CONFIG]`, or a split below it."""
    return str(path).startswith(HUB_PREFIX)


def _library(path: Path) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path}: expected the package datasets, found none; the extra datasets brings it: pip install -e '.[datasets]'"
        ) from error
    return datasets


def parse_parquet(path: Path) -> RawSplit:
    """Read a parquet file; lines are row numbers from 1.

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
    raw = RawSplit(path, hashlib.sha256(content).hexdigest())
    return _add_dataset(raw, datasets.Dataset(datasets.table.InMemoryTable(table)))


def parse_hub(path: Path, stems: Sequence[str]) -> RawSplit:
    """Read a split of a dataset on the hub, or of the library's cache when offline; lines are row numbers from 1.

    Args:
        path: `hub:OWNER/NAME/SPLIT` or `hub:OWNER/NAME/CONFIG/SPLIT`.
        stems: names that the split may have there.

    Raises:
        DataError: as in `parse_parquet`; or there is no such dataset or split.
    """
    owner, *rest, _ = path.parts
    if len(rest) not in (1, 2):
        raise DataError(f"{path.parent}: expected {HUB_PREFIX}OWNER/NAME or {HUB_PREFIX}OWNER/NAME/CONFIG")
    datasets = _library(path)
    try:
        splits = datasets.load_dataset(f"{owner.removeprefix(HUB_PREFIX)}/{rest[0]}", *rest[1:])
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path.parent}: expected a dataset of the hub, which says: {reason}") from error
    names = [name for name in splits if name in stems]
    if len(names) != 1:
        raise DataError(f"{path.parent}: expected exactly one split {' or '.join(stems)}, found {', '.join(splits)}")
    split = splits[names[0]]
    digest = hashlib.sha256(json.dumps(str(split.features)).encode())  # the names of numbered tags are there
    for record in split:
        digest.update(json.dumps([record.get(name) for name in FIELDS]).encode())
    return _add_dataset(RawSplit(path, digest.hexdigest()), split)


def _tag_names(path: Path, tags: Any) -> Sequence[str] | None:
    """Return the names of numbered tags; None where the tags are names already."""
    names = getattr(getattr(tags, "feature", None), "names", None)
    dtype = getattr(getattr(tags, "feature", None), "dtype", None)
    if names is None and dtype not in ("string", "large_string"):
        raise DataError(f"{path}: found ner_tags of {tags}, expected a list of names, or of numbers with names (ClassLabel)")
    return names


def _add_dataset(raw: RawSplit, dataset: Any) -> RawSplit:
    missing = [name for name in FIELDS if name not in dataset.features]
    if missing:
        columns = ", ".join(dataset.features)
        raise DataError(f"{raw.path}: expected the columns {' and '.join(FIELDS)}, found {columns}")
    names = _tag_names(raw.path, dataset.features["ner_tags"])
    for row, record in enumerate(dataset.select_columns(list(FIELDS)), start=1):
        tags = record["ner_tags"]
        if names is not None and isinstance(tags, list):
            # A number without a name stays one, and is refused with its row.
            tags = [names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag for tag in tags]
        raw.add_record(row, record["tokens"], tags)
    return raw
