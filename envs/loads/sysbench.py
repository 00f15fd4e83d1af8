"""sysbench: its summary, and percentiles of latency from its histogram."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tunewright.envs.loads._command import TRANSACTIONS
from tunewright.errors import TargetError

LEAVES = "sysbench keeps tables sbtest1, sbtest2, ... in the database, and its writes stay in them"
METRICS = TRANSACTIONS
_PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0}
_BAR = re.compile(r"^\s*([0-9.]+) \|[* ]*\s(\d+)\s*$", re.M)


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return what a run of sysbench came to.

    Args:
        text: its standard output, in its default verbosity.
        folder: unused; sysbench writes no files.

    Returns:
        ``tps`` and ``latency`` (mean, ms); the percentiles ``p50``, ``p95`` and ``p99`` (ms) with ``--histogram``, or
        the one that ``--percentile`` asked for. Tests without transactions, such as ``cpu``, give events a second.

    Raises:
        TargetError: the text is no summary of sysbench.
    """
    rate = re.search(r"^\s*transactions:\s+\d+\s+\(([0-9.]+) per sec\.\)", text, re.M)
    rate = rate or re.search(r"^\s*(?:events per second|events/s \(eps\)):\s+([0-9.]+)", text, re.M)
    latency = re.search(r"^Latency \(ms\):.*?^\s*avg:\s+([0-9.]+)", text, re.M | re.S)
    if rate is None or latency is None:
        said = re.search(r"^FATAL: (.*)", text, re.M)
        raise TargetError(f"sysbench: {said[1][:300]}" if said else "this is not what sysbench prints at its end")
    values = {"tps": float(rate[1]), "latency": float(latency[1])}
    for share, value in re.findall(r"^\s*(\d+)th percentile:\s+([0-9.]+)", text, re.M):
        if f"p{share}" in _PERCENTILES:
            values[f"p{share}"] = float(value)
    bars = [(float(value), int(count)) for value, count in _BAR.findall(text)]
    if bars:
        times_ms, counts = np.array(bars).T
        below = np.cumsum(counts)
        for name, share in _PERCENTILES.items():
            # the first bar up to which this share of all events lies; bars are about 2 % wide
            values[name] = float(times_ms[np.searchsorted(below, share / 100 * below[-1])])
    return values


def progress(line: str) -> dict[str, float]:
    """Return the figures of a line of ``--report-interval``; the percentile where it is one of the metrics.

    >>> progress("[ 2s ] thds: 4 tps: 31.5 qps: 630.0 (r/w/o: 441/126/63) lat (ms,95%): 170.5 err/s: 0.00")
    {'tps': 31.5, 'p95': 170.5}
    """
    told = re.match(r"\[ \d+s \] thds: \d+ (?:tps|eps): ([\d.]+) .*lat \(ms,(\d+)%\): ([\d.]+)", line)
    if told is None:
        return {}
    values = {"tps": float(told[1])}
    if values["tps"] > 0 and f"p{told[2]}" in _PERCENTILES:
        values[f"p{told[2]}"] = float(told[3])
    return values
