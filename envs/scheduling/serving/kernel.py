"""The serving simulator, compiled: replicas that batch iteration by iteration, with a paged key-value cache.

State is in the records of ``state``: ``w`` is a system, ``q`` a replica, ``a`` a request. ``reference`` says the same in
plain Python, and tests hold the two together request by request: change both.

All sequences of a replica that decode advance together, so a replica counts tokens on one clock: a sequence that
joined at clock c with n tokens to go ends at c + n, and an iteration in which nobody joins or leaves costs the same
whatever the batch. Blocks are counted likewise: sequences are kept by their phase, the clock at which their last block
is full, modulo the block size.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math
import types

from tunewright.envs.compiled import inlined, jit, record_at
from tunewright.envs.parallelism import steptime
from tunewright.envs.scheduling.serving.state import (
    AFFINITY_TOKENS,
    AGGRESSIVE,
    ANSWER,
    BIG,
    CELL,
    CHUNK,
    CHUNKED,
    CONSERVATIVE,
    DECODE_WEIGHT,
    DECODING,
    DONE,
    ENTRY,
    FAIR,
    FCFS,
    GAP_BINS,
    GAP_LEAST_S,
    GAP_STEP,
    GOLDEN,
    GROUP,
    HISTORY_BINS,
    HISTORY_LEAST,
    HISTORY_MOST,
    HISTORY_STEP,
    LEAST_LOADED,
    MIXED,
    MOVING,
    ONE_HASH,
    PAIR,
    PAST_FUTURE,
    PREFILL_FIRST,
    PREFILLING,
    PREFIX,
    QUEUE,
    REAL,
    REJECTED,
    REPLICA,
    REQUEST,
    ROUND_ROBIN,
    SJF,
    STATIC,
    SYSTEM,
)

system, replica, ask = record_at(SYSTEM), record_at(REPLICA), record_at(REQUEST)
cell, real, chunk, pair, answer, entry = (record_at(t) for t in (CELL, REAL, CHUNK, PAIR, ANSWER, ENTRY))
INF = math.inf


@inlined
def _missed(chance, tokens):
    return 1.0 if chance == 1.0 else chance**tokens  # without experts; a power takes a tenth of an iteration


# the step-time model, compiled: the same code, with the functions that it calls compiled too
_names = {"__name__": __name__, "larger": inlined(steptime.larger), "missed": _missed}
iteration_s = jit(types.FunctionType(steptime.iteration_s.__code__, _names, "iteration_s"))


@jit
def blocks_of(tokens, size):
    """Blocks that hold so many tokens."""
    return (tokens + size - 1) // size


@jit
def _key(w, i, now):
    """Place of a request in the order of its replica; the smallest is first. Ties go to the earlier request."""
    a = ask(w.asks, i)
    order = w.order
    if order == FCFS:
        return float(i)
    if order == SJF:
        return a.work
    if order == GROUP:
        return float(a.rank)
    if order == FAIR:
        return real(w.served_at, a.user).v
    # by service time where the limits can still be met, sooner where time is short; what cannot be met comes last
    slack = w.limit_ttft - (now - a.arrival) - a.work_first
    if a.generated > 0:
        return a.work * 0.1
    if slack < 0.0:
        return 1e9 + a.arrival
    return a.work * min(max(slack / w.limit_ttft, 0.1), 1.0)


@jit
def _charge(w, i, tokens, weight):
    """Put tokens on a user's virtual counter."""
    real(w.served_at, ask(w.asks, i).user).v += tokens * weight


@jit
def _settle(w, q):
    """Charge the users of a replica's running sequences for what was generated since they were last charged."""
    for j in range(q.running):
        i = cell(q.running_at, j).v
        a = ask(w.asks, i)
        if a.phase == DECODING:
            made = _made(w, q, i)
            if made > a.charged:
                _charge(w, i, float(made - a.charged), DECODE_WEIGHT)
                a.charged = made


@jit
def _settle_all(w):
    """``_settle`` for all replicas."""
    for r in range(w.replicas):
        _settle(w, replica(w.reps, r))


@jit
def _release(w, q, ident):
    """One request less holds a chunk of a prompt; the last one leaves it to be evicted."""
    chunk(q.chunks_at, ident).refs -= 1
    if chunk(q.chunks_at, ident).refs == 0:
        if q.tail - q.head >= q.lru_size:
            _pack(w, q)
        chunk(q.chunks_at, ident).stamp = q.tail
        cell(q.lru_at, q.tail % q.lru_size).v = ident
        q.tail += 1
        q.idle += w.chunk_blocks


@jit
def _pack(w, q):
    """Close the gaps in the queue of chunks that nobody holds."""
    size = q.lru_size
    free = q.head
    for at in range(q.head, q.tail):
        ident = cell(q.lru_at, at % size).v
        if chunk(q.chunks_at, ident).refs == 0 and chunk(q.chunks_at, ident).stamp == at:
            cell(q.lru_at, free % size).v = ident
            chunk(q.chunks_at, ident).stamp = free
            free += 1
    q.tail = free


@jit
def _take(w, q, blocks):
    """Take blocks, from what nobody holds if need be; False, and nothing is done, where they are not there."""
    if blocks > q.free + q.idle:
        return False
    while q.free < blocks:
        at = q.head
        q.head += 1
        ident = cell(q.lru_at, at % q.lru_size).v
        if chunk(q.chunks_at, ident).refs == 0 and chunk(q.chunks_at, ident).stamp == at:
            chunk(q.chunks_at, ident).refs = -1
            q.idle -= w.chunk_blocks
            q.free += w.chunk_blocks
    q.free -= blocks
    used = q.total - q.free - q.idle
    q.peak = max(q.peak, used)
    return True


@jit
def _hits(w, q, i):
    """Chunks at the start of a prompt that the replica has."""
    a = ask(w.asks, i)
    if w.caching == 0:
        return 0
    n = 0
    while n < a.chunk_n and chunk(q.chunks_at, cell(w.chunks_at, a.chunk_at + n).v).refs >= 0:
        n += 1
    return n


@jit
def _grow(w, q, i, sign):
    """Count a decoding sequence into (or out of) the phases and the contexts of its replica."""
    a = ask(w.asks, i)
    size = w.block
    context = a.target + (q.clock - a.joined)
    q.decodes += sign
    q.context += sign * context
    if w.admission != CONSERVATIVE:
        cell(q.phases_at, (context - q.clock) % size).v += sign


@jit
def _join(w, q, i):
    """Let a sequence whose prompt is computed decode from the next iteration on."""
    a = ask(w.asks, i)
    a.phase = DECODING
    if a.stopped_at >= 0.0:  # it was preempted
        a.stall = max(a.stall, w.now - a.stopped_at)
        a.stopped_at = -1.0
    a.joined = q.clock
    a.end = q.clock + a.output - a.generated
    q.next_end = min(q.next_end, a.end)
    _grow(w, q, i, 1)


@jit
def _held(w, q, i):
    """Blocks that a request holds for itself, apart from shared chunks."""
    a = ask(w.asks, i)
    if w.admission == CONSERVATIVE:
        return a.blocks
    size = w.block
    context = a.target
    if a.phase == DECODING:
        context += q.clock - a.joined + q.secured
    return blocks_of(context, size) - a.shared * w.chunk_blocks


@jit
def _leave(w, q, j):
    """Take the j-th running request out of its replica, with all that it holds; the others keep their order."""
    i = cell(q.running_at, j).v
    a = ask(w.asks, i)
    q.free += _held(w, q, i)
    if a.phase == DECODING:
        _grow(w, q, i, -1)
    for c in range(a.shared):
        _release(w, q, cell(w.chunks_at, a.chunk_at + c).v)
    a.shared = 0
    q.running -= 1
    for at in range(j, q.running):
        cell(q.running_at, at).v = cell(q.running_at, at + 1).v
    q.blocked = 0


@jit
def _next_end(w, q):
    found = BIG
    for j in range(q.running):
        i = cell(q.running_at, j).v
        a = ask(w.asks, i)
        if a.phase == DECODING:
            found = min(found, a.end)
    q.next_end = found


@jit
def _next_of_client(w, now):
    """In a closed loop, a client sends its next request when it has the answer to the last."""
    if w.closed == 1 and w.released < w.requests:
        ask(w.asks, w.released).arrival = now
        w.released += 1


@jit
def _finish(w, q, j, now):
    """The j-th running request has all its tokens."""
    i = cell(q.running_at, j).v
    a = ask(w.asks, i)
    if a.output > a.charged:
        _charge(w, i, float(a.output - a.charged), DECODE_WEIGHT)
        a.charged = a.output
    _leave(w, q, j)
    a.phase = DONE
    a.generated = a.output
    a.done_at = now
    q.load -= a.predicted
    w.left -= 1
    tpot = (now - a.first_at) / max(a.output - 1, 1)
    w.good += a.first_at - a.arrival <= w.limit_ttft and tpot <= w.limit_tpot
    _next_of_client(w, now)
    cell(q.history_at, min(a.output // HISTORY_STEP, HISTORY_BINS - 1)).v += 1
    q.learned += 1


@jit
def _queue(w, q, i):
    a = ask(w.asks, i)
    cell(q.waiting_at, q.queued).v = i
    q.queued += 1
    a.phase = QUEUE
    a.replica = q.index
    q.blocked = 0


@jit
def _preempt(w, q, j, now):
    """Take a running request's blocks away; it queues again. Returns the seconds that the replica stands still."""
    i = cell(q.running_at, j).v
    a = ask(w.asks, i)
    _settle(w, q)
    wait = 0.0
    before = q.next_end
    made = a.generated
    if a.phase == DECODING:
        made = a.output - (a.end - q.clock)
    held = _held(w, q, i) + a.shared * w.chunk_blocks
    swapped = w.swap == 1 and a.phase == DECODING
    if a.stopped_at < 0.0:
        a.stopped_at = now
    if swapped:
        wait = _swap_s(w, held)
        a.ready_at = now + wait
    finished = a.end
    _leave(w, q, j)
    a.generated = made
    a.done = 0
    a.now_tokens = 0
    a.target = a.prompt + max(made - 1, 0) if swapped else a.prompt + made
    a.kept = 1 if swapped else 0
    a.preempted += 1
    w.preemptions += 1
    _queue(w, q, i)
    if finished == before:
        _next_end(w, q)
    return 0.0 if w.swap_async == 1 else wait


@jit
def _swap_s(w, blocks):
    """Time of moving blocks between GPU and host: an operation for each group of blocks, and the bytes."""
    operations = (blocks + w.swap_group - 1) // w.swap_group
    return operations * w.swap_operation_s + blocks * w.swap_block_s


@jit
def _worst(w, q, now):
    """Place in the running list of the decoding request that comes last in the order; -1 if there is none."""
    found, worst = -1, -INF
    if w.order == FAIR:
        _settle_all(w)
    for j in range(q.running):
        i = cell(q.running_at, j).v
        if ask(w.asks, i).phase == DECODING:
            key = _key(w, i, now)
            if found < 0 or key >= worst:
                found, worst = j, key
    return found


@jit
def _best(w, q, now, kept):
    """Place in the queue of the request that comes first, of those whose cache is kept (1) or is to be computed (0).

    One whose blocks are still being moved has to wait. -1 if there is none.
    """
    found, best, who = -1, INF, BIG
    if w.order == FAIR:
        _settle_all(w)
    for j in range(q.queued):
        i = cell(q.waiting_at, j).v
        a = ask(w.asks, i)
        if a.kept != kept or (kept == 1 and a.ready_at > now):
            continue
        key = _key(w, i, now)
        if found < 0 or key < best or (key == best and i < who):
            found, best, who = j, key, i
    return found


@jit
def _made(w, q, i):
    """Tokens that a running request has given."""
    a = ask(w.asks, i)
    return a.output - (a.end - q.clock) if a.phase == DECODING else a.generated


@jit
def _learn(w, q):
    """Write the share of outputs that are longer than each length.

    Running requests count as longer than what they have given (Kaplan and Meier's estimate): the first that end are the
    short ones, and to learn from them alone lets far too many in.
    """
    for b in range(HISTORY_BINS):
        real(q.curve_at, b).v = 0.0
    for j in range(q.running):
        made = _made(w, q, cell(q.running_at, j).v)
        real(q.curve_at, min(made // HISTORY_STEP, HISTORY_BINS - 1)).v += 1.0
    ended, lasting = 0, 0.0
    for b in range(HISTORY_BINS - 1, -1, -1):  # of those that came to a bin, the share that went on to the next
        running = real(q.curve_at, b).v
        ended += cell(q.history_at, b).v
        there = ended + lasting
        lasting += running
        real(q.curve_at, b).v = (there - cell(q.history_at, b).v) / there if there > 0.0 else 1.0
    for b in range(1, HISTORY_BINS):
        real(q.curve_at, b).v *= real(q.curve_at, b - 1).v


@jit
def _longest(w, q, i, made):
    """Tokens that a request is expected to have at its end: a draw of its own from the lengths above what it has."""
    if q.index < w.prefillers:
        return made + 1  # it goes on elsewhere
    if q.learned < HISTORY_LEAST:
        return max(w.most_output, made + 1)
    low = min(made // HISTORY_STEP, HISTORY_BINS - 1)
    few = (i * GOLDEN + 0.5) % 1.0 * (real(q.curve_at, low - 1).v if low > 0 else 1.0)
    high = HISTORY_BINS
    while low < high:
        middle = (low + high) // 2
        if real(q.curve_at, middle).v > few:
            low = middle + 1
        else:
            high = middle
    return max((low + 1) * HISTORY_STEP if low < HISTORY_BINS else w.most_output, made + 1)


@jit
def _future_fits(w, q, i):
    """Past-Future admission: whether the running requests and this one fit at their fullest moment, a reserve kept.

    With the requests by expected tokens to go, most first, memory peaks when one of them ends:
    the largest of (contexts of the first m) + m * (tokens to go of the m-th). Source: Past-Future scheduler (LightLLM,
    arXiv 2507.10150), which draws the lengths anew at every step; here a request keeps its place in the distribution.
    """
    if q.learned >= q.learn_at:
        _learn(w, q)
        q.learn_at = q.learned + min(max(q.learned // 8, HISTORY_LEAST), HISTORY_MOST)
    n = 0
    for j in range(q.running + 1):
        other = cell(q.running_at, j).v if j < q.running else i
        made = _made(w, q, other)
        context = ask(w.asks, other).target
        if ask(w.asks, other).phase == DECODING:
            context += q.clock - ask(w.asks, other).joined
        left = _longest(w, q, other, made) - made
        at = n
        while at > 0 and pair(w.scratch_at, at - 1).left < left:
            pair(w.scratch_at, at).left = pair(w.scratch_at, at - 1).left
            pair(w.scratch_at, at).context = pair(w.scratch_at, at - 1).context
            at -= 1
        pair(w.scratch_at, at).left = left
        pair(w.scratch_at, at).context = context
        n += 1
    total, peak = 0, 0
    for m in range(n):
        total += pair(w.scratch_at, m).context
        peak = max(peak, total + (m + 1) * pair(w.scratch_at, m).left)
    return peak <= w.usable * (q.total * w.block)


@jit
def _admit(w, q, at, now):
    """Let the request at a place of the queue run, if its blocks are there; returns whether they are."""
    i = cell(q.waiting_at, at).v
    a = ask(w.asks, i)
    size = w.block
    hits = 0 if a.kept == 1 else _hits(w, q, i)
    if w.admission == CONSERVATIVE:
        tokens = a.prompt + max(w.most_output, a.output)
    else:
        tokens = a.target
    need = blocks_of(tokens, size) - hits * w.chunk_blocks
    idle = 0  # chunks that it shares and nobody else holds cannot be evicted for it
    for c in range(hits):
        if chunk(q.chunks_at, cell(w.chunks_at, a.chunk_at + c).v).refs == 0:
            idle += w.chunk_blocks
    free = q.free + q.idle - idle
    if q.running > 0:
        if w.admission == AGGRESSIVE and free - need < q.watermark:
            return False
        if w.admission == PAST_FUTURE and not _future_fits(w, q, i):
            return False
    if need > free:
        return False
    for c in range(hits):
        ident = cell(w.chunks_at, a.chunk_at + c).v
        if chunk(q.chunks_at, ident).refs == 0:
            q.idle -= w.chunk_blocks
        chunk(q.chunks_at, ident).refs += 1
    _take(w, q, need)
    a.blocks = need
    a.shared = hits
    a.hit_tokens = hits * w.chunk_blocks * size
    q.queued -= 1
    cell(q.waiting_at, at).v = cell(q.waiting_at, q.queued).v
    cell(q.running_at, q.running).v = i
    q.running += 1
    if a.started < 0.0:
        a.started = now
        _charge(w, i, float(a.prompt), 1.0)
    if a.kept == 1:
        if q.decodes == 0:
            q.token_at = now
        _join(w, q, i)
    else:
        a.phase = PREFILLING
        a.done = min(a.hit_tokens, a.target - 1)
    return True


@jit
def _assign(w, q, i, most):
    """Give a request's prompt at most so many tokens of this iteration; returns how many."""
    a = ask(w.asks, i)
    n = min(a.target - a.done, most)
    a.now_tokens = n
    q.tokens += n
    q.pairs += n * (a.done + 0.5 * n)
    q.parts += 1.0
    return n


@jit
def _fill(w, q, now, budget, whole, kept):
    """Let requests of the queue run, as many as fit, and give them tokens of this iteration.

    Args:
        budget: tokens for prompts.
        whole: prompts are not cut; the first may be longer than the budget.
        kept: 1 for requests whose cache is there (they only decode), 0 for those whose prompt is to be computed.

    Returns:
        The seconds that the replica stands still for swapping.
    """
    wait = 0.0
    given = q.tokens > 0
    while q.queued > 0 and q.blocked == 0:
        at = _best(w, q, now, kept)
        if at < 0:
            break
        i = cell(q.waiting_at, at).v
        a = ask(w.asks, i)
        if kept == 0 and (budget <= 0 or (whole and given and a.target > budget)):
            break
        if q.running >= w.most_running or not _admit(w, q, at, now):
            j = _worst(w, q, now) if w.quantum > 0 else -1
            margin = float(w.quantum) if w.order == FAIR else 0.0
            if j >= 0 and _key(w, cell(q.running_at, j).v, now) > _key(w, i, now) + margin:
                wait += _preempt(w, q, j, now)
                continue
            q.blocked = 1
            break
        if kept == 1:
            if a.preempted > 0 and w.swap_async == 0:
                wait += _swap_s(w, a.blocks)
            continue
        budget -= _assign(w, q, i, a.target if whole else budget)
        given = True
        q.admitted += 1.0
    return wait


@jit
def _go_on(w, q, budget):
    """Give tokens of this iteration to prompts that were begun; returns what is left."""
    for j in range(q.running):
        i = cell(q.running_at, j).v
        if ask(w.asks, i).phase == PREFILLING and budget > 0:
            budget -= _assign(w, q, i, budget)
    return budget


@jit
def _room(w, q, now, steps):
    """Take the blocks that decoding so many tokens needs, from the last of the order if need be; returns seconds."""
    wait = 0.0
    if w.admission == CONSERVATIVE:
        q.secured = steps
        return wait
    size = w.block
    while True:
        need = 0
        for d in range(steps):
            need += cell(q.phases_at, (-(q.clock + d)) % size).v
        if _take(w, q, need):
            q.secured = steps
            return wait
        j = _worst(w, q, now)
        if j < 0:  # nobody decodes
            return wait
        wait += _preempt(w, q, j, now)


@jit
def _advance(w, q):
    """Tokens that a sequence gets in this iteration: one, or more where some were guessed right."""
    q.guessed += w.tokens_step
    steps = int(q.guessed + 1e-9)
    q.guessed -= steps
    return steps


@jit
def schedule(w, q, e, now):
    """Compose the next iteration of a replica, and say when it ends; without work it stands still."""
    q.tokens = 0
    q.pairs = 0.0
    q.admitted = 0.0
    q.parts = 0.0
    q.secured = 0
    mode, wait = w.batching, 0.0
    if mode != STATIC or q.running == 0:
        wait += _fill(w, q, now, 0, False, 1)
    if mode == PREFILL_FIRST or (mode == STATIC and q.running == 0):
        _go_on(w, q, BIG)
        wait += _fill(w, q, now, w.most_tokens, True, 0)
        if q.tokens == 0 and q.decodes > 0:
            wait += _room(w, q, now, _advance(w, q))
    else:
        if q.decodes > 0:
            wait += _room(w, q, now, _advance(w, q))
        if mode == MIXED:
            _go_on(w, q, BIG)
            wait += _fill(w, q, now, w.most_tokens, True, 0)
        elif mode == CHUNKED:
            left = _go_on(w, q, max(w.chunk - q.decodes * (1 + w.guesses), 0))
            wait += _fill(w, q, now, left, False, 0)
    steps = q.secured
    batch, tokens = q.decodes if steps > 0 else 0, q.tokens
    if batch == 0 and tokens == 0:
        q.ready = now + wait if wait > 0.0 else INF
        q.pending = 0
        if q.queued > 0 and wait == 0.0:  # what is queued is still on its way from the host
            for j in range(q.queued):
                q.ready = min(q.ready, max(ask(w.asks, cell(q.waiting_at, j).v).ready_at, now))
        return
    most = 1 + w.guesses
    took = iteration_s(e, float(batch * most), float(q.context) if batch else 0.0, float(tokens), q.pairs)
    if w.guesses > 0 and batch > 0:
        took += w.guesses * w.draft * iteration_s(e, float(batch), 0.0, 0.0, 0.0)
    took += q.admitted * e.admit_s + q.parts * e.part_s + wait
    q.steps = steps
    q.pending = 1
    q.iterations += 1
    q.ready = now + took
    used = q.total - q.free - q.idle
    q.busy += took
    q.used += took * used / q.total
    q.batched += took * batch
    if w.logged < w.log_size:
        row = w.logged
        w.logged += 1
        line = entry(w.log_at, row)
        line.start, line.end, line.replica, line.batch, line.tokens, line.used = (
            now,
            now + took,
            q.index,
            batch,
            tokens,
            used,
        )


@jit
def _gap(w, q, now):
    """Count the time since the last tokens of the sequences that decode, with the prompts that came between."""
    gap = max((now - q.token_at) / max(q.steps, 1), GAP_LEAST_S)
    if gap < q.gap_from or gap >= q.gap_to:  # seldom: iterations are like the last one, and a logarithm is slow
        place = math.log(gap / GAP_LEAST_S) / math.log(GAP_STEP)
        q.gap_at = int(place) if place < GAP_BINS - 1 else GAP_BINS - 1  # an infinite one must not become a place
        q.gap_from = GAP_LEAST_S * GAP_STEP**q.gap_at
        q.gap_to = q.gap_from * GAP_STEP
    cell(w.gaps_at, q.gap_at).v += q.decodes * q.steps
    q.token_at = now


@jit
def complete(w, q, now):
    """Give the sequences of the iteration that has ended what it computed."""
    steps, tokens = q.steps, q.tokens
    q.pending = 0
    q.secured = 0
    if steps > 0:
        _gap(w, q, now)
        q.clock += steps
        q.context += steps * q.decodes
        if q.clock >= q.next_end:
            j = 0
            while j < q.running:
                i = cell(q.running_at, j).v
                a = ask(w.asks, i)
                if a.phase == DECODING and a.end <= q.clock:
                    _finish(w, q, j, now)
                else:
                    j += 1
            _next_end(w, q)
    if tokens == 0:
        return
    j = 0
    while j < q.running:
        i = cell(q.running_at, j).v
        a = ask(w.asks, i)
        n = a.now_tokens
        if a.phase != PREFILLING or n == 0:
            j += 1
            continue
        a.now_tokens = 0
        a.done += n
        if a.done < a.target:
            j += 1
            continue
        j += _computed(w, q, j, now)


@jit
def _computed(w, q, j, now):
    """A prompt is computed and has given a token; returns 0 if the request left the replica, else 1."""
    i = cell(q.running_at, j).v
    a = ask(w.asks, i)
    if w.caching == 1:
        for c in range(a.shared, a.chunk_n):
            ident = cell(w.chunks_at, a.chunk_at + c).v
            if chunk(q.chunks_at, ident).refs < 0:  # its own copy becomes the shared one
                chunk(q.chunks_at, ident).refs = 1
            else:
                if chunk(q.chunks_at, ident).refs == 0:
                    q.idle -= w.chunk_blocks
                chunk(q.chunks_at, ident).refs += 1
                q.free += w.chunk_blocks
            a.blocks -= w.chunk_blocks
        a.shared = a.chunk_n
    a.generated += 1
    _charge(w, i, float(a.generated - a.charged), DECODE_WEIGHT)
    a.charged = a.generated
    if a.generated == 1:
        a.first_at = now
        q.load -= a.prompt
    if a.generated >= a.output:
        _finish(w, q, j, now)
        return 0
    if q.index < w.prefillers:
        held = blocks_of(a.target, w.block)
        _leave(w, q, j)
        q.load -= a.predicted
        a.phase = MOVING
        a.kept = 1
        a.ready_at = now + w.move_s + held * w.move_block_s
        _push(w, i)
        return 0
    if q.decodes == 0:
        q.token_at = now
    _join(w, q, i)
    return 1


@jit
def _sooner(w, one, two):
    """Whether a request arrives at its decoding replica before another."""
    a, b = ask(w.asks, one), ask(w.asks, two)
    return a.ready_at < b.ready_at or (a.ready_at == b.ready_at and one < two)


@jit
def _push(w, i):
    """Put a request on its way to a decoding replica; the heap is by time of arrival there."""
    at = w.moves
    w.moves += 1
    while at > 0 and _sooner(w, i, cell(w.moves_at, (at - 1) // 2).v):
        cell(w.moves_at, at).v = cell(w.moves_at, (at - 1) // 2).v
        at = (at - 1) // 2
    cell(w.moves_at, at).v = i


@jit
def _pop(w):
    """Take the request that arrives first."""
    first = cell(w.moves_at, 0).v
    w.moves -= 1
    n, last, at = w.moves, cell(w.moves_at, w.moves).v, 0
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and _sooner(w, cell(w.moves_at, child + 1).v, cell(w.moves_at, child).v):
            child += 1
        if not _sooner(w, cell(w.moves_at, child).v, last):
            break
        cell(w.moves_at, at).v = cell(w.moves_at, child).v
        at = child
    cell(w.moves_at, at).v = last
    return first


@jit
def _least(w, start, stop):
    best = start
    for r in range(start + 1, stop):
        if replica(w.reps, r).load < replica(w.reps, best).load:
            best = r
    return best


@jit
def _mix(x):
    """Scramble 32 bits (Wang's hash)."""
    x = (x ^ 61 ^ (x >> 16)) & 0xFFFFFFFF
    x = (x + (x << 3)) & 0xFFFFFFFF
    x = x ^ (x >> 4)
    x = (x * 0x27D4EB2D) & 0xFFFFFFFF
    return x ^ (x >> 15)


@jit
def route(w, i):
    """Replica of a new request."""
    a = ask(w.asks, i)
    stop = w.prefillers if w.prefillers > 0 else w.replicas
    how = w.routing
    if how == ROUND_ROBIN:
        w.turn += 1
        return (w.turn - 1) % stop
    if how == LEAST_LOADED or stop == 1:
        return _least(w, 0, stop)
    n = a.chunk_n
    if how == PREFIX:
        total, best, most = 0, -1, 0
        for r in range(stop):
            q = replica(w.reps, r)
            total += q.load
            got = _hits(w, q, i)
            if got > most:
                best, most = r, got
        if best >= 0 and replica(w.reps, best).load * stop <= 2 * total + stop * AFFINITY_TOKENS:
            return best
        return _least(w, 0, stop)
    # two hashes of the prompt's beginning, or of the request itself where that is short; the better of the two by what is
    # left to compute
    start = cell(w.chunks_at, a.chunk_at + w.hash_chunks - 1).v if n >= w.hash_chunks else i
    one, two = _mix(start) % stop, _mix(start + 0x9E3779B9) % stop
    if how == ONE_HASH:
        return one
    size = w.chunk_blocks * w.block
    first, second = replica(w.reps, one), replica(w.reps, two)
    if first.load - _hits(w, first, i) * size <= second.load - _hits(w, second, i) * size:
        return one
    return two


@jit
def arrive(w, i):
    """A request comes: it is answered from the answers kept, refused, or queued."""
    a = ask(w.asks, i)
    now = a.arrival
    if w.answers > 0 and _answered(w, i):
        a.phase = DONE
        w.left -= 1
        a.first_at = a.done_at = now + w.lookup_s
        a.generated = a.output
        a.replica = -1
        _next_of_client(w, now)
        return
    size = w.block
    most = a.prompt + (max(w.most_output, a.output) if w.admission == CONSERVATIVE else a.output)
    if (
        blocks_of(most, size) > replica(w.reps, 0).total
        or blocks_of(most, size) > replica(w.reps, w.replicas - 1).total
    ):
        a.phase = REJECTED
        w.left -= 1
        _next_of_client(w, now)
        return
    q = replica(w.reps, route(w, i))
    a.target = a.prompt
    q.load += a.prompt + a.predicted
    if w.order == FAIR:
        _lift(w, i)
    _queue(w, q, i)
    if q.pending == 0:
        q.ready = min(q.ready, now)


@jit
def _lift(w, i):
    """A user who comes back gets no credit for the time away: the counter is lifted to the least of those here."""
    mine, least, here = ask(w.asks, i).user, INF, False
    _settle_all(w)
    for r in range(w.replicas):
        q = replica(w.reps, r)
        for j in range(q.queued + q.running):
            other = cell(q.waiting_at, j).v if j < q.queued else cell(q.running_at, j - q.queued).v
            if ask(w.asks, other).user == mine:
                here = True
            least = min(least, real(w.served_at, ask(w.asks, other).user).v)
    if not here and least < INF:
        real(w.served_at, mine).v = max(real(w.served_at, mine).v, least)


@jit
def _answered(w, i):
    """Whether an answer to the same question is kept and not too old for its category; keeps this one otherwise."""
    a = ask(w.asks, i)
    what = a.question
    if what < 0:
        return False
    ttl = real(w.ttl_at, a.category).v
    at, now = answer(w.answers_at, what).at, a.arrival
    if (
        at >= 0
        and ask(w.asks, at).done_at <= now
        and now - ask(w.asks, at).done_at <= ttl
        and answer(w.answers_at, what).kept == 1
    ):
        w.answered += 1
        w.stale += a.version != ask(w.asks, at).version
        return True
    if ttl > 0.0 and not (at >= 0 and ask(w.asks, at).done_at > now):
        if answer(w.answers_at, what).kept == 0:
            if w.kept >= w.answers:  # the oldest makes room
                old, when = -1, INF
                for other in range(w.questions):
                    entry_ = answer(w.answers_at, other)
                    if entry_.kept == 1 and (old < 0 or ask(w.asks, entry_.at).arrival < when):
                        old, when = other, ask(w.asks, entry_.at).arrival
                answer(w.answers_at, old).kept = 0
                w.kept -= 1
            answer(w.answers_at, what).kept = 1
            w.kept += 1
        answer(w.answers_at, what).at = i
    return False


@jit
def step(w, e, p):
    """Let the next event of a system happen; returns the replica that composes an iteration now, or -1.

    Args:
        w: the system.
        e: engine of the replicas that decode (or do both).
        p: engine of those that only prefill.
    """
    r, when = 0, replica(w.reps, 0).ready
    for other in range(1, w.replicas):
        if replica(w.reps, other).ready < when:
            r, when = other, replica(w.reps, other).ready
    coming = ask(w.asks, w.next).arrival if w.next < w.requests else INF
    moved = ask(w.asks, cell(w.moves_at, 0).v).ready_at if w.moves > 0 else INF
    if moved < INF and moved <= when and moved <= coming:
        i = _pop(w)
        a = ask(w.asks, i)
        q = replica(w.reps, _least(w, w.prefillers, w.replicas))
        a.target = a.prompt
        q.load += a.predicted
        _queue(w, q, i)
        w.now = moved
        if q.pending == 0:
            q.ready = min(q.ready, moved)
        return -1
    if coming <= when:
        if coming == INF:
            w.over = 1
            return -1
        w.next += 1
        w.now = coming
        arrive(w, w.next - 1)
        return -1
    w.now = when
    q = replica(w.reps, r)
    if q.pending == 1:
        complete(w, q, when)
    q.ready = INF
    return r


@jit
def run(w, e, p, most_queued, until):
    """Simulate a system until nothing is left to do, too many wait, a decision is to be taken, or time is up.

    Args:
        w, e, p: see ``step``.
        most_queued: waiting requests at which the system is given up as unstable.
        until: 0, or 1 to stop before composing an iteration while requests wait.

    Returns:
        -1 when it is over, -2 when it was given up, else the replica that waits for a decision.
    """
    while w.over == 0:
        r = step(w, e, p)
        if r < 0:
            continue
        q = replica(w.reps, r)
        if q.queued > most_queued:
            return -2
        if until == 1 and q.queued > 0:
            return r
        schedule(w, q, p if r < w.prefillers else e, w.now)
    return -1


@jit
def run_one(systems, k, e, p, most_queued, until):
    """``run`` for system ``k`` at address ``systems``."""
    return run(system(systems, k), e, p, most_queued, until)
