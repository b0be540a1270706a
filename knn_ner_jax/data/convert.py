"""Convert published corpora in formats of their own into column files: `knn-ner convert FORMAT IN OUT`."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.columns import parse_columns, split_columns
from knn_ner_jax.data.readers import DataError, RawSplit, Row, open_text
from knn_ner_jax.io import write_text

# A character, which may be a digit, and the number of its place in its word; some characters are broken into several.
WEIBO_TOKEN = re.compile(r"(.[^0-9]*)[0-9]+", re.DOTALL)
MSRA_TYPES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
# Columns of CoNLL-2012: document, part, number, word, ..., then predicate arguments as many as there are, then coreference.
CONLL2012_WORD, CONLL2012_NAME, CONLL2012_COLUMNS = 3, 10, 12
BRACKETS = re.compile(r"(?:\(([^()*]+))?\*?(\))?")

FORMATS = """formats:
  msra       a sentence on each line, as segments `text/type` with spaces between; o is outside, nr PER, ns LOC, nt ORG.
             Every character becomes a token. The type follows the last half-width slash of a segment; a full-width slash,
             an earlier one and a backslash are text.
  weibo      column files whose tokens end in a segmentation digit (`科0`), which is removed
  conll2012  OntoNotes 5 in the columns of CoNLL-2012 (*_gold_conll, one file or several put together), names in brackets

Column files (CoNLL-2003, Resume, OntoNotes 4 in BMES), JSON lines and parquet need no conversion."""


def read_msra(path: Path) -> RawSplit:
    """Read MSRA's segments; characters become words, tags are BIO."""
    raw, lines = open_text(path)
    for number, line in lines:
        segments = [segment.rpartition("/") for segment in line.split(" ") if segment]
        bad = [
            "".join(parts) for parts in segments if not parts[0] or "\t" in parts[0] or parts[2] not in ("o", *MSRA_TYPES)
        ]
        if bad:
            raw.reject(number, f"the segment {bad[0]!r}", f"text, a slash, and o, {' or '.join(MSRA_TYPES)}")
        elif not segments:
            raw.skipped["blank line"] += 1
        else:
            rows = [Row(char, tag, number) for text, _, kind in segments for char, tag in _characters(text, kind)]
            raw.sentences.append(rows)
    return raw


def _characters(text: str, kind: str) -> list[tuple[str, str]]:
    if kind == "o":
        return [(char, "O") for char in text]
    return [(char, f"{'I' if position else 'B'}-{MSRA_TYPES[kind]}") for position, char in enumerate(text)]


def read_weibo(path: Path) -> RawSplit:
    """Read a column file whose tokens are a character and its place in its word, such as `科0`; remove the place."""
    raw = parse_columns(path, DataConfig(""))
    for rows in raw.sentences:
        for number, row in enumerate(rows):
            match = WEIBO_TOKEN.fullmatch(row.word)
            if match:
                rows[number] = row._replace(word=match[1])
            else:
                raw.reject(row.line, f"the token {row.word!r}", "a character and its place in its word")
    return raw


def read_conll2012(path: Path) -> RawSplit:
    """Read a file of CoNLL-2012; tags are BIO."""
    raw, lines = open_text(path)
    sentence: list[Row] = []
    inside: str | None = None
    for number, line in (*lines, (0, "")):
        cells = split_columns(line)
        if not line.strip() or line.startswith("#"):
            if inside:
                raw.reject(sentence[-1].line, f"the end of the sentence in a name of type {inside}", "a closing bracket")
            raw.sentences += [sentence] if sentence else []
            sentence, inside = [], None
            raw.skipped.update(["comment"] * line.startswith("#"))
            continue
        width = sentence[0].columns if sentence else max(len(cells), CONLL2012_COLUMNS)
        name = BRACKETS.fullmatch(cells[CONLL2012_NAME]) if len(cells) == width else None
        # A bracket opens outside a name and closes inside one.
        if not name or (name[1] and inside) or (name[2] and not (name[1] or inside)):
            actual = repr(line) if len(cells) != width else f"the name {cells[CONLL2012_NAME]!r}"
            raw.reject(number, actual, "the columns of CoNLL-2012, names as (TYPE* * *) or (TYPE)")
            continue
        kind = name[1] or inside
        tag = f"{'B' if name[1] else 'I'}-{kind}" if kind else "O"
        sentence.append(Row(cells[CONLL2012_WORD], tag, number, width))
        inside = None if name[2] else kind
    return raw


READERS: dict[str, Callable[[Path], RawSplit]] = {"msra": read_msra, "weibo": read_weibo, "conll2012": read_conll2012}


def convert(kind: str, source: Path, target: Path) -> str:
    """Read a file in a published format and write a column file.

    Args:
        kind: one of `READERS`.
        source: the file.
        target: the file to write.

    Returns:
        A sentence that says what was written and what was skipped.

    Raises:
        DataError: bad lines, all of them listed; nothing to convert; or the target exists.
    """
    if target.exists():
        raise DataError(f"{target}: expected a new file, found one")
    raw = READERS[kind](source)
    if raw.bad_lines:
        raise DataError("\n".join(raw.bad_lines))
    if not raw.sentences:
        raise DataError(f"{source}: expected sentences, found none")
    blocks = ("".join(f"{row.word}\t{row.tag}\n" for row in rows) for rows in raw.sentences)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, "\n".join(blocks))
    entities = sum(row.tag.startswith("B-") for row in raw.rows)
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(raw.skipped.items())) or "nothing"
    words = sum(map(len, raw.sentences))
    return f"{target}: {len(raw.sentences)} sentences, {words} words, {entities} entities; skipped: {skipped}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `convert`.

    Args:
        argv: command line, without the program's name; default: the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="knn-ner convert",
        description="Write a published corpus as a column file: a word, a tab and its tag on each line.",
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", choices=READERS, metavar="FORMAT", help=", ".join(READERS))
    parser.add_argument("source", type=Path, metavar="IN", help="the file to read")
    parser.add_argument(
        "target", type=Path, metavar="OUT", help="the file to write, such as msra/train.conll; never overwritten"
    )
    arguments = parser.parse_args(argv)
    try:
        print(convert(arguments.format, arguments.source, arguments.target))
    except DataError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
