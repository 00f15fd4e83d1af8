"""Policies on real tiers: the compiled policy decides, the pages really move, and the clock is the wall's."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.agents.placement import policies as P
from tunewright.envs.storage.hybrid.devices import Device, Devices, load_devices
from tunewright.envs.storage.hybrid.pagestore import TierPlace
from tunewright.envs.storage.hybrid.real import RealTiers, wait_until
from tunewright.errors import ConfigError
from tunewright.knowledge.blocktrace import Trace, paged

MOST_PAGES = 2_000_000  # 8 GB
SIZES = (1, 4, 16, 64)  # pages of the operations that devices are measured with
PROBED_PAGES = 512


@dataclass(frozen=True, kw_only=True)
class RealReplay:
    """What happened on the real tiers, beside what the simulator said.

    Attributes:
        policy: its name.
        latency_us: measured, float64, (requests,).
        simulated_us: the calibrated simulator's latencies of the same requests, float64, (requests,).
        late_us: how late each request was issued, float64, (requests,): it is part of its latency.
        busy_us: how long each tier had worked when each request was issued and at the end, (requests + 1, tiers).
        moved: pages that moved in the background.
        checked: pages whose content was checked by reading.
        seconds: wall time.
    """

    policy: str
    latency_us: npt.NDArray[np.float64]
    simulated_us: npt.NDArray[np.float64]
    late_us: npt.NDArray[np.float64]
    busy_us: npt.NDArray[np.float64]
    moved: int
    checked: int
    seconds: float
    extra: dict[str, Any] = field(default_factory=dict)


def real_setup(setup: P.Setup, places: list[TierPlace], *, repeats: int = 40) -> P.Setup:
    """Return the setup with devices as measured on the directories.

    Raises:
        ConfigError: the trace is too large to be kept on real tiers.
    """
    if len(setup.paged.address) > MOST_PAGES:
        raise ConfigError(
            f"the trace needs {len(setup.paged.address):,} pages on real tiers; at most {MOST_PAGES:,} are allowed."
            " Use the first requests only: --requests N"
        )
    return replace(setup, devices=calibrate(places, repeats=repeats))


def calibrate(places: list[TierPlace], *, repeats: int = 40, gap_us: float = 6000.0, seed: int = 0) -> Devices:
    """Measure what the simulator needs to know of each tier: latency by operation and size, and how long it is busy.

    Single requests of 1 to 64 pages, with idle time between them, are replayed on each tier just as a trace is, so what
    waking up and handing over cost is in the latency.

    Args:
        places: the tiers; files are made in their directories and deleted again.
        repeats: operations of a kind and size; the fit is through their means, because means are what is predicted.
        gap_us: idle time between two operations, at least.
        seed: of order, places and gaps.
    """
    probes = _probes(repeats, gap_us, np.random.default_rng(seed))
    setup = P.Setup(paged=paged(probes), devices=load_devices("performance"))
    pages, write = probes.size // 4096, probes.write
    devices = []
    for tier, place in enumerate(places):
        done = replay_real(setup, "fast-only", [place, places[tier - 1]])
        busy = np.diff(done.busy_us[:, 0])
        figures: dict[str, float] = {}
        for kind, rows in (("read", ~write), ("write", write)):
            base, slope = _fit([done.latency_us[rows & (pages == size)] for size in SIZES])
            hold, _ = _fit([busy[rows & (pages == size)] for size in SIZES])
            figures |= {
                f"{kind}_latency_us": base + slope,
                f"{kind}_mb_s": 4096 / slope,
                f"{kind}_iops": 1e6 / (hold + slope),
                f"{kind}_hold_us": hold,
            }
        devices.append(Device(name=place.name, title=f"{place.directory}", kind="solid", figures=figures))
    return Devices(
        name="real", title=", ".join(f"{p.name}={p.directory}" for p in places), tiers=tuple(devices),
        shares=(None,) * len(devices),
    )  # fmt: skip


def _probes(repeats: int, gap_us: float, rng: np.random.Generator) -> Trace:
    """Reads and writes of all sizes in random order, at random places."""
    size = rng.permutation(np.repeat(SIZES, 2 * repeats))
    write = np.zeros(len(size), bool)
    for pages in SIZES:
        write[np.flatnonzero(size == pages)[::2]] = True
    first = (rng.random(len(size)) * (PROBED_PAGES - size)).astype(np.int64)
    time_us = np.cumsum(gap_us + rng.exponential(gap_us / 4, len(size)))
    return Trace(name="probes", time_us=time_us, offset=first * 4096, size=size * 4096, write=write)


def _fit(times: list[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Least squares through the means by size, without the slowest twentieth, weighted so that small sizes count."""
    means = np.array([np.sort(t)[: max(1, int(0.95 * len(t)))].mean() for t in times])
    slope, base = np.polyfit(np.array(SIZES, float), means, 1, w=1 / np.sqrt(means))
    return max(float(base), 1.0), max(float(slope), 1e-3)


def replay_real(
    setup: P.Setup,
    policy: str,
    places: list[TierPlace],
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] | None = None,
) -> RealReplay:
    """Replay a trace on real tiers under one policy.

    Args:
        setup: from ``real_setup``.
        policy: one of ``POLICIES`` but "oracle".
        places: the tiers' directories.
        seed: of the policy.
        tick: called with (done, total).
    """
    P.replay(replace_trace(setup, min(200, len(setup.paged.first))), policy, seed=seed)  # compile before the clock runs
    world, step, extra = P.prepare(setup, policy, seed=seed)
    paged = setup.paged
    total = len(paged.first)
    world.keep_journal(max(100_000, 4 * int(paged.count.max())))
    journal, sim = world.journal, world.sims[0:1]
    tiers = RealTiers(places, range(len(paged.address)), world.capacities)
    if policy == "fast-only":
        for begin in range(0, len(paged.address), 1024):
            tiers.store.move(range(begin, min(begin + 1024, len(paged.address))), 0)
    finished, late = np.zeros(total), np.zeros(total)
    simulated, one, busy = np.zeros(total), np.zeros(1), np.zeros((total + 1, len(places)))
    arrival = paged.trace.time_us * setup.scale * 1e-6
    moved = checked = 0
    agents = extra.get("agents")
    gc_was = gc.isenabled()
    gc.disable()  # a collection would be counted as latency
    try:
        begun = time.perf_counter() + 0.05
        for i in range(total):
            due = begun + arrival[i]
            wait_until(due)
            late[i] = time.perf_counter() - due
            busy[i] = tiers.service_s
            sim["journaled"] = 0
            step(one)
            simulated[i] = one[0]
            entries = journal[: int(sim["journaled"][0])].tolist()
            pages = list(range(int(paged.first[i]), int(paged.first[i] + paged.count[i])))

            def done(i: int = i, due: float = due) -> None:
                finished[i] = time.perf_counter() - due

            moved += _issue(
                tiers, entries, pages, bool(paged.trace.write[i]), int(world.pages["tier"][0][pages[0]]), done
            )
            checked += 0 if paged.trace.write[i] else len(pages)
            if agents is not None and i > 0 and finished[i - 1] > 0:
                agents.correct(world, i - 1, finished[i - 1] * 1e6)
            if tiers.fault is not None:
                raise tiers.fault
            if tick and i % 50 == 0:
                tick(i, total)
        tiers.drain()
        busy[total] = tiers.service_s
        seconds = time.perf_counter() - begun
    finally:
        if gc_was:
            gc.enable()
        tiers.close()
    return RealReplay(
        policy=policy, latency_us=finished * 1e6, simulated_us=simulated, late_us=late * 1e6,
        busy_us=busy * 1e6, moved=moved, checked=checked, seconds=seconds, extra=extra,
    )  # fmt: skip


def replace_trace(setup: P.Setup, requests: int) -> P.Setup:
    """Return the setup with the first requests of its trace only (the pages stay numbered as they are)."""
    p = setup.paged
    cut = replace(p, trace=p.trace.part(0, requests), first=p.first[:requests], count=p.count[:requests])
    return replace(setup, paged=cut)


def _issue(
    tiers: RealTiers,
    entries: list[tuple[int, int, int, int]],
    pages: list[int],
    write: bool,
    home: int,
    done: Callable[[], None],
) -> int:
    """Hand a request and the moves it causes to the tiers, in the simulator's order; returns pages moved."""
    own = range(pages[0], pages[-1] + 1)
    groups: list[tuple[int, list[tuple[int, int]]]] = []  # operation -> (page, target)
    for page, _, goal, operation in entries:
        if not groups or groups[-1][0] != operation:
            groups.append((operation, []))
        groups[-1][1].append((page, goal))
    # the request's own pages move in one operation, or none; what is journaled ahead of it was done in idle time
    request = next((k for k, (_, moves) in enumerate(groups) if _is_own(moves, own, home)), len(groups))
    for _, moves in groups[:request]:
        tiers.move([p for p, _ in moves], moves[0][1])
    kept = [p for p, _ in groups[request][1]] if request < len(groups) else []
    if write:
        tiers.write(pages, home, done)
    elif kept:
        held: dict[int, tuple[int, bytes]] = {}
        goal = groups[request][1][0][1]

        def both() -> None:
            done()
            tiers.copy(kept, held, goal)

        tiers.read(pages, both, held)
    else:
        tiers.read(pages, done)
    for _, moves in groups[request + 1 :]:
        tiers.move([p for p, _ in moves], moves[0][1])
    return len(kept) * (not write) + sum(len(m) for k, (_, m) in enumerate(groups) if k != request)


def _is_own(moves: list[tuple[int, int]], own: range, home: int) -> bool:
    return all(page in own and goal == home for page, goal in moves)
