"""What came of a load in metrics, and the highest load that keeps its limits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewright.envs.scheduling.outcomes import spread
from tunewright.envs.scheduling.serving.requests import Requests
from tunewright.envs.scheduling.vllm import client
from tunewright.errors import ConfigError, TargetError

MOST_FAILED = 0.01  # of the requests: a server that answers with errors is fast, and its figures mean nothing
_BUSY = 0.85  # of a core: above it, the client's own work stands in the times
_LATE_S = 0.02  # 99th percentile of how late requests were sent, above which the load was not the one asked for
CLIENTS = 64  # of the closed loop that shows what a server does at most
SHARE_OF_MOST = 0.75  # of that, a rate at which it is busy and its queue still ends
_CLOSE = 1.05  # highest ratio between a rate that is kept and one that is not
_PROBES = 3  # of a rate whose share is near the wanted one
_NEAR = 0.05  # so near


def metrics(loaded: client.Loaded, *, ttft_s: float, tpot_s: float) -> dict[str, Any]:
    """Return the metrics of a load; names and meanings are those of the simulator.

    Args:
        loaded: what came.
        ttft_s, tpot_s: limits of a good request.

    Returns:
        ``ttft_s``, ``tpot_s``, ``itl_s`` and ``response_s`` as spreads, throughput in tokens and requests, goodput,
        ``good_share`` of all requests that were sent, ``failed`` and the client's own part: ``late_s`` and
        ``client_cpu``.
    """
    at = client.times(loaded)
    count, whole = len(loaded.sent), len(at["ttft_s"])
    good = (at["ttft_s"] <= ttft_s) & ~(at["tpot_s"] > tpot_s)
    span_s = max(loaded.seconds, 1e-9)
    late = np.array([max(s.sent_s - s.due_s, 0.0) for s in loaded.sent])
    return {
        **{name: spread(at[name][np.isfinite(at[name])]) for name in ("ttft_s", "tpot_s", "itl_s", "response_s")},
        "throughput_tokens_per_s": float(at["tokens"].sum()) / span_s,
        "throughput_requests_per_s": whole / span_s,
        "goodput_requests_per_s": float(good.sum()) / span_s,
        "good_share": float(good.sum()) / max(count, 1),
        "requests": count,
        "failed": count - whole,
        "seconds": span_s,
        "late_s": spread(late),
        "client_cpu": loaded.cpu_share,
    }


def faults(loaded: client.Loaded) -> list[str]:
    """Return why requests failed, the most frequent reason first, each with its count."""
    reasons = Counter(s.error for s in loaded.sent if s.error)
    return [f"{count} x {reason}" for reason, count in reasons.most_common(3)]


def check(loaded: client.Loaded) -> None:
    """Raise TargetError where more than a hundredth of the requests failed."""
    failed = sum(bool(s.error) for s in loaded.sent)
    if failed > MOST_FAILED * len(loaded.sent):
        raise TargetError(f"{failed} of {len(loaded.sent)} requests failed: {'; '.join(faults(loaded))}")


def doubts(found: dict[str, Any]) -> list[str]:
    """Say where the client itself, and not the server, may have made the figures what they are."""
    said = []
    if found["client_cpu"] > _BUSY:
        said.append(
            f"the client used {100 * found['client_cpu']:.0f} % of a core: it may be the bottleneck, not the server;"
            " run it on another machine, or with fewer requests at once"
        )
    late = found["late_s"]["p99"] or 0.0
    if late > _LATE_S:
        said.append(f"one request in a hundred was sent {1e3 * late:.0f} ms late or later: the client was too busy")
    return said


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One rate that was tried.

    Attributes:
        rate: requests a second.
        share: of good requests, the mean of all tries.
        tries: how often.
    """

    rate: float
    share: float
    tries: int


def capacity(
    good_share: Callable[[float], float], *, start: float, share: float, least: float, progress: Callable[[Probe], None]
) -> tuple[float, list[Probe]]:  # fmt: skip
    """Find the highest rate of requests at which a share of them is good, to 5 %.

    The share falls with the rate, but what is measured scatters: a rate whose share is near the wanted one is tried
    three times, and the mean decides.

    Args:
        good_share: serves the load at a rate and returns the share of good requests.
        start: a rate to begin with, such as that which the server does at most.
        share: of requests that must be good, 0 to 1.
        least: below this rate the search gives up.
        progress: is told of every rate.

    Returns:
        The rate, 0 where none above ``least`` was kept, and what was tried.
    """
    if not (0 < share <= 1 and start > 0 and least > 0):
        raise ConfigError(f"share must lie in (0, 1] and rates above 0, not {share:g} and {start:g}")
    probes: list[Probe] = []

    def keeps(rate: float) -> bool:
        shares = [good_share(rate)]
        while len(shares) < _PROBES and abs(float(np.mean(shares)) - share) < _NEAR:
            shares.append(good_share(rate))
        probes.append(Probe(rate=rate, share=float(np.mean(shares)), tries=len(shares)))
        progress(probes[-1])
        return probes[-1].share >= share

    kept, broken, rate = 0.0, math.inf, start
    while not (kept and math.isfinite(broken) and broken / kept <= _CLOSE) and rate >= least:
        if keeps(rate):
            kept = rate
        else:
            broken = rate
        rate = math.sqrt(kept * broken) if kept and math.isfinite(broken) else (2 * kept if kept else broken / 2)
    return kept, probes


def scaled(requests: Requests, rate: float) -> Requests:
    """Return requests whose mean rate of arrivals is another one.

    Raises:
        ConfigError: they all arrive at once.
    """
    if requests.duration_s <= 0 or len(requests) < 2:
        raise ConfigError(f"{requests.source}: its requests all arrive at once, so it has no rate; give --closed")
    return requests.faster(rate / ((len(requests) - 1) / requests.duration_s))
