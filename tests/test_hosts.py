"""Which hosts a run has: the configuration, the environment, and what neither may say."""

import os
import signal

import pytest

from knn_ner_jax import hosts
from knn_ner_jax.errors import InputError
from knn_ner_jax.hosts import HostsConfig, OtherHostStopped

ADDRESS = "10.0.0.1:1234"
ENVIRONMENT = {"JAX_COORDINATOR_ADDRESS": ADDRESS, "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_nothing_given_is_one_process():
    assert hosts.resolve(HostsConfig(), {"HOME": "/"}) is None
    hosts.connect(HostsConfig(), saves_on_sigterm=True)


@pytest.mark.parametrize(
    ("config", "environ"),
    [
        (HostsConfig(ADDRESS, 4, 3), {}),
        (HostsConfig(), ENVIRONMENT),
        (HostsConfig(process_id=3), ENVIRONMENT | {"JAX_PROCESS_ID": "1"}),
    ],
)
def test_fields_win_over_the_environment(config, environ):
    assert hosts.resolve(config, environ) == HostsConfig(ADDRESS, 4, 3)


@pytest.mark.parametrize(
    ("config", "environ", "message"),
    [
        (
            HostsConfig(process_id=1),
            {},
            r"got hosts.process_id 1, no hosts.coordinator \(or JAX_COORD.*, no hosts.num_processes",
        ),
        (HostsConfig(ADDRESS, 4), {}, r"no hosts.process_id \(or JAX_PROCESS_ID\)"),
        (
            HostsConfig(process_id=4),
            {k: v for k, v in ENVIRONMENT.items() if k != "JAX_PROCESS_ID"},
            "process_id: .* 4, got 4",
        ),
        (HostsConfig(), ENVIRONMENT | {"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID: expected an integer, got '-1'"),
        (
            HostsConfig(),
            ENVIRONMENT | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"},
            "coordinator: expected HOST:PORT, got 10.0.0.1",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(config, environ, message):
    with pytest.raises(InputError, match=message):
        hosts.resolve(config, environ)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_processes": 2, "process_id": 2},
            "hosts.process_id: expected less than hosts.num_processes, which is 2, got 2",
        ),
        ({"process_id": -1}, "hosts.process_id: expected at least 0, got -1"),
        ({"num_processes": 0}, "hosts.num_processes: expected at least 1, got 0"),
        ({"coordinator": "localhost"}, "hosts.coordinator: expected HOST:PORT, got localhost"),
        ({"heartbeat_timeout_s": 0}, "hosts.heartbeat_timeout_s: expected at least 1, got 0"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(InputError, match=message):
        HostsConfig(**fields)


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
    assert hosts.found_by_jax(environ) is several


def test_one_host_decides_for_itself():
    assert hosts.on_first_host(lambda: True) is True
    assert hosts.on_first_host(lambda: None) is False
    with pytest.raises(InputError, match="mine"):
        hosts.on_first_host(refuse)
    with pytest.raises(InputError, match="mine") as raised, hosts.all_or_none():
        refuse()
    assert not isinstance(raised.value, OtherHostStopped)
    with hosts.all_or_none():
        pass
    hosts.check_same({"a": 1})


def refuse() -> None:
    raise InputError("mine")


def test_sigterm_is_asked_after_and_then_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with hosts.stop_requests() as is_to_stop:
        assert not is_to_stop(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_to_stop(2)
    assert signal.getsignal(signal.SIGTERM) is before
