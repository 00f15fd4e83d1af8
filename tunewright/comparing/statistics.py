"""Statistics of scores and ranks over targets and seeds.

Interquartile means with intervals from a bootstrap stratified by target follow Agarwal et al., "Deep reinforcement
learning at the edge of the statistical precipice", NeurIPS 2021; mean ranks are tested after Friedman and compared
after Nemenyi (Demsar, JMLR 7, 2006).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
LEVEL = 0.05  # of tests, and 1 - confidence of intervals
REPEATS = 2000  # of the bootstrap
_BLOCK = ["target", "by", "seed"]


def matrix(finals: pd.DataFrame, column: str = "score") -> pd.DataFrame:
    """Return a column by block (target, by, seed) and tuner.

    Tuners that were not on every target are left out, such as an agent that fits one of them alone; then blocks that
    not every one of the others has played.
    """
    wide = finals.pivot_table(index=_BLOCK, columns="tuner", values=column, aggfunc="first")
    everywhere = wide.notna().groupby(level="target").any().all()
    return wide.loc[:, everywhere[everywhere].index].dropna()


def iqm(values: Any, axis: int | None = None) -> Any:
    """Interquartile mean: the mean of the middle half."""
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def bootstrap(scores: Mapping[Any, Floats], statistic: Any, seed: int = 0) -> tuple[float, float, float]:
    """Return (value, low, high) of a statistic of all scores, resampled within each target.

    Args:
        scores: target to its scores, shape (seeds,).
        statistic: of an array of shape (repeats, all scores), along axis 1.
        seed: of the resampling.
    """
    every, drawn = resampled(scores, REPEATS, seed)
    if not len(every):
        return math.nan, math.nan, math.nan
    draws = np.asarray(statistic(drawn), dtype=float)
    value = float(np.asarray(statistic(every[None]))[0])
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return value, float(low), float(high)


def resampled(scores: Mapping[Any, Floats], repeats: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Return all scores, and them drawn again within each target, shapes (all,) and (repeats, all)."""
    rng = np.random.default_rng(seed)
    parts = [np.asarray(v, dtype=float) for v in scores.values() if len(v)]
    if not parts:
        return np.empty(0), np.empty((repeats, 0))
    drawn = [p[rng.integers(len(p), size=(repeats, len(p)))] for p in parts]
    return np.concatenate(parts), np.concatenate(drawn, axis=1)


def friedman(wide: pd.DataFrame) -> tuple[dict[str, float], float]:
    """Return mean ranks, 1 the best, of a matrix (blocks, tuners) of merits, and Friedman's p.

    p is NaN where there are fewer than three tuners or two blocks; with two tuners it is Wilcoxon's.
    """
    from scipy.stats import friedmanchisquare, wilcoxon

    values = wide.to_numpy(dtype=float)
    if not values.size:
        return {}, math.nan
    ranks = wide.rank(axis=1, ascending=False)
    means = {str(k): float(v) for k, v in ranks.mean().items()}
    same = np.isclose(values, values[:, :1], rtol=1e-9, atol=0.0).all()
    if len(values) < 2 or values.shape[1] < 2:
        return means, math.nan
    if same:
        return means, 1.0
    if values.shape[1] == 2:
        return means, float(wilcoxon(values[:, 0], values[:, 1], zero_method="zsplit").pvalue)
    return means, float(friedmanchisquare(*values.T).pvalue)


def critical_difference(tuners: int, blocks: int) -> float:
    """Nemenyi's: mean ranks closer than this are not told apart (Demsar 2006, section 3.2.2).

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    from scipy.stats import studentized_range

    if tuners < 2 or blocks < 1:
        return math.nan
    q = studentized_range.ppf(1 - LEVEL, tuners, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(tuners * (tuners + 1) / (6 * blocks)))
