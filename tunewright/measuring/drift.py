"""Whether the machine changed: a test on the runs of the default, in the order in which they were made.

On a machine that stays as it is, every order of these runs is as likely as any other, whatever their noise looks like.
So the runs are shuffled many times: where hardly any shuffled order has as large a gap between what came before and
what came after some point, the machine changed (a permutation test with the largest of all standardised gaps, as in
Csörgő and Horváth, Limit Theorems in Change-Point Analysis, 2.4). Nothing is assumed of the noise, and a few outliers
in a row are no change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
LEAST = 10  # runs that a look takes; with fewer no order is unlikely enough
_SIDE = 3  # runs on either side of a change, so that two outliers at an end are none
_GROWTH = 1.5  # the next look comes after so many times the runs of the last, so that there are few
# Probability of a false alarm on a steady machine, of all looks during a session and of the one at its end.
_FALSE, _FALSE_AT_END = 0.012, 0.008
_BEYOND = 20  # shuffled orders with as large a gap that a look may see, so that their share is known well enough
_FIRST, _CHUNK = 200, 2000  # orders shuffled at once; the first ones often tell that nothing happened
_SMALLEST = 0.02  # share by which the default must change to be worth a word
_CUT = 5.0  # standard deviations (robust) beyond which a value is an outlier, and counts as one that far off


@dataclass(frozen=True, kw_only=True)
class Change:
    """What changed within a series of runs.

    Attributes:
        kind: ``step``, from one level to another, or ``trend``, little by little.
        index: of the first run after a step; of the last run seen of a trend.
        before, after: medians on both sides of a step, or of the first and the last third of a trend.
    """

    kind: str
    index: int
    before: float
    after: float


def due(runs: int, last: int) -> bool:
    """Whether it is time for a look: after so many runs, where the last look came after ``last`` of them.

    >>> [n for n in range(20) if due(n, 0)][0], due(14, 10), due(15, 10)
    (10, False, True)
    """
    return runs >= max(LEAST, _GROWTH * last)


def unlikely(runs: int) -> float:
    """Return the probability of a false alarm that a look during a session may have.

    It falls with the runs as fast as the looks get rarer, so that all of them together spend ``_FALSE``.

    >>> sum(unlikely(round(LEAST * _GROWTH**look)) for look in range(30)) <= 0.0121
    True
    """
    return _FALSE * (1 - 1 / _GROWTH) * LEAST / max(runs, LEAST)


def find(values: Sequence[float], *, end: bool = False) -> Change | None:
    """Return the change that a series shows; None where shuffling it often gives as much.

    Args:
        values: of the runs, in their order.
        end: this is the look at a session's end, which may have more false alarms than one of many.

    >>> find([100, 101, 99, 100, 98, 102, 50, 51, 49, 50, 51, 50])
    Change(kind='step', index=6, before=100.0, after=50.0)
    >>> find([100, 50, 101, 49, 99, 51, 100, 50, 98, 50, 102, 51]) is None
    True
    """
    logs = _logs(values)
    if len(logs) < LEAST or np.ptp(logs) == 0:
        return None
    cut = _without_outliers(logs)
    gap, index = _largest_gap(cut[None, :])
    rng = np.random.default_rng(len(cut))  # the same series gets the same answer
    orders = math.ceil((_BEYOND + 1) / (_FALSE_AT_END if end else unlikely(len(cut))))
    beyond, done = 0, 0
    while done < orders:
        many = min(_CHUNK if done else _FIRST, orders - done)
        shuffled = rng.permuted(np.tile(cut, (many, 1)), axis=1)
        beyond, done = beyond + int((_largest_gap(shuffled)[0] >= gap[0] - 1e-12).sum()), done + many
        if beyond > _BEYOND:
            return None
    return _described(np.asarray(values, dtype=np.float64), logs, cut, int(index[0]))


def spread(values: Sequence[float], changes: Sequence[Change] = ()) -> float:
    """Return the standard deviation of the logs of runs, robustly, without what the machine's changes add.

    Args:
        values: of the runs, above 0, in their order.
        changes: of this series, in order, each counted from the start of the series.
    """
    if len(values) < 2:
        return 0.0
    logs, start, rest = np.log(np.asarray(values, dtype=np.float64)), 0, []
    for change in [*changes, None]:
        end = len(logs) if change is None else change.index
        if end - start >= 2:
            part = logs[start:end]
            line = _line(part) if change is not None and change.kind == "trend" else np.full(len(part), np.median(part))
            rest.append(part - line)
        start = end
    left = np.concatenate(rest) if rest else logs - np.median(logs)
    return float(1.4826 * np.median(np.abs(left - np.median(left)))) or float(np.std(left))


def _logs(values: Sequence[float]) -> FloatArray:
    """Return logarithms; where values of 0 or below have none, the values in units of their typical size."""
    array = np.asarray(values, dtype=np.float64)
    if (array > 0).all():
        return np.log(array)
    size = float(np.median(np.abs(array))) or float(np.abs(array).max()) or 1.0
    return np.asarray(array / size, dtype=np.float64)


def _without_outliers(logs: FloatArray) -> FloatArray:
    middle = float(np.median(logs))
    reach = _CUT * 1.4826 * float(np.median(np.abs(logs - middle)))
    return np.clip(logs, middle - reach, middle + reach) if reach > 0 else logs


def _largest_gap(series: FloatArray) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Return the largest standardised gap of each series, and where it is.

    Args:
        series: one a row, shape (series, runs).
    """
    runs = series.shape[1]
    before = np.arange(_SIDE, runs - _SIDE + 1)
    sums = np.cumsum(series - series.mean(axis=1, keepdims=True), axis=1)[:, before - 1]
    gaps = np.abs(sums) / np.sqrt(before * (runs - before) / runs)
    at = gaps.argmax(axis=1)
    return gaps[np.arange(len(gaps)), at], before[at]


def _line(logs: FloatArray) -> FloatArray:
    """Return the line through a series, by the median of the slopes between its runs (Theil and Sen)."""
    places = np.arange(len(logs), dtype=np.float64)
    first, second = np.triu_indices(len(logs), 1)
    slope = float(np.median((logs[second] - logs[first]) / (places[second] - places[first])))
    return np.asarray(np.median(logs - slope * places) + slope * places, dtype=np.float64)


def _described(values: FloatArray, logs: FloatArray, cut: FloatArray, index: int) -> Change | None:
    """Say what kind of change it is; None where it is too small to matter."""
    line = _line(cut)
    levels = np.where(np.arange(len(cut)) < index, np.median(cut[:index]), np.median(cut[index:]))
    trend = float(np.abs(cut - line).sum()) < float(np.abs(cut - levels).sum())
    left = cut - (line if trend else levels)
    by = float(line[-1] - line[0]) if trend else float(np.median(logs[index:]) - np.median(logs[:index]))
    if abs(by) < max(_SMALLEST, 1.4826 * float(np.median(np.abs(left)))):
        return None
    if not trend:
        before, after = float(np.median(values[:index])), float(np.median(values[index:]))
        return Change(kind="step", index=index, before=before, after=after)
    third = max(len(values) // 3, 1)
    before, after = float(np.median(values[:third])), float(np.median(values[-third:]))
    return Change(kind="trend", index=len(values), before=before, after=after)
