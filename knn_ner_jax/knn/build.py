"""Building a datastore on disk, shard by shard, on any number of hosts, continued wherever it was interrupted.

Each batch of a shard is computed while the one before is fetched. Shards come into being in a folder of their own,
`<name>.new`, which is renamed when it is whole. In it, `building/` has what is needed only until then: the plan, written
first; the moments of each shard, for the whitening; the file being written; and the checksum of each finished shard, which
says that it is finished. A shard's bytes depend on the plan, its own words and the shape of a batch, which is one for all
shards, so it makes no difference which host builds it, or after how many interruptions.
"""

import hashlib
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from knn_ner_jax import distributed, sharding
from knn_ner_jax.config import flatten
from knn_ner_jax.data.batching import ROW_LENGTH, Batch, BatchPlan, assemble, batches, pack, plan_evaluation
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit
from knn_ner_jax.io import InputError, sync_and_hash, sync_folder, write_bytes, write_json
from knn_ner_jax.knn import storage
from knn_ner_jax.knn.datastore import Moments, Projection, check_rank, fit_projection, key_states, merge_moments
from knn_ner_jax.knn.similarity import PRECISION
from knn_ner_jax.knn.storage import (
    LABEL_COLUMNS,
    MANIFEST,
    PROJECTION,
    SENTENCES,
    DatastoreError,
    KeyFormat,
    Plan,
    ShardFile,
    read_json,
    read_projection,
    shard_name,
)
from knn_ner_jax.models.tagger import Params, Tagger

_Computed = TypeVar("_Computed")
_Fetched = TypeVar("_Fetched")


class KeyRows(NamedTuple):
    """Keys of some words of a shard, and which words of the split they are."""

    word_index: Int[np.ndarray, " words"]
    keys: Float[np.ndarray, "words dim"]


@partial(jax.jit, static_argnames=("tagger", "layers", "dtype"))
def _batch_keys(
    params: Params, batch: Batch, projection: Projection | None, *, tagger: Tagger, layers: tuple[int, ...], dtype: str
) -> Float[Array, "batch length dim"]:
    output = tagger.run(params, batch)
    return key_states(output.hidden_states, layers, projection).astype(dtype)


@partial(jax.jit, static_argnames=("tagger", "layers"))
def _batch_moments(params: Params, batch: Batch, *, tagger: Tagger, layers: tuple[int, ...]) -> Moments:
    """Return word count, mean and centred scatter matrix of the states of a batch."""
    output = tagger.run(params, batch)
    states = key_states(output.hidden_states, layers, None)
    states = states.reshape(-1, states.shape[-1])
    is_word = (batch.word_index != NO_WORD).reshape(-1, 1)
    count = is_word.sum()
    mean = jnp.where(is_word, states, 0).sum(axis=0) / jnp.maximum(count, 1)
    centred = jnp.where(is_word, states - mean[None, :], 0)
    return Moments(count, mean, jnp.matmul(centred.T, centred, precision=PRECISION))


def _fetch_rows(word_index: np.ndarray, keys: Float[Array, "batch length dim"]) -> KeyRows:
    is_word = word_index != NO_WORD
    words = KeyRows(word_index[is_word], np.asarray(keys)[is_word])
    if not np.isfinite(words.keys).all():
        raise InputError("datastore: expected finite keys, got NaN or infinity; has the training diverged?")
    return words


def _fetch_moments(word_index: np.ndarray, moments: Moments) -> Moments:
    return jax.device_get(moments)


@dataclass(frozen=True)
class ShardStream:
    """The contents of shards, computed on this host's devices; of each shard from its own words.

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
        """Number of files that the rows fill."""
        return -(-self.split.num_words // self.plan.shard_rows)

    def span(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard, and the first row behind it."""
        start = shard * self.plan.shard_rows
        return start, min(start + self.plan.shard_rows, self.split.num_words)

    def keys(self, numbers: Sequence[int], projection: Projection | None) -> Iterator[tuple[int, Iterator[KeyRows]]]:
        """Yield each shard with its rows, a batch at a time; they must be consumed before the next shard."""
        how = self.plan.fingerprint
        placed = jax.device_put(projection, sharding.replicated(self.mesh))
        compute = partial(_batch_keys, projection=placed, tagger=self.tagger, layers=how.layers, dtype=how.key_dtype)
        for shard, parts in groupby(self._compute(numbers, compute, _fetch_rows), key=itemgetter(0)):
            yield shard, (part for _, part in parts)

    def moments(self, numbers: Sequence[int]) -> Iterator[tuple[int, Moments]]:
        """Yield each shard with the moments of its words' states."""
        compute = partial(_batch_moments, tagger=self.tagger, layers=self.plan.fingerprint.layers)
        for shard, parts in groupby(self._compute(numbers, compute, _fetch_moments), key=itemgetter(0)):
            yield shard, merge_moments(part for _, part in parts)

    def _jobs(self, numbers: Iterable[int]) -> Iterator[tuple[int, BatchPlan]]:
        """Yield the batches of each shard: the windows that hold its words, in the shape that suits those of all shards."""
        lengths = self.split.lengths
        words = [window.word_index[window.word_index != NO_WORD] for window in self.split.windows]
        first = np.array([word_index.min(initial=self.split.num_words) for word_index in words])
        last = np.array([word_index.max(initial=-1) for word_index in words])
        for shard in numbers:
            start, stop = self.span(shard)
            windows = np.flatnonzero((first < stop) & (last >= start))
            how = self.plan.batch_size, self.plan.pad_to_multiple_of, lengths
            for plan in plan_evaluation(lengths[windows], *how):
                yield shard, plan._replace(parts=[windows[part].tolist() for part in plan.parts])

    def _compute(
        self,
        numbers: Sequence[int],
        compute: Callable[[Params, Batch], _Computed],
        fetch: Callable[[np.ndarray, _Computed], _Fetched],
    ) -> Iterator[tuple[int, _Fetched]]:
        """Compute something of each batch of some shards, and fetch it while the next is computed: two are held."""
        jobs = list(self._jobs(numbers))
        plans = [plan._replace(num_rows=sharding.round_up(plan.num_rows, self.mesh)) for _, plan in jobs]
        waiting: deque[tuple[int, np.ndarray, _Computed]] = deque()

        def fetch_oldest() -> tuple[int, _Fetched]:
            shard, word_index, computed = waiting.popleft()
            return shard, fetch(word_index, computed)

        for (shard, _), batch in zip(jobs, batches(self.split, plans) if plans else (), strict=True):
            start, stop = self.span(shard)
            # A window on the border of two shards is encoded for either, for the words that are its own.
            word_index = np.where((start <= batch.word_index) & (batch.word_index < stop), batch.word_index, NO_WORD)
            placed = sharding.put_batch(batch._replace(word_index=word_index), self.mesh)
            waiting.append((shard, word_index, compute(self.params, placed)))
            if len(waiting) == 2:
                yield fetch_oldest()
        while waiting:
            yield fetch_oldest()


def few_keys(
    tagger: Tagger, params: Params, split: EncodedSplit, projection: Projection | None, how: storage.Fingerprint, mesh: Mesh
) -> Float[np.ndarray, "words dim"]:
    """Return the keys of the words of a few sentences, in one of two shapes: short rows, or as long as any window may be.

    Args:
        tagger: the network.
        params: its parameters, on every device of the mesh.
        split: the words.
        projection: of the datastore, on every device, too.
        how: what a key is.
        mesh: devices of this host; each takes a row of tokens at a time.
    """
    keys: list[KeyRows] = []
    length = ROW_LENGTH if split.lengths.max() <= ROW_LENGTH <= how.max_length else how.max_length
    rows = pack(split.lengths.tolist(), length)
    for start in range(0, len(rows), mesh.size):
        batch = assemble(split, BatchPlan(rows[start : start + mesh.size], mesh.size, length))
        placed = sharding.put_batch(batch, mesh)
        computed = _batch_keys(params, placed, projection, tagger=tagger, layers=how.layers, dtype=how.key_dtype)
        keys.append(_fetch_rows(np.asarray(batch.word_index), computed))
    order = np.argsort(np.concatenate([part.word_index for part in keys]))
    return np.concatenate([part.keys for part in keys])[order]


logger = logging.getLogger(__name__)

WORK = "building"
PLAN = "plan.json"


@dataclass(frozen=True)
class _Building:
    """A build in progress.

    Attributes:
        folder: where the datastore comes into being.
        plan: how it is made.
        stream: the contents of its shards.
        sentences: the content of the file of sentences.
    """

    folder: Path
    plan: Plan
    stream: ShardStream
    sentences: bytes

    @property
    def work(self) -> Path:
        """The folder of files that are needed only while building."""
        return self.folder / WORK

    @property
    def key_format(self) -> KeyFormat:
        """Width and type of the keys as stored."""
        how = self.plan.fingerprint
        return KeyFormat(how.whitening_dim or len(how.layers) * self.stream.tagger.config.hidden_size, how.key_dtype)

    @cached_property
    def described(self) -> dict[str, Any]:
        """The manifest, but for its files."""
        described = self.plan.describe(self.stream.split.num_words, self.key_format.dim)
        return described | {"sentences": hashlib.sha256(self.sentences).hexdigest()}

    def _missing(self, finished: bool, file: Callable[[int], Path]) -> list[int]:
        """Return the shards of this host that lack such a file."""
        mine = range(self.stream.num_shards)[jax.process_index() :: jax.process_count()]
        return [] if finished else [shard for shard in mine if not file(shard).exists()]

    def _checksum(self, shard: int) -> Path:
        return self.work / f"rows-{shard:05d}.sha256"

    def _moments(self, shard: int) -> Path:
        return self.work / f"moments-{shard:05d}.safetensors"

    def begin(self) -> None:
        """Keep the files of an earlier build under the same plan, and delete those of any other."""
        whole, begun = self.folder / MANIFEST, self.work / PLAN
        earlier: dict[str, Any] = next((read_json(path) for path in (whole, begun) if path.exists()), {})
        own, other = flatten(self.described), flatten(earlier)
        differing = [name for name in own if other.get(name) != own[name]]
        if not differing:
            done = self.stream.num_shards if whole.exists() else len(list(self.work.glob("rows-*.sha256")))
            logger.info("%s: continuing, %d of %d shards are done", self.folder, done, self.stream.num_shards)
            return
        if self.folder.exists():
            logger.warning("%s: begun otherwise (%s), starting over", self.folder, ", ".join(differing))
            # In this order: what says that something is finished goes before it does.
            whole.unlink(missing_ok=True)
            shutil.rmtree(self.work, ignore_errors=True)
            shutil.rmtree(self.folder)
        self.work.mkdir(parents=True)
        write_json(begun, self.described)

    def fit_projection(self) -> Projection | None:
        """Return the whitening, fitted to the moments of every shard in their order; every host waits for it."""
        rank, path = self.plan.fingerprint.whitening_dim, self.folder / PROJECTION
        if rank is None:
            return None
        fitted = path.exists()
        with distributed.sync_errors():
            for shard, moments in self.stream.moments(self._missing(fitted, self._moments)):
                tensors = {name: np.asarray(value, np.float64) for name, value in moments._asdict().items()}
                write_bytes(self._moments(shard), safetensors.numpy.save(tensors))

        def fit() -> None:
            if not fitted:
                stored = (safetensors.numpy.load_file(self._moments(shard)) for shard in range(self.stream.num_shards))
                projection = fit_projection((Moments(**tensors) for tensors in stored), rank)
                tensors = {"mean": np.asarray(projection.mean), "matrix": np.asarray(projection.matrix)}
                write_bytes(path, safetensors.numpy.save(tensors))

        distributed.on_primary_host(fit)
        return read_projection(path)

    def write_shards(self, projection: Projection | None) -> None:
        """Write this host's part of the shards; one is hashed and synced while the next is computed."""
        missing = self._missing((self.folder / MANIFEST).exists(), self._checksum)
        with ThreadPoolExecutor(1) as background:
            finishing: Future[None] = Future()
            finishing.set_result(None)
            for shard, parts in self.stream.keys(missing, projection):
                self._fill(shard, parts)
                finishing.result()  # one at a time; raises what it raised
                finishing = background.submit(self._finish, shard)
            finishing.result()

    def _fill(self, shard: int, parts: Iterable[KeyRows]) -> None:
        start, stop = self.stream.span(shard)
        columns = storage.create_shard(self.work / shard_name(shard), stop - start, self.key_format)
        split = self.stream.split
        for name, values in zip(LABEL_COLUMNS, (split.label_ids, split.sentence_ids, split.word_ids), strict=True):
            columns[name][:] = values[start:stop]
        for word_index, keys in parts:
            columns["keys"][word_index - start] = keys

    def _finish(self, shard: int) -> None:
        new = self.work / shard_name(shard)
        sha256 = sync_and_hash(new)
        new.rename(self.folder / new.name)
        sync_folder(self.folder)
        write_bytes(self._checksum(shard), sha256.encode())

    def _finished(self) -> list[dict[str, Any]]:
        """Return the entries of all shards in the manifest."""
        numbers = range(self.stream.num_shards)
        missing = [shard_name(shard) for shard in numbers if not self._checksum(shard).exists()]
        if missing:
            raise DatastoreError(f"{self.folder}: expected {', '.join(missing)}, found none; do all hosts share it?")
        spans = map(self.stream.span, numbers)
        return [
            ShardFile(shard_name(shard), stop - start, self._checksum(shard).read_text(encoding="ascii"))._asdict()
            for shard, (start, stop) in zip(numbers, spans, strict=True)
        ]

    def publish(self, path: Path) -> None:
        """Write the sentences and the manifest, and give the folder its final name."""
        if not (self.folder / MANIFEST).exists():
            write_bytes(self.folder / SENTENCES, self.sentences)
            projection = self.folder / PROJECTION
            projected = {"file": PROJECTION, "sha256": sync_and_hash(projection)} if projection.exists() else None
            write_json(self.folder / MANIFEST, self.described | {"projection": projected, "shards": self._finished()})
        if self.work.exists():
            shutil.rmtree(self.work)
        sync_folder(self.folder)
        self.folder.rename(path)
        sync_folder(path.parent)


def build_datastore(
    path: Path,
    tagger: Tagger,
    params: Params,
    split: EncodedSplit,
    sentences: bytes,
    plan: Plan,
    mesh: Mesh,
) -> None:
    """Encode every word of a split and store its key, label and place; called by every host, which share the folder.

    An earlier call under the same plan that was interrupted, and left `<path>.new`, is continued: the bytes are the same as
    without the interruption. Whitening takes a first pass over the split. Neither pass holds more than two batches beside
    the network.

    Args:
        path: a folder that does not exist yet.
        tagger: the network.
        params: its parameters, on every device of the mesh.
        split: the corpus; `label_ids` are the labels remembered.
        sentences: the content of the file of its sentences (see `DatastoreExamples.sentence_lines`).
        plan: how, and what of the split is recorded.
        mesh: devices of all hosts.

    Raises:
        InputError: the whitening's rank exceeds the width of the states, or a key is not finite.
        DatastoreError: `path` exists.
    """
    how = plan.fingerprint
    check_rank(how.whitening_dim, len(how.layers) * tagger.config.hidden_size)
    if path.exists():
        raise DatastoreError(f"{path}: expected no datastore there yet, found one")
    local = sharding.local_mesh(mesh)
    stream = ShardStream(tagger, sharding.on_local_mesh(params, local), split, plan, local)
    building = _Building(path.with_name(path.name + ".new"), plan, stream, sentences)
    distributed.on_primary_host(building.begin)
    projection = building.fit_projection()
    with distributed.sync_errors():
        building.write_shards(projection)
    distributed.on_primary_host(lambda: building.publish(path))
