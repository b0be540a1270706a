"""What can be said of a corpus before anything is trained on it: numbers of each split, faults and notes."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from knn_ner_jax.data import labels
from knn_ner_jax.data.corpus import SPLIT_STEMS, Sentence, Split, find_split, foreign_prefixes, interpret, parse
from knn_ner_jax.data.encoding import NUM_SPECIAL, word_pieces
from knn_ner_jax.data.records import Parsed, Row
from knn_ner_jax.errors import InputError

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
    erased_words: int | None


@dataclass(frozen=True)
class Examination:
    """A corpus examined.

    Attributes:
        scheme: how tags were read.
        length_unit: what lengths are counted in, `pieces` or `words`.
        window: beyond this many, special tokens included, a sentence is overlong.
        splits: numbers by split, of the splits that have sentences.
        findings: faults first.
    """

    scheme: str
    length_unit: str
    window: int
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


def examine(folder: Path, scheme: str, tokenizer: PreTrainedTokenizerBase | None, window: int) -> Examination:
    """Reads the splits of a folder, says whatever can be said of them, and stops at nothing.

    Args:
        folder: as for `corpus.find_split`.
        scheme: a name in `labels.PREFIXES`, or `auto`.
        tokenizer: gives lengths in pieces; without one they are in words.
        window: most pieces encoded at once, special tokens included.
    """
    files, findings = _parse_all(folder)
    scheme, unsettled = _settle_scheme(list(files.values()), scheme)
    findings += _finding("tags of no one scheme", "corpus", True, unsettled)
    splits: dict[str, Split] = {}
    for name, parsed in files.items():
        findings += _finding("bad lines", name, True, parsed.bad_lines)
        foreign = foreign_prefixes(parsed, scheme)
        findings += _finding(f"tags that {scheme} has not, read as O here", name, True, foreign)
        if parsed.sentences:
            splits[name] = interpret(_without_foreign(parsed, scheme) if foreign else parsed, scheme)
        else:
            findings += _finding("no sentences", name, True, [str(parsed.path)])
    summaries = {}
    for name, split in splits.items():
        summaries[name] = _summarise(split, tokenizer, window)
        findings += _findings_of_split(name, split, scheme, summaries[name], window)
    findings += _unseen_types(splits)
    findings += _shared_sentences(splits)
    findings.sort(key=lambda finding: not finding.fault)
    return Examination(scheme, "pieces" if tokenizer else "words", window, summaries, tuple(findings))


def _parse_all(folder: Path) -> tuple[dict[str, Parsed], list[Finding]]:
    files: dict[str, Parsed] = {}
    findings: list[Finding] = []
    for name in SPLIT_STEMS:
        try:
            files[name] = parse(find_split(folder, name, str(folder)))
        except InputError as error:
            findings += _finding("no readable file", name, True, [str(error)])
    return files, findings


def _settle_scheme(files: Sequence[Parsed], scheme: str) -> tuple[str, list[str]]:
    """The scheme declared or detected; where none has all prefixes, the one that lacks fewest tags, and the complaint."""
    if scheme != "auto":
        return scheme, []
    try:
        return labels.detect_scheme([tags for parsed in files for tags in parsed.tags]), []
    except InputError as error:
        lacking = {name: sum(len(foreign_prefixes(parsed, name)) for parsed in files) for name in labels.PREFIXES}
        return min(lacking, key=lambda name: lacking[name]), [str(error)]


def _without_foreign(parsed: Parsed, scheme: str) -> Parsed:
    def known(row: Row) -> Row:
        return row if row.tag[0] in labels.PREFIXES[scheme] else row._replace(tag=labels.OUTSIDE)

    return replace(parsed, sentences=[[known(row) for row in rows] for rows in parsed.sentences])


def _summarise(split: Split, tokenizer: PreTrainedTokenizerBase | None, window: int) -> Summary:
    words = [sentence.words for sentence in split.sentences]
    pieces, erased = word_pieces(words, tokenizer) if tokenizer else (None, None)
    lengths = np.array([sum(map(len, of)) for of in pieces] if pieces else [len(of) for of in words])
    entities = Counter(labels.tag_type(tag) for tag in _tags(split) if tag.startswith("B-"))
    return Summary(
        file=str(split.path),
        sentences=len(words),
        words=split.num_words,
        entities=dict(sorted(entities.items())),
        lengths={name: int(np.percentile(lengths, q, method="inverted_cdf")) for name, q in PERCENTILES.items()},
        overlong=int((lengths > window - NUM_SPECIAL).sum()),
        duplicates=len(words) - len(set(words)),
        erased_words=erased,
    )


def _tags(split: Split) -> Iterator[str]:
    return itertools.chain.from_iterable(sentence.tags for sentence in split.sentences)


def _findings_of_split(name: str, split: Split, scheme: str, summary: Summary, window: int) -> Iterator[Finding]:
    illegal = split.illegal_tags
    share = len(illegal) / max(1, len(illegal) + sum(tag != labels.OUTSIDE for tag in _tags(split)))
    yield from _finding(f"illegal tags under {scheme} ({share:.2%}), read as O", name, share > HARMLESS_ILLEGAL, illegal)
    yield from _finding("lines with another number of columns than the first", name, True, split.uneven_lines)
    if name == "train" and not summary.entities:
        yield from _finding("no entities", name, True, [str(split.path)])
    first: dict[tuple[str, ...], Sentence] = {}
    again = [sentence for sentence in split.sentences if first.setdefault(sentence.words, sentence) is not sentence]
    yield from _finding("sentences that occurred before", name, False, [_place(split, sentence) for sentence in again])
    overlong = f"sentences longer than the window of {window}, encoded in several"
    yield from _finding(overlong, name, False, [], summary.overlong)
    yield from _finding("words the tokenizer erases, encoded as unknown", name, False, [], summary.erased_words or 0)
    for reason, count in sorted(split.skipped.items()):
        yield from _finding(f"lines skipped: {reason}", name, False, [], count)


def _place(split: Split, sentence: Sentence) -> str:
    text = " ".join(sentence.words)
    return f"{split.path}:{sentence.line}: {text if len(text) <= 60 else text[:59] + '…'}"


def _unseen_types(splits: Mapping[str, Split]) -> Iterator[Finding]:
    if "train" not in splits:
        return
    known = {labels.tag_type(tag) for tag in _tags(splits["train"])}
    for name in splits:
        places = [
            f"{splits[name].path}:{sentence.line}: {labels.tag_type(tag)}"
            for sentence in splits[name].sentences
            for tag in sentence.tags
            if tag.startswith("B-") and labels.tag_type(tag) not in known
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
