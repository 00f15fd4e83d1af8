"""Whether a configuration keeps the bounds on its metrics, shown by an interval of its own.

A bound holds for the typical run: the median of a metric, or what else is estimated. A winner's runs in the search say
little about it, because a search picks those whose noise was lucky; so the fresh runs of the verification decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tunewright.measuring.intervals import Look, looks_within, miss_rate
from tunewright.target import Metric

TRIES = 5  # configurations of a session that are verified because one before was not shown to keep its bounds
_FALSE = 0.05  # share of sessions in which a configuration that breaks a bound may be recommended
Interval = Callable[[Sequence[float]], tuple[float, float, float]]  # values of one side -> value, low, high


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a configuration stands to the bounds on one metric.

    Attributes:
        metric: its name.
        bound: in words, such as ``lat <= 15 ms``.
        of: ``candidate`` or ``default``.
        value: what was estimated, in the metric's unit.
        low: lower end of its interval.
        high: upper end.
        runs: number of runs.
        standing: ``met`` where the whole interval keeps the bounds, ``missed`` where no part of it does, else ``open``.
    """

    metric: str
    bound: str
    of: str
    value: float
    low: float
    high: float
    runs: int
    standing: Literal["met", "missed", "open"]

    def words(self) -> str:
        """Return the figures, such as ``14.2 (95 % interval 13.6 to 14.8, 12 runs)``."""
        if self.runs == 0:
            return "no run gave a value"
        if self.low == self.high:
            return f"{self.value:.4g}"
        if not math.isfinite(self.low) and not math.isfinite(self.high):
            return f"{self.value:.4g} in {self.runs} run{'' if self.runs == 1 else 's'}"
        return f"{self.value:.4g} (95 % interval {self.low:.4g} to {self.high:.4g}, {self.runs} runs)"


def bound_words(metric: Metric) -> str:
    """Return the bounds of a metric in words.

    >>> bound_words(Metric(name="lat", direction="min", unit="ms", at_most=15))
    'lat <= 15 ms'
    """
    bounds = []
    if metric.at_least is not None:
        bounds.append(f"{metric.name} >= {metric.at_least:g} {metric.unit}".rstrip())
    if metric.at_most is not None:
        bounds.append(f"{metric.name} <= {metric.at_most:g} {metric.unit}".rstrip())
    return " and ".join(bounds)


def standing(metric: Metric, values: Sequence[float], interval: Interval, of: str = "candidate") -> Standing:
    """Return how runs stand to the bounds on their metric."""
    value, low, high = interval(values)
    least = -math.inf if metric.at_least is None else metric.at_least
    most = math.inf if metric.at_most is None else metric.at_most
    kept = least <= low and high <= most
    return Standing(
        metric=metric.name,
        bound=bound_words(metric),
        of=of,
        value=value,
        low=low,
        high=high,
        runs=len(values),
        standing="met" if kept else "missed" if high < least or low > most else "open",
    )


def hopeless(metrics: Iterable[Metric], runs: Sequence[Mapping[str, float]], looks: Sequence[Look]) -> bool:
    """Whether no further run can show that the bounds are kept, at any look that is left.

    Args:
        metrics: those without bounds are passed over.
        runs: values of the configuration's runs so far.
        looks: at which intervals between order statistics are looked at.
    """
    allowed = max((rank - 1 for pairs, rank in looks if pairs >= len(runs)), default=0)
    return any(
        sum(value < bound for value in values) > allowed
        for metric in metrics
        for bound, values in (
            (metric.at_least, [run[metric.name] for run in runs]),
            (None if metric.at_most is None else -metric.at_most, [-run[metric.name] for run in runs]),
        )
        if bound is not None
    )


def looks_of_try(looks: Sequence[Look], number: int) -> tuple[Look, ...]:
    """Return the looks of the verification after so many others that did not show that bounds are kept.

    The first has the level's own looks. What they leave of 5 % is shared by those after it, so that all tries of a
    session together recommend a configuration that breaks a bound in at most 5 of 100 sessions.

    >>> looks_of_try(((8, 1), (10, 2), (12, 3)), 0), looks_of_try(((8, 1), (10, 2), (12, 3)), 1)
    (((8, 1), (10, 2), (12, 3)), ((10, 1), (12, 2)))
    """
    if number == 0:
        return tuple(looks)
    left = 2 * _FALSE - miss_rate(looks)  # an interval has two ends, and breaking a bound needs one
    return looks_within([pairs for pairs, _ in looks], left / (TRIES - 1))


def room(metrics: Iterable[Metric], values: Mapping[str, float], noise: Mapping[str, float]) -> float:
    """Return how far a configuration stays from its nearest bound, in standard deviations of one run.

    Args:
        metrics: those without bounds are passed over.
        values: medians of the configuration, by metric.
        noise: standard deviation of a run, by metric, as a share of its value.

    Returns:
        Infinite without bounds, or where values repeat exactly and keep them; below 0 where a bound is missed.
    """
    least = math.inf
    for metric in metrics:
        if metric.constrained:
            away, one = -metric.violation(values[metric.name]), noise.get(metric.name, 0.0) * abs(values[metric.name])
            least = min(least, away / one if one else math.copysign(math.inf, away) if away else 0.0)
    return least


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of one run as a share of the median, robustly; 0 for fewer than two values.

    >>> round(spread([95, 100, 105, 100, 250]), 3)
    0.074
    """
    middle = float(np.median(values)) if len(values) > 1 else 0.0
    if not middle:
        return 0.0
    away = np.abs(np.array(values) - middle)
    return float(1.4826 * np.median(away) or np.std(values)) / abs(middle)
