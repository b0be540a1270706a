"""Several hosts as one run: how they find each other, decide together, and stop together.

A host is a process that drives some of the devices; the first one is host 0.
"""

import hashlib
import importlib.util
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from knn_ner_jax import io
from knn_ner_jax.config import DistributedConfig
from knn_ner_jax.io import InputError
from knn_ner_jax.sharding import is_primary_host

# Environment variables for the fields of `DistributedConfig`. The first is JAX's; JAX has no names for the others.
VARIABLES = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}

# In these, launchers that JAX knows give the number of processes, or slices of a TPU, that they have started together.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
_TPU_WORKERS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")

_FAILED = -1


class OtherHostStopped(InputError):
    """An error on another host, whose own output says why."""


def resolve(config: DistributedConfig, environ: Mapping[str, str]) -> DistributedConfig | None:
    """Complete a configuration from the environment.

    Args:
        config: the configuration; its fields win.
        environ: environment variables, see `VARIABLES`.

    Returns:
        None where neither has a coordinator, a count or an id.

    Raises:
        InputError: only some of the three are there, or they contradict each other.
    """
    fields: dict[str, str | int] = {}
    for name, variable in VARIABLES.items():
        if (field := getattr(config, name)) is not None:
            fields[name] = field
        elif variable in environ:
            value, is_number = environ[variable], name != "coordinator_address"
            if is_number and not value.isdecimal():
                raise InputError(f"{variable}: expected an integer, got {value!r}")
            fields[name] = int(value) if is_number else value
    if not fields:
        return None
    missing = [f"distributed.{name} (or {variable})" for name, variable in VARIABLES.items() if name not in fields]
    if missing:
        present = ", ".join(f"distributed.{name} {value}" for name, value in fields.items())
        raise InputError(f"distributed: expected all of {', '.join(VARIABLES)}, got {present}, no {', no '.join(missing)}")
    return replace(config, **fields)  # type: ignore[arg-type]


def has_known_launcher(environ: Mapping[str, str]) -> bool:
    """Return whether a launcher that JAX knows has started several processes.

    Where there is but one process, JAX must not look for others: it would take all but one GPU away from a task of Slurm,
    and might wait for a coordinator that no name leads to.
    """
    workers = next((environ[name] for name in _TPU_WORKERS if name in environ), "")
    return "," in workers or any(int(environ.get(name, 1)) > 1 for name in _COUNTS)


def _may_be_tpu_worker(environ: Mapping[str, str]) -> bool:
    """Return whether this may be one of several TPU machines that only their cloud's metadata server knows."""
    is_configured = any(name in environ for name in (*_TPU_WORKERS, "TPU_SKIP_MDS_QUERY"))
    return not is_configured and importlib.util.find_spec("libtpu") is not None


def connect(config: DistributedConfig, *, saves_on_sigterm: bool) -> None:
    """Join the other processes of this run, if there are any; call it before anything that makes JAX look for devices.

    From here on only the first host's standard output is shown; all hosts may write errors and warnings.

    Args:
        config: addresses of the processes, where JAX cannot detect them, and how long to wait for a silent one.
        saves_on_sigterm: whether, on several hosts, SIGTERM is only reported by `preemption_signal`, instead of ending the
            process.

    Raises:
        InputError: see `resolve`.
    """
    addresses = resolve(config, os.environ)
    is_launched = addresses is None and has_known_launcher(os.environ)
    if not (addresses or is_launched or _may_be_tpu_worker(os.environ)):
        return
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    # A process that fails waits for the others before it exits, and they for it: the same limit holds for both.
    seconds = config.heartbeat_timeout_s
    join = partial(jax.distributed.initialize, heartbeat_timeout_seconds=seconds, shutdown_timeout_seconds=seconds)
    if addresses:
        ids = addresses.num_processes, addresses.process_id
        join(addresses.coordinator_address, *ids, cluster_detection_method="deactivate")
    else:
        try:
            join()
        except ValueError:  # no cluster
            if is_launched:
                raise
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which JAX has taken
    if not is_primary_host():
        logging.getLogger("knn_ner_jax").setLevel(logging.WARNING)
        logging.basicConfig(level=logging.WARNING, format=f"host {jax.process_index()}: %(message)s", force=True)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives


def on_primary_host(act: Callable[[], bool | None]) -> bool:
    """Call a function on the first host alone, and return its result as a truth value on every host.

    Raises:
        OtherHostStopped: on the other hosts, where `act` raises on the first.
    """
    answer = _FAILED
    try:
        if is_primary_host():
            answer = int(bool(act()))
    finally:
        answer = int(multihost_utils.broadcast_one_to_all(np.int32(answer)))
    if answer == _FAILED:
        raise OtherHostStopped("the first host stopped; its own output says why")
    return bool(answer)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder (see `io.exclusive_lock`), which the first host locks for all.

    Raises:
        InputError: another process is at work there; OtherHostStopped on the other hosts.
    """
    with ExitStack() as stack:
        on_primary_host(lambda: stack.enter_context(io.exclusive_lock(folder)))
        yield


@contextmanager
def sync_errors() -> Iterator[None]:
    """Let no host continue after the block unless all of them completed it; inside, no host may wait for another.

    Raises:
        OtherHostStopped: the block failed on another host, not on this one.
    """
    has_failed = True
    try:
        yield
        has_failed = False
    finally:
        anywhere = np.any(multihost_utils.process_allgather(np.int32(has_failed)))
    if anywhere:
        raise OtherHostStopped("another host stopped; its own output says why")


def assert_same_on_hosts(inputs: object) -> None:
    """Compare the inputs of all hosts, with which their programs would differ, and the hosts wait for each other for ever.

    Args:
        inputs: anything that JSON can express.

    Raises:
        InputError: some differ; raised on all hosts, naming those that differ from the first.
    """
    digest = np.frombuffer(hashlib.sha256(json.dumps(inputs).encode()).digest(), np.uint8)
    digests = np.reshape(multihost_utils.process_allgather(digest), (-1, len(digest)))
    differing = [host for host, other in enumerate(digests) if not np.array_equal(other, digests[0])]
    if differing:
        hosts = ", ".join(map(str, differing))
        raise InputError(
            f"hosts: expected one configuration, corpus and backbone, got others on host {hosts} than on host 0"
        )


@contextmanager
def preemption_signal() -> Iterator[Callable[[int], bool]]:
    """Yield a function that returns, after a step of a number, whether SIGTERM has come and the run must save and stop.

    On several hosts it returns True on all of them after the same step, whichever of them received the signal; see
    `connect`.
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
