"""A datastore built on disk, shard by shard, on any number of hosts, and continued wherever it was cut short.

Shards come into being in a folder of their own, `<name>.new`, which is renamed when it is whole. In it, `building/` has what
is needed only until then: the plan, written first; the moments of each shard, for the whitening; the file being written;
and the checksum of each finished shard, which says that it is finished. A shard's bytes depend on the plan and its own words
alone, so it makes no difference which host builds it, or after how many interruptions.
"""

import logging
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh

from knn_ner_jax import mesh as placement
from knn_ner_jax.config_files import flatten
from knn_ner_jax.data.encoding import EncodedSplit
from knn_ner_jax.errors import InputError
from knn_ner_jax.files import write_bytes, write_json
from knn_ner_jax.knn import shards
from knn_ner_jax.knn.datastore import Moments, Projection, check_rank, fit_projection
from knn_ner_jax.knn.shards import LABEL_COLUMNS, DatastoreError, KeyFormat, ShardFile, shard_name
from knn_ner_jax.knn.storage import MANIFEST, PROJECTION, Plan, read_json, read_projection, write_projection
from knn_ner_jax.knn.streaming import KeyRows, ShardStream
from knn_ner_jax.models.tagger import Params, Tagger

logger = logging.getLogger(__name__)

WORK = "building"
PLAN = "plan.json"


@dataclass(frozen=True)
class _Building:
    """What the steps of a build share.

    Attributes:
        folder: where it comes into being.
        plan: what is built.
        stream: the shards' contents.
    """

    folder: Path
    plan: Plan
    stream: ShardStream

    @property
    def work(self) -> Path:
        """What is needed only while building."""
        return self.folder / WORK

    @property
    def key_format(self) -> KeyFormat:
        """Of the keys as stored."""
        how = self.plan.fingerprint
        return KeyFormat(how.whiten or len(how.layers) * self.stream.tagger.config.hidden_size, how.key_dtype)

    @cached_property
    def described(self) -> dict[str, Any]:
        """The manifest, but for its files."""
        return self.plan.describe(self.stream.split.num_words, self.key_format.dim)

    def _missing(self, finished: bool, file: Callable[[int], Path]) -> list[int]:
        """The shards of this host of which there is no such file yet."""
        mine = range(self.stream.num_shards)[jax.process_index() :: jax.process_count()]
        return [] if finished else [shard for shard in mine if not file(shard).exists()]

    def _checksum(self, shard: int) -> Path:
        return self.work / f"rows-{shard:05d}.sha256"

    def _moments(self, shard: int) -> Path:
        return self.work / f"moments-{shard:05d}.safetensors"

    def begin(self) -> None:
        """Keeps what an earlier build under the same plan has left, and nothing else."""
        whole, begun = self.folder / MANIFEST, self.work / PLAN
        found: dict[str, Any] = next((read_json(path) for path in (whole, begun) if path.exists()), {})
        wanted, left = flatten(self.described), flatten(found)
        differing = [name for name in wanted if left.get(name) != wanted[name]]
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
        """The whitening, from the moments of every shard in their order; every host waits for it."""
        rank, path = self.plan.fingerprint.whiten, self.folder / PROJECTION
        if rank is None:
            return None
        fitted = path.exists()
        for shard, moments in self.stream.moments(self._missing(fitted, self._moments)):
            tensors = {name: np.asarray(value, np.float64) for name, value in moments._asdict().items()}
            write_bytes(self._moments(shard), safetensors.numpy.save(tensors))
        placement.barrier("moments of the datastore")
        if placement.is_first_host() and not fitted:
            stored = (safetensors.numpy.load_file(self._moments(shard)) for shard in range(self.stream.num_shards))
            write_projection(path, fit_projection((Moments(**tensors) for tensors in stored), rank))
        placement.barrier("projection of the datastore")
        return read_projection(path)

    def write_shards(self, projection: Projection | None) -> None:
        """Writes this host's share of the shards; one is hashed and synced while the next is computed."""
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
        columns = shards.create_shard(self.work / shard_name(shard), stop - start, self.key_format)
        split = self.stream.split
        for name, values in zip(LABEL_COLUMNS, (split.label_ids, split.sentence_ids, split.word_ids), strict=True):
            columns[name][:] = values[start:stop]
        for slots, keys in parts:
            if not np.isfinite(keys).all():
                raise InputError("datastore: expected finite keys, got NaN or infinity; has the training diverged?")
            columns["keys"][slots - start] = keys

    def _finish(self, shard: int) -> None:
        new = self.work / shard_name(shard)
        sha256 = shards.sync_and_hash(new)
        new.rename(self.folder / new.name)
        shards.sync_folder(self.folder)
        write_bytes(self._checksum(shard), sha256.encode())

    def _finished(self) -> list[dict[str, Any]]:
        """What the manifest says of all shards."""
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
        """Writes the manifest and gives the folder its name."""
        if not (self.folder / MANIFEST).exists():
            projection = self.folder / PROJECTION
            projected = {"file": PROJECTION, "sha256": shards.sync_and_hash(projection)} if projection.exists() else None
            write_json(self.folder / MANIFEST, self.described | {"projection": projected, "shards": self._finished()})
        if self.work.exists():
            shutil.rmtree(self.work)
        shards.sync_folder(self.folder)
        self.folder.rename(path)
        shards.sync_folder(path.parent)


def build(path: Path, tagger: Tagger, params: Params, split: EncodedSplit, plan: Plan, mesh: Mesh) -> None:
    """Encodes every word of a split and stores its key, label and place; called by every host, which share the folder.

    Continues what an earlier call under the same plan has left in `<path>.new`, and gives the same bytes as if it had never
    been interrupted. Whitening takes a first pass over the split. Neither holds more than two batches beside the network.

    Args:
        path: a folder that does not exist yet.
        tagger: the network.
        params: its parameters, on every device of the mesh.
        split: the corpus; `label_ids` are the labels remembered.
        plan: how, and what of the split is recorded.
        mesh: devices of all hosts.

    Raises:
        InputError: the whitening's rank exceeds the width of the states, or a key is not finite.
        DatastoreError: `path` exists.
    """
    how = plan.fingerprint
    check_rank(how.whiten, len(how.layers) * tagger.config.hidden_size)
    if path.exists():
        raise DatastoreError(f"{path}: expected no datastore there yet, found one")
    local = placement.local_mesh(mesh)
    stream = ShardStream(tagger, placement.on_local_mesh(params, local), split, plan, local)
    building = _Building(path.with_name(path.name + ".new"), plan, stream)
    if placement.is_first_host():
        building.begin()
    placement.barrier("plan of the datastore")
    building.write_shards(building.fit_projection())
    placement.barrier("shards of the datastore")
    if placement.is_first_host():
        building.publish(path)
    placement.barrier("the datastore")
