"""What Wang et al. (2022) tag, store and score: every word piece, in BMES, with a span decoder of their own.

For comparison with published numbers only. An entity cut into other pieces counts differently, so scores depend on the
tokenizer; `protocol: words` does not have this flaw.
"""

from collections.abc import Sequence

from knn_ner_jax.data.labels import OUTSIDE, Span, strict_spans, tag_type


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
