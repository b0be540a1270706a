"""The tensors of a checkpoint folder, whatever files they are in; each is read when it is asked for."""

import importlib
import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from knn_ner_jax.errors import InputError

SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"


class CheckpointError(InputError):
    """A pretrained checkpoint does not fit; the message lists every tensor concerned."""


@dataclass(frozen=True)
class Tensor:
    """A named tensor in a file.

    Attributes:
        name: as the file has it.
        file: where it is.
        shape: of it.
        read: its values.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors before PyTorch's own, in one file before several.

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
    """Every tensor of these files, in order.

    Raises:
        CheckpointError: a file is damaged, or holds something else than tensors.
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
