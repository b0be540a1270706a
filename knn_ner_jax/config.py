"""One run is one frozen dataclass tree; its docstrings are the help texts, its checks name the field."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from knn_ner_jax.io import InputError

Scheme = Literal["auto", "BIO", "IOB1", "BIOES", "BMES", "BILOU"]
Metric = Literal["cosine", "ip", "l2"]
Protocol = Literal["words", "wang2022"]
K = int | Literal["all"]
Axis = dict[str, list[Any]]  # fields of a configuration -> equally long lists of values


def _require(condition: bool, name: str, expected: str, given: object) -> None:
    if not condition:
        raise InputError(f"{name}: expected {expected}, got {given}")


def as_list(value: Any) -> list[Any]:
    """A value or a list to tune over -> a list."""
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class DataConfig:
    """The corpus.

    Attributes:
        dir: folder with one train.*, one dev.* or valid*.*, one test.*; pip:package/folder; or hub:OWNER/NAME[/CONFIG]
        scheme: how the files spell entities; auto detects it
        unseen_types: entity types of dev or test that train has not: an error, or kept and counted as missed
        on_error: bad lines: stop at the first (raise) or list them all (report)
        train_fraction: of the training sentences, the first of one shuffle by seed: a smaller share is part of a larger one
        dev_fraction: of the dev sentences, which choose checkpoint and settings, drawn likewise
        max_length: most word pieces encoded at once; default: all the backbone takes
        pad_to_multiple_of: windows are padded to multiples of this (of larger steps from 64 on); larger compiles less
    """

    dir: str
    scheme: Scheme = "auto"
    unseen_types: Literal["error", "miss"] = "error"
    on_error: Literal["raise", "report"] = "raise"
    train_fraction: float = 1.0
    dev_fraction: float = 1.0
    max_length: int | None = None
    pad_to_multiple_of: int = 8

    def __post_init__(self) -> None:
        for name in ("train_fraction", "dev_fraction"):
            _require(0 < getattr(self, name) <= 1, f"data.{name}", "a share in (0, 1]", getattr(self, name))
        _require(self.max_length is None or self.max_length >= 4, "data.max_length", "at least 4", self.max_length)
        _require(self.pad_to_multiple_of >= 1, "data.pad_to_multiple_of", "at least 1", self.pad_to_multiple_of)


@dataclass(frozen=True)
class ScratchConfig:
    """A BERT that starts from random weights.

    Attributes:
        vocab: WordPiece vocabulary, one piece a line
        lowercase: lower-case words and strip accents first
        hidden_size: width of the hidden states
        num_hidden_layers: layers
        num_attention_heads: heads in each layer
        intermediate_size: width inside the feed-forward blocks
        max_position_embeddings: longest window
    """

    vocab: str = ""
    lowercase: bool = False
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 512
    max_position_embeddings: int = 512

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type is int:
                value, least = getattr(self, entry.name), 4 if entry.name == "max_position_embeddings" else 1
                _require(value >= least, f"model.scratch.{entry.name}", f"at least {least}", value)
        fits = self.hidden_size % self.num_attention_heads == 0
        heads = f"a multiple of num_attention_heads {self.num_attention_heads}"
        _require(fits, "model.scratch.hidden_size", heads, self.hidden_size)


@dataclass(frozen=True)
class ModelConfig:
    """The tagger.

    Attributes:
        backbone: a folder in transformers' layout, a hub id, pip:package/folder, or scratch (see model.scratch)
        dropout: of hidden states while training, in [0, 1); default: what the backbone's config says
        head: of the tagger: linear, or mlp (dense, tanh, linear)
        scratch: the encoder when backbone is scratch
    """

    backbone: str
    dropout: float | None = None
    head: Literal["linear", "mlp"] = "linear"
    scratch: ScratchConfig = field(default_factory=ScratchConfig)

    def __post_init__(self) -> None:
        _require(self.dropout is None or 0 <= self.dropout < 1, "model.dropout", "a share in [0, 1)", self.dropout)
        if self.backbone == "scratch":
            _require(bool(self.scratch.vocab), "model.scratch.vocab", "a vocabulary file", "none")


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tuning.

    Attributes:
        epochs: passes over train; 0 trains nothing: the backbone is a whole tagger, and its own head is used
        batch_size: sentences in a step
        learning_rate: peak of AdamW's
        weight_decay: on everything but biases and layer norms
        warmup_ratio: share of the steps in which the learning rate rises from 0; it falls to 0 in the rest
        max_grad_norm: gradients are scaled down to this global norm; .inf: never
        gradient_accumulation_steps: steps whose gradients are averaged before the parameters change
        dtype: of the encoder's arithmetic; float32 is that on every device, bfloat16 the fast one on accelerators;
            parameters are float32 always
        save_every: steps between checkpoints; 0 saves only with evaluations
        evaluate_every: steps between evaluations on dev; 0 goes by evaluations_per_epoch
        evaluations_per_epoch: evaluations on dev, evenly spread, the last at the end of the epoch
        log_every: steps between lines of metrics.jsonl
        remat: keep only each layer's input for the backward pass: less memory, a third more arithmetic
        profile: steps to trace, after the first ones have compiled, into the folder profile of the run; 0 none
    """

    epochs: int = 5
    batch_size: int = 16
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    save_every: int = 200
    evaluate_every: int = 0
    evaluations_per_epoch: int = 1
    log_every: int = 10
    remat: bool = False
    profile: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "evaluations_per_epoch", "log_every"):
            _require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        for name in ("epochs", "save_every", "evaluate_every", "weight_decay", "profile"):
            _require(getattr(self, name) >= 0, f"train.{name}", "at least 0", getattr(self, name))
        for name in ("learning_rate", "max_grad_norm"):
            _require(getattr(self, name) > 0, f"train.{name}", "more than 0", getattr(self, name))
        _require(self.learning_rate < float("inf"), "train.learning_rate", "more than 0", self.learning_rate)
        _require(0 <= self.warmup_ratio <= 1, "train.warmup_ratio", "a share in [0, 1]", self.warmup_ratio)


@dataclass(frozen=True)
class DatastoreConfig:
    """What is remembered.

    Attributes:
        corpus: folder whose train file is remembered; default: data.dir
        fraction: of its sentences, drawn as data.train_fraction; default: data.train_fraction of data.dir, all of another corpus
        subwords: which pieces of a word are remembered, with its tag
        include_o: whether words that are tagged O are remembered
        layers: hidden states that make a key, several are concatenated: 0 the embeddings, 1 the first layer, -1 the last
        whitening_dim: rank of a PCA whitening of the keys; default: none
        key_dtype: of stored keys; bfloat16 is compression: half the memory, and a search that is exact for the keys as stored
        shard_rows: rows in one file on disk
    """

    corpus: str | None = None
    fraction: float | None = None
    subwords: Literal["first", "all"] = "first"
    include_o: bool = True
    layers: list[int] = field(default_factory=lambda: [-1])
    whitening_dim: int | None = None
    key_dtype: Literal["float32", "bfloat16"] = "float32"
    shard_rows: int = 65536

    def __post_init__(self) -> None:
        _require(self.fraction is None or 0 < self.fraction <= 1, "datastore.fraction", "a share in (0, 1]", self.fraction)
        _require(
            self.whitening_dim is None or self.whitening_dim >= 1,
            "datastore.whitening_dim",
            "a rank of at least 1",
            self.whitening_dim,
        )
        _require(self.shard_rows >= 1, "datastore.shard_rows", "at least 1", self.shard_rows)
        _require(bool(self.layers), "datastore.layers", "at least one layer", self.layers)


def _check_setting(given: "PublishedConfig | KnnConfig", section: str) -> None:
    for k in as_list(given.k):
        _require(k in ("all", None) or k >= 1, f"{section}.k", "at least 1, or all", k)
    for temperature in as_list(given.temperature):
        valid = temperature is None or 0 < temperature < float("inf")
        _require(valid, f"{section}.temperature", "more than 0", temperature)
    for weight in as_list(given.knn_weight):
        _require(weight is None or 0 <= weight <= 1, f"{section}.knn_weight", "a weight in [0, 1]", weight)


@dataclass(frozen=True)
class PublishedConfig:
    """A setting that a paper reports, whichever split it was chosen on.

    Attributes:
        k: the paper's knn.k
        temperature: the paper's knn.temperature
        knn_weight: the paper's knn.knn_weight
    """

    k: K | None = None
    temperature: float | None = None
    knn_weight: float | None = None

    def __post_init__(self) -> None:
        _check_setting(self, "knn.published")


@dataclass(frozen=True)
class KnnConfig:
    """Neighbours; k, temperature, knn_weight and metric are each a value, or a list from which dev chooses.

    Attributes:
        k: how many neighbours vote, or all
        temperature: of the vote's softmax; small: the nearest decides
        knn_weight: share of the vote in the mix with the tagger
        metric: how near is near
        selection: dev chooses from the lists; published takes k, temperature and knn_weight from knn.published instead
        published: what a paper reports
        block_rows: datastore rows compared at a time; memory grows with it
        search_dtype: how labels look for neighbours, with one result: auto is bfloat16 first on accelerators, float32 on CPU
        prune: ask copies of some rows first, often a quarter of all, at most half; without, the same labels take longer
    """

    k: K | list[K] = field(default_factory=lambda: [8, 32, 128, 512])
    temperature: float | list[float] = field(default_factory=lambda: [0.01, 0.03, 0.1, 0.3])
    knn_weight: float | list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    metric: Metric | list[Metric] = "cosine"
    selection: Literal["dev", "published"] = "dev"
    published: PublishedConfig = field(default_factory=PublishedConfig)
    block_rows: int = 32768
    search_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    prune: bool = True

    def __post_init__(self) -> None:
        for name in ("k", "temperature", "knn_weight", "metric"):
            values = as_list(getattr(self, name))
            _require(len(values) > 0, f"knn.{name}", "a value or a list of values", values)
            _require(len(set(values)) == len(values), f"knn.{name}", "no value twice", values)
        _check_setting(self, "knn")
        if self.selection == "published":
            reported = [self.published.k, self.published.temperature, self.published.knn_weight]
            expected = "k, temperature and knn_weight, because knn.selection is published"
            _require(None not in reported, "knn.published", expected, reported)
            one_metric = "one metric, because knn.selection is published"
            _require(len(as_list(self.metric)) == 1, "knn.metric", one_metric, self.metric)
        _require(self.block_rows >= 1, "knn.block_rows", "at least 1", self.block_rows)


@dataclass(frozen=True)
class EvalConfig:
    """Encoding while building a datastore, tuning and labelling.

    Attributes:
        batch_size: windows encoded at a time
    """

    batch_size: int = 32

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "eval.batch_size", "at least 1", self.batch_size)


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes as one run (docs/scaling.md); no part of what a run is, and not stored with it.

    Attributes:
        coordinator_address: HOST:PORT of the first process; default: $JAX_COORDINATOR_ADDRESS, or what JAX finds by itself
        num_processes: how many there are; default: $JAX_NUM_PROCESSES
        process_id: which of them this is, from 0; default: $JAX_PROCESS_ID
        heartbeat_timeout_s: seconds of silence after which a process counts as dead and the others end
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_timeout_s: int = 100

    def __post_init__(self) -> None:
        if self.coordinator_address is not None and not re.fullmatch(r".+:\d+", self.coordinator_address):
            raise InputError(f"distributed.coordinator_address: expected HOST:PORT, got {self.coordinator_address}")
        for name, least in {"num_processes": 1, "process_id": 0, "heartbeat_timeout_s": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"distributed.{name}: expected at least {least}, got {value}")
        if self.process_id is not None and self.num_processes is not None and self.process_id >= self.num_processes:
            expected = f"less than distributed.num_processes, which is {self.num_processes}"
            raise InputError(f"distributed.process_id: expected {expected}, got {self.process_id}")


@dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        run_dir: folder that receives everything the run writes
        data: the corpus
        model: the tagger
        train: fine-tuning
        datastore: what is remembered
        knn: neighbours
        eval: how words are encoded for labelling
        protocol: what is tagged, stored and scored: words, or as in Wang et al. 2022 pieces in BMES, for comparison only
        seed: of initialisation, dropout and data order
        eval_dir: folder for datastore, eval.json and predictions; default: run_dir
        distributed: how several processes find each other; only where JAX cannot tell by itself
    """

    run_dir: str
    data: DataConfig
    model: ModelConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    datastore: DatastoreConfig = field(default_factory=DatastoreConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    protocol: Protocol = "words"
    seed: int = 0
    eval_dir: str | None = None
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        _require(bool(self.run_dir), "run_dir", "a folder", "nothing")
        _require(0 <= self.seed < 2**31, "seed", "0 to 2147483647", self.seed)
        only_cosine = as_list(self.knn.metric) == ["cosine"]
        _require(self.protocol == "words" or only_cosine, "knn.metric", "cosine with protocol: wang2022", self.knn.metric)
        subwords = self.datastore.subwords
        _require(
            self.protocol == "words" or subwords == "first", "datastore.subwords", "first with protocol: wang2022", subwords
        )
        if self.train.epochs == 0:
            _require(self.model.backbone != "scratch", "train.epochs", "at least 1 for a model from scratch", 0)
            _require(self.model.head == "linear", "model.head", "linear where train.epochs is 0", self.model.head)
            _require(self.protocol == "words", "protocol", "words where train.epochs is 0", self.protocol)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping -> its leaves by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


FIXED_IN_STUDIES = ("run_dir", "eval_dir", "seed", "distributed", "ablation")  # what a study itself decides


@dataclass(frozen=True)
class AblationConfig:
    """What varies; an axis maps fields to equally long lists, which go together, and axes are crossed.

    Attributes:
        seeds: each cell is computed with every one, whatever `seed` says
        conditions: axes of questions of their own, each reported on test
        candidates: axes of which dev chooses one combination for every condition; the first is the reference
        taggers: folder of the trained taggers, which several studies may share; default: in run_dir
        stop_before_test: stop once dev has chosen, so that the choices can be committed before test is opened
        adaptive: also fit a network that chooses weight and k for each word
        keep_datastores: leave them on the disk after a cell is done
        resamples: of the bootstrap behind every interval
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    conditions: list[Axis] = field(default_factory=list)
    candidates: list[Axis] = field(default_factory=list)
    taggers: str | None = None
    stop_before_test: bool = False
    adaptive: bool = False
    keep_datastores: bool = False
    resamples: int = 10_000

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"ablation.seeds: expected different seeds, got {self.seeds}")
        if self.resamples < 1:
            raise InputError(f"ablation.resamples: expected at least 1, got {self.resamples}")
        seen: set[str] = set()
        for name, axis in self._named_axes():
            lengths = {key: len(as_list(values)) for key, values in axis.items()}
            if len(set(lengths.values())) != 1 or 0 in lengths.values():
                raise InputError(f"{name}: expected lists of one length, got {lengths}")
            if fixed := [key for key in axis if key.split(".")[0] in FIXED_IN_STUDIES]:
                raise InputError(f"{name}: expected fields that may vary, got {', '.join(fixed)}")
            if twice := seen & axis.keys():
                raise InputError(f"{name}: expected each field on one axis, got {', '.join(twice)} again")
            seen |= axis.keys()

    def _named_axes(self) -> Iterator[tuple[str, Axis]]:
        for kind in ("conditions", "candidates"):
            for number, axis in enumerate(getattr(self, kind)):
                yield f"ablation.{kind}[{number}]", axis


@dataclass(frozen=True)
class StudyConfig(Config):
    """A run, and what varies about it.

    Attributes:
        ablation: what varies
    """

    ablation: AblationConfig = field(default_factory=AblationConfig)
