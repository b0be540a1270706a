"""Entity scores: counts of spans on device while training and tuning, seqeval for every score that is reported.

The counts follow seqeval's `mode="strict", scheme=IOB2`; under `protocol: wang2022` both follow the rules of that paper.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from knn_ner_jax.data.tag_schemes import OUTSIDE, scored_spans, tag_type, wang2022_spans

Scores = dict[str, float]
Report = dict[str, float | dict[str, Scores]]
PERCENT = 100.0


class _Spans(NamedTuple):
    """Where spans begin, the type at each position (-1 outside), and where a span that begins there ends (exclusive)."""

    begins: Bool[Array, "batch length"]
    types: Int[Array, "batch length"]
    ends: Int[Array, "batch length"]


def types_of(labels: Sequence[str]) -> list[str]:
    """Return the entity types in the order in which `labels` first names them.

    >>> types_of(["O", "B-PER", "I-PER", "B-LOC"])
    ['PER', 'LOC']
    """
    return list(dict.fromkeys(tag_type(label) for label in labels if label != OUTSIDE))


def _types_at(label_ids: Array, mask: Array, labels: Sequence[str]) -> tuple[Array, Array]:
    """Return the number of the type at each position and at the one before it, -1 where there is none."""
    types = types_of(labels)
    type_of = np.array([-1 if label == OUTSIDE else types.index(tag_type(label)) for label in labels], np.int32)
    at = jnp.where(mask, jnp.asarray(type_of)[label_ids], -1)
    return at, jnp.pad(at, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]


def _has_prefix(prefix: str, label_ids: Array, mask: Array, labels: Sequence[str]) -> Array:
    return mask & jnp.asarray(np.array([label.startswith(f"{prefix}-") for label in labels]))[label_ids]


def _next_stop(continues: Bool[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Return for each position the first one after it that does not continue; the length where there is none."""
    length = continues.shape[1]
    stops = jnp.where(continues, length, jnp.arange(length)[None, :])
    following = lax.cummin(stops, axis=1, reverse=True)
    return jnp.pad(following, ((0, 0), (0, 1)), constant_values=length)[:, 1:]


def _strict_iob2(label_ids: Array, mask: Array, labels: Sequence[str]) -> _Spans:
    types, before = _types_at(label_ids, mask, labels)
    begins = _has_prefix("B", label_ids, mask, labels)
    return _Spans(begins, types, _next_stop((types >= 0) & ~begins & (types == before)))


def _wang2022(label_ids: Array, mask: Array, labels: Sequence[str]) -> _Spans:
    types, before = _types_at(label_ids, mask, labels)
    is_b, is_m, is_e, is_s = (_has_prefix(prefix, label_ids, mask, labels) for prefix in "BMES")
    goes_on = is_m & (types == before)

    # Is an entity open after a position? An automaton of two states; maps from state to state compose in any grouping.
    def compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        (if_closed, if_open), (from_closed, from_open) = first, second
        return jnp.where(if_closed, from_open, from_closed), jnp.where(if_open, from_open, from_closed)

    open_after = lax.associative_scan(compose, (is_b, goes_on), axis=1)[0]
    open_before = jnp.pad(open_after, ((0, 0), (1, 0)))[:, :-1]
    start = jnp.arange(label_ids.shape[1])[None, :]
    stop = jnp.minimum(_next_stop(goes_on), label_ids.shape[1] - 1)
    has_end = jnp.take_along_axis(is_e & (types == before), stop, axis=1) & (stop > start)
    return _Spans((is_b | is_s) & ~open_before, types, jnp.where(is_b & has_end, stop, start) + 1)


_DECODERS = {"words": _strict_iob2, "wang2022": _wang2022}


def span_counts(
    gold: Int[Array, "batch length"],
    predicted: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    labels: Sequence[str],
    protocol: str = "words",
) -> tuple[Int[Array, " types"], Int[Array, " types"], Int[Array, " types"]]:
    """Count entities on device, as seqeval's `mode="strict", scheme=IOB2` does.

    Args:
        gold: label ids; a row is a sentence, or several with a masked position between them.
        predicted: label ids, likewise.
        mask: True at words; a False position ends any span.
        labels: label names by id, IOB2 (BMES under wang2022).
        protocol: `words`, or `wang2022`: entities as `tag_schemes.wang2022_spans` decodes them.

    Returns:
        True positives, predicted and gold entities of each type, in the order in which `labels` first names the types.
    """
    num_types = len(types_of(labels))
    true, guess = (_DECODERS[protocol](label_ids, mask, labels) for label_ids in (gold, predicted))
    is_correct = true.begins & guess.begins & (true.types == guess.types) & (true.ends == guess.ends)

    def count(is_counted: Bool[Array, "batch length"], types: Int[Array, "batch length"]) -> Int[Array, " types"]:
        return (is_counted[..., None] & (types[..., None] == jnp.arange(num_types)[None, None, :])).sum(
            (0, 1), dtype=jnp.int32
        )

    return count(is_correct, guess.types), count(guess.begins, guess.types), count(true.begins, true.types)


def precision_recall_f1(
    true_positives: Num[Array | np.ndarray, "*settings"],
    predicted: Num[Array | np.ndarray, "*settings"],
    gold: Num[Array | np.ndarray, "*settings"],
) -> tuple[Float[Array, "*settings"], Float[Array, "*settings"], Float[Array, "*settings"]]:
    """Return precision, recall and F1 in percent from counts; 0 where nothing was predicted, or nothing is in the gold.

    >>> [float(score) for score in precision_recall_f1(jnp.int32(1), jnp.int32(4), jnp.int32(2))]
    [25.0, 50.0, 33.33333206176758]
    """
    hits = jnp.asarray(true_positives, jnp.float32) * PERCENT
    precision = hits / jnp.maximum(predicted, 1)
    recall = hits / jnp.maximum(gold, 1)
    return precision, recall, 2 * hits / jnp.maximum(jnp.add(predicted, gold), 1)


def score_counts(
    true_positives: Int[np.ndarray, " types"],
    predicted: Int[np.ndarray, " types"],
    gold: Int[np.ndarray, " types"],
    types: Sequence[str],
) -> dict[str, Any]:
    """Return what `score` returns, without f1_default, from the counts of each type."""
    counts = [np.append(count.sum(), count) for count in (true_positives, predicted, gold)]
    columns = [np.asarray(column).tolist() for column in precision_recall_f1(*map(jnp.asarray, counts))]
    micro, *rows = ({"precision": p, "recall": r, "f1": f1} for p, r, f1 in zip(*columns, strict=True))
    named = zip(types, rows, gold.tolist(), strict=True)
    return micro | {"per_type": {name: row | {"support": count} for name, row, count in named}}


def score(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Report:
    """Return seqeval's scores of whole sentences, in percent.

    >>> round(score([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])["f1"], 2)
    66.67

    Args:
        gold: IOB2 tags by sentence.
        predicted: as many, as long.

    Returns:
        precision, recall, f1 (micro, `mode="strict", scheme=IOB2`), f1_default (seqeval's default mode), and per_type
        {type: {precision, recall, f1, support}}.
    """
    from seqeval.metrics import classification_report, f1_score  # scikit-learn takes seconds, and who tags scores nothing
    from seqeval.scheme import IOB2

    gold, predicted = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    with warnings.catch_warnings():
        # NumPy's advice on averaging nothing, when neither side has an entity; the scores are then 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
        f1_default = f1_score(gold, predicted, zero_division=0)
    averages = {"micro avg", "macro avg", "weighted avg"}

    def percent(row: dict[str, float]) -> Scores:
        seqeval_names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
        return {name: PERCENT * float(row[seqeval_name]) for name, seqeval_name in seqeval_names.items()}

    per_type = {
        name: percent(row) | {"support": int(row["support"])} for name, row in report.items() if name not in averages
    }
    return {**percent(report["micro avg"]), "f1_default": PERCENT * float(f1_default), "per_type": per_type}


def partial_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], protocol: str) -> dict[str, Scores]:
    """Return nervaluate's scores of whole sentences, which say how entities are missed: by their bounds or by their type.

    >>> scores = partial_scores([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]], "words")
    >>> {scheme: row["f1"] for scheme, row in scores.items()}
    {'strict': 0.0, 'exact': 0.0, 'partial': 50.0, 'ent_type': 100.0}

    Args:
        gold: tags by sentence.
        predicted: as many, as long.
        protocol: says which entities they spell (`tag_schemes.scored_spans`).

    Returns:
        For each scheme of SemEval-2013 task 9.1 (`strict`: bounds and type, `exact`: bounds alone, `partial`: bounds alone,
        an overlap being half right, `ent_type`: type and an overlap) the counts correct, incorrect, partial, missed and
        spurious, and precision, recall and f1 in percent.
    """
    from nervaluate import Evaluator

    def spans_of(tags: Sequence[str]) -> list[dict[str, Any]]:
        spans = scored_spans(tags, protocol)
        return [{"label": span.type, "start": span.start, "end": span.end - 1} for span in spans]

    pairs = [(spans_of(true), spans_of(guess)) for true, guess in zip(gold, predicted, strict=True)]
    pairs = [pair for pair in pairs if any(pair)] or [([], [])]  # it looks at every sentence once for each type
    types = sorted({span["label"] for pair in pairs for spans in pair for span in spans})
    results = Evaluator(*map(list, zip(*pairs, strict=True)), tags=types, loader="dict").evaluate()["overall"]
    counts, quotients = ("correct", "incorrect", "partial", "missed", "spurious"), ("precision", "recall", "f1")

    def row(result: Any) -> Scores:
        percent = {name: PERCENT * float(getattr(result, name)) for name in quotients}
        return {name: getattr(result, name) for name in counts} | percent

    return {scheme: row(results[scheme]) for scheme in ("strict", "exact", "partial", "ent_type")}


LOW_F1, DEFAULT_TIMES = 10.0, 3.0


def scheme_doubt(f1: float, f1_default: float, split: str) -> str:
    """Return a warning where a tagger scores next to nothing for its tag scheme alone, else the empty string.

    That is so where its strict F1 is below 10 and its F1 in seqeval's default mode, which lets an I- open an entity, is at
    least three times as high: kNN-NER, whose neighbours have IOB2 tags, then gains what is none.

    >>> scheme_doubt(0.0, 0.0, "dev"), scheme_doubt(60.0, 75.0, "dev")
    ('', '')

    Args:
        f1: of the tagger alone, strict, in percent.
        f1_default: likewise, in seqeval's default mode.
        split: what was scored.
    """
    if f1 >= LOW_F1 or f1_default <= f1 or f1_default < DEFAULT_TIMES * f1:
        return ""
    return (
        f"the tagger scores {f1:.2f} on {split} in strict IOB2 and {f1_default:.2f} in seqeval's default mode: its entities "
        f"do not begin as the scheme has it, and the gain of kNN over a tagger that scores {f1:.2f} for its scheme says "
        "nothing; a tagger that speaks another scheme is read with model.label_scheme"
    )


def score_wang2022(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return scores of whole sentences of subwords as Wang et al. (2022) count them, in percent.

    Args:
        gold: BMES tags by sentence, special tokens left out.
        predicted: as many, as long.

    Returns:
        precision, recall, f1 (micro) and per_type, as in `score`; no f1_default, which is seqeval's.
    """
    true_positives, num_predicted, num_gold = Counter[str](), Counter[str](), Counter[str]()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        gold_spans, predicted_spans = wang2022_spans(gold_tags), wang2022_spans(predicted_tags)
        true_positives.update(span.type for span in set(gold_spans) & set(predicted_spans))
        num_predicted.update(span.type for span in predicted_spans)
        num_gold.update(span.type for span in gold_spans)

    types = sorted(num_predicted.keys() | num_gold.keys())

    def column(counts: Counter[str]) -> Int[np.ndarray, " types"]:
        return np.array([counts[type_] for type_ in types], np.int32)

    return score_counts(column(true_positives), column(num_predicted), column(num_gold), types)
