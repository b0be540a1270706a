"""The hosts of a run, as configuration and environment have them."""

import os
import signal

import pytest

from knn_ner_jax import distributed
from knn_ner_jax.config import DistributedConfig
from knn_ner_jax.distributed import OtherHostStopped
from knn_ner_jax.io import InputError

ADDRESS = "10.0.0.1:1234"
ENVIRONMENT = {"JAX_COORDINATOR_ADDRESS": ADDRESS, "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_without_addresses_there_is_one_process():
    assert distributed.resolve(DistributedConfig(), {"HOME": "/"}) is None
    distributed.connect(DistributedConfig(), saves_on_sigterm=True)


@pytest.mark.parametrize(
    ("config", "environ"),
    [
        (DistributedConfig(ADDRESS, 4, 3), {}),
        (DistributedConfig(), ENVIRONMENT),
        (DistributedConfig(process_id=3), ENVIRONMENT | {"JAX_PROCESS_ID": "1"}),
    ],
)
def test_fields_win_over_the_environment(config, environ):
    assert distributed.resolve(config, environ) == DistributedConfig(ADDRESS, 4, 3)


@pytest.mark.parametrize(
    ("config", "environ", "message"),
    [
        (
            DistributedConfig(process_id=1),
            {},
            r"got distributed.process_id 1, no distributed.coordinator_address \(or .*, no distributed.num_processes",
        ),
        (DistributedConfig(ADDRESS, 4), {}, r"no distributed.process_id \(or JAX_PROCESS_ID\)"),
        (
            DistributedConfig(process_id=4),
            {k: v for k, v in ENVIRONMENT.items() if k != "JAX_PROCESS_ID"},
            "process_id: .* 4, got 4",
        ),
        (DistributedConfig(), ENVIRONMENT | {"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID: expected an integer, got '-1'"),
        (
            DistributedConfig(),
            ENVIRONMENT | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"},
            "distributed.coordinator_address: expected HOST:PORT, got 10.0.0.1",
        ),
    ],
)
def test_contradictory_and_incomplete_settings_are_named(config, environ, message):
    with pytest.raises(InputError, match=message):
        distributed.resolve(config, environ)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_processes": 2, "process_id": 2},
            "distributed.process_id: expected less than distributed.num_processes, which is 2, got 2",
        ),
        ({"process_id": -1}, "distributed.process_id: expected at least 0, got -1"),
        ({"num_processes": 0}, "distributed.num_processes: expected at least 1, got 0"),
        ({"coordinator_address": "localhost"}, "distributed.coordinator_address: expected HOST:PORT, got localhost"),
        ({"heartbeat_timeout_s": 0}, "distributed.heartbeat_timeout_s: expected at least 1, got 0"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(InputError, match=message):
        DistributedConfig(**fields)


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1"}, True),
        ({"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_HOSTNAMES": "t-0,t-1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_jax_looks_for_others_only_where_a_launcher_has_started_some(environ, several):
    assert distributed.has_known_launcher(environ) is several


def test_one_host_decides_for_itself():
    assert distributed.on_primary_host(lambda: True) is True
    assert distributed.on_primary_host(lambda: None) is False
    with pytest.raises(InputError, match="mine"):
        distributed.on_primary_host(refuse)
    with pytest.raises(InputError, match="mine") as raised, distributed.sync_errors():
        refuse()
    assert not isinstance(raised.value, OtherHostStopped)
    with distributed.sync_errors():
        pass
    distributed.assert_same_on_hosts({"a": 1})


def refuse() -> None:
    raise InputError("mine")


def test_sigterm_is_reported_and_its_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with distributed.preemption_signal() as is_preempted:
        assert not is_preempted(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_preempted(2)
    assert signal.getsignal(signal.SIGTERM) is before
