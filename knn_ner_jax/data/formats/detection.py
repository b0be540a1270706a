"""The formats of annotation tools and shared tasks by name: which one a file is in, and what reads it.

A new format is a reader in this folder, what recognises it, and an entry in `FORMATS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from knn_ner_jax.data.formats import json_exports, standoff, token_columns
from knn_ner_jax.data.readers import RawSplit, json_records
from knn_ner_jax.data.spans import CutSpans

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
    "webanno": Format("WebAnno TSV 3, as INCEpTION writes it", token_columns.read_webanno, token_columns.is_webanno),
    "prodigy": Format("JSONL with text, spans and maybe tokens", json_exports.read_prodigy, None, json_exports.is_prodigy),
    "spacy": Format("a DocBin (.spacy); needs the extra spacy", standoff.read_spacy, standoff.is_spacy),
    "bioc": Format("BioC XML", standoff.read_bioc, standoff.is_bioc),
    "pubtator": Format("PubTator: titles, abstracts and spans", standoff.read_pubtator, standoff.is_pubtator),
    "cluener": Format(
        "JSON lines with label {type: {text: [[start, end]]}}", json_exports.read_cluener, None, json_exports.is_cluener
    ),
    "cmeee": Format("JSON with entities of start_idx and end_idx", json_exports.read_cmeee, None, json_exports.is_cmeee),
    "gliner": Format("JSON with tokenized_text and ner", json_exports.read_gliner, None, json_exports.is_gliner),
    "conllu": Format("CoNLL-U with name= or NE= in its last column", token_columns.read_conllu, token_columns.is_conllu),
    "hipe": Format("TSV of HIPE-2022 and HIPE-2020; coarse literal names", token_columns.read_hipe, token_columns.is_hipe),
    "uner": Format("Universal NER's .iob2", token_columns.read_uner, token_columns.is_uner),
    "msra": Format(
        "MSRA: text/nr text/o; every character becomes a token, nr is PER, ns LOC, nt ORG",
        token_columns.read_msra,
        token_columns.is_msra,
    ),
    "weibo": Format("Weibo: columns whose tokens end in a digit (科0), which is removed", token_columns.read_weibo),
    "conll2012": Format(
        "OntoNotes 5 in the columns of CoNLL-2012 (*_gold_conll, one file or several put together)",
        token_columns.read_conll2012,
        token_columns.is_conll2012,
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
        with path.open("rb") as file:
            head = file.read(HEAD).decode("utf-8", errors="replace")
    names = [name for name, entry in FORMATS.items() if entry.recognises and entry.recognises(path, head)]
    if names or head.removeprefix("\ufeff").lstrip(" \t\r\n")[:1] not in ("{", "["):
        return names[0] if len(names) == 1 else None
    return _detect_json(head) or (
        _detect_json(path.read_text("utf-8", errors="replace")) if len(head) >= HEAD // 4 else None
    )


def _detect_json(text: str) -> str | None:
    """Return the format of the first object that is of one; None where it is of several, or the package's own is first."""
    for _, record in json_records(RawSplit(Path()), text, dict):
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
