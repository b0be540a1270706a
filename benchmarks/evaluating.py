"""A trained run at work: what labels cost with and without neighbours, and what keys in bfloat16 change."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring, searching
from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.encoding import EncodedSplit, encode
from knn_ner_jax.data.labels import LabelSet
from knn_ner_jax.evaluation import opening
from knn_ner_jax.evaluation.evaluate import tag_split
from knn_ner_jax.evaluation.opening import KnnTagger
from knn_ner_jax.evaluation.tuning import Setting, collect
from knn_ner_jax.knn import search
from knn_ner_jax.knn.datastore import key_states
from knn_ner_jax.knn.inference import Retrieved, interpolate, knn_probabilities, retrieve
from knn_ner_jax.runs import TrainedModel

LENGTH_MULTIPLE = 16  # few shapes, so little to compile


def evaluation_folder(run: Path) -> Path:
    """Where the evaluation of a run is: in its own folder, or where `benchmarks.seeds` puts that of the paper's key."""
    return run if (run / "eval.json").exists() else run / "last_layer"


def open_run(run: str, sentences: int) -> tuple[str, KnnTagger, Setting, EncodedSplit]:
    """The name of the corpus of a run, tagger and datastore, the setting dev chose, and the first sentences of test.

    Raises:
        InputError: the run has not been trained and evaluated.
    """
    folder = evaluation_folder(Path(run))
    config, setting = opening.load_evaluation(folder)
    config = replace(config, run_dir=run)
    model = TrainedModel.load(Path(run))
    knn_tagger = opening.open_knn_tagger(config, model, folder, None, opening.Stopwatch())
    chosen = read_corpus(config.data.dir, config.data.scheme, config.data.on_error).test.sentences[:sentences]
    label_set = knn_tagger.label_set.union(LabelSet.of(sentence.tags for sentence in chosen))
    split = encode(chosen, model.tokenizer, model.window, label_set, model.pinyin)
    return Path(config.data.dir).name, replace(knn_tagger, length_multiple=LENGTH_MULTIPLE), setting, split


def _labels_of_full_search(
    knn_tagger: KnnTagger, setting: Setting, split: EncodedSplit, weights: list[float]
) -> dict[float, np.ndarray]:
    """Label ids of every word when every word is looked up, by knn_weight."""
    temperatures = [setting.temperature] if setting.k == "all" else None
    cache = collect(knn_tagger.retrieve(split, setting.k, setting.metric, temperatures), split.num_words)
    if setting.k == "all":
        p_knn = jnp.asarray(cache.shares[0])  # type: ignore[index]
    else:
        voters = jax.device_put((cache.similarities, cache.neighbour_labels))
        p_knn = knn_probabilities(*voters, len(knn_tagger.label_set), setting.temperature)
    return {weight: np.asarray(interpolate(jnp.asarray(cache.p_ner), p_knn, weight).argmax(axis=1)) for weight in weights}


def _programs_beside(knn_tagger: KnnTagger, setting: Setting) -> dict[str, Callable[[Batch], Any]]:
    """Labels without neighbours, and every word looked up without a vote; each a function of a batch."""
    settings = replace(knn_tagger.settings, k=setting.k, metric=setting.metric)
    temperatures = jnp.float32([setting.temperature]) if setting.k == "all" else None

    @jax.jit
    def vanilla(params: Any, batch: Batch) -> jax.Array:
        output = settings.tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
        return output.logits.argmax(axis=-1)

    def full(batch: Batch) -> Retrieved:
        return retrieve(knn_tagger.params, knn_tagger.stored.datastore, batch, temperatures, settings=settings)

    return {"vanilla": partial(vanilla, knn_tagger.params), "full": full}


def tagging(repeats: int, run: str, sentences: int, weights: list[float]) -> dict[str, Any]:
    """Labels of the first sentences of test: the tagger's alone, with neighbours for each weight, and a full search.

    Args:
        repeats: timed passes, the programs in turn.
        run: a folder that train.py and eval.py have filled.
        sentences: how many.
        weights: of the vote.

    Returns:
        `seconds` of `vanilla`, of each weight and of `full` (every word looked up, without vote and mix); for each weight
        how many words were `searched` and how many got `other_labels` than the full search gives.
    """
    corpus, knn_tagger, setting, split = open_run(run, sentences)
    placed = list(knn_tagger.batches(split))
    chosen = {weight: replace(setting, knn_weight=weight) for weight in weights}
    programs = _programs_beside(knn_tagger, setting)
    programs |= {str(weight): partial(knn_tagger.tag, one) for weight, one in chosen.items()}

    def run_all(program: Callable[[Batch], Any]) -> None:
        jax.block_until_ready([program(batch) for batch in placed])

    seconds = measuring.interleaved_seconds({name: partial(run_all, program) for name, program in programs.items()}, repeats)
    expected = _labels_of_full_search(knn_tagger, setting, split, weights)
    tagged = {weight: tag_split(knn_tagger, one, split) for weight, one in chosen.items()}
    return {
        "corpus": corpus,
        "words": split.num_words,
        "rows": knn_tagger.num_rows,
        "setting": {"k": setting.k, "temperature": setting.temperature, "metric": setting.metric},
        "seconds": seconds,
        "searched": {str(weight): labels.searched for weight, labels in tagged.items()},
        "other_labels": {str(weight): int((tagged[weight].knn != expected[weight]).sum()) for weight in weights},
    }


def _query_states(knn_tagger: KnnTagger, split: EncodedSplit) -> np.ndarray:
    """[words, dim] what the words of a split are looked up with."""
    layers, projection = knn_tagger.settings.layers, knn_tagger.stored.datastore.projection

    @jax.jit
    def states(params: Any, batch: Batch) -> jax.Array:
        output = knn_tagger.model.tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
        return key_states(output.hidden_states, layers, projection)

    parts = [
        np.asarray(states(knn_tagger.params, batch))[np.asarray(batch.slots) >= 0] for batch in knn_tagger.batches(split)
    ]
    return np.concatenate(parts)


def _neighbour_ids(queries: jax.Array, rows: search.Rows, k: int, metric: str) -> np.ndarray:
    found = jax.jit(partial(search.search, k=k, metric=metric))(queries, rows).neighbours
    return np.asarray(found.ids)  # type: ignore[union-attr]


def share_changed(ids: np.ndarray, others: np.ndarray) -> float:
    """Share of the ids of each row of [queries, k] that the same row of `others` lacks, in [0, 1]."""
    kept = sum(len(np.intersect1d(a, b)) for a, b in zip(ids, others, strict=True))
    return 1 - kept / ids.size


def compression(repeats: int, run: str, sentences: int, queries: int, k: list[int]) -> dict[str, Any]:
    """Keys in bfloat16 beside keys in float32: time, memory, and the share of changed neighbours, on real states.

    Args:
        repeats: timed searches.
        run: a folder that train.py and eval.py have filled.
        sentences: the first of test, whose words are looked up.
        queries: words looked up at a time.
        k: neighbours.
    """
    corpus, knn_tagger, setting, split = open_run(run, sentences)
    stored = knn_tagger.stored.datastore
    keys, labels = (np.asarray(array)[: knn_tagger.num_rows] for array in (stored.keys, stored.labels))
    states = _query_states(knn_tagger, split)[:queries]
    result: dict[str, Any] = {"corpus": corpus, "rows": len(keys), "dim": keys.shape[1], "queries": len(states)}
    ids: dict[int, np.ndarray] = {}
    for dtype in ("float32", "bfloat16"):
        vectors, rows = searching.place(states, keys, labels, dtype)
        result[dtype] = {"keys_mb": rows.keys.nbytes / measuring.MEGABYTE}
        for value in k:
            found = _neighbour_ids(vectors, rows, value, setting.metric)
            measured = searching.measure_search(repeats, vectors, rows, value, setting.metric)
            changed = share_changed(ids.setdefault(value, found), found)
            result[dtype][f"k={value}"] = {**measured, "changed": changed}
    return result
