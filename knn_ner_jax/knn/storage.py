"""The datastore on disk: safetensors shards of fixed size and a manifest that says what they are and where they came from.

Written into a new folder, synced, then renamed: a folder of the final name is always whole. Not an Orbax checkpoint, because
two Orbax saves of one tree differ in bytes.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh

from knn_ner_jax.errors import InputError
from knn_ner_jax.knn.datastore import Datastore, Projection, assemble
from knn_ner_jax.mesh import put_rows

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_FIELDS = ("rows", "dim", "dtype", "fingerprint", "source", "projection", "shards")
PROJECTION = "projection.safetensors"


class DatastoreError(InputError):
    """A datastore on disk is damaged or was made otherwise than this run would make it."""


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
    """

    weights: str
    tokenizer: str
    layers: tuple[int, ...]
    whiten: int | None
    pieces: str
    window: int
    dtype: str


@dataclass(frozen=True)
class Source:
    """Where the rows came from; recorded, not compared.

    Attributes:
        path: the file.
        sha256: of the file.
        types: entity types by label number (see `LabelSet`).
    """

    path: str
    sha256: str
    types: tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """A loaded datastore and what the manifest says of its source."""

    datastore: Datastore
    source: Source


def _write(path: Path, content: bytes) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(path: Path, datastore: Datastore, fingerprint: Fingerprint, source: Source, shard_rows: int) -> None:
    """Writes a datastore as a folder; a write cut short leaves nothing of that name.

    Args:
        path: a folder that does not exist yet.
        datastore: what to write.
        fingerprint: how its keys were made.
        source: of what.
        shard_rows: rows in each file but the last.

    Raises:
        DatastoreError: `path` exists.
    """
    if path.exists():
        raise DatastoreError(f"{path}: expected no datastore there yet, found one")
    new = path.with_name(path.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    num_rows = int(datastore.num_rows)
    columns = {"keys": datastore.keys, "labels": datastore.labels}
    columns |= {"sentence_ids": datastore.sentence_ids, "word_ids": datastore.word_ids}
    shards = []
    for number, start in enumerate(range(0, num_rows, shard_rows)):
        stop = min(start + shard_rows, num_rows)
        part = {name: np.ascontiguousarray(column[start:stop]) for name, column in columns.items()}
        file = f"rows-{number:05d}.safetensors"
        shards.append({"file": file, "rows": stop - start, "sha256": _write(new / file, safetensors.numpy.save(part))})
    projection = None
    if datastore.projection is not None:
        tensors = {"mean": np.asarray(datastore.projection.mean), "matrix": np.asarray(datastore.projection.matrix)}
        projection = {"file": PROJECTION, "sha256": _write(new / PROJECTION, safetensors.numpy.save(tensors))}
    manifest = {
        "format": FORMAT,
        "rows": num_rows,
        "dim": datastore.keys.shape[1],
        "dtype": str(datastore.keys.dtype),
        "fingerprint": asdict(fingerprint),
        "source": asdict(source),
        "projection": projection,
        "shards": shards,
    }
    _write(new / MANIFEST, json.dumps(manifest, indent=2).encode())
    _sync_folder(new)
    new.rename(path)
    _sync_folder(path.parent)


def _compare(path: Path, found: dict, expected: Fingerprint) -> None:
    wanted = json.loads(json.dumps(asdict(expected)))
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        lines = [f"{name}: the datastore has {found.get(name)}, this run has {wanted[name]}" for name in differing]
        raise DatastoreError(f"{path} was made otherwise:\n  " + "\n  ".join(lines))


def _read(path: Path, sha256: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DatastoreError(f"{path}: expected a file with SHA-256 {sha256}, found none")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DatastoreError(f"{path}: damaged: expected SHA-256 {sha256}, found {found}")
    return safetensors.numpy.load(content)


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatastoreError(f"{path}: expected the manifest of a datastore, found none or not JSON: {error}") from error
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
    """Reads a datastore and divides its rows over the mesh.

    Args:
        path: the folder.
        expected: how this run would make keys.
        mesh: devices the rows are divided over; need not be as many as when it was saved.

    Raises:
        DatastoreError: another format or fingerprint (every difference named with both values), or a damaged file.
    """
    manifest = _read_manifest(path / MANIFEST)
    _compare(path, manifest["fingerprint"], expected)
    parts = [_read(path / shard["file"], shard["sha256"]) for shard in manifest["shards"]]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    projection = None
    if manifest["projection"]:
        tensors = _read(path / manifest["projection"]["file"], manifest["projection"]["sha256"])
        projection = Projection(jnp.asarray(tensors["mean"]), jnp.asarray(tensors["matrix"]))
    source = manifest["source"]
    return Stored(
        assemble(
            put_rows(columns["keys"], mesh),
            columns["labels"],
            columns["sentence_ids"],
            columns["word_ids"],
            projection,
            mesh,
        ),
        Source(source["path"], source["sha256"], tuple(source["types"])),
    )
