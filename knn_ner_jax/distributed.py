"""Several hosts as one run: how they find each other, what they decide together, and that none goes on alone."""

import hashlib
import importlib.util
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jax.experimental import multihost_utils

from knn_ner_jax.config import DistributedConfig
from knn_ner_jax.io import InputError
from knn_ner_jax.sharding import is_primary_host

# The first is JAX's; JAX has no names for the others.
VARIABLES = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}

# Where launchers that JAX knows say how many processes, or slices of a TPU, they have started together.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
_TPU_WORKERS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")

_REFUSED = -1


class OtherHostStopped(InputError):
    """Another host cannot go on; its own output says why."""


def resolve(config: DistributedConfig, environ: Mapping[str, str]) -> DistributedConfig | None:
    """The configuration, completed from the environment.

    Args:
        config: as given; its fields win.
        environ: see `VARIABLES`.

    Returns:
        None where neither names a coordinator, a count or an id.

    Raises:
        InputError: only some of the three are given, or they contradict each other.
    """
    fields: dict[str, str | int] = {}
    for name, variable in VARIABLES.items():
        if (given := getattr(config, name)) is not None:
            fields[name] = given
        elif variable in environ:
            value = environ[variable]
            if name != "coordinator" and not value.isdecimal():
                raise InputError(f"{variable}: expected an integer, got {value!r}")
            fields[name] = value if name == "coordinator" else int(value)
    if not fields:
        return None
    missing = [f"distributed.{name} (or {variable})" for name, variable in VARIABLES.items() if name not in fields]
    if missing:
        found = ", ".join(f"distributed.{name} {value}" for name, value in fields.items())
        raise InputError(
            f"hosts: expected all of coordinator, num_processes, process_id, got {found}, no {', no '.join(missing)}"
        )
    return replace(config, **fields)  # type: ignore[arg-type]


def found_by_jax(environ: Mapping[str, str]) -> bool:
    """Whether several processes were started by a launcher that JAX knows.

    Where there is but one, JAX must not look: of a task of Slurm it takes all but one GPU away, and it may wait for a
    coordinator that no name leads to.
    """
    workers = next((environ[name] for name in _TPU_WORKERS if name in environ), "")
    return "," in workers or any(int(environ.get(name, 1)) > 1 for name in _COUNTS)


def _asks_metadata(environ: Mapping[str, str]) -> bool:
    """Whether this may be one of several TPU machines that only their cloud's metadata server knows."""
    told = any(name in environ for name in (*_TPU_WORKERS, "TPU_SKIP_MDS_QUERY"))
    return not told and importlib.util.find_spec("libtpu") is not None


def connect(config: DistributedConfig, *, saves_on_sigterm: bool) -> None:
    """Joins the other processes of this run, if there are any; comes before whatever else makes JAX look for devices.

    From here on only the first host's standard output is shown; all may write errors and warnings.

    Args:
        config: where the others are, unless JAX finds them by itself, and how long to wait for one that is silent.
        saves_on_sigterm: on several hosts, SIGTERM ends nothing by itself, but is asked after by `preemption_signal`.

    Raises:
        InputError: see `resolve`.
    """
    given = resolve(config, os.environ)
    found = given is None and found_by_jax(os.environ)
    if not (given or found or _asks_metadata(os.environ)):
        return
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    # A process that fails waits for the others before it exits, and they for it: the same limit holds for both.
    seconds = config.heartbeat_timeout_s
    join = partial(jax.distributed.initialize, heartbeat_timeout_seconds=seconds, shutdown_timeout_seconds=seconds)
    if given:
        join(given.coordinator_address, given.num_processes, given.process_id, cluster_detection_method="deactivate")
    else:
        try:
            join()
        except ValueError:  # no cluster
            if found:
                raise
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which JAX has taken
    if not is_primary_host():
        logging.basicConfig(level=logging.WARNING, format=f"host {jax.process_index()}: %(message)s", force=True)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives


def on_primary_host(act: Callable[[], bool | None]) -> bool:
    """Lets the first host act, alone; the others wait, and are told what it returns.

    Raises:
        OtherHostStopped: on the others, where `act` raises on the first.
    """
    answer = _REFUSED
    try:
        if is_primary_host():
            answer = int(bool(act()))
    finally:
        answer = int(multihost_utils.broadcast_one_to_all(np.int32(answer)))
    if answer == _REFUSED:
        raise OtherHostStopped("the first host stopped; its own output says why")
    return bool(answer)


@contextmanager
def sync_errors() -> Iterator[None]:
    """What all hosts do, or none goes on; inside, no host waits for another.

    Raises:
        OtherHostStopped: here all went well, elsewhere not.
    """
    failed = True
    try:
        yield
        failed = False
    finally:
        anywhere = np.any(multihost_utils.process_allgather(np.int32(failed)))
    if anywhere:
        raise OtherHostStopped("another host stopped; its own output says why")


def assert_same_on_hosts(given: object) -> None:
    """Compares what every host was given; where it differs, programs would, and the hosts would wait for ever.

    Args:
        given: anything that JSON can express.

    Raises:
        InputError: on all hosts, naming those that differ from the first.
    """
    digest = np.frombuffer(hashlib.sha256(json.dumps(given).encode()).digest(), np.uint8)
    digests = np.reshape(multihost_utils.process_allgather(digest), (-1, len(digest)))
    differing = [host for host, other in enumerate(digests) if not np.array_equal(other, digests[0])]
    if differing:
        hosts = ", ".join(map(str, differing))
        raise InputError(
            f"hosts: expected one configuration, corpus and backbone, got others on host {hosts} than on host 0"
        )


@contextmanager
def preemption_signal() -> Iterator[Callable[[int], bool]]:
    """A function to ask after each step, by its number, whether SIGTERM has come: then save and stop there.

    On several hosts, whichever of them was asked to stop, it says so to all after the same step; see `connect`.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda _: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)
