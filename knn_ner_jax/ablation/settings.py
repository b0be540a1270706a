"""What dev chose of k, temperature, knn_weight and metric, and where a better one may lie beyond what was offered."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

Trial = Mapping[str, Any]

NAMES = ("k", "temperature", "knn_weight", "metric")
EDGE = "*"  # stands behind the smallest or the largest that was offered
_ENDS = {"k": (1, "all"), "temperature": (), "knn_weight": (0.0, 1.0)}  # beyond which there is nothing to offer


def _order(value: Any) -> float:
    return float("inf") if value == "all" else value


def _marked(name: str, value: Any, offered: Iterable[Any]) -> str:
    ordered = sorted(set(offered), key=_order)
    is_edge = len(ordered) > 1 and value in (ordered[0], ordered[-1]) and value not in _ENDS[name]
    return f"{value}{EDGE}" if is_edge else str(value)


def chosen(dev: Mapping[str, Any]) -> dict[str, str]:
    """Each value that dev chose, in words; `EDGE` behind those beyond which a better one may lie.

    Args:
        dev: results of a cell on dev.
    """
    selected, trials = dev["selected"], dev["trials"]
    numbers = {name: _marked(name, selected[name], [trial[name] for trial in trials]) for name in _ENDS}
    return numbers | {"metric": str(selected["metric"])}


def of_seeds(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """What is `chosen` for each seed, by name: one value where all seeds agree."""
    values = {name: [setting[name] for setting in settings] for name in NAMES}
    return [each[0] if len(set(each)) == 1 else "; ".join(each) for each in values.values()]


def mean_over_seeds(trials_of_seeds: Sequence[Iterable[Trial]]) -> list[Trial]:
    """Mean F1 of every setting that all seeds tried; k beyond the rows of a datastore is not tried."""
    by_setting: dict[tuple[Any, ...], list[float]] = {}
    for trials in trials_of_seeds:
        for trial in trials:
            by_setting.setdefault(tuple(trial[name] for name in NAMES), []).append(trial["f1"])
    tried_by_all = {setting: f1 for setting, f1 in by_setting.items() if len(f1) == len(trials_of_seeds)}
    return [dict(zip(NAMES, setting, strict=True)) | {"f1": fmean(f1)} for setting, f1 in tried_by_all.items()]
