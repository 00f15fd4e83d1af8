"""What the stored runs of a trial or a verification tell: values of one side, pairs, and failures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def values_of(runs: Sequence[Mapping[str, Any]], of: str, metric: str) -> list[float]:
    """Return a metric's values of one side's runs; runs that failed have none.

    >>> values_of([{"of": "default", "values": {"s": 2.0}}, {"of": "default", "values": {}}], "default", "s")
    [2.0]
    """
    return [float(r["values"][metric]) for r in runs if r["of"] == of and r.get("values", {}).get(metric) is not None]


def verified_pairs(runs: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """Return a metric's (candidate, default) pairs of a verification, without the runs that failed.

    >>> verified_pairs([{"of": "default", "values": {"s": 2.0}}, {"of": "candidate", "values": {"s": 3.0}}], "s")
    [(3.0, 2.0)]
    """
    return list(zip(values_of(runs, "candidate", metric), values_of(runs, "default", metric), strict=False))


def failures(runs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return how many runs failed, and of how many, for the candidate and the default."""
    return {
        of: (sum(r["of"] == of and r["status"] != "ok" for r in runs), sum(r["of"] == of for r in runs))
        for of in ("candidate", "default")
    }


def fails_more(candidate: tuple[int, int], default: tuple[int, int]) -> float:
    """Return the probability of so many failures of the candidate if it fails no more often than the default.

    Args:
        candidate, default: failed runs, and all runs.

    Returns:
        The one-sided p of Fisher's exact test.

    >>> round(fails_more((4, 16), (0, 12)), 3), fails_more((0, 12), (2, 14))
    (0.089, 1.0)
    """
    (failed, n), (others, m) = candidate, default
    total = failed + others
    ways = [math.comb(n, k) * math.comb(m, total - k) for k in range(min(n, total) + 1)]
    return sum(ways[failed:]) / sum(ways)
