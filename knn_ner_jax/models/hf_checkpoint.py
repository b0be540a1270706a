"""Checkpoints in transformers' layout: the tensors in their files, the families of encoders, and the map to our parameters.

A family is an entry of `FAMILIES`: how it is recognised, and what its checkpoints call the tensors; a new one is a new
entry. PyTorch keeps dense weights as [out, in], convolutions as [out, in, width], and one tensor for each layer; ours are
[in, out] and [width, in, out], the layers stacked. Reading accounts for every tensor: what is missing, unmapped or of
another shape is listed in one error.
"""

import importlib
import json
import logging
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from knn_ner_jax.data.pinyin import MAP_FILE
from knn_ner_jax.io import InputError
from knn_ner_jax.models.bert import BertConfig, Params
from knn_ner_jax.models.chinese_bert import ChineseBertConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"


class CheckpointError(InputError):
    """A pretrained checkpoint that does not fit; the message lists every tensor concerned."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file, not read yet.

    Attributes:
        name: its name in the file.
        file: the file.
        shape: its shape.
        read: reads its values.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a folder's weights: safetensors before PyTorch's own, in one file before several.

    Raises:
        InputError: there are none, or an index names a file that is not there.
    """
    for name in (SAFETENSORS, PYTORCH):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _indexed(index)
    raise InputError(
        f"model.backbone: {folder}: expected a file {SAFETENSORS} or {PYTORCH}, whole or with an .index.json, found none"
    )


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: expected a weight_map from tensors to files, found {error!r}") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index}: expected the files it names, found no {', '.join(missing)}")
    return [index.parent / name for name in names]


def open_tensors(files: Iterable[Path]) -> list[Tensor]:
    """Return every tensor of some files, in order.

    Raises:
        CheckpointError: a file is damaged, or holds anything but tensors.
        InputError: a file is PyTorch's and torch is not installed.
    """
    return [tensor for file in files for tensor in (_safetensors if file.suffix == ".safetensors" else _pytorch)(file)]


def _safetensors(path: Path) -> list[Tensor]:
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: expected a whole safetensors file: {error}") from error
    return [
        Tensor(name, path, tuple(file.get_slice(name).get_shape()), partial(file.get_tensor, name)) for name in file.keys()
    ]


def _torch(path: Path) -> ModuleType:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise InputError(
            f"model.backbone: {path}: a file of PyTorch's needs the package torch: expected the extra torch to be installed "
            "(pip install -e '.[torch]'), found none"
        ) from error


def _pytorch(path: Path) -> list[Tensor]:
    torch = _torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise CheckpointError(f"{path}: expected a whole file of tensors and nothing else: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: expected a mapping from names to tensors, found something else")
    return [Tensor(name, path, tuple(value.shape), partial(_to_numpy, value)) for name, value in content.items()]


def _to_numpy(tensor: Any) -> np.ndarray:
    # NumPy has no bfloat16.
    return tensor.detach().float().numpy()


_DENSE = {"weight": "kernel", "bias": "bias"}
_NORM = {"weight": "scale", "bias": "bias"}
_EMBED = {"weight": "embedding"}

# Module in the checkpoint -> (our module, names of its tensors); {i} is the number of a layer, ours are stacked in "layers".
BERT = {
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
CHINESE_BERT = BERT | {
    "embeddings.pinyin_embeddings.embedding": ("embeddings.letter", _EMBED),
    "embeddings.pinyin_embeddings.conv": ("embeddings.pinyin", _DENSE),
    "embeddings.glyph_embeddings.embedding": ("embeddings.glyph", _EMBED),
    "embeddings.glyph_map": ("embeddings.glyph_map", _DENSE),
    "embeddings.map_fc": ("embeddings.fusion", _DENSE),
}
HEAD = {"classifier": ("head", _DENSE)}

# Buffers, poolers, and heads of pretraining and of other tasks, which a tagger does not use.
IGNORED = re.compile(r"embeddings\.(position_ids|token_type_ids)|(pooler|cls|lm_head|classifier|qa_outputs)\..*")

_SHAPE = tuple(entry.name for entry in fields(BertConfig) if entry.name not in ("family", "position_offset"))
PINYIN_FOLDER = "config"  # in ChineseBERT folders: pinyin maps and glyph tables


@dataclass(frozen=True)
class Family:
    """A family of encoders that share an architecture and the names of their tensors.

    Attributes:
        name: `model_type` in config.json; ChineseBERT has `bert` there.
        source: name of transformers' configuration class.
        prefix: prefix of the encoder's tensors in a checkpoint that also has heads.
        tokenizer_files: groups of files, each of which makes a tokenizer.
        tagger: transformers' class of taggers of this family; None where it has none.
        config: our configuration class.
        table: names of the encoder's tensors.
        padding_first: whether positions are counted from the padding id on, so that the rows of the position table up to it
            are never used.
    """

    name: str
    source: str
    prefix: str
    tokenizer_files: tuple[tuple[str, ...], ...]
    tagger: str | None = None
    config: type[BertConfig] = BertConfig
    table: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=lambda: BERT)
    padding_first: bool = False


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "bert",
            "BertConfig",
            prefix="bert.",
            tokenizer_files=(("tokenizer.json",), ("vocab.txt",)),
            tagger="BertForTokenClassification",
        ),
        Family(
            "roberta",
            "RobertaConfig",
            prefix="roberta.",
            tokenizer_files=(("tokenizer.json",), ("vocab.json", "merges.txt")),
            tagger="RobertaForTokenClassification",
            padding_first=True,
        ),
        Family(
            "xlm-roberta",
            "XLMRobertaConfig",
            prefix="roberta.",
            tokenizer_files=(("tokenizer.json",),),
            tagger="XLMRobertaForTokenClassification",
            padding_first=True,
        ),
        Family(
            "chinesebert",
            "BertConfig",
            prefix="bert.",
            tokenizer_files=(("tokenizer.json",), ("vocab.txt",)),
            config=ChineseBertConfig,
            table=CHINESE_BERT,
        ),
    )
}


def recognise_family(folder: Path, content: Mapping[str, Any]) -> Family:
    """Return the family of a checkpoint.

    A published ChineseBERT calls itself a BERT; what tells it apart are the pinyin maps in its folder.

    Args:
        folder: folder of the checkpoint.
        content: content of its config.json.

    Raises:
        InputError: it is of no family in `FAMILIES`; the message lists them.
    """
    model_type = content.get("model_type")
    if model_type == "bert" and (folder / PINYIN_FOLDER / MAP_FILE).is_file():
        return FAMILIES["chinesebert"]
    known = {name: family for name, family in FAMILIES.items() if name != "chinesebert"}
    if model_type not in known:
        raise InputError(
            f"model.backbone: {folder}: expected model_type {', '.join(known)} (ChineseBERT: bert, and a file "
            f"{PINYIN_FOLDER}/{MAP_FILE}), found {model_type}"
        )
    return known[model_type]


def _source(family: Family) -> "type[PretrainedConfig]":
    return getattr(importlib.import_module("transformers"), family.source)


def encoder_config(family: Family, content: Mapping[str, Any], **sizes: int) -> BertConfig:
    """Return our configuration of an encoder from the content of a config.json, and from sizes that it leaves out.

    Raises:
        InputError: the encoder has a feature that ours does not.
    """
    source = _source(family)(**content)
    shape: dict[str, Any] = {name: getattr(source, name) for name in _SHAPE}
    if family.padding_first and source.pad_token_id is None:
        raise InputError("pad_token_id: expected a number, from which positions are counted, found null")
    offset = source.pad_token_id + 1 if family.padding_first else 0
    return family.config(**(shape | sizes), family=family.name, position_offset=offset)


def source_config(family: Family, config: BertConfig, **rest: Any) -> "PretrainedConfig":
    """Return transformers' configuration of an encoder of ours, with further fields of its config.json."""
    return _source(family)(**{name: getattr(config, name) for name in _SHAPE}, **rest)


logger = logging.getLogger(__name__)

# Checkpoints converted from TensorFlow years ago.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class ParamPath(NamedTuple):
    """A place in our parameters that one tensor of a checkpoint fills.

    Attributes:
        path: keys of the leaf.
        layer: number of the layer where the leaf has all layers stacked, else None.
    """

    path: tuple[str, ...]
    layer: int | None

    def of(self, params: Params) -> np.ndarray:
        """Return this part of the parameters as a view in the checkpoint's layout (dense weights transposed)."""
        leaf: Any = params
        for part in self.path:
            leaf = leaf[part]
        array = leaf if self.layer is None else leaf[self.layer]
        return array.T if self.path[-1] == "kernel" else array


def _expand(table: Mapping[str, tuple[str, Mapping[str, str]]], num_layers: int) -> Iterator[tuple[str, ParamPath]]:
    for source, (module, tensor_names) in table.items():
        layers = range(num_layers) if "{i}" in source else [None]
        for layer in layers:
            for source_name, name in tensor_names.items():
                yield f"{source.format(i=layer)}.{source_name}", ParamPath((*module.split("."), name), layer)


def param_map(family: Family, params: Params) -> dict[str, ParamPath]:
    """Return the place in our parameters of every tensor of a checkpoint, by its name without prefix.

    Args:
        family: gives the names.
        params: `encoder` and, where the head is included, a linear `head`; arrays or shapes.
    """
    num_layers = params["encoder"]["layers"]["attention"]["norm"]["scale"].shape[0]
    encoder = _expand(family.table, num_layers)
    paths = {source: ParamPath(("encoder", *path), layer) for source, (path, layer) in encoder}
    return paths | dict(_expand(HEAD, 0)) if "head" in params else paths


def canonical(name: str, family: Family) -> str:
    """Return the name of a tensor without the family's prefix, in today's spelling.

    >>> canonical("bert.embeddings.LayerNorm.gamma", FAMILIES["bert"])
    'embeddings.LayerNorm.weight'
    """
    name = name.removeprefix(family.prefix)
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def load_params(tensors: Sequence[Tensor], family: Family, abstract: Params) -> Params:
    """Read tensors into parameters.

    Args:
        tensors: named as in transformers, with or without the family's prefix.
        family: gives the names.
        abstract: shapes and dtypes of `encoder` and, where the head is to be read, of a linear `head`.

    Raises:
        CheckpointError: some tensors are missing, unmapped, there twice or of another shape; all of them are listed.
    """
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    paths = param_map(family, params)
    sources: dict[str, Tensor] = {}
    ignored: list[str] = []
    problems: list[str] = []
    for tensor in tensors:
        name = canonical(tensor.name, family)
        if name in sources:
            first = sources[name]
            problems.append(f"there twice: {first.name} ({first.file.name}) and {tensor.name} ({tensor.file.name})")
        elif name in paths:
            sources[name] = tensor
            problems += _fill(tensor, paths[name].of(params))
        elif IGNORED.fullmatch(name):
            ignored.append(tensor.name)
        else:
            problems.append(f"unmapped: {tensor.name} ({tensor.file.name})")
    problems += [f"missing: {name}" for name in paths if name not in sources]
    files = ", ".join(sorted({str(tensor.file) for tensor in tensors}))
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(f"{files}: {len(problems)} tensors do not fit a {family.name} of these sizes:\n  {listed}")
    if ignored:
        logger.info("%s: a tagger does not use these tensors, they are ignored: %s", files, ", ".join(ignored))
    return params


def _fill(tensor: Tensor, destination: np.ndarray) -> list[str]:
    if tensor.shape != destination.shape:
        expected, got = list(destination.shape), list(tensor.shape)
        return [f"shape of {tensor.name} ({tensor.file.name}): expected {expected}, got {got}"]
    values = tensor.read()
    # bfloat16, which NumPy does not have, is no np.floating.
    if not jnp.issubdtype(values.dtype, jnp.floating) or not np.isfinite(values.astype(np.float32)).all():
        return [f"values of {tensor.name} ({tensor.file.name}): expected finite floating-point numbers, got {values.dtype}"]
    destination[...] = values
    return []
