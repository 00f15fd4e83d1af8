"""k6 as a load: a script of HTTP requests, its summary at the end."""

from __future__ import annotations

import re
from pathlib import Path

from tunewright.envs.loads._command import Command, check_failed, find, milliseconds, usual_metrics
from tunewright.errors import TargetError

METRICS = usual_metrics("p50", "p95", "p99")
COMMAND = Command(
    program=("k6", "run"),
    options=(("--quiet",), ("--no-color",), ("--summary-trend-stats", "avg,med,p(95),p(99)")),
    last="script.js",
)
_NAMES = {"avg": "latency", "med": "p50", "p(50)": "p50", "p(95)": "p95", "p(99)": "p99"}


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return what k6's summary says of ``http_reqs`` and ``http_req_duration``.

    Raises:
        TargetError: it is not such an output, or requests failed.
    """
    total = float(find("k6", r"^\s*http_reqs\.*:\s+(\d+)", text))
    values = {"throughput": float(find("k6", r"^\s*http_reqs\.*:\s+\d+\s+([\d.]+)/s", text))}
    failed = re.search(r"^\s*http_req_failed\.*:\s+([\d.]+)%", text, re.MULTILINE)
    check_failed("k6", float(failed[1]) / 100 * total if failed else 0, total)
    line = find("k6", r"^\s*http_req_duration\.*:\s+(.+)$", text)
    for name, shown in re.findall(r"([a-z]+(?:\([\d.]+\))?)=(\S+)", line):
        if name in _NAMES:
            values[_NAMES[name]] = milliseconds(shown)
    if "latency" not in values:
        raise TargetError("this is not what k6 prints: http_req_duration has no avg")
    return values
