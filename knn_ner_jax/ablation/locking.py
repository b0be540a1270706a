"""One process at a time in a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knn_ner_jax.errors import InputError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for the same folder out of it; ends with the process, however that ends.

    Raises:
        InputError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: expected no other process at work there, found one") from error
        yield
