"""What a latency is worth to an agent: the environments and the agents in the kernel are paid alike."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math

from tunewright.envs.compiled import inlined
from tunewright.envs.storage.hybrid.lowlevel import device, request

INVERSE, LOGARITHM = 0, 1


@inlined
def fastest_latency(sim):
    """Latency of the request that has arrived, had the fastest tier nothing else to do."""
    asked, fastest = request(sim.request_at, sim.clock), device(sim.device_at, 0)
    if asked.write:
        return fastest.write_us + asked.count * fastest.write_page
    return fastest.read_us + asked.count * fastest.read_page


@inlined
def reward_of(kind, ratio):
    """Reward of a latency over the fastest possible one: its inverse, or minus its log2."""
    return 1.0 / ratio if kind == INVERSE else -math.log2(max(ratio, 1e-9))
