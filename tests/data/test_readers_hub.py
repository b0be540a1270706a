"""The datasets library: parquet folders built here, and the hub with its download replaced."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError

NAMES = ["O", "B-PER", "I-PER", "B-LOC"]
TOKENS = [["Ann", "Lee", "left"], ["Rome", "."]]
NUMBERED = [[1, 2, 0], [3, 0]]
NAMED = [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]


def dataset(tags: Any, feature: Any, tokens: Any = TOKENS) -> datasets.Dataset:
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(feature),
        }
    )
    return datasets.Dataset.from_dict({"id": range(len(tags)), "tokens": tokens, "ner_tags": tags}, features)


CLASSES = datasets.ClassLabel(names=NAMES)


@pytest.mark.parametrize("suffix", [".parquet", "-00000-of-00001.parquet"])
def test_a_folder_of_parquet_files_with_numbered_tags_is_a_corpus(tmp_path: Path, suffix: str):
    for name in ("train", "validation", "test"):
        dataset(NUMBERED, CLASSES).to_parquet(tmp_path / f"{name}{suffix}")
    actual = corpus.read_corpus(DataConfig(str(tmp_path)))
    assert actual.scheme == "BIO"
    for split in (actual.train, actual.dev, actual.test):
        assert [list(sentence.words) for sentence in split.sentences] == TOKENS
        assert [list(sentence.tags) for sentence in split.sentences] == NAMED
        assert [sentence.line for sentence in split.sentences] == [1, 2]
        assert split.sha256 == hashlib.sha256(split.path.read_bytes()).hexdigest()
    assert actual.dev.path == tmp_path / f"validation{suffix}"


def read(path: Path, content: datasets.Dataset) -> corpus.Split:
    content.to_parquet(path)
    return corpus.read_splits({"train": path}, DataConfig("", on_error="report"))[0]["train"]


def test_named_tags_in_parquet(tmp_path: Path):
    split = read(tmp_path / "train.parquet", dataset(NAMED, datasets.Value("string")))
    assert [list(sentence.tags) for sentence in split.sentences] == NAMED


def test_numbers_without_names_and_missing_columns_are_refused(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"train\.parquet: found ner_tags of .*int64.*, expected a list of names, or of numbers"
    ):
        read(tmp_path / "train.parquet", dataset(NUMBERED, datasets.Value("int64")))
    with pytest.raises(DataError, match="expected the columns tokens and ner_tags, found words"):
        read(tmp_path / "train.parquet", datasets.Dataset.from_dict({"words": [["a"]]}))


def test_bad_rows_are_refused_with_their_number(tmp_path: Path):
    tokens = [["a", "b"], ["a"], ["a", None], ["a"]]
    with pytest.raises(DataError) as error:
        read(tmp_path / "train.parquet", dataset([[0], [None], [0, 0], [0]], CLASSES, tokens))
    assert str(error.value).replace(f"{tmp_path}/", "").split("\n") == [
        "train.parquet:1: found 2 tokens and 1 ner_tags, expected as many of each",
        "train.parquet:2: found None in ner_tags, expected O or B-TYPE",
        "train.parquet:3: found the token None, expected a word",
    ]


def test_what_is_no_parquet_file_is_refused(tmp_path: Path):
    (tmp_path / "train.parquet").write_text("a O\n")
    with pytest.raises(DataError, match=r"train\.parquet: expected a parquet file: "):
        corpus.read_splits({"train": tmp_path / "train.parquet"})
    with pytest.raises(DataError, match=r"none\.parquet: expected a file, found none"):
        corpus.read_splits({"train": tmp_path / "none.parquet"})


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"train\.parquet: expected the package datasets, found none; .*\.\[datasets\]"):
        corpus.read_splits({"train": tmp_path / "train.parquet"})


@pytest.mark.parametrize(("path", "called"), [("hub:o/n", ("o/n",)), ("hub:o/n/config", ("o/n", "config"))])
def test_a_dataset_of_the_hub_is_a_corpus(monkeypatch: pytest.MonkeyPatch, path: str, called: tuple[str, ...]):
    def load_dataset(*arguments: str) -> datasets.DatasetDict:
        assert arguments == called
        return datasets.DatasetDict({name: dataset(NUMBERED, CLASSES) for name in ("train", "validation", "test")})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    actual = corpus.read_corpus(DataConfig(path))
    assert str(actual.dev.path) == f"{path}/dev"
    assert [list(sentence.tags) for sentence in actual.dev.sentences] == NAMED
    assert len(actual.dev.sha256) == 64


def test_what_the_hub_has_not_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match=r"^hub:nobody/nothing: expected a dataset of the hub, which says: "):
        corpus.read_corpus(DataConfig("hub:nobody/nothing"))  # offline
    with pytest.raises(DataError, match=r"^hub:nothing: expected hub:OWNER/NAME or hub:OWNER/NAME/CONFIG$"):
        corpus.read_corpus(DataConfig("hub:nothing"))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({"train": dataset(NUMBERED, CLASSES)}))
    with pytest.raises(DataError, match=r"^hub:o/n: expected exactly one split dev or devel or valid or .*, found train$"):
        corpus.read_corpus(DataConfig("hub:o/n"))
