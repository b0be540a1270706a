"""Learned mixing for cells that share their keys: fitted on train, chosen on dev, test labelled once."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import numpy as np

from knn_ner_jax.ablation import ledger, mixing
from knn_ner_jax.ablation.cells import Opened, make_outcome
from knn_ner_jax.ablation.mixing_fit import Fitted, MixingSettings, fit, settings_for
from knn_ner_jax.ablation.own_rows import retrieve_others
from knn_ner_jax.ablation.results import Results
from knn_ner_jax.ablation.study import Cell
from knn_ner_jax.data.encoding import EncodedSplit
from knn_ner_jax.evaluation.outcomes import Outcome
from knn_ner_jax.evaluation.tuning import Cache


def mixing_settings(opened: Opened, cell: Cell) -> MixingSettings:
    """As `settings_for` says, with fewer neighbours where a small datastore has not enough rows of other sentences."""
    settings = settings_for(cell.config.knn)
    own = int(np.bincount(opened.row_numbers).max())
    most = min(settings.k, max(opened.knn_tagger.num_rows - own, 1))
    return replace(settings, k=1 << (most.bit_length() - 1))


def _outcome(opened: Opened, fitted: Fitted, cache: Cache, split: EncodedSplit) -> tuple[Outcome, float]:
    """Labels of a split, and the mean share of the tagger."""
    mixed = mixing.predict(fitted.mixer, cache)
    p, own = np.asarray(mixed.probabilities), np.asarray(mixed.shares)[:, :1]
    p_knn = (p - own * cache.p_ner) / np.maximum(1 - own, np.finfo(np.float32).tiny)
    return make_outcome(cache.p_ner, p_knn.clip(0, 1), p, split, opened.label_set), float(own.mean())


def search_learned(opened: Opened, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Fits mixers on train, without the rows of a word's own sentence, and labels dev and test with them.

    Writes dev first; yields each cell when its test is written.
    """
    started, k = time.perf_counter(), mixing_settings(opened, cells[0]).k
    train, dev, test = (opened.encode(name) for name in ("train", "dev", "test"))
    numbers = opened.row_numbers, opened.train_numbers[train.sentence_ids]
    train_cache = retrieve_others(opened.knn_tagger, train, *numbers, k, opened.metric)
    for cell in cells:
        ledger.note(results, cell, None)
    caches = [opened.search(name, split, k) for name, split in (("dev", dev), ("test", test))]
    key = jax.random.key(cells[0].config.seed)
    for cell in cells:
        settings = mixing_settings(opened, cell)
        fitted = fit(train_cache, train.label_ids, caches[0], dev, opened.label_set, settings, key)
        facts = {
            "selected": fitted.trial.as_dict() | {"k": k},
            "trials": [trial.as_dict() for trial in fitted.trials],
            "left_out": fitted.left_out,
        }
        for name, split, cache in (("dev", dev, caches[0]), ("test", test, caches[1])):
            outcome, own = _outcome(opened, fitted, cache, split)
            taken = {"mean_share_of_the_tagger": own, "seconds": time.perf_counter() - started}
            results.write(cell, f"learned_{name}", outcome, facts | taken)
        yield cell
