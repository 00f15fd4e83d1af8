"""The Spark simulator, compiled: tasks of stages on cores, not preempted, chosen by a policy.

``reference`` says the same in plain Python, and tests hold the two together: change both. Events of one moment are all
taken in before cores are given out. Tasks of a stage that start together and take the same time are one event.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from tunewright.envs.compiled import jit, record_at
from tunewright.envs.scheduling.kernels import INF, drop_event, event_at, integer_at, number_at, push_event
from tunewright.envs.scheduling.spark import state

system_at, job_at, stage_at = record_at(state.SYSTEM), record_at(state.JOB), record_at(state.STAGE)
user_at, virtual_at = record_at(state.USER), record_at(state.VIRTUAL)
entry_at, class_at = record_at(state.ENTRY), record_at(state.CLASS)
_MOST_IDLE = 16  # steps in which no job comes or ends: one or two are rounding, more never end


@jit
def _make_ready(system, number):
    """A stage whose parents have ended can run."""
    stage = stage_at(system.stages, number)
    stage.place = system.runnable_count
    integer_at(system.runnable, system.runnable_count).value = number
    system.runnable_count += 1
    user_at(system.users, job_at(system.jobs, stage.job).user).runnable_count += 1


@jit
def _unready(system, number):
    """All tasks of a stage were launched."""
    stage = stage_at(system.stages, number)
    system.runnable_count -= 1
    last = integer_at(system.runnable, system.runnable_count).value
    integer_at(system.runnable, stage.place).value = last
    stage_at(system.stages, last).place = stage.place
    stage.place = -1
    user_at(system.users, job_at(system.jobs, stage.job).user).runnable_count -= 1


# --- the virtual system of UWFQ: users share the cores by weight, a user's jobs share the user's part evenly


@jit
def _pass_time(system):
    """Move the virtual clock on to now: its speed is cores over the weight of the users who have virtual work."""
    left = system.now_s - system.virtual_now_s
    system.virtual_now_s = system.now_s
    while left > 0.0 and system.virtual_weight > 1e-12:
        first, first_user = INF, -1
        for user_number in range(system.user_count):
            user = user_at(system.users, user_number)
            if user.in_virtual == 1 and user.finish_s < first:
                first, first_user = user.finish_s, user_number
        if first_user < 0:
            return
        needs = (first - system.virtual_s) * system.virtual_weight / system.core_count
        if needs > left:
            system.virtual_s += left * system.core_count / system.virtual_weight
            return
        system.virtual_s = first
        left -= needs
        user_at(system.users, first_user).in_virtual = 0
        system.virtual_weight = 0.0
        for user_number in range(system.user_count):
            user = user_at(system.users, user_number)
            if user.in_virtual == 1:
                system.virtual_weight += user.weight


@jit
def _serve(system, user_number):
    """Give a user's jobs what the virtual system has served them since it was last asked; those that ended go."""
    user = user_at(system.users, user_number)
    base = user_number * system.most_virtual_jobs
    gained = (min(system.virtual_s, user.finish_s) - user.seen_s) * user.weight
    user.seen_s = system.virtual_s
    running, gone = user.virtual_count, 0
    while gone < running and gained > 0.0:
        needs = (virtual_at(system.virtual_jobs, base + gone).finish_s - user.clock_s) * (running - gone)
        if needs > gained * (1.0 + 1e-12):
            user.clock_s += gained / (running - gone)
            break
        gained -= needs
        user.clock_s = virtual_at(system.virtual_jobs, base + gone).finish_s
        gone += 1
    for place in range(running - gone):
        slot = virtual_at(system.virtual_jobs, base + place)
        after = virtual_at(system.virtual_jobs, base + place + gone)
        slot.finish_s, slot.job = after.finish_s, after.job
    user.virtual_count = running - gone


@jit
def admit(system, number):
    """Put a job into the virtual system, and say on its clock when it and the user's other jobs end there."""
    job = job_at(system.jobs, number)
    user = user_at(system.users, job.user)
    _pass_time(system)
    _serve(system, job.user)
    base, running = job.user * system.most_virtual_jobs, user.virtual_count
    finish = user.clock_s + job.expected
    at = running
    while at > 0 and virtual_at(system.virtual_jobs, base + at - 1).finish_s > finish:
        slot, earlier = virtual_at(system.virtual_jobs, base + at), virtual_at(system.virtual_jobs, base + at - 1)
        slot.finish_s, slot.job = earlier.finish_s, earlier.job
        at -= 1
    slot = virtual_at(system.virtual_jobs, base + at)
    slot.finish_s, slot.job = finish, number
    user.virtual_count = running + 1
    total, earlier = 0.0, user.clock_s
    for place in range(running + 1):
        slot = virtual_at(system.virtual_jobs, base + place)
        total += (slot.finish_s - earlier) * (running + 1 - place)
        earlier = slot.finish_s
        job_at(system.jobs, slot.job).deadline = system.virtual_s + total / user.weight
    user.finish_s = system.virtual_s + total / user.weight
    if user.in_virtual == 0:
        user.in_virtual = 1
        system.virtual_weight = 0.0
        for user_number in range(system.user_count):
            if user_at(system.users, user_number).in_virtual == 1:
                system.virtual_weight += user_at(system.users, user_number).weight


# --- choosing and running


@jit
def _key(system, number):
    """Place of a runnable stage in the order; the smallest first, ties by number."""
    stage = stage_at(system.stages, number)
    job = job_at(system.jobs, stage.job)
    if system.policy == state.FIFO:
        return float(stage.job)
    if system.policy == state.FAIR:
        return float(user_at(system.users, job.user).cores)
    if system.policy == state.WEIGHTED:
        return user_at(system.users, job.user).cores / user_at(system.users, job.user).weight
    if system.policy == state.FAIR_JOBS:
        return float(job.running_tasks)
    if system.policy == state.SJF:
        return job.expected
    if system.policy == state.UWFQ:
        return job.deadline
    return -stage.path_s


@jit
def choose(system):
    """Stage that gets the next free core; -1 if none can run.

    Ties of pools go to the earlier name, as in Spark, then to the earlier job and the earlier stage.
    """
    best_key, best_stage, best_owner = INF, -1, 0
    pools = system.policy == state.FAIR or system.policy == state.WEIGHTED
    for place in range(system.runnable_count):
        number = integer_at(system.runnable, place).value
        key = _key(system, number)
        owner = job_at(system.jobs, stage_at(system.stages, number).job).user if pools else 0
        # the first is taken whatever its key: a key that is infinite or no number must not leave -1, which is no stage
        if (
            best_stage < 0
            or key < best_key
            or (key == best_key and (owner < best_owner or (owner == best_owner and number < best_stage)))
        ):
            best_key, best_stage, best_owner = key, number, owner
    return best_stage


@jit
def launch(system, number, most):
    """Start so many tasks of a stage at most, on free cores."""
    stage = stage_at(system.stages, number)
    job = job_at(system.jobs, stage.job)
    tasks = min(min(system.free_cores, stage.task_count - stage.launched), most)
    if stage.launched == 0:
        stage.started_at = system.now_s
    if stage.first_duration < 0:
        _begin(system, number, tasks, system.now_s + system.overhead_s + stage.task_s)
    else:
        for nth in range(tasks):
            took = system.overhead_s + number_at(system.durations_s, stage.first_duration + stage.launched + nth).value
            _begin(system, number, 1, system.now_s + took)
    stage.launched += tasks
    stage.running_tasks += tasks
    job.running_tasks += tasks
    user_at(system.users, job.user).cores += tasks
    system.free_cores -= tasks
    if stage.launched == stage.task_count:
        _unready(system, number)
    return tasks


@jit
def _begin(system, number, tasks, end_s):
    """Note that tasks of a stage end together."""
    system.launched += 1
    push_event(system.events, system.event_count, end_s, system.launched, number, tasks)
    system.event_count += 1
    if system.logged < system.log_size:
        entry = entry_at(system.log, system.logged)
        entry.start, entry.end, entry.stage, entry.tasks = system.now_s, end_s, number, tasks
        system.logged += 1


@jit
def _arrive(system, number):
    """A job comes; its stages without parents can run."""
    job = job_at(system.jobs, number)
    system.unfinished += 1
    if system.learned == 1:
        job.expected = _expected(system, job)
    if system.policy == state.UWFQ:
        admit(system, number)
    for nth in range(job.stage_count):
        if stage_at(system.stages, job.first_stage + nth).parent_count == 0:
            _make_ready(system, job.first_stage + nth)


@jit
def _expected(system, job):
    """Work by the job's tasks and the mean time of ended tasks of its class; of all tasks where there are none yet."""
    kind = class_at(system.classes, job.kind)
    if kind.tasks > 0:
        return job.task_count * kind.work_s / kind.tasks
    if system.ended_tasks > 0.0:
        return job.task_count * system.ended_work_s / system.ended_tasks
    return job.expected


@jit
def _end(system, number, tasks):
    """Tasks of a stage have ended."""
    stage = stage_at(system.stages, number)
    job = job_at(system.jobs, stage.job)
    stage.ended += tasks
    stage.running_tasks -= tasks
    job.running_tasks -= tasks
    job.left_s -= tasks * stage.task_s
    user_at(system.users, job.user).cores -= tasks
    system.free_cores += tasks
    if stage.ended < stage.task_count:
        return
    for nth in range(stage.child_count):
        child_number = integer_at(system.children, stage.first_child + nth).value
        child = stage_at(system.stages, child_number)
        child.parents_left -= 1
        if child.parents_left == 0:
            _make_ready(system, child_number)
    job.stages_left -= 1
    if job.stages_left == 0:
        job.done_at = system.now_s
        system.unfinished -= 1
        known = class_at(system.classes, job.kind)
        known.work_s += job.work_s
        known.tasks += job.task_count
        system.ended_work_s += job.work_s
        system.ended_tasks += job.task_count


@jit
def next_moment(system):
    """Move to the next moment at which something happens, and take it all in; False when nothing is left."""
    coming = job_at(system.jobs, system.next_job).arrival_s if system.next_job < system.job_count else INF
    ending = event_at(system.events, 0).time_s if system.event_count > 0 else INF
    when = min(coming, ending)
    if not when < INF:  # nothing is left, or a time is no number
        system.over = 1
        return False
    system.now_s = when
    while system.event_count > 0 and event_at(system.events, 0).time_s == when:
        event = event_at(system.events, 0)
        number, tasks = event.what, event.tasks
        system.event_count -= 1
        drop_event(system.events, system.event_count)
        _end(system, number, tasks)
    while system.next_job < system.job_count and job_at(system.jobs, system.next_job).arrival_s == when:
        system.next_job += 1
        _arrive(system, system.next_job - 1)
    return True


@jit
def run(systems, index, most_alive):
    """Run system ``index`` at an address until too many jobs are unfinished; returns whether it came to its end."""
    system = system_at(systems, index)
    counts = system.policy == state.FAIR or system.policy == state.FAIR_JOBS or system.policy == state.WEIGHTED
    while next_moment(system):
        if system.unfinished > most_alive:
            return False
        while system.free_cores > 0 and system.runnable_count > 0:
            system.decisions += 1
            launch(system, choose(system), 1 if counts else system.free_cores)
    return True


@jit
def fluid(arrival, who, work, weight, cores, left, mine, done):
    """When jobs would end if users shared the cores by weight at every moment, and each user's jobs shared that evenly.

    Args:
        arrival: s, in order, (jobs,).
        who: user, (jobs,).
        work: core-seconds, (jobs,).
        weight: (users,).
        cores: how many.
        left, mine: room to work in: a copy of ``work``, and zeros, int64 (users,).
        done: filled in, s, (jobs,); infinite at first.
    """
    jobs, users = len(arrival), len(weight)
    now, coming, alive, first, idle, before = 0.0, 0, 0, 0, 0, 0
    while (coming < jobs or alive > 0) and idle < _MOST_IDLE:
        total = 0.0
        for user in range(users):
            if mine[user] > 0:
                total += weight[user]
        step = arrival[coming] - now if coming < jobs else INF
        for job in range(first, coming):
            if left[job] > 0.0:
                rate = cores * weight[who[job]] / total / mine[who[job]]
                step = min(step, left[job] / rate)
        now += step
        for job in range(first, coming):
            if left[job] > 0.0:
                rate = cores * weight[who[job]] / total / mine[who[job]]
                left[job] -= rate * step
        for job in range(first, coming):
            if left[job] <= 1e-9 * work[job] and done[job] == INF:
                left[job] = 0.0
                done[job] = now
                mine[who[job]] -= 1
                alive -= 1
        while first < coming and left[first] == 0.0:
            first += 1
        while coming < jobs and arrival[coming] <= now:
            mine[who[coming]] += 1
            alive += 1
            coming += 1
        idle = idle + 1 if 2 * coming - alive == before else 0  # jobs that came and jobs that ended, together
        before = 2 * coming - alive
