"""The cluster simulator, compiled: jobs on nodes with GPUs or CPUs, ordered, backfilled, placed, preempted and moved.

``w`` is a system, ``j`` a job. ``reference`` says the same in plain Python, and tests hold the two together: change both.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math

from tunewright.envs.compiled import jit, record_at
from tunewright.envs.scheduling.cluster.state import (
    BEST,
    BEST_ALL,
    BIG,
    CELL,
    CONSERVATIVE,
    DONE,
    EASY,
    ENTRY,
    FIRST,
    JOB,
    KIND,
    LAS,
    PIECE,
    PLAN,
    REJECTED,
    RUNNING,
    SJF,
    STEP,
    SYSTEM,
    WAITING,
    WHOLE,
    WORST,
)

system, job, piece, plan = record_at(SYSTEM), record_at(JOB), record_at(PIECE), record_at(PLAN)
cell, step, kind_at, entry = record_at(CELL), record_at(STEP), record_at(KIND), record_at(ENTRY)
INF = math.inf


# --- room on the nodes


@jit
def _free(w, room, node, g):
    return cell(room, node * w.stride + 2 + g).v


@jit
def _mask(w, room, node, gpus, milli):
    """Bits of the GPUs of a node that a request would get; 0 if it does not fit (or needs none).

    A part of a GPU goes to the fullest one that has room; whole GPUs are free ones, the first of them.
    """
    if milli < WHOLE:
        best, least = -1, BIG
        for g in range(w.gpus):
            free = _free(w, room, node, g)
            if free >= milli and free < least:
                best, least = g, free
        return 0 if best < 0 else 1 << best
    mask, n = 0, 0
    for g in range(w.gpus):
        if n < gpus and _free(w, room, node, g) == WHOLE:
            mask |= 1 << g
            n += 1
    return mask if n == gpus else 0


@jit
def _fits_node(w, room, node, j):
    """Bits of the GPUs that a job would get on a node, -1 if it needs none and fits, 0 if it does not fit."""
    if cell(room, node * w.stride).v < j.cpu or cell(room, node * w.stride + 1).v < j.memory:
        return 0
    return -1 if j.gpus == 0 else _mask(w, room, node, j.gpus, j.milli)


@jit
def _unused(w, room, node):
    """Free part of a node: thousandths of GPUs, or of CPUs where it has none."""
    if w.gpus == 0:
        return cell(room, node * w.stride).v
    total = 0
    for g in range(w.gpus):
        total += _free(w, room, node, g)
    return total


@jit
def _left(w, room, node):
    """Free part of a node over all resources, each as a share of the largest node's."""
    left = cell(room, node * w.stride).v / w.most_cpu + cell(room, node * w.stride + 1).v / w.most_memory
    return left + _unused(w, room, node) / (WHOLE * w.gpus) if w.gpus > 0 else left


@jit
def _broken(w, room, node, cpu, memory):
    """Expected thousandths of a node's free GPUs that the kinds of jobs cannot use (FGD, Weng et al., ATC 2023).

    Args:
        cpu, memory: that are taken off the node's free ones first.
    """
    lost = 0.0
    left_cpu, left_memory = cell(room, node * w.stride).v - cpu, cell(room, node * w.stride + 1).v - memory
    total = _unused(w, room, node)
    for m in range(w.kinds):
        t = kind_at(w.kinds_at, m)
        if t.gpus == 0 or left_cpu < t.cpu or left_memory < t.memory or _mask(w, room, node, t.gpus, t.milli) == 0:
            lost += t.share * total
        else:
            for g in range(w.gpus):
                free = _free(w, room, node, g)
                if free < min(t.milli, WHOLE) or (t.milli == WHOLE and free < WHOLE):
                    lost += t.share * free
    return lost


@jit
def _gradient(w, room, node, j, mask):
    """How much more of a node is broken after a job is placed there."""
    before = _broken(w, room, node, 0, 0)
    _put(w, room, node, j, mask, -1)
    after = _broken(w, room, node, 0, 0)
    _put(w, room, node, j, mask, 1)
    return after - before


@jit
def _put(w, room, node, j, mask, sign):
    """Give back (1) or take (-1) a job's part of a node."""
    cell(room, node * w.stride).v += sign * j.cpu
    cell(room, node * w.stride + 1).v += sign * j.memory
    if mask > 0:
        for g in range(w.gpus):
            if mask >> g & 1:
                cell(room, node * w.stride + 2 + g).v += sign * j.milli


@jit
def find(w, room, j):
    """Write into the plan where a job would go; False if it does not fit.

    A job that fits into a node stays in one; a larger one takes whole free GPUs wherever they are, fullest nodes first.
    """
    w.plan = 0
    best, score, bits = -1, INF, 0
    for node in range(w.nodes):
        mask = _fits_node(w, room, node, j)
        if mask == 0:
            continue
        if w.placement == FIRST:
            value = 0.0
        elif w.placement == BEST:
            value = float(_unused(w, room, node))
        elif w.placement == BEST_ALL:
            value = _left(w, room, node)
        elif w.placement == WORST:
            value = -float(_unused(w, room, node))
        else:
            value = _gradient(w, room, node, j, mask)
        if best < 0 or value < score:
            best, score, bits = node, value, mask
            if w.placement == FIRST:
                break
    if best >= 0:
        p = plan(w.plan_at, 0)
        p.node, p.mask = best, bits
        w.plan = 1
        return True
    if j.gpus <= w.gpus or j.milli < WHOLE:
        return False
    left = j.gpus
    for wanted in range(w.gpus, 0, -1):  # nodes with most whole free GPUs first
        for node in range(w.nodes):
            if left == 0:
                break
            mask, n = 0, 0
            for g in range(w.gpus):
                if _free(w, room, node, g) == WHOLE:
                    n += 1
            if n != wanted or cell(room, node * w.stride).v < j.cpu or cell(room, node * w.stride + 1).v < j.memory:
                continue
            taken = 0
            for g in range(w.gpus):
                if taken < left and _free(w, room, node, g) == WHOLE:
                    mask |= 1 << g
                    taken += 1
            p = plan(w.plan_at, w.plan)
            p.node, p.mask = node, mask
            w.plan += 1
            left -= taken
    return left == 0


@jit
def _take_plan(w, room, j, sign):
    for k in range(w.plan):
        p = plan(w.plan_at, k)
        _put(w, room, p.node, j, p.mask, sign)


@jit
def _plan_fits(w, room, j):
    """Whether the plan's very places are free in another room."""
    for k in range(w.plan):
        p = plan(w.plan_at, k)
        if cell(room, p.node * w.stride).v < j.cpu or cell(room, p.node * w.stride + 1).v < j.memory:
            return False
        if p.mask > 0:
            for g in range(w.gpus):
                if p.mask >> g & 1 and _free(w, room, p.node, g) < j.milli:
                    return False
    return True


@jit
def _give_back(w, room, j):
    at = j.piece
    while at >= 0:
        p = piece(w.pieces_at, at)
        _put(w, room, p.node, j, p.mask, 1)
        at = p.next


# --- starting and ending


@jit
def _note(w):
    """Add up what was in use since the last change."""
    w.used += (w.now - w.used_at) * (w.gpu_seconds if w.gpu_total > 0 else w.cpu_seconds)
    w.used_at = w.now


@jit
def units(w, j):
    """What a job takes of the cluster: thousandths of GPUs, or of CPUs where there are none."""
    return j.gpus * j.milli if w.gpu_total > 0 else j.cpu


@jit
def start(w, at):
    """Start the waiting job at a place of the queue where the plan says."""
    i = cell(w.waiting_at, at).v
    j = job(w.jobs_at, i)
    _note(w)
    _take_plan(w, w.room_at, j, -1)
    j.piece = -1
    for k in range(w.plan):
        p, free = plan(w.plan_at, k), w.free_piece
        into = piece(w.pieces_at, free)
        w.free_piece = into.next
        into.node, into.mask, into.next = p.node, p.mask, j.piece
        j.piece = free
    w.waiting -= 1
    for k in range(at, w.waiting):
        cell(w.waiting_at, k).v = cell(w.waiting_at, k + 1).v
    j.phase = RUNNING
    j.started = w.now
    if j.first_start == INF:
        j.first_start = w.now
    extra = w.restart_s if j.preempted > 0 and j.left < j.run else 0.0
    j.end = w.now + extra + j.left
    w.gpu_seconds += j.gpus * j.milli
    w.cpu_seconds += j.cpu
    # the running jobs are kept by when they are expected to end
    k = w.running
    mine = _expected_end(j)
    while k > 0 and _expected_end(job(w.jobs_at, cell(w.running_at, k - 1).v)) > mine:
        cell(w.running_at, k).v = cell(w.running_at, k - 1).v
        k -= 1
    cell(w.running_at, k).v = i
    w.running += 1
    w.decisions += 1


@jit
def _expected_end(j):
    return j.end + (j.estimate - j.run)


@jit
def _stop(w, at):
    """Take the running job at a place off its nodes."""
    i = cell(w.running_at, at).v
    j = job(w.jobs_at, i)
    _note(w)
    if w.logged < w.log_size:
        e = entry(w.log_at, w.logged)
        p = piece(w.pieces_at, j.piece)
        e.start, e.end, e.job, e.node, e.mask = j.started, w.now, i, p.node, p.mask
        w.logged += 1
    _give_back(w, w.room_at, j)
    while j.piece >= 0:
        p = piece(w.pieces_at, j.piece)
        following = p.next
        p.next = w.free_piece
        w.free_piece = j.piece
        j.piece = following
    w.gpu_seconds -= j.gpus * j.milli
    w.cpu_seconds -= j.cpu
    w.running -= 1
    for k in range(at, w.running):
        cell(w.running_at, k).v = cell(w.running_at, k + 1).v


@jit
def _enqueue(w, i):
    """Put a job into the queue, which is kept in order."""
    j = job(w.jobs_at, i)
    j.phase = WAITING
    k = w.waiting
    while k > 0 and _earlier(w, i, cell(w.waiting_at, k - 1).v):
        cell(w.waiting_at, k).v = cell(w.waiting_at, k - 1).v
        k -= 1
    cell(w.waiting_at, k).v = i
    w.waiting += 1


@jit
def _earlier(w, one, two):
    a, b = job(w.jobs_at, one), job(w.jobs_at, two)
    if w.order == SJF and a.estimate != b.estimate:
        return a.estimate < b.estimate
    if w.order == LAS and a.level != b.level:
        return a.level < b.level
    return one < two


# --- what runs before its turn


@jit
def _copy_room(w):
    for k in range(w.nodes * w.stride):
        cell(w.shadow_at, k).v = cell(w.room_at, k).v


@jit
def _easy(w):
    """EASY backfill: what fits now and does not delay the first job of the queue may run (Lifka 1995)."""
    head = job(w.jobs_at, cell(w.waiting_at, 0).v)
    _copy_room(w)
    shadow = INF
    for k in range(w.running):
        j = job(w.jobs_at, cell(w.running_at, k).v)
        _give_back(w, w.shadow_at, j)
        last = k + 1 == w.running or _expected_end(job(w.jobs_at, cell(w.running_at, k + 1).v)) > _expected_end(j)
        if last and find(w, w.shadow_at, head):
            shadow = _expected_end(j)
            break
    if shadow == INF:
        return
    _take_plan(w, w.shadow_at, head, -1)
    at, looked = 1, 0
    while at < w.waiting and looked < w.depth:
        looked += 1
        j = job(w.jobs_at, cell(w.waiting_at, at).v)
        if find(w, w.room_at, j):
            short = w.now + j.estimate <= shadow
            if short or _plan_fits(w, w.shadow_at, j):
                if not short:
                    _take_plan(w, w.shadow_at, j, -1)
                start(w, at)
                continue
        at += 1


@jit
def _conservative(w):
    """Conservative backfill: every job of the queue gets the earliest time that delays none before it.

    Times are found on what is free of the whole cluster; whether a job fits on the nodes is seen when its time has come.
    """
    total = w.gpu_total if w.gpu_total > 0 else w.cpu_total
    busy = 0
    for k in range(w.running):
        busy += units(w, job(w.jobs_at, cell(w.running_at, k).v))
    s = step(w.profile_at, 0)
    s.time, s.units = w.now, total - busy
    w.profile = 1
    for k in range(w.running):
        j = job(w.jobs_at, cell(w.running_at, k).v)
        before = step(w.profile_at, w.profile - 1).units
        s = step(w.profile_at, w.profile)
        s.time, s.units = max(_expected_end(j), w.now), before + units(w, j)
        w.profile += 1
    at, looked = 0, 0
    while at < w.waiting and looked < w.depth:
        looked += 1
        j = job(w.jobs_at, cell(w.waiting_at, at).v)
        need = units(w, j)
        first = 0
        while first < w.profile:  # from the step ``first`` on there must be room for the whole estimate
            stop = step(w.profile_at, first).time + j.estimate
            k = first
            while k < w.profile and step(w.profile_at, k).time < stop and step(w.profile_at, k).units >= need:
                k += 1
            if k == w.profile or step(w.profile_at, k).time >= stop:
                break
            first = k + 1
        if first == w.profile:
            at += 1
            continue
        when = step(w.profile_at, first).time
        _reserve(w, when, when + j.estimate, need)
        if when <= w.now and find(w, w.room_at, j):
            start(w, at)
        else:
            at += 1


@jit
def _reserve(w, start_s, end_s, need):
    """Take units off the profile between two times."""
    k = _cut(w, start_s)
    stop = _cut(w, end_s)
    while k < stop:
        step(w.profile_at, k).units -= need
        k += 1


@jit
def _cut(w, when):
    """Place of the profile's step that begins at a time; one is put in if there is none."""
    k = 0
    while k < w.profile and step(w.profile_at, k).time < when:
        k += 1
    if k < w.profile and step(w.profile_at, k).time == when:
        return k
    for m in range(w.profile, k, -1):
        a, b = step(w.profile_at, m), step(w.profile_at, m - 1)
        a.time, a.units = b.time, b.units
    a = step(w.profile_at, k)
    a.time, a.units = when, step(w.profile_at, max(k - 1, 0)).units
    w.profile += 1
    return k


# --- least attained service, and moving jobs for balance


@jit
def _level(w, served):
    """Queue of a job that has had so many GPU-seconds; each next one holds ten times as many."""
    level, bound = 0, w.level_s
    while level < w.levels - 1 and served >= bound:
        level += 1
        bound *= 10.0
    return level


@jit
def _rate(w, j):
    return max(j.gpus * j.milli / WHOLE, 1.0) if w.gpu_total > 0 else max(j.cpu / WHOLE, 1.0)


@jit
def _las(w):
    """Preempt running jobs of lower queues where one of a higher queue waits and would not fit otherwise (Tiresias)."""
    at, looked = 0, 0
    while at < w.waiting and looked < w.depth:
        i = cell(w.waiting_at, at).v
        j = job(w.jobs_at, i)
        if find(w, w.room_at, j):
            start(w, at)
            continue
        _copy_room(w)
        # give back the lowest first, the latest first among these, until it fits; then preempt just these
        gone, enough = 0, False
        for level in range(w.levels - 1, j.level, -1):
            for k in range(w.running - 1, -1, -1):
                other = job(w.jobs_at, cell(w.running_at, k).v)
                if other.level != level:
                    continue
                _give_back(w, w.shadow_at, other)
                other.moved = 1
                gone += 1
                if find(w, w.shadow_at, j):
                    enough = True
                    break
            if enough:
                break
        back = 0
        for k in range(w.running - 1, -1, -1):
            which = cell(w.running_at, k).v
            other = job(w.jobs_at, which)
            if other.moved == 1:
                other.moved = 0
                if enough:
                    _preempt(w, k)
                    _enqueue(w, which)
                    back += 1
        if enough:
            # those that came back stand behind it: they are in lower queues
            if find(w, w.room_at, j):
                start(w, at)
                continue
        at += 1
        looked += 1


@jit
def _preempt(w, at):
    """Take a running job off; what it had computed is kept."""
    j = job(w.jobs_at, cell(w.running_at, at).v)
    j.left = min(j.end - w.now, j.run)
    _stop(w, at)
    j.served += (w.now - j.started) * _rate(w, j)
    j.preempted += 1
    w.preemptions += 1


@jit
def _promote(w):
    """Move running jobs to the queue that their service so far puts them in."""
    for k in range(w.running):
        j = job(w.jobs_at, cell(w.running_at, k).v)
        late = 1e-6 + 1e-15 * w.now * _rate(
            w, j
        )  # what rounding of the clock may lack; without it time would stand still
        j.level = _level(w, j.served + (w.now - j.started) * _rate(w, j) + late)


@jit
def _next_level(w):
    """When the next running job falls into a lower queue."""
    soonest = INF
    if w.order != LAS:
        return soonest
    for k in range(w.running):
        j = job(w.jobs_at, cell(w.running_at, k).v)
        if j.level < w.levels - 1:
            bound = w.level_s * 10.0**j.level
            soonest = min(soonest, j.started + max(bound - j.served, 0.0) / _rate(w, j))
    return soonest


@jit
def _load(w, node):
    """Used share of a node."""
    whole = _unused(w, w.whole_at, node)
    return 0.0 if whole == 0 else 1.0 - _unused(w, w.room_at, node) / whole


@jit
def _rebalance(w):
    """Move one job of the fullest node to the emptiest where that brings their loads together; it pauses for a while."""
    full, empty = 0, 0
    for node in range(1, w.nodes):
        if _load(w, node) > _load(w, full):
            full = node
        if _load(w, node) < _load(w, empty):
            empty = node
    gap = _load(w, full) - _load(w, empty)
    if gap <= w.balance:
        return
    for k in range(w.running):
        i = cell(w.running_at, k).v
        j = job(w.jobs_at, i)
        p = piece(w.pieces_at, j.piece)
        if p.next >= 0 or p.node != full or j.end - w.now <= 2.0 * w.migrate_s:
            continue
        mask = _fits_node(w, w.room_at, empty, j)
        part = units(w, j) / max(_unused(w, w.whole_at, empty), 1)
        if mask == 0 or part >= gap:
            continue
        _put(w, w.room_at, full, j, p.mask, 1)
        _put(w, w.room_at, empty, j, mask, -1)
        p.node, p.mask = empty, mask
        j.end += w.migrate_s
        j.moved = 0
        w.migrations += 1
        # it ends later now, so its place among the running ones may change
        while k + 1 < w.running and _expected_end(job(w.jobs_at, cell(w.running_at, k + 1).v)) < _expected_end(j):
            cell(w.running_at, k).v = cell(w.running_at, k + 1).v
            cell(w.running_at, k + 1).v = i
            k += 1
        return


# --- the run of events


@jit
def schedule(w):
    """Start what may start now."""
    if w.refuse == 1:
        while w.waiting > 0:
            j = job(w.jobs_at, cell(w.waiting_at, 0).v)
            if find(w, w.room_at, j):
                start(w, 0)
                continue
            j.phase = REJECTED
            w.refused += 1
            w.waiting -= 1
            for k in range(w.waiting):
                cell(w.waiting_at, k).v = cell(w.waiting_at, k + 1).v
        return
    if w.order == LAS:
        _promote(w)
        _las(w)
        return
    if w.backfill == CONSERVATIVE:
        if w.waiting > 0:
            _conservative(w)
        return
    while w.waiting > 0 and find(w, w.room_at, job(w.jobs_at, cell(w.waiting_at, 0).v)):
        start(w, 0)
    if w.backfill == EASY and w.waiting > 1 and w.running > 0:
        _easy(w)


@jit
def next_moment(w):
    """Move to the next moment at which something happens, and take it all in; False when nothing is left."""
    coming = job(w.jobs_at, w.next).submit if w.next < w.jobs else INF
    ending = INF
    for k in range(w.running):
        ending = min(ending, job(w.jobs_at, cell(w.running_at, k).v).end)
    when = min(coming, ending)
    if not when < INF:  # nothing is left, or a time is no number
        w.over = 1
        return False
    when = min(when, _next_level(w))
    if w.every_s > 0.0 and w.running > 0:
        when = min(when, max(w.next_balance, w.now))
    w.now = max(when, w.now)
    k = 0
    while k < w.running:
        j = job(w.jobs_at, cell(w.running_at, k).v)
        if j.end <= w.now:
            _stop(w, k)
            j.phase = DONE
            j.done_at = w.now
            j.left = 0.0
        else:
            k += 1
    while w.next < w.jobs and job(w.jobs_at, w.next).submit <= w.now:
        w.next += 1
        j = job(w.jobs_at, w.next - 1)
        if find(w, w.whole_at, j):
            _enqueue(w, w.next - 1)
        else:
            j.phase = REJECTED
            w.refused += 1
    if w.every_s > 0.0 and w.now >= w.next_balance:
        _rebalance(w)
        w.next_balance = w.now + w.every_s
    return True


@jit
def run(w, most_waiting):
    """Run a system to its end, or until more jobs wait than allowed; returns whether it came to its end."""
    while next_moment(w):
        if w.waiting > most_waiting:
            return False
        schedule(w)
    return True


@jit
def run_one(systems, k, most_waiting):
    """``run`` for system ``k`` at address ``systems``."""
    return run(system(systems, k), most_waiting)
