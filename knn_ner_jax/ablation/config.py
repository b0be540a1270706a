"""The configuration of a study: that of a run, and what varies about it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from knn_ner_jax.config import Config, as_list, require
from knn_ner_jax.io import InputError

Axis = dict[str, list[Any]]  # fields of a configuration -> equally long lists of values
FIXED_IN_STUDIES = ("run_dir", "eval_dir", "seed", "distributed", "ablation")  # fields that a study sets itself


@dataclass(frozen=True)
class AblationConfig:
    """A study of several runs; an axis maps fields to lists of one length, which vary together, and axes are crossed.

    Attributes:
        seeds: seeds that every combination of values is computed with, in place of seed
        conditions: axes to compare; each combination of their values is reported on test
        candidates: axes that dev chooses from: one combination for each condition; the first one is the reference
        taggers: folder of the trained taggers, which several studies may share; default: in run_dir
        stop_before_test: whether to stop once dev has chosen, so that the choice can be committed before test is read
        combiner: another way to combine tagger and neighbours, module:Class: knn_ner_jax.contrib.adaptive:AdaptiveCombiner
        keep_datastores: whether to keep each datastore on disk after its results are there
        resamples: number of bootstrap samples behind every confidence interval
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    conditions: list[Axis] = field(default_factory=list)
    candidates: list[Axis] = field(default_factory=list)
    taggers: str | None = None
    stop_before_test: bool = False
    combiner: str | None = None
    keep_datastores: bool = False
    resamples: int = 10_000

    def __post_init__(self) -> None:
        if self.taggers:
            object.__setattr__(self, "taggers", os.path.expanduser(self.taggers))
        are_different = bool(self.seeds) and len(set(self.seeds)) == len(self.seeds)
        require(are_different, "ablation.seeds", "different seeds", self.seeds)
        require(self.resamples >= 1, "ablation.resamples", "at least 1", self.resamples)
        seen: set[str] = set()
        for name, axis in self._named_axes():
            lengths = {key: len(as_list(values)) for key, values in axis.items()}
            if len(set(lengths.values())) != 1 or 0 in lengths.values():
                raise InputError(f"{name}: expected lists of one length, got {lengths}")
            if fixed := [key for key in axis if key.split(".")[0] in FIXED_IN_STUDIES]:
                raise InputError(f"{name}: expected fields that may vary, got {', '.join(fixed)}")
            if repeated := seen & axis.keys():
                raise InputError(f"{name}: expected each field on one axis, got {', '.join(repeated)} again")
            seen |= axis.keys()

    def _named_axes(self) -> Iterator[tuple[str, Axis]]:
        for kind in ("conditions", "candidates"):
            for number, axis in enumerate(getattr(self, kind)):
                yield f"ablation.{kind}[{number}]", axis


@dataclass(frozen=True)
class StudyConfig(Config):
    """The configuration of a study: that of a run, and the fields that vary.

    Attributes:
        ablation: the fields that vary, and how results are compared
    """

    ablation: AblationConfig = field(default_factory=AblationConfig)
