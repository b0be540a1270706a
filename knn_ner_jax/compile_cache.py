"""What JAX compiles is kept for the next process: its persistent cache, in the user's cache folder.

Programs for CPU hold instructions of the processor that compiled them, so every kind of processor has a folder, and so has
every jaxlib. JAX writes an entry in place, and leaves one alone that is there: what a process was killed at, or a full disk
cut off, would be read in vain forever. Imports no JAX, whose environment this is.
"""

import hashlib
import os
import platform
import zlib
from collections.abc import MutableMapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

FOLDER, SECONDS = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MAX_BYTES = 2 << 30
_ZLIB = b"\x78"


def processor_folder() -> str:
    """Return the name of a folder for what this jaxlib compiles for this processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    name = hashlib.sha256(f"{platform.machine()} {processor}".encode()).hexdigest()[:12]
    return f"jaxlib-{version('jaxlib')}-{name}"


def keep_programs(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let JAX keep compiled programs in `$XDG_CACHE_HOME/knn-ner-jax`, unless JAX_COMPILATION_CACHE_DIR says where.

    To be called before JAX is imported. An empty JAX_COMPILATION_CACHE_DIR keeps none. Where the folder cannot be written,
    nothing is kept.
    """
    if FOLDER in environment:
        return
    base = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "knn-ner-jax"
    folder = base / processor_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean(folder)
    except (OSError, RuntimeError):
        return
    environment[FOLDER] = str(folder)
    environment.setdefault(SECONDS, "0")  # to read a small program is faster than to compile it, too


def clean(folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Delete the entries that are cut off, and the oldest of those that are too many; each is read once for that.

    Args:
        folder: of JAX's persistent cache.
        max_bytes: that entries may take together.
    """
    stamp = folder / "checked"
    checked = stamp.stat().st_mtime_ns if stamp.exists() else 0
    stamp.touch()
    kept = 0
    entries = []
    for entry in folder.glob("*-cache"):
        with suppress(OSError):  # another process may delete one meanwhile
            entries.append((entry.stat(), entry))
    for status, entry in sorted(entries, key=lambda pair: -pair[0].st_mtime_ns):
        kept += status.st_size
        with suppress(OSError):
            if kept > max_bytes or (status.st_mtime_ns >= checked and not _is_whole(entry.read_bytes())):
                entry.unlink()


def _is_whole(content: bytes) -> bool:
    if not content.startswith(_ZLIB):  # zstd's, where that is installed: this process may be unable to read it
        return content != b""
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(content)
    except zlib.error:
        return False
    return decompressor.eof
