"""Mistakes a user can mend. The scripts print them as one message and end with exit code 2.

Files that have their name only when all of them is on the disk: a process that dies leaves the earlier one, or none.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

logger = logging.getLogger(__name__)


class InputError(ValueError):
    """Something given is wrong: a setting, a file, a folder. The message says what was expected and what was found."""


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    new = path.with_name(path.name + ".part")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object) -> None:
    """Writes JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def exclusive_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes that ask for the same folder out of it; ends with the process, however that ends.

    Args:
        folder: made where it is missing.
        wait: until a process that is at work there is done with it.

    Raises:
        InputError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
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


class NonFiniteLossError(RuntimeError):
    """A training step whose loss or gradient is not a finite number; the message names the step."""


class Preempted(Exception):
    """A run that SIGTERM stopped; what it had computed is saved, and the same command continues it."""
