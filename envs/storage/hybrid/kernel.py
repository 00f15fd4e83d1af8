"""The hybrid-storage simulator, compiled: pages on two to four tiers, LRU lists, devices, background moves.

State is in the records of ``state``; every function works on one ``SIM`` of a batch. ``reference`` says the same in
plain Python, and tests hold the two together request by request: change both.

One request is served so: background work that fits into the idle time before it, then the request itself, then what
it causes (promotions, evictions). A device serves in order; an operation holds it for its occupancy and answers after
its latency, so a device with internal parallelism takes the next one before the last has answered. Both halves of a
background move, the read here and the write there, are charged when the move is decided: the write would come a little
later, but a device must not stand idle in the meantime for those who come first.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math

from tunewright.envs.compiled import inlined, jit
from tunewright.envs.storage.hybrid.lowlevel import (
    device,
    load_page,
    move_entry,
    page,
    request,
    seat,
)
from tunewright.envs.storage.hybrid.state import QUEUE

LOOK_AHEAD = 8  # seats of a queue whose pages are loaded before their turn


@inlined
def submit(sim, tier, start, write, pages, address):
    """Give one operation to a device; returns when it is done, in microseconds."""
    kind = device(sim.device_at, tier)
    begin = max(start, sim.busy[tier])
    if kind.disk:
        return _submit_disk(sim, tier, begin, write, pages, address)
    if not write:
        transfer = pages * kind.read_page
        sim.busy[tier] = begin + max(kind.read_gap, kind.read_hold + transfer)
        return begin + kind.read_us + transfer
    transfer = pages * kind.write_page
    hold = max(kind.write_gap, kind.write_hold + transfer)
    drain = kind.drain
    if drain > 0.0:  # a write buffer that flash empties
        fill = max(0.0, sim.fill[tier] - (begin - sim.filled_at[tier]) * drain) + pages
        if fill > kind.buffer:
            begin += (fill - kind.buffer) / drain
            fill = kind.buffer
        sim.fill[tier] = fill
        sim.filled_at[tier] = begin
        sim.written[tier] += pages
        if sim.written[tier] >= kind.gc_pages:
            sim.written[tier] -= kind.gc_pages
            hold += kind.gc_us
    sim.busy[tier] = begin + hold
    return begin + kind.write_us + transfer


@jit
def _submit_disk(sim, tier, begin, write, pages, address):
    """Seek, wait for the sector to come round, transfer; what follows the last operation needs neither."""
    kind = device(sim.device_at, tier)
    wait = 0.0
    if address != sim.position[tier]:
        distance = abs(address - sim.position[tier]) / kind.span
        wait = kind.seek_min + kind.seek_span * math.sqrt(min(distance, 1.0))
        if write:
            wait += kind.write_us
        turn = (begin + wait) / kind.revolution
        angle = address / kind.track
        lag = (angle - math.floor(angle)) - (turn - math.floor(turn))
        if lag < 0.0:
            lag += 1.0
        wait += lag * kind.revolution
    sim.position[tier] = address + pages
    done = begin + kind.read_us + wait + pages * kind.read_page
    sim.busy[tier] = done
    return done


@inlined
def _who(sim, table, tier, number):
    """Return the page that has a seat of a tier's LRU queue; -1 if it has another by now, or left the tier."""
    at = int(seat(sim.queue_at[tier], number & sim.mask[tier]).page)
    return at if page(table, at).seat == number and page(table, at).tier == tier else -1


@jit
def pack(sim, table, tier):
    """Close the gaps that pages have left in a tier's LRU queue."""
    free = sim.oldest[tier]
    for number in range(sim.oldest[tier], sim.newest[tier]):
        at = _who(sim, table, tier, number)
        if at >= 0:
            seat(sim.queue_at[tier], free & sim.mask[tier]).page = at
            page(table, at).seat = free
            free += 1
    sim.newest[tier] = free


@inlined
def enlist(sim, table, at, tier, cold):
    """Give a page the most recent seat of a tier's LRU queue or, if cold, the oldest: it is the next victim.

    The seat that it had before stays behind, empty, until it comes up or the queue is packed. So a touch writes to the
    page and to the end of the queue, and not to the pages beside it, which would have to be waited for.
    """
    if sim.newest[tier] - sim.oldest[tier] > sim.mask[tier]:
        pack(sim, table, tier)
    if cold:
        sim.oldest[tier] -= 1
        number = sim.oldest[tier]
    else:
        number = sim.newest[tier]
        sim.newest[tier] = number + 1
    seat(sim.queue_at[tier], number & sim.mask[tier]).page = at
    page(table, at).seat = number


@inlined
def oldest(sim, table, tier):
    """Return the least recent page of a tier; -1 if there is none."""
    number = sim.oldest[tier]
    found = -1
    while number < sim.newest[tier]:
        found = _who(sim, table, tier, number)
        if found >= 0:
            break
        load_page(table, seat(sim.queue_at[tier], (number + LOOK_AHEAD) & sim.mask[tier]).page)
        number += 1
    sim.oldest[tier] = number
    return found


@jit
def _oldest_but(sim, table, tier, pinned, pinned_end):
    """Return the least recent page of a tier that is not pinned; -1 if there is none."""
    for number in range(sim.oldest[tier], sim.newest[tier]):
        at = _who(sim, table, tier, number)
        if at >= 0 and not pinned <= at < pinned_end:
            return at
    return -1


@inlined
def settle(sim, table, at, tier, cold):
    """Make ``tier`` the home of a page, as its most recent one or, if cold, as the next victim.

    The last tier keeps no list.
    """
    record = page(table, at)
    old = int(record.tier)
    last = sim.tiers - 1
    record.hot = not cold
    if old == tier:
        if tier < last and (cold or record.seat != sim.newest[tier] - 1):
            enlist(sim, table, at, tier, cold)
        return
    if sim.journal_at != 0 and sim.journaled < sim.journal_room:
        entry = move_entry(sim.journal_at, sim.journaled)
        entry.page, entry.source, entry.target, entry.operation = at, old, tier, sim.operation & 65535
        sim.journaled += 1
    sim.used[old] -= 1
    sim.used[tier] += 1
    record.tier = tier
    record.moved = sim.clock
    if tier < last:
        enlist(sim, table, at, tier, cold)


@jit
def evict(sim, table, victim, tier, pinned, pinned_end, start):
    """Move a victim and its neighbours of one extent, as one operation, to the next tier; returns when it is done.

    A cold victim takes no hot neighbours with it.
    """
    first, stop = victim, victim + 1
    hot = page(table, victim).hot
    if sim.extent > 1:
        region = page(table, victim).address // sim.extent
        while (
            first > 0
            and page(table, first - 1).tier == tier
            and page(table, first - 1).address // sim.extent == region
            and page(table, first - 1).hot <= hot
            and not pinned <= first - 1 < pinned_end
        ):
            first -= 1
        while (
            stop < sim.pages
            and page(table, stop).tier == tier
            and page(table, stop).address // sim.extent == region
            and page(table, stop).hot <= hot
            and not pinned <= stop < pinned_end
        ):
            stop += 1
    pages = stop - first
    where = page(table, first).address
    done = submit(sim, tier, start, False, pages, where) - start
    done += submit(sim, tier + 1, start, True, pages, where)
    for at in range(first, stop):
        settle(sim, table, at, tier + 1, False)
    sim.evicted += pages
    sim.operation += 1
    return done


@jit
def make_room(sim, table, tier, pinned, pinned_end, start):
    """Evict from ``tier`` and, in turn, from those below it until each holds no more than it may.

    Returns when the last eviction is done, or ``start`` if there was none.
    """
    done = start
    for t in range(tier, sim.tiers - 1):
        while sim.used[t] > sim.capacity[t]:
            victim = oldest(sim, table, t)
            if pinned <= victim < pinned_end:
                victim = _oldest_but(sim, table, t, pinned, pinned_end)
            if victim < 0:
                break
            done = evict(sim, table, victim, t, pinned, pinned_end, start)
    return done


@jit
def move(sim, table, first, count, target, start):
    """Migrate ``count`` pages that follow each other and lie on one tier, as one operation."""
    source = int(page(table, first).tier)
    if source == target:
        return
    where = page(table, first).address
    submit(sim, source, start, False, count, where)
    submit(sim, target, start, True, count, where)
    for at in range(first, first + count):
        settle(sim, table, at, target, False)
    sim.migrated += count
    sim.operation += 1
    if target < sim.tiers - 1:
        make_room(sim, table, target, first, first + count, start)


@jit
def _idle_work(sim, table):
    """Do background moves as long as all devices are idle; one that has begun is not broken off."""
    last = sim.tiers - 1
    while True:
        free = sim.busy[0]
        for t in range(1, sim.tiers):
            free = max(free, sim.busy[t])
        free += sim.idle
        if free >= sim.now:
            return
        if sim.queued > 0:
            slot = sim.queue_head
            sim.queue_head = (slot + 1) % QUEUE
            sim.queued -= 1
            move(sim, table, sim.queue[slot, 0], 1, sim.queue[slot, 1], free)
            continue
        work = False
        for t in range(last):
            if sim.reserve > 0.0 and sim.used[t] > sim.capacity[t] * (1.0 - sim.reserve) and sim.used[t] > 0:
                evict(sim, table, oldest(sim, table, t), t, -1, -1, free)
                make_room(sim, table, t + 1, -1, -1, free)
                work = True
                break
        if not work:
            return


@jit
def enqueue(sim, table, at, target):
    """Ask for a page to be moved in idle time; a full queue refuses. Returns whether it was taken."""
    if sim.queued >= sim.queue_limit or page(table, at).tier == target:
        return False
    slot = (sim.queue_head + sim.queued) % QUEUE
    sim.queue[slot, 0] = at
    sim.queue[slot, 1] = target
    sim.queued += 1
    return True


@inlined
def ask_for(sim, first, count, target):
    """Ask for the pages of a request to be moved, until the queue is full; returns whether any lies elsewhere."""
    asks = False
    for at in range(first, first + count):
        if page(sim.page_at, at).tier != target:
            asks = True
            if not enqueue(sim, sim.page_at, at, target):
                break
    return asks


@inlined
def arrive(sim):
    """Bring time to the arrival of the next request, and do what fits into the idle time before it."""
    if not sim.closed:
        sim.now = request(sim.request_at, sim.clock).time_us * sim.scale
    if sim.queued > 0 or sim.reserve > 0.0:
        _idle_work(sim, sim.page_at)


@inlined
def serve(sim, target, ahead, cold):
    """Serve the request that has arrived and leave its pages on ``target``.

    Args:
        sim: the system.
        target: tier for its pages; -1 leaves the pages of a read where they are.
        ahead: a read that promotes pages also brings those of so many pages behind it that lie on a slower tier; if
            negative, any read does, if at least half of them do.
        cold: the pages are not expected to be needed again: they become the next victims of their tier.

    Returns:
        Latency in us.
    """
    table = sim.page_at
    asked = request(sim.request_at, sim.clock)
    first, count, write = asked.first, asked.count, asked.write
    now = sim.now
    stop = first + count
    last = sim.tiers - 1
    if write and target < 0:
        target = int(page(table, first).tier)
    while 0 <= target < last and sim.capacity[target] < count:
        target += 1  # what cannot fit goes to the first tier that can hold it
    promote = target >= 0
    done = now
    if write:
        if target == 0:
            sim.hits += count
        done = submit(sim, target, now, True, count, page(table, first).address)
    else:
        if promote and target < last:
            late = 0.0
            for tier in range(target + 1, sim.tiers):
                late = max(late, sim.busy[tier] - now)
            if late > sim.gate:
                promote = False
                sim.gated += 1
        done = _read(sim, table, first, count)
    moved = 0
    for at in range(first, stop):
        record = page(table, at)
        home = int(record.tier)
        if promote and home != target:
            moved += 1
            home = target
        settle(sim, table, at, home, cold)
        record.last = sim.clock
        record.count = min(int(record.count) + 1, 65535)
    end = stop
    sim.operation += 1
    if promote and not write:
        sim.promoted += moved
        if target < last and (ahead < 0 or (ahead > 0 and moved > 0)):
            before = sim.fetched
            least = 1 if moved > 0 else abs(ahead) // 2
            end = _fetch(sim, table, stop, min(abs(ahead), sim.capacity[target] - count), least, target, now)
            moved += sim.fetched - before
        if moved > 0:
            submit(sim, target, now, True, moved, page(table, first).address)
    sim.spent = 0.0
    if promote and target < last and sim.used[target] > sim.capacity[target]:
        sim.spent = make_room(sim, table, target, first, end, now) - now
    sim.served += count
    sim.clock += 1
    if sim.closed:
        sim.now = done
    return done - now


@inlined
def _read(sim, table, first, count):
    """Read from every tier that holds pages of a request, side by side; returns when the last is done."""
    done = sim.now
    if count == 1:
        tier = int(page(table, first).tier)
        sim.hits += tier == 0
        return submit(sim, tier, done, False, 1, page(table, first).address)
    for tier in range(sim.tiers):
        here = 0
        where = -1
        for at in range(first, first + count):
            if page(table, at).tier == tier:
                if here == 0:
                    where = at
                here += 1
        if here > 0:
            if tier == 0:
                sim.hits += here
            done = max(done, submit(sim, tier, sim.now, False, here, page(table, where).address))
            if here == count:
                break
    return done


@jit
def _fetch(sim, table, at, ahead, least, target, start):
    """Read on behind a request: bring those of the next pages on the disk that lie on one slower tier.

    Fewer than ``least`` are not worth an operation. Returns their end; ``sim.fetched`` counts them.
    """
    limit = min(at + min(ahead, sim.capacity[target] // 8), sim.pages)
    behind = page(table, at - 1).address + 1 - at
    source = -1
    missing = 0
    begin = end = at
    stop = at
    while at < limit and page(table, at).address - at == behind:
        tier = int(page(table, at).tier)
        if source < 0 and tier > target:
            source = tier
            begin = at
        if tier == source:
            end = at + 1
            missing += 1
        at += 1
    if source < 0 or missing < least:
        return stop
    submit(sim, source, start, False, end - begin, page(table, begin).address)
    for other in range(begin, end):
        if page(table, other).tier == source:
            settle(sim, table, other, target, False)
            sim.fetched += 1
    sim.operation += 1
    return end
