"""Where kNN-NER helps: strict scores by group of entities, and what became of each word and entity.

Every entity, in the gold or predicted, has a type, a surface (its words, case kept), a length, and a confidence of the
tagger. So each is in one group of every kind, and precision, recall and F1 of a group are those of its entities alone: the
counts of all groups of a kind add up to those of the whole.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from knn_ner_jax import metrics
from knn_ner_jax.ablation.analysis import ConditionResult, TestResult
from knn_ner_jax.ablation.statistics import Spread
from knn_ner_jax.ablation.store import Corpora, Results, Row, plain_values
from knn_ner_jax.ablation.study import Cell, describe
from knn_ner_jax.data.tag_schemes import Sentence, Span, strict_spans
from knn_ner_jax.evaluation.predictions import METHODS, Predictions
from knn_ner_jax.io import InputError
from knn_ner_jax.report.document import Table

TYPE, OCCURRENCES, LENGTH, CONFIDENCE = "type", "occurrences in train", "length in words", "tagger's confidence"
# Name of a group -> the least value in it.
BINS: dict[str, dict[str, float]] = {
    OCCURRENCES: {"0": 0, "1": 1, "2-5": 2, "6+": 6},
    LENGTH: {"1": 1, "2": 2, "3": 3, "4+": 4},
    CONFIDENCE: {"below 0.5": 0.0, "0.5-0.7": 0.5, "0.7-0.9": 0.7, "0.9-0.99": 0.9, "0.99-1": 0.99},
}
FIXED, BROKEN, OTHER_ERROR, UNCHANGED = "fixed", "broken", "another error", "unchanged"

GroupOf = Callable[[Span], str]


@dataclass(frozen=True)
class GroupScores:
    """Scores of one system on a group, in percent; 0 where nothing was predicted or the gold has nothing, as in seqeval.

    A seed for which a group is empty, neither in the gold nor predicted by either system, has none.

    Attributes:
        predicted: entities.
    """

    predicted: Spread
    precision: Spread
    recall: Spread
    f1: Spread


@dataclass(frozen=True)
class Group:
    """Both systems on a group of entities.

    Attributes:
        kind: `type` or a key of `BINS`.
        name: a type, or a bin.
        gold: entities; the same for all seeds in groups by type and by length.
        gain: F1 of kNN-NER less that of the tagger, in points.
    """

    kind: str
    name: str
    gold: Spread
    tagger: GroupScores
    knn: GroupScores
    gain: Spread


@dataclass(frozen=True)
class WordChange:
    """The words whose tags changed in one way, and what the neighbours voted for.

    Attributes:
        change: `fixed` (the tagger is wrong, kNN-NER right), `broken` (the reverse), `another error`, or `unchanged`.
        words: how many.
        vote_is_taggers: percent of them for which the neighbours alone would give the tagger's label.
        agreement: mean p_kNN of the label that the neighbours alone would give, in percent.
    """

    change: str
    words: Spread
    vote_is_taggers: Spread
    agreement: Spread


@dataclass(frozen=True)
class EntityChanges:
    """How many entities only one of the systems predicts.

    Attributes:
        fixed: gold entities that only kNN-NER predicts.
        broken: gold entities that only the tagger predicts.
        spurious_gone: wrong entities that only the tagger predicts.
        spurious_new: wrong entities that only kNN-NER predicts.
    """

    fixed: Spread
    broken: Spread
    spurious_gone: Spread
    spurious_new: Spread


@dataclass(frozen=True)
class PredictionDiff:
    """How kNN-NER's predictions of a split differ from the tagger's, averaged over seeds."""

    groups: tuple[Group, ...]
    words: tuple[WordChange, ...]
    entities: EntityChanges


@dataclass(frozen=True)
class _Entities:
    """Strict spans of one seed; positions count words from the start of the split."""

    gold: set[Span]
    tagger: set[Span]
    knn: set[Span]


def _entities(tags_by_sentence: Sequence[Sequence[str]]) -> set[Span]:
    spans: set[Span] = set()
    first = 0
    for tags in tags_by_sentence:
        spans.update(Span(type_, first + start, first + end) for type_, start, end in strict_spans(tags, "BIO"))
        first += len(tags)
    return spans


def count_occurrences(surfaces: Iterable[tuple[str, ...]], sentences: Sequence[Sentence]) -> Mapping[tuple[str, ...], int]:
    """Count how often each word sequence occurs in the text of sentences, whatever its tags there.

    Args:
        surfaces: none empty.
        sentences: where to look; no sequence goes beyond a sentence.

    >>> sentences = [Sentence(("New", "York", "New", "York"), ("O",) * 4, 1)]
    >>> dict(count_occurrences([("New", "York")], sentences))
    {('New', 'York'): 2}
    """
    lengths: dict[str, set[int]] = defaultdict(set)
    distinct = set(surfaces)
    for surface in distinct:
        lengths[surface[0]].add(len(surface))
    counts: Counter[tuple[str, ...]] = Counter()
    for words, *_ in sentences:
        for start, word in enumerate(words):
            # A set, because near the end of a sentence slices of several lengths are the same.
            counts.update({words[start : start + length] for length in lengths.get(word, ())} & distinct)
    return counts


def _bin(kind: str, value: float) -> str:
    return [name for name, least in BINS[kind].items() if least <= value][-1]


def _group_of(
    words: Sequence[str], counts: Mapping[tuple[str, ...], int], confidence: Float[np.ndarray, " words"]
) -> dict[str, GroupOf]:
    """Return functions that give the group of an entity, one for each kind of groups."""
    return {
        TYPE: lambda span: span.type,
        OCCURRENCES: lambda span: _bin(OCCURRENCES, counts[tuple(words[span.start : span.end])]),
        LENGTH: lambda span: _bin(LENGTH, span.end - span.start),
        CONFIDENCE: lambda span: _bin(CONFIDENCE, confidence[span.start : span.end].min()),
    }


def _counts(entities: _Entities, group_of: GroupOf, names: Sequence[str]) -> Int[np.ndarray, "systems groups 3"]:
    """Count true positives, predicted and gold entities by group."""

    def by_group(spans: Iterable[Span]) -> list[int]:
        counted = Counter(map(group_of, spans))
        return [counted[name] for name in names]

    gold = by_group(entities.gold)
    systems = (entities.tagger, entities.knn)
    return np.array([[by_group(spans & entities.gold), by_group(spans), gold] for spans in systems]).swapaxes(1, 2)


def _groups(kind: str, names: Sequence[str], counts: Int[np.ndarray, "seeds systems groups 3"]) -> list[Group]:
    is_empty = (counts[..., 1:] == 0).all(axis=(1, 3))[:, None]
    scores = [
        np.where(is_empty, np.nan, np.asarray(score, float))
        for score in metrics.precision_recall_f1(*np.moveaxis(counts, -1, 0))
    ]
    groups = []
    for number, name in enumerate(names):
        tagger, knn = (
            GroupScores(Spread.of(counts[:, system, number, 1]), *(Spread.of(score[:, system, number]) for score in scores))
            for system in (0, 1)
        )
        gain = Spread.of(scores[2][:, 1, number] - scores[2][:, 0, number])
        groups.append(Group(kind, name, Spread.of(counts[:, 0, number, 2]), tagger, knn, gain))
    return groups


def _changes(labels: Predictions) -> dict[str, Bool[np.ndarray, " words"]]:
    """Return the words of each change."""
    was_right, is_right = labels.tagger == labels.gold, labels.knn == labels.gold
    is_changed = labels.tagger != labels.knn
    return {
        FIXED: ~was_right & is_right,
        BROKEN: was_right & ~is_right,
        OTHER_ERROR: is_changed & ~was_right & ~is_right,
        UNCHANGED: ~is_changed,
    }


def _word_changes(labels_of_seeds: Sequence[Predictions]) -> tuple[WordChange, ...]:
    by_seed = [(labels, _changes(labels)) for labels in labels_of_seeds]

    def percent(values: np.ndarray) -> float:
        return metrics.PERCENT * float(values.mean()) if len(values) else float("nan")

    def row(change: str) -> WordChange:
        return WordChange(
            change,
            Spread.of(where[change].sum() for _, where in by_seed),
            Spread.of(percent((labels.voted == labels.tagger)[where[change]]) for labels, where in by_seed),
            Spread.of(percent(labels.agreement[where[change]]) for labels, where in by_seed),
        )

    return tuple(map(row, (FIXED, BROKEN, OTHER_ERROR, UNCHANGED)))


def _entity_changes(by_seed: Sequence[_Entities]) -> EntityChanges:
    return EntityChanges(
        fixed=Spread.of(len(seed.gold & seed.knn - seed.tagger) for seed in by_seed),
        broken=Spread.of(len(seed.gold & seed.tagger - seed.knn) for seed in by_seed),
        spurious_gone=Spread.of(len(seed.tagger - seed.gold - seed.knn) for seed in by_seed),
        spurious_new=Spread.of(len(seed.knn - seed.gold - seed.tagger) for seed in by_seed),
    )


def _check_sentences(sentences: Sequence[Sentence], labels_of_seeds: Sequence[Predictions]) -> None:
    if not labels_of_seeds:
        raise InputError("predictions: expected those of one seed or more, got none")
    gold = [list(sentence.tags) for sentence in sentences]
    for number, labels in enumerate(labels_of_seeds):
        if labels.tags(labels.gold) != gold:
            raise InputError(f"predictions[{number}]: expected the words and gold tags of the sentences, got others")


def diff_predictions(
    sentences: Sequence[Sentence], labels_of_seeds: Sequence[Predictions], trains: Sequence[Sequence[Sentence]]
) -> PredictionDiff:
    """Score both systems by group and count changes, for predictions of words (not for the pieces of wang2022).

    Args:
        sentences: of a split, in order.
        labels_of_seeds: of that split, for each seed.
        trains: for each seed the sentences in which surfaces are counted, those that its tagger was trained on.

    Returns:
        Groups by type (those that are in the gold or were predicted), by occurrences of the surface in train, by length in
        words, and by the least of the tagger's confidences in an entity's words; empty bins included.

    Raises:
        InputError: no seed, predictions of other sentences, or not as many `trains` as seeds.
    """
    _check_sentences(sentences, labels_of_seeds)
    if len(trains) != len(labels_of_seeds):
        raise InputError(f"trains: expected one for each of {len(labels_of_seeds)} seeds, got {len(trains)}")
    words = [word for sentence in sentences for word in sentence.words]
    gold = _entities([sentence.tags for sentence in sentences])
    by_seed = [
        _Entities(gold, *(_entities(labels.tags(ids)) for ids in (labels.tagger, labels.knn))) for labels in labels_of_seeds
    ]
    spans = gold.union(*(seed.tagger | seed.knn for seed in by_seed))
    surfaces = {tuple(words[span.start : span.end]) for span in spans}
    names = {TYPE: sorted({span.type for span in spans}), **{kind: list(bins) for kind, bins in BINS.items()}}
    group_of = [
        _group_of(words, count_occurrences(surfaces, train), labels.confidence)
        for labels, train in zip(labels_of_seeds, trains, strict=True)
    ]
    groups: list[Group] = []
    for kind, of_kind in names.items():
        counts = [_counts(entities, of[kind], of_kind) for entities, of in zip(by_seed, group_of, strict=True)]
        groups += _groups(kind, of_kind, np.stack(counts))
    return PredictionDiff(tuple(groups), _word_changes(labels_of_seeds), _entity_changes(by_seed))


@dataclass(frozen=True)
class Breakdown:
    """Where kNN-NER helps on test, for one candidate under one condition.

    Attributes:
        condition: the condition's results.
        result: the candidate's.
        diff: of test, over seeds.
    """

    condition: ConditionResult
    result: TestResult
    diff: PredictionDiff


def break_down(results: Results, conditions: Sequence[ConditionResult], corpora: Corpora) -> list[Breakdown]:
    """Break down everything that has been tested, in order: the last is what dev selected for the last condition.

    Occurrences in train are those in the sentences that each seed draws.
    """
    return [Breakdown(one, result, _diff_cells(results, result.cells, corpora)) for one in conditions for result in one.test]


def _diff_cells(results: Results, cells: Sequence[Cell], corpora: Corpora) -> PredictionDiff:
    labels, trains = [results.predictions(cell, "test") for cell in cells], []
    for cell in cells:
        data = cell.config.data
        drawn = corpora.of(cell.config).draw(data.train_fraction, data.dev_fraction, cell.config.seed)
        trains.append(drawn.train.sentences)
    return diff_predictions(corpora.of(cells[0].config).test.sentences, labels, trains)


def describe_breakdown(breakdown: Breakdown) -> tuple[str, ...]:
    """Return what the tables are of, and what they do not show."""
    what = f"{describe(breakdown.condition.condition)}; {describe(breakdown.result.candidate)}; test, means over seeds."
    doubt = "Entities of a group may be few. Occurrences are counted in the sentences of train that each seed draws."
    if len(breakdown.result.cells) > 1:
        doubt = f"± is the standard deviation between seeds, which says nothing of other sentences. {doubt}"
    return what, doubt


def breakdown_tables(diff: PredictionDiff) -> tuple[Table, ...]:
    """Return all tables of a breakdown."""
    tagger, knn = METHODS.values()
    header = ["group", "entities", f"{tagger} F1", f"{knn} F1", "difference"]
    tables = []
    for kind in dict.fromkeys(group.kind for group in diff.groups):
        groups = [group for group in diff.groups if group.kind == kind]
        digits = 0 if all(group.gold.mean.is_integer() for group in groups) else 1
        rows = [
            [
                *(group.name, _number(group.gold, digits), _number(group.tagger.f1), _number(group.knn.f1)),
                describe_difference(group.gain),
            ]
            for group in groups
        ]
        tables.append(Table.of(header, rows, 1, f"By {kind}"))
    words = [[one.change, _number(one.words), _number(one.vote_is_taggers), _number(one.agreement)] for one in diff.words]
    columns = ["words", "number", "vote is the tagger's, %", "mean share of the voted tag, %"]
    tables.append(Table.of(columns, words, 1, "What became of the tagger's tags"))
    changes = [[name.replace("_", " "), _number(getattr(diff.entities, name))] for name in vars(diff.entities)]
    tables.append(Table.of(["entities", "number"], changes, 1, "Entities that only one of the two predicts"))
    return tuple(tables)


def _number(spread: Spread, digits: int = 1) -> str:
    return f"{spread.mean:,.{digits}f}" if spread.seeds else "–"


def describe_difference(spread: Spread) -> str:
    """Return a difference with its standard deviation.

    >>> describe_difference(Spread(1.2, 0.3, 3))
    '+1.2 ± 0.3'
    """
    std = f" ± {spread.std:.1f}" if spread.seeds > 1 else ""
    return f"{spread.mean:+.1f}{std}" if spread.seeds else "–"


def breakdown_rows(breakdowns: Iterable[Breakdown]) -> Iterator[Row]:
    """Yield tidy rows of all breakdowns; numbers, and F1 in percent, are means over seeds.

    A row is of a group of entities, of words that changed in one way, or of entities that only one system predicts.
    """
    for one in breakdowns:
        varied = plain_values(one.condition.condition | one.result.candidate)
        for group in one.diff.groups:
            systems = {"tagger_f1": group.tagger.f1, "knn_f1": group.knn.f1, "gain": group.gain}
            yield varied | {"kind": group.kind, "group": group.name} | _means({"number": group.gold} | systems)
        for word in one.diff.words:
            spreads = {"number": word.words, "vote_is_taggers": word.vote_is_taggers, "agreement": word.agreement}
            yield varied | {"kind": "words", "group": word.change} | _means(spreads)
        for name, number in vars(one.diff.entities).items():
            yield varied | {"kind": "entities of one system", "group": name} | _means({"number": number})


def _means(spreads: dict[str, Spread]) -> Row:
    """Return means, None where no seed has a value, and standard deviations, None where fewer than two have."""
    means = {name: spread.mean if spread.seeds else None for name, spread in spreads.items()}
    return means | {f"{name}_std": spread.std if spread.seeds > 1 else None for name, spread in spreads.items()}
