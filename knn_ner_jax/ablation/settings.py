"""What dev chose of k, temperature, knn_weight and metric, and where that is the end of what was offered."""

from collections.abc import Iterable, Mapping
from typing import Any

NAMES = ("k", "temperature", "knn_weight", "metric")


def _order(value: Any) -> float:
    return float("inf") if value == "all" else value


def _with_edge(value: Any, offered: Iterable[Any]) -> str:
    ordered = sorted(set(offered), key=_order)
    if len(ordered) > 1 and value in (ordered[0], ordered[-1]):
        return f"{value} ({'smallest' if value == ordered[0] else 'largest'} offered)"
    return str(value)


def chosen(dev: Mapping[str, Any]) -> dict[str, str]:
    """Each value that dev chose, in words; a better one may lie beyond the smallest or the largest that was offered.

    Args:
        dev: results of a cell on dev.
    """
    selected, trials = dev["selected"], dev["trials"]
    numbers = {name: _with_edge(selected[name], [trial[name] for trial in trials]) for name in NAMES if name != "metric"}
    return numbers | {"metric": str(selected["metric"])}
