"""Statistics of a few seeds: intervals and tests that hold from the first seed on, whatever the values' distribution.

Percentile bootstraps of two to five seeds cover far less than they say (``benchmarks/compare_coverage.py`` prints how
much). What stands here needs no large number of seeds and no shape:

- the interval of a median from order statistics (David and Nagaraja, Order Statistics, 2003, section 7.1); it exists
  from six seeds on;
- the interval of a share after Clopper and Pearson (Biometrika 26, 1934), a seed being the unit;
- tests by permuting tuners within blocks, exact for any number of blocks, on ranks, so that no unit enters;
- Holm's correction (Scandinavian Journal of Statistics 6, 1979) for several tests.

Two values count as equal, in every rank, win and test, where they differ by at most a billionth of the larger.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.05  # of tests, and 1 - confidence of intervals
TIE = 1e-9  # share of the larger value up to which two count as equal
DRAWS = 19_999  # permutations drawn where there are more than can be listed
_LISTED = 20_000  # permutations up to which all are taken
_SLACK = 1e-9  # for comparing sums of ranks, which are multiples of 1 / (2 * seeds)


def same(first: Any, second: Any) -> Any:
    """Whether values count as equal; arrays element by element."""
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    return np.abs(first - second) <= TIE * np.maximum(np.abs(first), np.abs(second))


def ranked(values: Any, slack: float | None = None) -> Floats:
    """Rank values, 1 the largest; equal ones share the mean of their ranks.

    Args:
        values: shape (n,).
        slack: difference up to which neighbours count as equal; None for a billionth of the larger.

    >>> ranked([3.0, 5.0, 5.0 + 1e-12, 1.0]).tolist()
    [3.0, 1.5, 1.5, 4.0]
    """
    values = np.asarray(values, dtype=float)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    if slack is None:
        equal = same(ordered[1:], ordered[:-1])
    else:
        equal = np.abs(ordered[1:] - ordered[:-1]) <= slack
    group = np.concatenate([[0], np.cumsum(~equal)])
    places = np.arange(1.0, len(values) + 1)
    means = np.bincount(group, weights=places) / np.bincount(group)
    ranks = np.empty(len(values))
    ranks[order] = means[group]
    return ranks


def aligned_ranks(values: Floats) -> Floats:
    """Rank values over all blocks after taking away each block's median (Hodges and Lehmann, 1962).

    With two tuners their differences are signed ranks, as Wilcoxon's test has them but for 2 r - 1 in the place of r. A
    common factor of all values changes nothing.

    Args:
        values: larger is better, shape (blocks, tuners).
    """
    off = values - np.median(values, axis=1, keepdims=True)
    return ranked(off.ravel(), TIE * float(np.abs(values).max())).reshape(values.shape)


def median_interval(values: Any) -> tuple[Any, Any]:
    """Return the interval of the median from order statistics; NaN where there are too few values to carry one.

    Args:
        values: shape (..., seeds).

    Returns:
        Both ends, shape (...); floats where there is one row.

    >>> low, high = median_interval([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    >>> float(low), float(high)
    (1.0, 6.0)
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=-1)
    count = ordered.shape[-1]
    if count < seeds_needed():
        nothing = np.full(ordered.shape[:-1], math.nan)[()]
        return nothing, nothing
    below, cut = 0, 0  # the largest cut with P(fewer than cut of the values below the median) <= LEVEL / 2
    while (below := below + math.comb(count, cut)) <= LEVEL / 2 * 2**count:
        cut += 1
    return ordered[..., cut - 1][()], ordered[..., count - cut][()]


def seeds_needed() -> int:
    """Return the least number of seeds whose smallest and largest value enclose the median often enough.

    >>> seeds_needed()
    6
    """
    return math.ceil(1 - math.log2(LEVEL))


def share_interval(shares: Any) -> tuple[Any, Any]:
    """Return the interval of a mean share after Clopper and Pearson, each of the given shares counting as one draw.

    What lies between 0 and 1 spreads less than draws of 0 and 1 with the same mean, so that the interval holds.

    Args:
        shares: of each seed, shape (..., seeds), within 0 and 1.

    Returns:
        Both ends, shape (...); NaN without any seed.
    """
    from scipy.special import betaincinv

    shares = np.asarray(shares, dtype=float)
    count, total = shares.shape[-1], shares.sum(axis=-1)
    if not count:
        nothing = np.full(total.shape, math.nan)[()]
        return nothing, nothing
    with np.errstate(invalid="ignore"):
        low = np.where(total < _SLACK, 0.0, betaincinv(total, count - total + 1, LEVEL / 2))
        high = np.where(total > count - _SLACK, 1.0, betaincinv(total + 1, count - total, 1 - LEVEL / 2))
    return low[()], high[()]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number; those that are NaN are no tests and do not count.

    >>> holm([0.01, 0.04, math.nan, 0.03])
    [0.03, 0.06, nan, 0.06]
    """
    corrected = [math.nan] * len(p_values)
    order = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    least = 0.0
    for place, (p, k) in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p))
        corrected[k] = least
    return corrected


@dataclass(frozen=True, kw_only=True)
class RankTest:
    """A test by permutation within blocks.

    Attributes:
        means: mean rank of each tuner, shape (tuners,).
        p: that equal tuners give mean ranks as far apart as these (sum of squares, as Friedman's test has it).
        pairs: the same for the largest difference of any two, at each pair's difference, shape (tuners, tuners): all
            pairs are judged at once.
        critical_difference: two mean ranks that differ by more are told apart; infinite where none can be.
    """

    means: Floats
    p: float
    pairs: Floats
    critical_difference: float


def rank_test(ranks: Floats) -> RankTest:
    """Test whether tuners' mean ranks differ, by exchanging their names within each block.

    Exact where all permutations are listed; otherwise drawn, from the same random numbers each time.

    Args:
        ranks: or other scores within each block, shape (blocks, tuners).
    """
    blocks, tuners = ranks.shape
    means = ranks.mean(axis=0)
    differences = np.abs(means[:, None] - means[None, :])
    if blocks < 2 or tuners < 2:
        nothing = np.full((tuners, tuners), math.nan)
        return RankTest(means=means, p=math.nan, pairs=nothing, critical_difference=math.nan)
    drawn, sampled = _permuted(ranks)
    centre = means.mean()
    spread, observed = ((drawn - centre) ** 2).sum(axis=1), float(((means - centre) ** 2).sum())
    widest = np.sort(drawn.max(axis=1) - drawn.min(axis=1))
    count, extra = len(drawn), int(sampled)  # what was observed is one of the draws
    p = (int((spread >= observed - _SLACK).sum()) + extra) / (count + extra)
    beyond = count - np.searchsorted(widest, differences - _SLACK, side="left")
    pairs = (beyond + extra) / (count + extra)
    allowed = math.ceil(LEVEL * (count + extra)) - 1 - extra  # so many may lie beyond, for p to be below the level
    gap = float(widest[count - allowed - 1]) if allowed + extra >= 1 else math.inf
    return RankTest(means=means, p=p, pairs=np.asarray(pairs), critical_difference=gap)


def _permuted(ranks: Floats) -> tuple[Floats, bool]:
    """Return mean ranks under permutation within blocks, shape (permutations, tuners), and whether they were drawn."""
    blocks, tuners = ranks.shape
    if math.log(math.factorial(tuners)) * (blocks - 1) <= math.log(_LISTED):
        orders = np.array(list(itertools.permutations(range(tuners))))
        sums = ranks[:1]  # the first block may keep its order: only the order relative to it counts
        for row in ranks[1:]:
            sums = (sums[:, None, :] + row[orders][None, :, :]).reshape(-1, tuners)
        return sums / blocks, False
    rng, sums = np.random.default_rng(0), np.zeros((DRAWS, tuners))
    for row in ranks:
        sums += rng.permuted(np.tile(row, (DRAWS, 1)), axis=1)
    return sums / blocks, True


def blocks_needed(tuners: int) -> int:
    """Return the least number of blocks with which a test by permutation can show anything.

    >>> [blocks_needed(k) for k in (2, 3, 4, 7)]
    [6, 3, 2, 2]
    """
    ways, blocks = math.factorial(max(tuners, 2)), 1
    while (1 / ways) ** (blocks - 1) >= LEVEL:
        blocks += 1
    return blocks
