"""One process at a time in a folder."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knn_ner_jax.errors import InputError

_LOG = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keeps other processes that ask for the same folder out of it; ends with the process, however that ends.

    Args:
        folder: made where it is missing.
        wait: until a process that is at work there is done with it.

    Raises:
        InputError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                raise InputError(f"{folder}: expected no other process at work there, found one") from error
            _LOG.info("%s: another process is at work there; waiting until it is done", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
