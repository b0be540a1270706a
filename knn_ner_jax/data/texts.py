"""The texts that a user gives to be tagged: plain text, or tokens that are kept as they are, in four formats.

Text is UTF-8 whatever the locale, a byte order mark is dropped. Files are read a piece at a time, and what a pipe has
brought is handed on before it brings more. Whatever is no text is counted, or named in an error.
"""

import itertools
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.columns import parse_columns, see_layout, split_columns
from knn_ner_jax.data.readers import RESPELT, DataError, RawSplit, shorten
from knn_ner_jax.data.tag_schemes import Sentence, is_tag
from knn_ner_jax.data.words import word_spans
from knn_ner_jax.io import InputError

logger = logging.getLogger(__name__)
STANDARD_INPUT = "-"
WITHOUT_A_WORD = "sentences without a word"
PIECE = 2**18  # bytes read at a time
BYTE_ORDER_MARK = "\ufeff"  # at the start of files, and of lines and arguments where files were put together
AS_THEY_ARE = DataConfig("")
_BLOCK = re.compile(rb"(.*\n[ \t]*\n)(.*)", re.DOTALL)
ENDINGS = {
    **dict.fromkeys((".jsonl", ".json"), "jsonl"),
    **dict.fromkeys((".conll", ".tsv", ".bio", ".iob", ".iob2"), "conll"),
}


def check_characters(text: str, place: str) -> None:
    r"""Raise InputError where a text has half a surrogate pair, which UTF-8 cannot hold and no tokenizer reads.

    >>> check_characters("\ud83d", "text 1")
    Traceback (most recent call last):
    ...
    knn_ner_jax.io.InputError: text 1: expected characters of Unicode, found '\ud83d', half of a pair, at position 1
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        character = text[error.start]
        byte = 0xDC80 <= ord(character) <= 0xDCFF  # what Python makes of bytes of a command line that are not UTF-8
        what = f"the byte {ord(character) - 0xDC00:#x}" if byte else f"{character!r}, half of a pair,"
        expected = "UTF-8 text" if byte else "characters of Unicode"
        raise InputError(f"{place}: expected {expected}, found {what} at position {error.start + 1}") from error


def check_words(words: Iterable[str], place: str) -> tuple[str, ...]:
    """Return words; raise InputError, naming `place`, where one is no text."""
    checked = tuple(words)
    for word in checked:
        if not isinstance(word, str):
            raise InputError(f"{place}: expected words that are text, got {word!r:.80}")
        check_characters(word, place)
    return checked


def _find(words: Sequence[str], text: str) -> tuple[tuple[int, int], ...] | None:
    """Return where words stand in a text, with nothing but space before each; None where they do not."""
    spans, end = [], 0
    for word in words:
        start = text.find(word, end)
        if start < 0 or text[end:start].strip():
            return None
        spans.append((start, end := start + len(word)))
    return tuple(spans)


@dataclass(frozen=True)
class Document:
    """A text and its words.

    Attributes:
        text: as it was given; where words were given, these joined by single spaces, unless a text that has them came along.
        words: of the text.
        spans: where each begins and ends (exclusive) in the text, in code points.
        fields: of the record it came in, but its `tokens`.
    """

    text: str
    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, given: str | Sequence[str] | Mapping[str, Any], place: str) -> "Document":
        """Read a text, which is split into words (`words.split_words`), words, or a record with `tokens` or a `text`.

        >>> Document.of({"tokens": ["Rome", "'s"], "id": 7}, "text 1")
        Document(text="Rome 's", words=('Rome', "'s"), spans=((0, 4), (5, 7)), fields={'id': 7})
        >>> Document.of({"tokens": ["Rome", "'s"], "text": "Rome's"}, "text 1").spans
        ((0, 4), (4, 6))

        Args:
            given: the text, words or record; of a record with both, the tokens count, and are found in the text, with
                nothing but space between them; where they are not, their own text takes its place.
            place: where it was given, for messages.

        Raises:
            InputError: it is none of these.
        """
        record = given if isinstance(given, Mapping) else {"text" if isinstance(given, str) else "tokens": given}
        if isinstance(tokens := record.get("tokens"), Iterable) and not isinstance(tokens, str | Mapping):
            words = check_words(tokens, place)
            fields = {name: value for name, value in record.items() if name != "tokens"}
            text = fields.get("text")
            if isinstance(text, str) and (spans := _find(words, text)) is not None:
                check_characters(text, place)
                return cls(text, words, spans, fields)
            fields |= {"text": " ".join(words)} if isinstance(text, str) else {}
            ends = list(itertools.accumulate(len(word) + 1 for word in words))
            spans = tuple((end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True))
            return cls(" ".join(words), words, spans, fields)
        if "tokens" not in record and isinstance(text := record.get("text"), str):
            check_characters(text, place)
            spans = tuple(word_spans(text))
            return cls(text, tuple(text[start:end] for start, end in spans), spans, dict(record))
        expected = 'a text, a list of words, or an object with "tokens" or a "text"'
        raise InputError(f"{place}: expected {expected}, got {given!r:.80}")


def check_tag(tag: Any, place: str) -> None:
    """Raise InputError, naming `place`, for what is no tag of IOB2.

    >>> check_tag("S-LOC", "word 2")
    Traceback (most recent call last):
    ...
    knn_ner_jax.io.InputError: word 2: expected O, B-TYPE or I-TYPE, got 'S-LOC'
    """
    if not isinstance(tag, str) or not is_tag(tag) or tag[0] not in "OBI":
        raise InputError(f"{place}: expected O, B-TYPE or I-TYPE, got {tag!r}")
    check_characters(tag, place)


def tagged_sentence(pair: Any, place: str) -> Sentence:
    """Return words and their tags as a sentence; raise InputError, naming `place`, where they are none.

    >>> tagged_sentence((["Paris"], ["B-LOC"]), "sentence 1").tags
    ('B-LOC',)
    """
    expected = 'expected words and a tag for each, such as (["in", "Rome"], ["O", "B-LOC"])'
    try:
        given, tags = pair[0], tuple(pair[1])
        words = check_words(() if isinstance(given, str) else given, place)
    except (TypeError, IndexError, KeyError) as error:
        raise InputError(f"{place}: {expected}, got {pair!r:.80}") from error
    if not words or len(words) != len(tags):
        raise InputError(f"{place}: {expected}, got {len(words)} words and {len(tags)} tags")
    for number, tag in enumerate(tags, start=1):
        check_tag(tag, f"{place}, word {number}")
    return Sentence(words, tags, 0)


def format_of(path: str, text_format: str = "auto") -> str:
    """Return the format of a file of sentences (see `TextReader`); `auto` goes by its ending.

    >>> format_of("x.conll"), format_of("-"), format_of("x.conll", "tokens")
    ('conll', 'text', 'tokens')
    """
    return ENDINGS.get(Path(path).suffix.lower(), "text") if text_format == "auto" else text_format


def read_pieces(path: str) -> Iterator[bytes]:
    r"""Yield whole lines of a file as they come, many at a time, with ends of \n alone; the last may have none.

    Args:
        path: the file, which may be a pipe, or `-` for the standard input.

    Raises:
        InputError: there is no such file.
    """
    with _open(path) as stream:
        rest: list[bytes] = []  # of a line whose end has not come
        mark = BYTE_ORDER_MARK.encode()  # at the start alone
        while piece := stream.read(PIECE):
            while piece.endswith(b"\r") and (following := stream.read(1)):  # maybe half of a line end
                piece += following
            whole, end, part = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rpartition(b"\n")
            if end:
                yield b"".join([*rest, whole, end]).removeprefix(mark)
                rest, mark = [], b""
            rest.append(part)
        if last := b"".join(rest).removeprefix(mark):
            yield last


def check_is_file(path: str) -> None:
    """Raise InputError where a path is neither a file nor `-`, the standard input."""
    if path != STANDARD_INPUT and (not (file := Path(path).expanduser()).exists() or file.is_dir()):
        raise InputError(f"--input: expected a file, or - for the standard input, got {path}")


def _open(path: str) -> AbstractContextManager[Any]:
    """Open a file without a buffer: a thread that waits for input would hold its lock while Python ends."""
    check_is_file(path)
    if path == STANDARD_INPUT:
        return nullcontext(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer))
    return Path(path).expanduser().open("rb", buffering=0)


@dataclass
class TextReader:
    """Reads files of texts one after another, and counts what it leaves out.

    Attributes:
        text_format: `text`, a text on each line; `tokens`, likewise, its words separated by blanks; `jsonl`, on each line a
            text, a list of words, or an object with `tokens` or a `text`; `conll`, a word on each line, an empty line after
            each sentence; or `auto`, which goes by the ending and takes standard input for text.
        data: how the corpus was read: the column of words, where it was named by number, and the prefix of tokens.
        skips_bad_lines: whether what cannot be read is logged, counted and left out, instead of raised.
        skipped: number of lines without a text, by what they are.
        num_bad_lines: of lines that could not be read, or sentences of such lines.
    """

    text_format: str = "auto"
    data: DataConfig = AS_THEY_ARE
    skips_bad_lines: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    num_bad_lines: int = 0

    def read(self, path: str) -> Iterator[Document]:
        """Yield the texts of a file; `-` is the standard input.

        Raises:
            InputError: there is no such file, no text in it, or a line that cannot be read, which is named.
        """
        name = "standard input" if path == STANDARD_INPUT else str(Path(path).expanduser())
        text_format = format_of(path, self.text_format)
        if text_format == "conll":
            found: Iterator[Callable[[], Document | None]] = self._columns(path, name)
        else:
            lines = enumerate((line for piece in read_pieces(path) for line in _lines_of(piece)), start=1)
            found = (partial(self._line, line, f"{name}:{number}", text_format) for number, line in lines)
        return self._documents(found, name)

    def arguments(self, texts: Sequence[str]) -> Iterator[Document]:
        """Yield texts of the command line, each in a format as a line of a file; `auto` is text.

        Raises:
            InputError: one cannot be read, none has a word, or the format is `conll`, which needs several lines.
        """
        if self.text_format == "conll":
            raise InputError("--format: expected text, tokens or jsonl for sentences on the command line, got conll")
        text_format = "text" if self.text_format == "auto" else self.text_format
        found = (partial(self._line, text, f"text {n}", text_format) for n, text in enumerate(texts, start=1))
        return self._documents(found, "text")

    def _documents(self, found: Iterable[Callable[[], Document | None]], name: str) -> Iterator[Document]:
        """Yield what is a text, and count or raise what is none."""
        has_any = False
        for read in found:
            try:
                document = read()
            except InputError as error:
                if not self.skips_bad_lines:
                    raise
                self.num_bad_lines += 1
                logger.warning("%s; skipped", error)
                continue
            if document is not None:
                has_any = True
                yield document
        if not has_any and not self.num_bad_lines:
            raise InputError(f"{name}: expected at least one sentence with a word in it, found none")

    def _line(self, line: str | bytes, place: str, text_format: str) -> Document | None:
        if isinstance(line, bytes):
            text = _decode(line, place)
        else:
            check_characters(text := line, place)
        if text_format != "text":  # where it is blank anyway
            text = text.removeprefix(BYTE_ORDER_MARK)
        if text_format == "jsonl" and text.strip():
            return _parse_json(text, place)
        if text_format == "tokens":
            # Not split(): it would also break at no-break and ideographic spaces, which occur as words.
            document = Document.of([word for word in text.replace("\t", " ").split(" ") if word], place)
        else:
            document = Document.of(text, place)
        if document.words:
            return document
        self.skipped[WITHOUT_A_WORD if text.strip() else "blank lines"] += 1
        return None

    def _columns(self, path: str, name: str) -> Iterator[Callable[[], Document | None]]:
        """Yield readers of the sentences of a column file, whose layout its first piece decides."""
        data, number = self.data, 1
        column: int | None = None
        has_tags: bool | None = None
        for block in _blocks(read_pieces(path)):
            raw = None if has_tags is False else _as_a_corpus(Path(name), block, data)
            if raw is not None:
                has_tags = True
                self.skipped.update({reason: count for reason, count in raw.skipped.items() if reason != RESPELT})
                yield from (partial(Document.of, [row.word for row in rows], name) for rows in raw.finish(data).sentences)
                data = replace(data, columns=raw.columns)  # a first line that names them is not repeated
            else:
                lines = [(f"{name}:{n}", line) for n, line in enumerate(_lines_of(block), start=number)]
                if sentences := list(self._sentences(lines)):
                    column = _token_column(sentences, data) if column is None else column
                    has_tags = has_tags or False
                    yield from (partial(_sentence, rows, column, data.token_prefix or "") for rows in sentences)
            number += block.count(b"\n")

    def _sentences(self, lines: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
        sentence: list[tuple[str, bytes]] = []
        for place, line in lines:
            text = line.removeprefix(BYTE_ORDER_MARK.encode()).rstrip(b" \t")
            cells = split_columns(text.decode(errors="replace"))
            if not text or cells[0] == "-DOCSTART-":
                self.skipped.update(["-DOCSTART-"] * bool(text))
                if sentence:
                    yield sentence
                sentence = []
            elif not sentence and text[:2] in (b"# ", b"#\t") and not is_tag(cells[-1]):
                self.skipped["comment"] += 1
            else:
                sentence.append((place, text))
        if sentence:
            yield sentence


def _lines_of(piece: bytes) -> list[bytes]:
    # Not splitlines(): it would also break at characters that occur inside sentences.
    return piece.removesuffix(b"\n").split(b"\n")


def _decode(line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        byte = f"the byte {line[error.start]:#x} at position {error.start + 1}"
        raise InputError(f"{place}: expected UTF-8 text, found {byte}; save the text as UTF-8") from error


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces that end with an empty line."""
    rest: list[bytes] = []
    for piece in pieces:
        if match := _BLOCK.fullmatch(b"\n" + piece):  # the end of the line before
            yield b"".join([*rest, match[1][1:]])
            rest, piece = [], match[2]
        rest.append(piece)
    if last := b"".join(rest):
        yield last


def _parse_json(line: str, place: str) -> Document:
    expected = 'expected a text, a list of words, or an object with "tokens" or a "text"'
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: {expected}, found what is no JSON: {error}") from error
    tokens = record.get("tokens") if isinstance(record, dict) else record
    for word in tokens if isinstance(tokens, list) else ():
        if not isinstance(word, str) or not word.strip(" ") or set(word) & set("\t\r\n"):
            raise InputError(f"{place}: expected words without tabs and line ends, found the token {word!r}")
    return Document.of(record, place)


def _as_a_corpus(path: Path, content: bytes, data: DataConfig) -> RawSplit | None:
    """Return the sentences that a corpus of these columns has; None where some words have no tags."""
    try:
        raw = parse_columns(path, data, content)
    except DataError:  # no column of a name that the corpus has
        return None
    return None if raw.bad_lines or not raw.sentences else raw


def _sentence(lines: Sequence[tuple[str, bytes]], column: int, prefix: str) -> Document:
    words = []
    for place, line in lines:
        text = _decode(line, place)
        cells = split_columns(text)
        word = (cells[column] if -len(cells) <= column < len(cells) else "").removeprefix(prefix)
        if not word:
            raise InputError(f"{place}: expected a word in column {column + 1}, found {shorten(' '.join(cells))}")
        words.append(word)
    return Document.of(words, lines[0][0])


def _token_column(sentences: Sequence[Sequence[tuple[str, bytes]]], data: DataConfig) -> int:
    """Return the column of words: as the corpus has it, or as tags and numbers beside it show."""
    column = (data.columns or {}).get("token")
    if isinstance(column, int):
        return column - (column > 0)
    cells = [[split_columns(line.decode(errors="replace")) for _, line in sentence] for sentence in sentences]
    widths = Counter(len(row) for rows in cells for row in rows)
    width = max(widths, key=lambda number: widths[number], default=0)
    return see_layout([[row for row in rows if len(row) == width] for rows in cells]).token
