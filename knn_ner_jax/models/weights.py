"""Checkpoint tensors -> our parameters, every tensor accounted for; the table of names is `families`'s."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from knn_ner_jax.models.families import HEAD, IGNORED, Family
from knn_ner_jax.models.tagger import Params
from knn_ner_jax.models.tensors import CheckpointError, Tensor

logger = logging.getLogger(__name__)

# Checkpoints converted from TensorFlow years ago.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class Place(NamedTuple):
    """A leaf of our parameters, and the layer in it where the leaf has all layers stacked."""

    path: tuple[str, ...]
    layer: int | None

    def of(self, params: Params) -> np.ndarray:
        """The part of the parameters that one tensor fills, as the checkpoint lays it out; a view."""
        leaf: Any = params
        for part in self.path:
            leaf = leaf[part]
        array = leaf if self.layer is None else leaf[self.layer]
        return array.T if self.path[-1] == "kernel" else array


def _expand(table: Mapping[str, tuple[str, Mapping[str, str]]], num_layers: int) -> Iterator[tuple[str, Place]]:
    for source, (ours, tensors) in table.items():
        layers = range(num_layers) if "{i}" in source else [None]
        for layer in layers:
            for theirs, name in tensors.items():
                yield f"{source.format(i=layer)}.{theirs}", Place((*ours.split("."), name), layer)


def places(family: Family, params: Params) -> dict[str, Place]:
    """Where every tensor of a checkpoint goes; names without prefix.

    Args:
        family: gives the names.
        params: `encoder` and, if the head is wanted, too, a linear `head`; arrays or shapes.
    """
    num_layers = params["encoder"]["layers"]["attention"]["norm"]["scale"].shape[0]
    encoder = _expand(family.table, num_layers)
    found = {source: Place(("encoder", *place.path), place.layer) for source, place in encoder}
    return found | dict(_expand(HEAD, 0)) if "head" in params else found


def canonical(name: str, family: Family) -> str:
    """A tensor's name without prefix and as it is spelt today."""
    name = name.removeprefix(family.prefix)
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def load(tensors: Sequence[Tensor], family: Family, abstract: Params) -> Params:
    """Reads tensors into parameters of the given shapes.

    Args:
        tensors: named as in transformers, with or without the family's prefix.
        family: gives the names.
        abstract: `encoder` and, if it is to be read, too, a linear `head`, as shapes and dtypes.

    Raises:
        CheckpointError: tensors that are missing, unmapped, there twice or of another shape; all of them are listed.
    """
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    wanted = places(family, params)
    sources: dict[str, Tensor] = {}
    ignored: list[str] = []
    problems: list[str] = []
    for tensor in tensors:
        name = canonical(tensor.name, family)
        if name in sources:
            first = sources[name]
            problems.append(f"there twice: {first.name} ({first.file.name}) and {tensor.name} ({tensor.file.name})")
        elif name in wanted:
            sources[name] = tensor
            problems += _place(tensor, wanted[name].of(params))
        elif IGNORED.fullmatch(name):
            ignored.append(tensor.name)
        else:
            problems.append(f"unmapped: {tensor.name} ({tensor.file.name})")
    problems += [f"missing: {name}" for name in wanted if name not in sources]
    files = ", ".join(sorted({str(tensor.file) for tensor in tensors}))
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(f"{files}: {len(problems)} tensors do not fit a {family.name} of this shape:\n  {listed}")
    if ignored:
        logger.info("%s: a tagger has no use for these tensors, they are ignored: %s", files, ", ".join(ignored))
    return params


def _place(tensor: Tensor, destination: np.ndarray) -> list[str]:
    if tensor.shape != destination.shape:
        expected, got = list(destination.shape), list(tensor.shape)
        return [f"shape of {tensor.name} ({tensor.file.name}): expected {expected}, got {got}"]
    values = tensor.read()
    # bfloat16, which NumPy does not have, is no np.floating.
    if not jnp.issubdtype(values.dtype, jnp.floating) or not np.isfinite(values.astype(np.float32)).all():
        return [f"values of {tensor.name} ({tensor.file.name}): expected finite floating-point numbers, got {values.dtype}"]
    destination[...] = values
    return []
