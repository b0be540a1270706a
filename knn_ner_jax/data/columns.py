r"""Column files: a word and its tag on each line, other columns beside them, an empty line between sentences.

Which columns are which is said by `data.columns`, or seen from the file: the tag is the last column whose cells are tags,
or the first of several that name the same types (the others hold nested names); the word is the first column that holds
neither tags nor the numbers of words. Every line is a word, the end of a sentence, left out for a reason that is counted,
or named as a line that cannot be read.
"""

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.readers import BLANK_TOKENS, DataError, RawSplit, Row, open_text
from knn_ner_jax.data.words import BLANK_TOKEN

MOST = 0.9  # of the cells of a column, from which on it is what they are
# What a first line that names the columns may call the column of tags.
_TAG_COLUMN = re.compile(r"(.*[_\- ])?(ner?|iob2?|bio|tags?|labels?|entit\w+)|ne-.+", re.IGNORECASE)

Columns = Mapping[str, int | str]  # `token`, `tag` and perhaps `sentence`: numbers from 1, or from -1 backwards; or names


class _Line(NamedTuple):
    """A line with something in it."""

    number: int
    text: str
    cells: list[str]


class Layout(NamedTuple):
    """Which columns, from 0 or backwards from -1, hold what; `other_tags` are columns with tags that are not read."""

    token: int
    tag: int
    sentence: int | None = None
    other_tags: tuple[int, ...] = ()

    @property
    def columns(self) -> dict[str, int | str]:
        """What `data.columns` would be."""
        named = {"token": self.token, "tag": self.tag, "sentence": self.sentence}
        return {name: index + 1 if index >= 0 else index for name, index in named.items() if index is not None}


def split_columns(line: str) -> list[str]:
    r"""Return the columns of a line: what is between tabs where it has any, else between spaces.

    >>> split_columns("EU  NNP B-ORG"), split_columns("New York\tB-LOC")
    (['EU', 'NNP', 'B-ORG'], ['New York', 'B-LOC'])
    """
    # Not str.split(): it would also break at no-break and ideographic spaces, which occur as words.
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return [column for column in line.split(" ") if column]


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


def _is_comment(line: _Line, first: bool, shape: tuple[int, bool], layout: Layout, scheme: str) -> bool:
    """Return whether a line is a comment; a tweet may begin with the word "#" or with a hashtag.

    Args:
        line: the line.
        first: whether no word of a sentence stands before it.
        shape: of most lines (see `_shape`).
        layout: of the other lines.
        scheme: of the tags.
    """
    if not line.text.startswith("#"):
        return False
    stands_alone = line.text[:2] in ("#", "# ", "#\t")
    if _shape(line) == shape:
        return stands_alone and not _is_tag(_cell(line.cells, layout.tag), scheme)
    ends_in_tag = _is_tag(line.cells[-1], "auto")
    return (stands_alone and (first or not ends_in_tag)) or (first and not ends_in_tag)


def _numbers_words(sentences: Sequence[Sequence[Sequence[str]]], column: int) -> bool:
    """Return whether a column counts the words of each sentence."""
    steps = [(before[column], after[column]) for rows in sentences for before, after in itertools.pairwise(rows)]
    counted = sum(a.isdecimal() and b.isdecimal() and int(b) == int(a) + 1 for a, b in steps)
    return bool(steps) and counted >= MOST * len(steps)


def _types(rows: Sequence[Sequence[str]], column: int) -> set[str]:
    return {tag_schemes.tag_type(row[column]) for row in rows if row[column] != tag_schemes.OUTSIDE}


def see_layout(sentences: Sequence[Sequence[Sequence[str]]], names: Sequence[str] = ()) -> Layout:
    """Return which column is the word and which the tag.

    >>> see_layout([[["1", "Ann", "B-PER", "O"], ["2", "Lee", "I-PER", "B-PER"]]])
    Layout(token=1, tag=2, sentence=None, other_tags=(3,))
    >>> see_layout([[["EU", "NNP", "I-NP", "B-ORG"]]])
    Layout(token=0, tag=-1, sentence=None, other_tags=())

    Args:
        sentences: cells of the words of each sentence, all of one width.
        names: of the columns, where the file begins with them.
    """
    rows = [row for cells in sentences for row in cells]
    width = len(rows[0]) if rows else 0
    if width < 3 and not (width == 2 and rows):
        return Layout(0, -1)

    def are_tags(column: int) -> bool:
        cells = [row[column] for row in rows]
        enough = MOST * len(cells)
        return sum(map(tag_schemes.is_tag, cells)) >= enough or (
            sum(cell == "O" or tag_schemes.is_bare_tag(cell) for cell in cells) >= enough
        )

    tag_columns = [column for column in range(width) if are_tags(column)]
    tag = tag_columns[-1] if tag_columns else width - 1
    named = [column for column in tag_columns if column < len(names) and _TAG_COLUMN.fullmatch(names[column])]
    same_types = [column for column in tag_columns if _types(rows, tag) and _types(rows, tag) <= _types(rows, column)]
    others: tuple[int, ...] = ()
    if first := named or same_types:
        others = tuple(column for column in tag_columns if column > first[0])
        tag = first[0]
    words = [column for column in range(width) if column not in (*tag_columns, tag)]
    while len(words) > 1 and _numbers_words(sentences, words[0]):
        del words[0]
    token = words[0] if words else 0
    return Layout(token, -1 if tag == width - 1 else tag, None, others)


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


def _lines(path: Path) -> tuple[RawSplit, list[_Line]]:
    """Return the lines of a file; one of a table separated by commas may hold line ends in quotes."""
    raw, numbered = open_text(path)
    if path.suffix.lower() == ".csv":
        numbers: list[int] = []

        def texts() -> Iterator[str]:
            for number, text in numbered:
                numbers.append(number)
                yield text + "\n"

        table = csv.reader(texts())
        return raw, [_Line(numbers[-1], ",".join(cells), [cell.strip(" ") for cell in cells]) for cells in table]
    lines = ((number, text.rstrip(" \t")) for number, text in numbered)
    return raw, [_Line(number, text, split_columns(text)) for number, text in lines]


def _sentences(lines: Sequence[_Line], width: int) -> list[list[list[str]]]:
    groups = itertools.groupby(lines, key=lambda line: bool(line.cells))
    sentences = [[line.cells for line in group if len(line.cells) == width] for has_text, group in groups if has_text]
    return [rows for rows in sentences if rows]


def _expected(layout: Layout, num_cells: int, is_chosen: bool) -> str:
    tag = "O or B-TYPE"
    if is_chosen:
        names = [str(column + 1) if column >= 0 else f"{-column} from the end" for column in (layout.token, layout.tag)]
        return f"a token in column {names[0]} and a tag in column {names[1]} ({tag})"
    return f"a token, then a tag ({tag})" + ("; data.columns says where they stand" if num_cells > 2 else "")


def parse_columns(path: Path, data: DataConfig) -> RawSplit:
    """Read a column file.

    Args:
        path: the file; one ending in `.csv` is separated by commas.
        data: `columns`, where not to be seen from the file; `scheme` IO reads cells without a prefix as types.

    Raises:
        DataError: there is no such file, or no column of a name.
    """
    raw, lines = _lines(path)
    shape = _usual_shape(lines)
    words = [line for line in lines if not line.text.startswith("#")]
    header = next((line for line in words if line.cells), None)
    if header and not _is_header(header) and not any(isinstance(name, str) for name in (data.columns or {}).values()):
        header = None
    if data.columns:
        layout = _named(data.columns, header.cells if header else (), path)
    else:
        names = header.cells if header else ()
        layout = see_layout(_sentences([line for line in words if line is not header], shape[0]), names)
    sentence: list[Row] = []
    name = ""

    def end_sentence() -> None:
        if sentence:
            raw.sentences.append(sentence.copy())
        sentence.clear()

    for line in lines:
        if not line.cells or not line.text:
            end_sentence()
        elif line.text.startswith("-DOCSTART-"):
            end_sentence()
            raw.skipped["-DOCSTART-"] += 1
        elif line is header:
            raw.skipped["header"] += 1
        elif _is_comment(line, not sentence, shape, layout, data.scheme):
            raw.skipped["comment"] += 1
        else:
            if layout.sentence is not None and (cell := _cell(line.cells, layout.sentence)) and cell != name:
                end_sentence()
                name = cell
            token, tag = _cell(line.cells, layout.token), _cell(line.cells, layout.tag)
            if len(line.cells) < 2 or not _is_tag(tag, data.scheme):
                raw.reject(line.number, repr(line.text), _expected(layout, len(line.cells), bool(data.columns)))
            else:
                raw.skipped.update([BLANK_TOKENS] * (not token))
                sentence.append(Row(token or BLANK_TOKEN, tag, line.number, len(line.cells)))
    end_sentence()
    if raw.sentences:
        raw.columns = layout.columns
        raw.other_tags = tuple(column + 1 for column in layout.other_tags)
    return raw
