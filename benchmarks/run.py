"""Runs every peer in a process of its own, in turn; writes benchmarks/results/cpu.json and cpu.md.

python -m benchmarks.run            (make bench; about 4 minutes on 2 cores)
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from knn_ner_jax.runs import environment

RESULTS = Path(__file__).parent / "results"
PEERS = {"tagging": ("ours", "pytorch"), "searching": ("ours", "faiss", "pytorch")}
PACKAGES = ("jax", "torch", "transformers", "faiss-cpu", "numpy")
ROUNDS, REPEATS = 1, 5

Rounds = list[dict[str, Any]]


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and versions (Linux)."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 2**20),
        "python": platform.python_version(),
        "git_revision": environment()["git_revision"],
        "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def run_peer(module: str, peer: str) -> dict[str, Any]:
    """Measures one peer in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.run", "--peer", module, peer]
    print(" ".join(command[1:]), flush=True)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def median(rounds: Rounds, *path: str) -> float:
    """Median over all repeats of all rounds of one list of seconds."""
    seconds = []
    for result in rounds:
        for name in path:
            result = result[name]
        seconds += result
    return statistics.median(seconds)


def ratio(ours: Rounds, peer: Rounds, *path: str) -> str:
    """Peer's time over ours, round by round: median, and the range over several rounds."""
    ratios = [median([b], *path) / median([a], *path) for a, b in zip(ours, peer, strict=True)]
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.2f}{spread}"


def tagging_table(results: dict[str, Rounds]) -> list[str]:
    """Tokens per second of ours and of PyTorch."""
    ours, torch = results["ours"], results["pytorch"]
    tokens = ours[0]["tokens"]
    lines = ["| MiniLM-L6, length-bucketed batches of 16 | ours | PyTorch | ratio |", "|---|--:|--:|--:|"]
    for name in ("forward", "train"):
        rates = [f"{tokens / median(rounds, name):,.0f}" for rounds in (ours, torch)]
        lines.append(f"| {name}, tokens/s | {rates[0]} | {rates[1]} | {ratio(ours, torch, name)} |")
    return lines


def searching_table(results: dict[str, Rounds]) -> list[str]:
    """Seconds of 256 queries against 200,000 x 768 float32 keys, and peak memory beyond the keys."""
    ours = results["ours"]
    columns = ["ours", "FAISS", "PyTorch", "FAISS / ours", "PyTorch / ours", "our peak beyond the keys"]
    lines = [f"| 256 queries, 200,000 x 768 keys | {' | '.join(columns)} |", "|---|--:|--:|--:|--:|--:|--:|"]
    for name in ours[0]:
        peak = f"{max(result[name]['peak_mb'] for result in ours):.0f} MB"
        cells = [f"{median(ours, name, 'seconds'):.2f} s"]
        peers = [results["faiss"], results["pytorch"]]
        cells += [f"{median(peer, name, 'seconds'):.2f} s" if name in peer[0] else "" for peer in peers]
        cells += [ratio(ours, peer, name, "seconds") if name in peer[0] else "" for peer in peers]
        lines.append(f"| {name} | {' | '.join(cells)} | {peak} |")
    return lines


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", nargs=2, metavar=("MODULE", "PEER"), help="measure one peer in this process, print JSON")
    given = parser.parse_args()
    if given.peer:
        module = importlib.import_module(f"benchmarks.{given.peer[0]}")
        print(json.dumps(getattr(module, given.peer[1])(REPEATS)))
        return
    results: dict[str, dict[str, Rounds]] = {module: {peer: [] for peer in peers} for module, peers in PEERS.items()}
    for _ in range(ROUNDS):
        for module, peers in PEERS.items():
            for peer in peers:
                results[module][peer].append(run_peer(module, peer))
    machine = hardware()
    table = [*tagging_table(results["tagging"]), "", *searching_table(results["searching"])]
    method = f"{ROUNDS} round(s), medians of {REPEATS} repeats, every peer in its own process"
    title = f"{machine['cpu']}, {machine['cores']} cores; {method}. Ratios above 1: ours is faster."
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu.json").write_text(json.dumps({"hardware": machine, **results}, indent=1) + "\n")
    (RESULTS / "cpu.md").write_text("\n".join([title, "", *table]) + "\n")
    print("\n".join([title, "", *table]))


if __name__ == "__main__":
    main()
