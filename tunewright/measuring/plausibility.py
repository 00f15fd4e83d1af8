"""Values that look too good to be measurements: of another sign than the default's, or far from all others.

Programs print -1, 0 or a huge number where they have no value, and a search runs straight towards it. What is found
here is not said to be wrong: it is not called a gain until somebody says that such values are real.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.target import Metric

_FAR_ALIKE = 20.0  # times better than all others, where several runs or configurations give the very same value
_FAR = 1000.0  # the same where the values differ, as those of measurements do
_GAP = 0.5  # of the range of either group of values: the least distance between them for the better one to be apart
_ALIKE = 1e-9
_DURATIONS = frozenset(
    "s sec secs second seconds ms msec millisecond milliseconds us µs usec microsecond microseconds ns nsec nanosecond "
    "nanoseconds min minute minutes h hour hours".split()
)  # what takes no time was not measured


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Why a value is not believed.

    Attributes:
        metric: its name.
        value: what was measured.
        words: why, for people.
    """

    metric: str
    value: float
    words: str


def watched(metric: Metric) -> bool:
    """Whether values of a metric may be doubted: not where a bound says what is possible in the better direction."""
    return (metric.at_least if metric.direction == "min" else metric.at_most) is None


def sign_changed(metric: Metric, value: float, default: Sequence[float]) -> bool:
    """Whether a value has another sign than every run of the default, in the better direction.

    >>> sign_changed(Metric(name="lat", direction="min", unit="ms"), -1, [89.0, 90.0])
    True
    """
    if not default or not metric.better(value, max(default) if metric.direction == "max" else min(default)):
        return False
    if all(v > 0 for v in default):
        return value < 0 or (value == 0 and metric.unit.lower() in _DURATIONS)
    return all(v < 0 for v in default) and value > 0


def doubts(
    metric: Metric, default: Sequence[float], others: Mapping[int, Sequence[float]], *, far: bool = True
) -> dict[int, Doubt]:
    """Return which configurations have values that are not believed.

    Args:
        metric: the metric.
        default: its values in runs of the default.
        others: its values in runs of other configurations, by number.
        far: doubt also values that are far from all others, not only changes of the sign.
    """
    found: dict[int, Doubt] = {}
    if not default:
        return found
    typical = float(np.median(default))
    medians = {n: float(np.median(v)) for n, v in others.items() if len(v)}
    for number, values in others.items():
        value = next((v for v in values if sign_changed(metric, v, default)), None)
        if value is not None:
            words = f"{metric.name} is {_shown(metric, value)}, and of the default {_shown(metric, typical)}"
            found[number] = Doubt(metric=metric.name, value=value, words=words)
    if far and min(default) * max(default) > 0:  # else no value is so many times another
        left = {n: v for n, v in medians.items() if n not in found}
        for number in _apart(metric, typical, left, {n: others[n] for n in left}, len(set(default)) > 1):
            rest = [v for n, v in left.items() if not _as_good(metric, v, left[number])]
            nearest = (max if metric.direction == "max" else min)([*rest, typical])
            words = (
                f"{metric.name} is {_shown(metric, left[number])}, and {_shown(metric, nearest)} at best in all other "
                "configurations"
            )
            found[number] = Doubt(metric=metric.name, value=left[number], words=words)
    return found


def _apart(
    metric: Metric, default: float, medians: Mapping[int, float], runs: Mapping[int, Sequence[float]], noisy: bool
) -> list[int]:
    """Return the configurations whose values are far better than all others, without any between them."""
    better = [n for n, v in medians.items() if metric.better(v, default) and _times(v, default) > _FAR_ALIKE]
    if not better:
        return []  # nearly always
    order = sorted(medians, key=lambda n: medians[n], reverse=metric.direction == "min")
    values = [medians[n] for n in order]
    for place in range(len(order)):
        lower, upper = [default, *values[:place]], values[place:]
        edge = (max if metric.direction == "max" else min)(lower)
        if not metric.better(upper[0], edge):
            continue
        every = [v for n in order[place:] for v in runs[n]]
        alike = max(every) - min(every) <= _ALIKE * abs(max(every, key=abs))
        # one configuration is like itself; that its runs are, too, says something only where others' differ
        alike = alike and (len(upper) > 1 or (len(every) > 1 and noisy))
        gap = abs(upper[0] - edge)
        separate = gap > _GAP * max(max(lower) - min(lower), max(upper) - min(upper))
        if separate and _times(upper[0], edge) > (_FAR_ALIKE if alike else _FAR):
            return order[place:]
    return []


def _times(value: float, other: float) -> float:
    """By how much two values differ as a ratio; infinite where one is 0 or they have different signs."""
    if value * other <= 0:
        return math.inf
    return max(value / other, other / value)


def _as_good(metric: Metric, value: float, other: float) -> bool:
    return not metric.better(other, value)


def _shown(metric: Metric, value: float) -> str:
    return f"{value:.4g} {metric.unit}".rstrip()


def advice(metric: Metric) -> str:
    """Say what to do about a value that is not believed."""
    key, sign = ("at_least", ">=") if metric.direction == "min" else ("at_most", "<=")
    return (
        f"Such a value often means that nothing was measured. If it is real, say so with --believe {metric.name}; if "
        f"not, say what is possible, with {key} for this metric or --require '{metric.name}{sign}NUMBER'."
    )
