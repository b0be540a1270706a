"""The command line: YAML in, every field an option, every mistake one line and exit code 2. jsonargparse does the work."""

import argparse
import ctypes
import platform
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import jsonargparse
import yaml

from knn_ner_jax.config import Config, flatten
from knn_ner_jax.io import InputError

OVERWRITE = "--overwrite"
BASE = "base"

_Root = TypeVar("_Root", bound=Config)


def _hint(key: str, root: type) -> Any:
    hint: Any = root
    for part in key.split("."):
        hint = typing.get_type_hints(hint).get(part) if is_dataclass(hint) else None
    return hint


def _expected(hint: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is list:
        return f"a list of {_expected(inner[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_expected(option) for option in inner)
    named = {int: "an integer", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    return named.get(hint, str(hint))


def _names(group: str, hint: Any) -> str:
    return ", ".join(f"{group}.{entry.name}".lstrip(".") for entry in fields(hint))


def _unknown(key: str, root: type) -> str:
    group, hint = key, None
    while not is_dataclass(hint):
        group = group.rpartition(".")[0]
        hint = _hint(group, root) if group else root
    return f"{key}: no such field; expected one of {_names(group, hint)}"


def explain(message: str, root: type = Config) -> str:
    """jsonargparse's complaint about a `root` as one line: the field, what is allowed, what was given."""
    if found := re.search(r"unrecognized arguments: -{0,2}([\w.-]+)", message):
        return _unknown(found[1], root)
    if found := re.search(r"Group '([\w.]+)' does not accept (?:nested key|option) '([\w.]+)'", message):
        return _unknown(f"{found[1]}.{found[2]}", root)
    if found := re.search(r"Option '([\w.]+)' is not accepted", message):
        return _unknown(found[1], root)
    if found := re.search(r"required: ([\w.]+)", message):
        return f"{found[1]}: expected {_expected(_hint(found[1], root))}, got nothing"
    found = re.search(r'[Kk]ey "([\w.]+)"', message)
    given = re.search(r"(?:[Gg]iven|[Gg]ot) value: (.*)", message)
    if found and given and _hint(found[1], root):
        return f"{found[1]}: expected {_expected(_hint(found[1], root))}, got {given[1].strip()}"
    if found := re.search(r'Parser key "([\w.]+)":\s+Unable to load config "(.*?)"', message):
        return _not_a_section(found[1], found[2], root)
    return " ".join(message.split())


def _not_a_section(key: str, given: object, root: type) -> str:
    return f"{key}: expected the fields {_names(key, _hint(key, root))}, got {given}"


def _check(values: Mapping[str, Any], root: type) -> None:
    """Refuses what jsonargparse lets through: null where a field has none, a section that is something else."""
    for key, value in flatten(values).items():
        if key == OVERWRITE.lstrip("-"):
            raise InputError(f"{key}: expected on the command line only, found in a configuration file")
        hint = _hint(key, root)
        if is_dataclass(hint):
            raise InputError(_not_a_section(key, value, root))
        if value is None and hint and types.NoneType not in typing.get_args(hint):
            raise InputError(f"{key}: expected {_expected(hint)}, got {value}")


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


class _ConfigFile(jsonargparse.ActionConfigFile):
    """Reads a file after those that it builds on."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        for path in with_bases(Path(values)):
            super().__call__(parser, cfg, str(path), option_string)
            cfg.pop(BASE, None)


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser; a mistake is an InputError of one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises InputError with jsonargparse's complaint."""
        raise InputError(" ".join(message.split())) from ex


class _ConfigParser(Parser):
    root: type = Config

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(explain(message, self.root)) from ex


def fail(program: str, message: str) -> NoReturn:
    """Ends the program with one error message and exit code 2."""
    print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(2)


def _build(parser: "_ConfigParser", values: Any) -> Any:
    _check(values.as_dict(), parser.root)
    built = parser.instantiate(values)
    return parser.root(**{entry.name: built[entry.name] for entry in fields(parser.root)})


def _read(parser: "_ConfigParser", arguments: Sequence[str]) -> Any:
    try:
        values = parser.parse_args(arguments)
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#x} at position {error.start}"
        raise InputError(f"config: expected UTF-8 text, got {found}") from error
    return _build(parser, values)


def _parser(program: str, description: str, root: type) -> _ConfigParser:
    parser = _ConfigParser(prog=program, description=description, allow_abbrev=False)
    parser.root = root
    parser.add_argument(
        "--config",
        action=_ConfigFile,
        help="YAML file; `base: [other.yaml, ...]` in it names files, relative to it, that it builds on; fields given after "
        "it on the command line win",
    )
    # Listed for --help; in a configuration file it would delete the run at every start.
    what = "delete what an earlier run left and start again"
    parser.add_argument(OVERWRITE, action="store_true", default=argparse.SUPPRESS, help=what)
    parser.add_class_arguments(root)
    return parser


def read_config(path: Path) -> Config:
    """The configuration in a file.

    Raises:
        InputError: a field is wrong.
    """
    return _read(_parser("", "", Config), ["--config", str(path)])


@cache
def _config_parser() -> _ConfigParser:
    return _parser("", "", Config)  # takes longer to make than to use, and a study has many cells


def build_config(values: Mapping[str, Any]) -> Config:
    """The configuration of nested mappings, as a file holds them.

    Raises:
        InputError: a field is wrong.
    """
    parser = _config_parser()
    return _build(parser, parser.parse_object(dict(values)))


def parse(program: str, description: str, root: type[_Root], arguments: Sequence[str] | None = None) -> tuple[_Root, bool]:
    """Reads the command line: `--config FILE`, any field, `--overwrite`, `--help`, `--print_config`.

    Args:
        program: name for messages.
        description: what the program does.
        root: the dataclass to be read, `Config` or one with more fields.
        arguments: instead of the process's own.

    Returns:
        The configuration and whether `--overwrite` was given. Any mistake ends the process with exit code 2.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(program, description, root)
    try:
        return _read(parser, [argument for argument in given if argument != OVERWRITE]), OVERWRITE in given
    except InputError as error:
        fail(program, " ".join(str(error).split()))


# Options of glibc's mallopt (malloc.h), which number the parameters of its allocator.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Lets the allocator keep what is freed for what is allocated next, instead of giving it back to the system.

    On CPU every execution of a compiled program allocates its temporary memory, hundreds of megabytes in a training step,
    and frees it. Given back and asked for again, each of its pages costs a page fault: a fifth of a step, a twentieth of
    tagging a batch. glibc keeps blocks of up to 32 MB by itself, and those are larger. All threads share one arena, since
    others hold no block of more than 64 MB. The process keeps the most memory it ever needed.

    To be called before JAX starts its threads. Nothing changes on systems without glibc.

    Returns:
        Whether freed memory is kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_ARENA_MAX, 1)])
