"""A figure over seeds."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds.

    Attributes:
        mean: nan where no seed has a value.
        std: nan where fewer than two have.
        seeds: how many have one.
    """

    mean: float
    std: float
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float] | np.ndarray) -> "Spread":
        """Of one value for each seed; nan where a seed has none."""
        found = np.asarray(list(values), float)
        found = found[~np.isnan(found)]
        mean = float(found.mean()) if len(found) else float("nan")
        return cls(mean, float(found.std(ddof=1)) if len(found) > 1 else float("nan"), len(found))

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.std:.1f}" if self.seeds > 1 else f"{self.mean:.1f}"
