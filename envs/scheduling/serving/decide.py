"""One decision of an agent, compiled: what prompts get of the next iteration, and in which order."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math

from tunewright.envs.compiled import jit
from tunewright.envs.scheduling.serving.kernel import ask, cell, replica, run, schedule, system
from tunewright.envs.scheduling.serving.state import DECODING

SEEN = 14
MOST_WAITING = 5000
LEAST = 128  # tokens of prompts where nothing else is to be computed


@jit
def observe(w, q, seen):
    """Write what an agent sees of the replica that waits for its decision; all in [0, 1]."""
    decoding, late, made, work, oldest, prompts, shortest = 0, 0, 0, 0.0, 0.0, 0, math.inf
    for j in range(q.queued):
        a = ask(w.asks, cell(q.waiting_at, j).v)
        wait = w.now - a.arrival
        oldest = max(oldest, wait)
        late += wait + a.work_first > w.limit_ttft
        prompts += a.prompt
        work += a.work_first
        shortest = min(shortest, a.work)
    for j in range(q.running):
        a = ask(w.asks, cell(q.running_at, j).v)
        if a.phase == DECODING:
            decoding += 1
            made += a.output - (a.end - q.clock)
    n = max(q.queued, 1)
    seen[0] = _squash(q.queued, 16.0)
    seen[1] = _squash(prompts, 8192.0)
    seen[2] = _squash(work, w.limit_ttft)
    seen[3] = _squash(oldest, w.limit_ttft)
    seen[4] = late / n
    seen[5] = _squash(shortest, 4.0)
    seen[6] = q.running / w.most_running
    seen[7] = _squash(decoding, 32.0)
    seen[8] = (q.free + q.idle) / q.total
    seen[9] = _squash(q.context, 65536.0)
    seen[10] = _squash(made / max(decoding, 1), 256.0)
    seen[11] = _squash(q.load, 65536.0)
    seen[12] = _squash(q.busy / max(q.iterations, 1), w.limit_tpot)
    seen[13] = w.next / w.requests


@jit
def _squash(value, half):
    return value / (value + half)


@jit
def _reward(w):
    """Good less other requests that have ended since the last call; at the end, those never served count as others."""
    ended = w.requests - (0 if w.over == 1 else w.left)
    gained = 2 * w.good - ended - w.seen
    w.seen += gained
    return gained


@jit
def decide(systems, k, r, chunk, order, e, p, seen):
    """Let replica ``r`` of system ``k`` go on with a choice, until the next choice is due.

    Args:
        systems: address.
        k, r: system, and replica that waits; -1 at the beginning of an episode.
        chunk: tokens of the iteration.
        order: of the queue.
        e, p: engines.
        seen: filled in, float32, (SEEN,).

    Returns:
        (the replica that waits for the next choice, or -1 when the episode is over; good less other requests).
    """
    w = system(systems, k)
    if r >= 0:
        q = replica(w.reps, r)
        w.chunk = chunk if chunk > 0 or q.decodes > 0 else LEAST
        w.order = order
        schedule(w, q, p if r < w.prefillers else e, w.now)
    following = run(w, e, p, MOST_WAITING, 1)
    if following < 0:
        w.over = 1
        following = -1
        seen[:] = 0.0
    else:
        observe(w, replica(w.reps, following), seen)
    return following, float(_reward(w))


@jit
def decide_all(systems, which, waiting, chunks, orders, e, p, seen, reward):
    """``decide`` for the marked systems of a batch; ``waiting``, ``seen`` and ``reward`` are filled in, (n, ...)."""
    for k in range(len(which)):
        reward[k] = 0.0
        if which[k]:
            waiting[k], reward[k] = decide(systems, k, waiting[k], chunks[k], orders[k], e, p, seen[k])
