"""A column file in, its sentences or the refusal out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError, Split
from knn_ner_jax.data.texts import Document, TextReader


def read(tmp_path: Path, content: str | bytes, **settings: Any) -> Split:
    path = tmp_path / "train.conll"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return corpus.read_splits({"train": path}, DataConfig("", **settings))[0]["train"]


def sentences_of(tmp_path: Path, content: str, **settings: Any) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(sentence.words, sentence.tags) for sentence in read(tmp_path, content, **settings).sentences]


def refused(tmp_path: Path, content: str | bytes, **settings: Any) -> str:
    with pytest.raises(DataError) as error:
        read(tmp_path, content, **settings)
    return str(error.value).replace(f"{tmp_path}/", "")


def given(documents: Iterable[Document]) -> list[str | tuple[str, ...]]:
    """Texts as they were given: as a text, or as words."""
    return [document.fields.get("text", document.words) for document in documents]


def texts(path: Path | str, text_format: str = "auto", **settings: Any) -> list[str | tuple[str, ...]]:
    """What predict reads of a file."""
    return given(TextReader(text_format, DataConfig("", **settings)).read(str(path)))
