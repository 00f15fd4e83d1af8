"""The cluster simulator, compiled: jobs on nodes with GPUs or CPUs, ordered, backfilled, placed, preempted and moved.

``reference`` says the same in plain Python, and tests hold the two together: change both.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from tunewright.envs.compiled import jit, record_at
from tunewright.envs.scheduling.cluster import state
from tunewright.envs.scheduling.kernels import INF, integer_at, take_out

system_at, job_at, piece_at = record_at(state.SYSTEM), record_at(state.JOB), record_at(state.PIECE)
part_at, step_at = record_at(state.PLAN), record_at(state.STEP)
kind_at, entry_at = record_at(state.KIND), record_at(state.ENTRY)


# --- room on the nodes


@jit
def _free(system, room, node, gpu):
    return integer_at(room, node * system.stride + 2 + gpu).value


@jit
def _cpu(system, room, node):
    return integer_at(room, node * system.stride).value


@jit
def _memory(system, room, node):
    return integer_at(room, node * system.stride + 1).value


@jit
def _hosts(system, room, node, job):
    """Whether a node has the CPUs and the memory for a job."""
    return _cpu(system, room, node) >= job.cpu and _memory(system, room, node) >= job.memory_mib


@jit
def _mask(system, room, node, gpus, milli):
    """Bits of the GPUs of a node that a request would get; 0 if it does not fit (or needs none).

    A part of a GPU goes to the fullest one that has room; whole GPUs are free ones, the first of them.
    """
    if milli < state.WHOLE:
        best, least = -1, state.BIG
        for gpu in range(system.gpus_per_node):
            free = _free(system, room, node, gpu)
            if free >= milli and free < least:
                best, least = gpu, free
        return 0 if best < 0 else 1 << best
    mask, count = 0, 0
    for gpu in range(system.gpus_per_node):
        if count < gpus and _free(system, room, node, gpu) == state.WHOLE:
            mask |= 1 << gpu
            count += 1
    return mask if count == gpus else 0


@jit
def fits_node(system, room, node, job):
    """Bits of the GPUs that a job would get on a node, -1 if it needs none and fits, 0 if it does not fit."""
    if not _hosts(system, room, node, job):
        return 0
    return -1 if job.gpus == 0 else _mask(system, room, node, job.gpus, job.milli)


@jit
def unused(system, room, node):
    """Free part of a node: thousandths of GPUs, or of CPUs where it has none."""
    if system.gpus_per_node == 0:
        return _cpu(system, room, node)
    total = 0
    for gpu in range(system.gpus_per_node):
        total += _free(system, room, node, gpu)
    return total


@jit
def _left(system, room, node):
    """Free part of a node over all resources, each as a share of the largest node's."""
    left = _cpu(system, room, node) / system.most_milli_cpu + _memory(system, room, node) / system.most_memory_mib
    if system.gpus_per_node > 0:
        left += unused(system, room, node) / (state.WHOLE * system.gpus_per_node)
    return left


@jit
def _broken(system, room, node):
    """Expected thousandths of a node's free GPUs that the kinds of jobs cannot use (FGD, Weng et al., ATC 2023)."""
    lost = 0.0
    total = unused(system, room, node)
    for nth in range(system.kind_count):
        kind = kind_at(system.kinds, nth)
        hosts = kind.gpus > 0 and _hosts(system, room, node, kind)
        if not hosts or _mask(system, room, node, kind.gpus, kind.milli) == 0:
            lost += kind.share * total
        else:
            for gpu in range(system.gpus_per_node):
                free = _free(system, room, node, gpu)
                if free < min(kind.milli, state.WHOLE) or (kind.milli == state.WHOLE and free < state.WHOLE):
                    lost += kind.share * free
    return lost


@jit
def _gradient(system, room, node, job, mask):
    """How much more of a node is broken after a job is placed there."""
    before = _broken(system, room, node)
    _put(system, room, node, job, mask, -1)
    after = _broken(system, room, node)
    _put(system, room, node, job, mask, 1)
    return after - before


@jit
def _put(system, room, node, job, mask, sign):
    """Give back (1) or take (-1) a job's part of a node."""
    integer_at(room, node * system.stride).value += sign * job.cpu
    integer_at(room, node * system.stride + 1).value += sign * job.memory_mib
    if mask > 0:
        for gpu in range(system.gpus_per_node):
            if mask >> gpu & 1:
                integer_at(room, node * system.stride + 2 + gpu).value += sign * job.milli


@jit
def find(system, room, job):
    """Write into the plan where a job would go; False if it does not fit.

    A job that fits into a node stays in one; a larger one takes whole free GPUs wherever they are, fullest nodes first.
    """
    system.plan_size = 0
    best, score, bits = -1, INF, 0
    for node in range(system.node_count):
        mask = fits_node(system, room, node, job)
        if mask == 0:
            continue
        if system.placement == state.FIRST:
            value = 0.0
        elif system.placement == state.BEST:
            value = float(unused(system, room, node))
        elif system.placement == state.BEST_ALL:
            value = _left(system, room, node)
        elif system.placement == state.WORST:
            value = -float(unused(system, room, node))
        else:
            value = _gradient(system, room, node, job, mask)
        if best < 0 or value < score:
            best, score, bits = node, value, mask
            if system.placement == state.FIRST:
                break
    if best >= 0:
        part = part_at(system.plan, 0)
        part.node, part.mask = best, bits
        system.plan_size = 1
        return True
    if job.gpus <= system.gpus_per_node or job.milli < state.WHOLE:
        return False
    left = job.gpus
    for wanted in range(system.gpus_per_node, 0, -1):  # nodes with most whole free GPUs first
        for node in range(system.node_count):
            if left == 0:
                break
            mask, count = 0, 0
            for gpu in range(system.gpus_per_node):
                if _free(system, room, node, gpu) == state.WHOLE:
                    count += 1
            if count != wanted or not _hosts(system, room, node, job):
                continue
            taken = 0
            for gpu in range(system.gpus_per_node):
                if taken < left and _free(system, room, node, gpu) == state.WHOLE:
                    mask |= 1 << gpu
                    taken += 1
            part = part_at(system.plan, system.plan_size)
            part.node, part.mask = node, mask
            system.plan_size += 1
            left -= taken
    return left == 0


@jit
def first_fits(system):
    """Write into the plan where the first job of the queue would go; False if it does not fit."""
    return find(system, system.room, job_at(system.jobs, integer_at(system.waiting, 0).value))


@jit
def _take_plan(system, room, job, sign):
    for nth in range(system.plan_size):
        part = part_at(system.plan, nth)
        _put(system, room, part.node, job, part.mask, sign)


@jit
def _plan_fits(system, room, job):
    """Whether the plan's very places are free in another room."""
    for nth in range(system.plan_size):
        part = part_at(system.plan, nth)
        if not _hosts(system, room, part.node, job):
            return False
        if part.mask > 0:
            for gpu in range(system.gpus_per_node):
                if part.mask >> gpu & 1 and _free(system, room, part.node, gpu) < job.milli:
                    return False
    return True


@jit
def _give_back(system, room, job):
    at = job.first_piece
    while at >= 0:
        piece = piece_at(system.pieces, at)
        _put(system, room, piece.node, job, piece.mask, 1)
        at = piece.next


# --- starting and ending


@jit
def _note(system):
    """Add up what was in use since the last change."""
    in_use = system.milli_gpus if system.total_milli_gpus > 0 else system.milli_cpus
    system.used_milli_s += (system.now_s - system.used_until_s) * in_use
    system.used_until_s = system.now_s


@jit
def units(system, job):
    """What a job takes of the cluster: thousandths of GPUs, or of CPUs where there are none."""
    return job.gpus * job.milli if system.total_milli_gpus > 0 else job.cpu


@jit
def start(system, at):
    """Start the waiting job at a place of the queue where the plan says."""
    number = integer_at(system.waiting, at).value
    job = job_at(system.jobs, number)
    _note(system)
    _take_plan(system, system.room, job, -1)
    job.first_piece = -1
    for place in range(system.plan_size):
        part, free = part_at(system.plan, place), system.free_piece
        into = piece_at(system.pieces, free)
        system.free_piece = into.next
        into.node, into.mask, into.next = part.node, part.mask, job.first_piece
        job.first_piece = free
    system.waiting_count -= 1
    take_out(system.waiting, at, system.waiting_count)
    job.phase = state.RUNNING
    job.started_at = system.now_s
    if job.first_start_at == INF:
        job.first_start_at = system.now_s
    extra = system.restart_s if job.preempted > 0 and job.left_s < job.run_s else 0.0
    job.end_at = system.now_s + extra + job.left_s
    system.milli_gpus += job.gpus * job.milli
    system.milli_cpus += job.cpu
    # the running jobs are kept by when they are expected to end
    place = system.running_count
    expected_end = _expected_end(job)
    while place > 0 and _end_of(system, place - 1) > expected_end:
        integer_at(system.running, place).value = integer_at(system.running, place - 1).value
        place -= 1
    integer_at(system.running, place).value = number
    system.running_count += 1
    system.decisions += 1


@jit
def _expected_end(job):
    return job.end_at + (job.estimate_s - job.run_s)


@jit
def _end_of(system, place):
    """When the running job at a place is expected to end."""
    return _expected_end(job_at(system.jobs, integer_at(system.running, place).value))


@jit
def _stop(system, at):
    """Take the running job at a place off its nodes."""
    number = integer_at(system.running, at).value
    job = job_at(system.jobs, number)
    _note(system)
    if system.logged < system.log_size:
        entry = entry_at(system.log, system.logged)
        piece = piece_at(system.pieces, job.first_piece)
        entry.start, entry.end, entry.job = job.started_at, system.now_s, number
        entry.node, entry.mask = piece.node, piece.mask
        system.logged += 1
    _give_back(system, system.room, job)
    while job.first_piece >= 0:
        piece = piece_at(system.pieces, job.first_piece)
        following = piece.next
        piece.next = system.free_piece
        system.free_piece = job.first_piece
        job.first_piece = following
    system.milli_gpus -= job.gpus * job.milli
    system.milli_cpus -= job.cpu
    system.running_count -= 1
    take_out(system.running, at, system.running_count)


@jit
def _enqueue(system, number):
    """Put a job into the queue, which is kept in order."""
    job = job_at(system.jobs, number)
    job.phase = state.WAITING
    place = system.waiting_count
    while place > 0 and _earlier(system, number, integer_at(system.waiting, place - 1).value):
        integer_at(system.waiting, place).value = integer_at(system.waiting, place - 1).value
        place -= 1
    integer_at(system.waiting, place).value = number
    system.waiting_count += 1


@jit
def _earlier(system, one, two):
    first, second = job_at(system.jobs, one), job_at(system.jobs, two)
    if system.order == state.SJF and first.estimate_s != second.estimate_s:
        return first.estimate_s < second.estimate_s
    if system.order == state.LAS and first.level != second.level:
        return first.level < second.level
    return one < two


# --- what runs before its turn


@jit
def _copy_room(system):
    for nth in range(system.node_count * system.stride):
        integer_at(system.shadow, nth).value = integer_at(system.room, nth).value


@jit
def _easy(system):
    """EASY backfill: what fits now and does not delay the first job of the queue may run (Lifka 1995)."""
    head = job_at(system.jobs, integer_at(system.waiting, 0).value)
    _copy_room(system)
    shadow = INF
    for place in range(system.running_count):
        job = job_at(system.jobs, integer_at(system.running, place).value)
        _give_back(system, system.shadow, job)
        last = place + 1 == system.running_count or _end_of(system, place + 1) > _expected_end(job)
        if last and find(system, system.shadow, head):
            shadow = _expected_end(job)
            break
    if shadow == INF:
        return
    _take_plan(system, system.shadow, head, -1)
    at, looked = 1, 0
    while at < system.waiting_count and looked < system.depth:
        looked += 1
        job = job_at(system.jobs, integer_at(system.waiting, at).value)
        if find(system, system.room, job):
            short = system.now_s + job.estimate_s <= shadow
            if short or _plan_fits(system, system.shadow, job):
                if not short:
                    _take_plan(system, system.shadow, job, -1)
                start(system, at)
                continue
        at += 1


@jit
def _conservative(system):
    """Conservative backfill: every job of the queue gets the earliest time that delays none before it.

    Times are found on what is free of the whole cluster; whether a job fits on the nodes is seen at its time.
    """
    total = system.total_milli_gpus if system.total_milli_gpus > 0 else system.total_milli_cpus
    busy = 0
    for place in range(system.running_count):
        busy += units(system, job_at(system.jobs, integer_at(system.running, place).value))
    step = step_at(system.profile, 0)
    step.time_s, step.units = system.now_s, total - busy
    system.profile_size = 1
    for place in range(system.running_count):
        job = job_at(system.jobs, integer_at(system.running, place).value)
        before = step_at(system.profile, system.profile_size - 1).units
        step = step_at(system.profile, system.profile_size)
        step.time_s, step.units = max(_expected_end(job), system.now_s), before + units(system, job)
        system.profile_size += 1
    at, looked = 0, 0
    while at < system.waiting_count and looked < system.depth:
        looked += 1
        job = job_at(system.jobs, integer_at(system.waiting, at).value)
        need = units(system, job)
        first = 0
        while first < system.profile_size:  # from the step ``first`` on there must be room for the whole estimate
            stop = step_at(system.profile, first).time_s + job.estimate_s
            place = first
            while place < system.profile_size:
                step = step_at(system.profile, place)
                if step.time_s >= stop or step.units < need:
                    break
                place += 1
            if place == system.profile_size or step_at(system.profile, place).time_s >= stop:
                break
            first = place + 1
        if first == system.profile_size:
            at += 1
            continue
        when = step_at(system.profile, first).time_s
        _reserve(system, when, when + job.estimate_s, need)
        if when <= system.now_s and find(system, system.room, job):
            start(system, at)
        else:
            at += 1


@jit
def _reserve(system, start_s, end_s, need):
    """Take units off the profile between two times."""
    place = _cut(system, start_s)
    stop = _cut(system, end_s)
    while place < stop:
        step_at(system.profile, place).units -= need
        place += 1


@jit
def _cut(system, when):
    """Place of the profile's step that begins at a time; one is put in if there is none."""
    place = 0
    while place < system.profile_size and step_at(system.profile, place).time_s < when:
        place += 1
    if place < system.profile_size and step_at(system.profile, place).time_s == when:
        return place
    for nth in range(system.profile_size, place, -1):
        step, earlier = step_at(system.profile, nth), step_at(system.profile, nth - 1)
        step.time_s, step.units = earlier.time_s, earlier.units
    step = step_at(system.profile, place)
    step.time_s, step.units = when, step_at(system.profile, max(place - 1, 0)).units
    system.profile_size += 1
    return place


# --- least attained service, and moving jobs for balance


@jit
def _level(system, served):
    """Queue of a job that has had so many GPU-seconds; each next one holds ten times as many."""
    level, bound = 0, system.level_s
    while level < system.level_count - 1 and served >= bound:
        level += 1
        bound *= 10.0
    return level


@jit
def _rate(system, job):
    return max(units(system, job) / state.WHOLE, 1.0)


@jit
def _las(system):
    """Preempt running jobs of lower queues where one of a higher queue waits and would not fit otherwise (Tiresias)."""
    at, looked = 0, 0
    while at < system.waiting_count and looked < system.depth:
        job = job_at(system.jobs, integer_at(system.waiting, at).value)
        if find(system, system.room, job):
            start(system, at)
            continue
        _copy_room(system)
        # give back the lowest first, the latest first among these, until it fits; then preempt just these
        enough = False
        for level in range(system.level_count - 1, job.level, -1):
            for place in range(system.running_count - 1, -1, -1):
                other = job_at(system.jobs, integer_at(system.running, place).value)
                if other.level != level:
                    continue
                _give_back(system, system.shadow, other)
                other.moved = 1
                if find(system, system.shadow, job):
                    enough = True
                    break
            if enough:
                break
        for place in range(system.running_count - 1, -1, -1):
            which = integer_at(system.running, place).value
            other = job_at(system.jobs, which)
            if other.moved == 1:
                other.moved = 0
                if enough:
                    _preempt(system, place)
                    _enqueue(system, which)
        # those that came back stand behind it: they are in lower queues
        if enough and find(system, system.room, job):
            start(system, at)
            continue
        at += 1
        looked += 1


@jit
def _preempt(system, at):
    """Take a running job off; what it had computed is kept."""
    job = job_at(system.jobs, integer_at(system.running, at).value)
    job.left_s = min(job.end_at - system.now_s, job.run_s)
    _stop(system, at)
    job.served_s += (system.now_s - job.started_at) * _rate(system, job)
    job.preempted += 1
    system.preemptions += 1


@jit
def _promote(system):
    """Move running jobs to the queue that their service so far puts them in."""
    for place in range(system.running_count):
        job = job_at(system.jobs, integer_at(system.running, place).value)
        # what rounding of the clock may lack; without it time would stand still
        late = 1e-6 + 1e-15 * system.now_s * _rate(system, job)
        job.level = _level(system, job.served_s + (system.now_s - job.started_at) * _rate(system, job) + late)


@jit
def _next_level(system):
    """When the next running job falls into a lower queue."""
    soonest = INF
    if system.order != state.LAS:
        return soonest
    for place in range(system.running_count):
        job = job_at(system.jobs, integer_at(system.running, place).value)
        if job.level < system.level_count - 1:
            bound = system.level_s * 10.0**job.level
            soonest = min(soonest, job.started_at + max(bound - job.served_s, 0.0) / _rate(system, job))
    return soonest


@jit
def load(system, node):
    """Used share of a node."""
    whole = unused(system, system.whole, node)
    return 0.0 if whole == 0 else 1.0 - unused(system, system.room, node) / whole


@jit
def _rebalance(system):
    """Move one job of the fullest node to the emptiest where that evens their loads; it pauses for a while."""
    full, empty = 0, 0
    for node in range(1, system.node_count):
        if load(system, node) > load(system, full):
            full = node
        if load(system, node) < load(system, empty):
            empty = node
    gap = load(system, full) - load(system, empty)
    if gap <= system.balance:
        return
    for place in range(system.running_count):
        number = integer_at(system.running, place).value
        job = job_at(system.jobs, number)
        piece = piece_at(system.pieces, job.first_piece)
        if piece.next >= 0 or piece.node != full or job.end_at - system.now_s <= 2.0 * system.migrate_s:
            continue
        mask = fits_node(system, system.room, empty, job)
        part = units(system, job) / max(unused(system, system.whole, empty), 1)
        if mask == 0 or part >= gap:
            continue
        _put(system, system.room, full, job, piece.mask, 1)
        _put(system, system.room, empty, job, mask, -1)
        piece.node, piece.mask = empty, mask
        job.end_at += system.migrate_s
        job.moved = 0
        system.migrations += 1
        # it ends later now, so its place among the running ones may change
        while place + 1 < system.running_count and _end_of(system, place + 1) < _expected_end(job):
            integer_at(system.running, place).value = integer_at(system.running, place + 1).value
            integer_at(system.running, place + 1).value = number
            place += 1
        return


# --- the run of events


@jit
def schedule(system):
    """Start what may start now."""
    if system.refuse == 1:
        while system.waiting_count > 0:
            job = job_at(system.jobs, integer_at(system.waiting, 0).value)
            if find(system, system.room, job):
                start(system, 0)
                continue
            job.phase = state.REJECTED
            system.refused += 1
            system.waiting_count -= 1
            take_out(system.waiting, 0, system.waiting_count)
        return
    if system.order == state.LAS:
        _promote(system)
        _las(system)
        return
    if system.backfill == state.CONSERVATIVE:
        if system.waiting_count > 0:
            _conservative(system)
        return
    while system.waiting_count > 0 and first_fits(system):
        start(system, 0)
    if system.backfill == state.EASY and system.waiting_count > 1 and system.running_count > 0:
        _easy(system)


@jit
def next_moment(system):
    """Move to the next moment at which something happens, and take it all in; False when nothing is left."""
    coming = job_at(system.jobs, system.next_job).submit_s if system.next_job < system.job_count else INF
    ending = INF
    for place in range(system.running_count):
        ending = min(ending, job_at(system.jobs, integer_at(system.running, place).value).end_at)
    when = min(coming, ending)
    if not when < INF:  # nothing is left, or a time is no number
        system.over = 1
        return False
    when = min(when, _next_level(system))
    if system.every_s > 0.0 and system.running_count > 0:
        when = min(when, max(system.next_balance_at, system.now_s))
    system.now_s = max(when, system.now_s)
    place = 0
    while place < system.running_count:
        job = job_at(system.jobs, integer_at(system.running, place).value)
        if job.end_at <= system.now_s:
            _stop(system, place)
            job.phase = state.DONE
            job.done_at = system.now_s
            job.left_s = 0.0
        else:
            place += 1
    while system.next_job < system.job_count and job_at(system.jobs, system.next_job).submit_s <= system.now_s:
        system.next_job += 1
        job = job_at(system.jobs, system.next_job - 1)
        if find(system, system.whole, job):
            _enqueue(system, system.next_job - 1)
        else:
            job.phase = state.REJECTED
            system.refused += 1
    if system.every_s > 0.0 and system.now_s >= system.next_balance_at:
        _rebalance(system)
        system.next_balance_at = system.now_s + system.every_s
    return True


@jit
def run(systems, index, most_waiting):
    """Run system ``index`` at an address until more jobs wait than allowed; returns whether it came to its end."""
    system = system_at(systems, index)
    while next_moment(system):
        if system.waiting_count > most_waiting:
            return False
        schedule(system)
    return True
