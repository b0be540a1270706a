"""A trained tagger with and without neighbours: load or build the datastore, tune on dev, tag dev and test, score."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from knn_ner_jax import mesh as placement
from knn_ner_jax import metrics
from knn_ner_jax.checkpoints import Checkpoints
from knn_ner_jax.cli import parse
from knn_ner_jax.config import Config, as_list
from knn_ner_jax.data.batching import Batch, batches, plan_evaluation
from knn_ner_jax.data.corpus import Corpus, Split, find_split, read_splits, resolve_path
from knn_ner_jax.data.encoding import NO_WORD, PIECE_POLICY, EncodedSplit, encode, tokenizer_fingerprint
from knn_ner_jax.data.labels import LabelSet
from knn_ner_jax.data.pinyin import LETTERS
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.knn import datastore as datastores
from knn_ner_jax.knn import storage
from knn_ner_jax.knn.inference import Labels, Retrieval, Retrieved, retrieve, tag
from knn_ner_jax.models.pretrained import fingerprint
from knn_ner_jax.models.tagger import Params
from knn_ner_jax.runs import TrainedModel


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class KnnTagger:
    """A trained tagger and a datastore, ready to label.

    Attributes:
        model: network, labels and tokenizer.
        params: of the network, on every device.
        stored: the datastore and its source.
        settings: what the compiled functions are compiled for; its k and metric are replaced as needed.
        label_set: labels of tagger and datastore together; gold labels beyond it are appended to it.
        batch_size: windows encoded at a time.
        length_multiple: see `batching.bucket_length`.
    """

    model: TrainedModel
    params: Params
    stored: storage.Stored
    settings: Retrieval
    label_set: LabelSet
    batch_size: int
    length_multiple: int

    @property
    def num_rows(self) -> int:
        """Rows of the datastore."""
        return int(self.stored.datastore.num_rows)

    def batches(self, split: EncodedSplit) -> Iterator[Batch]:
        """Every window of a split once, on the devices."""
        mesh = placement.make_mesh()
        plans = plan_evaluation(split.lengths, self.batch_size, self.length_multiple)
        for batch in batches(split, plans, placement.round_up(self.batch_size, mesh)):
            yield jax.device_put(batch, placement.split(mesh))

    def retrieve(
        self, split: EncodedSplit, k: tuning.K, metric: str, temperatures: Sequence[float] | None
    ) -> Iterator[Retrieved]:
        """Looks up every word of a split (see `inference.retrieve`)."""
        settings = replace(self.settings, k=k, metric=metric)
        traced = None if temperatures is None else jnp.asarray(temperatures, jnp.float32)
        for batch in self.batches(split):
            yield retrieve(self.params, self.stored.datastore, batch, traced, settings=settings)

    def tag(self, setting: tuning.Setting, batch: Batch) -> Labels:
        """Labels a batch (see `inference.tag`)."""
        settings = replace(self.settings, k=setting.k, metric=setting.metric)
        traced = jnp.float32(setting.temperature), jnp.float32(setting.knn_weight)
        return tag(self.params, self.stored.datastore, batch, *traced, settings=settings)

    def shapes(self, split: EncodedSplit) -> set[int]:
        """The padded lengths of a split's batches."""
        return {plan.length for plan in plan_evaluation(split.lengths, self.batch_size, self.length_multiple)}


def remembered_split(config: Config, corpus: Corpus) -> Split:
    """The split whose words the datastore remembers: the corpus' own train file, or that of `datastore.corpus`.

    Raises:
        InputError: there is none.
    """
    if config.datastore.corpus is None:
        return corpus.train
    path = find_split(resolve_path(config.datastore.corpus), "train", "datastore.corpus")
    return read_splits({"train": path}, config.data.scheme, config.data.on_error)[0]["train"]


def open_datastore(
    config: Config,
    model: TrainedModel,
    params: Params,
    folder: Path,
    remembered: Split | None,
    mesh: Mesh,
    watch: Stopwatch,
) -> storage.Stored:
    """Loads the datastore of a folder, or builds one of `remembered` and saves it there.

    Raises:
        storage.DatastoreError: the one found was made otherwise than this configuration makes it, or there is none and
            nothing to remember.
    """
    settings = config.datastore
    layers = datastores.resolve_layers(settings.layers, model.tagger.config.num_hidden_layers)
    expected = storage.Fingerprint(
        weights=fingerprint(params),
        tokenizer=tokenizer_fingerprint(model.tokenizer),
        layers=layers,
        whiten=settings.whiten,
        pieces=PIECE_POLICY,
        window=model.window,
        dtype=model.tagger.dtype,
    )
    if folder.exists() or remembered is None:
        with watch.stage("load_datastore"):
            return storage.load(folder, expected, mesh)
    with watch.stage("build_datastore"):
        label_set = model.label_set.union(LabelSet.of(sentence.tags for sentence in remembered.sentences))
        built = datastores.build(
            model.tagger,
            params,
            encode(remembered.sentences, model.tokenizer, model.window, label_set, model.pinyin),
            layers=layers,
            whiten=settings.whiten,
            batch_size=config.knn.batch_size,
            length_multiple=config.data.length_multiple,
            mesh=mesh,
        )
        source = storage.Source(str(remembered.path), remembered.sha256, label_set.types)
        storage.save(folder, built, expected, source, settings.shard_rows)
    return storage.Stored(built, source)


def open_knn_tagger(config: Config, folder: Path, remembered: Split | None, watch: Stopwatch) -> KnnTagger:
    """Everything needed to label: the trained model of run_dir, and the datastore of `folder`.

    Args:
        config: of the run.
        folder: where the datastore is, or is written.
        remembered: what it is built from if it is not there; None: it must be there.
        watch: takes the time.
    """
    mesh = placement.make_mesh()
    with watch.stage("load_model"):
        model = TrainedModel.load(Path(config.run_dir))
        with Checkpoints(Path(config.run_dir) / "checkpoints") as checkpoints:
            params = checkpoints.load_best(model.tagger.abstract_params(), mesh)[2]
    stored = open_datastore(config, model, params, folder / "datastore", remembered, mesh, watch)
    label_set = LabelSet(stored.source.types)
    settings = Retrieval(
        tagger=model.tagger,
        layers=datastores.resolve_layers(config.datastore.layers, model.tagger.config.num_hidden_layers),
        k="all",
        num_labels=len(label_set),
        block_rows=config.knn.block_rows,
        mesh=mesh if mesh.size > 1 else None,
    )
    return KnnTagger(model, params, stored, settings, label_set, config.knn.batch_size, config.data.length_multiple)


def load_evaluation(program: str, folder: Path) -> tuple[Config, tuning.Setting]:
    """The configuration and the chosen setting of a finished evaluation.

    Raises:
        InputError: eval.py has not finished in this folder.
    """
    if not (folder / "eval.json").is_file():
        raise InputError(f"{folder}: expected a finished evaluation (eval.json), found none; run eval.py first")
    config, _ = parse(program, "", ["--config", str(folder / "eval.config.yaml")])
    if (folder / "model.json").exists():  # a run that has been moved, or is used from elsewhere
        config = replace(config, run_dir=str(folder))
    return config, tuning.Setting(**json.loads((folder / "eval.json").read_text())["selected"])


@dataclass(frozen=True)
class Choice:
    """What dev chose.

    Attributes:
        trial: the setting and its dev F1.
        selected_on: `dev`, or `config` where there was nothing to choose from.
        trials: all that were scored.
        skipped_k: neighbours that were asked for and exceed the rows.
    """

    trial: tuning.Trial
    selected_on: str
    trials: tuple[tuning.Trial, ...]
    skipped_k: tuple[int, ...]


def tune(knn_tagger: KnnTagger, config: Config, split: EncodedSplit, names: tuple[str, ...], split_name: str) -> Choice:
    """Chooses k, temperature, knn_weight and metric; one search for each metric.

    Args:
        knn_tagger: tagger and datastore.
        config: `config.knn` is the grid.
        split: encoded dev.
        names: label names by id, gold labels included.
        split_name: must be `dev`.

    Raises:
        InputError: every k exceeds the rows, or the split is not dev.
    """
    tuning.refuse_all_but_dev(split_name)
    knn = config.knn
    grid = tuning.make_grid(as_list(knn.k), as_list(knn.temperature), as_list(knn.knn_weight), knn_tagger.num_rows)
    temperatures = grid.temperature if "all" in grid.k else None
    trials: list[tuning.Trial] = []
    for metric in as_list(knn.metric):
        found = knn_tagger.retrieve(split, grid.largest_k, metric, temperatures)
        trials += tuning.run_grid(tuning.collect(found, split.num_words), split, names, grid, metric)
    selected_on = "dev" if len(trials) > 1 else "config"
    return Choice(tuning.select(trials), selected_on, tuple(trials), grid.skipped_k)


def compile_for(knn_tagger: KnnTagger, setting: tuning.Setting, splits: Sequence[EncodedSplit]) -> None:
    """Compiles the program for every batch shape of the splits, so that what follows is timed without it."""
    mesh = placement.make_mesh()
    rows = placement.round_up(knn_tagger.batch_size, mesh)
    for length in sorted(set().union(*(knn_tagger.shapes(split) for split in splits))):
        empty = Batch(*(np.zeros((rows, length), dtype) for dtype in (np.int32, bool, np.int32, np.int32)))
        empty = empty._replace(
            slots=np.full((rows, length), NO_WORD, np.int32),
            pinyin_ids=None if knn_tagger.model.pinyin is None else np.zeros((rows, length, LETTERS), np.int32),
        )
        jax.block_until_ready(knn_tagger.tag(setting, jax.device_put(empty, placement.split(mesh))))


@dataclass(frozen=True)
class Tagged:
    """Label ids of every word of a split, in order: the tagger's, and with neighbours; and how many words were searched."""

    vanilla: np.ndarray
    knn: np.ndarray
    searched: int


def tag_split(knn_tagger: KnnTagger, setting: tuning.Setting, split: EncodedSplit) -> Tagged:
    """Labels every word; the host only waits at the end."""
    on_device = [(batch.slots, knn_tagger.tag(setting, batch)) for batch in knn_tagger.batches(split)]
    vanilla, knn = np.zeros(split.num_words, np.int32), np.zeros(split.num_words, np.int32)
    searched = 0
    for slots, labels in jax.device_get(on_device):
        is_word = slots != NO_WORD
        vanilla[slots[is_word]], knn[slots[is_word]] = labels.vanilla[is_word], labels.knn[is_word]
        searched += int(labels.searched)
    return Tagged(vanilla, knn, searched)


def by_sentence(label_ids: np.ndarray, split: Split, names: Sequence[str]) -> list[list[str]]:
    """Label ids of all words -> label names by sentence."""
    bounds = np.cumsum([len(sentence.words) for sentence in split.sentences])[:-1]
    return [[names[label] for label in part] for part in np.split(label_ids, bounds)]


def write_predictions(path: Path, split: Split, vanilla: list[list[str]], knn: list[list[str]]) -> None:
    """Tab-separated token, gold, vanilla, kNN; IOB2; every sentence in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sentence, *predictions in zip(split.sentences, vanilla, knn, strict=True):
            for columns in zip(sentence.words, sentence.tags, *predictions, strict=True):
                file.write("\t".join(columns) + "\n")
            file.write("\n")


def score_split(split: Split, vanilla: list[list[str]], knn: list[list[str]]) -> dict[str, Any]:
    """seqeval's scores of both columns."""
    gold = [sentence.tags for sentence in split.sentences]
    return {"vanilla": metrics.score(gold, vanilla), "knn": metrics.score(gold, knn)}
