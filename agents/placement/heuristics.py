"""Placement policies without learning, compiled: one loop over the requests, the policy a number.

Where the papers that used a baseline do not give its constants, the constant here is ours and has a name.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from numba import njit

from tunewright.envs.storage.hybrid.kernel import arrive, move, serve
from tunewright.envs.storage.hybrid.lowlevel import page, request

SLOW_ONLY, FAST_ONLY, RANDOM, LRU, LRU_WRITE, SECOND_TOUCH, CDE, HPS = range(8)

CDE_HOT = 4  # touches that make a page hot
CDE_SMALL = 8  # pages; a request that small and not sequential is random
HPS_EPOCH = 1000  # requests between two migrations
HPS_HOT = 2  # touches within an epoch that make a page hot

jit = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)


@jit
def draw(rng):
    """Next 64 random bits (splitmix64) of the state in ``rng[0]``."""
    rng[0] += 0x9E3779B97F4A7C15
    z = rng[0]
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@jit
def decide(sim, policy, rng, memory):
    """Tier for the request that has arrived; -1 leaves the pages of a read where they are."""
    asked = request(sim.request_at, sim.clock)
    if policy == LRU or policy == FAST_ONLY:
        return 0
    if policy == SLOW_ONLY:
        return sim.tiers - 1
    if policy == LRU_WRITE:
        return 0 if asked.write else -1
    if policy == SECOND_TOUCH:
        return 0 if asked.write or page(sim.page_at, asked.first).count > 0 else -1
    if policy == RANDOM:
        return int(draw(rng) >> 33) % sim.tiers
    if policy == CDE:
        sequential = asked.first == memory[0]
        memory[0] = asked.first + asked.count
        hot = page(sim.page_at, asked.first).count >= CDE_HOT
        if hot or (asked.count <= CDE_SMALL and not sequential):
            return 0
        return sim.tiers - 1 if asked.write else -1
    return -1


@jit
def hps_epoch(sim, touched, touches, epoch_count):
    """Move the pages that were hot in the epoch to the first tier, and forget the epoch."""
    size = epoch_count[0]
    for k in range(size):
        at = touched[k]
        if touches[at] >= HPS_HOT and page(sim.page_at, at).tier > 0:
            move(sim, sim.page_at, at, 0, sim.now)
        touches[at] = 0
    epoch_count[0] = 0


@jit
def replay(sims, k, policy, rng, memory, touched, touches, latency, requests, ahead):
    """Replay the next ``requests`` requests on system ``k`` and note the latency of each."""
    sim = sims[k]
    size = memory[1:]
    for n in range(requests):
        arrive(sim)
        target = decide(sim, policy, rng, memory)
        if policy == HPS:
            asked = request(sim.request_at, sim.clock)
            for at in range(asked.first, asked.first + asked.count):
                if touches[at] == 0:
                    touched[size[0]] = at
                    size[0] += 1
                touches[at] += 1
            if (sim.clock + 1) % HPS_EPOCH == 0:
                hps_epoch(sim, touched, touches, size)
        latency[n] = serve(sim, target, ahead, False)
