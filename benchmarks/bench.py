"""What a benchmark is made of: parts, each a set of peers in processes of their own, and one file of results."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "speed"
REPEATS = 5

# hardware; parts: name -> git_revision, options, peers: name -> what it returned; left_out: name -> why
Results = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Peers that do the same work.

    Attributes:
        name: in the results; a prefix of it says which table it belongs to.
        module: of this package.
        peers: functions of the module.
        options: their arguments.
    """

    name: str
    module: str
    peers: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=lambda: {"repeats": REPEATS})


def run_peer(module: str, peer: str, options: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Measure one peer in a fresh process; return `failed` and the exit status where it broke."""
    command = [sys.executable, "-m", "benchmarks.peer", module, peer, json.dumps(options)]
    started = time.perf_counter()
    print(" ".join(command[3:]), end=" ", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)
    if done.returncode:
        return {"failed": f"exit status {done.returncode}"}
    result = json.loads(done.stdout.splitlines()[-1])
    if "left_out" in result:
        print(f"  left out: {peer} {result['left_out']}", flush=True)
    return result


def describe_hardware(environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Describe the machine in a process of its own: this one leaves the memory of the accelerator to the peers."""
    hardware = run_peer("hardware", "describe", {}, environment)
    if "failed" in hardware:
        sys.exit(f"bench: no device: {hardware['failed']}")
    return hardware


def slug(name: str) -> str:
    """Return a name for files: `AMD EPYC, 2 cores` -> `amd_epyc_2_cores`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def run_parts(
    parts: Sequence[Part],
    left_out: dict[str, str],
    hardware: dict[str, Any],
    folder: Path = RESULTS,
    environment: dict[str, str] | None = None,
    keep_others: bool = False,
) -> Results:
    """Measure every peer of every part in turn, and write the file after each.

    Args:
        parts: in this order.
        left_out: what is not measured here, and why.
        hardware: see `hardware.describe`; its name becomes the file's.
        folder: where the file is written.
        environment: variables of the peers' processes.
        keep_others: what the file has of other parts stays.
    """
    started = time.perf_counter()
    results: Results = {"hardware": hardware, "left_out": left_out, "parts": {}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(hardware['name'])}.json"
    if keep_others and path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        of_earlier = {"git_revision": earlier["hardware"].get("git_revision")}
        others = {name: of_earlier | part for name, part in earlier["parts"].items()}
        results = {"hardware": hardware, "left_out": earlier["left_out"], "parts": others}
    for part in parts:
        peers: dict[str, Any] = {}
        # Where somebody keeps a run is no result.
        options = {name: value for name, value in part.options.items() if name != "run"}
        results["parts"][part.name] = {"git_revision": hardware.get("git_revision"), "options": options, "peers": peers}
        for peer in part.peers:
            peers[peer] = run_peer(part.module, peer, part.options, environment)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"measured in {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return results
