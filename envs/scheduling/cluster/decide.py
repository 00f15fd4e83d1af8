"""One decision of an agent, compiled: the node of the first job of the queue, or to wait."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from tunewright.envs.compiled import jit
from tunewright.envs.scheduling.cluster.kernel import (
    _fits_node,
    _load,
    _unused,
    cell,
    find,
    job,
    next_moment,
    plan,
    start,
    system,
)
from tunewright.envs.scheduling.cluster.state import WHOLE

NODES, FEATURES, WORLD = 16, 4, 9
SEEN = NODES * FEATURES + WORLD
ACTIONS = NODES + 1
HOUR = 3600.0


@jit
def _squash(value, half):
    return value / (value + half)


@jit
def observe(w, seen, mask):
    """Write what an agent sees, and which actions are legal: nodes where the job fits, and waiting."""
    seen[:] = 0.0
    mask[:] = False
    j = job(w.jobs_at, cell(w.waiting_at, 0).v)
    for node in range(min(w.nodes, NODES)):
        bits = _fits_node(w, w.room_at, node, j)
        at = node * FEATURES
        seen[at] = 1.0 - _load(w, node)
        free = 0
        for g in range(w.gpus):
            free += cell(w.room_at, node * w.stride + 2 + g).v == WHOLE
        seen[at + 1] = free / max(w.gpus, 1)
        seen[at + 2] = bits != 0
        seen[at + 3] = _unused(w, w.whole_at, node) > 0
        mask[node] = bits != 0
    large = j.gpus > w.gpus and find(w, w.room_at, j)
    if large:
        mask[0] = True  # it goes to several nodes; which, the simulator says
    mask[NODES] = w.running > 0 or w.next < w.jobs
    at = NODES * FEATURES
    seen[at] = _squash(j.gpus * j.milli / WHOLE, 4.0)
    seen[at + 1] = j.milli / WHOLE if j.gpus == 1 else 1.0
    seen[at + 2] = _squash(j.estimate, HOUR)
    seen[at + 3] = _squash(w.now - j.submit, HOUR)
    seen[at + 4] = _squash(w.waiting, 10.0)
    seen[at + 5] = _squash(w.running, 32.0)
    seen[at + 6] = w.next / w.jobs
    wanted, shortest = 0.0, 1e18
    for k in range(1, min(w.waiting, 32)):
        other = job(w.jobs_at, cell(w.waiting_at, k).v)
        wanted += other.gpus * other.milli / WHOLE
        shortest = min(shortest, other.estimate)
    seen[at + 7] = _squash(wanted, 16.0)
    seen[at + 8] = _squash(shortest, HOUR)


@jit
def decide(systems, k, begun, action, seen, mask):
    """Let system ``k`` go on with a choice until the next one is due.

    Args:
        systems: address.
        k: which.
        begun: -1 at the beginning of an episode.
        action: a node, or ``NODES`` to let something happen first.
        seen, mask: filled in.

    Returns:
        (0, or -1 when the episode is over; minus the job-hours that passed).
    """
    w = system(systems, k)
    passed = 0.0
    wait = False
    if begun >= 0:
        j = job(w.jobs_at, cell(w.waiting_at, 0).v)
        bits = _fits_node(w, w.room_at, action, j) if 0 <= action < min(w.nodes, NODES) else 0
        if bits != 0:
            p = plan(w.plan_at, 0)
            p.node, p.mask = action, bits
            w.plan = 1
            start(w, 0)
        elif action < NODES and j.gpus > w.gpus and find(w, w.room_at, j):
            start(w, 0)
        else:
            wait = True
    while wait or w.waiting == 0 or not find(w, w.room_at, job(w.jobs_at, cell(w.waiting_at, 0).v)):
        wait = False
        before, here = w.now, w.waiting + w.running
        if not next_moment(w):
            break
        passed += (w.now - before) * here
    if w.over == 1:
        seen[:] = 0.0
        mask[:] = True
        return -1, -passed / HOUR - 10.0 * w.waiting
    observe(w, seen, mask)
    return 0, -passed / HOUR


@jit
def decide_all(systems, which, begun, actions, seen, mask, reward):
    """``decide`` for the marked systems of a batch; ``begun``, ``seen``, ``mask`` and ``reward`` are filled in, (n, ...)."""
    for k in range(len(which)):
        reward[k] = 0.0
        if which[k]:
            begun[k], reward[k] = decide(systems, k, begun[k], actions[k], seen[k], mask[k])
