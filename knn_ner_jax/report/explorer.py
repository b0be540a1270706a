"""Sentences in which neighbours changed a tag, with the neighbours that voted: the explorer of an evaluation's page."""

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from knn_ner_jax import distributed, sharding
from knn_ner_jax.data.tag_schemes import OUTSIDE, Sentence, opening_insides, tag_type
from knn_ner_jax.entities import Neighbour
from knn_ner_jax.evaluation.predictions import NEAREST, TaggedSentences
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import Cache, KnnParams, MixedLabels, labels_by_vote
from knn_ner_jax.knn.examples import DatastoreText
from knn_ner_jax.knn.similarity import PADDING
from knn_ner_jax.knn.topk import Rows
from knn_ner_jax.knn_tagger import KnnTagger

MAX_SENTENCES = 200
OPENS = "*"  # after an I- that opens an entity; the legend of the page says so

Kind = Literal["fixed", "broken", "other"]
KINDS: tuple[Kind, ...] = ("fixed", "broken", "other")


@dataclass(frozen=True)
class Token:
    """A word of a sentence and its tags.

    Attributes:
        word: the word.
        gold: its gold tag.
        tagger: the tagger's.
        knn: that with neighbours.
        opens: of each of the three, whether it is an I- that opens an entity (`tag_schemes.shown_spans`).
    """

    word: str
    gold: str
    tagger: str
    knn: str
    opens: tuple[bool, bool, bool] = (False, False, False)

    @property
    def kind(self) -> Kind | None:
        """How neighbours changed the tag; `other`: wrong before and after; None: not at all."""
        if self.tagger == self.knn:
            return None
        return "fixed" if self.knn == self.gold else "broken" if self.tagger == self.gold else "other"

    @property
    def tags(self) -> tuple[str, str, str]:
        """Gold, the tagger's, and with neighbours."""
        return self.gold, self.tagger, self.knn

    @property
    def shown(self) -> tuple[str, ...]:
        """The tags, with a mark at each that opens an entity without a B-."""
        return tuple(f"{tag}{OPENS}" if opens else tag for tag, opens in zip(self.tags, self.opens, strict=True))


@dataclass(frozen=True)
class NeighbourLine:
    """A part of a vote: one neighbour, or all rows of a label that are not shown one by one.

    Attributes:
        label: the tag voted for.
        share: of the vote, in [0, 1]; those of a label's lines add up to its p_kNN.
        count: rows it stands for.
        near: the neighbour; None for rows that are not shown one by one.
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
        position: in the sentence.
        token: the word.
        labels: every label with a share of the vote, and the word's three tags; by falling probability.
        voters: the nearest neighbours one by one, nearest first, then the rest by label.
    """

    position: int
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
    """The sentences of a split that neighbours changed.

    Attributes:
        split: name of the split.
        knn_params: of the vote.
        sentences: those of the changed sentences that are shown, in their order; see `_round_robin`.
        num_changed: sentences with a change.
        sentences_by_kind: sentences of the whole split with a change of a kind; one may have several.
        words: changed words of the whole split, by kind.
    """

    split: str
    knn_params: KnnParams
    sentences: tuple[ExplorerSentence, ...]
    num_changed: int
    sentences_by_kind: dict[Kind, int]
    words: dict[Kind, int]

    def num_shown(self, kind: Kind) -> int:
        """Return how many of the sentences shown have a change of a kind."""
        return sum(any(change.token.kind == kind for change in shown.changes) for shown in self.sentences)

    @cached_property  # the template reads it for every change
    def types(self) -> tuple[str, ...]:
        """Entity types of all changes shown, sorted."""
        return tuple(sorted({type_ for shown in self.sentences for change in shown.changes for type_ in change.types}))


@dataclass(frozen=True)
class _Votes:
    """What the lines of a word are made of; rows are the changed words of the sentences that are shown."""

    cache: Cache
    knn_params: KnnParams
    mixed: MixedLabels
    rows_by_label: Int[np.ndarray, " labels"]
    names: tuple[str, ...]

    def split(self, word: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Split the vote of a word: shares of the nearest one by one, then share and number of the other rows by label."""
        assert self.cache.neighbour_labels is not None
        if self.knn_params.k == "all":
            return self._split_all(word, self.cache.neighbour_labels[word, :NEAREST])
        labels = self.cache.neighbour_labels[word, : self.knn_params.k]
        weights = self._relative_weights(word, self.knn_params.k)
        weights /= weights.sum()
        others, num_labels = labels[NEAREST:], len(self.names)
        return weights[:NEAREST], np.bincount(others, weights[NEAREST:], num_labels), np.bincount(others, None, num_labels)

    def _split_all(self, word: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.cache.top1_prob is not None
        p_knn = self.mixed.p_knn[word].astype(np.float64)
        shares = self._relative_weights(word, NEAREST) * float(self.cache.top1_prob[0, word, 0])
        counts = self.rows_by_label - np.bincount(labels, None, len(self.names))
        shown = np.bincount(labels, shares, len(self.names))
        # Rounded similarities, divided by a small temperature, are no longer those that the vote added up: where that shows,
        # the sum is right.
        due = np.where(counts > 0, np.minimum(shown, p_knn), p_knn)
        return shares * (due / np.where(shown > 0, shown, 1.0))[labels], p_knn - due, counts

    def _relative_weights(self, word: int, count: int) -> Float[np.ndarray, " count"]:
        """Weights of the nearest rows in the vote, that of the first being 1."""
        assert self.cache.similarities is not None
        similarities = self.cache.similarities[word, :count].astype(np.float64)
        return np.exp((similarities - similarities[0]) / np.float32(self.knn_params.temperature))

    def label_lines(self, word: int, tags: tuple[str, ...]) -> tuple[LabelLine, ...]:
        """Return the probabilities of every label with a share of the vote, and of the word's tags."""
        p_ner, p_knn, p = (probs[word] for probs in (self.mixed.p_ner, self.mixed.p_knn, self.mixed.p))
        lines = [
            LabelLine(name, float(p_ner[label]), float(p_knn[label]), float(p[label]))
            for label, name in enumerate(self.names)
            if p_knn[label] > 0 or name in tags
        ]
        unknown = [LabelLine(tag, 0.0, 0.0, 0.0) for tag in dict.fromkeys(tags) if tag not in self.names]
        return tuple(sorted(lines, key=lambda line: -line.p) + unknown)


def _count_rows(rows: Rows, num_labels: int) -> Int[Array, " labels"]:
    labels = jnp.where(rows.squared_norms == PADDING, num_labels, rows.values)
    return jnp.bincount(labels, length=num_labels + 1)[:num_labels]


def _look_up(
    knn_tagger: KnnTagger, knn_params: KnnParams, sentences: Sequence[Sequence[Token]], shown: Collection[int]
) -> _Votes:
    label_set = knn_tagger.label_set
    texts = [Sentence(tuple(token.word for token in each), (OUTSIDE,) * len(each), line=0) for each in sentences]
    numbered = enumerate(sentences, start=1)
    is_wanted = np.array([bool(token.kind) and number in shown for number, each in numbered for token in each])
    # One compiled program serves every selection of a split.
    words, num_neighbours = knn_tagger.encode(texts).select(is_wanted), NEAREST if knn_params.k == "all" else 0
    cache = knn_tagger.retrieve_for(words, knn_params, num_neighbours, with_ids=True)
    count = jax.jit(_count_rows, static_argnames="num_labels", out_shardings=sharding.replicated(knn_tagger.mesh))
    rows_by_label = np.asarray(count(knn_tagger.stored.datastore.rows, num_labels=len(label_set)))
    return _Votes(cache, knn_params, labels_by_vote(cache, knn_tagger.fit(knn_params)), rows_by_label, label_set.names)


def _change(votes: _Votes, source: DatastoreText, word: int, position: int, token: Token) -> Change:
    shares, rest, counts = votes.split(word)
    neighbours = source.neighbours(votes.cache, word, len(shares))
    lines = [NeighbourLine(near.label, float(share), 1, near) for near, share in zip(neighbours, shares, strict=True)]
    others = [
        NeighbourLine(name, float(share), int(count), None)
        for name, share, count in zip(votes.names, rest, counts, strict=True)
        if count
    ]
    lines += sorted(others, key=lambda line: -line.share)
    return Change(position, token, votes.label_lines(word, token.tags), tuple(lines))


def _explain(votes: _Votes, source: DatastoreText, sentences: dict[int, tuple[Token, ...]]) -> tuple[ExplorerSentence, ...]:
    word, explained = itertools.count(), []
    for number, tokens in sentences.items():
        changed = [(position, token) for position, token in enumerate(tokens) if token.kind]
        changes = tuple(_change(votes, source, next(word), position, token) for position, token in changed)
        explained.append(ExplorerSentence(number, tokens, changes))
    return tuple(explained)


def _tokens(words: Sequence[str], *tags: Sequence[str]) -> tuple[Token, ...]:
    opens = zip(*map(opening_insides, tags), strict=True)
    return tuple(Token(*token) for token in zip(words, *tags, opens, strict=True))


def _round_robin(numbers_by_kind: Mapping[Kind, Sequence[int]], most: int) -> list[int]:
    """Return numbers of sentences, in order: the next of each kind in turn until there are enough.

    One that has several kinds stands for all of them. The first sentences of a file may all be of one kind.
    """
    turns = itertools.chain.from_iterable(itertools.zip_longest(*numbers_by_kind.values()))
    return sorted(itertools.islice(dict.fromkeys(number for number in turns if number is not None), most))


def explore(
    knn_tagger: KnnTagger, knn_params: KnnParams, tagged: TaggedSentences, split: str, max_sentences: int = MAX_SENTENCES
) -> Explorer:
    """Search again, with all their neighbours, for the words of sentences in which neighbours changed a tag.

    Args:
        knn_tagger: tagger and datastore.
        knn_params: that led to the tags.
        tagged: words and tags of a split.
        split: its name.
        max_sentences: how many sentences to show; the others are only counted.

    Raises:
        InputError: the run labels pieces, or the file of the datastore's sentences is damaged.
    """
    if knn_tagger.label_set.protocol != "words":
        raise InputError(f"protocol: expected a run with words, got {knn_tagger.label_set.protocol}, which labels pieces")
    with distributed.sync_errors():  # later, one host would wait in vain for another
        knn_tagger.stored.sentences.verify()
    rows = zip(tagged.tokens, tagged.gold, tagged.tagger, tagged.knn, strict=True)
    sentences = [_tokens(*row) for row in rows]
    words = Counter(token.kind for tokens in sentences for token in tokens if token.kind)
    changed = {number: tokens for number, tokens in enumerate(sentences, start=1) if any(token.kind for token in tokens)}
    by_kind: dict[Kind, list[int]] = {
        kind: [number for number, tokens in changed.items() if any(token.kind == kind for token in tokens)] for kind in KINDS
    }
    shown = {number: changed[number] for number in _round_robin(by_kind, max_sentences)}
    explained = (
        _explain(_look_up(knn_tagger, knn_params, sentences, shown), knn_tagger.datastore_text, shown) if shown else ()
    )
    counts: dict[Kind, int] = {kind: len(numbers) for kind, numbers in by_kind.items()}
    return Explorer(split, knn_params, explained, len(changed), counts, {kind: words[kind] for kind in KINDS})
