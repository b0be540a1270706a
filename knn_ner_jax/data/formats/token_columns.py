"""Readers of files with a token on each line, and of two corpora in layouts of their own.

Where a column lies, and what an offset counts, is taken from the page that the reader names.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import spans, tag_schemes
from knn_ner_jax.data.columns import parse_columns, split_columns
from knn_ner_jax.data.readers import RawSplit, Row, open_text, shorten
from knn_ner_jax.data.spans import CutSpans, Draft, Mark, Offsets, Reading, Span

# A character, which may be a digit, and the number of its place in its word; some characters are broken into several.
WEIBO_TOKEN = re.compile(r"(.[^0-9]*)[0-9]+", re.DOTALL)
MSRA_TYPES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
# Columns of CoNLL-2012: document, part, number, word, ..., then predicate arguments as many as there are, then coreference.
CONLL2012_WORD, CONLL2012_NAME, CONLL2012_COLUMNS = 3, 10, 12
BRACKETS = re.compile(r"(?:\(([^()*]+))?\*?(\))?")

CONLLU_COLUMNS = 10
CONLLU_KEYS = ("name", "NE", "NER", "ner")  # of MISC; the names of entities have no key in the standard
_CONLLU_ID = re.compile(r"[0-9]+(?:([-.])[0-9]+)?")

WEBANNO_HEADER = "#FORMAT=WebAnno TSV 3"
_WEBANNO_NAMES = "de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity"
_WEBANNO_STANDARD = "de.tudarmstadt.ukp.dkpro.core."  # layers of parts of speech, lemmas and the like; not a project's own
_WEBANNO_ID = re.compile(r"[0-9]+-[0-9]+(\.[0-9]+)?")
_WEBANNO_PLACE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_WEBANNO_VALUE = re.compile(r"((?:[^\\|\[]|\\.)*)(?:\[([0-9]+)\])?(?:\||$)")
_WEBANNO_CELL = re.compile(r"(?:[^\\\[]|\\.|\[[0-9]+\](?=\||$))*")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(->|.))", re.DOTALL)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "b": "\b"}

HIPE_TOKEN, HIPE_TAG = "TOKEN", "NE-COARSE-LIT"
HIPE_FLAGS = ("MISC", "RENDER", "SEG")
PARTIAL = "name that covers a part of its word, read as the whole word"


def _add_row(raw: RawSplit, sentence: list[Row], number: int, word: str, tag: str) -> bool:
    """Add a word to a sentence; where word or tag is none, add a bad line and return False."""
    word, tag = word.strip(" "), tag.strip(" ")
    if not word.strip():
        raw.reject(number, f"the token {shorten(word)}", "a word")
    elif not tag_schemes.is_tag(tag):
        raw.reject(number, f"the tag {shorten(tag)}", "O or B-TYPE")
    elif spans.is_fit(raw, number, word, "the token"):
        sentence.append(Row(word, tag, number))
        return True
    return False


def _read_rows(path: Path, columns: int, tag_of: Callable[[RawSplit, int, list[str]], str | None]) -> RawSplit:
    """Read lines whose first columns are the number and the form of a word, as CoNLL-U has them."""
    raw, lines = open_text(path)
    sentence: list[Row] = []
    for number, line in lines:
        cells = line.split("\t")
        if not line.strip():
            raw.sentences += [sentence] if sentence else []
            sentence = []
        elif line.startswith("#"):
            raw.skipped["comment"] += 1
        elif len(cells) < columns or not (name := _CONLLU_ID.fullmatch(cells[0])):
            raw.reject(number, shorten(line), f"{columns} columns with tabs between, the first a number")
        elif name[1]:
            raw.skipped["multiword token, whose words are read" if name[1] == "-" else "empty node"] += 1
        else:
            tag = tag_of(raw, number, cells)
            if tag is not None:
                _add_row(raw, sentence, number, cells[1], tag)
    raw.sentences += [sentence] if sentence else []
    return raw


def read_conllu(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read CoNLL-U (https://universaldependencies.org/format.html) with names in MISC, under one of `CONLLU_KEYS`.

    The value is a tag, as NorNE has it (https://github.com/ltgoslo/norne), or NameTag's TYPE_NUMBER for each entity that the
    word is in, hyphens between, outermost first (https://ufal.mff.cuni.cz/nametag/3/formats): the outermost is read, the
    others are counted. A word without a key is outside.
    """
    open_names: list[str] = []  # the numbers of NameTag's entities that the word before was in
    places: list[int] = []

    def tag_of(raw: RawSplit, number: int, cells: list[str]) -> str:
        misc = dict(pair.partition("=")[::2] for pair in cells[9].split("|"))
        value = next((misc[key] for key in CONLLU_KEYS if key in misc), None)
        places.extend([number] if value is not None else [])
        before = list(open_names)
        open_names.clear()
        if value is None or tag_schemes.is_tag(value):
            return value or tag_schemes.OUTSIDE
        names = [name.rpartition("_") for name in value.split("-")]
        if not all(type_ and name.isdecimal() for type_, _, name in names):
            return value  # which is no tag, and refused as such
        open_names.extend(name for *_, name in names)
        raw.skipped.update([spans.OVERLAP] * len(set(open_names[1:]) - set(before)))
        prefix = "I" if before[:1] == open_names[:1] else "B"
        return f"{prefix}-{names[0][0]}"

    raw = _read_rows(path, CONLLU_COLUMNS, tag_of)
    if not places and not raw.bad_lines:
        raw.bad_lines.append(f"{path}: found no names, expected {'=, '.join(CONLLU_KEYS)}= in the last column")
    return raw


def is_conllu(path: Path, head: str) -> bool:
    """Return whether a text begins as CoNLL-U: ten columns, the first a number, the last no tag."""
    cells = _first_line(head).split("\t")
    return len(cells) == CONLLU_COLUMNS and bool(_CONLLU_ID.fullmatch(cells[0])) and not tag_schemes.is_tag(cells[-1])


def _first_line(head: str) -> str:
    """Return the first line that is neither empty nor a comment."""
    lines = (line for line in re.split(r"\r?\n|\r", head) if line.strip() and not re.match(r"#(?: |$)", line))
    return next(lines, "")


def read_uner(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read Universal NER's .iob2: number, word, tag, a hyphen, annotator (https://github.com/UniversalNER/UNER_English-EWT)."""
    return _read_rows(path, 3, lambda raw, number, cells: cells[2])


def is_uner(path: Path, head: str) -> bool:
    """Return whether a text begins as Universal NER's: a number, a word, a tag, and a last column that is no tag."""
    cells = _first_line(head).split("\t")
    return len(cells) == 5 and cells[0].isdecimal() and tag_schemes.is_tag(cells[2]) and not tag_schemes.is_tag(cells[4])


def read_hipe(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read HIPE-2022 and HIPE-2020 (https://github.com/hipe-eval/HIPE-2022-data#hipe-format-and-tagging-scheme).

    The header names the columns; tags are those of NE-COARSE-LIT. A sentence ends at the flag EndOfSentence of MISC, RENDER
    or SEG, and at an empty line. A name of which only a part of the word is marked (`Partial-0:7`) is counted, and refused
    where cut spans are.
    """
    raw, lines = open_text(path)
    header: list[str] = []
    sentence: list[Row] = []
    for number, line in lines:
        cells = line.split("\t")
        # The token "#" has tabs after it.
        if not line.strip() or line.startswith("# ") or (line.startswith("#") and len(cells) == 1):
            raw.sentences += [sentence] if sentence else []
            sentence = []
            raw.skipped.update(["comment"] * line.startswith("#"))
        elif not header:
            header = cells
            if not {HIPE_TOKEN, HIPE_TAG} <= set(header):
                raw.reject(number, shorten(line), f"a header with the columns {HIPE_TOKEN} and {HIPE_TAG}")
                return raw
        elif len(cells) != len(header):
            raw.reject(number, f"{len(cells)} columns", f"{len(header)}, as in the header")
        else:
            row = dict(zip(header, cells, strict=True))
            flags = [flag for name in HIPE_FLAGS for flag in row.get(name, "").split("|")]
            is_read = _add_row(raw, sentence, number, row[HIPE_TOKEN], row[HIPE_TAG])
            if is_read and row[HIPE_TAG] != tag_schemes.OUTSIDE and any(flag.startswith("Partial") for flag in flags):
                raw.skipped[PARTIAL if cut_spans == "snap" else spans.CUT_REFUSE] += 1
                if cut_spans == "refuse":
                    raw.reject(number, f"a name in a part of {shorten(row[HIPE_TOKEN])}", "names of whole words")
            if "EndOfSentence" in flags and sentence:
                raw.sentences.append(sentence)
                sentence = []
    raw.sentences += [sentence] if sentence else []
    return raw


def is_hipe(path: Path, head: str) -> bool:
    """Return whether a text begins with HIPE's header."""
    return {HIPE_TOKEN, HIPE_TAG} <= set(_first_line(head).split("\t"))


def read_webanno(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read WebAnno TSV 3 (3.0 to 3.3) of WebAnno and INCEpTION: the layer of named entities, or else the project's only own.

    Offsets are UTF-16 code units, the end exclusive (https://github.com/inception-project/inception, webannotsv.adoc, which
    is the chapter "WebAnno TSV 3.3 File format" of INCEpTION's user guide). The type is the feature `value`, or the only
    feature. Tokens and sentences are the file's; a span may begin or end within a token.
    """
    raw, lines = open_text(path)
    header: list[str] = []
    blocks: list[tuple[list[str], list[tuple[int, list[str]]]]] = [([], [])]  # text and rows of each sentence
    for number, line in lines:
        if number == 1 and not line.startswith(WEBANNO_HEADER):
            raw.reject(number, shorten(line), f"{WEBANNO_HEADER}.x")
            return raw
        if line.startswith("#T_"):
            header.append(line)
        elif line.startswith("#Text="):
            blocks[-1][0].append(line.removeprefix("#Text="))
        elif line and not line.startswith("#"):
            blocks[-1][1].append((number, line.split("\t")))
        elif not line and any(blocks[-1]):
            blocks.append(([], []))
    column = _webanno_column(header)
    if isinstance(column, str):
        raw.reject(1, column, "one layer of named entities, with the feature value or only one")
        return raw
    no_words = sum(bool(text) and not rows for text, rows in blocks)
    raw.skipped.update({"sentence without words": no_words} if no_words else {})
    keys_without_type: set[str] = set()
    sentences = [
        draft for text, rows in blocks if rows and (draft := _webanno_draft(raw, text, rows, column, keys_without_type))
    ]
    raw.skipped.update({"span without a type": len(keys_without_type)} if keys_without_type else {})
    names = Counter(name for _, by_key in sentences for name in by_key)
    keys_across = {name for name, count in names.items() if count > 1}
    raw.skipped.update({spans.ACROSS: len(keys_across)} if keys_across else {})
    drafts = [
        draft._replace(marks=[*draft.marks, *(mark for name, mark in by_key.items() if name not in keys_across)])
        for draft, by_key in sentences
    ]
    return spans.add_drafts(raw, drafts, [Reading("UTF-16 code units")], cut_spans)


def _webanno_column(header: list[str]) -> int | str:
    """Return the number of the column that holds the types of entities; or what was found instead of one."""
    layers: dict[str, dict[str, int]] = {}  # each layer of spans -> its features -> their columns
    column = 0
    for line in header:
        kind, _, content = line.partition("=")
        layer, *features = content.split("|")
        for feature in features or [""]:
            if kind == "#T_SP" and not feature.startswith("ROLE_") and "." not in feature:
                layers.setdefault(layer, {})[feature] = column
            column += 1
    own = [layer for layer in layers if not layer.startswith(_WEBANNO_STANDARD)]
    names = [layer for layer in layers if layer == _WEBANNO_NAMES] or own
    if len(names) != 1:
        return f"the layers of spans {', '.join(layers)[:200] or 'none'}"
    features_of_layer = layers[names[0]]
    if "value" not in features_of_layer and len(features_of_layer) != 1:
        return f"the features {', '.join(features_of_layer)[:200]} of {names[0][:200]}"
    return features_of_layer.get("value", next(iter(features_of_layer.values())))


def _webanno_draft(
    raw: RawSplit, texts: list[str], rows: list[tuple[int, list[str]]], column: int, keys_without_type: set[str]
) -> tuple[Draft, dict[str, Mark]] | None:
    """Return a sentence, and those of its spans that have a number, by that; add what has no type to `keys_without_type`."""
    units = []
    for number, cells in rows:
        name, extent = _WEBANNO_ID.fullmatch(cells[0]), _WEBANNO_PLACE.fullmatch(cells[1] if len(cells) > 1 else "")
        if not name or not extent or len(cells) <= 3 + column:
            raw.reject(number, shorten("\t".join(cells)), f"SENTENCE-TOKEN, BEGIN-END, a token and {column + 1} features")
            return None
        units.append((number, int(extent[1]), int(extent[2]), bool(name[1]), cells))
    line, base = units[0][:2]
    text = _unescape("\n".join(texts))
    if not spans.is_fit(raw, line, text):
        return None
    offsets, words = Offsets(text, "UTF-16 code units"), [(0, 0)]
    marks: list[Mark] = []
    marks_by_key: dict[str, Mark] = {}
    for number, begin, end, is_part, cells in units:
        place = spans.place_span(Mark(begin - base, end - base, "token"), text, offsets)
        if not isinstance(place, Span) or (not is_part and place.start < words[-1][1]):
            actual = f"{shorten(cells[2])} from {begin} to {end} in a sentence from {base}"
            raw.reject(number, actual, "offsets within the #Text of the sentence, in order")
            return None
        if not is_part:
            if text[place.start : place.end] not in (cells[2], _unescape(cells[2])):
                raw.reject(number, shorten(cells[2]), f"{shorten(text[place.start : place.end])}, as in the #Text")
            words.append((place.start, place.end))
        cell = cells[3 + column]
        if not _WEBANNO_CELL.fullmatch(cell):
            raw.reject(number, shorten(cell), "values with bars between, a number in brackets after each or none")
            return None
        for value, key in _WEBANNO_VALUE.findall("" if cell == "_" else cell):
            mark = Mark(begin - base, end - base, _unescape(value))
            if value == "*":
                keys_without_type.add(key or f"{number} {len(keys_without_type)}")
            elif key:
                start, stop = marks_by_key.get(key, mark)[:2]
                marks_by_key[key] = Mark(min(start, mark.start), max(stop, mark.end), mark.type)
            elif value:
                marks.append(mark)
    return Draft(text, marks, line, words[1:], [(0, len(text), line)]), marks_by_key


def _unescape(text: str) -> str:
    """Return a text of WebAnno's without its backslashes.

    >>> _unescape("a" + chr(92) + "_b" + chr(92) + "->c")
    'a_b->c'
    """
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else _ESCAPES.get(match[2], match[2]), text)
    # Before 3.2, characters beyond the BMP are two escapes.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def is_webanno(path: Path, head: str) -> bool:
    """Return whether a text begins as WebAnno TSV 3."""
    return head.removeprefix("\ufeff").startswith(WEBANNO_HEADER)


def read_msra(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read MSRA's segments; characters become words, tags are BIO."""
    raw, lines = open_text(path)
    for number, line in lines:
        segments = [segment.rpartition("/") for segment in line.split(" ") if segment]
        bad = [
            "".join(parts) for parts in segments if not parts[0] or "\t" in parts[0] or parts[2] not in ("o", *MSRA_TYPES)
        ]
        if bad:
            raw.reject(number, f"the segment {shorten(bad[0])}", f"text, a slash, and o, {' or '.join(MSRA_TYPES)}")
        elif not segments:
            raw.skipped["blank line"] += 1
        elif spans.is_fit(raw, number, line):
            rows = [Row(char, tag, number) for text, _, kind in segments for char, tag in _characters(text, kind)]
            raw.sentences.append(rows)
    return raw


def _characters(text: str, kind: str) -> Iterator[tuple[str, str]]:
    for position, character in enumerate(text):
        yield character, "O" if kind == "o" else f"{'I' if position else 'B'}-{MSRA_TYPES[kind]}"


def is_msra(path: Path, head: str) -> bool:
    """Return whether a text begins with a line of MSRA's segments."""
    segments = [segment.rpartition("/") for segment in _first_line(head).split(" ") if segment]
    return bool(segments) and all(text and kind in ("o", *MSRA_TYPES) for text, _, kind in segments)


def read_weibo(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read a column file whose tokens are a character and its place in its word, such as `科0`; remove the place."""
    raw = parse_columns(path, DataConfig(""))
    for rows in raw.sentences:
        for number, row in enumerate(rows):
            match = WEIBO_TOKEN.fullmatch(row.word)
            if match and spans.is_fit(raw, row.line, row.word):
                rows[number] = row._replace(word=match[1].strip(" "))
            elif not match:
                raw.reject(row.line, f"the token {shorten(row.word)}", "a character and its place in its word")
            if not tag_schemes.is_tag(row.tag):
                raw.reject(row.line, f"the tag {shorten(row.tag)}", "O or B-TYPE")
    return raw


def read_conll2012(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read a file of CoNLL-2012; tags are BIO."""
    raw, lines = open_text(path)
    sentence: list[Row] = []
    inside: str | None = None
    for number, line in (*lines, (0, "")):
        cells = split_columns(line)
        if not spans.is_fit(raw, number, line):
            continue
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
            actual = shorten(line) if len(cells) != width else f"the name {shorten(cells[CONLL2012_NAME])}"
            raw.reject(number, actual, "the columns of CoNLL-2012, names as (TYPE* * *) or (TYPE)")
            continue
        kind = name[1] or inside
        tag = f"{'B' if name[1] else 'I'}-{kind}" if kind else "O"
        if not tag_schemes.is_tag(tag):
            raw.reject(number, f"the type {shorten(kind)}", "a name without hyphens at its ends")
            kind = None
        sentence.append(Row(cells[CONLL2012_WORD], tag, number, width))
        inside = None if name[2] else kind
    return raw


def is_conll2012(path: Path, head: str) -> bool:
    """Return whether a text begins as a file of CoNLL-2012."""
    return head.startswith("#begin document")
