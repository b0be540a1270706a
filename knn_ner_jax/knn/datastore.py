"""The datastore: a key and a tag for every training word (paper, section 3.2), built in a stream, divided over the mesh."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from knn_ner_jax import mesh as placement
from knn_ner_jax.data.batching import Batch, batches, plan_evaluation
from knn_ner_jax.data.encoding import NO_WORD, EncodedSplit
from knn_ner_jax.errors import InputError
from knn_ner_jax.knn.search import Rows
from knn_ner_jax.knn.similarity import PADDING, PRECISION, squared_norms
from knn_ner_jax.models.tagger import Params, Tagger

# Directions with less than this share of the largest variance are noise: whitening does not blow them up any further.
VARIANCE_FLOOR = 1e-6


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Projection:
    """PCA whitening: (state - mean) @ matrix has zero mean and unit variance over the training words."""

    mean: Float[Array, " hidden"]
    matrix: Float[Array, "hidden rank"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Datastore:
    """Row r is the r-th word of the corpus; rows from `num_rows` on are padding. Rows are divided over the mesh.

    Attributes:
        keys: what queries are compared with.
        squared_norms: of the keys; `similarity.PADDING` in padding.
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
        """The part that is searched."""
        return Rows(self.keys, self.squared_norms, self.labels)


def resolve_layers(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Layer numbers as non-negative indices into the hidden states (0: embeddings, num_layers: the last layer).

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


def check_rank(whiten: int | None, width: int) -> None:
    """Raises InputError for a rank of whitening that exceeds the width of the states."""
    if whiten is not None and not 1 <= whiten <= width:
        raise InputError(f"datastore.whiten: expected a rank from 1 to {width} (the states' width), got {whiten}")


def key_states(
    hidden_states: Sequence[Float[Array, "batch length hidden"]], layers: tuple[int, ...], projection: Projection | None
) -> Float[Array, "batch length dim"]:
    """The function of the hidden states that keys and queries share: layers concatenated, then projected."""
    states = jnp.concatenate([hidden_states[layer] for layer in layers], axis=-1)
    if projection is None:
        return states
    return jnp.matmul(states - projection.mean[None, None, :], projection.matrix, precision=PRECISION)


@jax.jit
def _norms_of_rows(keys: Float[Array, "rows dim"], num_rows: Int[Array, ""]) -> Float[Array, " rows"]:
    return jnp.where(jnp.arange(keys.shape[0]) < num_rows, squared_norms(keys), PADDING)


def assemble(
    keys: Float[Array, "rows dim"],
    labels: Int[np.ndarray, " words"],
    sentence_ids: Int[np.ndarray, " words"],
    word_ids: Int[np.ndarray, " words"],
    projection: Projection | None,
    mesh: Mesh,
) -> Datastore:
    """Puts placed keys, padding included, together with what is known of their words; there are `len(labels)` words."""
    return Datastore(
        keys=keys,
        squared_norms=_norms_of_rows(keys, np.int32(len(labels))),
        labels=placement.put_rows(labels, mesh),
        sentence_ids=placement.put_rows(sentence_ids, mesh),
        word_ids=placement.put_rows(word_ids, mesh),
        num_rows=jax.device_put(np.int32(len(labels)), placement.replicated(mesh)),
        projection=jax.device_put(projection, placement.replicated(mesh)),
    )


@partial(jax.jit, static_argnames=("tagger", "layers"), donate_argnames="keys")
def _write_keys(
    keys: Array, params: Params, batch: Batch, projection: Projection | None, *, tagger: Tagger, layers: tuple[int, ...]
) -> Array:
    output = tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
    states = key_states(output.hidden_states, layers, projection)
    rows = jnp.where(batch.slots == NO_WORD, keys.shape[0], batch.slots).reshape(-1)
    return keys.at[rows].set(states.reshape(-1, states.shape[-1]), mode="drop")


@partial(jax.jit, static_argnames=("tagger", "layers"))
def _batch_moments(params: Params, batch: Batch, *, tagger: Tagger, layers: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Word count, mean and centred scatter matrix of the states of a batch."""
    output = tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
    states = key_states(output.hidden_states, layers, None)
    states = states.reshape(-1, states.shape[-1])
    is_word = (batch.slots != NO_WORD).reshape(-1, 1)
    count = is_word.sum()
    mean = jnp.where(is_word, states, 0).sum(axis=0) / jnp.maximum(count, 1)
    centred = jnp.where(is_word, states - mean[None, :], 0)
    return count, mean, jnp.matmul(centred.T, centred, precision=PRECISION)


def fit_projection(moments: Iterable[tuple[Array, Array, Array]], rank: int) -> Projection:
    """PCA whitening from the (count, mean, scatter) of disjoint parts, merged in float64 (Chan et al. 1979).

    Args:
        moments: of each part.
        rank: directions kept, those of largest variance; at most the width of the states.

    Raises:
        InputError: all states are the same.
    """
    total, mean, scatter = 0.0, np.zeros(1), np.zeros((1, 1))
    for part in moments:
        count, part_mean, part_scatter = float(part[0]), np.asarray(part[1], np.float64), np.asarray(part[2], np.float64)
        if count == 0:
            continue
        delta = part_mean - mean
        merged = total + count
        scatter = scatter + part_scatter + np.outer(delta, delta) * (total * count / merged)
        mean, total = mean + delta * (count / merged), merged
    variances, directions = np.linalg.eigh(scatter / total)
    variances, directions = variances[::-1][:rank], directions[:, ::-1][:, :rank]
    if variances[0] <= 0:
        raise InputError(f"datastore.whiten: expected words whose states differ, got {total:.0f} that do not")
    floor = VARIANCE_FLOOR * variances[0]
    matrix = directions / np.sqrt(np.maximum(variances, floor))
    return Projection(jnp.asarray(mean, jnp.float32), jnp.asarray(matrix, jnp.float32))


def build(
    tagger: Tagger,
    params: Params,
    split: EncodedSplit,
    *,
    layers: tuple[int, ...],
    whiten: int | None,
    batch_size: int,
    length_multiple: int = 8,
    mesh: Mesh,
) -> Datastore:
    """Encodes every word of a split and remembers its key, label and place.

    Whitening takes a first pass over the split to fit the projection; no pass holds more than a few batches beside the keys.

    Args:
        tagger: the network.
        params: its parameters, on every device of the mesh.
        split: the corpus; `label_ids` are the labels remembered.
        layers: hidden states that make a key (see `resolve_layers`).
        whiten: rank of the whitening, or None.
        batch_size: windows encoded at a time.
        length_multiple: see `batching.bucket_length`.
        mesh: devices the rows are divided over.

    Raises:
        InputError: `whiten` exceeds the width of the states, or a key is not finite.
    """
    plans, rows = plan_evaluation(split.lengths, batch_size, length_multiple), placement.round_up(batch_size, mesh)

    def placed() -> Iterator[Batch]:
        for batch in batches(split, plans, rows):
            yield placement.put_batch(batch, mesh)

    projection = None
    width = len(layers) * tagger.config.hidden_size
    check_rank(whiten, width)
    if whiten is not None:
        moments = (_batch_moments(params, batch, tagger=tagger, layers=layers) for batch in placed())
        projection = fit_projection(moments, whiten)
        width = whiten
    capacity = placement.round_up(split.num_words, mesh)
    keys = jax.jit(lambda: jnp.zeros((capacity, width)), out_shardings=placement.split(mesh))()
    for batch in placed():
        keys = _write_keys(keys, params, batch, projection, tagger=tagger, layers=layers)
    if not bool(jnp.isfinite(keys).all()):
        raise InputError("datastore: expected finite keys, got NaN or infinity; has the training diverged?")
    return assemble(keys, split.label_ids, split.sentence_ids, split.word_ids, projection, mesh)
