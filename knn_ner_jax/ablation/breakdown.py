"""Where kNN-NER helps: strict scores by group of entities, and what became of each word and entity.

Every entity, in the gold or predicted, has a type, a surface (its words, case kept), a length, and a confidence of the
tagger. So each falls in one group of every kind, and precision, recall and F1 of a group are those of its entities alone:
the counts of all groups of a kind add up to those of the whole.

What was tested in a study, looked at closely: where neighbours help, and sentences that they changed.

Tables of where neighbours help: by group of entities, and what became of words and entities.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from knn_ner_jax import metrics
from knn_ner_jax.ablation.analysis import ConditionResult, TestResult, in_words
from knn_ner_jax.ablation.run import delete_datastore, open_cell
from knn_ner_jax.ablation.statistics import Spread
from knn_ner_jax.ablation.store import Results
from knn_ner_jax.ablation.study import Cell, Corpora
from knn_ner_jax.config import Config
from knn_ner_jax.data.tag_schemes import Sentence, Span, strict_spans
from knn_ner_jax.evaluation.predictions import Predictions, TaggedSentences
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import KnnParams
from knn_ner_jax.report.explorer import Explorer, explore

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
    """Scores of one system on a group, in percent; 0 where nothing was predicted or nothing was there, as in seqeval.

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
    """The words of which the same became, and what the neighbours said of them.

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
    """How many entities only one of the systems found.

    Attributes:
        fixed: gold entities that only kNN-NER finds.
        broken: gold entities that only the tagger finds.
        spurious_gone: wrong entities that only the tagger predicts.
        spurious_new: wrong entities that only kNN-NER predicts.
    """

    fixed: Spread
    broken: Spread
    spurious_gone: Spread
    spurious_new: Spread


@dataclass(frozen=True)
class Breakdown:
    """What tables and plots of one split are made of, averaged over seeds."""

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
    found: set[Span] = set()
    first = 0
    for tags in tags_by_sentence:
        found.update(Span(type_, first + start, first + end) for type_, start, end in strict_spans(tags, "BIO"))
        first += len(tags)
    return found


def occurrences(surfaces: Iterable[tuple[str, ...]], sentences: Sequence[Sentence]) -> Mapping[tuple[str, ...], int]:
    """How often each word sequence occurs in the text of sentences, whatever its tags there.

    Args:
        surfaces: none empty.
        sentences: where to look; no sequence goes beyond a sentence.
    """
    lengths: dict[str, set[int]] = defaultdict(set)
    wanted = set(surfaces)
    for surface in wanted:
        lengths[surface[0]].add(len(surface))
    counts: Counter[tuple[str, ...]] = Counter()
    for words, *_ in sentences:
        for start, word in enumerate(words):
            # A set, because near the end of a sentence slices of several lengths are the same.
            counts.update({words[start : start + length] for length in lengths.get(word, ())} & wanted)
    return counts


def _bin(kind: str, value: float) -> str:
    return [name for name, least in BINS[kind].items() if least <= value][-1]


def _group_of(
    words: Sequence[str], seen: Mapping[tuple[str, ...], int], confidence: Float[np.ndarray, " words"]
) -> dict[str, GroupOf]:
    """How to tell the group of an entity, for each kind of groups."""
    return {
        TYPE: lambda span: span.type,
        OCCURRENCES: lambda span: _bin(OCCURRENCES, seen[tuple(words[span.start : span.end])]),
        LENGTH: lambda span: _bin(LENGTH, span.end - span.start),
        CONFIDENCE: lambda span: _bin(CONFIDENCE, confidence[span.start : span.end].min()),
    }


def _counts(entities: _Entities, group_of: GroupOf, names: Sequence[str]) -> Int[np.ndarray, "systems groups 3"]:
    """Entities found rightly, predicted and in the gold, by group."""

    def by_group(spans: Iterable[Span]) -> list[int]:
        counted = Counter(map(group_of, spans))
        return [counted[name] for name in names]

    gold = by_group(entities.gold)
    systems = (entities.tagger, entities.knn)
    return np.array([[by_group(found & entities.gold), by_group(found), gold] for found in systems]).swapaxes(1, 2)


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


def _changes(outcome: Predictions) -> dict[str, Bool[np.ndarray, " words"]]:
    """Which words each change befell."""
    was_right, is_right = outcome.tagger == outcome.gold, outcome.knn == outcome.gold
    changed = outcome.tagger != outcome.knn
    return {
        FIXED: ~was_right & is_right,
        BROKEN: was_right & ~is_right,
        OTHER_ERROR: changed & ~was_right & ~is_right,
        UNCHANGED: ~changed,
    }


def _word_changes(outcomes: Sequence[Predictions]) -> tuple[WordChange, ...]:
    by_seed = [(outcome, _changes(outcome)) for outcome in outcomes]

    def percent(values: np.ndarray) -> float:
        return metrics.PERCENT * float(values.mean()) if len(values) else float("nan")

    def row(change: str) -> WordChange:
        return WordChange(
            change,
            Spread.of(where[change].sum() for _, where in by_seed),
            Spread.of(percent((outcome.voted == outcome.tagger)[where[change]]) for outcome, where in by_seed),
            Spread.of(percent(outcome.agreement[where[change]]) for outcome, where in by_seed),
        )

    return tuple(map(row, (FIXED, BROKEN, OTHER_ERROR, UNCHANGED)))


def _entity_changes(by_seed: Sequence[_Entities]) -> EntityChanges:
    return EntityChanges(
        fixed=Spread.of(len(seed.gold & seed.knn - seed.tagger) for seed in by_seed),
        broken=Spread.of(len(seed.gold & seed.tagger - seed.knn) for seed in by_seed),
        spurious_gone=Spread.of(len(seed.tagger - seed.gold - seed.knn) for seed in by_seed),
        spurious_new=Spread.of(len(seed.knn - seed.gold - seed.tagger) for seed in by_seed),
    )


def _refuse_another_split(sentences: Sequence[Sentence], outcomes: Sequence[Predictions]) -> None:
    if not outcomes:
        raise InputError("outcomes: expected one for each seed, got none")
    gold = [list(sentence.tags) for sentence in sentences]
    for number, outcome in enumerate(outcomes):
        if outcome.tags(outcome.gold) != gold:
            raise InputError(f"outcomes[{number}]: expected the words and gold tags of the sentences given, got others")


def break_down(
    sentences: Sequence[Sentence], outcomes: Sequence[Predictions], trains: Sequence[Sequence[Sentence]]
) -> Breakdown:
    """Scores by group and counts of changes, for scores of words (not for the pieces of wang2022).

    Args:
        sentences: of a split, in order.
        outcomes: of that split, one for each seed.
        trains: for each outcome the sentences in whose text surfaces are counted, those that its tagger was trained on.

    Returns:
        Groups by type (those that are in the gold or were predicted), by occurrences of the surface in train, by length in
        words, and by the least of the tagger's confidences in an entity's words. A bin is there even if it is empty.

    Raises:
        InputError: no outcome, one of other sentences, or not as many `trains`.
    """
    _refuse_another_split(sentences, outcomes)
    if len(trains) != len(outcomes):
        raise InputError(f"trains: expected one for each of {len(outcomes)} outcomes, got {len(trains)}")
    words = [word for sentence in sentences for word in sentence.words]
    gold = _entities([sentence.tags for sentence in sentences])
    by_seed = [
        _Entities(gold, *(_entities(outcome.tags(ids)) for ids in (outcome.tagger, outcome.knn))) for outcome in outcomes
    ]
    everything = gold.union(*(seed.tagger | seed.knn for seed in by_seed))
    surfaces = {tuple(words[span.start : span.end]) for span in everything}
    names = {TYPE: sorted({span.type for span in everything}), **{kind: list(bins) for kind, bins in BINS.items()}}
    group_of = [
        _group_of(words, occurrences(surfaces, train), outcome.confidence)
        for outcome, train in zip(outcomes, trains, strict=True)
    ]
    groups: list[Group] = []
    for kind, of_kind in names.items():
        counts = [_counts(entities, of[kind], of_kind) for entities, of in zip(by_seed, group_of, strict=True)]
        groups += _groups(kind, of_kind, np.stack(counts))
    return Breakdown(tuple(groups), _word_changes(outcomes), _entity_changes(by_seed))


@dataclass(frozen=True)
class Focus:
    """One configuration that is looked at closely.

    Attributes:
        finding: of its condition.
        tested: its choice.
        breakdown: of test, over seeds.
        explorer: of test, with the first seed, or None.
        why_no_explorer: where there is none.
    """

    finding: ConditionResult
    tested: TestResult
    breakdown: Breakdown
    explorer: Explorer | None = None
    why_no_explorer: str = ""


def look_closely(results: Results, findings: Sequence[ConditionResult], corpora: Corpora) -> list[Focus]:
    """Every configuration that has been tested, in order: the last is what dev chose for the last condition.

    Occurrences in train are those in the sentences that each seed draws.
    """
    return [
        Focus(finding, tested, _break_down_cells(results, tested.cells, corpora))
        for finding in findings
        for tested in finding.tested
    ]


def _break_down_cells(results: Results, cells: Sequence[Cell], corpora: Corpora) -> Breakdown:
    outcomes = [results.outcome(cell, "test") for cell in cells]
    trains = [_trained_on(cell.config, corpora) for cell in cells]
    return break_down(corpora.of(cells[0].config).test.sentences, outcomes, trains)


def add_sentences(focus: Focus, results: Results, corpora: Corpora) -> Focus:
    """Looks up sentences again: builds the datastore of the first seed, and deletes it unless datastores are kept."""
    explorer, why_not = _explore(results, focus.tested.cells[0], corpora)
    return replace(focus, explorer=explorer, why_no_explorer=why_not)


def _trained_on(config: Config, corpora: Corpora) -> Sequence[Sentence]:
    return corpora.of(config).draw(config.data.train_fraction, config.data.dev_fraction, config.seed).train.sentences


def _explore(results: Results, cell: Cell, corpora: Corpora) -> tuple[Explorer | None, str]:
    """The explorer of a cell, or why there is none."""
    found = TaggedSentences.of(corpora.of(cell.config).test, results.outcome(cell, "test"))
    setting = KnnParams(**results.read(cell, "test")["selected"])
    try:
        return explore(open_cell(cell, corpora).knn_tagger, setting, found, "test"), ""
    except InputError as error:  # the numbers stand without, even where the tagger they are of is gone
        return None, str(error)
    finally:
        if not results.study.config.ablation.keep_datastores:
            delete_datastore(cell)


GROUP_HEADER = ["group", "entities", "tagger F1", "kNN-NER F1", "difference"]


class Titled(NamedTuple):
    """A table; its first column holds words."""

    title: str
    header: list[str]
    rows: list[list[str]]


def breakdown_caption(focus: Focus) -> tuple[str, ...]:
    """What the tables are of, and what they do not show."""
    of = f"{in_words(focus.finding.condition)}; {in_words(focus.tested.choice)}; test, means over seeds."
    doubt = "Entities of a group may be few. Occurrences are counted in the sentences of train that each seed draws."
    if len(focus.tested.cells) > 1:
        doubt = f"± is the standard deviation between seeds, which says nothing of other sentences. {doubt}"
    return of, doubt


def breakdown_tables(found: Breakdown) -> list[Titled]:
    """All tables of a breakdown."""
    listed = []
    for kind in dict.fromkeys(group.kind for group in found.groups):
        groups = [group for group in found.groups if group.kind == kind]
        digits = 0 if all(group.gold.mean.is_integer() for group in groups) else 1
        rows = [
            [
                *(group.name, _number(group.gold, digits)),
                *(_number(group.tagger.f1), _number(group.knn.f1), difference(group.gain)),
            ]
            for group in groups
        ]
        listed.append(Titled(f"By {kind}", GROUP_HEADER, rows))
    words = [[one.change, _number(one.words), _number(one.vote_is_taggers), _number(one.agreement)] for one in found.words]
    columns = ["words", "number", "vote is the tagger's, %", "mean share of the voted tag, %"]
    changes = [[name.replace("_", " "), _number(getattr(found.entities, name))] for name in vars(found.entities)]
    return [
        *listed,
        Titled("What became of the tagger's tags", columns, words),
        Titled("Entities that only one of the two finds", ["entities", "number"], changes),
    ]


def _number(spread: Spread, digits: int = 1) -> str:
    return f"{spread.mean:,.{digits}f}" if spread.seeds else "–"


def difference(spread: Spread) -> str:
    """`+1.2 ± 0.3`."""
    std = f" ± {spread.std:.1f}" if spread.seeds > 1 else ""
    return f"{spread.mean:+.1f}{std}" if spread.seeds else "–"
