"""What a winner does to the slowest requests: told beside a gain in something else, for information."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.measuring.protocol import compare_pairs
from tunewright.measuring.runs import verified_pairs
from tunewright.target import Metric

_TAIL = re.compile(r"(?:^|_)p(?:95|99|99[._]?9)(?:_|$)")


def tails(metrics: Sequence[Metric], objectives: Sequence[Metric], runs: Sequence[Mapping[str, Any]], rank: int) -> str:
    """Say how the 95th and 99th percentiles of latency changed, with a warning where one is clearly worse.

    Args:
        metrics: of the target; those named as percentiles, such as ``p99``, are looked at.
        objectives: what the verdict is about anyway.
        runs: of a verification.
        rank: of the order statistics at an interval's ends; 0 for 95 % of a number of pairs fixed beforehand.

    Returns:
        Sentences, "" where nothing told such percentiles.
    """
    told: list[str] = []
    worse: list[str] = []
    for metric in metrics:
        pairs = verified_pairs(runs, metric.name)
        if metric.direction != "min" or metric in objectives or not pairs or not _TAIL.search(metric.name):
            continue
        compared = compare_pairs(metric, pairs, rank or None)
        if compared.kind != "ratio" or compared.value <= 0:
            continue
        low, high = 1 / compared.high, 1 / compared.low if compared.low > 0 else math.inf
        interval = f" (95 % interval {low:.2f} to {high:.2f})" if len(pairs) > 1 else ""
        said = f"{metric.name} is {1 / compared.value:.2f} times the default's{interval}"
        (worse if low > 1 else told).append(said)
    sentences = [f"Beside it, {' and '.join(told)}."] if told else []
    sentences += [f"Warning: latency became worse: {' and '.join(worse)}."] if worse else []
    return " ".join(sentences)
