"""Sentences in which neighbours changed a tag, and who voted: all that the explorer of a page shows."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from knn_ner_jax import distributed, sharding
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence, tag_type
from knn_ner_jax.data.tokenization import encode
from knn_ner_jax.evaluation.neighbours import Neighbour, Neighbourhood
from knn_ner_jax.evaluation.predictions import TaggedSentences
from knn_ner_jax.evaluation.tuning import Cache, KnnParams, collect, vote
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import interpolate
from knn_ner_jax.knn_tagger import KnnTagger

MAX_SENTENCES = 200
NEAREST = 8  # neighbours that are shown one by one

Kind = Literal["fixed", "broken", "other"]
KINDS: tuple[Kind, ...] = ("fixed", "broken", "other")


@dataclass(frozen=True)
class Token:
    """A word of a sentence and its tags."""

    word: str
    gold: str
    tagger: str
    knn: str

    @property
    def kind(self) -> Kind | None:
        """What neighbours did to the tag; `other`: wrong before and after; None: nothing."""
        if self.tagger == self.knn:
            return None
        return "fixed" if self.knn == self.gold else "broken" if self.tagger == self.gold else "other"

    @property
    def tags(self) -> tuple[str, str, str]:
        """Gold, the tagger's, with neighbours."""
        return self.gold, self.tagger, self.knn


@dataclass(frozen=True)
class NeighbourLine:
    """Part of a vote: one neighbour, or all rows of a tag that are not shown one by one.

    Attributes:
        label: the tag voted for.
        share: of the vote, in [0, 1]; those of a label's lines add up to its p_kNN.
        count: rows it stands for.
        near: the neighbour; None for the rows that are not shown.
    """

    label: str
    share: float
    count: int
    near: Neighbour | None


@dataclass(frozen=True)
class LabelLine:
    """Probabilities of a label: the tagger's, the vote's, and those of the mix."""

    label: str
    p_ner: float
    p_knn: float
    p: float


@dataclass(frozen=True)
class Change:
    """A word whose tag neighbours changed.

    Attributes:
        place: its position in the sentence.
        token: the word.
        labels: every label with a share of the vote, and the word's three tags; by falling probability.
        voters: the nearest neighbours one by one, nearest first, then the rest by label.
    """

    place: int
    token: Token
    labels: tuple[LabelLine, ...]
    voters: tuple[NeighbourLine, ...]

    @property
    def types(self) -> frozenset[str]:
        """Entity types of its tags."""
        return frozenset(map(tag_type, self.token.tags)) - {""}


@dataclass(frozen=True)
class ExplorerSentence:
    """A sentence with at least one change; `number` counts the sentences of the split from 1."""

    number: int
    tokens: tuple[Token, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Explorer:
    """What there is to look at.

    Attributes:
        split: name of the split.
        setting: of the vote.
        sentences: at most `MAX_SENTENCES`, or fewer if so asked, of those with a change, in their order; see `_round_robin`.
        num_changed: sentences with a change.
        sentences_by_kind: sentences of the whole split with a change of a kind; one may have several.
        words: changed words of the whole split, by kind.
    """

    split: str
    setting: KnnParams
    sentences: tuple[ExplorerSentence, ...]
    num_changed: int
    sentences_by_kind: dict[Kind, int]
    words: dict[Kind, int]

    def num_shown(self, kind: Kind) -> int:
        """Sentences shown with a change of a kind."""
        return sum(any(change.token.kind == kind for change in shown.changes) for shown in self.sentences)

    @cached_property  # every change asks
    def types(self) -> tuple[str, ...]:
        """Entity types of all changes shown, sorted."""
        return tuple(sorted({type_ for shown in self.sentences for change in shown.changes for type_ in change.types}))


@dataclass(frozen=True)
class _Votes:
    """Everything that the lines of a word are made of; rows are words of the chosen sentences."""

    cache: Cache
    setting: KnnParams
    p_knn: Float[np.ndarray, "words labels"]
    p: Float[np.ndarray, "words labels"]
    rows_by_label: Int[np.ndarray, " labels"]
    names: tuple[str, ...]

    def split(self, slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The vote of a word: shares of the nearest one by one, then share and number of the others by label."""
        if self.setting.k == "all":
            return self._split_all(slot)
        labels = self.cache.neighbour_labels[slot, : self.setting.k]  # type: ignore[index]
        weights = self._relative(slot, self.setting.k)
        weights /= weights.sum()
        others, num_labels = labels[NEAREST:], len(self.names)
        return weights[:NEAREST], np.bincount(others, weights[NEAREST:], num_labels), np.bincount(others, None, num_labels)

    def _split_all(self, slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels, p_knn = self.cache.neighbour_labels[slot, :NEAREST], self.p_knn[slot].astype(np.float64)  # type: ignore[index]
        shares = self._relative(slot, NEAREST) * float(self.cache.top1_prob[0, slot, 0])  # type: ignore[index]
        counts = self.rows_by_label - np.bincount(labels, None, len(self.names))
        shown = np.bincount(labels, shares, len(self.names))
        # Rounded similarities, divided by a small temperature, are no longer those that the vote added up: where that shows,
        # the sum is right.
        due = np.where(counts > 0, np.minimum(shown, p_knn), p_knn)
        return shares * (due / np.where(shown > 0, shown, 1.0))[labels], p_knn - due, counts

    def _relative(self, slot: int, count: int) -> Float[np.ndarray, " count"]:
        """Weights of the nearest rows, that of the first being 1."""
        similarities = self.cache.similarities[slot, :count].astype(np.float64)  # type: ignore[index]
        return np.exp((similarities - similarities[0]) / np.float32(self.setting.temperature))

    def label_lines(self, slot: int, tags: tuple[str, ...]) -> tuple[LabelLine, ...]:
        """The probabilities of every label with a share of the vote, and of the word's tags."""
        p_ner, p_knn, p = self.cache.p_ner[slot], self.p_knn[slot], self.p[slot]
        lines = [
            LabelLine(name, float(p_ner[label]), float(p_knn[label]), float(p[label]))
            for label, name in enumerate(self.names)
            if p_knn[label] > 0 or name in tags
        ]
        unknown = [LabelLine(tag, 0.0, 0.0, 0.0) for tag in dict.fromkeys(tags) if tag not in self.names]
        return tuple(sorted(lines, key=lambda line: -line.p) + unknown)


def _count_rows(labels: Array, num_rows: Array, num_labels: int) -> Int[Array, " labels"]:
    is_row = jnp.arange(len(labels)) < num_rows
    return jnp.bincount(jnp.where(is_row, labels, num_labels), length=num_labels + 1)[:num_labels]


def _look_up(knn_tagger: KnnTagger, setting: KnnParams, sentences: list[Sentence]) -> _Votes:
    label_set, model = knn_tagger.label_set, knn_tagger.model
    gold_labels = label_set.union(LabelSet.of(sentence.tags for sentence in sentences))
    split = encode(sentences, model.tokenizer, model.max_length, gold_labels, model.pinyin)
    k = min(NEAREST, knn_tagger.num_rows) if setting.k == "all" else setting.k
    temperatures = [setting.temperature] if setting.k == "all" else None
    found = knn_tagger.retrieve(split, k, setting.metric, temperatures)
    cache = collect(found, split.num_words, temperatures, with_ids=True)
    p_knn = vote(cache, setting)
    p = interpolate(jnp.asarray(cache.p_ner), p_knn, setting.knn_weight)
    store = knn_tagger.stored.datastore
    count = jax.jit(_count_rows, static_argnames="num_labels", out_shardings=sharding.replicated(knn_tagger.mesh))
    rows_by_label = np.asarray(count(store.labels, store.num_rows, num_labels=len(label_set)))
    return _Votes(cache, setting, np.asarray(p_knn), np.asarray(p), rows_by_label, label_set.names)


def _change(votes: _Votes, neighbourhood: Neighbourhood, slot: int, place: int, token: Token) -> Change:
    shares, rest, counts = votes.split(slot)
    near = neighbourhood.nearest(votes.cache, slot, len(shares))
    lines = [NeighbourLine(each.label, float(share), 1, each) for each, share in zip(near, shares, strict=True)]
    others = [
        NeighbourLine(name, float(share), int(count), None)
        for name, share, count in zip(votes.names, rest, counts, strict=True)
        if count
    ]
    lines += sorted(others, key=lambda line: -line.share)
    return Change(place, token, votes.label_lines(slot, token.tags), tuple(lines))


def _show(
    knn_tagger: KnnTagger, setting: KnnParams, neighbourhood: Neighbourhood, chosen: dict[int, tuple[Token, ...]]
) -> tuple[ExplorerSentence, ...]:
    words = [(tuple(token.word for token in tokens), tuple(token.gold for token in tokens)) for tokens in chosen.values()]
    votes = _look_up(knn_tagger, setting, [Sentence(*columns, line=0) for columns in words])
    shown, first_slot = [], 0
    for number, tokens in chosen.items():
        changes = tuple(
            _change(votes, neighbourhood, first_slot + place, place, token)
            for place, token in enumerate(tokens)
            if token.kind
        )
        shown.append(ExplorerSentence(number, tokens, changes))
        first_slot += len(tokens)
    return tuple(shown)


def _round_robin(numbers_by_kind: Mapping[Kind, Sequence[int]], most: int) -> list[int]:
    """Numbers of sentences, in order: the next of each kind in turn until there are enough.

    One that has several kinds stands for all of them. The first sentences of a file may all be of one kind.
    """
    turns = itertools.chain.from_iterable(itertools.zip_longest(*numbers_by_kind.values()))
    return sorted(itertools.islice(dict.fromkeys(number for number in turns if number is not None), most))


def explore(
    knn_tagger: KnnTagger, setting: KnnParams, found: TaggedSentences, split: str, max_sentences: int = MAX_SENTENCES
) -> Explorer:
    """Looks up again, with all their neighbours, the words of sentences in which neighbours changed a tag.

    Args:
        knn_tagger: tagger and datastore.
        setting: that led to the tags.
        found: words and tags of a split.
        split: its name.
        max_sentences: how many sentences to show; the others are only counted.

    Raises:
        InputError: the corpus of the datastore is gone or changed, or the run labels pieces.
    """
    if knn_tagger.label_set.protocol != "words":
        raise InputError(f"protocol: expected a run with words, got {knn_tagger.label_set.protocol}, which labels pieces")
    with distributed.sync_errors():
        neighbourhood = Neighbourhood(knn_tagger)
    rows = zip(found.tokens, found.gold, found.tagger, found.knn, strict=True)
    sentences = [tuple(Token(*token) for token in zip(*row, strict=True)) for row in rows]
    words = Counter(token.kind for tokens in sentences for token in tokens if token.kind)
    changed = {number: tokens for number, tokens in enumerate(sentences, start=1) if any(token.kind for token in tokens)}
    by_kind: dict[Kind, list[int]] = {
        kind: [number for number, tokens in changed.items() if any(token.kind == kind for token in tokens)] for kind in KINDS
    }
    chosen = {number: changed[number] for number in _round_robin(by_kind, max_sentences)}
    shown = _show(knn_tagger, setting, neighbourhood, chosen) if chosen else ()
    counted: dict[Kind, int] = {kind: len(numbers) for kind, numbers in by_kind.items()}
    return Explorer(split, setting, shown, len(changed), counted, {kind: words[kind] for kind in KINDS})
