"""One of the scripts in a process of its own, to be stopped or killed while it works; what such processes are given."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from helpers import compiling

WITHOUT_TORCH = Path(__file__).parent / "without_torch"
ROOT = Path(__file__).parents[2]


def environment(num_devices: int) -> dict[str, str]:
    """Of a process with so many devices that finds no PyTorch, as where only the requirements are installed."""
    paths = [str(WITHOUT_TORCH), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {"XLA_FLAGS": compiling.flags(num_devices), "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    return os.environ | variables


class Process(NamedTuple):
    """A script at work.

    Attributes:
        popen: the process.
        output: receives what it prints.
    """

    popen: subprocess.Popen
    output: Path

    @classmethod
    def start(cls, script: str, config: Path, output: Path, folder: Path | None = None, num_devices: int = 1) -> "Process":
        command = [sys.executable, script, "--config", str(config)]
        with output.open("w") as stream:
            popen = subprocess.Popen(
                command, cwd=folder, env=environment(num_devices), stdout=stream, stderr=subprocess.STDOUT
            )
        return cls(popen, output)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Fails where the process is over before."""
        while self.popen.poll() is None and not reached():
            time.sleep(0.005)
        assert self.popen.poll() is None, f"over before it could be stopped: {self.output.read_text()}"

    def end(self) -> tuple[int, str]:
        """Exit code and everything printed."""
        return self.popen.wait(timeout=300), self.output.read_text()
