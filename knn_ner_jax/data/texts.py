"""The sentences that a user gives to be tagged: plain text, or tokens that are kept as they are, in four formats.

Text is UTF-8 whatever the locale, a byte order mark is dropped. Whatever is no sentence is counted or named in an error.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.columns import parse_columns, see_layout, split_columns
from knn_ner_jax.data.readers import RESPELT, DataError, shorten
from knn_ner_jax.data.tag_schemes import Sentence, is_tag
from knn_ner_jax.data.words import split_words
from knn_ner_jax.io import InputError

STANDARD_INPUT = "-"
BYTE_ORDER_MARK = "\ufeff"  # at the start of files, and of lines and arguments where files were put together
AS_THEY_ARE = DataConfig("")
ENDINGS = {
    **dict.fromkeys((".jsonl", ".json"), "jsonl"),
    **dict.fromkeys((".conll", ".tsv", ".bio", ".iob", ".iob2"), "conll"),
}


class Texts(NamedTuple):
    """Sentences, each a text or its words, and the number of places without any, by what they are."""

    sentences: list[str | tuple[str, ...]]
    skipped: Counter[str]


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


def words_of(text: str | Sequence[str], place: str) -> tuple[str, ...]:
    """Split a text into words, or return words as they are; raise InputError, naming `place`, where they are no text."""
    words = split_words(text) if isinstance(text, str) else tuple(text)
    for word in words:
        if not isinstance(word, str):
            raise InputError(f"{place}: expected words that are text, got {word!r}")
        check_characters(word, place)
    return words


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
        words = words_of(() if isinstance(given, str) else given, place)
    except (TypeError, IndexError, KeyError) as error:
        raise InputError(f"{place}: {expected}, got {pair!r:.80}") from error
    if not words or len(words) != len(tags):
        raise InputError(f"{place}: {expected}, got {len(words)} words and {len(tags)} tags")
    for number, tag in enumerate(tags, start=1):
        check_tag(tag, f"{place}, word {number}")
    return Sentence(words, tags, 0)


def format_of(path: str, text_format: str = "auto") -> str:
    """Return the format of a file of sentences (see `read_texts`); `auto` goes by its ending.

    >>> format_of("x.conll"), format_of("-"), format_of("x.conll", "tokens")
    ('conll', 'text', 'tokens')
    """
    return ENDINGS.get(Path(path).suffix.lower(), "text") if text_format == "auto" else text_format


def read_texts(path: str, text_format: str = "auto", data: DataConfig = AS_THEY_ARE) -> Texts:
    """Read the sentences of a file.

    Args:
        path: the file, or `-` for the standard input.
        text_format: `text`, a sentence on each line; `tokens`, likewise, its words separated by blanks; `jsonl`, on each
            line a list of words, or an object with `tokens` or a `text`; `conll`, a word on each line, an empty line after
            each sentence; or `auto`, which goes by the ending and takes standard input for text.
        data: how the corpus was read: the column of words, where it was named by number, and the prefix of tokens.

    Raises:
        InputError: there is no such file, no sentence in it, or a line that cannot be read, which is named.
    """
    if path == STANDARD_INPUT:
        name, content = "standard input", sys.stdin.buffer.read()
    else:
        file = Path(path).expanduser()
        name = str(file)
        if not file.is_file():
            raise InputError(f"--input: expected a file, or - for the standard input, got {path}")
        content = file.read_bytes()
    text_format = format_of(path, text_format)
    lines = _decoded_lines(content, name)
    if text_format != "conll":
        return _not_empty(_parse_lines(lines, text_format), name)
    numbered = list(lines)
    return _not_empty(_as_a_corpus(Path(name), content, data) or _parse_columns(iter(numbered), data), name)


def texts_of_arguments(arguments: Sequence[str], text_format: str = "auto") -> Texts:
    """Return the sentences given on the command line, each in a format as in `read_texts`; `auto` is text.

    Raises:
        InputError: an argument cannot be read, none has a word, or the format is `conll`, which needs several lines.
    """
    if text_format == "conll":
        raise InputError("--format: expected text, tokens or jsonl for sentences on the command line, got conll")
    numbered = []
    for number, argument in enumerate(arguments, start=1):
        check_characters(argument, f"text {number}")
        numbered.append((f"text {number}", argument))
    return _not_empty(_parse_lines(iter(numbered), text_format), "text")


def _not_empty(texts: Texts, name: str) -> Texts:
    if not texts.sentences:
        raise InputError(f"{name}: expected at least one sentence with a word in it, found none")
    return texts


def _decoded_lines(content: bytes, name: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line."""
    # Not splitlines(): it would also break at characters that occur inside sentences.
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n")
    for number, line in enumerate(content.split(b"\n"), start=1):
        place = f"{name}:{number}"
        try:
            yield place, line.decode()
        except UnicodeDecodeError as error:
            byte = f"the byte {line[error.start]:#x} at position {error.start + 1}"
            raise InputError(f"{place}: expected UTF-8 text, found {byte}; save the text as UTF-8") from error


def _parse_lines(lines: Iterator[tuple[str, str]], text_format: str) -> Texts:
    texts = Texts([], Counter())
    for place, line in lines:
        if text_format != "text":  # where it is blank anyway
            line = line.removeprefix(BYTE_ORDER_MARK)
        words: str | tuple[str, ...]
        if text_format == "jsonl" and line.strip():
            words = _parse_json(line, place)
        elif text_format == "tokens":
            # Not split(): it would also break at no-break and ideographic spaces, which occur as words.
            words = tuple(word for word in line.replace("\t", " ").split(" ") if word)
        else:
            words = line if split_words(line) else ()
        if words:
            texts.sentences.append(words)
        else:
            texts.skipped["sentences without a word" if line.strip() else "blank lines"] += 1
    return texts


def _parse_json(line: str, place: str) -> str | tuple[str, ...]:
    expected = 'expected a list of words, or an object with "tokens" or a "text"'
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: {expected}, found what is no JSON: {error}") from error
    if isinstance(record, dict):
        record = record.get("tokens", record.get("text"))
    if isinstance(record, str):
        check_characters(record, place)
        return record if split_words(record) else ()
    if not isinstance(record, list):
        raise InputError(f"{place}: {expected}, found {line[:60]}")
    for word in record:
        if not isinstance(word, str) or not word.strip(" ") or set(word) & set("\t\r\n"):
            raise InputError(f"{place}: expected words without tabs and line ends, found the token {word!r}")
        check_characters(word, place)
    return tuple(record)


def _as_a_corpus(path: Path, content: bytes, data: DataConfig) -> Texts | None:
    """Return the sentences that a corpus of these columns has; None where some words have no tags."""
    try:
        raw = parse_columns(path, data, content)
    except DataError:  # no column of a name that the corpus has
        return None
    if raw.bad_lines or not raw.sentences:
        return None
    sentences: list[str | tuple[str, ...]] = [tuple(row.word for row in rows) for rows in raw.finish(data).sentences]
    return Texts(sentences, Counter({reason: count for reason, count in raw.skipped.items() if reason != RESPELT}))


def _parse_columns(lines: Iterator[tuple[str, str]], data: DataConfig) -> Texts:
    texts = Texts([], Counter())
    sentences: list[list[tuple[str, tuple[str, ...]]]] = [[]]
    for place, text in lines:
        line = text.removeprefix(BYTE_ORDER_MARK).rstrip(" \t")
        columns = split_columns(line)
        if not line or columns[0] == "-DOCSTART-":
            sentences.append([])
            texts.skipped.update(["-DOCSTART-"] * bool(line))
        elif not sentences[-1] and line[:2] in ("# ", "#\t") and not is_tag(columns[-1]):
            texts.skipped["comment"] += 1
        else:
            sentences[-1].append((place, columns))
    column = _token_column([[columns for _, columns in sentence] for sentence in sentences], data)
    for sentence in sentences:
        words = [
            (columns[column] if column < len(columns) else "").removeprefix(data.token_prefix or "")
            for _, columns in sentence
        ]
        if "" in words:
            place, columns = sentence[words.index("")]
            raise InputError(f"{place}: expected a word in column {column + 1}, found {shorten(' '.join(columns))}")
        if words:
            texts.sentences.append(tuple(words))
    return texts


def _token_column(sentences: Sequence[Sequence[Sequence[str]]], data: DataConfig) -> int:
    """Return the column of words: as the corpus has it, or as tags and numbers beside it show."""
    column = (data.columns or {}).get("token")
    if isinstance(column, int):
        return column - 1
    widths = Counter(len(columns) for sentence in sentences for columns in sentence)
    width = max(widths, key=lambda number: widths[number], default=0)
    return see_layout([[columns for columns in sentence if len(columns) == width] for sentence in sentences]).token
