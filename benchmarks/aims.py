"""What the measurements are held against."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.reading import NAMES, MeasuredPart, measured, ours, parts_of, ratio
from knn_ner_jax.knn.combine import MARGIN_SETTLES_BELOW

FAISS = {"k=8": 0.82, "k=64": 0.82, "k=1024": 0.75}  # XLA's bare product is about 0.89 of FAISS on CPU
PRODUCT = 0.8  # share of a search on an accelerator
TRAINING = {"pytorch": 1.0, "torch_eager_bf16": 1.3, "torch_compile": 1.0}
EVALUATION = 1.05  # of the time without neighbours
PEAK_MIB, PEAK_SPREAD = 512, 1.1
BUILD = 0.95


@dataclass(frozen=True)
class Aim:
    """A measured value and the limit it is to reach.

    Attributes:
        text: what was measured.
        value: what came out.
        limit: the least it should be, or the most.
        at_most: whether the limit is the most.
    """

    text: str
    value: float
    limit: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the value keeps to the limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def _search_aims(part: MeasuredPart) -> Iterator[Aim]:
    peers, options = measured(part), part["options"]
    work = f"{options['rows']:,} x {options['dim']}"
    for name, result in peers["ours"].items():
        if name.startswith("product"):
            continue
        faiss, torch = (peers.get(peer, {}).get(name) for peer in ("faiss", "pytorch"))
        if faiss and name in FAISS:
            yield Aim(f"{work}, {name}: speed, of FAISS", ratio(result["seconds"], faiss["seconds"]), FAISS[name])
        if torch:
            yield Aim(f"{work}, {name}: speed, of PyTorch", ratio(result["seconds"], torch["seconds"]), 1.0)
        product = peers["ours"].get("product bfloat16" if name.endswith("bfloat16") else "product")
        if options["bfloat16"] and product and "all" not in name:
            share = ratio(result["seconds"], product["seconds"])
            yield Aim(f"{work}, {name}: the bare product's share of our time", share, PRODUCT)


def _evaluation_aims(part: MeasuredPart) -> Iterator[Aim]:
    result = ours(part)
    words = f"labels of {result['words']:,} words"
    for weight, others in result["other_labels"].items():
        if float(weight.split()[0]) < MARGIN_SETTLES_BELOW:
            times = ratio(result["seconds"]["tagger"], result["seconds"][weight])
            yield Aim(f"{words}, knn_weight {weight}: time, of that without kNN", times, EVALUATION, at_most=True)
        yield Aim(f"{words}, knn_weight {weight}: other than a full search gives", others, 0, at_most=True)


def _memory_aims(parts: Sequence[MeasuredPart]) -> Iterator[Aim]:
    peaks = [ours(part)["peak_mb"] for part in parts]
    rows = [part["options"]["rows"] for part in parts]
    k = parts[0]["options"]["k"]
    yield Aim(f"largest peak memory beyond the keys, k = {k}, MiB", max(peaks), PEAK_MIB, at_most=True)
    if len(parts) > 1:
        text = f"largest over smallest peak, {min(rows):,} to {max(rows):,} rows"
        yield Aim(text, max(peaks) / max(min(peaks), 1.0), PEAK_SPREAD, at_most=True)


def aims(results: Mapping[str, Any]) -> list[Aim]:
    """Return every value that has a limit, with that limit."""
    all_aims = [aim for part in parts_of(results, "search") for aim in _search_aims(part)]
    for part in parts_of(results, "evaluation"):
        all_aims += _evaluation_aims(part)
    if memory := parts_of(results, "memory"):
        all_aims += _memory_aims(memory)
    for part in parts_of(results, "build"):
        share = ratio(ours(part)["build"], ours(part)["forward"])
        all_aims.append(Aim("building a datastore: speed, of the forward pass", share, BUILD))
    for part in parts_of(results, "tagging"):
        for peer, result in list(measured(part).items())[1:]:
            for work in ("forward", "train"):
                speed = ratio(ours(part)[work], result[work])
                all_aims.append(Aim(f"{work}: speed, of {NAMES[peer]}", speed, TRAINING[peer]))
    return all_aims
