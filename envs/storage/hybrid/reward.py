"""What a latency is worth to an agent: the environments and the agents in the kernel are paid alike."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math

from tunewright.envs.storage.hybrid.lowlevel import inlined, request

INVERSE, LOGARITHM = 0, 1


@inlined
def fastest_latency(sim):
    """Latency of the request that has arrived, had the fastest tier nothing else to do."""
    asked = request(sim.request_at, sim.clock)
    if asked.write:
        return sim.write_us[0] + asked.count * sim.write_page[0]
    return sim.read_us[0] + asked.count * sim.read_page[0]


@inlined
def reward_of(kind, ratio):
    """Reward of a latency over the fastest possible one: its inverse, or minus its log2."""
    return 1.0 / ratio if kind == INVERSE else -math.log2(max(ratio, 1e-9))
