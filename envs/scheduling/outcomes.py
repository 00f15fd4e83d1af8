"""Numbers that say how a simulation went, the same for requests, Spark's jobs and those of a cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def spread(values: NDArray[Any], middle: int = 90) -> dict[str, float | None]:
    """Return mean, median, the percentile ``middle`` and the 99th; None for each where there are no values."""
    percentiles = (50, middle, 99)
    if not len(values):
        return dict.fromkeys(("mean", *(f"p{p}" for p in percentiles)))
    found = zip(percentiles, np.percentile(values, percentiles), strict=True)
    return {"mean": float(values.mean()), **{f"p{p}": float(value) for p, value in found}}


def jain(values: Any) -> float:
    """Return Jain's fairness index, 1 for equal values and 1/n where one has all."""
    x = np.asarray(values, dtype=float)
    return float(x.sum() ** 2 / (len(x) * (x**2).sum())) if len(x) and (x > 0).any() else 1.0
