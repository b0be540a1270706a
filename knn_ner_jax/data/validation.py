"""Examine a corpus before anything is trained on it: the numbers of each split, and all that is wrong with it, at once."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import tag_schemes
from knn_ner_jax.data.corpus import SPLIT_NAMES, Split, find_split, invalid_prefixes, parse_all, to_split
from knn_ner_jax.data.readers import RawSplit, Row
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.data.tokenization import NUM_SPECIAL, Tokenizer, subword_ids
from knn_ner_jax.data.words import BLANK_TOKEN
from knn_ner_jax.io import InputError

logger = logging.getLogger(__name__)

# Up to these fractions a finding is a blemish that published corpora have too (Weibo: 1.4% and 16%; a quarter of the
# sentences of CoNLL-2002, which are lines of a word or two and 3% of its words); above, scores say little.
HARMLESS_ILLEGAL = 0.05  # of a split's tags other than O
HARMLESS_SHARED = 0.25  # of a split's words
LONG = 5  # words, from which on a sentence is hardly twice in a corpus by chance
_SEVERAL_TAGS = re.compile(r"[|+,;/&]\s*[BIESMLU]-")
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
        columns: which columns were read, as `data.columns` says it; None where no file has columns.
        length_unit: unit of the lengths, `subwords` or `words`.
        max_length: length, special tokens included, above which a sentence is overlong.
        splits: the numbers of each split that has sentences.
        findings: faults first, then notes.
    """

    scheme: str
    columns: dict[str, int | str] | None
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


def examine(folder: Path, data: DataConfig, tokenizer: Tokenizer | None, max_length: int, is_chosen: bool) -> Examination:
    """Read the splits of a folder and collect all findings instead of stopping at the first fault.

    Args:
        folder: as for `corpus.find_split`.
        data: how files are read; its `dir` is not looked at.
        tokenizer: gives lengths in subwords, without it they are in words.
        max_length: most subwords that are encoded at once, special tokens included.
        is_chosen: whether the tokenizer is the one to be used, so that what it loses of the words is a fault.
    """
    files, findings = _read_all(folder, data)
    scheme, conflicts = _settle_scheme(list(files.values()), data.scheme)
    findings += _finding("tags of no one scheme", "corpus", True, conflicts)
    splits: dict[str, Split] = {}
    for name, raw in files.items():
        findings += _finding("bad lines", name, True, raw.bad_lines)
        other = ", ".join(map(str, raw.other_tags))
        columns = f"another column of tags ({other}), as nested entities have; data.columns says which is read"
        findings += _finding(columns, name, False, [], len(raw.other_tags))
        invalid = invalid_prefixes(raw, scheme)
        findings += _finding(f"tags that {scheme} does not have, read as O here", name, True, invalid)
        if raw.sentences:
            splits[name] = to_split(_without_invalid_prefixes(raw, scheme) if invalid else raw, scheme)
        else:
            findings += _finding("no sentences", name, True, [str(raw.path)])
    summaries = {}
    for name, split in splits.items():
        summaries[name] = _summarise(split, tokenizer, max_length)
        findings += _findings_of_split(name, split, scheme, summaries[name], max_length)
        findings += _losses(name, split, tokenizer) if is_chosen else ()
    findings += _unseen_types(splits)
    findings += _types_in_two_spellings(splits)
    findings += _shared_sentences(splits)
    findings.sort(key=lambda finding: not finding.fault)
    read = next((raw.columns for raw in files.values() if raw.columns), None)
    return Examination(scheme, read, "subwords" if tokenizer else "words", max_length, summaries, tuple(findings))


def _read_all(folder: Path, data: DataConfig) -> tuple[dict[str, RawSplit], list[Finding]]:
    files: dict[str, RawSplit] = {}
    findings: list[Finding] = []
    for name in SPLIT_NAMES:
        try:
            files |= parse_all({name: find_split(folder, name)}, data, files)
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


class TokenizerLoss(NamedTuple):
    """Something that a tokenizer loses of the words of a corpus, and the setting that mends it; empty where none does."""

    what: str
    setting: str


MANY_PIECES, MANY_UNKNOWN, MOST, FEW_WORDS, SAMPLE = 0.01, 0.05, 0.9, 20, 20_000


def tokenizer_losses(tokenizer: Tokenizer, words: Sequence[str]) -> list[TokenizerLoss]:
    """Return what goes wrong in silence between a tokenizer and words.

    Args:
        tokenizer: as it was opened.
        words: of a corpus, in the order of the file; the first 20,000 are looked at.
    """
    words = words[:SAMPLE]
    losses = []
    added = tokenizer.backend.get_added_tokens_decoder().values()
    pieces = tokenizer.backend.get_vocab().keys() - {token.content for token in added if token.special}
    capitals, normalizer = sum(piece != piece.lower() for piece in pieces), tokenizer.backend.normalizer
    lowers = normalizer is not None and normalizer.normalize_str("A").strip("▁ ") == "a"
    if lowers and capitals > MANY_PIECES * len(pieces):
        what = f"words are lower-cased, so that {capitals:,} of {len(pieces):,} subwords, those with capitals, never occur"
        losses.append(TokenizerLoss(what, "model.lowercase: false"))
    by_word = [ids for (ids,) in subword_ids([[word] for word in words], tokenizer)[0]]
    if not by_word:
        return losses
    firsts = Counter(tokenizer.subwords([ids[0] for ids in by_word]))
    piece, count = firsts.most_common(1)[0]
    unk_token = tokenizer.config.get("unk_token", "")
    says_nothing = piece in ("▁", "Ġ", unk_token)
    if len(set(words)) >= FEW_WORDS and count > MOST * len(words) and not says_nothing:
        losses.append(TokenizerLoss(f"{count:,} of {len(words):,} words begin with {piece!r}", "data.token_prefix"))
    spaced, first_spaced = sum(piece.startswith("Ġ") for piece in pieces), sum(firsts[p] for p in firsts if p[0] == "Ġ")
    if spaced > MANY_PIECES * len(pieces) and first_spaced < len(words) / 2:
        what = f"the space before a word, part of {spaced:,} subwords, is missing before {len(words) - first_spaced:,} words"
        losses.append(TokenizerLoss(what, "add_prefix_space: true in the backbone's tokenizer_config.json"))
    numbers = [int(word) for word in words if word.isdecimal()]
    steps = sum(number in (0, 1, before + 1) for before, number in itertools.pairwise(numbers))
    if len(numbers) >= FEW_WORDS / 2 and len(numbers) > MOST * len(words) and steps > MOST * (len(numbers) - 1):
        losses.append(TokenizerLoss("words are numbers that count up, as a first column may", "data.columns"))
    total, unknown = sum(map(len, by_word)), sum(tokenizer.subwords(ids).count(unk_token) for ids in by_word)
    if unknown > MANY_UNKNOWN * total:
        has_no_capitals = not lowers and not capitals and any(word != word.lower() for word in words)
        what = f"{unknown:,} of {total:,} subwords are unknown"
        losses.append(TokenizerLoss(what, "model.lowercase: true" if has_no_capitals else "another model.backbone"))
    return losses


def warn_of_losses(tokenizer: Tokenizer, sentences: Sequence[Sentence]) -> None:
    """Log what `tokenizer_losses` says of the words of some sentences."""
    words = list(itertools.islice(itertools.chain.from_iterable(sentence.words for sentence in sentences), SAMPLE))
    for loss in tokenizer_losses(tokenizer, words):
        logger.warning("%s; what may mend it: %s", loss.what, loss.setting)


def _losses(name: str, split: Split, tokenizer: Tokenizer | None) -> Iterator[Finding]:
    words = [word for sentence in split.sentences for word in sentence.words]
    for loss in tokenizer_losses(tokenizer, words) if tokenizer else ():
        yield from _finding(f"{loss.what}; {loss.setting} mends it" if loss.setting else loss.what, name, True, [], 1)


def _summarise(split: Split, tokenizer: Tokenizer | None, max_length: int) -> Summary:
    words_by_sentence = [sentence.words for sentence in split.sentences]
    subwords, num_empty_words = subword_ids(words_by_sentence, tokenizer) if tokenizer else (None, None)
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
    if name in ("train", "dev") and not summary.entities:
        purpose = "" if name == "train" else ", so that nothing can be chosen on it"
        yield from _finding(f"no entities{purpose}", name, True, [str(split.path)])
    if prefix := _common_prefix(split):
        what = f"all words begin with {prefix!r}; data.token_prefix: {prefix!r} removes it"
        yield from _finding(what, name, True, [str(split.path)])
    nested = [f"{split.path}:{s.line}: {tag}" for s in split.sentences for tag in s.tags if _SEVERAL_TAGS.search(tag)]
    yield from _finding("several tags in one, as nested entities have; one is expected", name, True, nested)
    if summary.sentences == 1 and summary.overlong:
        text = f"one sentence of {summary.words:,} words; an empty line between sentences is expected"
        yield from _finding(text, name, True, [str(split.path)])
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
        yield from _finding(f"left out, or read otherwise: {reason}", name, False, [], count)


def _common_prefix(split: Split) -> str:
    """Return what all words begin with, up to a sign that is no letter, such as `en:`; empty where that is nothing."""
    words = [word for sentence in split.sentences for word in sentence.words if word != BLANK_TOKEN]
    first, last = min(words, default=""), max(words, default="")  # what these two share, all share
    shared = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    start = re.match(r".*[^\w\s]", shared)
    return start[0] if start and len(set(words)) > 2 and all(len(word) > len(start[0]) for word in words) else ""


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


def _types_in_two_spellings(splits: Mapping[str, Split]) -> Iterator[Finding]:
    types = sorted({tag_schemes.tag_type(tag) for split in splits.values() for tag in _tags(split)} - {""})
    by_letters = itertools.groupby(sorted(types, key=str.casefold), key=str.casefold)
    places = [" and ".join(spellings) for _, group in by_letters if len(spellings := list(group)) > 1]
    yield from _finding("types that differ by case alone", "corpus", True, places)


def _shared_sentences(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Yield a finding for dev with sentences of train, and for test with sentences of train or of dev."""
    for earlier, name in itertools.combinations(splits, 2):
        texts = {sentence.words for sentence in splits[earlier].sentences}
        repeats = [sentence for sentence in splits[name].sentences if sentence.words in texts]
        words = [len(sentence.words) for sentence in repeats]
        of_words, long = sum(words) / splits[name].num_words, sum(number >= LONG for number in words)
        of_sentences = len(repeats) / len(splits[name].sentences)
        shares = f"{of_sentences:.1%}; {of_words:.1%} of the words; {long} of {LONG} words or more"
        what = f"sentences that are also in {earlier} ({shares})"
        yield from _finding(what, name, of_words > HARMLESS_SHARED, [_place(splits[name], sentence) for sentence in repeats])
