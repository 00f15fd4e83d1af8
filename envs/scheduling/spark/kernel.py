"""The Spark simulator, compiled: tasks of stages on cores, not preempted, chosen by a policy.

``w`` is a system, ``g`` a stage. ``reference`` says the same in plain Python, and tests hold the two together: change
both. Events of one moment are all taken in before cores are given out. Tasks of a stage that start together and take the
same time are one event.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math

from tunewright.envs.compiled import jit, record_at
from tunewright.envs.scheduling.spark.state import (
    CELL,
    CLASS,
    ENTRY,
    EVENT,
    FAIR,
    FAIR_JOBS,
    FIFO,
    JOB,
    REAL,
    SJF,
    STAGE,
    SYSTEM,
    USER,
    UWFQ,
    VIRTUAL,
    WEIGHTED,
)

system, job, stage, user = record_at(SYSTEM), record_at(JOB), record_at(STAGE), record_at(USER)
cell, real, event, virtual, entry, class_ = (record_at(t) for t in (CELL, REAL, EVENT, VIRTUAL, ENTRY, CLASS))
INF = math.inf
_MOST_IDLE = 16  # steps in which no job comes or ends: one or two are rounding, more never end


@jit
def _before(w, one, two):
    a, b = event(w.heap_at, one), event(w.heap_at, two)
    return a.time < b.time or (a.time == b.time and a.order < b.order)


@jit
def _swap(w, one, two):
    a, b = event(w.heap_at, one), event(w.heap_at, two)
    time, order, which, tasks = a.time, a.order, a.stage, a.tasks
    a.time, a.order, a.stage, a.tasks = b.time, b.order, b.stage, b.tasks
    b.time, b.order, b.stage, b.tasks = time, order, which, tasks


@jit
def _push(w, time, which, tasks):
    """Note that tasks of a stage end together."""
    at = w.heap
    w.heap += 1
    e = event(w.heap_at, at)
    e.time, e.order, e.stage, e.tasks = time, w.launched, which, tasks
    while at > 0 and _before(w, at, (at - 1) // 2):
        _swap(w, at, (at - 1) // 2)
        at = (at - 1) // 2


@jit
def _drop(w):
    """Take the first event off the heap."""
    w.heap -= 1
    _swap(w, 0, w.heap)
    at = 0
    while 2 * at + 1 < w.heap:
        child = 2 * at + 1
        if child + 1 < w.heap and _before(w, child + 1, child):
            child += 1
        if not _before(w, child, at):
            break
        _swap(w, child, at)
        at = child


@jit
def _make_ready(w, i):
    """A stage whose parents have ended can run."""
    g = stage(w.stages_at, i)
    g.ready_place = w.ready
    cell(w.ready_at, w.ready).v = i
    w.ready += 1
    user(w.users_at, job(w.jobs_at, g.job).user).queued += 1


@jit
def _unready(w, i):
    """All tasks of a stage were launched."""
    g = stage(w.stages_at, i)
    w.ready -= 1
    last = cell(w.ready_at, w.ready).v
    cell(w.ready_at, g.ready_place).v = last
    stage(w.stages_at, last).ready_place = g.ready_place
    g.ready_place = -1
    user(w.users_at, job(w.jobs_at, g.job).user).queued -= 1


# --- the virtual system of UWFQ: users share the cores by weight, a user's jobs share the user's part evenly


@jit
def _pass_time(w):
    """Move the virtual clock on to now: its speed is cores over the weight of the users who have virtual work."""
    left = w.now - w.virtual_now
    w.virtual_now = w.now
    while left > 0.0 and w.weight > 1e-12:
        first, who = INF, -1
        for u in range(w.users):
            p = user(w.users_at, u)
            if p.alive == 1 and p.finish < first:
                first, who = p.finish, u
        if who < 0:
            return
        needs = (first - w.virtual) * w.weight / w.cores
        if needs > left:
            w.virtual += left * w.cores / w.weight
            return
        w.virtual = first
        left -= needs
        user(w.users_at, who).alive = 0
        w.weight = 0.0
        for u in range(w.users):
            p = user(w.users_at, u)
            if p.alive == 1:
                w.weight += p.weight


@jit
def _serve(w, u):
    """Give a user's jobs what the virtual system has served them since it was last asked; those that ended go."""
    p = user(w.users_at, u)
    base = u * w.most_virtual
    gained = (min(w.virtual, p.finish) - p.seen) * p.weight
    p.seen = w.virtual
    n, gone = p.running, 0
    while gone < n and gained > 0.0:
        needs = (virtual(w.virtual_at, base + gone).finish - p.clock) * (n - gone)
        if needs > gained * (1.0 + 1e-12):
            p.clock += gained / (n - gone)
            break
        gained -= needs
        p.clock = virtual(w.virtual_at, base + gone).finish
        gone += 1
    for k in range(n - gone):
        v, after = virtual(w.virtual_at, base + k), virtual(w.virtual_at, base + k + gone)
        v.finish, v.job = after.finish, after.job
    p.running = n - gone


@jit
def admit(w, i):
    """Put a job into the virtual system, and say on its clock when it and the user's other jobs end there."""
    j = job(w.jobs_at, i)
    p = user(w.users_at, j.user)
    _pass_time(w)
    _serve(w, j.user)
    base, n = j.user * w.most_virtual, p.running
    finish = p.clock + j.expected
    at = n
    while at > 0 and virtual(w.virtual_at, base + at - 1).finish > finish:
        v, before = virtual(w.virtual_at, base + at), virtual(w.virtual_at, base + at - 1)
        v.finish, v.job = before.finish, before.job
        at -= 1
    v = virtual(w.virtual_at, base + at)
    v.finish, v.job = finish, i
    p.running = n + 1
    total, before = 0.0, p.clock
    for k in range(n + 1):
        v = virtual(w.virtual_at, base + k)
        total += (v.finish - before) * (n + 1 - k)
        before = v.finish
        job(w.jobs_at, v.job).deadline = w.virtual + total / p.weight
    p.finish = w.virtual + total / p.weight
    if p.alive == 0:
        p.alive = 1
        w.weight = 0.0
        for u in range(w.users):
            if user(w.users_at, u).alive == 1:
                w.weight += user(w.users_at, u).weight


# --- choosing and running


@jit
def _key(w, i):
    """Place of a runnable stage in the order; the smallest first, ties by number."""
    g = stage(w.stages_at, i)
    j = job(w.jobs_at, g.job)
    if w.policy == FIFO:
        return float(g.job)
    if w.policy == FAIR:
        return float(user(w.users_at, j.user).crowd)
    if w.policy == WEIGHTED:
        return user(w.users_at, j.user).crowd / user(w.users_at, j.user).weight
    if w.policy == FAIR_JOBS:
        return float(j.running)
    if w.policy == SJF:
        return j.expected
    if w.policy == UWFQ:
        return j.deadline
    return -g.path


@jit
def choose(w):
    """Stage that gets the next free core; -1 if none can run.

    Ties of pools go to the earlier name, as in Spark, then to the earlier job and the earlier stage.
    """
    best, found, owner = INF, -1, 0
    pools = w.policy == FAIR or w.policy == WEIGHTED
    for k in range(w.ready):
        i = cell(w.ready_at, k).v
        key = _key(w, i)
        who = job(w.jobs_at, stage(w.stages_at, i).job).user if pools else 0
        # the first is taken whatever its key: a key that is infinite or no number must not leave -1, which is no stage
        if found < 0 or key < best or (key == best and (who < owner or (who == owner and i < found))):
            best, found, owner = key, i, who
    return found


@jit
def launch(w, i, most):
    """Start so many tasks of a stage at most, on free cores."""
    g = stage(w.stages_at, i)
    j = job(w.jobs_at, g.job)
    n = min(min(w.free, g.tasks - g.launched), most)
    if g.launched == 0:
        g.started = w.now
    alike = g.durations < 0
    if alike:
        w.launched += 1
        _push(w, w.now + w.overhead_s + g.mean, i, n)
        _write(w, i, n, w.now + w.overhead_s + g.mean)
    else:
        for k in range(n):
            w.launched += 1
            took = w.overhead_s + real(w.durations_at, g.durations + g.launched + k).v
            _push(w, w.now + took, i, 1)
            _write(w, i, 1, w.now + took)
    g.launched += n
    g.running += n
    j.running += n
    user(w.users_at, j.user).crowd += n
    w.free -= n
    if g.launched == g.tasks:
        _unready(w, i)
    return n


@jit
def _write(w, i, tasks, end):
    if w.logged < w.log_size:
        e = entry(w.log_at, w.logged)
        e.start, e.end, e.stage, e.tasks = w.now, end, i, tasks
        w.logged += 1


@jit
def _arrive(w, i):
    """A job comes; its stages without parents can run."""
    j = job(w.jobs_at, i)
    j.arrived = 1
    w.alive += 1
    if w.learned == 1:
        j.expected = _expected(w, j)
    if w.policy == UWFQ:
        admit(w, i)
    for k in range(j.stages):
        if stage(w.stages_at, j.first + k).parents == 0:
            _make_ready(w, j.first + k)


@jit
def _expected(w, j):
    """Work by the job's tasks and the mean time of tasks of its class that ended; of all tasks where there are none yet."""
    c = class_(w.classes_at, j.kind)
    if c.tasks > 0:
        return j.tasks * c.work / c.tasks
    if w.ended_tasks > 0.0:
        return j.tasks * w.ended_work / w.ended_tasks
    return j.expected


@jit
def _end(w, i, tasks):
    """Tasks of a stage have ended."""
    g = stage(w.stages_at, i)
    j = job(w.jobs_at, g.job)
    g.ended += tasks
    g.running -= tasks
    j.running -= tasks
    j.left -= tasks * g.mean
    user(w.users_at, j.user).crowd -= tasks
    w.free += tasks
    if g.ended < g.tasks:
        return
    for k in range(g.children_n):
        child = cell(w.children_at, g.children + k).v
        c = stage(w.stages_at, child)
        c.parents_left -= 1
        if c.parents_left == 0:
            _make_ready(w, child)
    j.stages_left -= 1
    if j.stages_left == 0:
        j.done_at = w.now
        w.alive -= 1
        c = class_(w.classes_at, j.kind)
        c.work += j.work
        c.tasks += j.tasks
        w.ended_work += j.work
        w.ended_tasks += j.tasks


@jit
def next_moment(w):
    """Move to the next moment at which something happens, and take it all in; False when nothing is left."""
    coming = job(w.jobs_at, w.next).arrival if w.next < w.jobs else INF
    ending = event(w.heap_at, 0).time if w.heap > 0 else INF
    when = min(coming, ending)
    if not when < INF:  # nothing is left, or a time is no number
        w.over = 1
        return False
    w.now = when
    while w.heap > 0 and event(w.heap_at, 0).time == when:
        i, tasks = event(w.heap_at, 0).stage, event(w.heap_at, 0).tasks
        _drop(w)
        _end(w, i, tasks)
    while w.next < w.jobs and job(w.jobs_at, w.next).arrival == when:
        w.next += 1
        _arrive(w, w.next - 1)
    return True


@jit
def run(w, most_alive):
    """Run a system to its end, or until more jobs are unfinished than allowed; returns whether it came to its end."""
    counts = w.policy == FAIR or w.policy == FAIR_JOBS or w.policy == WEIGHTED
    while next_moment(w):
        if w.alive > most_alive:
            return False
        while w.free > 0 and w.ready > 0:
            w.decisions += 1
            launch(w, choose(w), 1 if counts else w.free)
    return True


@jit
def run_one(systems, k, most_alive):
    """``run`` for system ``k`` at address ``systems``."""
    return run(system(systems, k), most_alive)


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
        for u in range(users):
            if mine[u] > 0:
                total += weight[u]
        step = arrival[coming] - now if coming < jobs else INF
        for i in range(first, coming):
            if left[i] > 0.0:
                rate = cores * weight[who[i]] / total / mine[who[i]]
                step = min(step, left[i] / rate)
        now += step
        for i in range(first, coming):
            if left[i] > 0.0:
                rate = cores * weight[who[i]] / total / mine[who[i]]
                left[i] -= rate * step
        for i in range(first, coming):
            if left[i] <= 1e-9 * work[i] and done[i] == INF:
                left[i] = 0.0
                done[i] = now
                mine[who[i]] -= 1
                alive -= 1
        while first < coming and left[first] == 0.0:
            first += 1
        while coming < jobs and arrival[coming] <= now:
            mine[who[coming]] += 1
            alive += 1
            coming += 1
        idle = idle + 1 if 2 * coming - alive == before else 0  # jobs that came and jobs that ended, together
        before = 2 * coming - alive
