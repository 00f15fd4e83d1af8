"""What a verdict estimates: the median of the pairs' ratios, or a ratio of medians, of means or of a quantile.

The ratios of pairs need no assumption on the noise, so they are the default. But where the candidate's noise is skewed
one way and the default's the other, their median is not the ratio of the medians. Whoever asks for another quantity
gets an interval that is made for it, and pays with more runs. These intervals take the runs of one side to be
independent of each other; what a pair shares, such as a slow machine, makes them wider and no less valid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from tunewright.errors import ConfigError
from tunewright.measuring import feasibility
from tunewright.measuring.intervals import Look, median_interval
from tunewright.target import Metric

_MISS = 0.05  # of each side's interval
_Z = 2.5758293  # of the normal at 99.5 %: Student's t at a nominal 99 %, as skewed runs cost it several points
_MEAN_PAIRS = {"fast": 12, "normal": 20, "strict": 40}
_QUANTILE_TIMES = {"fast": 1, "normal": 1, "strict": 2}  # the fewest runs that bound a quantile, so often


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is estimated.

    Attributes:
        name: as the user writes it: ``pairs``, ``median``, ``mean``, or ``p90`` and the like.
        quantile: for the last, between 0.05 and 0.95.
    """

    name: str = "pairs"
    quantile: float | None = None

    @property
    def words(self) -> str:
        """What it is, for a verdict; "" for the median of the pairs' ratios."""
        if self.quantile is not None:
            return f"ratio of the {self.name} of all runs"
        return {"median": "ratio of medians", "mean": "ratio of means"}.get(self.name, "")


PAIRS = Estimate()


def estimate_of(text: str) -> Estimate:
    """Read what the user wants to be estimated.

    Raises:
        ConfigError: it is none of the names.

    >>> estimate_of("p90").quantile, estimate_of("mean").words
    (0.9, 'ratio of means')
    """
    if text in ("pairs", "median", "mean"):
        return Estimate(name=text)
    found = re.fullmatch(r"p(\d\d?)", text)
    if found is None:
        raise ConfigError(
            f"no estimate has the name {text[:40]!r}; there are pairs (the default), median, mean and quantiles "
            "such as p90"
        )
    percent = int(found[1])
    if not 5 <= percent <= 95:
        raise ConfigError(f"the estimate {text} would take hundreds of runs; name a quantile from p5 to p95")
    return Estimate(name=text, quantile=percent / 100)


def looks(estimate: Estimate, level: str, own: tuple[Look, ...], tried: int = 0) -> tuple[Look, ...]:
    """Return after how many pairs a verification is looked at, and with which order statistics.

    Args:
        estimate: what is estimated.
        level: name of the trust level.
        own: looks of the level for ratios of pairs.
        tried: how many configurations were not shown to keep their bounds; see ``feasibility.looks_of_try``.
    """
    if estimate.quantile is not None:
        return ((max(own[-1][0], _QUANTILE_TIMES[level] * fewest(estimate.quantile)), 1),)
    if estimate.name == "mean":
        return ((_MEAN_PAIRS[level], 1),)
    return feasibility.looks_of_try(own, tried)


def lost(
    estimate: Estimate, bounded: Sequence[Metric], runs: Sequence[Mapping[str, float]], looked: Sequence[Look]
) -> bool:
    """Whether no further run can show that a configuration keeps its bounds; False where that is not known."""
    return estimate.name in ("pairs", "median") and feasibility.hopeless(bounded, runs, looked)


def side(estimate: Estimate, rank: int | None = None) -> Callable[[Sequence[float]], tuple[float, float, float]]:
    """Return what gives the value of one side's runs and its interval.

    Args:
        estimate: what is estimated.
        rank: of the look; None for a number of runs fixed beforehand, 0 for an unbounded interval.
    """
    if estimate.quantile is not None:
        return partial(_quantile, quantile=estimate.quantile, bounded=rank != 0)
    if estimate.name == "mean":
        return partial(_mean, bounded=rank != 0)
    return partial(median_interval, rank=rank)


def against(
    candidate: Sequence[float], default: Sequence[float], estimate: Estimate, rank: int | None = None
) -> tuple[bool, tuple[float, float, float]]:
    """Compare the runs of two sides, in pairs, by one of the quantities that are not a median of ratios.

    Args:
        candidate: values of the one.
        default: of the other.
        estimate: what is estimated.
        rank: as for ``side``.

    Returns:
        Whether it is a ratio, candidate over default, or their difference where a value is 0 or below; and its value
        with the ends of its interval.
    """
    ratio = min(*candidate, *default) > 0
    if estimate.name == "mean":
        return ratio, _of_means(candidate, default, ratio, rank != 0)
    of = side(estimate, rank)
    if not ratio:
        return False, _recovered(of(candidate), of(default))
    logs = _recovered(of(np.log(candidate).tolist()), of(np.log(default).tolist()))
    value, low, high = (math.exp(min(v, 700.0)) for v in logs)
    return True, (value, low, high if high < math.exp(700.0) else math.inf)


def _recovered(
    candidate: tuple[float, float, float], default: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the difference of two independent quantities with an interval from those of both (MOVER).

    Zou and Donner (2008), Construction of confidence limits about effect measures, equation 5.
    """
    (c, c_low, c_high), (d, d_low, d_high) = candidate, default
    return c - d, c - d - math.hypot(c - c_low, d_high - d), c - d + math.hypot(c_high - c, d - d_low)


def fewest(quantile: float) -> int:
    """Return the fewest runs whose smallest and largest value bound a quantile.

    >>> fewest(0.5), fewest(0.9)
    (6, 36)
    """
    far = max(quantile, 1 - quantile)
    return next(n for n in count(1) if far**n <= _MISS / 2)


def _quantile(values: Sequence[float], quantile: float, bounded: bool) -> tuple[float, float, float]:
    """Return a quantile between two order statistics (Conover, Practical Nonparametric Statistics, 3.2)."""
    ordered, n = sorted(values), len(values)
    if not ordered:
        return math.nan, -math.inf, math.inf
    value, low, high = float(np.quantile(ordered, quantile)), -math.inf, math.inf
    if not bounded:
        return value, low, high
    below = 0.0  # probability that at most ``rank`` values lie below the quantile
    for rank in range(n):
        chance = math.comb(n, rank) * quantile**rank * (1 - quantile) ** (n - rank)
        if below + chance <= _MISS / 2:
            low = ordered[rank]
        if 1 - below <= _MISS / 2 and rank >= 1:
            high = min(high, ordered[rank - 1])
        below += chance
    if quantile**n <= _MISS / 2:
        high = min(high, ordered[-1])
    return value, low, high


def _t(freedom: int) -> float:
    """Return Student's t at 99.5 % (Abramowitz and Stegun 26.7.5).

    >>> round(_t(11), 2), round(_t(39), 3)
    (3.1, 2.708)
    """
    z, v = _Z, freedom
    terms = (
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
    )
    return z + sum(terms)


def _mean(values: Sequence[float], bounded: bool) -> tuple[float, float, float]:
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), -math.inf, math.inf
    value = float(np.mean(values))
    half = _t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if bounded else math.inf
    return value, value - half, value + half


def _of_means(
    candidate: Sequence[float], default: Sequence[float], ratio: bool, bounded: bool
) -> tuple[float, float, float]:
    """Return ratio or difference of two means with its interval, from the pairs' parts in it (the delta method)."""
    c, d = np.array(candidate), np.array(default)
    if not ratio:
        return _mean((c - d).tolist(), bounded)
    log, low, high = _mean((c / c.mean() - d / d.mean()).tolist(), bounded)  # their mean is 0: only the width counts
    value = float(c.mean() / d.mean())
    return value, value * math.exp(low - log), value * math.exp(min(high - log, 700.0))
