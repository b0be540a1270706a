"""The configuration of a run as a tree of frozen dataclasses.

The docstrings are the help texts of the command line and the source of docs/configuration.md. Each class checks its fields
when it is made, and an error names the field as the user writes it. Imports next to nothing: every command line needs it.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from knn_ner_jax.io import InputError

Scheme = Literal["auto", "BIO", "IOB1", "BIOES", "BMES", "BILOU", "IO"]
Metric = Literal["cosine", "ip", "l2"]
Protocol = Literal["words", "wang2022"]
K = int | Literal["all"]
PART_LENGTH = 64  # of parts of rows, in batches whose windows are no longer (`batching.plan_batches`, `bert.attend`)


def require(condition: bool, name: str, expected: str, value: object) -> None:
    """Raise InputError unless a condition on the value of a field holds.

    >>> require(1 > 0, "knn.k", "at least 1", 1)
    >>> require(0 > 0, "knn.k", "at least 1", 0)
    Traceback (most recent call last):
    ...
    knn_ner_jax.io.InputError: knn.k: expected at least 1, got 0
    """
    if not condition:
        raise InputError(f"{name}: expected {expected}, got {value}")


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as a list of one.

    >>> as_list(8), as_list([8, "all"])
    ([8], [8, 'all'])
    """
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class DataConfig:
    """The corpus: sentences of words with their entity tags.

    Attributes:
        dir: folder with train, dev and test; pip:package/folder, inside an installed package; or hub:OWNER/NAME[/CONFIG]
        format: what the files are; auto goes by their ending and content (`convert --help` lists the formats)
        columns: which columns are read, by number from 1 or by name, as {token: 2, tag: 3}; default: seen from the files
        scheme: tag scheme of the files; auto takes the one that fits their tags best; IO: tags are types without prefixes
        bare_type: type of the entities where tags are B, I and O alone
        tag_names: names of the tags by number, where the files hold numbers
        token_prefix: what every token begins with and is removed, such as en:
        cut_spans: a span that begins or ends inside a word: snap it to whole words, or refuse the file
        unseen_types: what to do with entity types that only dev or test has: error, or miss (kept, and counted as missed)
        on_error: when lines cannot be read, the run stops; raise names the first, report lists them all
        train_fraction: fraction of the train sentences to use, drawn by seed; a smaller fraction is part of a larger one
        dev_fraction: fraction of the dev sentences to use, drawn likewise; dev chooses the checkpoint and the knn settings
        max_length: most tokens the encoder reads at once, special tokens included; default: as many as the backbone takes
        pad_to_multiple_of: the length of the rows that sentences share is a multiple of this; larger: more padding
    """

    dir: str
    format: str = "auto"
    columns: dict[str, int | str] | None = None
    scheme: Scheme = "auto"
    bare_type: str = "ENT"
    tag_names: list[str] | None = None
    token_prefix: str | None = None
    cut_spans: Literal["snap", "refuse"] = "snap"
    unseen_types: Literal["error", "miss"] = "error"
    on_error: Literal["raise", "report"] = "raise"
    train_fraction: float = 1.0
    dev_fraction: float = 1.0
    max_length: int | None = None
    pad_to_multiple_of: int = 8

    def __post_init__(self) -> None:
        for name in ("train_fraction", "dev_fraction"):
            require(0 < getattr(self, name) <= 1, f"data.{name}", "a fraction in (0, 1]", getattr(self, name))
        columns = {"token": 1, "tag": -1} if self.columns is None else self.columns
        is_valid = {"token", "tag"} <= columns.keys() <= {"token", "tag", "sentence"} and 0 not in columns.values()
        require(is_valid, "data.columns", "token and tag, and perhaps sentence, each a number from 1 or a name", columns)
        require(bool(self.bare_type), "data.bare_type", "a type, such as ENT", repr(self.bare_type))
        require(self.max_length is None or self.max_length >= 4, "data.max_length", "at least 4", self.max_length)
        require(self.pad_to_multiple_of >= 1, "data.pad_to_multiple_of", "at least 1", self.pad_to_multiple_of)


@dataclass(frozen=True)
class ScratchConfig:
    """A BERT that starts from random weights.

    Attributes:
        vocab: file of a WordPiece vocabulary, one subword a line
        hidden_size: width of the hidden states
        num_hidden_layers: number of transformer layers
        num_attention_heads: attention heads in each layer
        intermediate_size: width inside the feed-forward blocks
        max_position_embeddings: most tokens the encoder can read at once
    """

    vocab: str = ""
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 512
    max_position_embeddings: int = 512

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.type is int:
                value, least = getattr(self, entry.name), 4 if entry.name == "max_position_embeddings" else 1
                require(value >= least, f"model.scratch.{entry.name}", f"at least {least}", value)
        expected = f"a multiple of num_attention_heads {self.num_attention_heads}"
        require(self.hidden_size % self.num_attention_heads == 0, "model.scratch.hidden_size", expected, self.hidden_size)


@dataclass(frozen=True)
class ModelConfig:
    """The tagger: an encoder and a classification head on its last hidden states.

    Attributes:
        backbone: pretrained encoder: a folder in transformers' layout, a hub id, pip:package/folder; scratch: random weights
        dropout: dropout rate of the hidden states while training; default: the backbone's own
        head: classifier on each word's hidden state: linear is one dense layer; mlp is a dense layer, tanh, and a second one
        scratch: size and vocabulary of the encoder where backbone is scratch
        lowercase: whether words are lower-cased before they are split into subwords; default: as the backbone
        labels: labels of the head's outputs in order, for a tagger with train.epochs 0; default: id2label of its config.json
        label_scheme: tag scheme of that tagger's answers, read as IOB2; auto goes by its label names and its answers on dev
    """

    backbone: str
    dropout: float | None = None
    head: Literal["linear", "mlp"] = "linear"
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    lowercase: bool | None = None
    labels: list[str] | None = None
    label_scheme: Scheme = "auto"

    def __post_init__(self) -> None:
        require(self.dropout is None or 0 <= self.dropout < 1, "model.dropout", "a fraction in [0, 1)", self.dropout)
        if self.backbone == "scratch":
            require(bool(self.scratch.vocab), "model.scratch.vocab", "a vocabulary file", "none")


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tuning with AdamW.

    Attributes:
        epochs: passes over train; 0 trains nothing and uses the head of the backbone, which must be a fine-tuned tagger
        batch_size: sentences in a step; a sentence longer than data.max_length counts as several
        learning_rate: the highest learning rate, reached at the end of the warm-up
        weight_decay: AdamW's weight decay; biases and layer norms are exempt
        warmup_ratio: fraction of the steps in which the learning rate rises linearly from 0; in the others it falls to 0
        max_grad_norm: gradients of a larger global norm are scaled down to it; .inf never scales
        gradient_accumulation_steps: steps whose gradients are averaged into one update of the parameters
        dtype: arithmetic of the encoder: float32, or bfloat16, which is faster on GPU and TPU; parameters are always float32
        save_every: steps between checkpoints; 0 saves only with each evaluation
        evaluate_every: steps between evaluations on dev; 0 means that evaluations_per_epoch decides
        evaluations_per_epoch: evaluations on dev in an epoch, evenly spread, the last at its end
        log_every: steps between lines of metrics.jsonl
        remat: keep only the input of each layer for the backward pass: less memory, a third more arithmetic
        profile: steps to trace for TensorBoard or Perfetto, into the run's folder profile; 0 traces none
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
            require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        for name in ("epochs", "save_every", "evaluate_every", "weight_decay", "profile"):
            require(getattr(self, name) >= 0, f"train.{name}", "at least 0", getattr(self, name))
        require(self.max_grad_norm > 0, "train.max_grad_norm", "more than 0", self.max_grad_norm)
        is_rate = 0 < self.learning_rate < float("inf")
        require(is_rate, "train.learning_rate", "a finite number above 0", self.learning_rate)
        require(0 <= self.warmup_ratio <= 1, "train.warmup_ratio", "a fraction in [0, 1]", self.warmup_ratio)


@dataclass(frozen=True)
class DatastoreConfig:
    """The datastore: the hidden state of each training word (the key) with its tag (the value).

    Attributes:
        corpus: folder whose train file is stored, given as data.dir is; default: data.dir
        fraction: fraction of its sentences to store, drawn by seed; default: what was trained on
            (data.train_fraction), or all of datastore.corpus
        subwords: which subwords of a word are stored, each with the word's tag: its first, or all
        include_o: whether words tagged O, which are part of no entity, are stored
        layers: hidden states that make a key, several are concatenated: 0 the embeddings, 1 the first layer, -1 the last
        whitening_dim: dimensions the keys are reduced to by PCA whitening (uncorrelated, of unit variance); default: none
        key_dtype: number format of the stored keys; bfloat16 takes half the memory and rounds them
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
        require(self.fraction is None or 0 < self.fraction <= 1, "datastore.fraction", "a fraction in (0, 1]", self.fraction)
        dim = self.whitening_dim
        require(dim is None or dim >= 1, "datastore.whitening_dim", "at least 1", dim)
        require(self.shard_rows >= 1, "datastore.shard_rows", "at least 1", self.shard_rows)
        require(bool(self.layers), "datastore.layers", "at least one layer", self.layers)


def _check_knn_params(config: "PublishedConfig | KnnConfig", section: str) -> None:
    for k in as_list(config.k):
        require(k in ("all", None) or k >= 1, f"{section}.k", "at least 1, or all", k)
    for temperature in as_list(config.temperature):
        valid = temperature is None or 0 < temperature < float("inf")
        require(valid, f"{section}.temperature", "a finite number above 0", temperature)
    for weight in as_list(config.knn_weight):
        require(weight is None or 0 <= weight <= 1, f"{section}.knn_weight", "a weight in [0, 1]", weight)


@dataclass(frozen=True)
class PublishedConfig:
    """The settings that a paper reports, on whichever split they were chosen there.

    Attributes:
        k: the paper's number of neighbours, or all
        temperature: the paper's temperature
        knn_weight: the paper's weight of the neighbours
    """

    k: K | None = None
    temperature: float | None = None
    knn_weight: float | None = None

    def __post_init__(self) -> None:
        _check_knn_params(self, "knn.published")


@dataclass(frozen=True)
class KnnConfig:
    """The nearest neighbours and their vote; of k, temperature, knn_weight and metric each may be a list dev chooses from.

    Attributes:
        k: number of nearest training words that vote; all: every word of the datastore votes
        temperature: divides the similarities before the softmax that weighs the votes; small: the nearest neighbour decides
        knn_weight: weight of the neighbours' vote, from 0 (the tagger alone) to 1 (the neighbours alone)
        metric: similarity of query and key: cosine; ip, the inner product; l2, the negative squared distance
        selection: who sets k, temperature and knn_weight: dev, the best of the lists; published, as in knn.published
        published: the settings of a paper, used where selection is published
        block_rows: datastore rows compared at a time; more take more memory
        prune: settle words by a part of the datastore where that provably gives the same label; off, labelling takes longer
    """

    k: K | list[K] = field(default_factory=lambda: [8, 32, 128, 512])
    temperature: float | list[float] = field(default_factory=lambda: [0.01, 0.03, 0.1, 0.3])
    knn_weight: float | list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    metric: Metric | list[Metric] = "cosine"
    selection: Literal["dev", "published"] = "dev"
    published: PublishedConfig = field(default_factory=PublishedConfig)
    block_rows: int = 32768
    prune: bool = True

    def __post_init__(self) -> None:
        for name in ("k", "temperature", "knn_weight", "metric"):
            values = as_list(getattr(self, name))
            require(len(values) > 0, f"knn.{name}", "a value or a list of values", values)
            require(len(set(values)) == len(values), f"knn.{name}", "no value twice", values)
        _check_knn_params(self, "knn")
        if self.selection == "published":
            reported = [self.published.k, self.published.temperature, self.published.knn_weight]
            expected = "k, temperature and knn_weight, because knn.selection is published"
            require(None not in reported, "knn.published", expected, reported)
            one_metric = "one metric, because knn.selection is published"
            require(len(as_list(self.metric)) == 1, "knn.metric", one_metric, self.metric)
        require(self.block_rows >= 1, "knn.block_rows", "at least 1", self.block_rows)


@dataclass(frozen=True)
class EvalConfig:
    """How words are encoded when a datastore is built, settings are tuned and text is labelled.

    Attributes:
        batch_size: sentences encoded at a time, about; changes speed and memory; results change only by float32 rounding
    """

    batch_size: int = 32

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "eval.batch_size", "at least 1", self.batch_size)


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes as one run (docs/scaling.md); not stored with the run.

    Attributes:
        coordinator_address: HOST:PORT of the first process; default: $JAX_COORDINATOR_ADDRESS, or what JAX detects
        num_processes: number of processes; default: $JAX_NUM_PROCESSES
        process_id: number of this process, from 0; default: $JAX_PROCESS_ID
        heartbeat_timeout_s: seconds of silence after which a process counts as dead and the others end
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_timeout_s: int = 100

    def __post_init__(self) -> None:
        address = self.coordinator_address
        is_address = address is None or bool(re.fullmatch(r".+:\d+", address))
        require(is_address, "distributed.coordinator_address", "HOST:PORT", address)
        for name, least in {"num_processes": 1, "process_id": 0, "heartbeat_timeout_s": 1}.items():
            value = getattr(self, name)
            require(value is None or value >= least, f"distributed.{name}", f"at least {least}", value)
        if self.process_id is not None and self.num_processes is not None:
            expected = f"less than distributed.num_processes, which is {self.num_processes}"
            require(self.process_id < self.num_processes, "distributed.process_id", expected, self.process_id)


@dataclass(frozen=True)
class Config:
    """One run: a tagger is fine-tuned, a datastore built, and test labelled with and without neighbours.

    Attributes:
        run_dir: folder that receives everything the run writes
        data: the corpus
        model: the tagger
        train: fine-tuning
        datastore: the training words that can become neighbours
        knn: the nearest neighbours and their vote
        eval: encoding for the datastore, tuning and labelling
        protocol: what is tagged, stored and scored: words; or wang2022, subwords in BMES, to compare with that paper
        seed: seed of the initial weights, dropout, the order of the data and the fractions drawn from it
        eval_dir: folder for the datastore, eval.json and the predictions; default: run_dir
        distributed: how several processes find each other, where JAX cannot detect it
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
        for name in ("run_dir", "eval_dir"):
            if folder := getattr(self, name):
                object.__setattr__(self, name, os.path.expanduser(folder))
        require(bool(self.run_dir), "run_dir", "a folder", "nothing")
        require(0 <= self.seed < 2**31, "seed", "0 to 2147483647", self.seed)
        only_cosine = as_list(self.knn.metric) == ["cosine"]
        require(self.protocol == "words" or only_cosine, "knn.metric", "cosine with protocol: wang2022", self.knn.metric)
        subwords = self.datastore.subwords
        require(
            self.protocol == "words" or subwords == "first", "datastore.subwords", "first with protocol: wang2022", subwords
        )
        if self.train.epochs == 0:
            require(self.model.backbone != "scratch", "train.epochs", "at least 1 for a model from scratch", 0)
            require(self.model.head == "linear", "model.head", "linear where train.epochs is 0", self.model.head)
            require(self.protocol == "words", "protocol", "words where train.epochs is 0", self.protocol)
        else:
            only_untrained = "unless train.epochs is 0: a head that is trained has the corpus's labels"
            require(self.model.labels is None, "model.labels", f"none {only_untrained}", self.model.labels)
            scheme = self.model.label_scheme
            require(scheme == "auto", "model.label_scheme", f"auto {only_untrained}", scheme)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by dotted name.

    >>> flatten({"seed": 0, "knn": {"k": [8, 32]}})
    {'seed': 0, 'knn.k': [8, 32]}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
