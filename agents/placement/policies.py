"""Every placement policy by name, replayed on a trace: the one entry for the command line, notebooks and benchmarks."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.agents.placement import clairvoyant, heuristics, learning, shadow, supervised
from tunewright.envs.storage.hybrid.devices import Devices
from tunewright.envs.storage.hybrid.world import FULL, PLAIN, Mechanisms, World
from tunewright.errors import ConfigError, unknown
from tunewright.knowledge.blocktrace import PagedTrace

_HEURISTICS = {
    "slow-only": heuristics.SLOW_ONLY,
    "fast-only": heuristics.FAST_ONLY,
    "random": heuristics.RANDOM,
    "lru": heuristics.LRU,
    "lru-write": heuristics.LRU_WRITE,
    "second-touch": heuristics.SECOND_TOUCH,
    "cde": heuristics.CDE,
    "hps": heuristics.HPS,
}
#: in the order of the tables
POLICIES = (
    "fast-only", "slow-only", "random", "lru", "lru-write", "second-touch", "cde", "hps", "archivist", "rnn-hss",
    "oracle", "sibyl", "sibyl-code", "harmonia", "tunewright",
)  # fmt: skip
#: clairvoyant variants that the oracle is the best of: (horizon in requests, pages ahead, all of them, what is kept)
VARIANTS = tuple(
    (horizon, ahead, always, keep)
    for horizon in (300, 3000, 30000)
    for ahead, always in ((0, False), (64, False), (64, True))
    for keep in (0, 1)
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a replay is done on.

    Attributes:
        paged: the trace.
        devices: the tiers.
        fast: share of the footprint that the first tier holds.
        scale: factor on the trace's inter-arrival times.
        mechanisms: None: each policy's own (``FULL`` for "tunewright" and "oracle", ``PLAIN`` for all others).
        ahead: pages that the heuristics read ahead (see ``kernel.serve``).
    """

    paged: PagedTrace
    devices: Devices
    fast: float = 0.10
    scale: float = 1.0
    mechanisms: Mechanisms | None = None
    ahead: int = 0

    def world(self, default: Mechanisms, n: int = 1, **how: Any) -> World:
        """Make a batch of systems."""
        mechanisms = self.mechanisms or default
        return World(self.paged, self.devices, fast=self.fast, scale=self.scale, mechanisms=mechanisms, n=n, **how)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a policy did.

    Attributes:
        policy: its name.
        latency_us: of each request, float64, (requests,).
        counters: pages evicted, promoted, fetched, migrated, hit, served; see ``state.SIM``.
        seconds: wall time of the replay.
        tier: where each page lies at the end, uint8, (pages,).
        extra: what the policy adds: which candidate decided, which variant was best, the agents.
    """

    policy: str
    latency_us: npt.NDArray[np.float64]
    counters: dict[str, int]
    seconds: float
    tier: npt.NDArray[np.uint8]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def mean_us(self) -> float:
        """Mean latency."""
        return float(self.latency_us.mean())


def _done(policy: str, world: World, latency: npt.NDArray[np.float64], begun: float, **extra: Any) -> Replay:
    from tunewright.envs.storage.hybrid.state import COUNTERS

    return Replay(
        policy=policy,
        latency_us=latency,
        counters={name: int(world.sims[name][0]) for name in COUNTERS},
        seconds=time.perf_counter() - begun,
        tier=world.pages["tier"][0].copy(),
        extra=extra,
    )


#: fills in the latencies of the next requests. Steps are partial functions, which ``copy`` and ``pickle`` take with
#: their worlds: a copy goes on from the same request, with a world and agents of its own
Step = Callable[[npt.NDArray[np.float64]], None]


def _run(world: World, kernel: str, state: tuple[Any, ...], latency: npt.NDArray[np.float64]) -> None:
    """Serve requests on the first system with a compiled function: by name, as copies need no copy of that."""
    _KERNELS[kernel](world.sims, 0, *state, latency, len(latency))


_KERNELS: dict[str, Callable[..., None]] = {
    "heuristic": heuristics.replay, "archivist": supervised.archivist, "rnn-hss": supervised.history_network,
}  # fmt: skip


def _heuristic(setup: Setup, policy: str, seed: int) -> tuple[World, Step, dict[str, Any]]:
    world = setup.world(PLAIN, all_fast=policy == "fast-only")
    rng, memory = np.array([seed], np.uint64), np.zeros(2, np.int64)
    counts = np.zeros((2, len(setup.paged.address) if policy == "hps" else 0), np.int64)
    state = (_HEURISTICS[policy], rng, memory, counts[0], counts[1], setup.ahead)
    return world, functools.partial(_run, world, "heuristic", state), {}


def _archivist(setup: Setup, policy: str, seed: int) -> tuple[World, Step, dict[str, Any]]:
    world = setup.world(PLAIN)
    net, touches = supervised.make_classifier(7, seed), np.zeros(len(setup.paged.address), np.int64)
    bins, work = np.zeros(8, np.uint8), np.zeros((4, 32), np.float32)
    return world, functools.partial(_run, world, "archivist", (net, touches, bins, work)), {}


def _rnn_hss(setup: Setup, policy: str, seed: int) -> tuple[World, Step, dict[str, Any]]:
    world = setup.world(PLAIN)
    pages = len(setup.paged.address)
    net = supervised.make_classifier(supervised.HISTORY, seed)
    touched, touches = np.zeros((2, pages), np.int64), np.zeros(pages, np.int64)
    history, seen = np.zeros((pages, supervised.HISTORY), np.uint8), np.full(pages, -1, np.int64)
    work, carry = np.zeros((4, 32), np.float32), np.zeros(3, np.int64)
    state = (net, touched, touches, history, seen, work, carry)
    return world, functools.partial(_run, world, "rnn-hss", state), {}


def _agents(
    setup: Setup, policy: str, seed: int, agents: learning.Pair | None = None
) -> tuple[World, Step, dict[str, Any]]:
    world = setup.world(PLAIN)
    agents = agents or learning.make_pair(policy, len(setup.devices.tiers), seed)
    return world, agents.stepper(world), {"agents": agents}


def _tunewright(setup: Setup, policy: str, seed: int) -> tuple[World, Step, dict[str, Any]]:
    candidates = np.array(shadow.CANDIDATES, np.int64)
    world = setup.world(FULL, n=len(candidates) + 1)
    score = np.zeros(len(candidates))
    carry = np.array([shadow.first_candidate(setup.devices.tiers[-1]), 0], np.int64)
    chosen: list[npt.NDArray[np.int64]] = []
    return world, functools.partial(_follow, world, candidates, score, carry, chosen), {"chosen": chosen}


def _follow(
    world: World, candidates: Any, score: Any, carry: Any, chosen: list[Any], latency: npt.NDArray[np.float64]
) -> None:
    chosen.append(np.zeros(len(latency), np.int64))
    shadow.replay(world.sims, candidates, score, carry, chosen[-1], latency, len(latency))


def clairvoyants(setup: Setup) -> list[Replay]:
    """Replay every clairvoyant variant."""
    p = setup.paged
    start, after, coming = clairvoyant.next_reads(p.first, p.count, p.trace.write, len(p.address))
    done = []
    for variant in VARIANTS:
        world, latency = setup.world(FULL), np.zeros(len(p.first))
        begun = time.perf_counter()
        horizon, ahead, always, keep = variant
        clairvoyant.replay(
            world.sims, 0, start, after, coming.copy(), horizon, ahead, always, keep, latency, len(p.first)
        )
        done.append(_done("oracle", world, latency, begun, variant=variant))
    return done


_MAKERS: dict[str, Callable[[Setup, str, int], tuple[World, Step, dict[str, Any]]]] = {
    **dict.fromkeys(_HEURISTICS, _heuristic),
    "archivist": _archivist,
    "rnn-hss": _rnn_hss,
    **dict.fromkeys(learning.DESIGNS, _agents),
    "tunewright": _tunewright,
}


def prepare(
    setup: Setup, policy: str, *, seed: int = 0, agents: learning.Pair | None = None
) -> tuple[World, Step, dict[str, Any]]:
    """Make the system and the function that replays the next requests on it, for those who drive it themselves.

    Args:
        setup: trace, devices and the rest.
        policy: one of ``POLICIES`` but "oracle".
        seed: of random choices and initial weights.
        agents: trained agents to go on with, for the learning policies.

    Returns:
        The world; a function that fills an array with the latencies of the next requests; what the policy adds.

    Raises:
        UnknownNameError: no such policy.
        ConfigError: agents for a policy that has none.
    """
    if policy not in _MAKERS:
        raise unknown("placement policy", policy, POLICIES)
    if agents is not None:
        if _MAKERS[policy] is not _agents:
            raise ConfigError(f"policy {policy!r} does not use a saved agent; sibyl, sibyl-code and harmonia do")
        made = _agents(setup, policy, seed, agents)
    else:
        made = _MAKERS[policy](setup, policy, seed)
    world, inner, extra = made
    return world, functools.partial(_within, world, inner), extra


def _within(world: World, inner: Step, latency: npt.NDArray[np.float64]) -> None:
    left = len(world.requests) - int(world.sims["clock"][0])
    if len(latency) > left:  # compiled code does not look where its arrays end
        raise ConfigError(f"{len(latency)} requests were asked for, {left} of the trace are left")
    inner(latency)


def replay(setup: Setup, policy: str, *, seed: int = 0, agents: learning.Pair | None = None) -> Replay:
    """Replay a trace under one policy; "oracle" here is the best clairvoyant variant alone. See ``prepare``."""
    if policy == "oracle":
        return min(clairvoyants(setup), key=lambda r: r.mean_us)
    world, step, extra = prepare(setup, policy, seed=seed, agents=agents)
    latency = np.zeros(len(setup.paged.first))
    step(latency[:0])  # compiles, outside the time that is told
    begun = time.perf_counter()
    step(latency)
    return _done(policy, world, latency, begun, **extra)


def best_known(replays: Sequence[Replay]) -> Replay:
    """Best of all replays but "fast-only", under the name "oracle"; ``extra["of"]`` says whose it was."""
    from dataclasses import replace

    best = min((r for r in replays if r.policy != "fast-only"), key=lambda r: r.mean_us)
    return replace(best, policy="oracle", extra={**best.extra, "of": best.policy})


def time_scale(paged: PagedTrace, devices: Devices, *, limit: float = 2.0, least: float = 1.0) -> float:
    """Factor on inter-arrival times at which the slowest tier alone keeps up.

    The smallest power of two, ``least`` or more, at which the mean latency of "slow-only" is at most ``limit`` times
    what it is when requests come so slowly that only those with the same time stamp wait for each other.
    """
    longest = max(float(paged.trace.time_us[-1]), 1.0)
    top = 2.0 ** np.floor(np.log2(min(2.0**20, max(1e15 / longest, 1.0))))

    def mean(scale: float) -> float:
        return replay(Setup(paged=paged, devices=devices, scale=scale), "slow-only").mean_us

    calm, scale = mean(top), least
    while scale < top and mean(scale) > limit * calm:
        scale *= 2
    return scale
