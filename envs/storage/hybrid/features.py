"""What a placement or migration agent sees: small whole numbers ("bins"), as Sibyl and Harmonia quantise them.

| column | meaning | bins | unit of a bin |
|---|---|---|---|
| 0 | type of the request | 2 | 0 read, 1 write |
| 1 | size of the request | 8 | log2 of its pages, 7 is 128 pages and more |
| 2 | access interval: requests since its first page was last touched | 64 | quarter octaves; 63 also: never |
| 3 | touches of that page so far | 64 | quarter octaves |
| 4 | free capacity of the fastest tier | 8 | eighths of its capacity |
| 5 | tier that holds that page | tiers | 0 is the fastest |
| 6 | requests since that page last changed its tier | 64 | quarter octaves; 63 also: never |

Which features there are and how many bins each has is second-hand for Harmonia and background knowledge for Sibyl
(columns 0 to 5); where the edges of the bins lie is ours.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import numpy as np

from tunewright.envs.compiled import inlined
from tunewright.envs.storage.hybrid.lowlevel import page, request

NAMES = ("type", "size", "access_interval", "access_count", "free_fast", "tier", "migration_interval")
BINS = (2, 8, 64, 64, 8, 4, 64)
#: bins to numbers in [0, 1]
SCALE = (1.0 / (np.array(BINS) - 1)).astype(np.float32)


@inlined
def octave(value):
    """Quarter-octave bin of a whole number: 0 to 7 are their own, 63 is 122,880 and more.

    The bin is read off the exponent and the two highest bits of the fraction of a float64.
    """
    if value < 4:
        return max(value, 0)
    return min((np.float64(value).view(np.int64) >> 50) - (1023 << 2) - 4, 63)


@inlined
def observe(sim, bins):
    """Fill ``bins`` (uint8, (7,)) for the request that has arrived."""
    asked = request(sim.request_at, sim.clock)
    first = page(sim.page_at, asked.first)
    bins[0] = 1 if asked.write else 0
    size, pages = 0, asked.count
    while pages > 1 and size < 7:
        pages >>= 1
        size += 1
    bins[1] = size
    bins[2] = octave(sim.clock - first.last) if first.last >= 0 else 63
    bins[3] = octave(int(first.count))
    free = sim.capacity[0] - sim.used[0]
    bins[4] = min(max(free * 8 // max(sim.capacity[0], 1), 0), 7)
    bins[5] = first.tier
    bins[6] = octave(sim.clock - first.moved) if first.moved >= 0 else 63
