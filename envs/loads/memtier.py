"""memtier_benchmark as a load: a mix of reads and writes for Redis and memcached."""

from __future__ import annotations

import re
from pathlib import Path

from tunewright.envs.loads._command import Command, usual_metrics
from tunewright.errors import TargetError

LEAVES = "memtier_benchmark writes keys such as memtier-42 into the server"
METRICS = usual_metrics("p50", "p95", "p99")
COMMAND = Command(
    program=("memtier_benchmark",),
    options=(
        ("-s", "127.0.0.1"), ("-p", "{port}"), ("-t", "2"), ("-c", "25"), ("-n", "5000"), ("--ratio", "1:1"),
        ("--hide-histogram",), ("--print-percentiles", "50,95,99"),
    ),
)  # fmt: skip
_NAMES = {
    "Ops/sec": "throughput", "Avg. Latency": "latency", "Latency": "latency", "p50 Latency": "p50",
    "p95 Latency": "p95", "p99 Latency": "p99",
}  # fmt: skip


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return the totals of memtier_benchmark's table.

    Raises:
        TargetError: it is not such an output.
    """
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if re.match(r"\s*Type\s+Ops/sec", line)]
    totals = [line for line in lines[heads[-1] :] if line.startswith("Totals")] if heads else []
    if not totals:
        raise TargetError("this is not what memtier_benchmark prints: it has no table with a line 'Totals'")
    columns = re.split(r"\s{2,}", lines[heads[-1]].strip())
    cells = totals[0].split()
    if len(columns) != len(cells):
        raise TargetError(f"memtier_benchmark: the table has {len(columns)} columns, its totals {len(cells)}")
    values = {_NAMES[column]: float(cell) for column, cell in zip(columns, cells, strict=True) if column in _NAMES}
    if "throughput" not in values or values["throughput"] <= 0:
        raise TargetError("memtier_benchmark: no requests were answered")
    return values


def progress(line: str) -> dict[str, float]:
    """Return the figures of a line that it prints while it runs.

    >>> progress("[RUN #1 12%, 3 secs] 2 threads: 90 ops, 30 (avg: 31) ops/sec, 1MB/s, 0.81 (avg: 0.8) msec latency")
    {'throughput': 30.0, 'latency': 0.81}
    """
    told = re.search(r" ops,\s+(\d+) \(avg.*?\) ops/sec.*,\s+([\d.]+) \(avg.*\) msec latency", line)
    if told is None:
        return {}
    rate = float(told[1])
    return {"throughput": rate, "latency": float(told[2])} if rate > 0 else {"throughput": rate}
