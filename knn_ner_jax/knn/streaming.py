"""The batches of a datastore's shards, run through the tagger: one is computed while the one before is fetched."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from knn_ner_jax import mesh as placement
from knn_ner_jax.data.batching import Batch, BatchPlan, batches, plan_evaluation
from knn_ner_jax.data.encoding import NO_WORD, EncodedSplit
from knn_ner_jax.knn.datastore import Moments, Projection, key_states, merge_moments
from knn_ner_jax.knn.similarity import PRECISION
from knn_ner_jax.knn.storage import Plan
from knn_ner_jax.models.tagger import Params, Tagger

_Computed = TypeVar("_Computed")
_Fetched = TypeVar("_Fetched")


class KeyRows(NamedTuple):
    """Keys of some words of a shard, and which words of the split they are."""

    slots: Int[np.ndarray, " words"]
    keys: Float[np.ndarray, "words dim"]


@partial(jax.jit, static_argnames=("tagger", "layers", "dtype"))
def _batch_keys(
    params: Params, batch: Batch, projection: Projection | None, *, tagger: Tagger, layers: tuple[int, ...], dtype: str
) -> Float[Array, "batch length dim"]:
    output = tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
    return key_states(output.hidden_states, layers, projection).astype(dtype)


@partial(jax.jit, static_argnames=("tagger", "layers"))
def _batch_moments(params: Params, batch: Batch, *, tagger: Tagger, layers: tuple[int, ...]) -> Moments:
    """Word count, mean and centred scatter matrix of the states of a batch."""
    output = tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
    states = key_states(output.hidden_states, layers, None)
    states = states.reshape(-1, states.shape[-1])
    is_word = (batch.slots != NO_WORD).reshape(-1, 1)
    count = is_word.sum()
    mean = jnp.where(is_word, states, 0).sum(axis=0) / jnp.maximum(count, 1)
    centred = jnp.where(is_word, states - mean[None, :], 0)
    return Moments(count, mean, jnp.matmul(centred.T, centred, precision=PRECISION))


def _fetch_rows(slots: np.ndarray, keys: Float[Array, "batch length dim"]) -> KeyRows:
    is_word = slots != NO_WORD
    return KeyRows(slots[is_word], np.asarray(keys)[is_word])


def _fetch_moments(slots: np.ndarray, moments: Moments) -> Moments:
    return jax.device_get(moments)


@dataclass(frozen=True)
class ShardStream:
    """Computes on this host's devices what shards are made of; of each shard from its own words alone.

    Attributes:
        tagger: the network.
        params: its parameters, on every device of `mesh`.
        split: the words.
        plan: how they fall into shards and batches, and what a key is.
        mesh: the devices of this host.
    """

    tagger: Tagger
    params: Params
    split: EncodedSplit
    plan: Plan
    mesh: Mesh

    @property
    def num_shards(self) -> int:
        """How many files the rows fill."""
        return -(-self.split.num_words // self.plan.shard_rows)

    def span(self, shard: int) -> tuple[int, int]:
        """The first row of a shard, and the first that it no longer holds."""
        start = shard * self.plan.shard_rows
        return start, min(start + self.plan.shard_rows, self.split.num_words)

    def keys(self, numbers: Sequence[int], projection: Projection | None) -> Iterator[tuple[int, Iterator[KeyRows]]]:
        """The rows of shards, a batch at a time; each shard's must be consumed before the next is asked for."""
        how = self.plan.fingerprint
        placed = jax.device_put(projection, placement.replicated(self.mesh))
        compute = partial(_batch_keys, projection=placed, tagger=self.tagger, layers=how.layers, dtype=how.key_dtype)
        for shard, parts in groupby(self._compute(numbers, compute, _fetch_rows), key=itemgetter(0)):
            yield shard, (part for _, part in parts)

    def moments(self, numbers: Sequence[int]) -> Iterator[tuple[int, Moments]]:
        """The moments of the states of each shard's words."""
        compute = partial(_batch_moments, tagger=self.tagger, layers=self.plan.fingerprint.layers)
        for shard, parts in groupby(self._compute(numbers, compute, _fetch_moments), key=itemgetter(0)):
            yield shard, merge_moments(part for _, part in parts)

    def _jobs(self, numbers: Iterable[int]) -> Iterator[tuple[int, BatchPlan]]:
        """The batches of each shard: the windows that hold its words, like in length, in an order of their own."""
        lengths = self.split.lengths
        words = [window.slots[window.slots != NO_WORD] for window in self.split.windows]
        first = np.array([slots.min(initial=self.split.num_words) for slots in words])
        last = np.array([slots.max(initial=-1) for slots in words])
        for shard in numbers:
            start, stop = self.span(shard)
            windows = np.flatnonzero((first < stop) & (last >= start))
            for plan in plan_evaluation(lengths[windows], self.plan.batch_size, self.plan.length_multiple):
                yield shard, BatchPlan(windows[plan.windows], plan.length)

    def _compute(
        self,
        numbers: Sequence[int],
        compute: Callable[[Params, Batch], _Computed],
        fetch: Callable[[np.ndarray, _Computed], _Fetched],
    ) -> Iterator[tuple[int, _Fetched]]:
        """Computes something of each batch of some shards, and fetches it while the next is computed: two are held."""
        jobs = list(self._jobs(numbers))
        plans, rows = [plan for _, plan in jobs], placement.round_up(self.plan.batch_size, self.mesh)
        waiting: deque[tuple[int, np.ndarray, _Computed]] = deque()

        def fetch_oldest() -> tuple[int, _Fetched]:
            shard, slots, computed = waiting.popleft()
            return shard, fetch(slots, computed)

        for (shard, _), batch in zip(jobs, batches(self.split, plans, rows) if plans else (), strict=True):
            start, stop = self.span(shard)
            # A window on the border of two shards is encoded for either, for the words that are its own.
            slots = np.where((start <= batch.slots) & (batch.slots < stop), batch.slots, NO_WORD)
            placed = placement.put_batch(batch._replace(slots=slots), self.mesh)
            waiting.append((shard, slots, compute(self.params, placed)))
            if len(waiting) == 2:
                yield fetch_oldest()
        while waiting:
            yield fetch_oldest()
