"""A datastore's folder: safetensors shards of fixed size and a manifest that says what they are and where they came from.

A folder of the final name is always whole (see `building`). Not an Orbax checkpoint, because two Orbax saves of one tree
differ in bytes.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jax.sharding import Mesh

from knn_ner_jax.files import write_bytes
from knn_ner_jax.knn.datastore import Datastore, Projection, place
from knn_ner_jax.knn.shards import DatastoreError, KeyFormat, ShardFile, StoredRows, verify

FORMAT = 3
MANIFEST = "manifest.json"
MANIFEST_FIELDS = ("rows", "dim", "fingerprint", "source", "projection", "shards")
PROJECTION = "projection.safetensors"


@dataclass(frozen=True)
class Fingerprint:
    """What decides a key, given a word in its sentence; compared on loading.

    Attributes:
        weights: hash of the tagger's parameters.
        tokenizer: hash of the tokenizer.
        layers: hidden states that make a key.
        whiten: rank of the whitening, or None.
        pieces: which piece of a word makes its key.
        window: most tokens encoded at once.
        dtype: of the encoder's arithmetic.
        key_dtype: in which keys are stored, kept and searched.
    """

    weights: str
    tokenizer: str
    layers: tuple[int, ...]
    whiten: int | None
    pieces: str
    window: int
    dtype: str
    key_dtype: str


@dataclass(frozen=True)
class Source:
    """Where the rows came from; recorded, not compared.

    Attributes:
        path: the file.
        sha256: of the file.
        types: entity types by label number (see `LabelSet`).
        share: of the file's sentences that were drawn.
        seed: they were drawn with.
        outside: whether words tagged `O` are among the rows.
    """

    path: str
    sha256: str
    types: tuple[str, ...]
    share: float
    seed: int
    outside: bool


@dataclass(frozen=True)
class Plan:
    """All that decides the bytes of a datastore beside the sentences, on one kind of machine; part of the manifest.

    Attributes:
        fingerprint: how its keys are made.
        source: of what.
        shard_rows: rows in each file but the last.
        batch_size: windows encoded at a time.
        length_multiple: see `batching.bucket_length`.
    """

    fingerprint: Fingerprint
    source: Source
    shard_rows: int
    batch_size: int
    length_multiple: int

    def describe(self, rows: int, dim: int) -> dict[str, Any]:
        """What the manifest of a datastore of so many rows and so wide keys says of how it was made, as JSON reads it."""
        return json.loads(json.dumps({"format": FORMAT, "rows": rows, "dim": dim, **asdict(self)}))


@dataclass(frozen=True)
class Stored:
    """A loaded datastore and what the manifest says of its source."""

    datastore: Datastore
    source: Source


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises DatastoreError where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatastoreError(f"{path}: expected the manifest of a datastore, found none or not JSON: {error}") from error


def write_projection(path: Path, projection: Projection) -> None:
    """Writes a projection, whole or not at all."""
    tensors = {"mean": np.asarray(projection.mean), "matrix": np.asarray(projection.matrix)}
    write_bytes(path, safetensors.numpy.save(tensors))


def read_projection(path: Path) -> Projection:
    """Reads what `write_projection` wrote."""
    tensors = safetensors.numpy.load_file(path)
    return Projection(tensors["mean"], tensors["matrix"])


def _compare(path: Path, found: dict, expected: Fingerprint) -> None:
    wanted = json.loads(json.dumps(asdict(expected)))
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        lines = [f"{name}: the datastore has {found.get(name)}, this run has {wanted[name]}" for name in differing]
        raise DatastoreError(f"{path} was made otherwise:\n  " + "\n  ".join(lines))


def _source(manifest: dict) -> Source:
    return Source(**manifest["source"] | {"types": tuple(manifest["source"]["types"])})


def read_source(path: Path) -> Source:
    """Where the rows of the datastore in a folder came from; raises DatastoreError where there is none."""
    return _source(_read_manifest(path / MANIFEST))


def _read_manifest(path: Path) -> dict:
    manifest = read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DatastoreError(f"{path}: expected format {FORMAT}, found {found}")
    missing = [name for name in MANIFEST_FIELDS if name not in manifest]
    if missing:
        raise DatastoreError(f"{path}: expected the fields {', '.join(MANIFEST_FIELDS)}, found no {', '.join(missing)}")
    rows = sum(shard["rows"] for shard in manifest["shards"])
    if rows != manifest["rows"]:
        raise DatastoreError(f"{path}: expected {manifest['rows']} rows in its shards, found {rows}")
    return manifest


def load(path: Path, expected: Fingerprint, mesh: Mesh) -> Stored:
    """Reads a datastore and divides its rows over the mesh; a host reads the shards of its own devices' rows alone.

    Beside what is on the devices, no more than one device's share is held at a time.

    Args:
        path: the folder.
        expected: how this run would make keys.
        mesh: devices the rows are divided over; need not be as many as when it was built.

    Raises:
        DatastoreError: another format or fingerprint (every difference named with both values), or a damaged file.
    """
    manifest = _read_manifest(path / MANIFEST)
    _compare(path, manifest["fingerprint"], expected)
    projection = None
    if manifest["projection"]:
        file = path / manifest["projection"]["file"]
        verify(file, manifest["projection"]["sha256"])
        projection = read_projection(file)
    files = [ShardFile(**shard) for shard in manifest["shards"]]
    rows = StoredRows(path, files, KeyFormat(manifest["dim"], expected.key_dtype))
    return Stored(place(rows.read, manifest["rows"], projection, mesh), _source(manifest))
