"""The formats of annotation tools and shared tasks by name, and `knn-ner convert FORMAT IN OUT`, which writes column files.

`detect` and `read` are for whoever reads a file directly. A new format is a reader in `data/formats`, what recognises it,
and an entry in `FORMATS`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.formats import columns, json_exports, standoff
from knn_ner_jax.data.readers import DataError, RawSplit
from knn_ner_jax.data.spans import CutSpans
from knn_ner_jax.io import write_text

HEAD = 1 << 16  # bytes that tell most formats apart


class Format(NamedTuple):
    """A format.

    Attributes:
        help: what it is, in one line.
        reader: reads a file, or a folder where the format has some; what cannot be read is a bad line.
        recognises: whether a path and the first characters of its text are of it; None: it is never detected.
        recognises_object: whether an object of a JSON file is of it, where it is JSON.
    """

    help: str
    reader: Callable[[Path, CutSpans], RawSplit]
    recognises: Callable[[Path, str], bool] | None = None
    recognises_object: Callable[[dict[str, Any]], bool] | None = None


FORMATS = {
    "brat": Format(
        "a folder of .txt and .ann files, or one of the two beside the other", standoff.read_brat, standoff.is_brat
    ),
    "doccano": Format(
        "JSONL with label, labels or entities; offsets in UTF-16 code units, as doccano counts",
        json_exports.read_doccano,
        None,
        json_exports.is_doccano,
    ),
    "doccano-code-points": Format(
        "the same with offsets in code points, as programs write it", json_exports.read_doccano_code_points
    ),
    "doccano-graphemes": Format("the same of a project that counts grapheme clusters", json_exports.read_doccano_graphemes),
    "label-studio": Format(
        "JSON or JSON-MIN of texts with labels", json_exports.read_label_studio, None, json_exports.is_label_studio
    ),
    "webanno": Format("WebAnno TSV 3, as INCEpTION writes it", columns.read_webanno, columns.is_webanno),
    "prodigy": Format("JSONL with text, spans and maybe tokens", json_exports.read_prodigy, None, json_exports.is_prodigy),
    "spacy": Format("a DocBin (.spacy); needs the extra spacy", standoff.read_spacy, standoff.is_spacy),
    "bioc": Format("BioC XML", standoff.read_bioc, standoff.is_bioc),
    "pubtator": Format("PubTator: titles, abstracts and spans", standoff.read_pubtator, standoff.is_pubtator),
    "cluener": Format(
        "JSON lines with label {type: {text: [[start, end]]}}", json_exports.read_cluener, None, json_exports.is_cluener
    ),
    "cmeee": Format("JSON with entities of start_idx and end_idx", json_exports.read_cmeee, None, json_exports.is_cmeee),
    "gliner": Format("JSON with tokenized_text and ner", json_exports.read_gliner, None, json_exports.is_gliner),
    "conllu": Format("CoNLL-U with name= or NE= in its last column", columns.read_conllu, columns.is_conllu),
    "hipe": Format("TSV of HIPE-2022 and HIPE-2020; the coarse literal names", columns.read_hipe, columns.is_hipe),
    "uner": Format("Universal NER's .iob2", columns.read_uner, columns.is_uner),
    "msra": Format(
        "MSRA: text/nr text/o; every character becomes a token, nr is PER, ns LOC, nt ORG",
        columns.read_msra,
        columns.is_msra,
    ),
    "weibo": Format("Weibo: columns whose tokens end in a segmentation digit (科0), which is removed", columns.read_weibo),
    "conll2012": Format(
        "OntoNotes 5 in the columns of CoNLL-2012 (*_gold_conll, one file or several put together)",
        columns.read_conll2012,
        columns.is_conll2012,
    ),
}


def detect(path: Path) -> str | None:
    """Return the format that the content of a file, or of a folder, is in; None where it is in none, or in several.

    The package's own formats (columns, objects with `tokens` and `ner_tags`, parquet) are none of these.

    Args:
        path: a file or a folder; None is returned for one that is not there.
    """
    if not path.is_dir() and not path.is_file():
        return None
    head = ""
    if path.is_file():
        try:
            with path.open("rb") as file:
                head = file.read(HEAD).decode("utf-8", errors="replace")
        except OSError:
            return None  # whoever reads the file says what is wrong with it
    names = [name for name, entry in FORMATS.items() if entry.recognises and entry.recognises(path, head)]
    if names or head.removeprefix("\ufeff").lstrip(" \t\r\n")[:1] not in ("{", "["):
        return names[0] if len(names) == 1 else None
    return _detect_json(head) or (
        _detect_json(path.read_text("utf-8", errors="replace")) if len(head) >= HEAD // 4 else None
    )


def _detect_json(text: str) -> str | None:
    """Return the format of the first object that is of one; None where it is of several, or the package's own is first."""
    for _, record in json_exports.records(RawSplit(Path()), text):
        if {"tokens", "ner_tags"} <= record.keys():
            return None
        names = [name for name, entry in FORMATS.items() if entry.recognises_object and entry.recognises_object(record)]
        if names:
            return names[0] if len(names) == 1 else None
    return None


def read(path: Path, name: str, cut_spans: CutSpans = "snap") -> RawSplit:
    """Read a file or a folder in one of `FORMATS`.

    Args:
        path: the file or folder.
        name: a key of `FORMATS`.
        cut_spans: `snap` reads a span that cuts a word as the whole words; `refuse` makes it a bad line. Counted either way.

    Raises:
        DataError: there is no such file, or the package that reads it is missing.
    """
    return FORMATS[name].reader(path, cut_spans)


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
        DataError: bad lines, all of them listed; nothing to convert; or the target exists.
    """
    if target.exists():
        raise DataError(f"{target}: expected a new file, found one")
    raw = read(source, kind, cut_spans)
    if raw.bad_lines:
        raise DataError("\n".join(raw.bad_lines))
    if not raw.sentences:
        raise DataError(f"{source}: expected sentences, found none")
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
    """
    width = max(map(len, FORMATS))
    listing = "\n".join(f"  {name:<{width}}  {entry.help}" for name, entry in FORMATS.items())
    parser = argparse.ArgumentParser(
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
    try:
        print(convert(arguments.format, arguments.source, arguments.target, arguments.cut_spans))
    except DataError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
