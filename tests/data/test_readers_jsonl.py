"""JSON lines -> sentences."""

import json
from pathlib import Path

import pytest

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError


def read(tmp_path: Path, *lines: object, name: str = "train.jsonl") -> corpus.Split:
    path = tmp_path / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return corpus.read_splits({"train": path}, DataConfig("", on_error="report"))[0]["train"]


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_records_become_sentences_with_the_line_they_stand_on(tmp_path: Path, name: str):
    first = {"id": 7, "tokens": ["EU", "rejects", "#"], "ner_tags": ["S-ORG", "O", "S-X"], "pos": [1, 2, 3]}
    second = {"ner_tags": ["B-LOC", "E-LOC"], "tokens": ["New\u00a0", "\u2028York"]}
    split = read(tmp_path, first, "", second, {"tokens": [], "ner_tags": []}, " ", name=name)
    assert split.sentences == (
        corpus.Sentence(("EU", "rejects", "#"), ("B-ORG", "O", "B-X"), 1),
        corpus.Sentence(("New\u00a0", "\u2028York"), ("B-LOC", "I-LOC"), 3),
    )
    assert split.skipped == {"sentence without words": 1}
    assert not split.ragged_lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'tokens': []}", "found what is no JSON (Expecting property name enclosed in double quotes"),
        ([["a"], ["O"]], "found list, expected an object with tokens and ner_tags"),
        ({"words": ["a"], "tags": ["O"]}, "found an object with words, tags, expected an object with tokens and ner_tags"),
        ({}, "found an object with nothing, expected an object with tokens and ner_tags"),
        ({"tokens": "a b", "ner_tags": ["O", "O"]}, "found tokens 'a b', expected a list"),
        ({"tokens": ["a"], "ner_tags": None}, "found ner_tags None, expected a list"),
        ({"tokens": ["a", "b"], "ner_tags": ["O"]}, "found 2 tokens and 1 ner_tags, expected as many of each"),
        ({"tokens": ["a\nb"], "ner_tags": ["O"]}, "found the token 'a\\nb', expected a word without tabs and line ends"),
        ({"tokens": [3], "ner_tags": ["O"]}, "found the token 3, expected a word"),
        ({"tokens": ["a"], "ner_tags": ["per"]}, "found 'per' in ner_tags, expected O or B-TYPE"),
        (
            {"tokens": ["a", "b"], "ner_tags": [3, 0]},
            "found the number 3 in ner_tags, expected names (O or B-TYPE): data.tag_names gives the name of each number",
        ),
    ],
)
def test_a_bad_record_is_refused_with_its_line(tmp_path: Path, line: object, message: str):
    with pytest.raises(DataError) as error:
        read(tmp_path, {"tokens": ["a"], "ner_tags": ["O"]}, line)
    assert str(error.value).startswith(f"{tmp_path}/train.jsonl:2: {message}")
    assert "\n" not in str(error.value)


def test_all_bad_records_are_reported(tmp_path: Path):
    with pytest.raises(DataError) as error:
        read(tmp_path, "x", {"tokens": ["a"], "ner_tags": ["O"]}, {"tokens": ["a"], "ner_tags": [0]})
    assert [line.partition(": ")[0] for line in str(error.value).split("\n")] == [
        f"{tmp_path}/train.jsonl:1",
        f"{tmp_path}/train.jsonl:3",
    ]


def test_a_line_that_is_not_utf8_is_refused(tmp_path: Path):
    (tmp_path / "train.jsonl").write_bytes(
        b'{"tokens": ["a"], "ner_tags": ["O"]}\n{"tokens": ["\xfc"], "ner_tags": ["O"]}\n'
    )
    with pytest.raises(DataError, match=r"train\.jsonl:2: found byte 0xfc, expected UTF-8 text"):
        corpus.read_splits({"train": tmp_path / "train.jsonl"})
