"""Intervals that hold without assumptions on the noise, also where runs end as soon as the interval is narrow.

The sign of a pair's log ratio against the true one is a fair coin, whatever the noise is, because each pair's order is
drawn by lot: under any drift, trend or period of the machine both orders are as likely. How many of n pairs lie below
the truth is therefore binomial, and so is how often a sequence of intervals between order statistics misses it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Look = tuple[int, int]  # (pairs, rank): after so many pairs the interval lies between the rank-th values from both ends


def rank_of(n: int, confidence: float = 0.95) -> int:
    """Return the highest rank whose interval covers the median of ``n`` values; 0 if there is none.

    The interval lies between the ``rank``-th smallest and the ``rank``-th largest value (Conover, Practical
    Nonparametric Statistics, 3.2).

    >>> rank_of(12), rank_of(6), rank_of(5)
    (3, 1, 0)
    """
    tail, rank = 0.0, 0
    for k in range(n // 2):  # tail = P(fewer than k + 1 values lie below the median)
        tail += math.comb(n, k) / 2**n
        if 2 * tail > 1 - confidence:
            break
        rank = k + 1
    return rank


def median_interval(
    values: Sequence[float], confidence: float = 0.95, rank: int | None = None
) -> tuple[float, float, float]:
    """Return (median, low, high): the median with its distribution-free interval.

    Args:
        values: numbers; with fewer than an interval needs (6 for 95 %) it is unbounded.
        confidence: with which it covers the true median.
        rank: of the order statistics at its ends, counted from both ends; None for the one of the confidence.

    >>> median_interval([1, 2, 3, 4, 5, 6])
    (3.5, 1.0, 6.0)
    """
    ordered = sorted(float(v) for v in values)
    if not ordered:
        return math.nan, -math.inf, math.inf
    place = rank_of(len(ordered), confidence) if rank is None else rank
    middle = float(np.median(ordered))
    if place == 0:
        return middle, -math.inf, math.inf
    return middle, ordered[place - 1], ordered[len(ordered) - place]


def miss_rate(looks: Sequence[Look]) -> float:
    """Return the probability that the interval of any look misses the truth: exactly, by the walk of a fair coin.

    Args:
        looks: in the order in which they are taken.

    >>> round(miss_rate([(6, 1)]), 4), round(miss_rate([(8, 1), (10, 2), (12, 3)]), 4)
    (0.0312, 0.0449)
    """
    share, pairs, missed = {0: 1.0}, 0, 0.0  # values below the truth -> probability that no look has missed yet
    for until, rank in looks:
        for _ in range(until - pairs):
            following: dict[int, float] = {}
            for below, p in share.items():
                following[below] = following.get(below, 0.0) + p / 2
                following[below + 1] = following.get(below + 1, 0.0) + p / 2
            share = following
        pairs = until
        outside = [below for below in share if below < rank or pairs - below < rank]
        missed += sum(share.pop(below) for below in outside)
    return missed


def looks_within(pairs: Sequence[int], miss: float) -> tuple[Look, ...]:
    """Return looks that together miss the truth with at most a given probability, spent evenly over them.

    Args:
        pairs: numbers of pairs after which the interval may be looked at, ascending; where they are too few for the
            probability, there is one look, at the least number that is enough.
        miss: the probability.

    >>> looks_within([8, 10, 12], 0.05), looks_within([6], 0.0125)
    (((8, 1), (10, 2), (12, 3)), ((8, 1),))
    """
    looks: list[Look] = []
    for place, number in enumerate(pairs, 1):
        allowed = miss * place / len(pairs)
        ranks = [r for r in range(1, number // 2 + 1) if miss_rate([*looks, (number, r)]) <= allowed]
        if ranks:
            looks.append((number, max(ranks)))
    if not looks:
        looks.append((next(n for n in itertools.count(1) if miss_rate([(n, 1)]) <= miss), 1))
    return tuple(looks)


def further(looks: Sequence[Look], miss: float = 0.05) -> tuple[Look, ...]:
    """Return two looks to go on with after others, up to twice their pairs or 16, by what these leave of a probability.

    Args:
        looks: those before.
        miss: probability that the intervals of all looks together may miss the truth.

    >>> further([(6, 1)]), further([(8, 1), (10, 2), (12, 3)])
    (((11, 2), (16, 3)), ((18, 4), (24, 6)))
    """
    before, more = miss_rate(looks), list[Look]()
    for place, (times, least) in enumerate(((1.5, 11), (2.0, 16)), 1):
        number, allowed = max(math.ceil(times * looks[-1][0]), least), before + (miss - before) * place / 2
        ranks = [r for r in range(1, number // 2 + 1) if miss_rate([*looks, *more, (number, r)]) <= allowed]
        more += [(number, max(ranks))] if ranks else []
    return tuple(more)


def rank_at(looks: Sequence[Look], pairs: int) -> int:
    """Return the rank that belongs to a number of pairs; 0, for an unbounded interval, where no look is taken there.

    >>> rank_at([(8, 1), (10, 2)], 10), rank_at([(8, 1), (10, 2)], 9)
    (2, 0)
    """
    return dict(looks).get(pairs, 0)
