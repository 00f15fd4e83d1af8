"""Placement policies beside each other on one trace: as a document, and as a page of plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.agents.placement import policies as P
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.world import FULL, PLAIN
from tunewright.errors import ConfigError, unknown
from tunewright.knowledge.blocktrace import PagedTrace

Tick = Callable[[int, int, str], None]
MECHANISMS = {"own": None, "plain": PLAIN, "full": FULL}
REAL_LIMIT_S = 1800.0


def policies_of(given: Sequence[str]) -> list[str]:
    """Return the names of policies in words that may be several with commas between, or ``all``.

    Raises:
        UnknownNameError: there is no such policy.
    """
    names = [n for word in given for n in word.split(",") if n]
    if "all" in names:
        return list(P.POLICIES)
    for name in names:
        if name not in P.POLICIES:
            raise unknown("placement policy", name, ["all", *P.POLICIES])
    return list(dict.fromkeys(names))


def time_scale(text: str, cut: PagedTrace, devices: Any, least: float = 1.0) -> float:
    """Return the factor on inter-arrival times that a text says: a number, or ``auto``.

    Raises:
        ConfigError: it is neither.
    """
    if text == "auto":
        return P.time_scale(cut, devices, least=least)
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"--time-scale is auto or a positive number, not {text!r}") from None
    if not 0 < value < math.inf:
        raise ConfigError(f"--time-scale must be positive, not {text}")
    return value


def on_real_tiers(
    cut: PagedTrace, spec: str, names: Sequence[str], *, fast: float, seed: int, scale: str, load: float,
    mechanisms: Any, tick: Tick,
) -> dict[str, Any]:  # fmt: skip
    """Replay on real directories, after measuring what they are like.

    Args:
        cut: the trace.
        spec: the directories, such as ``fast=/dev/shm/t,slow=DIR?delay=2ms``.
        names: of policies; the oracle is left out.
        fast: share of the trace's footprint that the fastest tier holds.
        seed: of initial weights and random choices.
        scale: factor on inter-arrival times, or ``auto``.
        load: how many times as fast as that it is replayed.
        mechanisms: None for each policy's own.
        tick: called with (done, total, words).

    Raises:
        ConfigError: a replay would take too long.
    """
    from tunewright.agents.placement import real as R
    from tunewright.envs.storage.hybrid.pagestore import parse_places

    places = parse_places(spec)
    names = [n for n in names if n != "oracle"]  # the future is only known to a simulator
    tick(0, len(names), "measuring the tiers")
    start = load_devices("performance")  # replaced by what is measured
    setup = R.real_setup(P.Setup(paged=cut, devices=start, fast=fast, mechanisms=mechanisms), places)
    factor = time_scale(scale, cut, setup.devices, least=2.0**-30) / load
    setup = replace(setup, scale=factor)
    seconds = float(cut.trace.time_us[-1]) * factor / 1e6
    if seconds > REAL_LIMIT_S:
        raise ConfigError(
            f"the replay would take {seconds:,.0f} s for each policy; use fewer requests (--requests N) or a smaller"
            " --time-scale"
        )
    rows = []
    for number, name in enumerate(names):

        def inner(done: int, total: int, number: int = number, name: str = name) -> None:
            tick(number, len(names), f"{name}, request {done:,} of {total:,}")

        r = R.replay_real(setup, name, places, seed=seed, tick=inner)
        measured, simulated = float(r.latency_us.mean()), float(r.simulated_us.mean())
        rows.append(
            {
                "policy": name,
                "mean_latency_us": measured,
                "p99_latency_us": float(np.percentile(r.latency_us, 99)),
                "simulated_mean_us": simulated,
                "simulated_over_measured": simulated / measured,
                "late_us": float(r.late_us.mean()),
                "pages_moved": r.moved,
                "pages_checked": r.checked,
            }
        )
    return {
        "trace": cut.trace.name, "real": spec, "fast": fast, "seed": seed, "requests": len(cut.first),
        "time_scale": factor * load, "load": load, "footprint_pages": cut.footprint,
        "tiers": [{"name": t.name, **t.figures} for t in setup.devices.tiers], "policies": rows,
    }  # fmt: skip


def document_of(
    setup: P.Setup, shown: Sequence[P.Replay], done: Mapping[str, P.Replay], *, devices: str, seed: int, load: float
) -> dict[str, Any]:
    """Return what policies did as a document.

    Args:
        setup: what they were replayed on.
        shown: replays to list.
        done: all replays by policy, fast-only and slow-only among them, which the others are compared with.
        devices: name of the tiers.
        seed, load: as given.
    """
    cut = setup.paged
    floor, slow = done["fast-only"].mean_us, done["slow-only"]
    return {
        "trace": cut.trace.name, "devices": devices, "fast": setup.fast, "seed": seed, "requests": len(cut.first),
        "time_scale": setup.scale * load, "load": load, "footprint_pages": cut.footprint, "info": cut.trace.info,
        "policies": [_row(r, floor, slow) for r in shown],
    }  # fmt: skip


def _row(r: P.Replay, floor: float, slow: P.Replay) -> dict[str, Any]:
    tail = slice(-max(1, len(r.latency_us) // 10), None)
    moved = r.counters["promoted"] + r.counters["fetched"] + r.counters["migrated"]
    row = {
        "policy": r.policy,
        "mean_latency_us": r.mean_us,
        "p99_latency_us": float(np.percentile(r.latency_us, 99)),
        "normalised": r.mean_us / floor,
        "evictions": r.counters["evicted"],
        "migrations": moved,
        "fast_hit_ratio": r.counters["hits"] / max(r.counters["served"], 1),
        "requests_per_s": len(r.latency_us) / max(r.seconds, 1e-9),
        # a policy whose own traffic makes requests wait far longer than the slowest tier alone would
        "saturated": bool(r.latency_us[tail].mean() > 5 * slow.latency_us[tail].mean()),
    }
    return row | {k: r.extra[k] for k in ("of",) if k in r.extra}


def write_page(path: Path, document: dict[str, Any], setup: P.Setup, shown: Sequence[P.Replay]) -> None:
    """Write a page of plots of the replays in a document."""
    from tunewright.report import pages, svg

    rows = [(r["policy"], r["normalised"], f"{r['normalised']:,.4g}") for r in document["policies"]]
    best = sorted((r for r in shown if r.policy not in ("fast-only", "oracle")), key=lambda r: r.mean_us)[: svg.COLOURS]
    size = max(1, len(setup.paged.first) // 120)
    series = []
    for r in best:
        whole = len(r.latency_us) // size * size
        means = r.latency_us[:whole].reshape(-1, size).mean(axis=1)
        series.append((r.policy, [size * (i + 0.5) for i in range(len(means))], means.tolist()))
    hot = np.argsort(-setup.paged.touches(), kind="stable")[: max(1, setup.paged.footprint // 10)]
    names = [t.name for t in setup.devices.tiers]
    shares = [(r.policy, [float(np.mean(r.tier[hot] == t)) for t in range(len(names))]) for r in shown]
    words = (
        f"{document['requests']:,} requests · {setup.devices.title} · fast tier {100 * setup.fast:g} % of the footprint"
    )
    sections = [
        ("Mean latency over fast-only", svg.bars(rows, "times fast-only, log scale; lower is better", log=True), ""),
        (
            "Latency over time",
            svg.curves(series, "request", "mean latency in us", log_y=True, height=340),
            f"Each point is the mean of {size:,} requests.",
        ),
        (
            "Where the hot pages are at the end",
            svg.stacks(shares, names, "share of the hottest tenth of the pages"),
            "",
        ),
    ]
    pages.write_figures(path, f"placement on {document['trace']}", words, sections)
