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

from knn_ner_jax import sharding
from knn_ner_jax.cli import read_config
from knn_ner_jax.config import Config, as_list
from knn_ner_jax.data.batching import Batch, BatchPlan, placed_batches, plan_evaluation
from knn_ner_jax.data.corpus import Corpus, Split, read_train
from knn_ner_jax.data.tag_schemes import OUTSIDE, LabelSet
from knn_ner_jax.data.tokenization import ALL_SUBWORDS, EncodedSplit, encode, tokenizer_fingerprint
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.io import InputError
from knn_ner_jax.knn import datastore, pruning, storage
from knn_ner_jax.knn.build import build_datastore
from knn_ner_jax.knn.inference import FEW_QUERY_ROWS, QUERY_ROWS, RetrievalSpec, Retrieved, Tagging, begin, retrieve, tag
from knn_ner_jax.knn.pruning import Panels
from knn_ner_jax.knn.search import SearchDtype
from knn_ner_jax.models.pretrained import fingerprint
from knn_ner_jax.models.tagger import Params
from knn_ner_jax.run_dir import TrainedModel
from knn_ner_jax.training.checkpoints import Checkpoints


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
        prune: whether a few rows are asked first.
        spec: what the compiled functions are compiled for; its k and metric are replaced as needed.
        label_set: labels of tagger and datastore together; gold labels beyond it are appended to it.
        batch_size: windows encoded at a time.
        pad_to_multiple_of: see `batching.bucket_length`.
        mesh: devices that hold parameters and datastore, and fraction each batch.
    """

    model: TrainedModel
    params: Params
    stored: storage.Stored
    prune: bool
    spec: RetrievalSpec
    label_set: LabelSet
    batch_size: int
    pad_to_multiple_of: int
    mesh: Mesh

    @property
    def num_rows(self) -> int:
        """Rows of the datastore."""
        return int(self.stored.datastore.num_rows)

    def plan(self, split: EncodedSplit) -> list[BatchPlan]:
        """The batches of a split, in order."""
        return plan_evaluation(split.lengths, self.batch_size, self.pad_to_multiple_of)

    def batches(self, split: EncodedSplit) -> Iterator[Batch]:
        """Every window of a split once, on the devices."""
        return placed_batches(split, self.plan(split), self.batch_size, self.mesh)

    def retrieve(
        self, split: EncodedSplit, k: tuning.K, metric: str, temperatures: Sequence[float] | None
    ) -> Iterator[Retrieved]:
        """Looks up every word of a split (see `inference.retrieve`)."""
        spec = replace(self.spec, k=k, metric=metric)
        traced = None if temperatures is None else np.asarray(temperatures, np.float32)
        for batch in self.batches(split):
            yield retrieve(self.params, self.stored.datastore, batch, traced, spec=spec)

    @cached_property
    def panels(self) -> Panels | None:
        """Rows that settle most words, copied when they are first asked; None: not wanted, or too many."""
        return pruning.choose_panels(self.stored.datastore.rows, len(self.label_set), self.mesh) if self.prune else None

    @property
    def _labelling(self) -> RetrievalSpec:
        # Accelerators read all keys for 64 words in about the time they take for 256.
        few = self.panels is not None and jax.default_backend() == "cpu"
        return replace(self.spec, rest_rows=FEW_QUERY_ROWS if few else QUERY_ROWS)

    def begin(self, num_words: int) -> Tagging:
        """The state before the first batch of a split (see `inference.begin`)."""
        return begin(num_words, self.stored.datastore, self._labelling)

    def tag(self, tagging: Tagging, setting: tuning.KnnParams, batch: Batch, last: bool) -> Tagging:
        """Labels a batch (see `inference.tag`)."""
        spec = replace(self._labelling, k=setting.k, metric=setting.metric)
        traced = np.float32(setting.temperature), np.float32(setting.knn_weight), np.bool_(last)
        return tag(tagging, self.params, self.stored.datastore, self.panels, batch, *traced, spec=spec)


@dataclass(frozen=True)
class DatastoreExamples:
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


def read_datastore_corpus(config: Config) -> Split:
    """The train file of `datastore.corpus`."""
    return read_train(config.datastore.corpus or "", config.data.scheme, config.data.on_error, "datastore.corpus")


def select_datastore_examples(config: Config, corpus: Corpus, model: TrainedModel) -> DatastoreExamples:
    """Reads what the datastore remembers: of the corpus' own train file, or of that of `datastore.corpus`.

    Args:
        config: its `datastore` says what.
        corpus: whole.
        model: what encodes it.

    Raises:
        InputError: there is no such file, or nothing in it to select_datastore_examples.
    """
    settings, split, fraction = config.datastore, corpus.train, config.data.train_fraction
    if settings.corpus is not None:
        split, fraction = read_datastore_corpus(config), 1.0
    fraction = settings.fraction or fraction
    split, numbers = split.draw(fraction, config.seed)
    label_set = model.label_set.union(LabelSet.of(sentence.tags for sentence in split.sentences))
    encoded = encode(split.sentences, model.tokenizer, model.max_length, label_set, model.pinyin, settings.subwords == "all")
    if not settings.include_o:
        encoded = encoded.select(encoded.label_ids != label_set.ids()[OUTSIDE])
    if not encoded.num_words:
        raise InputError(
            f"datastore.include_o: expected an entity among the {len(numbers)} sentences remembered, found none"
        )
    encoded = replace(encoded, sentence_ids=numbers[encoded.sentence_ids])
    source = storage.Source(str(split.path), split.sha256, label_set.types, fraction, config.seed, settings.include_o)
    return DatastoreExamples(split, source, numbers, encoded, label_set)


def check_settings(config: Config, model: TrainedModel, num_rows: int) -> None:
    """Raises InputError for layers, a rank or neighbours that this tagger and a datastore of `num_rows` do not have."""
    datastore.check_keys(config.datastore, model.tagger.config)
    make_grid(config, num_rows)


def open_datastore(
    config: Config,
    model: TrainedModel,
    params: Params,
    folder: Path,
    remembered: DatastoreExamples | None,
    mesh: Mesh,
    watch: Stopwatch,
) -> storage.Stored:
    """Loads the datastore of a folder, where `remembered` is given after building it there, or what is missing of it.

    Raises:
        storage.DatastoreError: the one found was made otherwise than this configuration makes it, or there is none.
    """
    settings = config.datastore
    all_subwords = settings.subwords == "all" or model.label_set.protocol == "wang2022"
    layers = datastore.resolve_layers(settings.layers, model.tagger.config.num_hidden_layers)
    expected = storage.Fingerprint(
        weights=fingerprint(params),
        tokenizer=tokenizer_fingerprint(model.tokenizer, model.pinyin),
        layers=layers,
        whitening_dim=settings.whitening_dim,
        subwords=ALL_SUBWORDS[model.label_set.protocol] if all_subwords else "first",
        max_length=model.max_length,
        dtype=model.tagger.dtype,
        key_dtype=settings.key_dtype,
    )
    if remembered is not None:
        plan = storage.Plan(
            expected, remembered.source, settings.shard_rows, config.eval.batch_size, config.data.pad_to_multiple_of
        )
        with watch.stage("build_datastore"):
            build_datastore(folder, model.tagger, params, remembered.encoded, plan, mesh)
    with watch.stage("load_datastore"):
        return storage.load(folder, expected, mesh)


def resolve_search_dtype(search_dtype: Literal["auto", "float32", "bfloat16"]) -> SearchDtype:
    """How the devices at hand look for neighbours (`knn.search_dtype`)."""
    if search_dtype == "auto":
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return search_dtype


def open_knn_tagger(
    config: Config, model: TrainedModel, folder: Path, remembered: DatastoreExamples | None, watch: Stopwatch
) -> KnnTagger:
    """Everything needed to label: the trained parameters of run_dir, and the datastore of `folder`.

    Args:
        config: of the run.
        model: what was trained.
        folder: where the datastore is, or is written.
        remembered: what it is built from; None: it is there.
        watch: takes the time.
    """
    mesh = sharding.make_mesh()
    with watch.stage("load_model"), Checkpoints(Path(config.run_dir) / "checkpoints") as checkpoints:
        params = checkpoints.load_best(model.tagger.abstract_params(), mesh)[2]
    stored = open_datastore(config, model, params, folder / "datastore", remembered, mesh, watch)
    label_set = LabelSet(stored.source.types, model.label_set.protocol)
    spec = RetrievalSpec(
        tagger=model.tagger,
        layers=datastore.resolve_layers(config.datastore.layers, model.tagger.config.num_hidden_layers),
        k="all",
        num_labels=len(label_set),
        block_rows=config.knn.block_rows,
        mesh=mesh if mesh.size > 1 else None,
        search_dtype=resolve_search_dtype(config.knn.search_dtype),
    )
    return KnnTagger(
        model,
        params,
        stored,
        config.knn.prune,
        spec,
        label_set,
        config.eval.batch_size,
        config.data.pad_to_multiple_of,
        mesh,
    )


def load_evaluation(folder: Path) -> tuple[Config, tuning.KnnParams]:
    """The configuration and the chosen setting of a finished evaluation.

    Raises:
        InputError: eval.py has not finished in this folder.
    """
    if not (folder / "eval.json").is_file():
        raise InputError(f"{folder}: expected a finished evaluation (eval.json), found none; run eval.py first")
    config = read_config(folder / "eval.config.yaml")
    if (folder / "model.json").exists():  # a run that has been moved, or is used from elsewhere
        config = replace(config, run_dir=str(folder))
    return config, tuning.KnnParams(**json.loads((folder / "eval.json").read_text(encoding="utf-8"))["selected"])


def make_grid(config: Config, num_rows: int) -> tuning.Grid:
    """The settings of `config.knn` that a datastore of so many rows admits; InputError where there is none."""
    knn = tuning.search_space(config.knn)
    name = "knn.k" if knn.selection == "dev" else "knn.published.k"
    return tuning.make_grid(as_list(knn.k), as_list(knn.temperature), as_list(knn.knn_weight), num_rows, name)
