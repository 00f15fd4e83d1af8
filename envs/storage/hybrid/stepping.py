"""One decision of an agent, compiled: the same function for one system and for a batch.

``step`` serves the request that has arrived with the agent's choice, lets the next one arrive, and says what the agent
sees then.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import numpy as np

from tunewright.envs.compiled import jit
from tunewright.envs.storage.hybrid.features import SCALE, observe
from tunewright.envs.storage.hybrid.kernel import arrive, ask_for, serve
from tunewright.envs.storage.hybrid.lowlevel import load_page, page, request, seat, system
from tunewright.envs.storage.hybrid.reward import fastest_latency, reward_of

#: placement that a migration environment has beside it: writes to the fastest tier, reads where they are
WRITES_FAST = -2
#: no wish of the migration agent
NOWHERE = -1
PONG_REQUESTS = 50  # a page that moves again so soon is played ping-pong with
PONG_PENALTY = 0.1
RECENT = 0.9  # weight of the past in the migration agent's running mean

AHEAD = 3  # systems whose records are loaded early


@jit
def _see(sim, seen):
    """Let the next request arrive and write what the agent sees."""
    if sim.clock >= sim.stop:
        return
    arrive(sim)
    bins = sim.bins
    observe(sim, bins)
    for i in range(7):
        seen[i] = bins[i] * SCALE[i]
    seen[5] = np.float32(bins[5]) / np.float32(sim.tiers - 1)


@jit
def _step(sim, place, migrate, kind, seen):
    """Serve a request; returns (placement reward, migration reward, latency in us, whether the episode is over)."""
    asked = request(sim.request_at, sim.clock)
    first, count = asked.first, asked.count
    fastest = fastest_latency(sim)
    if place == WRITES_FAST:
        place = 0 if asked.write else -1
    clock, moved = sim.clock, page(sim.page_at, first).moved
    took = serve(sim, place, 0, False)
    asks = migrate >= 0 and ask_for(sim, first, count, migrate)
    ratio = took / fastest
    sim.recent = ratio if sim.recent == 0.0 else RECENT * sim.recent + (1.0 - RECENT) * ratio
    reward, slow = reward_of(kind, ratio), reward_of(kind, sim.recent)
    if asks and moved >= 0 and clock - moved < PONG_REQUESTS:
        slow -= PONG_PENALTY
    _see(sim, seen)
    return reward, slow, took, sim.clock >= sim.stop


@jit
def see(batch, k, seen):
    """Let the next request of system ``k`` arrive and write what the agent sees: 7 numbers in [0, 1].

    ``batch`` is the address of the systems: an integer, because checking the type of an array takes longer than a step.
    """
    _see(system(batch, k), seen)


@jit
def step(batch, place, migrate, kind, seen):
    """``_step`` for the first system at address ``batch``; ``seen`` is filled in, float32, (7,)."""
    return _step(system(batch, 0), place, migrate, kind, seen)


@jit
def _load_early(sim):
    """Have the records that the next steps of a system need brought into the cache."""
    load_page(sim.page_at, int(request(sim.request_at, sim.clock).first))
    if sim.clock + 1 < sim.stop:
        load_page(sim.page_at, int(request(sim.request_at, sim.clock + 1).first))
    load_page(sim.page_at, seat(sim.queue_at[0], sim.oldest[0] & sim.mask[0]).page)


@jit
def step_all(batch, which, place, kind, seen, reward, latency, over):
    """``_step`` without migration for the marked systems of a batch.

    Args:
        batch: address of the systems.
        which: bool, (n,); the others are left alone.
        place: actions, int64, (n,).
        kind: of the reward.
        seen: filled in, float32, (n, 7).
        reward, latency: filled in, float64, (n,).
        over: filled in, bool, (n,).

    Returns:
        Whether all actions are tiers; if not, nothing is done.
    """
    n = len(which)
    tiers = system(batch, 0).tiers
    for k in range(n):
        if not 0 <= place[k] < tiers:
            return False
    for k in range(min(AHEAD, n)):
        _load_early(system(batch, k))
    for k in range(n):
        if k + AHEAD < n:
            _load_early(system(batch, k + AHEAD))
        if which[k]:
            reward[k], _, latency[k], over[k] = _step(system(batch, k), place[k], NOWHERE, kind, seen[k])
    return True
