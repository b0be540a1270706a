"""Tables of the extra `datasets`: parquet files, and datasets of the hub.

They have a column of words and one of tags, names or numbers with names; a table may be cut into several files (shards).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.readers import DataError, RawSplit, field_names

HUB_PREFIX = "hub:"


def is_hub(path: Path) -> bool:
    """Return whether a path is `hub:OWNER/NAME[/CONFIG]`, or a split below it."""
    return str(path).startswith(HUB_PREFIX)


def _library(path: Path) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path}: expected the package datasets, found none; the extra datasets brings it: pip install -e '.[datasets]'"
        ) from error
    return datasets


_SHARD = re.compile(r"-\d{5}-of-(\d{5})(?=[-.])")


def shards(path: Path) -> list[Path]:
    """Return the files of a table: of a folder its parquet files, of a first shard (`NAME-00000-of-00003...`) all three.

    Raises:
        DataError: there is no file, or one of the shards is missing.
    """
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none")
    shard = _SHARD.search(path.name)
    if shard is None:
        return [path]
    stem = path.name[: shard.start()]
    beside = sorted(file for file in path.parent.iterdir() if file.name.startswith(stem))
    files = [file for file in beside if shard[1] in _SHARD.findall(file.name)]
    if len(files) != int(shard[1]):
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path.parent}: expected {int(shard[1])} files of {stem}, found {len(files)}: {names}")
    return files


def parse_parquet(path: Path, data: DataConfig) -> RawSplit:
    """Read a parquet file, or all files of a table (see `shards`); lines are row numbers from 1.

    Raises:
        DataError: no such file, no parquet file, no columns of words and tags, tags that are neither names nor numbers
            with names, or no package `datasets`.
    """
    datasets = _library(path)
    import pyarrow
    from pyarrow import parquet

    contents, tables = [], []
    for file in shards(path):
        contents.append(file.read_bytes())
        try:
            # Not Dataset.from_parquet, which would leave a copy in the cache of the library.
            tables.append(parquet.read_table(pyarrow.BufferReader(contents[-1])))
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file}: expected a parquet file: {error}") from error
    if any(table.schema != tables[0].schema for table in tables):
        raise DataError(f"{path}: expected shards with the same columns, found different ones")
    raw = RawSplit(path, hashlib.sha256(b"".join(contents)).hexdigest())
    return _add_dataset(raw, datasets.Dataset(datasets.table.InMemoryTable(pyarrow.concat_tables(tables))), data)


def parse_hub(path: Path, stems: Sequence[str], data: DataConfig) -> RawSplit:
    """Read a split of a dataset on the hub, or of the library's cache when offline; lines are row numbers from 1.

    Args:
        path: `hub:OWNER/NAME/SPLIT` or `hub:OWNER/NAME/CONFIG/SPLIT`.
        stems: names that the split may have there.
        data: names of the columns, and of numbered tags.

    Raises:
        DataError: as in `parse_parquet`; or there is no such dataset or split.
    """
    owner, *rest, _ = path.parts
    if len(rest) not in (1, 2):
        raise DataError(f"{path.parent}: expected {HUB_PREFIX}OWNER/NAME or {HUB_PREFIX}OWNER/NAME/CONFIG")
    datasets = _library(path)
    try:
        splits = datasets.load_dataset(f"{owner.removeprefix(HUB_PREFIX)}/{rest[0]}", *rest[1:])
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path.parent}: expected a dataset of the hub, which says: {reason}") from error
    names = [name for name in splits if name in stems]
    if len(names) != 1:
        raise DataError(f"{path.parent}: expected exactly one split {' or '.join(stems)}, found {', '.join(splits)}")
    split = splits[names[0]]
    digest = hashlib.sha256(json.dumps(str(split.features)).encode())  # the names of numbered tags are there
    for record in split:
        digest.update(json.dumps([record.get(name) for name in field_names(data, path)]).encode())
    return _add_dataset(RawSplit(path, digest.hexdigest()), split, data)


def _tag_names(path: Path, tags: Any, data: DataConfig) -> Sequence[str] | None:
    """Return the names of numbered tags; None where the tags are names already."""
    names = getattr(getattr(tags, "feature", None), "names", None) or data.tag_names
    dtype = getattr(getattr(tags, "feature", None), "dtype", None)
    if names is None and dtype not in ("string", "large_string"):
        raise DataError(
            f"{path}: found ner_tags of {tags}, expected a list of names, or of numbers with names (ClassLabel); "
            "data.tag_names gives the name of each number"
        )
    return names


def _add_dataset(raw: RawSplit, dataset: Any, data: DataConfig) -> RawSplit:
    tokens, tags = names = field_names(data, raw.path)
    missing = [name for name in names if name not in dataset.features]
    if missing:
        columns = ", ".join(dataset.features)
        raise DataError(
            f"{raw.path}: expected the columns {' and '.join(names)}, found {columns}; data.columns gives other names"
        )
    tag_names = _tag_names(raw.path, dataset.features[tags], data)
    for row, record in enumerate(dataset.select_columns(names), start=1):
        raw.add_record(row, record[tokens], record[tags], tag_names, data.scheme)
    return raw
