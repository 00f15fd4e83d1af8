"""One decision of an agent, compiled: what prompts get of the next iteration, and in which order."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math

from tunewright.envs.compiled import jit
from tunewright.envs.scheduling.kernels import integer_at, over_batch, squash
from tunewright.envs.scheduling.serving import state
from tunewright.envs.scheduling.serving.kernel import replica_at, request_at, run, schedule, system_at

SEEN = 14
MOST_WAITING = 5000
LEAST = 128  # tokens of prompts where nothing else is to be computed


@jit
def observe(system, replica, seen):
    """Write what an agent sees of the replica that waits for its decision; all in [0, 1]."""
    decoding, late, generated, work, oldest, prompts, shortest = 0, 0, 0, 0.0, 0.0, 0, math.inf
    for place in range(replica.waiting_count):
        request = request_at(system.requests, integer_at(replica.waiting, place).value)
        wait = system.now_s - request.arrival_s
        oldest = max(oldest, wait)
        late += wait + request.first_work_s > system.ttft_limit_s
        prompts += request.prompt
        work += request.first_work_s
        shortest = min(shortest, request.work_s)
    for place in range(replica.running_count):
        request = request_at(system.requests, integer_at(replica.running, place).value)
        if request.phase == state.DECODING:
            decoding += 1
            generated += request.output - (request.end_clock - replica.clock)
    waiting = max(replica.waiting_count, 1)
    seen[0] = squash(replica.waiting_count, 16.0)
    seen[1] = squash(prompts, 8192.0)
    seen[2] = squash(work, system.ttft_limit_s)
    seen[3] = squash(oldest, system.ttft_limit_s)
    seen[4] = late / waiting
    seen[5] = squash(shortest, 4.0)
    seen[6] = replica.running_count / system.most_running
    seen[7] = squash(decoding, 32.0)
    seen[8] = (replica.free_blocks + replica.idle_blocks) / replica.total_blocks
    seen[9] = squash(replica.context_tokens, 65536.0)
    seen[10] = squash(generated / max(decoding, 1), 256.0)
    seen[11] = squash(replica.load_tokens, 65536.0)
    seen[12] = squash(replica.busy_s / max(replica.iterations, 1), system.tpot_limit_s)
    seen[13] = system.next_request / system.request_count


@jit
def _reward(system):
    """Good less other requests that have ended since the last call; at the end, those never served count as others."""
    ended = system.request_count - (0 if system.over == 1 else system.unfinished)
    gained = 2 * system.good - ended - system.rewarded
    system.rewarded += gained
    return gained


@jit
def decide(systems, index, waiting, action, seen, mask, engine, prefill_engine):
    """Let a replica that waits go on with a choice, until the next choice is due.

    Args:
        systems: address.
        index: of the system.
        waiting: the replica; -1 at the beginning of an episode.
        action: ``6 * order + budget``, see ``env``.
        seen: filled in, float32, (SEEN,).
        mask: left as it is: all actions are legal.
        engine, prefill_engine: see ``kernel.step``.

    Returns:
        (the replica that waits for the next choice, or -1 when the episode is over; good less other requests).
    """
    system = system_at(systems, index)
    if waiting >= 0:
        replica = replica_at(system.replicas, waiting)
        chunk = state.BUDGETS[action % len(state.BUDGETS)]
        system.chunk_tokens = chunk if chunk > 0 or replica.decoding_count > 0 else LEAST
        system.order = state.ORDERS[action // len(state.BUDGETS)]
        schedule(system, replica, prefill_engine if waiting < system.prefiller_count else engine, system.now_s)
    following = run(systems, index, engine, prefill_engine, MOST_WAITING, 1)
    if following < 0:
        system.over = 1
        following = -1
        seen[:] = 0.0
    else:
        observe(system, replica_at(system.replicas, following), seen)
    return following, float(_reward(system))


decide_all = over_batch(decide)
