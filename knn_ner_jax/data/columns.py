"""Column files: token first, tag last, tabs or spaces between, a blank line between sentences."""

from pathlib import Path

from knn_ner_jax.data import labels
from knn_ner_jax.data.records import Parsed, Row, open_text


def split_columns(line: str) -> list[str]:
    """The columns of a line: between tabs where it has any, else between spaces."""
    # Not str.split(): it would also break at no-break and ideographic spaces, which occur as words.
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return [column for column in line.split(" ") if column]


def _is_comment(line: str) -> bool:
    # A tweet may begin with the word "#": only a hash that no tag follows is a comment.
    columns = split_columns(line)
    return line[:2] in ("#", "# ", "#\t") and not (len(columns) > 1 and labels.is_tag(columns[-1]))


def parse(path: Path) -> Parsed:
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
            if len(columns) < 2 or not columns[0] or not labels.is_tag(columns[-1]):
                parsed.reject(number, repr(line), "a token, then a tag (O or B-TYPE)")
            else:
                sentence.append(Row(columns[0], columns[-1], number, len(columns)))
    if sentence:
        parsed.sentences.append(sentence)
    return parsed
