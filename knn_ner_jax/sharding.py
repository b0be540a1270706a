"""Placement of arrays on devices: one mesh over all hosts; batches and datastore rows are divided, parameters copied."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"

_Tree = TypeVar("_Tree")


def make_mesh(num_devices: int | None = None) -> Mesh:
    """Return a one-dimensional mesh over the first `num_devices` devices, or over all of them."""
    # Host by host, so that each host's rows of a batch stand together.
    in_order = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return _mesh(in_order[:num_devices])


def local_mesh(mesh: Mesh) -> Mesh:
    """Return a mesh over the devices of `mesh` that belong to this host."""
    return _mesh([device for device in mesh.devices.flat if device.process_index == jax.process_index()])


def _mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def is_primary_host() -> bool:
    """Return whether this is the one host that writes what exists once: configuration, reports, manifests."""
    return jax.process_index() == 0


def split(mesh: Mesh) -> NamedSharding:
    """Return the sharding that divides the first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that puts a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def everywhere(tree: _Tree, mesh: Mesh | None) -> _Tree:
    """Put a copy of traced arrays on every device; None is one device."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, replicated(mesh))


def by_device(tree: _Tree, mesh: Mesh | None) -> _Tree:
    """Divide the first axis of traced arrays over the devices; None is one device."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, split(mesh))


def round_up(rows: int, mesh: Mesh) -> int:
    """Return `rows` rounded up to a multiple of the number of devices."""
    return -(-rows // mesh.size) * mesh.size


def host_rows(rows: int, mesh: Mesh) -> slice:
    """Return the rows that this host's devices hold of a batch of `rows`, a multiple of the number of devices."""
    own = [position for position, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    per_device = rows // mesh.size
    return slice(own[0] * per_device, (own[-1] + 1) * per_device)


def place_rows(read: Callable[[int, int], np.ndarray], num_rows: int, mesh: Mesh, capacity: int = 0) -> jax.Array:
    """Divide rows over the devices; a host reads only those of its own devices, one device's at a time.

    Args:
        read: returns rows `start` to `stop` of all, 0 <= start <= stop <= num_rows.
        num_rows: number of rows; rows of zeros fill up the last device.
        mesh: devices to divide them over.
        capacity: rows to hold at least; those beyond `num_rows` are zeros.
    """
    padded = round_up(max(num_rows, capacity), mesh)
    like = read(0, 0)

    def device_rows(index: tuple[slice, ...] | None) -> np.ndarray:
        start, stop, _ = (index[0] if index else slice(None)).indices(padded)
        rows = read(min(start, num_rows), min(stop, num_rows))
        num_padding = stop - start - len(rows)
        return np.pad(rows, [(0, num_padding)] + [(0, 0)] * (rows.ndim - 1)) if num_padding else rows

    # `jax.make_array_from_callback` would hold the rows of all devices of this host at once.
    shape, sharding = (padded, *like.shape[1:]), split(mesh)
    shards = [
        jax.device_put(device_rows(index), device).block_until_ready()
        for device, index in sharding.addressable_devices_indices_map(shape).items()
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def put_rows(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Divide the rows of an array that every host holds over the devices; rows of zeros fill up the last device."""
    return place_rows(lambda start, stop: array[start:stop], len(array), mesh)


def on_local_mesh(tree: _Tree, local: Mesh) -> _Tree:
    """Return arrays that have a copy on every device as arrays on this host's devices alone, without copying them."""

    def own_copies(leaf: jax.Array) -> jax.Array:
        copies = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, replicated(local), copies)

    return jax.tree.map(own_copies, tree)


def put_batch(batch: _Tree, mesh: Mesh) -> _Tree:
    """Return one batch on the mesh, made of the rows that each host holds, in the order of the hosts."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(split(mesh), np.asarray(array)), batch)


def put_copies(tree: _Tree, mesh: Mesh) -> _Tree:
    """Copy arrays that every host holds to every device; unlike `jax.device_put`, do not compare the hosts' arrays."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(array)), tree)
