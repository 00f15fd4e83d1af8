"""fio as a load: reads and writes of files or devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright.envs.loads._command import Command, usual_metrics
from tunewright.errors import TargetError
from tunewright.target import Metric

LEAVES = "fio leaves the files that it writes, or what it wrote over"
METRICS = (
    *usual_metrics("p50", "p95", "p99", of="operations"),
    Metric(name="bandwidth", direction="max", unit="MiB/s", doc="bytes read and written over their time"),
)
_SHARES = {"p50": "50.000000", "p95": "95.000000", "p99": "99.000000"}  # as fio spells them
COMMAND = Command(
    program=("fio",),
    options=(
        ("--name=tune",), ("--directory={rundir}",), ("--size=256m",), ("--rw=randrw",), ("--bs=4k",),
        ("--ioengine=psync",), ("--fsync=64",), ("--randseed={seed}",), ("--output-format=json",),
    ),
)  # fmt: skip


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return the sums over all jobs of ``--output-format=json``; percentiles are those of the slowest.

    Raises:
        TargetError: it is not such an output, or a job failed.
    """
    start = text.find("{")
    try:
        jobs = json.loads(text[max(start, 0) :])["jobs"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TargetError("this is not what fio prints with --output-format=json") from None
    if broken := [str(job.get("jobname", "")) for job in jobs if job.get("error")]:
        raise TargetError(f"fio: the job {broken[0]!r} failed")
    ways: list[dict[str, Any]] = [
        job[way] for job in jobs for way in ("read", "write") if job.get(way, {}).get("total_ios")
    ]
    if not ways:
        raise TargetError("fio: nothing was read or written")
    count = sum(way["total_ios"] for way in ways)
    values = {
        "throughput": sum(way["iops"] for way in ways),
        "latency": sum(way["lat_ns"]["mean"] * way["total_ios"] for way in ways) / count / 1e6,
        "bandwidth": sum(way["bw_bytes"] for way in ways) / 2**20,
    }
    for name, share in _SHARES.items():
        told = [way["clat_ns"]["percentile"][share] for way in ways if share in way["clat_ns"].get("percentile", {})]
        if told:
            values[name] = max(told) / 1e6
    return values
