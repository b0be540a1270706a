"""Scores: span counts on device while training and tuning, seqeval for every number that is reported."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

from knn_ner_jax.data.labels import OUTSIDE, tag_type

Scores = dict[str, float]
PERCENT = 100.0


def _types(labels: Sequence[str]) -> list[str]:
    """Entity types in the order in which `labels` first names them."""
    return list(dict.fromkeys(tag_type(label) for label in labels if label != OUTSIDE))


def _label_tables(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Label id -> number of its type (-1 for O), label id -> does it begin a span, and the number of types."""
    types = _types(labels)
    type_of = np.array([-1 if label == OUTSIDE else types.index(tag_type(label)) for label in labels], np.int32)
    return type_of, np.array([label.startswith("B-") for label in labels]), len(types)


def _spans(
    label_ids: Int[Array, "batch length"], mask: Bool[Array, "batch length"], labels: Sequence[str]
) -> tuple[Bool[Array, "batch length"], Int[Array, "batch length"], Int[Array, "batch length"]]:
    """Where strict IOB2 spans begin, the type at each position, and where a span that begins there ends (exclusive)."""
    type_of, is_begin, _ = _label_tables(labels)
    types = jnp.where(mask, jnp.asarray(type_of)[label_ids], -1)
    begins = mask & jnp.asarray(is_begin)[label_ids]
    before = jnp.pad(types, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    continues = (types >= 0) & ~begins & (types == before)
    length = label_ids.shape[1]
    stops = jnp.where(continues, length, jnp.arange(length)[None, :])
    next_stop = lax.cummin(stops, axis=1, reverse=True)
    ends = jnp.pad(next_stop, ((0, 0), (0, 1)), constant_values=length)[:, 1:]
    return begins, types, ends


def span_counts(
    gold: Int[Array, "batch length"],
    predicted: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    labels: Sequence[str],
) -> tuple[Int[Array, " types"], Int[Array, " types"], Int[Array, " types"]]:
    """Counts entities as seqeval's `mode="strict", scheme=IOB2` does, on device.

    Args:
        gold: label ids; a row is a sentence, or several with a masked position between them.
        predicted: label ids, likewise.
        mask: True at words; a False position ends any span.
        labels: label names by id, IOB2.

    Returns:
        For each type, in the order in which `labels` first names it: entities found rightly, predicted, and in the gold.
    """
    num_types = _label_tables(labels)[2]
    gold_begins, gold_types, gold_ends = _spans(gold, mask, labels)
    begins, types, ends = _spans(predicted, mask, labels)
    right = gold_begins & begins & (gold_types == types) & (gold_ends == ends)

    def count(where: Bool[Array, "batch length"], types: Int[Array, "batch length"]) -> Int[Array, " types"]:
        return (where[..., None] & (types[..., None] == jnp.arange(num_types)[None, None, :])).sum((0, 1), dtype=jnp.int32)

    return count(right, types), count(begins, types), count(gold_begins, gold_types)


def precision_recall_f1(
    true_positive: Int[Array, "*settings"], predicted: Int[Array, "*settings"], gold: Int[Array, "*settings"]
) -> tuple[Float[Array, "*settings"], Float[Array, "*settings"], Float[Array, "*settings"]]:
    """Percentages from counts; 0 where nothing was predicted or nothing was there."""
    right = jnp.asarray(true_positive, jnp.float32) * PERCENT
    precision = right / jnp.maximum(predicted, 1)
    recall = right / jnp.maximum(gold, 1)
    return precision, recall, 2 * right / jnp.maximum(jnp.add(predicted, gold), 1)


def score_counts(
    true_positive: Int[np.ndarray, " types"],
    predicted: Int[np.ndarray, " types"],
    gold: Int[np.ndarray, " types"],
    labels: Sequence[str],
) -> dict[str, Any]:
    """What `score` says, but for f1_default, from the counts of `span_counts` with the same labels."""
    counts = [np.append(count.sum(), count) for count in (true_positive, predicted, gold)]
    columns = [np.asarray(column).tolist() for column in precision_recall_f1(*map(jnp.asarray, counts))]
    micro, *rows = ({"precision": p, "recall": r, "f1": f1} for p, r, f1 in zip(*columns, strict=True))
    named = zip(_types(labels), rows, gold.tolist(), strict=True)
    return micro | {"per_type": {name: row | {"support": count} for name, row, count in named}}


def score(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float | dict[str, Scores]]:
    """seqeval's scores of whole sentences, in percent.

    Args:
        gold: IOB2 tags by sentence.
        predicted: as many, as long.

    Returns:
        precision, recall, f1 (micro, `mode="strict", scheme=IOB2`), f1_default (seqeval's default mode), and per_type
        {type: {precision, recall, f1, support}}.
    """
    gold, predicted = [list(tags) for tags in gold], [list(tags) for tags in predicted]
    with warnings.catch_warnings():
        # NumPy's advice on averaging nothing, when neither side has an entity; the scores are then 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
        f1_default = f1_score(gold, predicted, zero_division=0)
    averages = {"micro avg", "macro avg", "weighted avg"}

    def percent(row: dict[str, float]) -> Scores:
        names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
        return {ours: PERCENT * float(row[theirs]) for ours, theirs in names.items()}

    per_type = {
        name: percent(row) | {"support": int(row["support"])} for name, row in report.items() if name not in averages
    }
    return {**percent(report["micro avg"]), "f1_default": PERCENT * float(f1_default), "per_type": per_type}
