"""Reading results: see `bench.Results`."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

MeasuredPart = Mapping[str, Any]  # options; peers: name -> what it returned

NAMES = {
    "ours": "ours",
    "ours_bf16": "ours, bfloat16",
    "faiss": "FAISS",
    "pytorch": "PyTorch",
    "torch_eager_bf16": "PyTorch, bfloat16",
    "torch_compile": "torch.compile, bfloat16",
}


def measured(part: MeasuredPart) -> dict[str, Any]:
    """Return the peers of a part that have results, by name, ours first."""
    return {name: result for name, result in part["peers"].items() if "left_out" not in result and "failed" not in result}


def parts_of(results: Mapping[str, Any], kind: str) -> list[MeasuredPart]:
    """Return the parts of a kind in which the first peer, ours, has results."""
    parts = [part for name, part in results["parts"].items() if name.split(" ")[0] == kind]
    return [part for part in parts if list(part["peers"])[:1] == list(measured(part))[:1] != []]


def ours(part: MeasuredPart) -> Any:
    """Return what the first peer returned."""
    return next(iter(part["peers"].values()))


def ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Return the peer's median time over ours: above 1 ours is faster."""
    return statistics.median(peer) / statistics.median(ours)


def failures(results: Mapping[str, Any]) -> list[str]:
    """Return the peers that broke, as `part, peer: exit status`."""
    return [
        f"{name}, {peer}: {result['failed']}"
        for name, part in results["parts"].items()
        for peer, result in part["peers"].items()
        if "failed" in result
    ]
