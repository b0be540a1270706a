"""The command line: the commands of `knn-ner`, their options from YAML and arguments, and one way to end with an error.

Options are read before a command's own module is imported, because that takes seconds; so this module must import little.
"""

import argparse
import importlib
import logging
import os
import re
import shlex
import signal
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import jsonargparse

from knn_ner_jax import __version__, io
from knn_ner_jax.ablation.config import StudyConfig
from knn_ner_jax.compile_cache import keep_programs
from knn_ner_jax.config import Config, flatten
from knn_ner_jax.io import BASE, InputError, NonFiniteLossError, Preempted, with_bases

PROGRAM = "knn-ner"
OVERWRITE = "--overwrite"

_Root = TypeVar("_Root", bound=Config)


def _hint(key: str, root: type) -> Any:
    hint: Any = root
    for part in key.split("."):
        hint = typing.get_type_hints(hint).get(part) if is_dataclass(hint) else None
    return hint


def _expected(hint: Any) -> str:
    """Return a type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is list:
        return f"a list of {_expected(inner[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_expected(option) for option in inner)
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    return names.get(hint, str(hint))


def _names(group: str, hint: Any) -> str:
    return ", ".join(f"{group}.{entry.name}".lstrip(".") for entry in fields(hint))


def _unknown(key: str, root: type) -> str:
    group, hint = key, None
    while not is_dataclass(hint):
        group = group.rpartition(".")[0]
        hint = _hint(group, root) if group else root
    return f"{key}: no such field; expected one of {_names(group, hint)}"


def explain(message: str, root: type = Config) -> str:
    """Return jsonargparse's complaint about a `root` as one line: the field, what was expected, what it got."""
    if match := re.search(r"unrecognized arguments: (?!--)(\S+)", message):
        remedy = f"--config {match[1]}" if match[1].endswith((".yaml", ".yml")) else "--FIELD=VALUE, or --config FILE"
        return f"{match[1]}: expected an option; write {remedy}"
    if match := re.search(r"unrecognized arguments: -{0,2}([\w.-]+)", message):
        return _unknown(match[1], root)
    if match := re.search(r"Group '([\w.]+)' does not accept (?:nested key|option) '([\w.]+)'", message):
        return _unknown(f"{match[1]}.{match[2]}", root)
    if match := re.search(r"Option '([\w.]+)' is not accepted", message):
        return _unknown(match[1], root)
    if match := re.search(r"required: ([\w.]+)", message):
        return f"{match[1]}: expected {_expected(_hint(match[1], root))}, got nothing; give --config FILE or --{match[1]}"
    if match := re.search(r"File does not exist: '?([^']+?)'?$", message.strip()):
        return f"config: expected a file, found no {match[1]}"
    key = re.search(r'[Kk]ey "([\w.]+)"', message)
    value = re.search(r"(?:[Gg]iven|[Gg]ot) value: (.*)", message)
    if key and value and _hint(key[1], root):
        return f"{key[1]}: expected {_expected(_hint(key[1], root))}, got {value[1].strip()}"
    if match := re.search(r'Parser key "([\w.]+)":\s+Unable to load config "(.*?)"', message):
        return _not_a_section(match[1], match[2], root)
    return " ".join(message.split())


def _not_a_section(key: str, value: object, root: type) -> str:
    return f"{key}: expected the fields {_names(key, _hint(key, root))}, got {value}"


def _check(values: Mapping[str, Any], root: type) -> None:
    """Refuse what jsonargparse lets through: null where a field has none, a section that is something else."""
    for key, value in flatten(values).items():
        if key == OVERWRITE.lstrip("-"):
            raise InputError(f"{key}: expected on the command line only, found in a configuration file")
        hint = _hint(key, root)
        if is_dataclass(hint):
            raise InputError(_not_a_section(key, value, root))
        if value is None and hint and types.NoneType not in typing.get_args(hint):
            raise InputError(f"{key}: expected {_expected(hint)}, got {value}")


class _ConfigFile(jsonargparse.ActionConfigFile):
    """Reads a file after those that it builds on."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        for path in with_bases(Path(values).expanduser()):
            super().__call__(parser, cfg, str(path), option_string)
            cfg.pop(BASE, None)


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are InputErrors of one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError with argparse's complaint."""
        raise InputError(" ".join(message.split()))


class ConfigParser(jsonargparse.ArgumentParser):
    """A parser of fields of a configuration; a mistake is an InputError that names the field."""

    root: type = Config

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise InputError with jsonargparse's complaint in plain words."""
        raise InputError(explain(message, self.root)) from ex


def fail(program: str, message: str) -> NoReturn:
    """End the program with one error message and exit code 2."""
    print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(2)


def _build(parser: "ConfigParser", values: Any) -> Any:
    _check(values.as_dict(), parser.root)
    sections = parser.instantiate(values)
    return parser.root(**{entry.name: sections[entry.name] for entry in fields(parser.root)})


def _read(parser: "ConfigParser", arguments: Sequence[str]) -> Any:
    try:
        values = parser.parse_args(arguments)
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#x} at position {error.start}"
        raise InputError(f"config: expected UTF-8 text, got {byte}") from error
    return _build(parser, values)


@cache  # takes longer to make than to use, and a study has many cells
def _parser(program: str, description: str, root: type) -> ConfigParser:
    parser = ConfigParser(prog=program, description=description, allow_abbrev=False)
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
    """Read the configuration in a file.

    Raises:
        InputError: a field is wrong.
    """
    return _read(_parser("", "", Config), ["--config", str(path)])


def build_config(values: Mapping[str, Any]) -> Config:
    """Build the configuration of nested mappings, as a file holds them.

    Raises:
        InputError: a field is wrong.
    """
    parser = _parser("", "", Config)
    return _build(parser, parser.parse_object(dict(values)))


def join_negative(words: Sequence[str]) -> list[str]:
    """Join negative numbers to the option before them, which argparse would take for options.

    >>> join_negative(["--datastore.layers", "-1,-2", "--seed", "3"])
    ['--datastore.layers=[-1,-2]', '--seed', '3']
    """
    joined: list[str] = []
    for word in words:
        if re.fullmatch(r"-[\d.][\d.,e-]*", word) and joined and joined[-1].startswith("--"):
            option, _, before = joined[-1].partition("=")
            numbers = ",".join(filter(None, [before.strip("[]"), word]))
            joined[-1] = f"{option}=[{numbers}]" if "," in numbers else f"{option}={numbers}"
        else:
            joined.append(word)
    return joined


def parse(program: str, description: str, root: type[_Root], arguments: Sequence[str] | None = None) -> tuple[_Root, bool]:
    """Read the command line: `--config FILE`, any field, `--overwrite`, `--help`, `--print_config`.

    Args:
        program: name for messages.
        description: what the program does.
        root: the dataclass to be read, `Config` or one with more fields.
        arguments: instead of the process's own.

    Returns:
        The configuration and whether `--overwrite` was given. Any mistake ends the process with exit code 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(program, description, root)  # type: ignore[arg-type]  # classes are hashable
    try:
        return _read(parser, join_negative([word for word in words if word != OVERWRITE])), OVERWRITE in words
    except InputError as error:
        fail(program, " ".join(str(error).split()))


def _add_predict_options(parser: Parser) -> None:
    parser.usage = "%(prog)s [OPTIONS] eval_dir [text ...]    (options may also stand after the texts)"
    parser.add_argument("eval_dir", help="the folder that eval wrote to: its eval_dir, or the run_dir")
    parser.add_argument("text", nargs="*", default=[], help="sentences; without any, those of the input")
    files = "files in UTF-8, which may be pipes; default: -, the standard input"
    parser.add_argument("--input", metavar="FILE", nargs="+", action="extend", default=[], dest="files", help=files)
    parser.add_argument(
        "--format",
        choices=("auto", "text", "tokens", "jsonl", "conll"),
        default="auto",
        dest="text_format",
        help="sentences as text, one on each line; tokens, likewise, blanks between words; jsonl, lists of words or objects "
        "with tokens or a text; conll, a word first on each line; auto: by FILE's ending or text. All but text keep words",
    )
    parser.add_argument("--tokens", action="store_const", const="tokens", dest="text_format", help="--format tokens")
    parser.add_argument("--neighbours", type=int, help="how many to show for each entity; default: 3 for text, 0 for jsonl")
    least = "leave out entities with a lower score, of one type or of all others: 0.8, PER=0.9; may be repeated"
    parser.add_argument("--threshold", action="append", default=[], metavar="[TYPE=]SCORE", help=least)
    parser.add_argument("--no-neighbours", action="store_true", help="labels alone, without scores, which takes least time")
    outputs = "text for people (default); jsonl, a sentence with labels and entities a line; conll, word and label"
    parser.add_argument("--output", choices=("text", "jsonl", "conll"), default="text", help=outputs)
    bad_lines = "stop at what cannot be read (default), or name and skip it, and end with exit status 3"
    parser.add_argument("--bad-lines", choices=("stop", "skip"), default="stop", help=bad_lines)
    parser.add_argument("--batch-size", type=int, help="windows encoded at a time; default: as in the evaluation")


@dataclass(frozen=True)
class Command:
    """A command of the package.

    Attributes:
        description: what it does.
        module: its `main`, or `function`, gets the options; imported once they have been read.
        options: the dataclass whose fields are the options (`main` gets it and whether `--overwrite` was given); or what
            adds options to a parser (`main` gets each by its name); None: `main` gets the words of the command line.
        next_command: what to run afterwards, with the same options.
        function: of the module.
    """

    description: str
    module: str
    options: type[Config] | Callable[[Parser], None] | None = None
    next_command: str | None = None
    function: str = "main"


COMMANDS = {
    "train": Command("Fine-tune a tagger.", "knn_ner_jax.main.train", Config, "eval"),
    "eval": Command("Score a trained tagger with and without neighbours.", "knn_ner_jax.main.evaluate", Config),
    "predict": Command("Tag text, or tokens, with an evaluated tagger.", "knn_ner_jax.main.predict", _add_predict_options),
    "memory": Command("Teach an evaluated tagger, or take it back.", "knn_ner_jax.main.predict", function="edit_memory"),
    "serve": Command("Offer a page to try an evaluated tagger on, and an API.", "knn_ner_jax.main.serve"),
    "audit": Command("Rank words that may have a wrong tag, or correct them.", "knn_ner_jax.main.audit"),
    "export": Command("Save a tagger for use without this package.", "knn_ner_jax.main.export"),
    "ablate": Command("Run a study: configurations and seeds compared.", "knn_ner_jax.main.ablate", StudyConfig),
    "check": Command("Examine a corpus for everything that would stop or distort a run.", "knn_ner_jax.main.check"),
    "convert": Command("Write a published corpus as a column file.", "knn_ner_jax.main.convert"),
}


def _read_options(command: Command, program: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Read the options of a command as the arguments of its `main`."""
    if command.options is None:
        return {"argv": arguments}
    if isinstance(command.options, type):
        root: type[Config] = command.options
        config, overwrite = parse(program, command.description, root, arguments)
        return {"config": config, "overwrite": overwrite}
    parser = Parser(prog=program, description=command.description, allow_abbrev=False)
    command.options(parser)
    return vars(parser.parse_intermixed_args(arguments))


def check_paths(name: str, options: Mapping[str, Any]) -> None:
    """Refuse folders that a command could only fail on, before its module is imported."""
    if name == "predict":
        io.check_finished(Path(options["eval_dir"]).expanduser(), "evaluation")
    elif name in ("train", "eval"):
        config = options["config"]
        if config.distributed.coordinator_address or "JAX_COORDINATOR_ADDRESS" in os.environ:
            return  # what is missing on one host ends all of them, once they are connected
        io.check_is_dir(Path(config.run_dir), "run_dir")
        if name == "eval":
            io.check_finished(Path(config.run_dir), "training")
        elif (Path(config.run_dir) / "train.json").is_file():
            return  # nothing is read
        elif config.model.backbone.startswith(("/", "./", "../", "~", "pip:")):  # else a hub id, perhaps
            io.check_exists(config.model.backbone, "model.backbone")
        io.check_exists(config.data.dir, "data.dir")


def _set_up_logging(is_long: bool) -> None:
    if not is_long:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        return
    from rich.logging import RichHandler

    # JAX and Orbax log dozens of lines about themselves.
    handler = RichHandler(show_path=False)
    handler.addFilter(io.is_no_full_disk)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("knn_ner_jax").setLevel(logging.INFO)


def run(name: str, program: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command; a mistake of the user ends the process with one message and exit code 2.

    Args:
        name: one of `COMMANDS`.
        program: what the user has typed to get here, for messages.
        arguments: words of the command line after that; None: those of the process, which runs nothing but this command.
    """
    if arguments is None:
        io.tune_memory()
        arguments = sys.argv[1:]
    command = COMMANDS[name]
    try:
        options = _read_options(command, program, arguments)
        check_paths(name, options)
        keep_programs()
        _set_up_logging(is_long=isinstance(command.options, type))
        getattr(importlib.import_module(command.module), command.function)(**options)
    except InputError as error:
        fail(program, str(error))
    except NonFiniteLossError as error:
        sys.exit(f"{program}: error: {error}")
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        goes_on = "; started again it goes on" if isinstance(command.options, type) else ""
        print(f"{program}: stopped{goes_on}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if not io.is_disk_full(error):
            raise
        what = getattr(error, "filename", None) or "what is written"
        sys.exit(f"{program}: error: no space left for {what}; with more, the same command goes on")
    if command.next_command:
        words = shlex.join(argument for argument in arguments if argument != OVERWRITE)
        launcher = "python " if program.endswith(".py") else ""
        print(f"next: {launcher}{program.replace(name, command.next_command)} {words}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first word names: `knn-ner train ...`.

    Args:
        argv: words of the command line after the program; None: those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} COMMAND ...\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:<8} {command.description}")
        print(f"\n{PROGRAM} COMMAND --help lists the options of a command.")
        sys.exit(0 if words else 2)
    name, *arguments = words
    if name == "--version":
        return print(__version__)
    if name not in COMMANDS:
        fail(PROGRAM, f"expected one of {', '.join(COMMANDS)}, got {name}")
    if argv is None and name != "serve":  # which lives long, and has to give back what edits have freed
        io.tune_memory()
    run(name, f"{PROGRAM} {name}", arguments)
