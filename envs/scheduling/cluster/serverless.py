"""Functions that start cold: how long instances are kept, and when they are started ahead.

An instance serves one invocation at a time; an invocation without a warm instance waits for a new one. Policies:

- ``none``: an instance goes when it is done. ``fixed``: after ``keep_s`` without work.
- ``histogram``: after Shahrad et al. (Serverless in the Wild, ATC 2020): a histogram of each function's idle times in
  minutes; an instance is taken away at once, brought back before the 5th percentile, and kept to the 99th. Where the
  histogram says little (few idle times, many outside it, or no peak) it is ``fixed``.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling import limits
from tunewright.envs.scheduling.generated import lognormal, numbers
from tunewright.envs.scheduling.traces import numbered
from tunewright.errors import ConfigError, unknown
from tunewright.store.files import check_size, open_lines, parsing

POLICIES = ("none", "fixed", "histogram")
_ROW_BYTES, _CALL_BYTES = 400, 60  # of memory for an invocation that is read, and for one that is generated
BINS, BIN_S = 240, 60.0  # four hours in minutes, as published
LEAST_IDLE = 10  # idle times before a histogram is believed; assumed
LEAST_PEAK = 2.0  # coefficient of variation of the bins' counts, as published
MOST_OUTSIDE = 0.5  # share of idle times beyond four hours at which it is not believed; assumed
MOST_INSTANCES = 512
DEFAULTS: dict[str, float] = {
    "functions": 200,
    "hours": 6.0,
    "rate_spread": 2.5,  # standard deviation of ln(invocations a second) among functions; popularity spans many orders
    "rate": 0.003,  # median invocations a second
    "timers": 0.3,  # share of functions that a clock calls (Shahrad et al.: 29 % of functions have timers)
    "run_s": 0.7,  # median (Shahrad et al.: half of the functions run below a second)
    "run_spread": 1.5,
    "memory_mb": 170.0,  # median (Shahrad et al.)
    "memory_spread": 0.6,
    # starts of instances (Joosen et al., Serverless Cold Starts and Where to Find Them, EuroSys 2025: log-normal over
    # Huawei's starts with mean 3.24 s and standard deviation 7.10 s, so this median and spread; quoted from memory, not
    # checked)
    "cold_s": 1.35,
    "cold_spread": 1.33,
}


@dataclass(frozen=True, kw_only=True)
class Invocations:
    """Invocations in the order of functions, then of time.

    Attributes:
        source: where they come from.
        function: number of each one's function.
        at_s, run_s: when, and how long.
        memory_mb, cold_s: of each function.
    """

    source: str
    function: NDArray[np.int64]
    at_s: NDArray[np.float64]
    run_s: NDArray[np.float64]
    memory_mb: NDArray[np.float64]
    cold_s: NDArray[np.float64]


def generate(options: Mapping[str, Any] | None = None, seed: int = 0) -> Invocations:
    """Generate invocations; the same seed gives the same ones.

    Raises:
        UnknownNameError: there is no such parameter.
        ConfigError: a value is out of range.
    """
    params = numbers(
        "the functions", DEFAULTS, options or {}, whole=("functions",),
        positive=("functions", "hours", "rate", "run_s", "memory_mb", "cold_s"),
    )  # fmt: skip
    calls = params["functions"] * params["hours"] * 3600.0 * max(params["rate"], 1.0 / 60.0)
    check_size(f"{params['functions']:g} functions over {params['hours']:g} hours", calls, _CALL_BYTES)
    rng = np.random.default_rng([seed, 2020])
    count, span = int(params["functions"]), params["hours"] * 3600.0
    rate = np.minimum(params["rate"] * np.exp(rng.normal(0.0, params["rate_spread"], count)), 20.0)
    function, at = [], []
    for number in range(count):
        if rng.random() < params["timers"]:
            period = float(rng.choice([60.0, 300.0, 900.0, 3600.0]))
            times = np.arange(rng.random() * period, span, period)
        else:
            times = np.sort(rng.random(rng.poisson(rate[number] * span)) * span)
        function.append(np.full(len(times), number))
        at.append(times)
    which, when = np.concatenate(function), np.concatenate(at)
    if not len(which):
        raise ConfigError(
            f"none of {count} functions is called within {params['hours']:g} hours; give more hours or a higher rate"
        )
    run = np.exp(rng.normal(math.log(params["run_s"]), params["run_spread"], count))[which] * lognormal(
        rng, 1.0, 0.5, len(which)
    )
    memory = params["memory_mb"] * np.exp(rng.normal(0.0, params["memory_spread"], count))
    cold = params["cold_s"] * np.exp(rng.normal(0.0, params["cold_spread"], count))
    return Invocations(source="synthetic", function=which, at_s=when, run_s=run, memory_mb=memory, cold_s=cold)


def read(path: Path, cold_s: float = 1.35, memory_mb: float = 170.0) -> Invocations:
    """Read Azure's invocations of 2021: app, func, end_timestamp, duration (s); memory and cold starts are not in it.

    Raises:
        ConfigError: it cannot be read so.
    """
    rows = list[tuple[str, float, float]]()
    with (
        parsing(path, "invocations with the columns app, func, end_timestamp and duration") as place,
        open_lines(path, "invocations") as lines,
    ):
        for place.line, row in enumerate(csv.DictReader(lines), 2):
            if not place.line & 0x3FF:
                check_size(f"{path}: {place.line:,} invocations and more", place.line, _ROW_BYTES, "give a shorter one")
            rows.append((row["app"] + row["func"], float(row["end_timestamp"]), float(row["duration"])))
            if not (abs(rows[-1][1]) <= limits.MOST_TIME_S and 0 <= rows[-1][2] <= limits.MOST_TIME_S):
                raise ConfigError(
                    f"{path}, line {place.line}: an end must lie within {limits.MOST_TIME_S:g} s of 0, and a duration"
                    " between 0 and that"
                )
    if not rows:
        raise ConfigError(f"{path} has no invocations")
    names, ends, runs = zip(*rows, strict=True)
    which = numbered(names)
    at, run = np.array(ends) - np.array(runs), np.array(runs)
    order = np.lexsort((at, which))
    count = int(which.max()) + 1
    return Invocations(
        source=path.name, function=which[order], at_s=at[order] - at.min(), run_s=run[order],
        memory_mb=np.full(count, memory_mb), cold_s=np.full(count, cold_s),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _function(
    at: Any, run: Any, cold_s: float, policy: int, keep_s: float, end: float, waits: Any
) -> tuple[int, float]:
    """One function: fills in each invocation's wait; returns cold starts and instance-seconds without work."""
    busy = np.zeros(MOST_INSTANCES)  # when the instance is done
    alive = np.zeros(MOST_INSTANCES, np.int64)
    counts = np.zeros(BINS, np.int64)
    idles, outside, cold, wasted, last = 0, 0, 0, 0.0, -1.0
    pre, keep = 0.0, keep_s
    for nth in range(len(at)):
        now = at[nth]
        if policy == 2 and last >= 0.0 and now > last:  # how long nothing ran
            gap = now - last
            idles += 1
            if gap >= BINS * BIN_S:
                outside += 1
            else:
                counts[int(gap // BIN_S)] += 1
        chosen = -1
        for instance in range(MOST_INSTANCES):
            if alive[instance] == 0:
                continue
            free = busy[instance]
            if free > now:
                continue
            back, gone = free + pre, free + pre + keep  # it is there between these, apart from the moment it ends
            if now >= gone:
                wasted += keep
                alive[instance] = 0
            elif now >= back or pre == 0.0:
                if chosen < 0 or free > busy[chosen]:
                    chosen = instance
        if chosen >= 0:
            wasted += now - (busy[chosen] + pre)
            waits[nth] = 0.0
        else:
            for instance in range(MOST_INSTANCES):  # one that is away and comes back later is not needed any more
                if alive[instance] == 1 and busy[instance] <= now:
                    alive[instance] = 0
                    chosen = instance
                    break
            if chosen < 0:
                for instance in range(MOST_INSTANCES):
                    if alive[instance] == 0:
                        chosen = instance
                        break
            waits[nth] = cold_s
            cold += 1
        if chosen >= 0:
            busy[chosen] = now + waits[nth] + run[nth]
            alive[chosen] = 1
            last = max(last, busy[chosen])
        if policy == 2:
            pre, keep = 0.0, keep_s
            if idles >= LEAST_IDLE and outside <= MOST_OUTSIDE * idles:
                total, mean = idles - outside, (idles - outside) / BINS
                spread = 0.0
                for bucket in range(BINS):
                    spread += (counts[bucket] - mean) ** 2
                if total > 0 and math.sqrt(spread / BINS) >= LEAST_PEAK * mean:
                    low, high, passed = -1, BINS, 0
                    for bucket in range(BINS):
                        passed += counts[bucket]
                        if low < 0 and passed >= 0.05 * total:
                            low = bucket
                        if passed >= 0.99 * total:
                            high = bucket + 1
                            break
                    pre = max(low - 0.1 * low - 1.0, 0.0) * BIN_S
                    keep = high * 1.1 * BIN_S - pre
    for instance in range(MOST_INSTANCES):
        if alive[instance] == 1:
            wasted += min(max(end - (busy[instance] + pre), 0.0), keep)
    return cold, wasted


def simulate(calls: Invocations, policy: str = "fixed", keep_s: float = 600.0) -> dict[str, Any]:
    """Return what a policy gives.

    Args:
        calls: invocations.
        policy: one of ``POLICIES``.
        keep_s: how long an instance is kept without work, for ``fixed`` and where the histogram says little.

    Returns:
        cold_share, wait_s (mean, p99 of the wait for an instance), idle_gb_s (memory of instances without work),
        per_function (median and 75th percentile of the functions' cold shares), seconds.

    Raises:
        UnknownNameError: there is no such policy.
        ConfigError: a time is below 0.
    """
    if policy not in POLICIES:
        raise unknown("keep-alive policy", policy, POLICIES)
    limits.check(keep=keep_s)
    start = time.perf_counter()
    functions = len(calls.memory_mb)
    edges = np.searchsorted(calls.function, np.arange(functions + 1))
    waits, shares, idle, cold = np.zeros(len(calls.at_s)), [], 0.0, 0
    end = float((calls.at_s + calls.run_s).max())
    keep = 0.0 if policy == "none" else keep_s
    for number in range(functions):
        part = slice(edges[number], edges[number + 1])
        count = edges[number + 1] - edges[number]
        if count == 0:
            continue
        cold_s, at_s, run_s = float(calls.cold_s[number]), calls.at_s[part], calls.run_s[part]
        starts, wasted = _function(at_s, run_s, cold_s, POLICIES.index(policy), keep, end, waits[part])
        cold += starts
        shares.append(starts / count)
        idle += wasted * float(calls.memory_mb[number]) / 1024.0
    return {
        "invocations": len(calls.at_s), "functions": len(shares), "cold_share": cold / len(calls.at_s),
        "wait_s": {"mean": float(waits.mean()), "p99": float(np.percentile(waits, 99))}, "idle_gb_s": idle,
        "per_function": {"p50": float(np.median(shares)), "p75": float(np.percentile(shares, 75))},
        "seconds": time.perf_counter() - start,
    }  # fmt: skip
