"""YCSB and programs that print as it does (YCSB, go-ycsb) as a load; their command line is the user's."""

from __future__ import annotations

import re
from pathlib import Path

from tunewright.envs.loads._command import find, usual_metrics
from tunewright.errors import TargetError

LEAVES = "YCSB writes records into the table or keys that it is given (usertable)"
METRICS = usual_metrics("p50", "p95", "p99", of="operations")
_SHARES = {"p50": ("50thPercentile", "50th"), "p95": ("95thPercentile", "95th"), "p99": ("99thPercentile", "99th")}
_ASIDE = ("OVERALL", "CLEANUP", "TOTAL")  # no operations of their own


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return throughput and latencies over all kinds of operations; percentiles are those of the slowest kind.

    YCSB prints the median only with ``-p hdrhistogram.percentiles=50,95,99``.

    Raises:
        TargetError: it is not such an output, or operations failed.
    """
    return _of_go(text) if re.search(r"^\w+\s+- Takes\(s\):", text, re.MULTILINE) else _of_ycsb(text)


def _of_ycsb(text: str) -> dict[str, float]:
    """Read ``[READ], AverageLatency(us), 123.4``."""
    kinds: dict[str, dict[str, float]] = {}
    for kind, what, value in re.findall(r"^\[([\w-]+)\], ([^,]+), ([\d.E+-]+)\s*$", text, re.MULTILINE):
        kinds.setdefault(kind, {})[what.partition("Latency")[0].partition("(")[0]] = float(value)
    throughput = float(find("YCSB", r"^\[OVERALL\], Throughput\(ops/sec\), ([\d.E+-]+)", text))
    failed = [kind for kind in kinds if kind.endswith("-FAILED")]
    if failed:
        raise TargetError(f"YCSB: operations failed: {failed[0]}")
    counted = [k for name, k in kinds.items() if name not in _ASIDE and k.get("Operations") and "Average" in k]
    return _summary("YCSB", throughput, [(k["Operations"], k["Average"], k) for k in counted])


def _of_go(text: str) -> dict[str, float]:
    """Read the last ``READ   - Takes(s): 10.0, Count: 99, OPS: 9.9, Avg(us): 12, ..., 99th(us): 40`` of each kind."""
    kinds: dict[str, dict[str, float]] = {}
    for kind, line in re.findall(r"^(\w+)\s+- (Takes\(s\):.*)$", text, re.MULTILINE):
        kinds[kind] = {what: float(value) for what, value in re.findall(r"([\w.]+)(?:\(\w+\))?: ([\d.]+)", line)}
    if failed := [kind for kind in kinds if kind.endswith("_ERROR")]:
        raise TargetError(f"go-ycsb: operations failed: {failed[0]}")
    counted = [k for name, k in kinds.items() if name not in _ASIDE]
    throughput = kinds["TOTAL"]["OPS"] if "TOTAL" in kinds else sum(k["OPS"] for k in counted)
    return _summary("go-ycsb", throughput, [(k["Count"], k["Avg"], k) for k in counted])


def _summary(tool: str, throughput: float, kinds: list[tuple[float, float, dict[str, float]]]) -> dict[str, float]:
    """Return the metrics from each kind's count, mean latency in microseconds, and other values."""
    count = sum(kind[0] for kind in kinds)
    if count <= 0:
        raise TargetError(f"{tool}: no operations were counted")
    values = {"throughput": throughput, "latency": sum(n * mean for n, mean, _ in kinds) / count / 1000}
    for name, spelled in _SHARES.items():
        told = [k[word] for _, _, k in kinds for word in spelled if word in k]
        if told:
            values[name] = max(told) / 1000
    return values


def progress(line: str) -> dict[str, float]:
    """Return the rate of a line of YCSB's status (``-s``).

    >>> progress("2026-01-01 10:00:00:000 10 sec: 5021 operations; 502.1 current ops/sec; [READ: Count=2]")
    {'throughput': 502.1}
    """
    told = re.search(r" sec: \d+ operations; ([\d.]+) current ops/sec", line)
    return {"throughput": float(told[1])} if told else {}
