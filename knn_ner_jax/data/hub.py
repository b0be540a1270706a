"""Datasets of the `datasets` library: a local parquet file, or a split of a dataset on the hub."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from knn_ner_jax.data.records import DataError, Parsed

PREFIX = "hub:"
FIELDS = ("tokens", "ner_tags")


def is_hub(path: Path) -> bool:
    """True for `hub:OWNER/NAME[/CONFIG]` and the splits below it."""
    return str(path).startswith(PREFIX)


def _library(path: Path) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path}: expected the package datasets, found none; the extra datasets brings it: pip install -e '.[datasets]'"
        ) from error
    return datasets


def parse_parquet(path: Path) -> Parsed:
    """Reads a parquet file; lines are row numbers from 1.

    Raises:
        DataError: no such file, no parquet file, no columns `tokens` and `ner_tags`, tags that are neither names nor numbers
            with names, or no package `datasets`.
    """
    datasets = _library(path)
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none")
    content = path.read_bytes()
    try:
        # Not Dataset.from_parquet, which would leave a copy in the cache of the library.
        table = parquet.read_table(pyarrow.BufferReader(content))
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: expected a parquet file: {error}") from error
    return _take(Parsed(path, hashlib.sha256(content).hexdigest()), datasets.Dataset(datasets.table.InMemoryTable(table)))


def parse_hub(path: Path, stems: Sequence[str]) -> Parsed:
    """Reads a split of a dataset on the hub, or of the library's cache when offline; lines are row numbers from 1.

    Args:
        path: `hub:OWNER/NAME/SPLIT` or `hub:OWNER/NAME/CONFIG/SPLIT`.
        stems: what the split may be called there.

    Raises:
        DataError: as in `parse_parquet`; or there is no such dataset or split.
    """
    owner, *rest, _ = path.parts
    if len(rest) not in (1, 2):
        raise DataError(f"{path.parent}: expected {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME/CONFIG")
    datasets = _library(path)
    try:
        splits = datasets.load_dataset(f"{owner.removeprefix(PREFIX)}/{rest[0]}", *rest[1:])
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path.parent}: expected a dataset of the hub, which says: {reason}") from error
    found = [name for name in splits if name in stems]
    if len(found) != 1:
        raise DataError(f"{path.parent}: expected exactly one split {' or '.join(stems)}, found {', '.join(splits)}")
    split = splits[found[0]]
    digest = hashlib.sha256(json.dumps(str(split.features)).encode())  # the names of numbered tags are there
    for record in split:
        digest.update(json.dumps([record.get(name) for name in FIELDS]).encode())
    return _take(Parsed(path, digest.hexdigest()), split)


def _tag_names(path: Path, tags: Any) -> Sequence[str] | None:
    """The names of numbered tags, None where the tags are names already."""
    names = getattr(getattr(tags, "feature", None), "names", None)
    dtype = getattr(getattr(tags, "feature", None), "dtype", None)
    if names is None and dtype not in ("string", "large_string"):
        raise DataError(f"{path}: found ner_tags of {tags}, expected a list of names, or of numbers with names (ClassLabel)")
    return names


def _take(parsed: Parsed, dataset: Any) -> Parsed:
    missing = [name for name in FIELDS if name not in dataset.features]
    if missing:
        found = ", ".join(dataset.features)
        raise DataError(f"{parsed.path}: expected the columns {' and '.join(FIELDS)}, found {found}")
    names = _tag_names(parsed.path, dataset.features["ner_tags"])
    for row, record in enumerate(dataset.select_columns(list(FIELDS)), start=1):
        tags = record["ner_tags"]
        if names is not None and isinstance(tags, list):
            # A number without a name stays one, and is refused with its row.
            tags = [names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag for tag in tags]
        parsed.add_record(row, record["tokens"], tags)
    return parsed
