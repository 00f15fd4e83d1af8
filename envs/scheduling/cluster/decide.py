"""One decision of an agent, compiled: the node of the first job of the queue, or to wait."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from tunewright.envs.compiled import jit
from tunewright.envs.scheduling.cluster import kernel, state
from tunewright.envs.scheduling.kernels import integer_at, over_batch, squash

NODES, FEATURES, WORLD = 16, 4, 9
SEEN = NODES * FEATURES + WORLD
ACTIONS = NODES + 1
HOUR = 3600.0


@jit
def observe(system, seen, mask):
    """Write what an agent sees, and which actions are legal: nodes where the job fits, and waiting."""
    seen[:] = 0.0
    mask[:] = False
    job = kernel.job_at(system.jobs, integer_at(system.waiting, 0).value)
    for node in range(min(system.node_count, NODES)):
        bits = kernel.fits_node(system, system.room, node, job)
        at = node * FEATURES
        seen[at] = 1.0 - kernel.load(system, node)
        free = 0
        for gpu in range(system.gpus_per_node):
            free += integer_at(system.room, node * system.stride + 2 + gpu).value == state.WHOLE
        seen[at + 1] = free / max(system.gpus_per_node, 1)
        seen[at + 2] = bits != 0
        seen[at + 3] = kernel.unused(system, system.whole, node) > 0
        mask[node] = bits != 0
    large = job.gpus > system.gpus_per_node and kernel.find(system, system.room, job)
    if large:
        mask[0] = True  # it goes to several nodes; which, the simulator says
    mask[NODES] = system.running_count > 0 or system.next_job < system.job_count
    at = NODES * FEATURES
    seen[at] = squash(job.gpus * job.milli / state.WHOLE, 4.0)
    seen[at + 1] = job.milli / state.WHOLE if job.gpus == 1 else 1.0
    seen[at + 2] = squash(job.estimate_s, HOUR)
    seen[at + 3] = squash(system.now_s - job.submit_s, HOUR)
    seen[at + 4] = squash(system.waiting_count, 10.0)
    seen[at + 5] = squash(system.running_count, 32.0)
    seen[at + 6] = system.next_job / system.job_count
    wanted, shortest = 0.0, 1e18
    for place in range(1, min(system.waiting_count, 32)):
        other = kernel.job_at(system.jobs, integer_at(system.waiting, place).value)
        wanted += other.gpus * other.milli / state.WHOLE
        shortest = min(shortest, other.estimate_s)
    seen[at + 7] = squash(wanted, 16.0)
    seen[at + 8] = squash(shortest, HOUR)


@jit
def decide(systems, index, begun, action, seen, mask):
    """Let a system go on with a choice until the next one is due.

    Args:
        systems: address.
        index: of the system.
        begun: -1 at the beginning of an episode.
        action: a node, or ``NODES`` to let something happen first.
        seen, mask: filled in.

    Returns:
        (0, or -1 when the episode is over; minus the job-hours that passed).
    """
    system = kernel.system_at(systems, index)
    passed = 0.0
    wait = False
    if begun >= 0:
        job = kernel.job_at(system.jobs, integer_at(system.waiting, 0).value)
        bits = kernel.fits_node(system, system.room, action, job) if 0 <= action < min(system.node_count, NODES) else 0
        if bits != 0:
            part = kernel.part_at(system.plan, 0)
            part.node, part.mask = action, bits
            system.plan_size = 1
            kernel.start(system, 0)
        elif action < NODES and job.gpus > system.gpus_per_node and kernel.find(system, system.room, job):
            kernel.start(system, 0)
        else:
            wait = True
    while wait or system.waiting_count == 0 or not kernel.first_fits(system):
        wait = False
        before, here = system.now_s, system.waiting_count + system.running_count
        if not kernel.next_moment(system):
            break
        passed += (system.now_s - before) * here
    if system.over == 1:
        seen[:] = 0.0
        mask[:] = True
        return -1, -passed / HOUR - 10.0 * system.waiting_count
    observe(system, seen, mask)
    return 0, -passed / HOUR


decide_all = over_batch(decide)
