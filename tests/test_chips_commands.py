"""What `make chips` and `make bench-accelerator` run: what they keep, what they refuse, and what they count."""

import os
import subprocess
from pathlib import Path

import pytest

from tools.chips import measure

ROOT = Path(__file__).parent.parent


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=outside, capture_output=True, text=True)


def test_an_accelerator_is_measured_in_the_environment_that_is_there():
    steps = make("-n", "bench-accelerator").stdout
    assert "tools.chips.measure" in steps
    assert "pip" not in steps
    assert "-m venv" not in steps


def test_an_environment_that_is_missing_is_named(tmp_path: Path):
    missing = tmp_path / "none"
    done = make("bench-accelerator", f"VENV={missing}")
    assert done.returncode != 0
    told = f"expected {missing}/bin/python, found none: create {missing} as docs/scaling.md says"
    assert done.stdout == f"bench-accelerator: {told}\n"


def test_a_cpu_is_not_measured_in_place_of_an_accelerator(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"expected a GPU or TPU, found only a CPU: install JAX for the device"):
        measure.main(["--folder", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
