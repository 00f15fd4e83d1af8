"""hey as a load: a fixed number of HTTP requests."""

from __future__ import annotations

import re
from pathlib import Path

from tunewright.envs.loads._command import Command, check_failed, find, usual_metrics

METRICS = usual_metrics("p50", "p95", "p99")
COMMAND = Command(program=("hey",), options=(("-n", "50000"), ("-c", "32")), last="http://127.0.0.1:{port}/")


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return what hey prints.

    Raises:
        TargetError: it is not such an output, or requests failed.
    """
    answers = [(int(code), int(count)) for code, count in re.findall(r"^\s+\[(\d{3})\]\s+(\d+) responses", text, re.M)]
    errors = text.partition("Error distribution:")[2]
    broken = sum(int(count) for count in re.findall(r"^\s+\[(\d+)\]\s", errors, re.MULTILINE))
    values = {
        "throughput": float(find("hey", r"^\s+Requests/sec:\s+([\d.]+)", text)),
        "latency": 1000 * float(find("hey", r"^\s+Average:\s+([\d.]+) secs", text)),
    }
    total = sum(count for _, count in answers) + broken
    check_failed("hey", broken + sum(count for code, count in answers if code >= 400), total)
    for share, seconds in re.findall(r"^\s+(50|95|99)%+ in ([\d.]+) secs", text, re.MULTILINE):
        values[f"p{share}"] = 1000 * float(seconds)
    return values
