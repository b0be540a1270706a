"""JSON of annotation tools and benchmarks in their documented layouts, read by hand; an emoji stands before the entities."""

import json
from pathlib import Path

import pytest
from helpers.span_files import faults, read, sentences_of

TEXT = "😀 Ann Lee lives in Köln."
READ = ["😀/O Ann/B-PER Lee/I-PER lives/O in/O Köln/B-LOC ./O"]
# Where the two names lie, the ends exclusive.
CODE_POINTS = [(2, 9, "PER"), (19, 23, "LOC")]
UTF_16 = [(3, 10, "PER"), (20, 24, "LOC")]
UNIT = "text whose offsets depend on their unit, read as UTF-16 code units"

LABELS = {"id": 1, "text": TEXT, "label": [list(place) for place in UTF_16], "Comments": []}
ENTITIES = {
    "id": 1,
    "text": TEXT,
    "entities": [{"id": 7, "label": type_, "start_offset": start, "end_offset": end} for start, end, type_ in UTF_16],
    "relations": [],
}


def task(places: list[tuple[int, int, str]], field: str = "text", **more: object) -> dict:
    code_points = {type_: TEXT[start:end] for start, end, type_ in CODE_POINTS}
    results = [
        {
            "value": {"start": start, "end": end, "text": code_points[type_], "labels": [type_]},
            "id": "xYz",
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "origin": "manual",
        }
        for start, end, type_ in places
    ]
    annotation = {"id": 1, "completed_by": 1, "result": results, "was_cancelled": False}
    return {"id": 1, "annotations": [annotation], "data": {field: TEXT, **more}, "predictions": []}


def minimal(**more: object) -> dict:
    label = [{"start": s, "end": e, "text": TEXT[s:e], "labels": [t]} for s, e, t in CODE_POINTS]
    return {"text": TEXT, "id": 1, "label": label, "annotator": 1, "annotation_id": 1, "created_at": "2022-01-01"} | more


PRODIGY = {
    "text": TEXT,
    "_input_hash": 1,
    "_task_hash": 2,
    "spans": [
        {"start": 2, "end": 9, "token_start": 1, "token_end": 2, "label": "PER"},
        {"start": 19, "end": 23, "label": "LOC"},
    ],
    "_view_id": "ner_manual",
    "answer": "accept",
}
CLUENER = {
    "text": "😀北京勘察设计协会副会长周荫如",
    "label": {"organization": {"北京勘察设计协会": [[1, 8]]}, "name": {"周荫如": [[12, 14]]}},
}
CMEEE = {
    "text": "😀呼吸肌麻痹和肺炎",
    "entities": [
        {"start_idx": 1, "end_idx": 3, "type": "bod", "entity": "呼吸肌"},
        {"start_idx": 1, "end_idx": 5, "type": "sym", "entity": "呼吸肌麻痹"},
        {"start_idx": 7, "end_idx": 8, "type": "dis", "entity": "肺炎"},
    ],
}
CMEEE_READ = ["😀/O 呼/B-sym 吸/I-sym 肌/I-sym 麻/I-sym 痹/I-sym 和/O 肺/B-dis 炎/I-dis"]
GLINER = {
    "tokenized_text": ["😀", "Barack", "Obama", "was", "born", "in", "Hawaii", "."],
    "ner": [[1, 2, "person"], [6, 6, "location"]],
}

# Format, object, sentences, what is counted.
DOCUMENTED = {
    "doccano label": ("doccano", LABELS, READ, {UNIT: 1}),
    "doccano labels": ("doccano", {"text": TEXT, "labels": LABELS["label"]}, READ, {UNIT: 1}),
    "doccano entities": ("doccano", ENTITIES, READ, {UNIT: 1}),
    "label studio": ("label-studio", task(CODE_POINTS), READ, {}),
    "label studio before code points": ("label-studio", task(UTF_16), READ, {}),
    "label studio of another field": ("label-studio", task(CODE_POINTS, "review", title="Ann Lee"), READ, {}),
    "label studio json-min": ("label-studio", minimal(), READ, {}),
    "prodigy": ("prodigy", PRODIGY, READ, {}),
    "cluener": (
        "cluener",
        CLUENER,
        [
            "😀/O 北/B-organization 京/I-organization 勘/I-organization 察/I-organization 设/I-organization "
            "计/I-organization 协/I-organization 会/I-organization 副/O 会/O 长/O 周/B-name 荫/I-name 如/I-name"
        ],
        {},
    ),
    "cmeee": ("cmeee", CMEEE, CMEEE_READ, {"span that overlaps a longer or earlier one": 1}),
    "gliner": (
        "gliner",
        GLINER,
        ["😀/O Barack/B-person Obama/I-person was/O born/O in/O Hawaii/B-location ./O"],
        {},
    ),
}


@pytest.mark.parametrize("layout", ["lines", "array", "pretty array", "pretty objects", "escapes"])
@pytest.mark.parametrize("case", DOCUMENTED)
def test_the_documented_layout_in_every_form_of_json(tmp_path: Path, case: str, layout: str):
    name, record, expected, counts = DOCUMENTED[case]
    records = [record, {**record, "id": 2}]
    content = {
        "lines": "\n".join(json.dumps(item, ensure_ascii=False) for item in records) + "\n",
        "array": json.dumps(records, ensure_ascii=False),
        "pretty array": "\ufeff" + json.dumps(records, ensure_ascii=False, indent=2) + "\n",
        "pretty objects": "\n".join(json.dumps(item, ensure_ascii=False, indent=2) for item in records),
        "escapes": json.dumps(records),  # signs beyond the BMP as two escapes
    }[layout]
    raw = read(tmp_path / "train.json", name, content)
    assert faults(raw) == []
    assert sentences_of(raw) == expected * 2
    assert raw.skipped == {reason: 2 * count for reason, count in counts.items()}


def test_the_line_of_a_sentence_is_the_one_on_which_its_object_begins(tmp_path: Path):
    lines = [json.dumps(GLINER), "", json.dumps(GLINER)]
    assert [rows[0].line for rows in read(tmp_path / "a", "gliner", "\n".join(lines)).sentences] == [1, 3]
    raw = read(tmp_path / "b", "cluener", json.dumps([CLUENER, CLUENER], indent=1))
    assert [rows[0].line for rows in raw.sentences] == [2, 2 + len(json.dumps(CLUENER, indent=1).split("\n"))]


def test_doccano_of_code_points_or_graphemes_is_a_format_of_its_own(tmp_path: Path):
    text = "👩\u200d🚒 Ann"
    for name, place in [("doccano", [6, 9]), ("doccano-code-points", [4, 7]), ("doccano-graphemes", [2, 5])]:
        raw = read(tmp_path / name, name, json.dumps({"text": text, "label": [[*place, "PER"]]}))
        assert sentences_of(raw) == ["👩\u200d🚒/O Ann/B-PER"]


def test_an_offset_within_a_character_is_refused(tmp_path: Path):
    raw = read(tmp_path / "train", "doccano", json.dumps({"text": "😀 Ann", "label": [[1, 6, "PER"]]}))
    assert faults(raw) == [
        "train:1: found a span from 1 to 6 in a text of 5 characters, "
        "expected offsets of whole characters within the text, the end not first"
    ]


def test_cmeee_is_read_with_the_ends_that_agree_with_its_texts(tmp_path: Path):
    exclusive = [{**entity, "end_idx": entity["end_idx"] + 1} for entity in CMEEE["entities"]]
    raw = read(tmp_path / "train", "cmeee", json.dumps({**CMEEE, "entities": exclusive}, ensure_ascii=False))
    assert sentences_of(raw) == CMEEE_READ
    # One entity of many with the other end does not turn the file: it is refused.
    raw = read(tmp_path / "train", "cmeee", json.dumps({**CMEEE, "entities": [*CMEEE["entities"], exclusive[0]]}))
    assert faults(raw) == [
        "train:1: found '呼吸肌麻' from 1 to 4, expected '呼吸肌', the text that the file gives that span"
    ]


def test_label_studio_reads_the_first_annotation_that_counts(tmp_path: Path):
    first, second = task(CODE_POINTS), task(CODE_POINTS[:1])
    cancelled = {**second["annotations"][0], "was_cancelled": True}
    tasks = [
        {**first, "annotations": [cancelled, *first["annotations"], *second["annotations"]]},
        {**first, "annotations": [cancelled]},
        {**first, "annotations": []},
    ]
    raw = read(tmp_path / "train", "label-studio", json.dumps(tasks))
    assert sentences_of(raw) == READ
    assert raw.skipped == {
        "cancelled annotation": 2,
        "further annotation of a task, of which the first is read": 1,
        "task without annotation": 2,
    }
    raw = read(tmp_path / "train", "label-studio", json.dumps([minimal(), minimal(annotation_id=2, label=[])]))
    assert sentences_of(raw) == READ
    assert raw.skipped == {"further annotation of a task, of which the first is read": 1}


def test_label_studio_counts_results_of_other_kinds_and_spans_without_a_label(tmp_path: Path):
    item = task(CODE_POINTS)
    results = item["annotations"][0]["result"]
    results[1]["value"]["labels"] = []
    results.append({"type": "choices", "value": {"choices": ["good"]}})
    raw = read(tmp_path / "train", "label-studio", json.dumps([item]))
    assert sentences_of(raw) == [READ[0].replace("B-LOC", "O")]
    assert raw.skipped == {"result that is no span of a Text": 1, "span without a label": 1}


def test_a_task_of_several_texts_needs_spans_that_tell_which(tmp_path: Path):
    raw = read(tmp_path / "train", "label-studio", json.dumps([task([], "one", two="Text.")]))
    assert faults(raw) == [
        "train:1: found 0 such fields among 'one', 'two', "
        "expected the text in the field text, or in the only one that agrees with the spans"
    ]


def test_prodigy_reads_its_own_tokens_and_what_was_accepted(tmp_path: Path):
    tokens = [(0, 1), (2, 5), (5, 6), (6, 9), (10, 23), (23, 24)]
    own = [{"text": TEXT[s:e], "start": s, "end": e, "id": i, "ws": True} for i, (s, e) in enumerate(tokens)]
    records = [{**PRODIGY, "tokens": own}, {**PRODIGY, "answer": "reject"}, {**PRODIGY, "answer": "ignore"}]
    raw = read(tmp_path / "train", "prodigy", "\n".join(map(json.dumps, records)))
    assert sentences_of(raw) == ["😀/O Ann/B-PER Lee/I-PER lives in Köln/B-LOC ./O"]
    assert raw.skipped == {
        "blank token": 1,
        "span that cuts a word, read as the whole words": 1,
        "text with the answer 'ignore'": 1,
        "text with the answer 'reject'": 1,
    }


@pytest.mark.parametrize(
    ("name", "record", "found"),
    [
        ("doccano", {"text": TEXT}, "no label, expected a list of lists in label"),
        ("doccano", {"label": []}, "no data, expected text in data"),
        ("doccano", {"text": 5, "label": []}, "text 5, expected text in text"),
        ("doccano", {"text": "a", "label": [[0, 1]]}, "label [[0, 1]], expected [start, end, type] for each span"),
        ("doccano", {"text": "a", "label": [[0, 1.0, "X"]]}, "the offset 1.0, expected an integer"),
        ("doccano", {"text": "a", "label": [[False, 1, "X"]]}, "the offset False, expected an integer"),
        ("doccano", {"text": "a", "label": [["0", 1, "X"]]}, "the offset '0', expected an integer"),
        ("doccano", {"text": "a", "label": [[-1, 1, "X"]]}, "a span from -1 to 1 in a text of 1 characters, expected"),
        ("doccano", {"text": "a", "label": [[0, 10**40, "X"]]}, "a span from 0 to 1000000000000000"),
        ("doccano", {"text": "a", "label": [[1, 0, "X"]]}, "a span from 1 to 0 in a text of 1 characters, expected"),
        ("doccano", {"text": "a", "label": [[0, 1, ""]]}, "the type '', expected a name"),
        ("doccano", {"text": "a", "label": [[0, 1, "X-"]]}, "the type 'X-', expected a name"),
        ("doccano", {"text": "a", "label": [[0, 1, "a\tb"]]}, "the type 'a\\tb', expected a name"),
        ("doccano", {"text": "a", "label": [[0, 1, None]]}, "the type None, expected a name"),
        ("doccano", {"text": "a\0b", "label": []}, "U+0000 in text, expected characters that UTF-8 can hold, and no NUL"),
        ("doccano", {"text": "a\ud83d", "label": []}, "U+D83D in text, expected characters that UTF-8 can hold, and no NUL"),
        ("doccano", {"text": "a", "entities": [[0, 1]]}, "entities [[0, 1]], expected a list of objects in entities"),
        ("label-studio", {"data": "a", "annotations": []}, "data 'a', expected an object in data"),
        ("label-studio", {"data": {"text": "a"}}, "no completions, expected a list of objects in completions"),
        ("label-studio", {"data": {"text": "a"}, "annotations": [{}]}, "no result, expected a list of objects in result"),
        ("prodigy", {"text": "a", "spans": [{"start": 0, "end": 1}]}, "the type None, expected a name"),
        (
            "prodigy",
            {"text": "ab", "tokens": [{"start": 0, "end": 1, "text": "b"}]},
            "'a' from 0 to 1, expected 'b', the text",
        ),
        (
            "prodigy",
            {"text": "ab", "tokens": [{"start": 1, "end": 2}, {"start": 0, "end": 1}]},
            "the token {'start': 0, 'end'",
        ),
        ("cluener", {"text": "a", "label": {"X": [[0, 0]]}}, "label {'X': [[0, 0]]}, expected {type: {text: [[start, end]"),
        ("cluener", {"text": "a", "label": {"X": {"a": [[0]]}}}, "'a': [[0]], expected [[start, end], ...]"),
        (
            "cluener",
            {"text": "ab", "label": {"X": {"b": [[0, 0]]}}},
            "'a' from 0 to 0, expected 'b', the text that the file",
        ),
        ("cmeee", {"text": "a", "entities": [{}]}, "the offset None, expected an integer"),
        ("gliner", {"tokenized_text": ["a"], "ner": [[0, 1, "X"]]}, "[0, 1, 'X'] beside 1 tokens, expected [first token"),
        ("gliner", {"tokenized_text": ["a"], "ner": [[-1, 0, "X"]]}, "[-1, 0, 'X'] beside 1 tokens, expected [first token"),
        ("gliner", {"tokenized_text": ["a"], "ner": [[True, 0, "X"]]}, "[True, 0, 'X'] beside 1 tokens, expected [first"),
        ("gliner", {"tokenized_text": ["a", "b"], "ner": [[1, 0, "X"]]}, "a span from 2 to 1 in a text of 3 characters"),
        ("gliner", {"tokenized_text": ["a\nb"], "ner": []}, "the token 'a\\nb', expected a word without tabs and line ends"),
        ("gliner", {"tokenized_text": "ab", "ner": []}, "tokenized_text 'ab', expected a list of texts in tokenized_text"),
    ],
)
def test_a_bad_object_is_named_with_its_line_and_the_others_are_read(tmp_path: Path, name: str, record: dict, found: str):
    good = next(json.dumps(item) for case, item, _, _ in DOCUMENTED.values() if case == name)
    raw = read(tmp_path / "train.json", name, f"{good}\n{json.dumps(record)}\n{good}\n")
    (line,) = faults(raw)
    assert line.startswith(f"train.json:2: found {found}")
    assert raw.sentences


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 1}\n{"a": \n{"a": 2}', ["2: found what is no JSON (Expecting ',' delimiter), expected objects"]),
        ('[{"a": 1}, {"a": ', ["1: found what is no JSON (Expecting value), expected objects"]),
        ('[{"a": 1}\n', ["2: found the end of the file, expected ]"]),
        ("[", ["1: found the end of the file, expected ]"]),
        ('[{"a": 1}] {}', ["1: found '] {}', expected ]"]),
        ('[{"a": 1} {"a": 2}]', ["1: found '{\"a\": 2}]', expected ]"]),
        ("[1, 2]", ["1: found 1, expected an object", "1: found 2, expected an object"]),
        ("nonsense", ["1: found what is no JSON (Expecting value), expected objects"]),
        ("[" * 100_000, ["1: found what is no JSON (RecursionError), expected objects"]),
        ("1" * 5000, ["1: found what is no JSON (ValueError), expected objects"]),
        (b'{"a": "\xff"}\n', ["1: found byte 0xff, expected UTF-8 text"]),
        ("", []),
    ],
)
def test_what_is_no_json_is_a_bad_line(tmp_path: Path, content: str | bytes, expected: list[str]):
    raw = read(tmp_path / "train", "gliner", content)
    others = "found no tokenized_text"
    assert [line for line in faults(raw) if others not in line] == [f"train:{line}" for line in expected]
    assert raw.sentences == []
