"""Tag schemes, strict spans and the label set.

Every scheme is turned into IOB2 on reading, so that nothing downstream needs to know which one a file used.

What Wang et al. (2022) tag, store and score: every word piece, in BMES, with a span decoder of their own.

For comparison with published numbers only. An entity cut into other pieces counts differently, so scores depend on the
tokenizer; `protocol: words` does not have this flaw.

"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seqeval import scheme as seqeval_scheme

from knn_ner_jax.io import InputError

OUTSIDE = "O"

# BMES is BIOES with another letter for the inside of a span, so seqeval's IOBES reads both.
_SEQEVAL = {
    "BIO": seqeval_scheme.IOB2,
    "IOB1": seqeval_scheme.IOB1,
    "BIOES": seqeval_scheme.IOBES,
    "BMES": seqeval_scheme.IOBES,
    "BILOU": seqeval_scheme.BILOU,
}
# What a protocol's taggers tell apart: words in IOB2, or pieces in BMES (see `data/wang2022.py`).
PROTOCOL_PREFIXES = {"words": "BI", "wang2022": "BMES"}
PREFIXES = {"BIO": "BI", "IOB1": "BI", "BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU"}


class Span(NamedTuple):
    """An entity: words `start` to `end` (exclusive) of a sentence carry the type `type`."""

    type: str
    start: int
    end: int


class Iob2Tags(NamedTuple):
    """A tag sequence read under a scheme: its IOB2 form and the positions of the tags the scheme forbids."""

    iob2: tuple[str, ...]
    illegal: tuple[int, ...]


def is_tag(text: str) -> bool:
    """True for `O` and for any known prefix, a hyphen and a type."""
    return text == OUTSIDE or (len(text) > 2 and text[0] in "BIMESLU" and text[1] == "-")


def tag_type(tag: str) -> str:
    """The type of a tag: `B-PER.NAM` -> `PER.NAM`; the empty string for `O`."""
    return tag[2:]


def strict_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """The spans that `tags` spell out without any breach of `scheme`, as seqeval's strict mode finds them.

    Args:
        tags: one tag per word, every prefix one of `PREFIXES[scheme]`.
        scheme: BIO (that is IOB2), IOB1, BIOES, BMES or BILOU.
    """
    if all(tag == OUTSIDE for tag in tags):  # most sentences of most corpora
        return []
    if scheme == "BMES":
        tags = ["I" + tag[1:] if tag.startswith("M-") else tag for tag in tags]
    entities = seqeval_scheme.Tokens(list(tags), _SEQEVAL[scheme]).entities
    return [Span(entity.tag, entity.start, entity.end) for entity in entities]


def spans_to_iob2(spans: Iterable[Span], length: int) -> tuple[str, ...]:
    """Writes spans as IOB2 tags over `length` words."""
    tags = [OUTSIDE] * length
    for span in spans:
        tags[span.start] = f"B-{span.type}"
        for position in range(span.start + 1, span.end):
            tags[position] = f"I-{span.type}"
    return tuple(tags)


def to_iob2(tags: Sequence[str], scheme: str) -> Iob2Tags:
    """Re-emits the strict spans of `tags` as IOB2; a tag outside every strict span is illegal and becomes `O`."""
    iob2 = spans_to_iob2(strict_spans(tags, scheme), len(tags))
    illegal = tuple(i for i, (old, new) in enumerate(zip(tags, iob2, strict=True)) if old != OUTSIDE and new == OUTSIDE)
    return Iob2Tags(iob2, illegal)


def detect_scheme(tag_sequences: Sequence[Sequence[str]]) -> str:
    """The scheme that admits every prefix used and forbids the fewest tags; ties in the order of `PREFIXES`.

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

    Attributes:
        types: entity types; with P prefixes type number t has the label ids 1 + P t to P + P t.
        protocol: a key of `PROTOCOL_PREFIXES`.
    """

    types: tuple[str, ...]
    protocol: str = "words"

    @classmethod
    def of(cls, tag_sequences: Iterable[Sequence[str]], protocol: str = "words") -> "LabelSet":
        """The label set of IOB2 sequences: every prefix of every type that occurs, types sorted."""
        return cls(tuple(sorted({tag_type(tag) for tags in tag_sequences for tag in tags if tag != OUTSIDE})), protocol)

    @property
    def names(self) -> tuple[str, ...]:
        """Label names by id."""
        return (OUTSIDE, *(f"{prefix}-{type_}" for type_ in self.types for prefix in PROTOCOL_PREFIXES[self.protocol]))

    def __len__(self) -> int:
        return 1 + len(PROTOCOL_PREFIXES[self.protocol]) * len(self.types)

    def union(self, other: "LabelSet") -> "LabelSet":
        """This set with the types only `other` has appended, so that this set's ids stay valid."""
        return LabelSet(self.types + tuple(type_ for type_ in other.types if type_ not in self.types), self.protocol)

    def ids(self) -> dict[str, int]:
        """Label name -> id."""
        return {name: index for index, name in enumerate(self.names)}


def _bmes(tags: Sequence[str]) -> list[str]:
    """IOB2 -> BMES."""
    bmes = [OUTSIDE] * len(tags)
    for type_, start, end in strict_spans(tags, "BIO"):
        if end - start == 1:
            bmes[start] = f"S-{type_}"
        else:
            bmes[start:end] = [f"B-{type_}", *[f"M-{type_}"] * (end - start - 2), f"E-{type_}"]
    return bmes


def piece_tags(tags: Sequence[str], piece_counts: Sequence[int]) -> list[str]:
    """The tag of every piece of a sentence.

    A word that begins an entity goes on with M, one that ends it has M before its last piece, and every other tag is
    repeated: an entity of one word and three pieces is S S S, three entities.

    Args:
        tags: IOB2, of the words.
        piece_counts: pieces of each word, at least 1.
    """
    pieces: list[str] = []
    for tag, count in zip(_bmes(tags), piece_counts, strict=True):
        inside = [f"M-{tag_type(tag)}"] * (count - 1)
        if tag.startswith("B-"):
            pieces += [tag, *inside]
        elif tag.startswith("E-"):
            pieces += [*inside, tag]
        else:
            pieces += [tag] * count
    return pieces


def decode(tags: Sequence[str]) -> list[Span]:
    """The entities of a BMES sequence by their rules.

    S is an entity. B opens one, M of its type goes on, E of its type ends it. Whatever else comes, or the end of the
    sentence, makes of the B an entity of one token; the label that broke it is skipped, so `B-X B-Y E-Y` is X alone. M and
    E that follow no open B are nothing.
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
