"""The policy "tunewright": candidates run in simulation beside the real system, and the best one of late decides.

Six candidates, from "writes only, nothing promoted" to reading far ahead, each have a simulated system of their own
that sees the same requests. The one with the lowest exponentially weighted latency decides for the real system. One
candidate is learned: it counts, per kind of request and region, how often what it could promote or read ahead was
really read within the life of a page on the first tier (labels in hindsight), and acts where the share is worth it.

The simulated systems need page tables of their own; that is the price, and it is stated in docs/hybrid.md.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tunewright.envs.storage.hybrid.devices import Device
from tunewright.envs.storage.hybrid.kernel import arrive, serve
from tunewright.envs.storage.hybrid.lowlevel import jit, page, request

WRITES, SECOND, ALL, LEARNED = range(4)
#: candidate: what is promoted, and how many pages behind a read are fetched (see ``kernel.serve``)
CANDIDATES = ((WRITES, 0), (ALL, -16), (ALL, -64), (ALL, -256), (SECOND, 0), (LEARNED, 0))
FETCH_SHARE = 0.03  # share of read-ahead that must have been useful
KEEP_SHARE = 0.1  # share of pages that must have been read again, or they are cold
WINDOW = 1000.0  # requests that the comparison looks back on
MARGIN = 0.98  # a candidate must be better than the deciding one by this factor
PATIENCE = 5  # requests before the first change
CONTEXTS = 128
MOST = 400.0  # counts are halved at this, so that old ones fade
PRIOR = (0.3, 0.3, 0.1)  # chance before anything was seen: near read-ahead, far read-ahead, read again


def first_candidate(device: Device) -> int:
    """Candidate to begin with, before there is anything to compare: what a miss costs on the slowest device decides.

    It is the one that reads furthest ahead among those whose read-ahead takes no longer than the random read it may
    save: far on a disk, not at all on an SSD.
    """
    fields = device.kernel_fields()
    miss = fields["read_us"] + fields["read_page"]
    if device.kind == "disk":
        miss += fields["seek_min"] + fields["seek_span"] * 8 / 15 + fields["revolution"] / 2
    fitting = [k for k, (rule, ahead) in enumerate(CANDIDATES) if rule == ALL and -ahead * fields["read_page"] <= miss]
    return max(fitting, key=lambda k: -CANDIDATES[k][1], default=0)


#: what the learned candidate remembers of a region of 64 pages
REGION = np.dtype(
    [
        ("clock", "i4"),  # request of the open prediction
        ("reads", "u2"),
        ("end", "u1"),  # where the last read ended, in pages of the region
        ("context", "u1"),
        ("stop", "u1"),  # where the request of the open prediction ended
        ("came", "u1"),  # bit 0: the sixteen pages behind it were read; bit 1: pages further on
    ],
    align=True,
)


def make_memory(pages: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Regions; context of the last touch of each page; counts (3, CONTEXTS, 2) of predictions made and come true."""
    return np.zeros(pages // 64 + 1, REGION), np.zeros(pages, np.uint8), np.zeros((3, CONTEXTS, 2))


@jit
def _octave(value, top):
    """Whole octaves of a number: 0, 1, 2-3, 4-7, ..."""
    steps = 0
    while value > 0 and steps < top:
        value >>= 1
        steps += 1
    return steps


@jit
def _share(counts, kind, context):
    return (counts[kind, context, 1] + PRIOR[kind]) / (counts[kind, context, 0] + 1.0)


@jit
def _count(counts, kind, context):
    counts[kind, context, 0] += 1.0
    if counts[kind, context, 0] > MOST:
        counts[kind, context, 0] *= 0.5
        counts[kind, context, 1] *= 0.5


@jit
def learn(sim, regions, last, counts, share, life):
    """Learn from the request that has arrived, and predict for it.

    ``share`` is filled with the chances that the next sixteen pages are read within ``life`` requests, that pages
    behind those are, and that its own page is touched again by a read.
    """
    clock = sim.clock
    asked = request(sim.request_at, clock)
    first, write = asked.first, asked.write
    stop = first + asked.count
    record = page(sim.page_at, first)
    if not write and record.count > 0 and clock - record.last <= life:
        counts[2, last[first], 1] += 1.0
    interval = _octave((clock - record.last) >> 4, 5) if record.count > 0 else 6
    context = ((4 if write else 0) + _octave(int(record.count), 3)) * 7 + interval
    context = context * 2 + (1 if asked.count >= 8 else 0)
    last[first] = context
    _count(counts, 2, context)
    share[2] = _share(counts, 2, context)
    share[0] = share[1] = 0.0
    if write:
        return
    before = regions[(first - 1) >> 6]
    follows = first > 0 and before.reads > 0 and before.end == ((first - 1) & 63) + 1
    low, high = first >> 6, (stop - 1) >> 6
    for r in range(low, high + 1):
        region = regions[r]
        if region.reads > 0 and clock - region.clock <= life:
            begin, end = max(first, r << 6) - (r << 6), min(stop, (r + 1) << 6) - (r << 6)
            if not region.came & 1 and begin < int(region.stop) + 16 and end > region.stop:
                region.came |= 1
                counts[0, region.context, 1] += 1.0
            if not region.came & 2 and end > int(region.stop) + 16:
                region.came |= 2
                counts[1, region.context, 1] += 1.0
    region = regions[high]
    context = ((5 if follows else 0) + _octave(asked.count, 4)) * 5 + _octave(int(region.reads), 4)
    for kind in range(2):
        share[kind] = _share(counts, kind, context)
    if region.reads == 0 or clock - region.clock > life or region.came == 3 or follows:
        region.clock, region.context, region.came = clock, context, 0
        region.stop = min(stop - (high << 6), 63)
        _count(counts, 0, context)
        _count(counts, 1, context)
    for r in range(low, high + 1):
        regions[r].reads = min(int(regions[r].reads) + 1, 60000)
        regions[r].end = min(stop, (r + 1) << 6) - (r << 6)


@jit
def act(sim, rule, ahead, share):
    """Serve the request that has arrived as a candidate would; returns its latency."""
    asked = request(sim.request_at, sim.clock)
    cold = rule == LEARNED and share[2] < KEEP_SHARE
    if asked.write:
        return serve(sim, 0, 0, cold)
    target = 0
    if rule == LEARNED:
        ahead = 0
        if share[1] >= FETCH_SHARE:
            ahead = -64
        elif share[0] >= FETCH_SHARE:
            ahead = -16
        if cold and ahead == 0:
            target = -1
    elif rule == WRITES or (rule == SECOND and page(sim.page_at, asked.first).count == 0):
        target = -1
    return serve(sim, target, ahead, cold)


@jit
def replay(sims, candidates, regions, last, counts, score, share, chosen, latency, requests):
    """Replay requests on system 0, with the systems behind it as shadows, one a candidate.

    Args:
        sims: ``len(candidates) + 1`` systems at the same request.
        candidates: int64, (candidates, 2), from ``CANDIDATES``.
        regions, last, counts: from ``make_memory``.
        score: weighted sums of latencies, float64, (candidates,), zero.
        share: float64, (6,): scratch; [3] the life of a page on the first tier in requests, [4] who decides, [5]
            requests so far.
        chosen: filled in: who decided, int64, (requests,).
        latency: filled in, us, float64, (requests,).
        requests: how many to serve; a replay in pieces does the same as one in one go.
    """
    sim = sims[0]
    deciding = int(share[4])
    decay = 1.0 - 1.0 / WINDOW
    for n in range(requests):
        done = int(share[5])
        if done % 64 == 0 and sim.used[0] >= 0.9 * sim.capacity[0] and sim.tail[0] >= 0:
            share[3] = 0.9 * share[3] + 0.1 * (sim.clock - page(sim.page_at, sim.tail[0]).last)
        learn(sim, regions, last, counts, share, min(max(share[3], 200.0), 30000.0))
        for k in range(len(candidates)):
            shadow = sims[k + 1]
            arrive(shadow)
            score[k] = score[k] * decay + act(shadow, candidates[k, 0], candidates[k, 1], share)
        if done > PATIENCE:
            best = deciding
            for k in range(len(candidates)):
                if score[k] < score[best] * (1.0 if best != deciding else MARGIN):
                    best = k
            deciding = best
        chosen[n] = deciding
        share[4], share[5] = deciding, done + 1
        arrive(sim)
        latency[n] = act(sim, candidates[deciding, 0], candidates[deciding, 1], share)
