"""Readers of what annotation tools and Chinese benchmarks write as JSON: an array, JSON lines, or pretty-printed objects.

Each turns the objects of a file into `spans.Draft`s. Where an offset lies and what it counts is taken from the page that the
reader names.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from knn_ner_jax.data import spans
from knn_ner_jax.data.readers import RawSplit, json_records, shorten
from knn_ner_jax.data.spans import CutSpans, Draft, Mark, Offsets, Reading, Span

CODE_POINTS, UTF_16 = Reading("code points"), Reading("UTF-16 code units")
FURTHER = "further annotation of a task, of which the first is read"

_Record = dict[str, Any]


class _Fault(ValueError):
    """What was found in an object, and what was expected instead."""


class _Skip(Exception):
    """Why an object is left out, which is counted."""


def _read(
    path: Path,
    cut_spans: CutSpans,
    draft_of: Callable[[RawSplit, int, _Record], Draft],
    readings: Sequence[Reading] = (CODE_POINTS,),
) -> RawSplit:
    """Read a file whose every object is a text; `draft_of` raises what it refuses or leaves out."""
    raw, text = spans.read_text(path)
    drafts = []
    for line, record in json_records(raw, text, dict):
        try:
            drafts.append(draft_of(raw, line, record))
        except _Fault as fault:
            raw.reject(line, *fault.args)
        except _Skip as skip:
            raw.skipped[str(skip)] += 1
    return spans.add_drafts(raw, drafts, readings, cut_spans)


def _text(record: Mapping[str, Any], key: str = "text") -> str:
    text = record.get(key)
    if not isinstance(text, str):
        raise _Fault(f"{key} {shorten(text)}" if key in record else f"no {key}", f"text in {key}")
    return text


def _items(record: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """Return the list that stands under a key, whose items are of a kind."""
    items = record.get(key)
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        names = {"dict": "objects", "list": "lists", "str": "texts"}
        actual = f"{key} {shorten(items)}" if key in record else f"no {key}"
        raise _Fault(actual, f"a list of {names[kind.__name__]} in {key}")
    return items


def read_doccano(path: Path, cut_spans: CutSpans, unit: str = "UTF-16 code units") -> RawSplit:
    """Read doccano's JSONL: `label` or `labels` as [start, end, type], or `entities` with `start_offset`, `end_offset`.

    The end is exclusive. Offsets are those of JavaScript, in UTF-16 code units
    (https://github.com/doccano/doccano/issues/2290), unless the project counts grapheme clusters as characters
    (https://github.com/doccano/doccano/blob/master/frontend/pages/projects/create.vue); doccano gives back what was imported
    as it came, and programs often write code points. The file does not say which; texts whose offsets depend on it are
    counted.
    """

    def draft_of(raw: RawSplit, line: int, record: _Record) -> Draft:
        text = _text(record, "text" if "text" in record else "data")
        if "entities" in record:
            items = _items(record, "entities", dict)
            marks = [Mark(item.get("start_offset"), item.get("end_offset"), item.get("label")) for item in items]
        else:
            key = "labels" if "labels" in record else "label"
            triples = _items(record, key, list)
            if not all(len(triple) == 3 for triple in triples):
                raise _Fault(f"{key} {shorten(triples)}", "[start, end, type] for each span")
            marks = [Mark(start, end, type_) for start, end, type_ in triples]
        if marks and not text.isascii() and not _is_same_in_all_units(text):
            raw.skipped[f"text whose offsets depend on their unit, read as {unit}"] += 1
        return Draft(text, marks, line)

    return _read(path, cut_spans, draft_of, [Reading(unit)])


def _is_same_in_all_units(text: str) -> bool:
    return all(Offsets(text, unit).get(len(text)) == len(text) for unit in ("UTF-16 code units", "grapheme clusters"))


read_doccano_code_points = functools.partial(read_doccano, unit="code points")
read_doccano_graphemes = functools.partial(read_doccano, unit="grapheme clusters")


def is_doccano(record: _Record) -> bool:
    """Return whether an object is one of doccano's with spans."""
    triples: Any = record.get("label", record.get("labels"))
    entities: Any = record.get("entities")
    if _is_list_of(entities, dict):
        return all("start_offset" in item for item in entities)
    return "text" in record and _is_list_of(triples, list) and all(len(item) == 3 for item in triples)


def _is_list_of(items: Any, kind: type) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(item, kind) for item in items)


def read_label_studio(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read Label Studio's JSON, and its JSON-MIN; the first annotation of each task that was not cancelled.

    The end is exclusive (https://labelstud.io/tags/text). Offsets are code points since
    https://github.com/HumanSignal/label-studio-frontend/pull/308, UTF-16 code units before: the text that Label Studio
    writes beside each span tells which. The text of a task is its field `text`, or the only one that agrees with the spans.
    """
    tasks: set[str] = set()

    def draft_of(raw: RawSplit, line: int, record: _Record) -> Draft:
        if "data" not in record:
            task = repr(record.get("id", line))
            if task in tasks:
                raise _Skip(FURTHER)
            tasks.add(task)
            values = [item for items in record.values() if _is_list_of(items, dict) for item in items if "labels" in item]
            return _draft_of_values(raw, line, record, values)
        annotations = _items(record, "annotations" if "annotations" in record else "completions", dict)
        if not isinstance(record["data"], dict):
            raise _Fault(f"data {shorten(record['data'])}", "an object in data")
        valid_annotations = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
        _count(raw, "cancelled annotation", len(annotations) - len(valid_annotations))
        _count(raw, FURTHER, len(valid_annotations) - 1)
        if not valid_annotations:
            raise _Skip("task without annotation")
        results = _items(valid_annotations[0], "result", dict)
        values = [item["value"] for item in results if item.get("type") == "labels" and isinstance(item.get("value"), dict)]
        _count(raw, "result that is no span of a Text", len(results) - len(values))
        return _draft_of_values(raw, line, record["data"], values)

    return _read(path, cut_spans, draft_of, [CODE_POINTS, UTF_16])


def _count(raw: RawSplit, reason: str, number: int) -> None:
    if number > 0:
        raw.skipped[reason] += number


def _draft_of_values(raw: RawSplit, line: int, fields: Mapping[str, Any], values: Sequence[_Record]) -> Draft:
    marks = []
    for value in values:
        labels = _items(value, "labels", str)
        _count(raw, "span without a label", not labels)
        marks += [Mark(value.get("start"), value.get("end"), label, value.get("text")) for label in labels]
    texts = {name: text for name, text in fields.items() if isinstance(text, str)}
    names = [name for name in texts if name == "text"] or [
        name for name, text in texts.items() if len(texts) == 1 or (marks and _agree(text, marks))
    ]
    if len(names) != 1:
        actual = f"{len(names)} such fields among {', '.join(map(shorten, texts)) or 'none'}"
        raise _Fault(actual, "the text in the field text, or in the only one that agrees with the spans")
    return Draft(texts[names[0]], marks, line)


def _agree(text: str, marks: Sequence[Mark]) -> bool:
    units = (Offsets(text, reading.unit) for reading in (CODE_POINTS, UTF_16))
    return any(all(isinstance(spans.place_span(mark, text, offsets), Span) for mark in marks) for offsets in units)


def is_label_studio(record: _Record) -> bool:
    """Return whether an object is a task of Label Studio, or one of its JSON-MIN with spans."""
    if isinstance(record.get("data"), dict):
        return isinstance(record.get("annotations", record.get("completions")), list)
    keys = {"start", "end", "labels"}
    return any(_is_list_of(items, dict) and all(keys <= item.keys() for item in items) for items in record.values())


def read_prodigy(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read Prodigy's JSONL: `text` and `spans`, and its own `tokens` where there are some; only what was accepted.

    Offsets are those of Python, in code points, the end exclusive; `token_end`, which is not read, is inclusive
    (https://prodigy.ai/docs/api-interfaces#ner).
    """

    def draft_of(raw: RawSplit, line: int, record: _Record) -> Draft:
        answer = record.get("answer", "accept")
        if answer != "accept":
            raise _Skip(f"text with the answer {shorten(answer)}")
        text = _text(record)
        items = _items({"spans": []} | record, "spans", dict)
        marks = [Mark(item.get("start"), item.get("end"), item.get("label"), item.get("text")) for item in items]
        words: list[tuple[int, int]] = []
        offsets = Offsets(text, "code points")
        for token in _items({"tokens": []} | record, "tokens", dict):
            place = spans.place_span(Mark(token.get("start"), token.get("end"), "token", token.get("text")), text, offsets)
            if not isinstance(place, Span):
                raise _Fault(*place)
            if words and place.start < words[-1][1]:
                raise _Fault(f"the token {shorten(token)}", "tokens in order that do not overlap")
            words.append((place.start, place.end))
        return Draft(text, marks, line, words or None)

    return _read(path, cut_spans, draft_of)


def is_prodigy(record: _Record) -> bool:
    """Return whether an object is a task of Prodigy with spans, or an answer to one."""
    items: Any = record.get("spans")
    has_spans = _is_list_of(items, dict) and all({"start", "end", "label"} <= item.keys() for item in items)
    return isinstance(record.get("text"), str) and (has_spans or ("_task_hash" in record and "spans" in record))


def read_cluener(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read CLUENER: `text`, and `label` as {type: {text of a span: [[start, end], ...]}}.

    The end is inclusive; offsets are code points (https://github.com/CLUEbenchmark/CLUENER2020#数据字段解释).
    """

    def draft_of(raw: RawSplit, line: int, record: _Record) -> Draft:
        label = record.get("label")
        if not isinstance(label, dict) or not all(isinstance(names, dict) for names in label.values()):
            raise _Fault(f"label {shorten(label)}", "{type: {text: [[start, end], ...]}}")
        marks = []
        for type_, name in ((type_, name) for type_, names in label.items() for name in names):
            places = _items(label[type_], name, list)
            if not all(len(place) == 2 for place in places):
                raise _Fault(f"{shorten(name)}: {shorten(places)}", "[[start, end], ...]")
            marks += [Mark(start, end, type_, name) for start, end in places]
        return Draft(_text(record), marks, line)

    return _read(path, cut_spans, draft_of, [Reading(inclusive=True)])


def is_cluener(record: _Record) -> bool:
    """Return whether an object is one of CLUENER with labels."""
    label = record.get("label")
    return "text" in record and isinstance(label, dict) and all(isinstance(names, dict) for names in label.values())


def read_cmeee(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read CMeEE: `text`, and `entities` with `start_idx`, `end_idx`, `type` and `entity`, the text of the span.

    The end is inclusive in CBLUE's release (https://github.com/CBLUEbenchmark/CBLUE#cmeee), exclusive in others: the texts
    beside the spans tell which. Offsets are code points.
    """

    def draft_of(raw: RawSplit, line: int, record: _Record) -> Draft:
        items = _items(record, "entities", dict)
        marks = [Mark(item.get("start_idx"), item.get("end_idx"), item.get("type"), item.get("entity")) for item in items]
        return Draft(_text(record), marks, line)

    return _read(path, cut_spans, draft_of, [Reading(inclusive=True), Reading()])


def is_cmeee(record: _Record) -> bool:
    """Return whether an object is one of CMeEE with entities."""
    items: Any = record.get("entities")
    return "text" in record and _is_list_of(items, dict) and all("start_idx" in item for item in items)


def read_gliner(path: Path, cut_spans: CutSpans) -> RawSplit:
    """Read GLiNER's training data: `tokenized_text`, and `ner` as [first token, last token, type].

    The end is inclusive; offsets count tokens (https://github.com/urchade/GLiNER/blob/main/docs/training.md).
    """

    def draft_of(raw: RawSplit, line: int, record: _Record) -> Draft:
        tokens = _items(record, "tokenized_text", str)
        ends = itertools.accumulate((len(token) + 1 for token in tokens), initial=0)
        words = [(start, stop - 1) for start, stop in itertools.pairwise(ends)]
        marks = []
        for item in _items(record, "ner", list):
            # A bool is an int, and no number of a token.
            if len(item) < 3 or not all(type(number) is int and 0 <= number < len(words) for number in item[:2]):
                actual = f"{shorten(item)} beside {len(words)} tokens"
                raise _Fault(actual, "[first token, last token, type], tokens counted from 0")
            marks.append(Mark(words[item[0]][0], words[item[1]][1], item[2]))
        text = " ".join(tokens)
        return Draft(text, marks, line, words, [(0, len(text), line)])

    return _read(path, cut_spans, draft_of)


def is_gliner(record: _Record) -> bool:
    """Return whether an object is one of GLiNER's training data."""
    return _is_list_of(record.get("tokenized_text"), str) and isinstance(record.get("ner"), list)
