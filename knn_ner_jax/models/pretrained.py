"""Pretrained encoders: a folder, a hub id or `pip:package/folder` -> our parameters, every tensor accounted for.

The table below maps each tensor of transformers' BertModel to a place in our parameters. PyTorch keeps dense weights as
[out, in] and one tensor a layer; ours are [in, out] with the layers stacked.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import jax
import numpy as np
import transformers
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from knn_ner_jax.config import ScratchConfig
from knn_ner_jax.data.corpus import resolve_path
from knn_ner_jax.errors import InputError
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.tagger import Params

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
HUB_FILES = ["config.json", WEIGHTS_FILE, "vocab.txt", "tokenizer*.json", "special_tokens_map.json"]

_DENSE = {"weight": "kernel", "bias": "bias"}
_NORM = {"weight": "scale", "bias": "bias"}
_EMBED = {"weight": "embedding"}

# source module -> (our module, names of its tensors); "layers" stands for the stacked layers, {i} for a layer's number
TABLE: dict[str, tuple[str, dict[str, str]]] = {
    "embeddings.word_embeddings": ("embeddings.word", _EMBED),
    "embeddings.position_embeddings": ("embeddings.position", _EMBED),
    "embeddings.token_type_embeddings": ("embeddings.token_type", _EMBED),
    "embeddings.LayerNorm": ("embeddings.norm", _NORM),
    "encoder.layer.{i}.attention.self.query": ("layers.attention.query", _DENSE),
    "encoder.layer.{i}.attention.self.key": ("layers.attention.key", _DENSE),
    "encoder.layer.{i}.attention.self.value": ("layers.attention.value", _DENSE),
    "encoder.layer.{i}.attention.output.dense": ("layers.attention.output", _DENSE),
    "encoder.layer.{i}.attention.output.LayerNorm": ("layers.attention.norm", _NORM),
    "encoder.layer.{i}.intermediate.dense": ("layers.feed_forward.up", _DENSE),
    "encoder.layer.{i}.output.dense": ("layers.feed_forward.down", _DENSE),
    "encoder.layer.{i}.output.LayerNorm": ("layers.feed_forward.norm", _NORM),
}

# Checkpoints converted from TensorFlow years ago.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

# Buffers and heads of pretraining that a tagger has no use for.
IGNORED = re.compile(r"embeddings\.position_ids|pooler\..*|cls\..*")


class CheckpointError(InputError):
    """A pretrained checkpoint does not fit; the message lists every tensor concerned."""


class _Target(NamedTuple):
    path: tuple[str, ...]
    layer: int | None


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder before its weights are read.

    Attributes:
        config: its shape.
        tokenizer: its tokenizer.
        weights: the safetensors file, or None for an encoder that starts from random weights.
    """

    config: BertConfig
    tokenizer: transformers.PreTrainedTokenizerBase
    weights: Path | None


def locate(backbone: str) -> Path:
    """The folder of a backbone: a local one, `pip:package/folder`, or a hub id, which is downloaded.

    Raises:
        InputError: it is none of the three, or the hub cannot be reached.
    """
    folder = resolve_path(backbone)
    if folder.is_dir():
        return folder
    try:
        return Path(huggingface_hub.snapshot_download(backbone, allow_patterns=HUB_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model.backbone: expected a folder, pip:package/folder or a hub id, got {backbone!r}: "
            f"no such folder, and the hub says: {reason}"
        ) from error


def _expect(condition: bool, folder: Path, expected: str, found: object) -> None:
    if not condition:
        raise InputError(f"model.backbone: {folder}: expected {expected}, found {found}")


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"model.backbone: {path}: expected JSON, found {error}") from error
    _expect(isinstance(content, dict), path, "a mapping", type(content).__name__)
    return content


def open_backbone(folder: Path) -> Backbone:
    """Reads config and tokenizer of a BERT folder in transformers' layout.

    Raises:
        InputError: another architecture, or a file is missing or unreadable.
    """
    for name in ("config.json", WEIGHTS_FILE):
        _expect((folder / name).is_file(), folder, f"a file {name}", "none")
    content = _read_json(folder / "config.json")
    _expect(content.get("model_type") == "bert", folder, "model_type bert", content.get("model_type"))
    positions = content.get("position_embedding_type", "absolute")
    _expect(positions == "absolute", folder, "position_embedding_type absolute", positions)
    # Without these transformers would make up a tokenizer of five special tokens.
    tokenizer_files = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    _expect(bool(tokenizer_files), folder, f"a tokenizer ({' or '.join(TOKENIZER_FILES)})", "none")
    for name in tokenizer_files:
        if name.endswith(".json"):
            _read_json(folder / name)
    source = transformers.BertConfig(**content)
    config = BertConfig(**{name: getattr(source, name) for name in BertConfig.__dataclass_fields__})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    _expect(len(tokenizer) <= config.vocab_size, folder, f"at most {config.vocab_size} pieces (vocab_size)", len(tokenizer))
    return Backbone(config, tokenizer, folder / WEIGHTS_FILE)


def scratch_backbone(scratch: ScratchConfig) -> Backbone:
    """A BERT that has a vocabulary and a shape, and no weights yet.

    Raises:
        InputError: the vocabulary is missing, or the shape is impossible.
    """
    vocab = resolve_path(scratch.vocab)
    if not vocab.is_file():
        raise InputError(f"model.scratch.vocab: expected a file, got {scratch.vocab}")
    # Not str.splitlines(): it would also break at the line separator U+2028, which is a piece of real vocabularies.
    pieces = vocab.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    missing = [token for token in SPECIAL_TOKENS if token not in pieces]
    if missing:
        raise InputError(
            f"model.scratch.vocab: {vocab}: expected {' '.join(SPECIAL_TOKENS)} in it, found no {' '.join(missing)}"
        )
    tokenizer = transformers.BertTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=scratch.lowercase
    )
    shape = {name: value for name, value in asdict(scratch).items() if name in BertConfig.__dataclass_fields__}
    return Backbone(BertConfig(vocab_size=len(pieces), **shape), tokenizer, None)


def _targets(num_layers: int) -> Iterator[tuple[str, _Target]]:
    for source, (ours, tensors) in TABLE.items():
        layers = range(num_layers) if "{i}" in source else [None]
        for layer in layers:
            for theirs, name in tensors.items():
                yield f"{source.format(i=layer)}.{theirs}", _Target((*ours.split("."), name), layer)


def _get(tree: Mapping, path: tuple[str, ...]) -> np.ndarray:
    for part in path:
        tree = tree[part]
    return tree  # type: ignore[return-value]


def _canonical(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _open_weights(weights: Path) -> safe_open:
    try:
        return safe_open(weights, framework="numpy")
    except SafetensorError as error:
        raise CheckpointError(f"{weights}: expected a whole safetensors file: {error}") from error


def load_encoder(weights: Path, abstract: Params) -> Params:
    """Reads a safetensors file into parameters of the given shapes.

    Args:
        weights: tensors named as in transformers' BertModel, with or without the prefix `bert.`.
        abstract: the encoder's parameters as shapes and dtypes.

    Raises:
        CheckpointError: tensors that are missing, unmapped, there twice or of another shape; all of them are listed.
    """
    num_layers = _get(abstract, ("layers", "attention", "norm", "scale")).shape[0]
    targets = dict(_targets(num_layers))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    problems: list[str] = []
    with _open_weights(weights) as file:
        sources: dict[str, str] = {}
        for name in file.keys():
            canonical = _canonical(name)
            if canonical in sources:
                problems.append(f"there twice: {sources[canonical]} and {name}")
            elif canonical in targets:
                sources[canonical] = name
            elif not IGNORED.fullmatch(canonical):
                problems.append(f"unmapped: {name}")
        problems += [f"missing: {name}" for name in targets if name not in sources]
        for canonical, name in sources.items():
            problems += _place(file.get_tensor(name), name, targets[canonical], params)
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(
            f"{weights}: {len(problems)} tensors do not fit an encoder of {num_layers} layers:\n  {listed}"
        )
    return params


def _place(tensor: np.ndarray, name: str, target: _Target, params: Params) -> list[str]:
    destination = _get(params, target.path)
    if target.layer is not None:
        destination = destination[target.layer]
    value = tensor.T if target.path[-1] == "kernel" else tensor
    if value.shape != destination.shape:
        expected = destination.shape[::-1] if target.path[-1] == "kernel" else destination.shape
        return [f"shape of {name}: expected {list(expected)}, got {list(tensor.shape)}"]
    destination[...] = value
    return []


def fingerprint(params: Params) -> str:
    """SHA-256 of all parameters, their names and shapes included."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
