"""All device placement: one mesh of all devices; batches and datastore rows are split over it, parameters copied."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A one-dimensional mesh over the first `num_devices` devices, or over all of them."""
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def split(mesh: Mesh) -> NamedSharding:
    """First axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def round_up(rows: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that holds `rows`."""
    return -(-rows // mesh.size) * mesh.size


def put_rows(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Divides the rows over the devices; rows of zeros fill the last share."""
    missing = round_up(len(array), mesh) - len(array)
    padded = np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array
    return jax.device_put(padded, split(mesh))
