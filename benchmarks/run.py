"""Parts of the work beside their peers, each peer in a process of its own; `python -m benchmarks.report` writes the pages.

    python -m benchmarks.run --run RUN                  on the CPU (make bench RUN=RUN)
    python -m benchmarks.run --run RUN --accelerator    on one GPU or TPU

RUN, which may be left out, is a folder that train.py and eval.py have filled. One file for each machine goes to
results/speed.
"""

import argparse
import importlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.pages import RESULTS

REPEATS = 3
WEIGHTS = (0.5, 0.7, 1.0)
ON_CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # also where there is an accelerator
OWN = ("benchmarks", "knn_ner_jax", "tools")

# hardware; left_out: what -> why; parts: name -> git_revision, options, peers: name -> what it returned
Results = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Peers that do the same work.

    Attributes:
        name: in the results; its first word says which table it belongs to.
        module: of this package.
        peers: functions of the module, ours first.
        options: their arguments.
    """

    name: str
    module: str
    peers: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


def make_parts(accelerator: bool, torch: bool, tiny: bool, run: str | None) -> list[Part]:
    """Return every part.

    Args:
        accelerator: sizes for a GPU or TPU; tagging in bfloat16.
        torch: PyTorch computes on the same device.
        tiny: sizes that only show that everything runs.
        run: a folder that train.py and eval.py have filled; None: what needs it is left out.
    """
    queries = 4 if tiny else 1024 if accelerator else 256
    sizes = (300, 600) if tiny else (200_000, 2_000_000)
    common = {"repeats": 1 if tiny else REPEATS}
    search: dict[str, Any] = common | {"dim": 16 if tiny else 768, "queries": queries}
    search |= {"k": (2, "all") if tiny else (8, 64, 1024, "all")}
    searching = ("ours", "cuvs" if accelerator else "faiss", *(("pytorch",) if torch else ()))
    several = {"rows": sizes[0]}, {"rows": sizes[1]} | ({} if accelerator or tiny else {"repeats": 2})  # a CPU takes minutes
    parts = [Part(f"search {size['rows']}", "searching", searching, search | size) for size in several]
    memory = search | {"repeats": 1, "k": 2 if tiny else 64}
    rows_of_memory = sizes if tiny else (100_000, 500_000, 2_000_000)
    parts += [Part(f"memory {rows}", "searching", ("peak",), memory | {"rows": rows}) for rows in rows_of_memory]
    if not tiny:  # its size is fixed
        by_torch = ("torch_eager_bf16", "torch_compile") if accelerator else ("pytorch",)
        tagging = ("ours_bf16" if accelerator else "ours", *(by_torch if torch else ()))
        parts.insert(0, Part("tagging", "tagging", tagging, common))
    if run is not None:
        sentences = 4 if tiny else 2000 if accelerator else 200
        parts.append(
            Part("evaluation", "evaluating", ("tagging",), common | {"run": run, "sentences": sentences, "weights": WEIGHTS})
        )
    return parts


def measure_peer(module: str, function: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the peer returns; `left_out` and the reason where a package that only it needs is missing."""
    try:
        return getattr(importlib.import_module(f"benchmarks.{module}"), function)(**options)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in OWN:
            raise
        return {"left_out": f"needs the package {package}, which is not installed"}


def run_peer(module: str, peer: str, options: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Measure one peer in a fresh process; return `failed` and the exit status where it broke."""
    command = [sys.executable, "-m", "benchmarks.run", "--peer", module, peer, json.dumps(options)]
    started = time.perf_counter()
    print(" ".join(command[4:]), end=" ", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)
    result = {"failed": f"exit status {done.returncode}"} if done.returncode else json.loads(done.stdout.splitlines()[-1])
    if "left_out" in result:
        print(f"  left out: {peer} {result['left_out']}", flush=True)
    return result


def describe_hardware(environment: Mapping[str, str] = ON_CPU) -> dict[str, Any]:
    """Describe the machine in a process of its own: this one leaves the memory of the accelerator to the peers."""
    hardware = run_peer("measuring", "describe", {}, environment)
    if "failed" in hardware:
        sys.exit(f"run: no device: {hardware['failed']}")
    return hardware


def slug(name: str) -> str:
    """Return a name for files: `AMD EPYC, 2 cores` -> `amd_epyc_2_cores`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def run_parts(
    parts: Sequence[Part],
    left_out: Mapping[str, str],
    hardware: Mapping[str, Any],
    folder: Path,
    environment: Mapping[str, str],
    keep_others: bool = False,
    minutes: float = math.inf,
) -> Results:
    """Measure every peer of every part in turn, and write the file after each.

    Args:
        parts: in this order.
        left_out: what is not measured here, and why.
        hardware: see `measuring.describe`; its name becomes the file's.
        folder: where the file is written.
        environment: variables of the peers' processes.
        keep_others: what the file has of other parts stays.
        minutes: what has not begun by then is left out.
    """
    until = time.monotonic() + 60 * minutes
    path = folder / f"{slug(hardware['name'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results: Results = {"hardware": hardware, "left_out": left_out, "parts": {}}
    if keep_others and path.exists():
        results |= {name: json.loads(path.read_text(encoding="utf-8"))[name] for name in ("left_out", "parts")}
    for part in parts:
        peers: dict[str, Any] = {}
        # Where somebody keeps a run is no result.
        options = {name: value for name, value in part.options.items() if name != "run"}
        results["parts"][part.name] = {"git_revision": hardware.get("git_revision"), "options": options, "peers": peers}
        for peer in part.peers:
            in_time = time.monotonic() < until
            peers[peer] = run_peer(part.module, peer, part.options, environment) if in_time else {"left_out": "time was up"}
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and end with exit status 1 where a peer broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a folder that train.py and eval.py have filled; its test split is tagged")
    parser.add_argument("--accelerator", action="store_true", help="measure one GPU or TPU")
    parser.add_argument("--only", nargs="+", help="parts to measure, by name")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    parser.add_argument("--minutes", type=float, default=math.inf, help="what has not begun by then is left out")
    parser.add_argument("--folder", type=Path, default=RESULTS / "speed", help="where the results are written")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.peer:
        module, function, options = arguments.peer
        print(json.dumps(measure_peer(module, function, json.loads(options))))
        return
    environment = {} if arguments.accelerator else ON_CPU
    hardware = describe_hardware(environment)
    if arguments.accelerator and hardware["platform"] == "cpu" and not arguments.tiny:
        sys.exit("run: --accelerator: expected a GPU or TPU, found only a CPU")
    left_out = {} if arguments.run else {"evaluation": "no trained run was given (--run)"}
    torch = not arguments.accelerator or hardware["torch_device"] not in (None, "cpu")
    if not torch:
        left_out["PyTorch"] = f"torch {hardware['packages']['torch']} finds no {hardware['name']}"
    parts = make_parts(arguments.accelerator, torch, arguments.tiny, arguments.run)
    known = [part.name for part in parts]
    if unknown := [name for name in arguments.only or known if name not in known]:
        sys.exit(f"run: --only: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    chosen = [part for part in parts if part.name in (arguments.only or known)]
    results = run_parts(chosen, left_out, hardware, arguments.folder, environment, bool(arguments.only), arguments.minutes)
    peers = [(part, peer, result) for part, one in results["parts"].items() for peer, result in one["peers"].items()]
    if broken := [f"{part}, {peer}: {result['failed']}" for part, peer, result in peers if "failed" in result]:
        sys.exit("\n".join(["failed:", *broken]))


if __name__ == "__main__":
    main()
