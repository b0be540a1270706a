"""All device placement: one mesh over all hosts; batches and datastore rows are split over it, parameters copied."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"

_Tree = TypeVar("_Tree")


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A one-dimensional mesh over the first `num_devices` devices, or over all of them."""
    # Host by host, so that each host's rows of a batch stand together.
    in_order = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return _mesh(in_order[:num_devices])


def local_mesh(mesh: Mesh) -> Mesh:
    """A mesh of its own over the devices of `mesh` that this host drives."""
    return _mesh([device for device in mesh.devices.flat if device.process_index == jax.process_index()])


def _mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def is_primary_host() -> bool:
    """True on the one host that writes what exists once: configuration, reports, manifests."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every host has come here; nothing on a single one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def split(mesh: Mesh) -> NamedSharding:
    """First axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def round_up(rows: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that holds `rows`."""
    return -(-rows // mesh.size) * mesh.size


def host_share(rows: int, mesh: Mesh) -> slice:
    """Which rows of a batch of `rows`, a multiple of the number of devices, this host's devices hold."""
    mine = [place for place, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    each = rows // mesh.size
    return slice(mine[0] * each, (mine[-1] + 1) * each)


def place_rows(read: Callable[[int, int], np.ndarray], num_rows: int, mesh: Mesh) -> jax.Array:
    """Divides rows over the devices; a host reads those of its own devices alone, a device's at a time.

    Args:
        read: rows `start` to `stop` of all, 0 <= start <= stop <= num_rows.
        num_rows: how many there are; rows of zeros fill the last share.
        mesh: devices to divide them over.
    """
    padded = round_up(num_rows, mesh)
    like = read(0, 0)

    def share(index: tuple[slice, ...] | None) -> np.ndarray:
        start, stop, _ = (index[0] if index else slice(None)).indices(padded)
        rows = read(min(start, num_rows), min(stop, num_rows))
        missing = stop - start - len(rows)
        return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows

    # `jax.make_array_from_callback` would hold the shares of all devices of this host at once.
    shape, sharding = (padded, *like.shape[1:]), split(mesh)
    placed = [
        jax.device_put(share(index), device).block_until_ready()
        for device, index in sharding.addressable_devices_indices_map(shape).items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, placed)


def put_rows(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Divides the rows of an array that every host holds over the devices; rows of zeros fill the last share."""
    return place_rows(lambda start, stop: array[start:stop], len(array), mesh)


def on_local_mesh(tree: _Tree, local: Mesh) -> _Tree:
    """Arrays with a copy on every device of all hosts -> the same on this host's devices alone; copies nothing."""

    def keep(leaf: jax.Array) -> jax.Array:
        copies = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, replicated(local), copies)

    return jax.tree.map(keep, tree)


def put_batch(batch: _Tree, mesh: Mesh) -> _Tree:
    """Arrays of which every host holds its own share of the rows, in the order of the hosts -> one batch on the mesh."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(split(mesh), np.asarray(array)), batch)


def put_copies(tree: _Tree, mesh: Mesh) -> _Tree:
    """Arrays that every host holds -> a copy on every device; unlike `jax.device_put`, without gathering them to compare."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(array)), tree)
