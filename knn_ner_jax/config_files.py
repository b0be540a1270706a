"""What configuration files hold: `base: [other.yaml, ...]`, which names those that one builds on, and fields in sections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from knn_ner_jax.errors import InputError

BASE = "base"


def with_bases(path: Path) -> list[Path]:
    """A configuration file and all that it builds on, in the order in which they are applied: the later ones win.

    A file that is reached in several ways counts once, before all that build on it.

    Args:
        path: YAML file. Paths under its `base` are relative to its folder; a base may have bases.

    Raises:
        InputError: a base does not exist or is no list of files, or files are each other's bases.
    """
    ordered: list[Path] = []
    _visit(path, (), ordered)
    return ordered


def _visit(path: Path, heirs: tuple[Path, ...], ordered: list[Path]) -> None:
    if path.resolve() in [earlier.resolve() for earlier in ordered]:
        return
    for base in _bases(path):
        found = Path(path.parent, base)
        if not found.is_file():
            raise InputError(f"{path}: base: expected a file, got {base}: found no {found}")
        line = (*heirs, path)
        if found.resolve() in [heir.resolve() for heir in line]:
            raise InputError(f"{path}: base: expected a file that does not build on this one, got {base}")
        _visit(found, line, ordered)
    ordered.append(path)


def _bases(path: Path) -> list[str]:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []  # whoever parses the file itself says what is wrong with it
    bases = content.get(BASE, []) if isinstance(content, dict) else []
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(f"{path}: base: expected a list of files, got {bases}")
    return bases


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping -> its leaves by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
