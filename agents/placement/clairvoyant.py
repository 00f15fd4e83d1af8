"""Placement with the future known: what is left to gain. No single variant is a bound; the best of several is shown."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import numpy as np
from numba import njit

from tunewright.envs.compiled import jit
from tunewright.envs.storage.hybrid.kernel import arrive, serve
from tunewright.envs.storage.hybrid.lowlevel import page, request

NEVER = 2**31 - 1


@njit(cache=True, nogil=True)
def next_reads(first, count, write, pages):
    """Next read of a page after each touch of it.

    Args:
        first, count, write: the requests, shape (requests,).
        pages: number of pages.

    Returns:
        Start of each request's touches, int64, (requests + 1,); request of the next read after each touch, int32,
        (touches,); request of the first read of each page, int32, (pages,). ``NEVER`` where there is none.
    """
    start = np.zeros(len(first) + 1, np.int64)
    for i in range(len(first)):
        start[i + 1] = start[i] + count[i]
    after = np.empty(start[-1], np.int32)
    coming = np.full(pages, NEVER, np.int32)
    for i in range(len(first) - 1, -1, -1):
        for k in range(count[i]):
            at = first[i] + k
            after[start[i] + k] = coming[at]
            if not write[i]:
                coming[at] = i
    return start, after, coming


@jit
def replay(sims, k, start, after, coming, horizon, ahead, always, keep, latency, requests):
    """Serve requests with the future known.

    Args:
        sims, k: system ``k`` of a batch.
        start, after, coming: from ``next_reads``; ``coming`` is changed.
        horizon: a page read again within so many requests is worth its place.
        ahead: pages behind a request that may be fetched.
        always: fetch them all, not up to the last that is worth it.
        keep: 0: victims by LRU; 1: pages not worth their place go first; 2: extents with no such page go first.
        latency: filled in, us, float64, shape (requests,).
        requests: how many to serve.
    """
    sim = sims[k]
    table = sim.page_at
    for n in range(requests):
        arrive(sim)
        i = sim.clock
        asked = request(sim.request_at, i)
        soon = NEVER
        for j in range(asked.count):
            coming[asked.first + j] = after[start[i] + j]
            soon = min(soon, after[start[i] + j])
        stop = asked.first + asked.count
        region = page(table, stop - 1).address // sim.extent
        useful = 0
        if ahead > 0 and not asked.write:
            for d in range(min(ahead, sim.pages - stop)):
                if page(table, stop + d).address // sim.extent != region:
                    break
                if always or coming[stop + d] - i <= horizon:
                    useful = d + 1
        if keep == 2 and soon - i > horizon:  # the whole extents that it touches
            at = asked.first
            region = page(table, at).address // sim.extent
            while at > 0 and page(table, at - 1).address // sim.extent == region:
                at -= 1
            region = page(table, stop - 1).address // sim.extent
            while at < sim.pages and (at < stop or page(table, at).address // sim.extent == region):
                if page(table, at).tier == 0:
                    soon = min(soon, coming[at])
                at += 1
        cold = soon - i > horizon
        target = 0 if asked.write or useful > 0 or not cold else -1
        latency[n] = serve(sim, target, useful, cold and keep > 0)
