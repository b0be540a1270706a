"""A column file in, its sentences or the refusal out."""

from pathlib import Path

import pytest

from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError, Split


def read(tmp_path: Path, content: str | bytes, scheme: str = "auto", on_error: str = "raise") -> Split:
    path = tmp_path / "train.conll"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return corpus.read_splits({"train": path}, scheme, on_error)[0]["train"]


def refused(tmp_path: Path, content: str | bytes, scheme: str = "auto", on_error: str = "raise") -> str:
    with pytest.raises(DataError) as error:
        read(tmp_path, content, scheme, on_error)
    return str(error.value).replace(f"{tmp_path}/", "")
