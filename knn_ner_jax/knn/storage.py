"""A datastore on disk: a folder of safetensors shards of fixed size, and a manifest with their checksums and origin.

Shards are mapped into memory, so that rows are written to and read from their places in a file. A folder of the final name
is always whole (see `build`), and needs no corpus, since it has the words of its sentences. It is no Orbax checkpoint,
because two Orbax saves of one tree differ in bytes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh
from jaxtyping import Int

from knn_ner_jax.io import InputError, file_sha256
from knn_ner_jax.knn.datastore import LABEL_COLUMNS, Datastore, Projection, place

ALIGNMENT = 64  # bytes; safetensors asks for 8
_TYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "int32": "I32"}  # as safetensors spells them

REMEDY = "knn-ner eval --overwrite builds it again"
EDIT_REMEDY = "put back a copy of it; to build the datastore again would lose all edits"
Words = tuple[str, ...]


class DatastoreError(InputError):
    """An error for a datastore on disk that is damaged, or was made otherwise than this run would make it."""


class KeyFormat(NamedTuple):
    """Width of the keys, and the type of their numbers: `float32` or `bfloat16`."""

    dim: int
    dtype: str


class ShardFile(NamedTuple):
    """The entry of a shard in the manifest."""

    file: str
    rows: int
    sha256: str


def shard_name(number: int) -> str:
    """Return the name of a shard's file.

    >>> shard_name(3)
    'rows-00003.safetensors'
    """
    return f"rows-{number:05d}.safetensors"


def _header(rows: int, key_format: KeyFormat) -> bytes:
    """Return the beginning of a safetensors file: eight bytes with the length of the JSON that follows, padded by spaces."""
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
    """Create a file with room for so many rows and return its columns, which write through to it."""
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


def verify(path: Path, sha256: str) -> None:
    """Raise DatastoreError where a file is missing or its SHA-256 is another."""
    remedy = EDIT_REMEDY if path.name.startswith("edit-") else REMEDY
    if not path.is_file():
        raise DatastoreError(f"{path}: expected a file with SHA-256 {sha256}, found none; {remedy}")
    if (actual := file_sha256(path)) != sha256:
        raise DatastoreError(f"{path}: damaged: expected SHA-256 {sha256}, found {actual}; {remedy}")


class StoredRows:
    """The rows of a finished datastore; shards are opened when rows of theirs are read, and verified once."""

    def __init__(self, folder: Path, files: Sequence[ShardFile], key_format: KeyFormat) -> None:
        self._folder, self._files, self._format = folder, files, key_format
        self._ends = np.cumsum([shard.rows for shard in files])
        self._verified: set[str] = set()

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        """Return a copy of rows `start` to `stop` of a column; raise DatastoreError for a damaged shard."""
        shape = (stop - start, self._format.dim) if column == "keys" else (stop - start,)
        rows = np.empty(shape, jnp.dtype(self._format.dtype) if column == "keys" else np.int32)
        for shard, end in zip(self._files, self._ends.tolist(), strict=True):
            first, last = max(start, end - shard.rows), min(stop, end)
            if first < last:
                offset = end - shard.rows
                rows[first - start : last - start] = self._open(shard)[column][first - offset : last - offset]
        return rows

    def take(self, column: str, rows: Int[np.ndarray, " rows"]) -> np.ndarray:
        """Return a copy of some rows of a column, in any order; raise DatastoreError for a damaged shard."""
        taken = self.read(column, 0, 0)
        taken = np.empty((len(rows), *taken.shape[1:]), taken.dtype)
        places = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(places):
            shard, inside = self._files[number], np.flatnonzero(places == number)
            taken[inside] = self._open(shard)[column][rows[inside] - (self._ends[number] - shard.rows)]
        return taken

    def followed_by(self, shard: ShardFile) -> "StoredRows":
        """Return these rows and those of another shard after them."""
        rows = StoredRows(self._folder, [*self._files, shard], self._format)
        rows._verified = self._verified
        return rows

    def verify(self) -> None:
        """Read every shard anew; raise DatastoreError for a damaged one."""
        for shard in self._files:
            verify(self._folder / shard.file, shard.sha256)

    def _open(self, shard: ShardFile) -> dict[str, np.ndarray]:
        path = self._folder / shard.file
        if shard.file not in self._verified:
            verify(path, shard.sha256)
            self._verified.add(shard.file)
        return _map(path, shard.rows, self._format, "r")


class StoredSentences:
    """Words and source of the sentences with rows, by number: of the corpus, read when first asked for, and added since.

    Line n of `sentences.jsonl`, from 0, has the words of sentence n of the corpus; it is empty where none of them is a row.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._path, self._sha256, self._corpus = folder / SENTENCES, manifest["sentences"], manifest["source"]["path"]
        self.added: dict[int, tuple[Words, str]] = {}

    def __getitem__(self, number: int) -> tuple[Words, str]:
        """Return words and source of a sentence; raise DatastoreError for a damaged file."""
        if number in self.added:
            return self.added[number]
        text, ends = self._text_and_ends
        return tuple(json.loads(text[ends[number] + 1 : ends[number + 1]].tobytes())), self._corpus

    @cached_property
    def _text_and_ends(self) -> tuple[np.ndarray, np.ndarray]:
        self.verify()
        text = np.memmap(self._path, np.uint8, "r")
        return text, np.append(-1, np.flatnonzero(text == ord("\n")))  # line n lies between ends n and n + 1

    def verify(self) -> None:
        """Read the file; raise DatastoreError where it is damaged."""
        verify(self._path, self._sha256)


FORMAT = 4
MANIFEST = "manifest.json"
MANIFEST_FIELDS = ("rows", "dim", "fingerprint", "source", "sentences", "projection", "shards")
PROJECTION = "projection.safetensors"
SENTENCES = "sentences.jsonl"
LOG = "log.json"


@dataclass(frozen=True)
class Fingerprint:
    """All that decides a key, given a word in its sentence; compared on loading.

    Attributes:
        weights: hash of the tagger's parameters.
        tokenizer: hash of the tokenizer.
        layers: hidden states that make a key.
        whitening_dim: rank of the whitening, or None.
        subwords: which subwords of a word make keys.
        max_length: most tokens encoded at once.
        dtype: of the encoder's arithmetic.
        key_dtype: in which keys are stored, kept and searched.
    """

    weights: str
    tokenizer: str
    layers: tuple[int, ...]
    whitening_dim: int | None
    subwords: str
    max_length: int
    dtype: str
    key_dtype: str

    @classmethod
    def read(cls, manifest: Mapping[str, Any]) -> "Fingerprint":
        """Read that of a manifest."""
        return cls(**manifest["fingerprint"] | {"layers": tuple(manifest["fingerprint"]["layers"])})


@dataclass(frozen=True)
class Source:
    """The origin of the rows; recorded, not compared.

    Attributes:
        path: the file.
        sha256: of the file.
        types: entity types by label number (see `LabelSet`).
        fraction: of the file's sentences that were drawn.
        seed: they were drawn with.
        include_o: whether words tagged `O` are among the rows.
    """

    path: str
    sha256: str
    types: tuple[str, ...]
    fraction: float
    seed: int
    include_o: bool


@dataclass(frozen=True)
class Plan:
    """All that decides the bytes of a datastore beside the sentences, on one kind of machine; part of the manifest.

    Attributes:
        fingerprint: how its keys are made.
        source: of what.
        shard_rows: rows in each file but the last.
        batch_size: windows encoded at a time.
        pad_to_multiple_of: see `batching.bucket_length`.
    """

    fingerprint: Fingerprint
    source: Source
    shard_rows: int
    batch_size: int
    pad_to_multiple_of: int

    def describe(self, rows: int, dim: int) -> dict[str, Any]:
        """Return the manifest of so many rows and so wide keys, but for its files, as JSON would be read."""
        return json.loads(json.dumps({"format": FORMAT, "rows": rows, "dim": dim, **asdict(self)}))


@dataclass(frozen=True)
class Edit:
    """An edit, as the log has it.

    Attributes:
        version: that it made; the datastore as it was built is version 0.
        action: add, remove, relabel, merge or rollback.
        sentences: how many it added, removed, or labelled words of anew.
        rows: how many words that were.
        types: entity types by label number, after it.
        source: what the sentences were added or removed by.
        first_sentence: number of the first that it added; the others follow.
        target: the version that it returned to, of a rollback.
        when: in UTC, to the second.
        who: made it, where they said so.
        shard: the rows that it added.
        sha256: of its JSON file.
    """

    version: int
    action: str
    sentences: int
    rows: int
    types: tuple[str, ...]
    source: str | None = None
    first_sentence: int | None = None
    target: int | None = None
    when: str = ""
    who: str | None = None
    shard: ShardFile | None = None
    sha256: str | None = None

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> "Edit":
        """Read an entry of the log."""
        return cls(**{**entry, "types": tuple(entry["types"]), "shard": entry["shard"] and ShardFile(*entry["shard"])})


@dataclass(frozen=True)
class Stored:
    """A loaded datastore, and the origin of its rows.

    Attributes:
        datastore: the rows.
        source: where those come from that it was built of, and the types of all.
        folder: where it is on the disk.
        sentences: their words.
        version: how many edits it has seen (see `memory`).
    """

    datastore: Datastore
    source: Source
    folder: Path
    sentences: StoredSentences
    version: int = 0


def read_json(path: Path) -> Any:
    """Read a JSON file; raise DatastoreError where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what, remedy = ("the manifest of a datastore", REMEDY) if path.name == MANIFEST else ("an edit", EDIT_REMEDY)
        raise DatastoreError(f"{path}: expected {what}, found none or not JSON: {error}; {remedy}") from error


def read_projection(path: Path) -> Projection:
    """Read a projection from its file."""
    return Projection(**safetensors.numpy.load_file(path))


def compare(path: Path, stored: dict, expected: Fingerprint) -> None:
    """Raise DatastoreError where keys were made otherwise; every difference is named with both values."""
    required = json.loads(json.dumps(asdict(expected)))
    differing = [name for name in required if stored.get(name) != required[name]]
    if differing:
        lines = [f"{name}: the datastore has {stored.get(name)}, this run has {required[name]}" for name in differing]
        raise DatastoreError(f"{path} was made otherwise; {REMEDY}:\n  " + "\n  ".join(lines))


def source_of(manifest: Mapping[str, Any]) -> Source:
    """Return where the rows come from that a manifest lists."""
    return Source(**manifest["source"] | {"types": tuple(manifest["source"]["types"])})


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; raise DatastoreError where there is none, or one of another format."""
    manifest = read_json(path)
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise DatastoreError(f"{path}: expected format {FORMAT}, found {version}; {REMEDY}")
    missing = [name for name in MANIFEST_FIELDS if name not in manifest]
    if missing:
        raise DatastoreError(
            f"{path}: expected the fields {', '.join(MANIFEST_FIELDS)}, found no {', '.join(missing)}; {REMEDY}"
        )
    rows = sum(shard["rows"] for shard in manifest["shards"])
    if rows != manifest["rows"]:
        raise DatastoreError(f"{path}: expected {manifest['rows']} rows in its shards, found {rows}; {REMEDY}")
    return manifest


def rows_of(path: Path, manifest: Mapping[str, Any]) -> StoredRows:
    """Return the rows that the manifest of a folder lists."""
    files = [ShardFile(**shard) for shard in manifest["shards"]]
    return StoredRows(path, files, KeyFormat(manifest["dim"], manifest["fingerprint"]["key_dtype"]))


def projection_of(path: Path, manifest: Mapping[str, Any]) -> Projection | None:
    """Return the projection that made the keys of a folder; raise DatastoreError for a damaged file."""
    if not manifest["projection"]:
        return None
    file = path / manifest["projection"]["file"]
    verify(file, manifest["projection"]["sha256"])
    return read_projection(file)


def load(path: Path, expected: Fingerprint, mesh: Mesh) -> Stored:
    """Read a datastore and divide its rows over the mesh; a host reads the shards of its own devices' rows alone.

    Beside what is on the devices, no more than one device's share is held at a time.

    Args:
        path: the folder.
        expected: how this run would make keys.
        mesh: devices the rows are divided over; need not be as many as when it was built.

    Raises:
        DatastoreError: another format or fingerprint (every difference named with both values), or a damaged file.
    """
    manifest = read_manifest(path / MANIFEST)
    compare(path, manifest["fingerprint"], expected)
    rows, projection = rows_of(path, manifest), projection_of(path, manifest)
    placed = place(rows.read, manifest["rows"], projection, mesh)
    return Stored(placed, source_of(manifest), path, StoredSentences(path, manifest))
