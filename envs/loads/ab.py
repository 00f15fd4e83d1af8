"""ab (ApacheBench) as a load: a fixed number of HTTP requests."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from tunewright.envs.loads._command import Command, check_failed, find, usual_metrics

METRICS = usual_metrics("p50", "p95", "p99")
_TABLE = "ab.csv"  # percentiles there are finer than the whole milliseconds that ab prints
COMMAND = Command(
    program=("ab",),
    options=(("-q",), ("-k",), ("-l",), ("-n", "50000"), ("-c", "32"), ("-e", f"{{rundir}}/{_TABLE}")),
    last="http://127.0.0.1:{port}/",
)


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return what ab prints; percentiles from its table, if it wrote one into the folder.

    Raises:
        TargetError: it is not such an output, or requests failed.
    """
    total = float(find("ab", r"^Complete requests:\s+(\d+)", text))
    other = re.search(r"^Non-2xx responses:\s+(\d+)", text, re.MULTILINE)
    failed = float(find("ab", r"^Failed requests:\s+(\d+)", text))
    check_failed("ab", failed + (int(other[1]) if other else 0), total)
    values = {
        "throughput": float(find("ab", r"^Requests per second:\s+([\d.]+)", text)),
        "latency": float(find("ab", r"^Time per request:\s+([\d.]+) \[ms\] \(mean\)", text)),
    }
    shares = {s: float(ms) for s, ms in re.findall(r"^\s+(50|95|99)%\s+(\d+)", text, re.MULTILINE)}
    table = folder / _TABLE
    if table.is_file():
        with table.open(newline="", encoding="ascii", errors="replace") as file:
            rows = [row for row in csv.reader(file) if len(row) == 2 and row[0].isdigit()]
        shares |= {share: float(ms) for share, ms in rows if share in ("50", "95", "99")}
    return values | {f"p{share}": ms for share, ms in shares.items()}
