"""Requests to a server that speaks OpenAI's protocol, as a load: ``tunewright load``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tunewright.envs.loads._command import Command
from tunewright.errors import TargetError
from tunewright.target import Metric

METRICS = (
    Metric(name="goodput", direction="max", unit="requests/s", doc="requests a second that keep --ttft and --tpot"),
    Metric(name="throughput", direction="max", unit="tokens/s", doc="output tokens a second"),
    Metric(name="ttft_p50", direction="min", unit="s", doc="median time to the first token"),
    Metric(name="ttft_p99", direction="min", unit="s", doc="99th percentile of it"),
    Metric(name="tpot_p50", direction="min", unit="s", doc="median time of a further token"),
    Metric(name="tpot_p99", direction="min", unit="s", doc="99th percentile of it"),
    Metric(name="itl_p99", direction="min", unit="s", doc="99th percentile of the gaps between two parts of an answer"),
    Metric(name="response_p99", direction="min", unit="s", doc="99th percentile of the time of whole answers"),
    Metric(
        name="capacity", direction="max", unit="requests/s",
        doc="the highest rate that keeps the limits; with --capacity, and then alone",
    ),
)  # fmt: skip
COMMAND = Command(program=(sys.executable, "-m", "tunewright", "load", "http://127.0.0.1:{port}", "--json"))


def parse(text: str, folder: Path) -> dict[str, float]:
    """Return what ``tunewright load --json`` prints.

    Raises:
        TargetError: it is not such an output.
    """
    try:
        document = json.loads(text)
    except ValueError:
        raise TargetError("this is not what 'tunewright load --json' prints") from None
    if "capacity_requests_per_s" in document:
        return {"capacity": document["capacity_requests_per_s"]}
    metrics = document["metrics"]
    values = {"goodput": metrics["goodput_requests_per_s"], "throughput": metrics["throughput_tokens_per_s"]}
    for name in ("ttft", "tpot", "itl", "response"):
        spread = metrics[f"{name}_s"]
        values |= {f"{name}_{p}": spread[p] for p in ("p50", "p99") if spread[p] is not None}
    return values
