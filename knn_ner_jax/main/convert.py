"""`convert`: write a corpus of any known format as a column file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from knn_ner_jax.cli import Parser
from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.formats.detection import FORMATS, read
from knn_ner_jax.data.readers import DataError
from knn_ner_jax.data.spans import CutSpans
from knn_ner_jax.io import write_text


def convert(kind: str, source: Path, target: Path, cut_spans: CutSpans = "snap") -> str:
    """Read a file in one of `FORMATS` and write a column file.

    Args:
        kind: a key of `FORMATS`.
        source: the file, or a folder.
        target: the file to write.
        cut_spans: see `read`.

    Returns:
        A sentence that says what was written and what was left out or changed.

    Raises:
        DataError: bad lines, or words that a column file cannot hold, all of them listed; nothing to convert; or the target
            exists.
    """
    if target.exists():
        raise DataError(f"{target}: expected a new file, found one")
    raw = read(source, kind, cut_spans)
    if raw.bad_lines:
        raise DataError("\n".join(raw.bad_lines))
    if not raw.sentences:
        raise DataError(f"{source}: expected sentences, found none")
    marks = [row for row in raw.rows if row.word == "-DOCSTART-" or row.word.startswith("\ufeff")]
    if marks:
        places = (f"{source}:{row.line}: found the word {row.word!a}, which column files take for a mark" for row in marks)
        raise DataError("\n".join(places))
    blocks = ("".join(f"{row.word}\t{row.tag}\n" for row in rows) for rows in raw.sentences)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, "\n".join(blocks))
    scheme = tag_schemes.detect_scheme(raw.tags)
    entities = sum(len(tag_schemes.strict_spans(tags, scheme)) for tags in raw.tags)
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(raw.skipped.items())) or "nothing"
    words = sum(map(len, raw.sentences))
    return f"{target}: {len(raw.sentences)} sentences, {words} words, {entities} entities; skipped: {skipped}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `convert`.

    Args:
        argv: command line, without the program's name; default: the process's own.

    Raises:
        DataError: see `convert`.
    """
    width = max(map(len, FORMATS))
    listing = "\n".join(f"  {name:<{width}}  {entry.help}" for name, entry in FORMATS.items())
    parser = Parser(
        prog="knn-ner convert",
        description="Write a corpus as a column file: a word, a tab and its tag on each line.",
        epilog=f"formats:\n{listing}\n\nColumn files, JSON lines with tokens and ner_tags, and parquet need no conversion.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help="how IN is written, see below")
    parser.add_argument("source", type=Path, metavar="IN", help="the file to read, or a folder of brat's")
    parser.add_argument(
        "target", type=Path, metavar="OUT", help="the file to write, such as msra/train.conll; never overwritten"
    )
    parser.add_argument(
        "--cut-spans",
        choices=get_args(CutSpans),
        default="snap",
        help="spans that cut a word: read as the whole words (snap, the default), or refused; counted either way",
    )
    arguments = parser.parse_args(argv)
    print(convert(arguments.format, arguments.source, arguments.target, arguments.cut_spans))
