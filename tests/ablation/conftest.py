"""What the studies of these tests have in common, so that less is compiled: one device, two taggers."""

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.evaluated_run import use_devices
from helpers.studies import run_study, write_study

from knn_ner_jax import cli
from knn_ner_jax.ablation import plots
from knn_ner_jax.config import Config
from knn_ner_jax.report.document import Figure

build_config = cli.build_config


@functools.cache
def _built(values: str) -> Config:
    return build_config(json.loads(values))


@contextlib.contextmanager
def _compiling_less(devices: int = 1) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, devices)
        patch.setattr(cli, "build_config", lambda values: _built(json.dumps(values)))  # studies here have many equal cells
        yield


@pytest.fixture(scope="module", autouse=True)
def few_devices(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module that has DEVICES uses so many, others one."""
    with _compiling_less(getattr(request.module, "DEVICES", 1)):
        yield


@pytest.fixture(scope="module", autouse=True)
def one_empty_plot(request: pytest.FixtureRequest) -> Iterator[None]:
    """Instead of those that a study draws whenever it stops; a module that has REAL_PLOTS draws them."""
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(request.module, "REAL_PLOTS"):
            patch.setattr(plots, "plot", lambda *_: {"gains": Figure("<svg/>", "", file="gains.svg")})
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
