"""The labels of a tagger from elsewhere: what their names stand for in IOB2, and whether its answers are IOB1."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from knn_ner_jax.data.tag_schemes import OUTSIDE, PREFIXES, LabelSet, is_tag, respell, strict_spans, tag_type
from knn_ner_jax.io import InputError

_TO_IOB2 = {**dict.fromkeys("BSU", "B"), **dict.fromkeys("IMEL", "I")}
# Labels of special tokens and later pieces, which some taggers have: no word of an entity.
_OF_NO_WORD = {"X", "PAD", "[PAD]", "<PAD>", "<pad>", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "<s>", "</s>", "<unk>", "<UNK>"}


@dataclass(frozen=True)
class ForeignLabels:
    """The labels of a tagger from elsewhere, and how they are read.

    Attributes:
        names: of its outputs, by number, as it has them.
        iob2: the IOB2 tag that each stands for, in its scheme by itself; under IOB1 it also depends on the word before.
        scheme: BIO, IOB1, BIOES, BMES or BILOU.
    """

    names: tuple[str, ...]
    iob2: tuple[str, ...]
    scheme: str

    @property
    def label_set(self) -> LabelSet:
        """The labels it is read as, types sorted."""
        return LabelSet.of([self.iob2])

    @property
    def outputs(self) -> tuple[int, ...]:
        """The id in `label_set` of each output."""
        ids = self.label_set.ids()
        return tuple(ids[tag] for tag in self.iob2)


def read_label_names(names: Sequence[str], scheme: str = "auto", bare_type: str = "ENT") -> ForeignLabels:
    """Read the label names of a tagger from elsewhere.

    Labels of special tokens are O, prefixes alone have the type `bare_type`. Under `auto` the prefixes tell the scheme; with
    B- and I- alone it is BIO, or IOB1 where a type has no B-.

    >>> read_label_names(["O", "S-PER", "B-PER", "I-PER", "E-PER", "[CLS]"]).iob2
    ('O', 'B-PER', 'B-PER', 'I-PER', 'I-PER', 'O')

    Raises:
        InputError: the names are none of a scheme's, or not of this one; the message says what was expected.
    """
    spelt = [respell(name) for name in names]
    tags = [OUTSIDE if name in _OF_NO_WORD else f"{name}-{bare_type}" if name in _TO_IOB2 else name for name in spelt]
    if not names or any(re.fullmatch(r"LABEL_\d+", name) for name in names):
        raise InputError("names instead of numbers")
    if len(set(spelt)) < len(names) or "" in names:
        raise InputError("one name for each number from 0 on")
    if not all(is_tag(tag) for tag in tags):
        raise InputError("O, and B-TYPE, I-TYPE and the like (IOB2, IOB1, BIOES, BMES or BILOU) alone")
    if OUTSIDE not in spelt:
        raise InputError("O among them")
    prefixes = {tag[0] for tag in tags if tag != OUTSIDE}
    without_begin = sorted({tag_type(tag) for tag in tags} - {tag_type(tag) for tag in tags if tag[0] in "BSU"} - {""})
    if scheme == "auto":
        scheme = next((known for known in PREFIXES if prefixes <= set(PREFIXES[known])), "")
        scheme = "IOB1" if scheme == "BIO" and without_begin else scheme
    if scheme not in PREFIXES or not prefixes <= set(PREFIXES[scheme]):
        expected = f"the prefixes of {scheme} alone" if scheme else "the prefixes of one scheme"
        raise InputError(f"{expected}, got {' '.join(sorted(prefixes))}")
    if scheme != "IOB1" and without_begin:
        raise InputError(f"{scheme}, where every entity begins with a B-: none of {', '.join(without_begin)} has one")
    iob2 = (tag if tag == OUTSIDE else f"{_TO_IOB2[tag[0]]}-{tag_type(tag)}" for tag in tags)
    return ForeignLabels(tuple(names), tuple(iob2), scheme)


KEPT_BY_IOB1, LEAST_RECALL = 2, 0.1


def speaks_iob1(gold: Iterable[Sequence[str]], answers: Iterable[Sequence[str]]) -> bool:
    """Return whether a tagger's answers with B- and I- are IOB1, not IOB2.

    They are where strict IOB2 loses most of the right entities that strict IOB1 keeps, that is, where IOB1 finds more than
    twice as many; it must find at least a tenth of all, so that chance does not decide. A bad tagger that speaks IOB2 fails
    it, because IOB1 forbids a B- that does not stand directly behind a word of its type.

    >>> gold = [["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]]
    >>> speaks_iob1(gold, [["I-PER", "I-PER", "O", "I-LOC", "B-LOC"]]), speaks_iob1(gold, gold)
    (True, False)

    Args:
        gold: IOB2 tags by sentence.
        answers: as many, as long.
    """
    as_iob2 = as_iob1 = total = 0
    for gold_tags, tags in zip(gold, answers, strict=True):
        entities = set(strict_spans(gold_tags, "BIO"))
        total += len(entities)
        as_iob2 += len(entities & set(strict_spans(tags, "BIO")))
        as_iob1 += len(entities & set(strict_spans(tags, "IOB1")))
    return as_iob1 > KEPT_BY_IOB1 * as_iob2 and as_iob1 >= LEAST_RECALL * total
