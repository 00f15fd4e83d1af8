"""One decision of an agent, compiled: which stage runs next, and on how many cores its job may run."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from tunewright.envs.compiled import jit
from tunewright.envs.scheduling.spark.kernel import cell, job, launch, next_moment, stage, system, user

CANDIDATES, LIMITS, FEATURES, WORLD = 16, 4, 9, 4
SEEN = CANDIDATES * FEATURES + WORLD
ACTIONS = CANDIDATES * LIMITS


@jit
def _squash(value, half):
    return value / (value + half)


@jit
def candidate(w, place):
    """Runnable stage at a place of their order by number; -1 if there are not so many."""
    below = -1
    for _ in range(place + 1):
        found = -1
        for k in range(w.ready):
            i = cell(w.ready_at, k).v
            if i > below and (found < 0 or i < found):
                found = i
        if found < 0:
            return -1
        below = found
    return below


@jit
def observe(w, seen, mask):
    """Write what an agent sees, and which actions are legal."""
    seen[:] = 0.0
    mask[:] = False
    below, scale = -1, 60.0
    for c in range(CANDIDATES):
        found = -1
        for k in range(w.ready):
            i = cell(w.ready_at, k).v
            if i > below and (found < 0 or i < found):
                found = i
        if found < 0:
            break
        below = found
        g = stage(w.stages_at, found)
        j = job(w.jobs_at, g.job)
        at = c * FEATURES
        seen[at] = 1.0
        seen[at + 1] = _squash(max(j.left, 0.0) / w.cores, scale / 10.0)
        seen[at + 2] = _squash(g.path, scale)
        seen[at + 3] = _squash((g.tasks - g.launched) / w.cores, 1.0)
        seen[at + 4] = _squash(g.mean, 5.0)
        seen[at + 5] = j.running / w.cores
        seen[at + 6] = user(w.users_at, j.user).crowd / w.cores
        seen[at + 7] = _squash(w.now - j.arrival, scale)
        seen[at + 8] = _squash((g.tasks - g.launched) * g.mean / w.cores, scale / 10.0)
        for m in range(LIMITS):
            mask[c * LIMITS + m] = True
    at = CANDIDATES * FEATURES
    seen[at] = w.free / w.cores
    seen[at + 1] = _squash(w.alive, 10.0)
    seen[at + 2] = _squash(w.ready, 10.0)
    seen[at + 3] = w.next / w.jobs


@jit
def decide(systems, k, begun, action, seen, mask):
    """Let system ``k`` go on with a choice until the next one is due.

    Args:
        systems: address.
        k: which.
        begun: -1 at the beginning of an episode.
        action: ``4 * candidate + limit``; the limits are 1/8, 1/4, 1/2 and all of the cores for the candidate's job.
        seen, mask: filled in.

    Returns:
        (0, or -1 when the episode is over; minus the job-seconds that passed, in minutes).
    """
    w = system(systems, k)
    if begun >= 0:
        i = candidate(w, action // LIMITS)
        if i >= 0:
            j = job(w.jobs_at, stage(w.stages_at, i).job)
            limit = max(w.cores >> (LIMITS - 1 - action % LIMITS), 1)
            w.decisions += 1
            launch(w, i, max(limit - j.running, 1))
    while w.free == 0 or w.ready == 0:
        at, alive = w.now, w.alive
        if not next_moment(w):
            break
        w.virtual += (w.now - at) * alive
    passed = w.virtual - w.virtual_now
    w.virtual_now = w.virtual
    if w.over == 1:
        seen[:] = 0.0
        mask[:] = True
        return -1, -passed / 60.0
    observe(w, seen, mask)
    return 0, -passed / 60.0


@jit
def decide_all(systems, which, begun, actions, seen, mask, reward):
    """``decide`` for the marked systems of a batch; ``begun``, ``seen``, ``mask`` and ``reward`` are filled in, (n, ...)."""
    for k in range(len(which)):
        reward[k] = 0.0
        if which[k]:
            begun[k], reward[k] = decide(systems, k, begun[k], actions[k], seen[k], mask[k])
