"""What the studies of these tests have in common, so that less is compiled: three devices, one optimizer, two taggers."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.studies import run_study, write_study

from knn_ner_jax import sharding
from knn_ner_jax.training import loop
from knn_ner_jax.training.loop import make_optimizer

DEVICES = 3  # which divide neither batches of 4 nor the rows of most datastores

shared_optimizer = functools.cache(make_optimizer)  # programs are kept for an optimizer, not for what it is made of


@contextlib.contextmanager
def _compiling_less() -> Iterator[None]:
    make_mesh = sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda num_devices=DEVICES: make_mesh(num_devices))
        patch.setattr(loop, "make_optimizer", shared_optimizer)
        yield


@pytest.fixture(scope="module", autouse=True)
def few_devices_and_one_optimizer() -> Iterator[None]:
    with _compiling_less():
        yield


@pytest.fixture(scope="session")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the taggers of seeds 0 and 1, for studies (`ablation.taggers`) of which later steps are tested."""
    folder = tmp_path_factory.mktemp("taggers")
    write_study(folder, "knn: {k: 1}\nablation: {seeds: [0, 1], resamples: 10}")
    with pytest.MonkeyPatch.context() as patch, _compiling_less():
        patch.chdir(folder)
        run_study("--ablation.stop_before_test", "true")
    return folder / "study" / "taggers"
