"""Entity tags: the schemes that files spell entities in, their strict spans, and the label set of a tagger.

Every scheme is turned into IOB2 on reading, so that nothing downstream needs to know which one a file used. The last part
is `protocol: wang2022`, which tags, stores and scores subwords in BMES with a span decoder of its own, for comparison with
published numbers only: an entity that is cut into other subwords counts differently, so scores depend on the tokenizer.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seqeval import scheme as seqeval_scheme

from knn_ner_jax.io import InputError

OUTSIDE = "O"
OUTSIDE_ID = 0  # of every label set
_OUTSIDE_SPELLINGS = ("o", "0", "\u041e", "\u039f", "\uff2f")  # the last three: Cyrillic, Greek, full-width
NOTHING = ("-", "_")  # stand for `O`, too, where other cells of the column are tags

# BMES is BIOES with another letter for the inside of a span, so seqeval's IOBES reads both.
_SEQEVAL = {
    "BIO": seqeval_scheme.IOB2,
    "IOB1": seqeval_scheme.IOB1,
    "BIOES": seqeval_scheme.IOBES,
    "BMES": seqeval_scheme.IOBES,
    "BILOU": seqeval_scheme.BILOU,
    "IO": seqeval_scheme.IOB1,
}
# The prefixes of a tagger's labels: of words in IOB2, or of subwords in BMES.
PROTOCOL_PREFIXES = {"words": "BI", "wang2022": "BMES"}
_TAG = re.compile(r"[BIMESLU]-(?!-).+(?<!-)", re.DOTALL)
PREFIXES = {"BIO": "BI", "IOB1": "BI", "BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU", "IO": "I"}


class Sentence(NamedTuple):
    """Words, their IOB2 tags (as many), and the line of the file, or row of the table, that the first word stands on."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    line: int


class Span(NamedTuple):
    """An entity: words `start` to `end` (exclusive) of a sentence carry the type `type`."""

    type: str
    start: int
    end: int


class Iob2Tags(NamedTuple):
    """A tag sequence read under a scheme: its IOB2 form, and the positions of the tags that the scheme forbids there."""

    iob2: tuple[str, ...]
    illegal: tuple[int, ...]


@functools.lru_cache(maxsize=2**16)
def is_tag(text: str) -> bool:
    """Return whether a text is `O`, or any known prefix, a hyphen and a type.

    A type neither begins nor ends with a hyphen: seqeval would drop it, and take two types for one.

    >>> [is_tag(text) for text in ("O", "B-PER", "PER", "B-", "B-PER-")]
    [True, True, False, False, False]
    """
    return text == OUTSIDE or _TAG.fullmatch(text) is not None


def is_bare_tag(text: str) -> bool:
    """Return whether a text is a prefix alone, as in corpora that have one type.

    >>> [is_bare_tag(text) for text in ("B", "O", "B-PER")]
    [True, False, False]
    """
    return len(text) == 1 and text in "BIMESLU"


@functools.lru_cache(maxsize=2**16)
def respell(text: str, scheme: str = "auto") -> str:
    """Return a tag that is spelt otherwise as `O` or `B-TYPE`; any other text as it is.

    Corpora write `O` as a small letter, as zero or in another script, and `B-PER` as `B_PER`, `PER_B`, `PER-B` or `b-PER`.

    >>> [respell(text) for text in ("0", "B_PER", "PER-B", "b-PER", "B-PER", "PER")]
    ['O', 'B-PER', 'B-PER', 'B-PER', 'B-PER', 'PER']

    Args:
        text: a cell.
        scheme: of the tags; under IO a text is a type, and only `O` is looked for.
    """
    if text in _OUTSIDE_SPELLINGS or (scheme == "IO" and text in NOTHING):
        return OUTSIDE
    if scheme == "IO" or is_tag(text) or len(text) < 3:
        return text
    if (text[1] == "_" and text[0] in "BIMESLU") or (text[1] == "-" and text[0] in "bimeslu"):
        return f"{text[0].upper()}-{text[2:]}"
    if text[-2] in "_-" and text[-1] in "BIMESLU":
        return f"{text[-1]}-{text[:-2]}"
    return text


def attributes_of(cell: str) -> dict[str, str]:
    """Return the attributes of a cell, as in `SpaceAfter=No|name=B-PER`."""
    return {name: value for name, mark, value in (part.partition("=") for part in cell.split("|")) if mark}


def see_attribute(cells: Sequence[str]) -> str | None:
    """Return the attribute whose values are tags, not all of them `O`.

    >>> see_attribute(["SpaceAfter=No|name=B-PER", "name=O"])
    'name'
    """
    values: dict[str, set[str]] = {}
    for name, value in (item for cell in cells if "=" in cell for item in attributes_of(cell).items()):
        values.setdefault(name, set()).add(value)
    outside = {OUTSIDE}
    return next((name for name, tags in values.items() if all(map(is_tag, tags)) and tags - outside), None)


def are_of_names(cells: Iterable[str]) -> bool:
    """Return whether some cells, in whatever spelling, are tags of names, with their types.

    >>> are_of_names(("O", "PER_B")), are_of_names(("O", "B"))
    (True, False)
    """
    return any(tag != OUTSIDE and is_tag(tag) for tag in map(respell, cells))


def are_types(pairs: Iterable[tuple[str, str]]) -> bool:
    """Return whether of pairs the first are bare tags, and the second their types: something beside each tag but `O`.

    >>> are_types([("B", "person"), ("O", "_")]), are_types([("B", "NN"), ("O", "VB")])
    (True, False)
    """
    are_outside = set()
    for tag, type_ in set(pairs):
        is_outside = respell(tag) == OUTSIDE
        if not (is_outside or is_bare_tag(tag)) or (is_bare_tag(type_) and not is_outside):
            return False
        are_outside.add((is_outside, type_ in ("", OUTSIDE, *NOTHING)))
    return (False, False) in are_outside and are_outside <= {(True, True), (False, False)}


def tag_type(tag: str) -> str:
    """Return the entity type of a tag; the empty string for `O`.

    >>> tag_type("B-PER.NAM"), tag_type("O")
    ('PER.NAM', '')
    """
    return tag[2:]


@functools.lru_cache(maxsize=2**16)  # corpora repeat few stretches, and seqeval takes longest of all that reads them
def _spans_between(tags: tuple[str, ...], scheme: str) -> list[Span]:
    """Return the strict spans of tags without an O among them."""
    if scheme == "BMES":
        tags = tuple("I" + tag[1:] if tag.startswith("M-") else tag for tag in tags)
    entities = seqeval_scheme.Tokens(list(tags), _SEQEVAL[scheme]).entities
    return [Span(entity.tag, entity.start, entity.end) for entity in entities]


def strict_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """Return the spans that `tags` spell out without any breach of `scheme`, as seqeval's strict mode does.

    >>> strict_spans(["B-PER", "E-PER", "I-LOC", "S-ORG"], "BIOES")
    [Span(type='PER', start=0, end=2), Span(type='ORG', start=3, end=4)]

    Args:
        tags: one tag per word, every prefix one of `PREFIXES[scheme]`.
        scheme: BIO (that is IOB2), IOB1, BIOES, BMES, BILOU, or IO, which has types alone.
    """
    spans, start = [], 0
    for is_outside, stretch in itertools.groupby(tags, OUTSIDE.__eq__):  # no span of any scheme reaches over an O
        inside = tuple(stretch)
        if not is_outside:
            spans += [Span(span.type, start + span.start, start + span.end) for span in _spans_between(inside, scheme)]
        start += len(inside)
    return spans


def shown_spans(tags: Sequence[str]) -> list[Span]:
    """Return the entities that IOB2 tags show to a reader: an I- that continues none opens one.

    Taggers say such things, and a reader wants to see them. They are no entities to strict scoring: `strict_spans` are those
    of these spans whose first tag is a B-.

    >>> shown_spans(["I-PER", "I-PER", "O", "B-LOC", "I-ORG"])
    [Span(type='PER', start=0, end=2), Span(type='LOC', start=3, end=4), Span(type='ORG', start=4, end=5)]
    """
    spans: list[Span] = []
    for position, tag in enumerate(tags):
        if tag == OUTSIDE:
            continue
        continues = tag.startswith("I-") and spans and spans[-1].end == position and spans[-1].type == tag_type(tag)
        start = spans.pop().start if continues else position
        spans.append(Span(tag_type(tag), start, position + 1))
    return spans


def opening_insides(tags: Sequence[str]) -> list[bool]:
    """Return for each IOB2 tag whether it is an I- that opens an entity, as `shown_spans` has it.

    >>> opening_insides(["I-PER", "I-PER", "B-LOC", "I-ORG"])
    [True, False, False, True]
    """
    starts = {span.start for span in shown_spans(tags)}
    return [position in starts and tag.startswith("I-") for position, tag in enumerate(tags)]


def spans_to_iob2(spans: Iterable[Span], length: int) -> tuple[str, ...]:
    """Return the IOB2 tags of a sentence of `length` words.

    >>> spans_to_iob2([Span("PER", 0, 2)], 3)
    ('B-PER', 'I-PER', 'O')
    """
    tags = [OUTSIDE] * length
    for span in spans:
        tags[span.start] = f"B-{span.type}"
        for position in range(span.start + 1, span.end):
            tags[position] = f"I-{span.type}"
    return tuple(tags)


def to_iob2(tags: Sequence[str], scheme: str) -> Iob2Tags:
    """Return the strict spans of `tags` as IOB2; a tag outside of all of them is illegal and becomes `O`.

    >>> to_iob2(["I-PER", "I-PER", "B-PER"], "IOB1")
    Iob2Tags(iob2=('B-PER', 'I-PER', 'B-PER'), illegal=())
    >>> to_iob2(["I-PER", "O"], "BIO")
    Iob2Tags(iob2=('O', 'O'), illegal=(0,))
    """
    iob2 = spans_to_iob2(strict_spans(tags, scheme), len(tags))
    illegal = tuple(i for i, (old, new) in enumerate(zip(tags, iob2, strict=True)) if old != OUTSIDE and new == OUTSIDE)
    return Iob2Tags(iob2, illegal)


def detect_scheme(tag_sequences: Sequence[Sequence[str]]) -> str:
    """Return the scheme that has every prefix used and forbids the fewest tags; of equals the first in `PREFIXES`.

    >>> detect_scheme([["B-PER", "E-PER", "O"]])
    'BIOES'

    Raises:
        InputError: no scheme has all the prefixes that occur.
    """
    used = {tag[0] for tags in tag_sequences for tag in tags if tag != OUTSIDE}
    candidates = [scheme for scheme, prefixes in PREFIXES.items() if used <= set(prefixes)]
    if not candidates:
        known = ", ".join(f"{scheme} ({' '.join(prefixes)})" for scheme, prefixes in PREFIXES.items())
        raise InputError(f"no scheme has all the tag prefixes {' '.join(sorted(used))}; expected those of one of {known}")

    fewest: dict[str, int] = {}
    for scheme in candidates:
        fewest[scheme] = sum(len(to_iob2(tags, scheme).illegal) for tags in tag_sequences)
        if not fewest[scheme]:
            break
    return min(fewest, key=lambda scheme: fewest[scheme])


@dataclass(frozen=True)
class LabelSet:
    """The labels of a tagger or a datastore: `O`, then every prefix of every type, in a fixed order.

    >>> LabelSet(("LOC", "PER")).names
    ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER')

    Attributes:
        types: entity types; with P prefixes type number t has the label ids 1 + P t to P + P t.
        protocol: a key of `PROTOCOL_PREFIXES`.
    """

    types: tuple[str, ...]
    protocol: str = "words"

    @classmethod
    def of(cls, tag_sequences: Iterable[Sequence[str]], protocol: str = "words") -> "LabelSet":
        """Return the label set of IOB2 sequences: every prefix of every type that occurs, types sorted."""
        return cls(tuple(sorted({tag_type(tag) for tags in tag_sequences for tag in tags if tag != OUTSIDE})), protocol)

    @property
    def names(self) -> tuple[str, ...]:
        """Label names by id; that of O is `OUTSIDE_ID`."""
        return (OUTSIDE, *(f"{prefix}-{type_}" for type_ in self.types for prefix in PROTOCOL_PREFIXES[self.protocol]))

    def __len__(self) -> int:
        return 1 + len(PROTOCOL_PREFIXES[self.protocol]) * len(self.types)

    def union(self, other: "LabelSet") -> "LabelSet":
        """Return this set with the types that only `other` has at the end, so that the ids of this set stay valid."""
        return LabelSet(self.types + tuple(type_ for type_ in other.types if type_ not in self.types), self.protocol)

    def ids(self) -> dict[str, int]:
        """Return the id of each label name."""
        return {name: index for index, name in enumerate(self.names)}


def _iob2_to_bmes(tags: Sequence[str]) -> list[str]:
    bmes = [OUTSIDE] * len(tags)
    for type_, start, end in strict_spans(tags, "BIO"):
        if end - start == 1:
            bmes[start] = f"S-{type_}"
        else:
            bmes[start:end] = [f"B-{type_}", *[f"M-{type_}"] * (end - start - 2), f"E-{type_}"]
    return bmes


def wang2022_tags(tags: Sequence[str], subword_counts: Sequence[int]) -> list[str]:
    """Return the BMES tag of every subword of a sentence, as Wang et al. (2022) give it.

    A word that begins an entity goes on with M, one that ends it has M before its last subword, and every other tag is
    repeated: an entity of one word in three subwords is S S S, three entities.

    >>> wang2022_tags(["B-PER", "I-PER", "B-LOC"], [2, 2, 2])
    ['B-PER', 'M-PER', 'M-PER', 'E-PER', 'S-LOC', 'S-LOC']

    Args:
        tags: IOB2, of the words.
        subword_counts: subwords of each word, at least 1.
    """
    subword_tags: list[str] = []
    for tag, count in zip(_iob2_to_bmes(tags), subword_counts, strict=True):
        inside = [f"M-{tag_type(tag)}"] * (count - 1)
        if tag.startswith("B-"):
            subword_tags += [tag, *inside]
        elif tag.startswith("E-"):
            subword_tags += [*inside, tag]
        else:
            subword_tags += [tag] * count
    return subword_tags


def wang2022_spans(tags: Sequence[str]) -> list[Span]:
    """Return the entities of a BMES sequence by the rules of Wang et al. (2022).

    S is an entity. B begins one, M of its type continues it, E of its type ends it. Whatever else follows, or the end of the
    sentence, turns the B into an entity of one token; the label that broke it is skipped. M and E outside an entity are
    ignored.

    >>> wang2022_spans(["B-X", "M-X", "E-X", "S-Y"])
    [Span(type='X', start=0, end=3), Span(type='Y', start=3, end=4)]
    >>> wang2022_spans(["B-X", "B-Y", "E-Y"])
    [Span(type='X', start=0, end=1)]
    """
    spans: list[Span] = []
    start: int | None = None
    for position, tag in enumerate(tags):
        prefix, type_ = tag[0], tag_type(tag)
        if start is None:
            if prefix == "S":
                spans.append(Span(type_, position, position + 1))
            elif prefix == "B":
                start = position
        elif prefix not in "ME" or type_ != tag_type(tags[start]):
            spans.append(Span(tag_type(tags[start]), start, start + 1))
            start = None
        elif prefix == "E":
            spans.append(Span(type_, start, position + 1))
            start = None
    if start is not None:
        spans.append(Span(tag_type(tags[start]), start, start + 1))
    return spans


def scored_spans(tags: Sequence[str], protocol: str) -> list[Span]:
    """Return the entities that scores count: strict ones of IOB2 tags, under `wang2022` those of `wang2022_spans`.

    >>> scored_spans(["I-PER", "B-LOC"], "words")
    [Span(type='LOC', start=1, end=2)]
    """
    return strict_spans(tags, "BIO") if protocol == "words" else wang2022_spans(tags)
