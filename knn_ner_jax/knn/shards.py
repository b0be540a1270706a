"""Rows of a datastore in files: safetensors shards, mapped into memory so that rows go to and from their places in them."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from knn_ner_jax.errors import InputError

LABEL_COLUMNS = ("labels", "sentence_ids", "word_ids")
ROW_COLUMNS = ("keys", *LABEL_COLUMNS)
ALIGNMENT = 64  # bytes; safetensors asks for 8
_TYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "int32": "I32"}  # as safetensors spells them


class DatastoreError(InputError):
    """A datastore on disk is damaged or was made otherwise than this run would make it."""


class KeyFormat(NamedTuple):
    """Numbers in a key, and their type: `float32` or `bfloat16`."""

    dim: int
    dtype: str


class ShardFile(NamedTuple):
    """What the manifest says of a shard."""

    file: str
    rows: int
    sha256: str


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"rows-{number:05d}.safetensors"


def _header(rows: int, key_format: KeyFormat) -> bytes:
    """The beginning of a safetensors file: eight bytes for the length of the JSON that follows, which ends in spaces."""
    # Integers first: they stay aligned whatever room the keys take.
    shapes = {name: ("int32", [rows]) for name in LABEL_COLUMNS} | {"keys": (key_format.dtype, [rows, key_format.dim])}
    entries, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + int(np.prod(shape)) * jnp.dtype(dtype).itemsize
        entries[name] = {"dtype": _TYPE_NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _map(path: Path, rows: int, key_format: KeyFormat, mode: str) -> dict[str, np.ndarray]:
    header = _header(rows, key_format)
    dtypes = {short: jnp.dtype(name) for name, short in _TYPE_NAMES.items()}
    content = np.memmap(path, np.uint8, mode)  # type: ignore[call-overload]  # the modes are literals
    columns = {}
    for name, entry in json.loads(header[8:]).items():
        start, end = (len(header) + offset for offset in entry["data_offsets"])
        columns[name] = content[start:end].view(dtypes[entry["dtype"]]).reshape(entry["shape"])
    return columns


def create_shard(path: Path, rows: int, key_format: KeyFormat) -> dict[str, np.ndarray]:
    """A new file with room for so many rows: its columns, which write through to it."""
    header = _header(rows, key_format)
    size = len(header) + rows * (key_format.dim * jnp.dtype(key_format.dtype).itemsize + 4 * len(LABEL_COLUMNS))
    with path.open("wb") as file:
        file.write(header)
        file.flush()
        # A full disk is an error here; later, in mapped memory, it would be the end of the process.
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    return _map(path, rows, key_format, "r+")


def sync_and_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, that is on the disk when this returns."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Puts what has been renamed into a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(path: Path, sha256: str) -> None:
    """Raises DatastoreError where a file is missing or its SHA-256 is another."""
    if not path.is_file():
        raise DatastoreError(f"{path}: expected a file with SHA-256 {sha256}, found none")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DatastoreError(f"{path}: damaged: expected SHA-256 {sha256}, found {found}")


class StoredRows:
    """The rows of a finished datastore. Opens only the shards that are asked for, and verifies each of them once."""

    def __init__(self, folder: Path, files: Sequence[ShardFile], key_format: KeyFormat) -> None:
        self._folder, self._files, self._format = folder, files, key_format
        self._ends = np.cumsum([shard.rows for shard in files])
        self._verified: set[str] = set()

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        """A copy of rows `start` to `stop` of a column; raises DatastoreError for a damaged shard."""
        shape = (stop - start, self._format.dim) if column == "keys" else (stop - start,)
        rows = np.empty(shape, jnp.dtype(self._format.dtype) if column == "keys" else np.int32)
        for shard, end in zip(self._files, self._ends.tolist(), strict=True):
            first, last = max(start, end - shard.rows), min(stop, end)
            if first < last:
                offset = end - shard.rows
                rows[first - start : last - start] = self._open(shard)[column][first - offset : last - offset]
        return rows

    def _open(self, shard: ShardFile) -> dict[str, np.ndarray]:
        path = self._folder / shard.file
        if shard.file not in self._verified:
            verify(path, shard.sha256)
            self._verified.add(shard.file)
        return _map(path, shard.rows, self._format, "r")
