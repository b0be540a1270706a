"""What labels of an evaluated run cost with and without neighbours, and what keys in bfloat16 change."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring, searching
from benchmarks.trained import mixed_by_full_search, open_run
from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.io import tune_memory
from knn_ner_jax.knn import search
from knn_ner_jax.knn.combine import MARGIN_SETTLES_BELOW, KnnParams
from knn_ner_jax.knn.datastore import key_states
from knn_ner_jax.knn.inference import retrieve
from knn_ner_jax.knn_tagger import KnnTagger


def _ways(knn_tagger: KnnTagger, setting: KnnParams, weights: Sequence[float]) -> dict[str, tuple[KnnTagger, KnnParams]]:
    """Return what is timed by name: every weight, and those that no margin settles also without pruning."""
    ways = {}
    for weight in weights:
        at_weight = replace(setting, knn_weight=weight)
        ways[str(weight)] = knn_tagger, at_weight
        if weight >= MARGIN_SETTLES_BELOW:
            ways[f"{weight} without scouts"] = replace(knn_tagger, prune=False), at_weight
    return ways


def _tag_all(knn_tagger: KnnTagger, setting: KnnParams, device_batches: Sequence[Batch], num_words: int) -> None:
    """Label batches as `KnnTagger.label_split` does, with batches that are on the devices already."""
    tagging = knn_tagger.begin(num_words)
    for number, batch in enumerate(device_batches, start=1):
        tagging = knn_tagger.label_batch(tagging, setting, batch, number == len(device_batches))
    jax.block_until_ready(tagging)


def _programs_beside(
    knn_tagger: KnnTagger, setting: KnnParams, device_batches: Sequence[Batch]
) -> dict[str, Callable[[], Any]]:
    """Return two programs to compare with: labels without neighbours, and every word looked up without a vote."""
    spec = replace(knn_tagger.spec, k=setting.k, metric=setting.metric)
    temperatures = jnp.float32([setting.temperature]) if setting.k == "all" else None

    @jax.jit
    def labels(params: Any, batch: Batch) -> jax.Array:
        output = spec.tagger(params, batch.token_ids, batch.segments, pinyin_ids=batch.pinyin_ids)
        return output.logits.argmax(axis=-1)

    def tagger() -> None:
        jax.block_until_ready([labels(knn_tagger.params, batch) for batch in device_batches])

    def full() -> None:
        datastore = knn_tagger.stored.datastore
        jax.block_until_ready(
            [retrieve(knn_tagger.params, datastore, batch, temperatures, spec=spec) for batch in device_batches]
        )

    return {"tagger": tagger, "full": full}


def tagging(repeats: int, run: str, sentences: int | None, weights: list[float], time_full: bool = True) -> dict[str, Any]:
    """Time labels of the first sentences of test: the tagger's alone, with neighbours for each weight, and a full search.

    Memory is kept as in eval.py, for all of them.

    Args:
        repeats: timed passes, the programs in turn.
        run: a folder that train.py and eval.py have filled.
        sentences: how many; None: all.
        weights: of the vote.
        time_full: also time the full search; otherwise it only tells the labels.

    Returns:
        `seconds` of `tagger`, of each weight, of some also `without scouts`, and of `full` (every word looked up, without
        vote and mix) if wanted; for each weight how many words were `scouted` (looked up among the scouts), `at_border`
        (among the border) and `searched` (among all rows), and how many got `other_labels` than the full search gives.
    """
    tune_memory()
    evaluated_run = open_run(Path(run))
    knn_tagger, setting, split = evaluated_run.knn_tagger, evaluated_run.setting, evaluated_run.encode("test", sentences)
    device_batches = list(knn_tagger.batches(split))
    ways = _ways(knn_tagger, setting, weights)
    programs = _programs_beside(knn_tagger, setting, device_batches)
    if not time_full:
        del programs["full"]
    programs |= {name: partial(_tag_all, *way, device_batches, split.num_words) for name, way in ways.items()}
    seconds = measuring.interleaved_seconds(programs, repeats)

    expected = {weight: p.argmax(axis=1) for weight, p in mixed_by_full_search(knn_tagger, setting, split, weights).items()}
    tagged = {name: tagger.label_split(split, params) for name, (tagger, params) in ways.items()}
    other_labels = {name: int((tagged[name].knn != expected[one.knn_weight]).sum()) for name, (_, one) in ways.items()}
    return {
        "corpus": evaluated_run.corpus,
        "sentences": len(evaluated_run.splits["test"].sentences[:sentences]),
        "words": split.num_words,
        "rows": knn_tagger.num_rows,
        "batch_size": knn_tagger.batch_size,
        "setting": {"k": setting.k, "temperature": setting.temperature, "metric": setting.metric},
        "seconds": seconds,
        "scouted": {name: labels.scouted for name, labels in tagged.items()},
        "at_border": {name: labels.at_border for name, labels in tagged.items()},
        "searched": {name: labels.searched for name, labels in tagged.items()},
        "other_labels": other_labels,
    }


def _query_states(knn_tagger: KnnTagger, split: EncodedSplit) -> np.ndarray:
    """Return [words, dim], what the words of a split are looked up with."""
    layers, projection = knn_tagger.spec.layers, knn_tagger.stored.datastore.projection

    @jax.jit
    def states(params: Any, batch: Batch) -> jax.Array:
        output = knn_tagger.model.tagger(params, batch.token_ids, batch.segments, pinyin_ids=batch.pinyin_ids)
        return key_states(output.hidden_states, layers, projection)

    parts = [
        np.asarray(states(knn_tagger.params, batch))[np.asarray(batch.word_index) >= 0]
        for batch in knn_tagger.batches(split)
    ]
    return np.concatenate(parts)


def _neighbour_ids(queries: jax.Array, rows: search.Rows, k: int, metric: str) -> np.ndarray:
    neighbours = jax.jit(partial(search.search, k=k, metric=metric))(queries, rows).neighbours
    assert neighbours is not None
    return np.asarray(neighbours.ids)


def share_changed(ids: np.ndarray, others: np.ndarray) -> float:
    """Return the share of the ids of each row of [queries, k] that the same row of `others` lacks, in [0, 1]."""
    num_common = sum(len(np.intersect1d(a, b)) for a, b in zip(ids, others, strict=True))
    return 1 - num_common / ids.size


def compression(repeats: int, run: str, sentences: int, queries: int, k: list[int]) -> dict[str, Any]:
    """Compare keys in bfloat16 with keys in float32: time, memory, and the share of changed neighbours, on real states.

    Args:
        repeats: timed searches.
        run: a folder that train.py and eval.py have filled.
        sentences: the first of test, whose words are looked up.
        queries: words looked up at a time.
        k: neighbours.
    """
    evaluated_run = open_run(Path(run))
    knn_tagger, setting, split = evaluated_run.knn_tagger, evaluated_run.setting, evaluated_run.encode("test", sentences)
    stored = knn_tagger.stored.datastore
    keys, labels = (np.asarray(array)[: knn_tagger.num_rows] for array in (stored.keys, stored.labels))
    states = _query_states(knn_tagger, split)[:queries]
    result: dict[str, Any] = {
        "corpus": evaluated_run.corpus,
        "rows": len(keys),
        "dim": keys.shape[1],
        "queries": len(states),
    }
    ids: dict[int, np.ndarray] = {}
    for dtype in ("float32", "bfloat16"):
        vectors, rows = searching.place(states, keys, labels, dtype)
        result[dtype] = {"keys_mb": rows.keys.nbytes / measuring.MEBIBYTE}
        for value in k:
            value_ids = _neighbour_ids(vectors, rows, value, setting.metric)
            measured = searching.measure_search(repeats, vectors, rows, value, setting.metric)
            changed = share_changed(ids.setdefault(value, value_ids), value_ids)
            result[dtype][f"k={value}"] = {**measured, "changed": changed}
    return result
