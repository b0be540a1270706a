"""JSON, parquet and text as they are published: arrays, several lines for a record, shards, bytes that are no text."""

import json
from pathlib import Path

import datasets
import pytest

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError

RECORDS = [{"tokens": ["Ann", "left"], "ner_tags": ["B-PER", "O"]}, {"tokens": ["Rome"], "ner_tags": ["B-LOC"]}]
LAYOUTS = {
    "lines": "\n".join(map(json.dumps, RECORDS)),
    "array": json.dumps(RECORDS),
    "array over lines": json.dumps(RECORDS, indent=2),
    "objects over lines": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "array of a line each": "[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n",
}


def read(path: Path, text: str | bytes, **settings: object) -> corpus.Split:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    data = DataConfig("", **settings)  # type: ignore[arg-type]
    return corpus.read_splits({"train": path}, data)[0]["train"]


def refused(path: Path, text: str | bytes, **settings: object) -> str:
    with pytest.raises(DataError) as error:
        read(path, text, **settings)
    return str(error.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_records_are_read_however_they_are_laid_out(tmp_path: Path, layout: str, ending: str):
    split = read(tmp_path / f"train{ending}", LAYOUTS[layout])
    assert [sentence.words for sentence in split.sentences] == [("Ann", "left"), ("Rome",)]
    starts = [number for number, line in enumerate(LAYOUTS[layout].split("\n"), 1) if line.lstrip(" [,").startswith("{")]
    assert [sentence.line for sentence in split.sentences] == (starts if len(starts) > 1 else starts * 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAYOUTS["array"][:-1], "train.json:1: found the end of the file, expected ]"),
        (LAYOUTS["array"] + " 3", "train.json:1: found '] 3', expected ]"),
        ('[{"tokens": []} {}]', "train.json:1: found an object with tokens, expected an object with tokens and ner_tags"),
        ('[\n{"tokens": ["a"], "ner_tags": ["O"]},\n{"tokens": ["a"\n', "train.json:3: found what is no JSON"),
        ("[" * 100_000, "train.json:1: found what is no JSON"),
        ('{"a": 1}\n{"a"\n', "train.json:1: found an object with a, expected an object with tokens and ner_tags"),
    ],
)
def test_what_is_no_record_is_named_with_its_line(tmp_path: Path, text: str, message: str):
    assert refused(tmp_path / "train.json", text).startswith(message)


def test_fields_have_any_names_and_tags_may_be_numbers_with_names(tmp_path: Path):
    text = json.dumps({"words": ["Ann", "left"], "labels": [1, 0]})
    split = read(
        tmp_path / "train.json", text, columns={"token": "words", "tag": "labels"}, tag_names=["O", "B-PER", "I-PER"]
    )
    assert split.sentences[0].tags == ("B-PER", "O")
    message = refused(tmp_path / "train.json", text, columns={"token": "words", "tag": "labels"}, tag_names=["O"])
    assert message.startswith("train.json:1: found the number 1 in ner_tags, expected names")


def test_half_a_character_is_a_bad_line(tmp_path: Path):
    text = json.dumps({"tokens": ["Ann", "\ud83d"], "ner_tags": ["B-PER", "O"]})
    assert refused(tmp_path / "train.jsonl", text) == (
        r"train.jsonl:1: found '\ud83d', which has half of a character (a lone surrogate), expected text that UTF-8 can hold"
    )
    assert "half of a character" in refused(tmp_path / "train.jsonl", text.replace("Ann", "A").replace("B-PER", r"B-\udc00"))


def test_utf_16_is_named_and_a_byte_order_mark_inside_is_counted(tmp_path: Path):
    message = refused(tmp_path / "train.conll", "Ann\tB-PER\n".encode("utf-16"))
    assert message.startswith("train.conll: found UTF-16 (its byte order mark), expected UTF-8: iconv")
    split = read(tmp_path / "train.conll", "\ufeffAnn\tB-PER\n\n\ufeffRome\tB-LOC\n")
    assert [sentence.words for sentence in split.sentences] == [("Ann",), ("Rome",)]
    assert split.skipped == {"byte order mark at the start of a line": 1}


def table(path: Path, *words: str) -> None:
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")), ner_tags=datasets.List(datasets.Value("string"))
    )
    content = {"tokens": [[word] for word in words], "ner_tags": [["B-X"] for _ in words]}
    path.parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(content, features).to_parquet(path)


@pytest.mark.parametrize(
    "names", ["train-0000{n}-of-00003.parquet", "train-0000{n}-of-00003-{n}abc.parquet", "train/000{n}.parquet"]
)
def test_the_shards_of_a_table_are_one_split(tmp_path: Path, names: str):
    for number, word in enumerate(("a", "b", "c")):
        table(tmp_path / names.format(n=number), word, word)
    path = corpus.find_split(tmp_path, "train")
    split = corpus.read_splits({"train": path})[0]["train"]
    assert [sentence.words[0] for sentence in split.sentences] == ["a", "a", "b", "b", "c", "c"]
    before = split.sha256
    table(tmp_path / names.format(n=2), "c", "d")
    assert corpus.read_splits({"train": path})[0]["train"].sha256 != before
    if "-of-" in names:
        (tmp_path / names.format(n=1)).unlink()
        with pytest.raises(DataError, match="expected 3 files of train, found 2: train-00000"):
            corpus.read_splits({"train": path})


@pytest.mark.parametrize("dev", ["dev", "devel", "valid", "validation", "val", "testa"])
@pytest.mark.parametrize("pattern", ["{}.txt", "eng.{}", "en_ewt-ud-{}.iob2", "NER-de-{}.tsv", "HIPE-2022-{}-en.tsv"])
def test_splits_have_the_names_that_corpora_give_them(tmp_path: Path, dev: str, pattern: str):
    test = "testb" if dev == "testa" else "test"
    for name in ("train", dev, test):
        (tmp_path / pattern.format(name)).write_text("a\tB-X\n")
    for name in ("README.md", "train.log", "LICENSE", "notes.txt"):
        (tmp_path / name).write_text("x")
    expected = {name: tmp_path / pattern.format(file) for name, file in (("train", "train"), ("dev", dev), ("test", test))}
    assert corpus.find_splits(tmp_path) == expected


@pytest.mark.parametrize("pattern", ["{}.txt", "en_{}.conll"])
def test_splits_may_have_long_names_where_there_are_no_short_ones(tmp_path: Path, pattern: str):
    names = {"train": "training", "dev": "development", "test": "testing"}
    expected = {split: tmp_path / pattern.format(name) for split, name in names.items()}
    for file in expected.values():
        file.write_text("a\tB-X\n")
    assert corpus.find_splits(tmp_path) == expected
    (tmp_path / "train.txt").write_text("a\tB-X\n")
    assert corpus.find_split(tmp_path, "train") == tmp_path / "train.txt"


def test_an_ambiguous_folder_is_refused_with_the_list(tmp_path: Path):
    for name in ("train.txt", "dev.txt", "val.txt", "test.txt"):
        (tmp_path / name).write_text("a\tB-X\n")
    with pytest.raises(DataError, match=r"expected exactly one dev\.\* or devel\.\* .*, found dev.txt, val.txt$"):
        corpus.find_splits(tmp_path)
