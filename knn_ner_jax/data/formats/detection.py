"""The formats of annotation tools and shared tasks by name: which one a file is in, and what reads it.

A format NAME is a function `read_NAME(path, cut_spans)` in a module of this folder, and `is_NAME`, which recognises it: from
a path and the first characters of its text, in `json_exports` from an object of the file. What it needs is imported when a
file of it is read.
"""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from knn_ner_jax.data.readers import RawSplit, json_records

HEAD = 1 << 16  # bytes that tell most formats apart
JSON_EXPORTS = "json_exports"


class Format(NamedTuple):
    """The module of this folder that reads a format, and what the format is, in one line."""

    module: str
    help: str

    def function(self, verb: str, name: str) -> Callable[..., Any] | None:
        """Return `VERB_NAME` of the module; None where there is none."""
        module = importlib.import_module(f"knn_ner_jax.data.formats.{self.module}")
        function: Callable[..., Any] | None = getattr(module, f"{verb}_{name.replace('-', '_')}", None)
        return function


FORMATS = {
    "brat": Format("standoff", "a folder of .txt and .ann files, or one of the two beside the other"),
    "doccano": Format(JSON_EXPORTS, "JSONL with label, labels or entities; offsets in UTF-16 code units, as doccano counts"),
    "doccano-code-points": Format(JSON_EXPORTS, "the same with offsets in code points, as programs write it"),
    "doccano-graphemes": Format(JSON_EXPORTS, "the same of a project that counts grapheme clusters"),
    "label-studio": Format(JSON_EXPORTS, "JSON or JSON-MIN of texts with labels"),
    "webanno": Format("token_columns", "WebAnno TSV 3, as INCEpTION writes it"),
    "prodigy": Format(JSON_EXPORTS, "JSONL with text, spans and maybe tokens"),
    "spacy": Format("standoff", "a DocBin (.spacy); needs the extra spacy"),
    "bioc": Format("standoff", "BioC XML"),
    "pubtator": Format("standoff", "PubTator: titles, abstracts and spans"),
    "cluener": Format(JSON_EXPORTS, "JSON lines with label {type: {text: [[start, end]]}}"),
    "cmeee": Format(JSON_EXPORTS, "JSON with entities of start_idx and end_idx"),
    "gliner": Format(JSON_EXPORTS, "JSON with tokenized_text and ner"),
    "conllu": Format("token_columns", "CoNLL-U with name= or NE= in its last column"),
    "hipe": Format("token_columns", "TSV of HIPE-2022 and HIPE-2020; the coarse literal names"),
    "uner": Format("token_columns", "Universal NER's .iob2"),
    "msra": Format("token_columns", "MSRA: text/nr text/o; characters become tokens, nr is PER, ns LOC, nt ORG"),
    "weibo": Format("token_columns", "Weibo: columns whose tokens end in a segmentation digit (科0), which is removed"),
    "conll2012": Format("token_columns", "OntoNotes 5 in the columns of CoNLL-2012 (*_gold_conll, one or several joined)"),
}


def _recognisers(is_json: bool) -> Iterator[tuple[str, Callable[..., bool]]]:
    for name, entry in FORMATS.items():
        if (entry.module == JSON_EXPORTS) == is_json and (recognises := entry.function("is", name)):
            yield name, recognises


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
    names = [name for name, recognises in _recognisers(is_json=False) if recognises(path, head)]
    if names or head.removeprefix("\ufeff").lstrip(" \t\r\n")[:1] not in ("{", "["):
        return names[0] if len(names) == 1 else None
    return _detect_json(head) or (
        _detect_json(path.read_text("utf-8", errors="replace")) if len(head) >= HEAD // 4 else None
    )


def _detect_json(text: str) -> str | None:
    """Return the format of the first object that is of one; None where it is of several, or the package's own is first."""
    recognisers = list(_recognisers(is_json=True))
    for _, record in json_records(RawSplit(Path()), text, dict):
        if {"tokens", "ner_tags"} <= record.keys():
            return None
        names = [name for name, recognises in recognisers if recognises(record)]
        if names:
            return names[0] if len(names) == 1 else None
    return None


def read(path: Path, name: str, cut_spans: str = "snap") -> RawSplit:
    """Read a file or a folder in one of `FORMATS`.

    Args:
        path: the file or folder.
        name: a key of `FORMATS`.
        cut_spans: `snap` reads a span that cuts a word as the whole words; `refuse` makes it a bad line. Counted either way.

    Raises:
        DataError: there is no such file, or the package that reads it is missing.
    """
    reader = FORMATS[name].function("read", name)
    assert reader is not None
    raw: RawSplit = reader(path, cut_spans)
    return raw
