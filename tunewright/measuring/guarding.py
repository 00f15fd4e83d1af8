"""Limits that a run is watched against while it goes on: the machine's memory, and what the load says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.target import Metric

FULL = 0.90  # share of memory above which a run is ended
_IN_A_ROW = 2  # reports that must lie beyond a bound: one may be a hiccup
_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a run must keep while it goes on.

    Attributes:
        at_most: highest value of each metric.
        at_least: lowest.
        words: what the bounds are, for people.
    """

    at_most: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    words: str = ""

    def broken(self, reports: Sequence[Mapping[str, float]]) -> str:
        """Say which bound the last reports have broken; "" where none."""
        last = reports[-_IN_A_ROW:]
        if len(last) < _IN_A_ROW:
            return ""
        for name, bound in self.at_most.items():
            if all(report.get(name, -1e308) > bound for report in last):
                return f"{name} was {last[-1][name]:.4g}, above {bound:.4g}, {self.words}"
        for name, bound in self.at_least.items():
            if all(report.get(name, 1e308) < bound for report in last):
                return f"{name} was {last[-1][name]:.4g}, below {bound:.4g}, {self.words}"
        return ""


def bounds_of(metrics: Sequence[Metric], objective: Metric, default: Mapping[str, float], factor: float) -> Bounds:
    """Return bounds that are clearly worse than the default: its latencies and its objective, times a factor.

    Args:
        metrics: of the target.
        objective: the first one.
        default: the default's values.
        factor: above 1.
    """
    low = [m for m in metrics if m.direction == "min" and (m.unit in TIMES or m.name == objective.name)]
    at_least = {objective.name: default[objective.name] / factor} if objective.direction == "max" else {}
    return Bounds(
        at_most={m.name: factor * default[m.name] for m in low if default.get(m.name, 0.0) > 0},
        at_least={name: bound for name, bound in at_least.items() if bound > 0},
        words=f"{factor:g} times worse than today's",
    )


TIMES = frozenset({"s", "ms", "us", "µs", "ns"})


def reports(path: Path) -> list[dict[str, float]]:
    """Return what a run has reported so far; see :meth:`tunewright.target.Budget.report`."""
    found = []
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the last one may be half written
                found.append(json.loads(line))
    return [report for report in found if isinstance(report, dict)]


def memory_share(root: Path = _ROOT) -> float:
    """Return the share of memory in use: of the machine or, where it is fuller, of the control group with a limit.

    Args:
        root: where control groups of version 2 are mounted.
    """
    import psutil

    memory = psutil.virtual_memory()
    share = float(1.0 - memory.available / memory.total)
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        group = root / next(line for line in lines if line.startswith("0::"))[3:].strip("/\n")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((group / "memory.current").read_text(encoding="ascii"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            share = max(share, (used - int(stat.get("inactive_file", 0))) / int(limit))  # caches can be dropped
    return share
