"""The datastore: a key and a tag for every training word (paper, section 3.2), divided over the mesh."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from knn_ner_jax import sharding
from knn_ner_jax.config import DatastoreConfig
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.similarity import PADDING, PRECISION, squared_norms
from knn_ner_jax.knn.topk import Rows
from knn_ner_jax.models.bert import BertConfig

LABEL_COLUMNS = ("labels", "sentence_ids", "word_ids")
ROW_COLUMNS = ("keys", *LABEL_COLUMNS)
# Directions with less than this share of the largest variance are noise: whitening does not blow them up any further.
VARIANCE_FLOOR = 1e-6


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Projection:
    """A PCA whitening: (state - mean) @ matrix has zero mean and unit variance over the training words."""

    mean: Float[Array, " hidden"]
    matrix: Float[Array, "hidden rank"]


class Moments(NamedTuple):
    """Moments of the states of some words, to which a whitening is fitted.

    Attributes:
        words: how many words.
        mean: mean of their states.
        scatter: sum over the words of the outer product of (state - mean) with itself.
    """

    words: Float[Array | np.ndarray, ""]
    mean: Float[Array | np.ndarray, " hidden"]
    scatter: Float[Array | np.ndarray, "hidden hidden"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Datastore:
    """Keys and tags on the devices: row r is the r-th word stored that is there, and rows from `num_rows` on are padding.

    Attributes:
        keys: vectors that queries are compared with, float32 or bfloat16; like all columns divided over the mesh.
        squared_norms: of the keys, float32; `similarity.PADDING` in padding.
        labels: label id of each word.
        sentence_ids: which sentence of the corpus a row comes from.
        word_ids: which word of that sentence.
        num_rows: how many rows count.
        projection: applied to states before they are compared, or None.
    """

    keys: Float[Array, "rows dim"]
    squared_norms: Float[Array, " rows"]
    labels: Int[Array, " rows"]
    sentence_ids: Int[Array, " rows"]
    word_ids: Int[Array, " rows"]
    num_rows: Int[Array, ""]
    projection: Projection | None

    @property
    def rows(self) -> Rows:
        """The columns that a search reads."""
        return Rows(self.keys, self.squared_norms, self.labels)


def resolve_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return layer numbers as non-negative indices into the hidden states (0: embeddings, num_layers: the last layer).

    >>> resolve_layers([-1, 0], num_layers=6)
    (6, 0)

    Raises:
        InputError: no layer, or one the encoder does not have.
    """
    outside = [layer for layer in layers if not -num_layers - 1 <= layer <= num_layers]
    if outside or not layers:
        raise InputError(
            f"datastore.layers: expected one or more of 0 (embeddings) to {num_layers}, or -1 (the last) to "
            f"{-num_layers - 1}, got {list(layers)}"
        )
    return tuple(layer % (num_layers + 1) for layer in layers)


def check_rank(whitening_dim: int | None, width: int) -> None:
    """Raise InputError for a rank of whitening that exceeds the width of the states."""
    if whitening_dim is not None and not 1 <= whitening_dim <= width:
        raise InputError(
            f"datastore.whitening_dim: expected a rank from 1 to {width} (the states' width), got {whitening_dim}"
        )


def check_keys(settings: DatastoreConfig, encoder: BertConfig) -> None:
    """Raise InputError for layers or a rank that an encoder does not have."""
    layers = resolve_layers(settings.layers, encoder.num_hidden_layers)
    check_rank(settings.whitening_dim, len(layers) * encoder.hidden_size)


def key_states(
    hidden_states: Sequence[Float[Array, "batch length hidden"]], layers: tuple[int, ...], projection: Projection | None
) -> Float[Array, "batch length dim"]:
    """Return keys or queries from hidden states: layers concatenated, then projected."""
    states = jnp.concatenate([hidden_states[layer] for layer in layers], axis=-1)
    if projection is None:
        return states
    return jnp.matmul(states - projection.mean[None, None, :], projection.matrix, precision=PRECISION)


@jax.jit
def _norms_of_rows(keys: Float[Array, "rows dim"], num_rows: Int[Array, ""]) -> Float[Array, " rows"]:
    return jnp.where(jnp.arange(keys.shape[0]) < num_rows, squared_norms(keys), PADDING)


def place(
    read: Callable[[str, int, int], np.ndarray], num_rows: int, projection: Projection | None, mesh: Mesh, capacity: int = 0
) -> Datastore:
    """Return a datastore whose rows are divided over the mesh.

    Args:
        read: a column's name and the first and last row -> those rows of it (see `sharding.place_rows`).
        num_rows: how many there are.
        projection: that made the keys.
        mesh: devices the rows are divided over.
        capacity: rows to hold at least; those beyond `num_rows` are padding.
    """
    columns = {name: sharding.place_rows(partial(read, name), num_rows, mesh, capacity) for name in ROW_COLUMNS}
    return Datastore(
        **columns,
        squared_norms=_norms_of_rows(columns["keys"], np.int32(num_rows)),
        num_rows=sharding.put_copies(np.int32(num_rows), mesh),  # type: ignore[arg-type]
        projection=sharding.put_copies(projection, mesh),
    )


def place_numbered(
    take: Callable[[str, np.ndarray], np.ndarray],
    numbers: Int[np.ndarray, " rows"],
    labels: Int[np.ndarray, " rows"],
    projection: Projection | None,
    mesh: Mesh,
    capacity: int = 0,
) -> Datastore:
    """Return a datastore of some rows, with other labels than those they were stored with.

    Args:
        take: a column's name and numbers of rows -> those rows of it.
        numbers: of the rows, in their order.
        labels: of these rows.
        projection: that made the keys.
        mesh: devices the rows are divided over.
        capacity: see `place`.
    """

    def read(column: str, start: int, stop: int) -> np.ndarray:
        return labels[start:stop] if column == "labels" else take(column, numbers[start:stop])

    return place(read, len(numbers), projection, mesh, capacity)


WRITE_ROWS = 1024  # rows written at a time; where more change, all are read again


def capacity_for(rows: int) -> int:
    """Return the rows to hold, so that there is room for an eighth more, and for 1,024.

    >>> capacity_for(200_000), capacity_for(10)
    (225000, 1034)
    """
    return rows + max(rows // 8, 1024)


class NewRows(NamedTuple):
    """What is to stand in some slots."""

    slots: Int[Array, " new"]
    keys: Float[Array, "new dim"]
    labels: Int[Array, " new"]
    sentence_ids: Int[Array, " new"]
    word_ids: Int[Array, " new"]


def write_rows(store: Datastore, new: NewRows, num_rows: Int[Array, ""]) -> Datastore:
    """Return a datastore with other contents in some slots; slots beyond its last are not written."""
    columns = {name: getattr(store, name).at[new.slots].set(getattr(new, name), mode="drop") for name in ROW_COLUMNS}
    norms = store.squared_norms.at[new.slots].set(squared_norms(new.keys), mode="drop")
    return replace(store, **columns, squared_norms=norms, num_rows=num_rows)


class EditableRows:
    """A datastore on the devices with room for more rows; a change makes another one of the same shape, while there is room.

    Rows have numbers, under which they are read, and stand in the order of these, so that the earlier of equals is found
    first. New rows at the end and other labels are written; where rows are gone, all are read again.

    Args:
        take: see `place_numbered`, like the others.
        numbers: of the rows, ascending.
        labels: of these rows.
        projection: that made the keys.
        mesh: devices the rows are divided over.
    """

    def __init__(
        self,
        take: Callable[[str, np.ndarray], np.ndarray],
        numbers: Int[np.ndarray, " rows"],
        labels: Int[np.ndarray, " rows"],
        projection: Projection | None,
        mesh: Mesh,
    ) -> None:
        self._take, self._projection, self._mesh = take, projection, mesh
        self._place(numbers, labels, capacity_for(len(numbers)))
        shardings = jax.tree.map(lambda array: array.sharding, self.datastore)
        self._write = jax.jit(write_rows, out_shardings=shardings)
        self.change(numbers, labels)  # compiles

    def _place(self, numbers: np.ndarray, labels: np.ndarray, capacity: int) -> None:
        self.datastore = place_numbered(self._take, numbers, labels, self._projection, self._mesh, capacity)
        self._numbers, self._labels = numbers, labels

    def change(self, numbers: Int[np.ndarray, " rows"], labels: Int[np.ndarray, " rows"]) -> None:
        """Hold these rows, with these labels, instead."""
        capacity, kept = len(self.datastore.labels), len(self._numbers)
        if len(numbers) > capacity:
            return self._place(numbers, labels, capacity_for(len(numbers)))
        if not np.array_equal(numbers[:kept], self._numbers):
            return self._place(numbers, labels, capacity)
        slots = np.append(np.flatnonzero(labels[:kept] != self._labels), np.arange(kept, len(numbers)))
        if len(slots) > WRITE_ROWS:
            return self._place(numbers, labels, capacity)

        def column(name: str) -> np.ndarray:
            values = labels[slots] if name == "labels" else self._take(name, numbers[slots])
            padded = np.zeros((WRITE_ROWS, *values.shape[1:]), values.dtype)
            padded[: len(slots)] = values
            return padded

        places = np.pad(slots, (0, WRITE_ROWS - len(slots)), constant_values=capacity).astype(np.int32)
        columns: dict[str, Any] = {name: column(name) for name in ROW_COLUMNS}
        self.datastore = self._write(self.datastore, NewRows(slots=places, **columns), np.int32(len(numbers)))  # type: ignore[arg-type]
        self._numbers, self._labels = numbers, labels


def merge_moments(parts: Iterable[Moments]) -> Moments:
    """Return the moments of disjoint parts taken together, in float64 (Chan et al. 1979)."""
    total, mean, scatter = np.zeros(()), np.zeros(1), np.zeros((1, 1))
    for part in parts:
        words, part_mean, part_scatter = (np.asarray(value, np.float64) for value in part)
        if words == 0:
            continue
        delta = part_mean - mean
        merged = total + words
        scatter = scatter + part_scatter + np.outer(delta, delta) * (total * words / merged)
        mean, total = mean + delta * (words / merged), merged
    return Moments(total, mean, scatter)


def fit_projection(moments: Iterable[Moments], rank: int) -> Projection:
    """Fit a PCA whitening to the moments of disjoint parts.

    Args:
        moments: of each part.
        rank: directions kept, those of largest variance; at most the width of the states.

    Raises:
        InputError: all states are the same.
    """
    total, mean, scatter = merge_moments(moments)
    variances, directions = np.linalg.eigh(scatter / total)
    variances, directions = variances[::-1][:rank], directions[:, ::-1][:, :rank]
    if variances[0] <= 0:
        raise InputError(f"datastore.whitening_dim: expected words whose states differ, got {total:.0f} that do not")
    floor = VARIANCE_FLOOR * variances[0]
    matrix = directions / np.sqrt(np.maximum(variances, floor))
    return Projection(jnp.asarray(mean, jnp.float32), jnp.asarray(matrix, jnp.float32))
