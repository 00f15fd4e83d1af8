"""One decision of an agent, compiled: which stage runs next, and on how many cores its job may run."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from tunewright.envs.compiled import jit
from tunewright.envs.scheduling.kernels import integer_at, over_batch, squash
from tunewright.envs.scheduling.spark.kernel import job_at, launch, next_moment, stage_at, system_at, user_at

CANDIDATES, LIMITS, FEATURES, WORLD = 16, 4, 9, 4
SEEN = CANDIDATES * FEATURES + WORLD
ACTIONS = CANDIDATES * LIMITS


@jit
def candidate(system, place):
    """Runnable stage at a place of their order by number; -1 if there are not so many."""
    below = -1
    for _ in range(place + 1):
        lowest = -1
        for at in range(system.runnable_count):
            number = integer_at(system.runnable, at).value
            if number > below and (lowest < 0 or number < lowest):
                lowest = number
        if lowest < 0:
            return -1
        below = lowest
    return below


@jit
def observe(system, seen, mask):
    """Write what an agent sees, and which actions are legal."""
    seen[:] = 0.0
    mask[:] = False
    below, scale = -1, 60.0
    for nth in range(CANDIDATES):
        lowest = -1
        for place in range(system.runnable_count):
            number = integer_at(system.runnable, place).value
            if number > below and (lowest < 0 or number < lowest):
                lowest = number
        if lowest < 0:
            break
        below = lowest
        stage = stage_at(system.stages, lowest)
        job = job_at(system.jobs, stage.job)
        at = nth * FEATURES
        seen[at] = 1.0
        seen[at + 1] = squash(max(job.left_s, 0.0) / system.core_count, scale / 10.0)
        seen[at + 2] = squash(stage.path_s, scale)
        seen[at + 3] = squash((stage.task_count - stage.launched) / system.core_count, 1.0)
        seen[at + 4] = squash(stage.task_s, 5.0)
        seen[at + 5] = job.running_tasks / system.core_count
        seen[at + 6] = user_at(system.users, job.user).cores / system.core_count
        seen[at + 7] = squash(system.now_s - job.arrival_s, scale)
        seen[at + 8] = squash((stage.task_count - stage.launched) * stage.task_s / system.core_count, scale / 10.0)
        for limit in range(LIMITS):
            mask[nth * LIMITS + limit] = True
    at = CANDIDATES * FEATURES
    seen[at] = system.free_cores / system.core_count
    seen[at + 1] = squash(system.unfinished, 10.0)
    seen[at + 2] = squash(system.runnable_count, 10.0)
    seen[at + 3] = system.next_job / system.job_count


@jit
def decide(systems, index, begun, action, seen, mask):
    """Let a system go on with a choice until the next one is due.

    Args:
        systems: address.
        index: of the system.
        begun: -1 at the beginning of an episode.
        action: ``4 * candidate + limit``; the limits are 1/8, 1/4, 1/2 and all of the cores for the candidate's job.
        seen, mask: filled in.

    Returns:
        (0, or -1 when the episode is over; minus the job-seconds that passed, in minutes).
    """
    system = system_at(systems, index)
    if begun >= 0:
        number = candidate(system, action // LIMITS)
        if number >= 0:
            job = job_at(system.jobs, stage_at(system.stages, number).job)
            limit = max(system.core_count >> (LIMITS - 1 - action % LIMITS), 1)
            system.decisions += 1
            launch(system, number, max(limit - job.running_tasks, 1))
    while system.free_cores == 0 or system.runnable_count == 0:
        at, alive = system.now_s, system.unfinished
        if not next_moment(system):
            break
        system.job_s += (system.now_s - at) * alive
    passed = system.job_s - system.rewarded_job_s
    system.rewarded_job_s = system.job_s
    if system.over == 1:
        seen[:] = 0.0
        mask[:] = True
        return -1, -passed / 60.0
    observe(system, seen, mask)
    return 0, -passed / 60.0


decide_all = over_batch(decide)
