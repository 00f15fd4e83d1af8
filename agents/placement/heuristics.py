"""Placement policies without learning, compiled: one loop over the requests, the policy a number.

Where the papers that used a baseline do not give its constants, the constant here is ours and has a name.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from tunewright.agents.placement.network import draw
from tunewright.envs.compiled import inlined, jit
from tunewright.envs.storage.hybrid.kernel import arrive, move, serve
from tunewright.envs.storage.hybrid.lowlevel import look_ahead, page, request

SLOW_ONLY, FAST_ONLY, RANDOM, LRU, LRU_WRITE, SECOND_TOUCH, CDE, HPS = range(8)

CDE_HOT = 4  # touches that make a page hot
CDE_SMALL = 8  # pages; a request that small and not sequential is random
HPS_EPOCH = 1000  # requests between two migrations
HPS_HOT = 2  # touches within an epoch that make a page hot
HPS_RUN = 64  # pages moved together


@inlined
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
def hps_epoch(sim, touched, touches, size):
    """Move the pages that were hot in the epoch to the first tier, as many as it holds, and forget the epoch."""
    begin = moved = 0
    while begin < size:
        stop = begin
        while (
            stop < size
            and stop - begin < HPS_RUN
            and touches[touched[stop]] >= HPS_HOT
            and page(sim.page_at, touched[stop]).tier > 0
            and (stop == begin or joins(sim, touched[stop - 1], touched[stop]))
        ):
            stop += 1
        if stop > begin and moved < sim.capacity[0]:
            move(sim, sim.page_at, touched[begin], stop - begin, 0, sim.now)
            moved += stop - begin
        begin = max(stop, begin + 1)
    for k in range(size):
        touches[touched[k]] = 0


@jit
def joins(sim, before, at):
    """Whether a page lies right behind another, on the same tier."""
    first, second = page(sim.page_at, before), page(sim.page_at, at)
    return at == before + 1 and first.tier == second.tier and second.address == first.address + 1


@jit
def replay(sims, k, policy, rng, memory, touched, touches, ahead, latency, requests):
    """Replay requests under one policy.

    Args:
        sims, k: system ``k`` of a batch.
        policy: one of the numbers above.
        rng: state of the generator, uint64, (1,).
        memory: int64, (2,), zero: end of the last request, pages touched in the epoch.
        touched, touches: int64, (pages,), zero; only HPS needs them.
        ahead: see ``kernel.serve``.
        latency: filled in, us, float64, (requests,).
        requests: how many to serve.
    """
    sim = sims[k]
    for n in range(requests):
        look_ahead(sim, 12)
        arrive(sim)
        target = decide(sim, policy, rng, memory)
        if policy == HPS:
            asked = request(sim.request_at, sim.clock)
            for at in range(asked.first, asked.first + asked.count):
                if touches[at] == 0:
                    touched[memory[1]] = at
                    memory[1] += 1
                touches[at] += 1
            if (sim.clock + 1) % HPS_EPOCH == 0:
                hps_epoch(sim, touched, touches, memory[1])
                memory[1] = 0
        latency[n] = serve(sim, target, ahead, False)
