"""Files and memory: the error for what a user can mend, `pip:` paths, checksums, atomic writes, a lock, the allocator.

An atomic write gives a file its name only once all its content is on the disk: a process that dies leaves the earlier file,
or none. What is slow to import is imported where it is used, because every command line imports this module.
"""

import ctypes
import errno
import gc
import hashlib
import importlib.util
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class InputError(ValueError):
    """A mistake in what the user gave (a setting, a file, a folder); the message says what was expected and what was found.

    The command line prints it as one message and ends with exit code 2.
    """


def resolve_path(path: str) -> Path:
    """Turn a path as a user writes it into a path of the file system.

    Args:
        path: a path, `~` allowed; or `pip:package/sub/folder`, which stands for a folder inside an installed package.
            The package is located, not imported.

    Raises:
        InputError: the package is not installed, or has no such folder.
    """
    if not path.startswith("pip:"):
        return Path(path).expanduser()
    package, _, inside = path.removeprefix("pip:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{path}: expected an installed package named {package!r}, found none")
    folder = Path(spec.submodule_search_locations[0]) / inside
    if not folder.exists():
        raise InputError(f"{path}: the package {package} has no {inside}")
    return folder


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_and_hash(path: Path) -> str:
    """Write a file through to the disk and return its SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_sha256(path)


def sync_folder(folder: Path) -> None:
    """Write a folder through to the disk: which files it has, under which names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_mapping(path: Path, setting: str) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Args:
        path: the file.
        setting: name of the setting that led to it, for the message.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{setting}: {path}: expected JSON, found {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{setting}: {path}: expected a mapping, found {type(content).__name__}")
    return content


BASE = "base"  # the key under which a configuration file names those that it builds on


def with_bases(path: Path) -> list[Path]:
    """List a configuration file and all that it builds on, in the order in which they are applied: the later ones win.

    A file that is reached in several ways counts once, before all that build on it.

    Args:
        path: YAML file. Paths under its `base` are relative to its folder; a base may have bases.

    Raises:
        InputError: a base does not exist or is no list of files, or files are each other's bases.
    """
    ordered: list[Path] = []
    _visit(path, (), ordered)
    return ordered


def _refuse_repeated_keys(path: Path, node: Any) -> None:
    """Raise InputError where a mapping of a YAML file has a key twice: the parser would take the last."""
    if node is None or isinstance(node.value, str):
        return
    children = [value for pair in node.value for value in pair] if node.id == "mapping" else node.value
    lines: dict[str, int] = {}
    for key in children[::2] if node.id == "mapping" else ():
        line = key.start_mark.line + 1
        if str(key.value) in lines:
            raise InputError(
                f"{path}:{line}: expected each key once, found {key.value} again, first in line {lines[key.value]}"
            )
        lines[str(key.value)] = line
    for child in children:
        _refuse_repeated_keys(path, child)


def _visit(path: Path, heirs: tuple[Path, ...], ordered: list[Path]) -> None:
    if path.resolve() in [earlier.resolve() for earlier in ordered]:
        return
    for name in _bases(path):
        base = Path(path.parent, name)
        if not base.is_file():
            raise InputError(f"{path}: base: expected a file, got {name}: found no {base}")
        line = (*heirs, path)
        if base.resolve() in [heir.resolve() for heir in line]:
            raise InputError(f"{path}: base: expected a file that does not build on this one, got {name}")
        _visit(base, line, ordered)
    ordered.append(path)


def _bases(path: Path) -> list[str]:
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        _refuse_repeated_keys(path, node)
        content: Any = node and loader.construct_document(node)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []  # whoever parses the file itself says what is wrong with it
    if content is None:
        raise InputError(f"{path}: expected the fields of a configuration, found an empty file")
    bases = content.get(BASE, []) if isinstance(content, dict) else []
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(f"{path}: base: expected a list of files, got {bases}")
    return bases


def check_is_dir(folder: Path, setting: str) -> None:
    """Raise InputError where a file stands in the way of a folder; create nothing."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{setting}: expected a folder, got {folder}: {nearest} is a file")


def check_exists(folder: str, setting: str) -> None:
    """Raise InputError unless a path as a user writes it is a folder; `hub:` is taken as it is."""
    if not folder.startswith("hub:") and not resolve_path(folder).is_dir():
        raise InputError(f"{setting}: expected a folder, got {folder}")


def check_is_new(folder: Path) -> None:
    """Raise InputError where something would be written among other files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder, found files")


def check_finished(folder: Path, what: str) -> None:
    """Raise InputError unless a `training` or an `evaluation` has finished in a folder."""
    file, setting, remedy = {"training": ("train.json", "run_dir: ", "train"), "evaluation": ("eval.json", "", "evaluate")}[
        what
    ]
    if not (folder / file).is_file():
        raise InputError(f"{setting}{folder}: expected a finished {what} ({file}), found none; {remedy} first")


def is_disk_full(error: BaseException) -> bool:
    """Return whether there was no room for what was written, on the disk or in the user's part of it."""
    codes = errno.ENOSPC, errno.EDQUOT
    # Libraries in other languages have their own errors, with the system's words in them.
    if getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes):
        return True
    return error.__cause__ is not None and is_disk_full(error.__cause__)


def is_no_full_disk(record: logging.LogRecord) -> bool:
    """Return whether a log line tells something else than a full disk, of which Orbax's threads write hundreds of lines."""
    return not (record.exc_info and record.exc_info[1] and is_disk_full(record.exc_info[1]))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; at the end, flush what was written to the disk and rename it to `path`."""
    part = path.with_name(path.name + ".part")
    yield part
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def exclusive_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes that lock the same folder out of it; the lock ends with the process, however that ends.

    Args:
        folder: created where it is missing, and deleted where nothing is put into it.
        wait: whether to wait for a process that holds the lock, instead of failing.

    Raises:
        InputError: another process holds the lock, and `wait` is False.
    """
    import filelock

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    # Where a file system has no locks, a file that only stands for one would outlive a process that is killed.
    lock = filelock.FileLock(folder / "lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        if not wait:
            raise InputError(f"{folder}: expected no other process at work there, found one") from error
        logger.info("%s: another process is at work there; waiting until it is done", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
        if is_new and [path.name for path in folder.iterdir()] == ["lock"]:
            shutil.rmtree(folder)


class NonFiniteLossError(RuntimeError):
    """A training step whose loss or gradient is not a finite number; the message names the step."""


class Preempted(Exception):
    """A run that SIGTERM stopped; what it had computed is saved, and the same command continues it."""


# Options of glibc's mallopt (malloc.h), which number the parameters of its allocator.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def tune_memory() -> bool:
    """Make the allocator keep what is freed, instead of giving it back to the system, and Python look for garbage seldom.

    Reading a corpus and tracing make many objects, few of them garbage: looking for it takes a quarter of the reading.

    On CPU every execution of a compiled program allocates its temporary memory, hundreds of megabytes in a training step,
    and frees it. Given back and asked for again, each of its pages costs a page fault: a fifth of a step, a twentieth of
    tagging a batch. glibc keeps blocks of up to 32 MB by itself, and those are larger. All threads share one arena, since
    others hold no block of more than 64 MB. The process keeps the most memory it ever needed.

    To be called before JAX starts its threads. Nothing changes on systems without glibc.

    Returns:
        Whether freed memory is kept.
    """
    gc.set_threshold(50_000, 20, 50)
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_ARENA_MAX, 1)])
