"""wrk as a load: HTTP requests for a fixed time (also wrk2, which holds a rate)."""

from __future__ import annotations

import re
from pathlib import Path

from tunewright.envs.loads._command import Command, check_failed, find, milliseconds, usual_metrics

METRICS = usual_metrics("p50", "p99")  # wrk prints no 95th percentile
COMMAND = Command(
    program=("wrk",), options=(("-t", "2"), ("-c", "32"), ("-d", "5s"), ("--latency",)), last="http://127.0.0.1:{port}/"
)


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return what wrk prints; percentiles with ``--latency`` only.

    Raises:
        TargetError: it is not such an output, or requests failed.
    """
    values = {"throughput": float(find("wrk", r"^Requests/sec:\s+([\d.]+)", text))}
    total = float(find("wrk", r"^\s*(\d+) requests in ", text))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failed = sum(map(int, errors.groups())) if errors else 0
    check_failed("wrk", failed + (int(refused[1]) if refused else 0), total)
    values["latency"] = milliseconds(find("wrk", r"^\s+Latency\s+([\d.]+\w+)\s", text))
    for share, shown in re.findall(r"^\s*(50|90|99)(?:\.000)?%\s+([\d.]+\w+)\s*$", text, re.MULTILINE):
        values[f"p{share}"] = milliseconds(shown)
    return values
