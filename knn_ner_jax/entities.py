"""What a tagger says of a text: its words, their labels, and the entities among them as exact slices of the text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from knn_ner_jax.calibration import RAW, Calibration
from knn_ner_jax.data.tag_schemes import OUTSIDE, shown_spans
from knn_ner_jax.data.texts import Document
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import LabelProbabilities

TEXTS, WORDS = 1024, 2**15  # most texts that are tagged at a time, and the words after which no more follow


@dataclass(frozen=True)
class Neighbour:
    """A training word that is near a query.

    Attributes:
        similarity: to the query.
        label: the tag it is stored with.
        word: the training word.
        before: some words of its sentence before it (`knn.examples.CONTEXT`).
        after: likewise after it.
        cut: whether its sentence has more words before `before`, and after `after`.
        sentence_id: number of its sentence, and
        word_id: of the word in it, by which both can be corrected (see `memory`).
    """

    similarity: float
    label: str
    word: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    cut: tuple[bool, bool]
    sentence_id: int = -1
    word_id: int = -1


@dataclass(frozen=True)
class Entity:
    """An entity in a text (`tag_schemes.shown_spans`).

    `entity_group`, `score`, `word`, `start` and `end` are what transformers' token-classification pipeline calls them.

    Attributes:
        entity_group: its type, such as PER.
        score: how sure it is, in [0, 1]: the least, over its words, of the mixed probability of the word's label, because
            an entity is right only where all of its words are; calibrated on dev. None where labels alone were asked for.
        word: the slice `text[start:end]`.
        start: where it begins in the text, in code points.
        end: where it ends (exclusive).
        words: position of its first word, and after its last one.
        is_strict: whether it begins with a B-; where an I- opens it, strict scores do not count it.
        p_tagger: the least, over its words, of the probability that the tagger alone gives to the word's label.
        p_knn: likewise of the vote of the neighbours alone.
        neighbours: training words nearest to its first word, nearest first.
    """

    entity_group: str
    score: float | None
    word: str
    start: int
    end: int
    words: tuple[int, int]
    is_strict: bool = True
    p_tagger: float | None = None
    p_knn: float | None = None
    neighbours: tuple[Neighbour, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON; where labels alone were asked for, without probabilities and neighbours.

        >>> Entity("LOC", None, "Rome", 3, 7, (1, 2)).to_dict()
        {'entity_group': 'LOC', 'word': 'Rome', 'start': 3, 'end': 7, 'words': (1, 2), 'is_strict': True}
        """
        if self.score is None:
            return {name: getattr(self, name) for name in ("entity_group", "word", "start", "end", "words", "is_strict")}
        return vars(self) | {"neighbours": [dict(vars(near)) for near in self.neighbours]}


class Opinion(NamedTuple):
    """The label that a judge of a word gives the largest probability, and this probability."""

    ner_tag: str
    p: float


@dataclass(frozen=True)
class Opinions:
    """What is said of a word.

    Attributes:
        word: the slice `text[start:end]`.
        start: where it begins in the text, in code points.
        end: where it ends (exclusive).
        tagger: by the tagger alone.
        knn: by the vote of the neighbours alone.
        mix: by both; its label is the word's.
        neighbours: training words nearest to it, nearest first.
    """

    word: str
    start: int
    end: int
    tagger: Opinion
    knn: Opinion
    mix: Opinion
    neighbours: tuple[Neighbour, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        said = {name: getattr(self, name)._asdict() for name in ("tagger", "knn", "mix")}
        return vars(self) | said | {"neighbours": [dict(vars(near)) for near in self.neighbours]}


@dataclass(frozen=True)
class TaggedText:
    """A text with its entities.

    Attributes:
        text: that offsets count in; where words were given, these joined by single spaces.
        words: of the text.
        labels: IOB2 tag of each word.
        entities: in order.
        fields: of the record that the text came in, but its `tokens`, as they were given.
        left_out: entities with scores below a threshold; the labels of their words are O.
        opinions: on each word, where they were asked for.
    """

    text: str
    words: tuple[str, ...]
    labels: tuple[str, ...]
    entities: tuple[Entity, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[Entity, ...] = ()
    opinions: tuple[Opinions, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return `fields` with tokens, ner_tags, entities and any opinions, for JSON; fields of these names are replaced."""
        tagged: dict[str, Any] = {"tokens": self.words, "ner_tags": self.labels}
        tagged["entities"] = [entity.to_dict() for entity in self.entities]
        if self.opinions:
            tagged["opinions"] = [each.to_dict() for each in self.opinions]
        return {**self.fields, **tagged}


Threshold = float | Mapping[str, float]


def check_threshold(threshold: Threshold, types: Sequence[str]) -> dict[str, float]:
    """Return the least score to keep of each entity type; 0 where a mapping names none.

    >>> check_threshold({"PER": 0.9}, ["LOC", "PER"])
    {'LOC': 0.0, 'PER': 0.9}

    Args:
        threshold: of all types, or by type.
        types: that a tagger has.

    Raises:
        InputError: a type is not among these, or a number not in [0, 1].
    """
    by_type = threshold if isinstance(threshold, Mapping) else dict.fromkeys(types, threshold)
    for type_, least in by_type.items():
        if type_ not in types:
            raise InputError(f"threshold: expected a type of this tagger ({', '.join(types)}), got {type_}")
        if not 0 <= least <= 1:
            raise InputError(f"threshold: expected a number from 0 to 1, got {least} for {type_}")
    return dict.fromkeys(types, 0.0) | dict(by_type)


NeighboursOf = Callable[[int], tuple[Neighbour, ...]]  # a word by its number among all words


def no_neighbours(word: int) -> tuple[Neighbour, ...]:
    """Return none, where nobody asked for any."""
    return ()


def _least(values: Float[np.ndarray, " words"], ranges: Sequence[tuple[int, int]]) -> Float[np.ndarray, " entities"]:
    return np.array([values[first:end].min() for first, end in ranges], np.float64)


def tagged_texts(
    documents: Sequence[Document],
    label_ids: Int[np.ndarray, " words"],
    names: Sequence[str],
    probabilities: LabelProbabilities | None = None,
    neighbours_of: NeighboursOf = no_neighbours,
    calibration: Calibration = RAW,
    thresholds: Mapping[str, float] = MappingProxyType({}),
) -> list[TaggedText]:
    """Return texts with the entities that labels make.

    Args:
        documents: the texts.
        label_ids: of their words, one text after another.
        names: of the label ids.
        probabilities: of the labels; None: entities have no score.
        neighbours_of: returns the neighbours of a word by its number among all words.
        calibration: of the scores.
        thresholds: the least score to keep of each type, for those named.
    """
    tagged: list[tuple[str, ...]] = []
    first = 0
    for document in documents:
        tagged.append(tuple(names[label] for label in label_ids[first : first + len(document.words)]))
        first += len(document.words)
    firsts = np.cumsum([0, *(len(labels) for labels in tagged)]).tolist()
    spans = [(number, span) for number, labels in enumerate(tagged) for span in shown_spans(labels)]
    ranges = [(firsts[number] + span.start, firsts[number] + span.end) for number, span in spans]
    scores: Sequence[float | None] = [None] * len(spans)
    p_tagger, p_knn = scores, scores
    if probabilities is not None:
        scores = calibration.apply(_least(probabilities.p, ranges)).tolist()
        p_tagger, p_knn = (_least(column, ranges).tolist() for column in (probabilities.p_tagger, probabilities.p_knn))
    entities: list[list[Entity]] = [[] for _ in documents]
    for index, (number, span) in enumerate(spans):
        document, is_strict = documents[number], tagged[number][span.start].startswith("B-")
        start, end = document.spans[span.start][0], document.spans[span.end - 1][1]
        where = document.text[start:end], start, end, (span.start, span.end), is_strict
        near = neighbours_of(ranges[index][0])
        entities[number].append(Entity(span.type, scores[index], *where, p_tagger[index], p_knn[index], near))
    return [
        leave_out(TaggedText(document.text, document.words, labels, tuple(found), document.fields), thresholds)
        for document, labels, found in zip(documents, tagged, entities, strict=True)
    ]


def in_chunks(documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
    """Yield texts by as many as are tagged at a time."""
    first = num_words = 0
    for number, document in enumerate(documents):
        if number - first >= TEXTS or num_words >= WORDS:
            yield documents[first:number]
            first, num_words = number, 0
        num_words += len(document.words)
    if documents:
        yield documents[first:]


def leave_out(tagged: TaggedText, thresholds: Mapping[str, float]) -> TaggedText:
    """Return a text without the entities that have scores below the threshold of their type."""

    def is_left_out(entity: Entity) -> bool:
        return entity.score is not None and entity.score < thresholds.get(entity.entity_group, 0)

    left_out, labels = tuple(filter(is_left_out, tagged.entities)), list(tagged.labels)
    for entity in left_out:
        first, end = entity.words
        labels[first:end] = [OUTSIDE] * (end - first)
    kept = tuple(entity for entity in tagged.entities if not is_left_out(entity))
    return replace(tagged, labels=tuple(labels), entities=kept, left_out=left_out)


def with_opinions(
    tagged: Sequence[TaggedText],
    documents: Sequence[Document],
    judges: Mapping[str, Float[np.ndarray, "words labels"]],
    names: Sequence[str],
    neighbours_of: NeighboursOf,
) -> list[TaggedText]:
    """Return tagged texts with what each judge says of every word.

    Args:
        tagged: the texts.
        documents: the same.
        judges: probabilities of all words' labels by `tagger`, `knn` and `mix`.
        names: of the labels.
        neighbours_of: returns the neighbours of a word by its number among all words.
    """
    labels = {judge: probabilities.argmax(axis=1).tolist() for judge, probabilities in judges.items()}
    largest = {judge: probabilities.max(axis=1).tolist() for judge, probabilities in judges.items()}
    places = [(text, span) for text, document in enumerate(documents) for span in document.spans]
    opinions: list[list[Opinions]] = [[] for _ in documents]
    for word, (text, (start, end)) in enumerate(places):
        said = {judge: Opinion(names[labels[judge][word]], largest[judge][word]) for judge in judges}
        opinions[text].append(Opinions(documents[text].text[start:end], start, end, **said, neighbours=neighbours_of(word)))
    return [replace(each, opinions=tuple(said)) for each, said in zip(tagged, opinions, strict=True)]
