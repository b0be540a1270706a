"""A study whose process dies while it trains, searches test or fits a mixer, and is started again."""

import json
import signal
from pathlib import Path

import pytest
from helpers.script_process import Process
from helpers.studies import finish_study, run_study, write_study

from knn_ner_jax import sharding
from knn_ner_jax.ablation import report

ROOT = Path(__file__).parents[2]

VARIED = """
knn: {k: [1, 3], temperature: [0.05]}
ablation:
  seeds: [0]
  conditions:
    - datastore.fraction: [0.5, 1.0]
  combiner: knn_ner_jax.contrib.adaptive:AdaptiveCombiner
  resamples: 10
"""
RESULTS = ("dev", "test", "combiner_test")  # combiner_dev is written on the way to combiner_test


def results(folder: Path) -> dict[str, int]:
    """The results of a study, and when each was written."""
    found = (path for split in RESULTS for path in (folder / "study" / split).glob("*.json"))
    return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in found}


def run_until(folder: Path, pattern: str) -> None:
    """Runs a study in a process of its own and kills that as soon as a file is there."""
    # As many devices as here, because the last bits of a sum depend on them.
    devices = sharding.make_mesh().size
    process = Process.start(str(ROOT / "ablate.py"), Path("study.yaml"), folder / "log.txt", folder, devices)
    process.wait_until(lambda: any((folder / "study").glob(pattern)))
    process.popen.kill()
    assert process.end()[0] == -signal.SIGKILL


def without_times(folder: Path) -> dict[str, dict]:
    """What every file of results says, but for how fast."""
    contents = {name: json.loads((folder / "study" / name).read_text()) for name in results(folder)}
    return {name: {key: value for key, value in content.items() if key != "seconds"} for name, content in contents.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A study that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "has_page_extra", lambda: False)
        finish_study(folder, VARIED)
    return folder


@pytest.mark.slow
def test_a_study_that_dies_thrice_loses_the_cells_in_flight_and_nothing_else(undisturbed, tmp_path, monkeypatch):
    write_study(tmp_path, VARIED)
    done: dict[str, int] = {}
    for pattern in ("taggers/*/checkpoints/18*", "test/*.json", "combiner_dev/*.json"):
        run_until(tmp_path, pattern)
        now = results(tmp_path)
        assert done.items() <= now.items()
        assert len(now) < len(results(undisturbed))
        done = now
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "has_page_extra", lambda: False)
    run_study()
    assert done.items() <= results(tmp_path).items()
    assert without_times(tmp_path) == without_times(undisturbed)
    assert (tmp_path / "study" / "summary.md").read_text() == (undisturbed / "study" / "summary.md").read_text()
