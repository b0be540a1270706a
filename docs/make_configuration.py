"""The page of settings, docs/configuration.md, written from the dataclasses that a configuration is read into.

python -m docs.make_configuration
"""

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

import yaml

from knn_ner_jax.ablation.config import Axis, StudyConfig
from knn_ner_jax.config import Config

PAGE = Path(__file__).with_name("configuration.md")
INTRODUCTION = """# Configuration

Written by `python -m docs.make_configuration` from the dataclasses in `knn_ner_jax/config.py`, which check every value.

A configuration is a YAML file, the command line, or both: `knn-ner train --config FILE --train.epochs 3`. A section of the
file is a prefix on the command line, later options win, and lists are written `--datastore.layers "[-1, 3]"`. `base:
[other.yaml]` at the top of a file names files, relative to it, that it builds on; every other path is relative to the folder
in which the command runs. `--print_config` shows the resolved configuration, `--help` lists the fields. `--overwrite`
deletes what an earlier command left and starts again: `train` the whole run, `eval` the evaluation only, `ablate` the study.

`train` and `eval` read the same files, and `ablate` reads these too; one with a section `ablation` is for `ablate` alone.
Where a folder holds a run already, `train` continues it only with the same `data`, `model`, `train`, `protocol` and `seed`;
the other sections say how it is evaluated, and several evaluations of one tagger lie side by side in folders named by
`eval_dir`. `train` writes all fields to `config.yaml` in the folder of the run: `--config RUN_DIR/config.yaml` repeats them.
"""


def help_texts(config: type) -> dict[str, str]:
    """Return the help of every field of a dataclass, from the sections `Attributes` of its and its bases' docstrings."""
    docs = [
        inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2] for base in config.__mro__ if is_dataclass(base)
    ]
    texts: dict[str, str] = {}
    name = ""
    for line in "\n".join(docs).splitlines():
        if match := re.fullmatch(r" {4}(\w+): (.*)", line):
            name, texts[match[1]] = match[1], match[2]
        elif name and line.strip():
            texts[name] += " " + line.strip()
    return texts


def type_text(hint: Any) -> str:
    """Return a type in words, such as `a number or null`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint == list[Axis]:
        return "a list of mappings from fields to lists"
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return {int: "a list of integers", float: "a list of numbers"}.get(arguments[0], "a list of such")
    if origin in (typing.Union, UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    return {int: "an integer", float: "a number", str: "text", bool: "`true` or `false`", NoneType: "`null`"}[hint]


def default_text(field: "Field[Any]") -> str:
    """Return a field's default as it would be written in YAML; `required` where there is none."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return "required"
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def sections(config: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yield a dataclass and those nested in it, each with the prefix of its fields."""
    yield prefix, config
    for name, hint in typing.get_type_hints(config).items():
        if is_dataclass(hint):
            yield from sections(typing.cast(type, hint), f"{prefix}{name}.")


def section_lines(config: type, prefix: str) -> Iterator[str]:
    """Yield the heading and the table of one dataclass."""
    hints, texts = typing.get_type_hints(config), help_texts(config)
    summary = inspect.cleandoc((config if prefix else Config).__doc__ or "").splitlines()[0]
    yield from (f"## `{prefix.rstrip('.')}`" if prefix else "## Fields of every run", "", summary, "")
    yield from ("| field | type | default | |", "|---|---|---|---|")
    for field in fields(config):
        if not is_dataclass(hints[field.name]):
            text = texts[field.name].replace("|", "\\|")
            yield f"| `{prefix}{field.name}` | {type_text(hints[field.name])} | {default_text(field)} | {text} |"
    yield ""


def page() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION]
    for prefix, config in sections(StudyConfig):
        lines += section_lines(config, prefix)
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
