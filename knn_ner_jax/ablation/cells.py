"""What is computed for the cells of a study that share their keys: one search of a split serves them all."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from knn_ner_jax import runs
from knn_ner_jax.ablation import ledger
from knn_ner_jax.ablation.corpora import Corpora
from knn_ner_jax.ablation.own_rows import number_sentences
from knn_ner_jax.ablation.results import Results
from knn_ner_jax.ablation.study import Cell
from knn_ner_jax.config import as_list
from knn_ner_jax.data.corpus import Corpus, check_types
from knn_ner_jax.data.encoding import EncodedSplit, encode
from knn_ner_jax.data.labels import LabelSet
from knn_ner_jax.evaluation import opening, tuning
from knn_ner_jax.evaluation.opening import KnnTagger, Stopwatch
from knn_ner_jax.evaluation.outcomes import Outcome
from knn_ner_jax.evaluation.tuning import Cache, Setting
from knn_ner_jax.knn.vote import interpolate


@dataclass(frozen=True)
class Opened:
    """Tagger and datastore of some cells.

    Attributes:
        knn_tagger: both.
        corpus: with the shares that the configuration draws.
        row_numbers: of the sentence of each row (see `own_rows.number_sentences`).
        train_numbers: of each sentence of train.
        unseen_types: see `DataConfig`.
        metric: of every search.
        least_k: neighbours that every search keeps at least, for whoever asks next.
        found: by every search so far, by split.
    """

    knn_tagger: KnnTagger
    corpus: Corpus
    row_numbers: Int[np.ndarray, " rows"]
    train_numbers: Int[np.ndarray, " sentences"]
    unseen_types: Literal["error", "miss"]
    metric: str
    least_k: int = 0
    found: dict[str, Cache] = field(default_factory=dict)

    @cached_property
    def label_set(self) -> LabelSet:
        """Of the gold, which may have types that nothing can predict."""
        known = self.knn_tagger.label_set
        return known.union(LabelSet(tuple(check_types([self.corpus.dev, self.corpus.test], known, self.unseen_types))))

    def encode(self, name: str) -> EncodedSplit:
        """A split with its gold."""
        model = self.knn_tagger.model
        return encode(getattr(self.corpus, name).sentences, model.tokenizer, model.window, self.label_set, model.pinyin)

    def search(self, name: str, split: EncodedSplit, k: int, temperatures: Sequence[float] = ()) -> Cache:
        """Neighbours of every word of a split; where an earlier search has them they are not looked for again.

        Args:
            name: of the split.
            split: its words.
            k: neighbours needed; 0: none.
            temperatures: of the shares of all rows needed.
        """
        if not _answers(self.found.get(name), k, temperatures):
            wanted, width = list(temperatures) or None, max(k, self.least_k)
            retrieved = self.knn_tagger.retrieve(split, width or "all", self.metric, wanted)
            self.found[name] = tuning.collect(retrieved, split.num_words, wanted)
        return self.found[name]

    def search_for(self, name: str, split: EncodedSplit, grids: Sequence[tuning.Grid]) -> Cache:
        """One search that answers for every setting of the grids."""
        k = max((k for grid in grids for k in grid.k if k != "all"), default=0)
        temperatures = sorted({value for grid in grids if "all" in grid.k for value in grid.temperature})
        return self.search(name, split, k, temperatures)


def _answers(cache: Cache | None, k: int, temperatures: Sequence[float]) -> bool:
    if cache is None:
        return False
    held = 0 if cache.similarities is None else cache.similarities.shape[1]
    return k <= held and set(temperatures) <= set(cache.temperatures)


def delete_datastore(cell: Cell) -> None:
    """Deletes the datastore of a cell, if there is one; a process that dies here leaves a whole one, or none of its name."""
    gone = cell.folder.with_suffix(".gone")
    if gone.exists():  # a process died here
        shutil.rmtree(gone)
    if cell.folder.exists():
        cell.folder.rename(gone)
        shutil.rmtree(gone)


def open_cell(cell: Cell, corpora: Corpora) -> Opened:
    """Builds the datastore of a cell, or finishes building it, and loads it.

    Raises:
        InputError: a file has changed since the study was planned, whose cells are named by what it was then.
    """
    config, run_dir = cell.config, Path(cell.config.run_dir)
    whole, model = corpora.of(config), runs.TrainedModel.load(run_dir)
    trained = json.loads((run_dir / "corpus.json").read_text(encoding="utf-8"))
    runs.check_corpus(trained, {"train": whole.train, "dev": whole.dev}, f"delete {run_dir} and start again")
    remembered = opening.remember(config, whole, model)
    corpora.check_remembered(config, remembered.split)
    opening.check_settings(config, model, remembered.encoded.num_words)
    built = (cell.folder / "datastore").exists()
    knn_tagger = opening.open_knn_tagger(config, model, cell.folder, None if built else remembered, Stopwatch())
    drawn = whole.draw(config.data.train_share, config.data.dev_share, config.seed)
    numbers = number_sentences(remembered, drawn.train.sentences)
    return Opened(knn_tagger, drawn, *numbers, config.data.unseen_types, as_list(config.knn.metric)[0])


def make_outcome(
    p_ner: Float[np.ndarray, "words labels"],
    p_knn: Float[np.ndarray, "words labels"],
    mixed: Float[np.ndarray, "words labels"],
    split: EncodedSplit,
    label_set: LabelSet,
) -> Outcome:
    """The labels of a split.

    Args:
        p_ner: the tagger's probabilities.
        p_knn: those of the neighbours.
        mixed: those of both.
        split: gold labels.
        label_set: of the gold.
    """
    columns = {
        "sentence_ids": split.sentence_ids,
        "gold": split.label_ids,
        "vanilla": p_ner.argmax(axis=1).astype(np.int32),
        "knn": mixed.argmax(axis=1).astype(np.int32),
        "confidence": p_ner.max(axis=1),
        "voted": p_knn.argmax(axis=1).astype(np.int32),
        "agreement": p_knn.max(axis=1),
    }
    return Outcome(label_set.names, **{name: values[split.scored] for name, values in columns.items()})


def _by_setting(cache: Cache, setting: Setting, split: EncodedSplit, label_set: LabelSet) -> Outcome:
    p_knn = tuning.vote(cache, setting)
    mixed = interpolate(jnp.asarray(cache.p_ner), p_knn, setting.knn_weight)
    return make_outcome(cache.p_ner, np.asarray(p_knn), np.asarray(mixed), split, label_set)


def search_dev(opened: Opened, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Chooses k, temperature and knn_weight for cells that share their keys; yields each when it is written."""
    started, split = time.perf_counter(), opened.encode("dev")
    rows = opened.knn_tagger.num_rows
    grids = [opening.make_grid(cell.config, rows) for cell in cells]
    cache = opened.search_for("dev", split, grids)
    for cell, grid in zip(cells, grids, strict=True):
        trials = tuning.run_grid(cache, split, opened.label_set, grid, opened.metric)
        best = tuning.select(trials)
        outcome = _by_setting(cache, best.setting, split, opened.label_set)
        facts = {"rows": rows, "dim": opened.knn_tagger.stored.datastore.keys.shape[1], "skipped_k": grid.skipped_k}
        chosen = {"selected": asdict(best.setting), "trials": [trial.as_dict() for trial in trials]}
        results.write(cell, "dev", outcome, facts | chosen | {"seconds": time.perf_counter() - started})
        yield cell


def search_test(opened: Opened, cells: Sequence[Cell], results: Results) -> Iterator[Cell]:
    """Labels test with what dev chose, for cells that share their keys; yields each when it is written."""
    started, split = time.perf_counter(), opened.encode("test")
    settings = [Setting(**results.read(cell, "dev")["selected"]) for cell in cells]
    grids = [tuning.Grid((one.k,), (one.temperature,), (one.knn_weight,)) for one in settings]
    for cell, setting in zip(cells, settings, strict=True):
        ledger.note(results, cell, asdict(setting))
    cache = opened.search_for("test", split, grids)
    for cell, setting in zip(cells, settings, strict=True):
        outcome = _by_setting(cache, setting, split, opened.label_set)
        facts = {"selected": asdict(setting), "file": opened.corpus.test.sha256}
        results.write(cell, "test", outcome, facts | {"seconds": time.perf_counter() - started})
        yield cell
