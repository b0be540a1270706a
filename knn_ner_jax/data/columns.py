r"""Column files: a word and its tag on each line, other columns beside them, an empty line between sentences.

Which columns are which is said by `data.columns`, or seen from the file: the tag is the last column whose cells are tags,
or the first of several that name the same types (the others hold nested names); the word is the first column that holds
neither tags nor the numbers of words; a first line, or `# global.columns = ...` of CoNLL-U Plus, may name them. Tags may be
values of an attribute (`SpaceAfter=No|name=B-PER`). Every line is a word, the end of a sentence, left out for a reason that
is counted, or named as a line that cannot be read.
"""

import csv
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.readers import BLANK_TOKENS, IO_HINT, MOST, RESPELT, DataError, RawSplit, Row, delimiter_of, open_text
from knn_ner_jax.data.words import BLANK_TOKEN

# What a first line that names the columns may call the column of tags.
_TAG_COLUMN = re.compile(r"(.*[_\-: ])?(ner?|iob2?|bio|tags?|labels?|entit\w+)|ne-.+", re.IGNORECASE)
_TOKEN_COLUMN = re.compile(r"form|tokens?|words?", re.IGNORECASE)
_SENTENCE_COLUMN = re.compile(r"sent(ence)?[_ -]?(id|idx|no|number|#)", re.IGNORECASE)
_NAMED_COLUMNS = re.compile(r"# *global\.columns *= *(.+)")
_COMMENT = re.compile(r"#+([ \t]|$)")
# Lines of CoNLL-U for what words are written as (`1-2 du`) and for words that are not written (`8.1`): words have numbers.
_NO_WORD = re.compile(r"\d+-\d+|\d+\.\d+")
_NUMBER = re.compile(r"\d+([.:_-]\d+)*\.?")  # of a word, of its sentence, or of a character of the text
_MARKUP = re.compile(r"<[/!?]?[A-Za-z][^<>]*>")
_END_OF_SENTENCE = "EndOfSentence"  # a mark in another column, of files whose empty lines end documents
# Types of chunks (CoNLL-2000), whose column is none of entities.
_CHUNKS = {"NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"}

Columns = Mapping[str, int | str]  # `token`, `tag` and perhaps `sentence`: numbers from 1, or from -1 backwards; or names


class _Line(NamedTuple):
    """A line: its text without blanks at the end, the cells of that, and how many cells there are with empty ones."""

    number: int
    text: str
    cells: tuple[str, ...]
    width: int


class Layout(NamedTuple):
    """Which columns, from 0 or backwards from -1, hold what.

    Attributes:
        token: the column of words.
        tag: that of tags.
        sentence: that whose cell changes from sentence to sentence, if there is one.
        other_tags: columns with tags that are not read.
        attribute: whose value is the tag, where cells hold several (`name` in `SpaceAfter=No|name=B-PER`).
        type: the column of types, where that of tags has prefixes alone.
        nothing: whether `-` and `_` stand for `O`.
    """

    token: int
    tag: int
    sentence: int | None = None
    other_tags: tuple[int, ...] = ()
    attribute: str | None = None
    type: int | None = None
    nothing: bool = False

    @property
    def columns(self) -> dict[str, int | str]:
        """What `data.columns` would be."""
        named = {"token": self.token, "tag": self.tag, "sentence": self.sentence}
        return {name: index + 1 if index >= 0 else index for name, index in named.items() if index is not None}


@functools.lru_cache(maxsize=2**16)  # most lines of a corpus occur often
def split_columns(line: str) -> tuple[str, ...]:
    r"""Return the columns of a line: what is between tabs where it has any, else between spaces.

    >>> split_columns("EU  NNP B-ORG"), split_columns("New York\tB-LOC")
    (('EU', 'NNP', 'B-ORG'), ('New York', 'B-LOC'))
    """
    # Not str.split(): it would also break at no-break and ideographic spaces, which occur as words.
    if "\t" in line:
        return tuple(column.strip(" ") for column in line.split("\t"))
    return tuple(column for column in line.split(" ") if column)


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column] if -len(cells) <= column < len(cells) else ""


def _shape(line: _Line) -> tuple[int, bool]:
    """Return the number of columns of a line, and whether tabs separate them."""
    return len(line.cells), "\t" in line.text


def _usual_shape(lines: Sequence[_Line]) -> tuple[int, bool]:
    shapes = Counter(_shape(line) for line in lines if line.cells)
    return shapes.most_common(1)[0][0] if shapes else (0, False)


def _is_tag(cell: str, scheme: str) -> bool:
    return (cell != "" and scheme == "IO") or tag_schemes.is_tag(cell) or tag_schemes.is_bare_tag(cell)


def _tag(cells: Sequence[str], layout: Layout, scheme: str) -> str:
    """Return the tag of a line in its usual spelling, or what stands in its place."""
    cell = _cell(cells, layout.tag)
    if layout.attribute is not None:
        cell = tag_schemes.attributes_of(cell).get(layout.attribute, tag_schemes.OUTSIDE)
    if layout.nothing and cell in tag_schemes.NOTHING:
        return tag_schemes.OUTSIDE
    if layout.type is not None and tag_schemes.is_bare_tag(cell):
        return f"{cell}-{_cell(cells, layout.type)}"
    return tag_schemes.respell(cell, scheme)


def _is_blank_token(line: _Line, shape: tuple[int, bool]) -> bool:
    """Return whether columns are separated by spaces, and a line begins with one because its word is a space, or nothing."""
    return line.text[:1] == " " and not shape[1] and _shape(line) == (shape[0] - 1, False)


def _is_comment(line: _Line, first: bool, shape: tuple[int, bool], layout: Layout, scheme: str) -> bool:
    """Return whether a line is a comment; a tweet may begin with the word "#" or with a hashtag.

    Args:
        line: the line, which begins with a "#".
        first: whether no word of a sentence stands before it.
        shape: of most lines (see `_shape`).
        layout: of the other lines.
        scheme: of the tags.
    """
    stands_alone = _COMMENT.match(line.text) is not None
    if _shape(line) == shape:
        return stands_alone and not _is_tag(_tag(line.cells, layout, scheme), scheme)
    ends_in_tag = _is_tag(line.cells[-1], "auto")
    return (stands_alone and (first or not ends_in_tag)) or (first and not ends_in_tag)


def _continues(before: str, tag: str) -> bool:
    """Return whether a tag goes on with the entity of the one before: marks by machine fall inside names, too."""
    type_ = tag_schemes.tag_type(tag)
    return tag[:1] in tuple("IMEL") and type_ != "" and type_ == tag_schemes.tag_type(before)


def _is_markup(line: _Line, following: Sequence[_Line], first: bool) -> bool:
    """Return whether a line of one cell is markup before or after a sentence, and no word that lacks its tag."""
    ends = not any(after.cells and not _MARKUP.fullmatch(after.text) for after in following)
    return _MARKUP.fullmatch(line.text) is not None and (first or (line.text.startswith("</") and ends))


def _numbers_words(sentences: Sequence[Sequence[Sequence[str]]], column: int) -> bool:
    """Return whether a column counts the words of each sentence."""
    steps = [(before[column], after[column]) for rows in sentences for before, after in itertools.pairwise(rows)]
    counted = sum(a.isdecimal() and b.isdecimal() and int(b) == int(a) + 1 for a, b in steps)
    return bool(steps) and counted >= MOST * len(steps)


def _repeats(sentences: Sequence[Sequence[Sequence[str]]], column: int) -> bool:
    """Return whether a column names the sentences or the documents: most cells are like the one above."""
    steps = [before[column] == after[column] for rows in sentences for before, after in itertools.pairwise(rows)]
    return sum(steps) * 2 > len(steps)


def _types(cells: Iterable[str]) -> set[str]:
    return {tag_schemes.tag_type(tag_schemes.respell(cell)) for cell in cells} - {""}


def see_layout(sentences: Sequence[Sequence[Sequence[str]]], names: Sequence[str] = ()) -> Layout:
    """Return which column is the word and which the tag.

    >>> see_layout([[["1", "Ann", "B-PER", "O"], ["2", "Lee", "I-PER", "B-PER"]]])
    Layout(token=1, tag=2, sentence=None, other_tags=(3,), attribute=None, type=None, nothing=False)
    >>> see_layout([[["EU", "NNP", "I-NP", "B-ORG"]]]).tag
    -1

    Args:
        sentences: cells of the words of each sentence, all of one width.
        names: of the columns, where the file begins with them.
    """
    rows = [row for cells in sentences for row in cells]
    width = len(rows[0]) if rows else 0
    if width < 2:
        return Layout(0, -1)

    counts = [Counter(cells) for cells in zip(*rows, strict=True)]
    types = [_types(cells) for cells in counts]

    def are_tags(column: int) -> bool:
        tags = bare_tags = 0
        for cell, count in counts[column].items():
            tag = tag_schemes.respell(cell)
            tags += count * tag_schemes.is_tag(tag)
            bare_tags += count * (tag == tag_schemes.OUTSIDE or tag_schemes.is_bare_tag(tag))
        if tag_schemes.are_of_names(counts[column]):
            tags += sum(counts[column][cell] for cell in tag_schemes.NOTHING)
        return max(tags, bare_tags) >= MOST * len(rows)

    def named(pattern: re.Pattern[str], columns: Sequence[int]) -> list[int]:
        return [column for column in columns if column < len(names) and pattern.fullmatch(names[column])]

    tag_columns = [column for column in range(width) if are_tags(column)]
    tag, attribute = (tag_columns or [width - 1])[-1], None
    if not any(types[column] for column in tag_columns):
        attributes = {column: tag_schemes.see_attribute(list(counts[column])) for column in range(width)}
        tag, attribute = next(((column, name) for column, name in attributes.items() if name), (tag, None))
    same_types = [column for column in tag_columns if types[tag] & types[column] - _CHUNKS]
    if tag_columns[:2] == [2, 3] and types[2] and _numbers_words(sentences, 0):
        same_types = [2]  # number, word, tag, and the tag of a nested name, maybe of another type
    if not attribute and (first := named(_TAG_COLUMN, tag_columns) or same_types):
        tag = first[0]
    others = tuple(column for column in tag_columns if column != tag and types[column] - _CHUNKS)
    others_than_tags = [column for column in range(width) if column not in (*tag_columns, tag)]

    def is_number(column: int) -> bool:
        return sum(counts[column][cell] for cell in counts[column] if _NUMBER.fullmatch(cell)) >= MOST * len(rows)

    words = [column for column in others_than_tags if not (is_number(column) or _repeats(sentences, column))]
    token = (named(_TOKEN_COLUMN, others_than_tags) or words or others_than_tags or [0])[0]
    ids = [column for column in others_than_tags if column < token and _repeats(sentences, column)]
    changing_ids = [column for column in ids if len(sentences) == 1 and len(counts[column]) > 1]
    named_ids = named(_SENTENCE_COLUMN, [column for column in others_than_tags if column != token])
    sentence = next(iter(named_ids or changing_ids), None)
    return Layout(token, -1 if tag == width - 1 else tag, sentence, others, attribute)


def _named(columns: Columns, names: Sequence[str], path: Path) -> Layout:
    """Return the layout that `data.columns` says, names looked up in the first line."""

    def index(column: int | str) -> int:
        if isinstance(column, int):
            return column - 1 if column > 0 else column
        if column not in names:
            raise DataError(
                f"data.columns: {path}: expected the first line to name {column}, found {', '.join(names) or 'nothing'}"
            )
        return list(names).index(column)

    return Layout(*(index(columns[name]) if name in columns else None for name in ("token", "tag", "sentence")))  # type: ignore[arg-type]


def _is_header(line: _Line) -> bool:
    """Return whether a file's first line names its columns: none of them is a tag, one has the name of a column of tags."""
    return not any(map(tag_schemes.is_tag, line.cells)) and any(map(_TAG_COLUMN.fullmatch, line.cells))


def _lines(path: Path, content: bytes | None) -> tuple[RawSplit, list[_Line]]:
    """Return the lines of a file; one of a table separated by commas may hold line ends in quotes."""
    raw, text_lines = open_text(path, content)
    numbered = list(text_lines)
    if path.suffix.lower() == ".csv" and (delimiter := delimiter_of([text for _, text in numbered])) != "\t":
        numbers: list[int] = []

        def texts() -> Iterator[str]:
            for number, text in numbered:
                numbers.append(number)
                yield text + "\n"

        lines = []
        for cells in csv.reader(texts(), delimiter=delimiter):
            text = delimiter.join(cells) if any(cells) else ""
            lines.append(_Line(numbers[-1], text, tuple(cell.strip(" ") for cell in cells if text), len(cells)))
        return raw, lines
    stripped = ((number, text, text.rstrip(" \t")) for number, text in numbered)
    return raw, [_Line(number, text, split_columns(text), len(split_columns(whole))) for number, whole, text in stripped]


@functools.lru_cache(maxsize=2**16)
def _is_no_word(cell: str) -> bool:
    return _NO_WORD.fullmatch(cell) is not None


def _are_numbered(lines: Sequence[_Line]) -> bool:
    first_cells = [line.cells[0] for line in lines if line.cells]
    return sum(cell.isdecimal() for cell in first_cells) * 2 > len(first_cells)


def _sentences(lines: Sequence[_Line], width: int) -> list[list[tuple[str, ...]]]:
    is_numbered = _are_numbered(lines)
    groups = itertools.groupby(lines, key=lambda line: bool(line.cells))
    sentences = [
        [cells for _, _, cells, _ in group if len(cells) == width and not (is_numbered and _is_no_word(cells[0]))]
        for has_text, group in groups
        if has_text
    ]
    return [rows for rows in sentences if rows]


def _expected(layout: Layout, line: _Line, is_chosen: bool, scheme: str) -> str:
    tag, num_cells = "O or B-TYPE", len(line.cells)
    hint = IO_HINT if num_cells > 1 and scheme == "auto" else ""
    if is_chosen:
        names = [str(column + 1) if column >= 0 else f"{-column} from the end" for column in (layout.token, layout.tag)]
        return f"a token in column {names[0]} and a tag in column {names[1]} ({tag}){hint}"
    return f"a token, then a tag ({tag}){hint}" + ("; data.columns says where they stand" if num_cells > 2 else "")


def _names(lines: Sequence[_Line], data: DataConfig) -> tuple[list[str], _Line | None]:
    """Return the names of the columns, and the line that is left out because it has them."""
    for line in lines:
        if named := _NAMED_COLUMNS.fullmatch(line.text):
            return named[1].split(), None
        if line.cells and not line.text.startswith("#"):
            must = any(isinstance(name, str) for name in (data.columns or {}).values())
            return (list(line.cells), line) if must or _is_header(line) else ([], None)
    return [], None


def _find_layout(path: Path, lines: Sequence[_Line], names: Sequence[str], data: DataConfig, width: int) -> Layout:
    sentences = _sentences([line for line in lines if not line.text.startswith("#")], width)
    layout = _named(data.columns, names, path) if data.columns else see_layout(sentences, names)
    rows = list(itertools.chain.from_iterable(sentences))
    cells = {_cell(row, layout.tag) for row in rows}
    if data.columns and not any(map(tag_schemes.is_tag, cells)):
        layout = layout._replace(attribute=tag_schemes.see_attribute(sorted(cells)))
    column = layout.tag + 1 if 0 <= layout.tag < width - 1 else layout.tag
    type_ = column if tag_schemes.are_types((_cell(row, layout.tag), _cell(row, column)) for row in rows) else None
    return layout._replace(type=type_, nothing=tag_schemes.are_of_names(cells))


def parse_columns(path: Path, data: DataConfig, content: bytes | None = None) -> RawSplit:
    """Read a column file.

    Args:
        path: the file; one ending in `.csv` is separated by commas, semicolons or tabs.
        data: `columns`, where not to be seen from the file; `scheme` IO reads cells without a prefix as types.
        content: that of the file, where it was read before.

    Raises:
        DataError: there is no such file, or no column of a name.
    """
    raw, lines = _lines(path, content)
    shape = _usual_shape(lines)
    names, header = _names(lines, data)
    layout = _find_layout(path, [line for line in lines if line is not header], names, data, shape[0])
    width = Counter(line.width for line in lines if line.cells).most_common(1)[0][0] if shape[0] else 0
    is_numbered = _are_numbered(lines)
    sentence: list[Row] = []
    name, is_marked = "", False

    def end_sentence() -> None:
        if sentence:
            raw.sentences.append(sentence.copy())
        sentence.clear()

    @functools.cache
    def read(cells: tuple[str, ...]) -> tuple[str, str, bool, bool, bool]:
        """Return the word and the tag of a line, whether that is one, whether it was respelt, and ends a sentence."""
        tag = _tag(cells, layout, data.scheme)
        is_respelt = layout.attribute is None and layout.type is None and tag != _cell(cells, layout.tag)
        is_tag, is_last = len(cells) > 1 and _is_tag(tag, data.scheme), any(_END_OF_SENTENCE in c.split("|") for c in cells)
        return _cell(cells, layout.token), tag, is_tag, is_respelt, is_last

    for index, line in enumerate(lines):
        number, text, cells, line_width = line
        if _is_blank_token(line, shape):
            cells, line_width = ("", *cells), width
        if not cells or not text:
            end_sentence()
        elif cells[0] == "-DOCSTART-":
            end_sentence()
            raw.skipped["-DOCSTART-"] += 1
        elif line is header:
            raw.skipped["header"] += 1
        elif text[0] == "#" and _is_comment(line, not sentence, shape, layout, data.scheme):
            raw.skipped["comment"] += 1
        elif len(cells) == 1 and _is_markup(line, lines[index + 1 : index + 2], not sentence):
            end_sentence()
            raw.skipped["line of markup, as <s>"] += 1
        elif is_numbered and layout.token != 0 and _is_no_word(cells[0]):
            raw.skipped["line of several words (1-2), or of none (8.1)"] += 1
        else:
            if layout.sentence is not None and (cell := _cell(cells, layout.sentence)) and cell != name:
                end_sentence()
                name = cell
            token, tag, is_tag, is_respelt, is_last = read(cells)
            if is_marked and not (sentence and _continues(sentence[-1].tag, tag)):
                end_sentence()
            is_marked = is_last
            if "\n" in token:
                raw.reject(number, f"the token {token[:40]!r}...", "a word; a quote that nothing closes joins lines")
            elif not is_tag:
                raw.reject(number, repr(text), _expected(layout, line, bool(data.columns), data.scheme))
            else:
                if not token:
                    raw.skipped[BLANK_TOKENS] += 1
                if is_respelt:
                    raw.skipped[RESPELT] += 1
                usual = line_width == width or len(cells) == shape[0]
                sentence.append(Row(token or BLANK_TOKEN, tag, number, width if usual else len(cells)))
    end_sentence()
    raw.skipped += Counter()  # without reasons of which there are none
    if raw.sentences:
        raw.columns = layout.columns
        raw.other_tags = tuple(column + 1 for column in layout.other_tags)
    return raw
