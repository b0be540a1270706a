"""A trained tagger and a datastore, ready to label: what both are made of is checked, built or loaded here."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from knn_ner_jax import mesh as placement
from knn_ner_jax.checkpoints import Checkpoints
from knn_ner_jax.cli import read_config
from knn_ner_jax.config import Config, as_list
from knn_ner_jax.data.batching import Batch, BatchPlan, placed_batches, plan_evaluation
from knn_ner_jax.data.corpus import Corpus, Split, find_split, read_splits, resolve_path
from knn_ner_jax.data.encoding import EVERY_PIECE, EncodedSplit, encode, tokenizer_fingerprint
from knn_ner_jax.data.labels import OUTSIDE, LabelSet
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.knn import datastore as datastores
from knn_ner_jax.knn import scouts as scouting
from knn_ner_jax.knn import storage
from knn_ner_jax.knn.building import build
from knn_ner_jax.knn.inference import Retrieved, Tagging, begin, retrieve, tag
from knn_ner_jax.knn.retrieval import FEW_QUERY_ROWS, QUERY_ROWS, Retrieval, Scan
from knn_ner_jax.knn.scouts import Panels
from knn_ner_jax.models.bert import BertConfig
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
        scouts: whether a few rows are asked first.
        settings: what the compiled functions are compiled for; its k and metric are replaced as needed.
        label_set: labels of tagger and datastore together; gold labels beyond it are appended to it.
        batch_size: windows encoded at a time.
        length_multiple: see `batching.bucket_length`.
        mesh: devices that hold parameters and datastore, and share each batch.
    """

    model: TrainedModel
    params: Params
    stored: storage.Stored
    scouts: bool
    settings: Retrieval
    label_set: LabelSet
    batch_size: int
    length_multiple: int
    mesh: Mesh

    @property
    def num_rows(self) -> int:
        """Rows of the datastore."""
        return int(self.stored.datastore.num_rows)

    def plan(self, split: EncodedSplit) -> list[BatchPlan]:
        """The batches of a split, in order."""
        return plan_evaluation(split.lengths, self.batch_size, self.length_multiple)

    def batches(self, split: EncodedSplit) -> Iterator[Batch]:
        """Every window of a split once, on the devices."""
        return placed_batches(split, self.plan(split), self.batch_size, self.mesh)

    def retrieve(
        self, split: EncodedSplit, k: tuning.K, metric: str, temperatures: Sequence[float] | None
    ) -> Iterator[Retrieved]:
        """Looks up every word of a split (see `inference.retrieve`)."""
        settings = replace(self.settings, k=k, metric=metric)
        traced = None if temperatures is None else np.asarray(temperatures, np.float32)
        for batch in self.batches(split):
            yield retrieve(self.params, self.stored.datastore, batch, traced, settings=settings)

    @cached_property
    def panels(self) -> Panels | None:
        """Rows that settle most words, copied when they are first asked; None: not wanted, or too many."""
        return scouting.choose(self.stored.datastore.rows, len(self.label_set), self.mesh) if self.scouts else None

    @property
    def _labelling(self) -> Retrieval:
        # Accelerators read all keys for 64 words in about the time they take for 256.
        few = self.panels is not None and jax.default_backend() == "cpu"
        return replace(self.settings, rest_rows=FEW_QUERY_ROWS if few else QUERY_ROWS)

    def begin(self, num_words: int) -> Tagging:
        """The state before the first batch of a split (see `inference.begin`)."""
        return begin(num_words, self.stored.datastore, self._labelling)

    def tag(self, tagging: Tagging, setting: tuning.Setting, batch: Batch, last: bool) -> Tagging:
        """Labels a batch (see `inference.tag`)."""
        settings = replace(self._labelling, k=setting.k, metric=setting.metric)
        traced = np.float32(setting.temperature), np.float32(setting.knn_weight), np.bool_(last)
        return tag(tagging, self.params, self.stored.datastore, self.panels, batch, *traced, settings=settings)


@dataclass(frozen=True)
class Remembered:
    """What a datastore is built from.

    Attributes:
        split: the sentences drawn from a file.
        source: what a datastore says of that.
        numbers: of these sentences among all of the file, ascending.
        encoded: the words that are remembered; their sentence ids are such numbers, whatever was drawn.
        label_set: of the labels they are remembered under.
    """

    split: Split
    source: storage.Source
    numbers: Int[np.ndarray, " sentences"]
    encoded: EncodedSplit
    label_set: LabelSet


def read_other(config: Config) -> Split:
    """The train file of `datastore.corpus`."""
    path = find_split(resolve_path(config.datastore.corpus or ""), "train", "datastore.corpus")
    return read_splits({"train": path}, config.data.scheme, config.data.on_error)[0]["train"]


def remember(config: Config, corpus: Corpus, model: TrainedModel) -> Remembered:
    """Reads what the datastore remembers: of the corpus' own train file, or of that of `datastore.corpus`.

    Args:
        config: its `datastore` says what.
        corpus: whole.
        model: what encodes it.

    Raises:
        InputError: there is no such file, or nothing in it to remember.
    """
    settings, split, share = config.datastore, corpus.train, config.data.train_share
    if settings.corpus is not None:
        split, share = read_other(config), 1.0
    share = settings.share or share
    split, numbers = split.draw(share, config.seed)
    label_set = model.label_set.union(LabelSet.of(sentence.tags for sentence in split.sentences))
    encoded = encode(split.sentences, model.tokenizer, model.window, label_set, model.pinyin, settings.pieces == "all")
    if not settings.outside:
        encoded = encoded.keep(encoded.label_ids != label_set.ids()[OUTSIDE])
    if not encoded.num_words:
        raise InputError(f"datastore.outside: expected an entity among the {len(numbers)} sentences remembered, found none")
    encoded = replace(encoded, sentence_ids=numbers[encoded.sentence_ids])
    source = storage.Source(str(split.path), split.sha256, label_set.types, share, config.seed, settings.outside)
    return Remembered(split, source, numbers, encoded, label_set)


def check_keys(config: Config, encoder: BertConfig) -> None:
    """Raises InputError for layers or a rank that an encoder does not have."""
    layers = datastores.resolve_layers(config.datastore.layers, encoder.num_hidden_layers)
    datastores.check_rank(config.datastore.whiten, len(layers) * encoder.hidden_size)


def check_settings(config: Config, model: TrainedModel, num_rows: int) -> None:
    """Raises InputError for layers, a rank or neighbours that this tagger and a datastore of `num_rows` do not have."""
    check_keys(config, model.tagger.config)
    make_grid(config, num_rows)


def open_datastore(
    config: Config,
    model: TrainedModel,
    params: Params,
    folder: Path,
    remembered: Remembered | None,
    mesh: Mesh,
    watch: Stopwatch,
) -> storage.Stored:
    """Loads the datastore of a folder, where `remembered` is given after building it there, or what is missing of it.

    Raises:
        storage.DatastoreError: the one found was made otherwise than this configuration makes it, or there is none.
    """
    settings = config.datastore
    every_piece = settings.pieces == "all" or model.label_set.protocol == "wang2022"
    layers = datastores.resolve_layers(settings.layers, model.tagger.config.num_hidden_layers)
    expected = storage.Fingerprint(
        weights=fingerprint(params),
        tokenizer=tokenizer_fingerprint(model.tokenizer, model.pinyin),
        layers=layers,
        whiten=settings.whiten,
        pieces=EVERY_PIECE[model.label_set.protocol] if every_piece else "first",
        window=model.window,
        dtype=model.tagger.dtype,
        key_dtype=settings.dtype,
    )
    if remembered is not None:
        plan = storage.Plan(
            expected, remembered.source, settings.shard_rows, config.knn.batch_size, config.data.length_multiple
        )
        with watch.stage("build_datastore"):
            build(folder, model.tagger, params, remembered.encoded, plan, mesh)
    with watch.stage("load_datastore"):
        return storage.load(folder, expected, mesh)


def resolve_scan(scan: Literal["auto", "float32", "bfloat16"]) -> Scan:
    """How the devices at hand look for neighbours (`knn.scan`)."""
    if scan == "auto":
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return scan


def open_knn_tagger(
    config: Config, model: TrainedModel, folder: Path, remembered: Remembered | None, watch: Stopwatch
) -> KnnTagger:
    """Everything needed to label: the trained parameters of run_dir, and the datastore of `folder`.

    Args:
        config: of the run.
        model: what was trained.
        folder: where the datastore is, or is written.
        remembered: what it is built from; None: it is there.
        watch: takes the time.
    """
    mesh = placement.make_mesh()
    with watch.stage("load_model"), Checkpoints(Path(config.run_dir) / "checkpoints") as checkpoints:
        params = checkpoints.load_best(model.tagger.abstract_params(), mesh)[2]
    stored = open_datastore(config, model, params, folder / "datastore", remembered, mesh, watch)
    label_set = LabelSet(stored.source.types, model.label_set.protocol)
    settings = Retrieval(
        tagger=model.tagger,
        layers=datastores.resolve_layers(config.datastore.layers, model.tagger.config.num_hidden_layers),
        k="all",
        num_labels=len(label_set),
        block_rows=config.knn.block_rows,
        mesh=mesh if mesh.size > 1 else None,
        scan=resolve_scan(config.knn.scan),
    )
    return KnnTagger(
        model,
        params,
        stored,
        config.knn.scouts,
        settings,
        label_set,
        config.knn.batch_size,
        config.data.length_multiple,
        mesh,
    )


def load_evaluation(folder: Path) -> tuple[Config, tuning.Setting]:
    """The configuration and the chosen setting of a finished evaluation.

    Raises:
        InputError: eval.py has not finished in this folder.
    """
    if not (folder / "eval.json").is_file():
        raise InputError(f"{folder}: expected a finished evaluation (eval.json), found none; run eval.py first")
    config = read_config(folder / "eval.config.yaml")
    if (folder / "model.json").exists():  # a run that has been moved, or is used from elsewhere
        config = replace(config, run_dir=str(folder))
    return config, tuning.Setting(**json.loads((folder / "eval.json").read_text(encoding="utf-8"))["selected"])


def make_grid(config: Config, num_rows: int) -> tuning.Grid:
    """The settings of `config.knn` that a datastore of so many rows admits; InputError where there is none."""
    knn = tuning.offered(config.knn)
    name = "knn.k" if knn.selection == "dev" else "knn.published.k"
    return tuning.make_grid(as_list(knn.k), as_list(knn.temperature), as_list(knn.knn_weight), num_rows, name)
