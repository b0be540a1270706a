"""Files that have their name only when all of them is on the disk: a process that dies leaves the earlier one, or none."""

import json
import os
from pathlib import Path


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
