"""redis-benchmark as a load: a fixed number of requests of each of some commands, one command after the other."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from tunewright.envs.loads._command import Command, usual_metrics
from tunewright.errors import TargetError
from tunewright.store.files import printable

LEAVES = (
    "redis-benchmark writes keys such as key:000000000042, and mylist, into database 0 of the "
    "server, or that of --dbnum"
)
METRICS = usual_metrics("p50", "p95", "p99")
COMMAND = Command(
    program=("redis-benchmark",),
    options=(
        ("-h", "127.0.0.1"), ("-p", "{port}"), ("-n", "100000"), ("-c", "50"), ("-r", "100000"), ("-t", "set,get"),
        ("--csv",),
    ),
)  # fmt: skip
_COLUMNS = {
    "latency": "avg_latency_ms", "p50": "p50_latency_ms", "p95": "p95_latency_ms", "p99": "p99_latency_ms",
}  # fmt: skip


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return what ``redis-benchmark --csv`` prints, from version 6.2 on; of ``-q`` the throughput and the median.

    Each command has the same number of requests, so the throughput of all is the harmonic mean of theirs, and the
    latency the mean; a percentile is that of the slowest command.

    Raises:
        TargetError: it is not such an output.
    """
    rows = [row for row in csv.reader(text.splitlines()) if len(row) >= 8]
    if rows and rows[0][:2] == ["test", "rps"]:
        header = rows[0]
        tests = [dict(zip(header, row, strict=False)) for row in rows[1:]]
        rates = [float(test["rps"]) for test in tests]
        told = {name: [float(test[column]) for test in tests] for name, column in _COLUMNS.items()}
    else:
        quiet = re.findall(r"([\d.]+) requests per second(?:, p50=([\d.]+) msec)?", text)
        rates = [float(rate) for rate, _ in quiet]
        told = {"p50": [float(p50) for _, p50 in quiet if p50]}
    if not rates or min(rates) <= 0:
        last = text.strip().splitlines()[-1:] or ["nothing"]
        raise TargetError(f"this is not what redis-benchmark --csv prints; it ends with {printable(last[0], 120)}")
    values = {"throughput": len(rates) / sum(1 / rate for rate in rates)}
    for name, of in told.items():
        if of:
            values[name] = sum(of) / len(of) if name == "latency" else max(of)
    return values
