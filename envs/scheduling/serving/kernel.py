"""The serving simulator, compiled: replicas that batch iteration by iteration, with a paged key-value cache.

State is in the records of ``state``; a request is known by its ``number``, and by its ``place`` in a list of a replica.
``reference`` says the same in plain Python, and tests hold the two together request by request: change both.

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
from tunewright.envs.scheduling.kernels import INF, drop_event, event_at, integer_at, number_at, push_event, take_out
from tunewright.envs.scheduling.serving import state

system_at, replica_at, request_at = record_at(state.SYSTEM), record_at(state.REPLICA), record_at(state.REQUEST)
chunk_at, pair_at = record_at(state.CHUNK), record_at(state.PAIR)
answer_at, entry_at = record_at(state.ANSWER), record_at(state.ENTRY)


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
def _key(system, number, now):
    """Place of a request in the order of its replica; the smallest is first. Ties go to the earlier request."""
    request = request_at(system.requests, number)
    order = system.order
    if order == state.FCFS:
        return float(number)
    if order == state.SJF:
        return request.work_s
    if order == state.GROUP:
        return float(request.rank)
    if order == state.FAIR:
        return number_at(system.served, request.user).value
    # by service time where the limits can still be met, sooner where time is short; what cannot be met comes last
    slack = system.ttft_limit_s - (now - request.arrival_s) - request.first_work_s
    if request.generated > 0:
        return request.work_s * 0.1
    if slack < 0.0:
        return 1e9 + request.arrival_s
    return request.work_s * min(max(slack / system.ttft_limit_s, 0.1), 1.0)


@jit
def _charge(system, request, tokens, weight):
    """Put tokens on a user's virtual counter."""
    number_at(system.served, request.user).value += tokens * weight


@jit
def _settle(system, replica):
    """Charge the users of a replica's running sequences for what was generated since they were last charged."""
    for place in range(replica.running_count):
        request = request_at(system.requests, integer_at(replica.running, place).value)
        if request.phase == state.DECODING:
            generated = _generated(system, replica, request)
            if generated > request.charged_tokens:
                _charge(system, request, float(generated - request.charged_tokens), state.DECODE_WEIGHT)
                request.charged_tokens = generated


@jit
def _settle_all(system):
    """``_settle`` for all replicas."""
    for index in range(system.replica_count):
        _settle(system, replica_at(system.replicas, index))


@jit
def _release(system, replica, chunk_number):
    """One request less holds a chunk of a prompt; the last one leaves it to be evicted."""
    chunk = chunk_at(replica.chunks, chunk_number)
    chunk.holders -= 1
    if chunk.holders == 0:
        if replica.lru_tail - replica.lru_head >= replica.lru_size:
            _pack(system, replica)
        chunk.lru_stamp = replica.lru_tail
        integer_at(replica.lru, replica.lru_tail % replica.lru_size).value = chunk_number
        replica.lru_tail += 1
        replica.idle_blocks += system.chunk_blocks


@jit
def _pack(system, replica):
    """Close the gaps in the queue of chunks that nobody holds."""
    size = replica.lru_size
    new = replica.lru_head
    for old in range(replica.lru_head, replica.lru_tail):
        chunk_number = integer_at(replica.lru, old % size).value
        chunk = chunk_at(replica.chunks, chunk_number)
        if chunk.holders == 0 and chunk.lru_stamp == old:
            integer_at(replica.lru, new % size).value = chunk_number
            chunk.lru_stamp = new
            new += 1
    replica.lru_tail = new


@jit
def _prompt_chunk(system, request, nth):
    return integer_at(system.prompt_chunks, request.first_chunk + nth).value


@jit
def _take(system, replica, blocks):
    """Take blocks, from what nobody holds if need be; False, and nothing is done, where they are not there."""
    if blocks > replica.free_blocks + replica.idle_blocks:
        return False
    while replica.free_blocks < blocks:
        at = replica.lru_head
        replica.lru_head += 1
        chunk = chunk_at(replica.chunks, integer_at(replica.lru, at % replica.lru_size).value)
        if chunk.holders == 0 and chunk.lru_stamp == at:
            chunk.holders = -1
            replica.idle_blocks -= system.chunk_blocks
            replica.free_blocks += system.chunk_blocks
    replica.free_blocks -= blocks
    used = replica.total_blocks - replica.free_blocks - replica.idle_blocks
    replica.peak_blocks = max(replica.peak_blocks, used)
    return True


@jit
def _hits(system, replica, request):
    """Chunks at the start of a prompt that the replica has."""
    if system.caching == 0:
        return 0
    count = 0
    while count < request.chunk_count and chunk_at(replica.chunks, _prompt_chunk(system, request, count)).holders >= 0:
        count += 1
    return count


@jit
def _grow(system, replica, request, sign):
    """Count a decoding sequence into (or out of) the phases and the contexts of its replica."""
    size = system.block_tokens
    context = request.target_tokens + (replica.clock - request.joined_clock)
    replica.decoding_count += sign
    replica.context_tokens += sign * context
    if system.admission != state.CONSERVATIVE:
        integer_at(replica.phases, (context - replica.clock) % size).value += sign


@jit
def _join(system, replica, request):
    """Let a sequence whose prompt is computed decode from the next iteration on."""
    request.phase = state.DECODING
    if request.stopped_at >= 0.0:  # it was preempted
        request.stall_s = max(request.stall_s, system.now_s - request.stopped_at)
        request.stopped_at = -1.0
    request.joined_clock = replica.clock
    request.end_clock = replica.clock + request.output - request.generated
    replica.next_end = min(replica.next_end, request.end_clock)
    _grow(system, replica, request, 1)


@jit
def _own_blocks(system, replica, request):
    """Blocks that a request holds for itself, apart from shared chunks."""
    if system.admission == state.CONSERVATIVE:
        return request.own_blocks
    size = system.block_tokens
    context = request.target_tokens
    if request.phase == state.DECODING:
        context += replica.clock - request.joined_clock + replica.secured_steps
    return blocks_of(context, size) - request.shared_chunks * system.chunk_blocks


@jit
def _leave(system, replica, place):
    """Take the running request at a place out of its replica, with all that it holds; the others keep their order."""
    request = request_at(system.requests, integer_at(replica.running, place).value)
    replica.free_blocks += _own_blocks(system, replica, request)
    if request.phase == state.DECODING:
        _grow(system, replica, request, -1)
    for nth in range(request.shared_chunks):
        _release(system, replica, _prompt_chunk(system, request, nth))
    request.shared_chunks = 0
    replica.running_count -= 1
    take_out(replica.running, place, replica.running_count)
    replica.blocked = 0


@jit
def _next_end(system, replica):
    soonest = state.BIG
    for place in range(replica.running_count):
        request = request_at(system.requests, integer_at(replica.running, place).value)
        if request.phase == state.DECODING:
            soonest = min(soonest, request.end_clock)
    replica.next_end = soonest


@jit
def _next_of_client(system, now):
    """In a closed loop, a client sends its next request when it has the answer to the last."""
    if system.closed == 1 and system.released < system.request_count:
        request_at(system.requests, system.released).arrival_s = now
        system.released += 1


@jit
def _finish(system, replica, place, now):
    """The running request at a place has all its tokens."""
    request = request_at(system.requests, integer_at(replica.running, place).value)
    if request.output > request.charged_tokens:
        _charge(system, request, float(request.output - request.charged_tokens), state.DECODE_WEIGHT)
        request.charged_tokens = request.output
    _leave(system, replica, place)
    request.phase = state.DONE
    request.generated = request.output
    request.done_at = now
    replica.load_tokens -= request.predicted
    system.unfinished -= 1
    tpot = (now - request.first_at) / max(request.output - 1, 1)
    system.good += request.first_at - request.arrival_s <= system.ttft_limit_s and tpot <= system.tpot_limit_s
    _next_of_client(system, now)
    integer_at(replica.history, min(request.output // state.HISTORY_STEP, state.HISTORY_BINS - 1)).value += 1
    replica.learned_count += 1


@jit
def _queue(system, replica, number):
    request = request_at(system.requests, number)
    integer_at(replica.waiting, replica.waiting_count).value = number
    replica.waiting_count += 1
    request.phase = state.QUEUE
    request.replica = replica.index
    replica.blocked = 0


@jit
def _preempt(system, replica, place, now):
    """Take a running request's blocks away; it queues again. Returns the seconds that the replica stands still."""
    number = integer_at(replica.running, place).value
    request = request_at(system.requests, number)
    _settle(system, replica)
    wait = 0.0
    before = replica.next_end
    generated = request.generated
    if request.phase == state.DECODING:
        generated = request.output - (request.end_clock - replica.clock)
    blocks = _own_blocks(system, replica, request) + request.shared_chunks * system.chunk_blocks
    swapped = system.swap == 1 and request.phase == state.DECODING
    if request.stopped_at < 0.0:
        request.stopped_at = now
    if swapped:
        wait = _swap_s(system, blocks)
        request.ready_at = now + wait
    finished = request.end_clock
    _leave(system, replica, place)
    request.generated = generated
    request.done_tokens = 0
    request.now_tokens = 0
    request.target_tokens = request.prompt + max(generated - 1, 0) if swapped else request.prompt + generated
    request.cache_kept = 1 if swapped else 0
    request.preempted += 1
    system.preemptions += 1
    _queue(system, replica, number)
    if finished == before:
        _next_end(system, replica)
    return 0.0 if system.swap_async == 1 else wait


@jit
def _swap_s(system, blocks):
    """Time of moving blocks between GPU and host: an operation for each group of blocks, and the bytes."""
    operations = (blocks + system.swap_group_blocks - 1) // system.swap_group_blocks
    return operations * system.swap_operation_s + blocks * system.swap_block_s


@jit
def _worst(system, replica, now):
    """Place in the running list of the decoding request that comes last in the order; -1 if there is none."""
    worst_place, worst_key = -1, -INF
    if system.order == state.FAIR:
        _settle_all(system)
    for place in range(replica.running_count):
        number = integer_at(replica.running, place).value
        if request_at(system.requests, number).phase == state.DECODING:
            key = _key(system, number, now)
            if worst_place < 0 or key >= worst_key:
                worst_place, worst_key = place, key
    return worst_place


@jit
def _best(system, replica, now, kept):
    """Place in the queue of the request that comes first, of those whose cache is kept (1) or is to be computed (0).

    One whose blocks are still being moved has to wait. -1 if there is none.
    """
    best_place, best_key, best_number = -1, INF, state.BIG
    if system.order == state.FAIR:
        _settle_all(system)
    for place in range(replica.waiting_count):
        number = integer_at(replica.waiting, place).value
        request = request_at(system.requests, number)
        if request.cache_kept != kept or (kept == 1 and request.ready_at > now):
            continue
        key = _key(system, number, now)
        if best_place < 0 or key < best_key or (key == best_key and number < best_number):
            best_place, best_key, best_number = place, key, number
    return best_place


@jit
def _generated(system, replica, request):
    """Tokens that a running request has given."""
    if request.phase != state.DECODING:
        return request.generated
    return request.output - (request.end_clock - replica.clock)


@jit
def _learn(system, replica):
    """Write the share of outputs that are longer than each length.

    Running requests count as longer than what they have given (Kaplan and Meier's estimate): the first that end are the
    short ones, and to learn from them alone lets far too many in.
    """
    for bucket in range(state.HISTORY_BINS):
        number_at(replica.curve, bucket).value = 0.0
    for place in range(replica.running_count):
        generated = _generated(system, replica, request_at(system.requests, integer_at(replica.running, place).value))
        number_at(replica.curve, min(generated // state.HISTORY_STEP, state.HISTORY_BINS - 1)).value += 1.0
    ended, lasting = 0, 0.0
    for bucket in range(state.HISTORY_BINS - 1, -1, -1):
        share, ending = number_at(replica.curve, bucket), integer_at(replica.history, bucket).value
        ended += ending
        there = ended + lasting
        lasting += share.value
        # of those that came to a bin, the share that went on to the next
        share.value = (there - ending) / there if there > 0.0 else 1.0
    for bucket in range(1, state.HISTORY_BINS):
        number_at(replica.curve, bucket).value *= number_at(replica.curve, bucket - 1).value


@jit
def _longest(system, replica, number, generated):
    """Tokens that a request is expected to have at its end: a draw of its own from the lengths above what it has."""
    if replica.index < system.prefiller_count:
        return generated + 1  # it goes on elsewhere
    if replica.learned_count < state.HISTORY_LEAST:
        return max(system.most_output_tokens, generated + 1)
    low = min(generated // state.HISTORY_STEP, state.HISTORY_BINS - 1)
    few = (number * state.GOLDEN + 0.5) % 1.0 * (number_at(replica.curve, low - 1).value if low > 0 else 1.0)
    high = state.HISTORY_BINS
    while low < high:
        middle = (low + high) // 2
        if number_at(replica.curve, middle).value > few:
            low = middle + 1
        else:
            high = middle
    return max((low + 1) * state.HISTORY_STEP if low < state.HISTORY_BINS else system.most_output_tokens, generated + 1)


@jit
def _future_fits(system, replica, number):
    """Past-Future admission: whether the running requests and this one fit at their fullest moment, a reserve kept.

    With the requests by expected tokens to go, most first, memory peaks when one of them ends:
    the largest of (contexts of the first m) + m * (tokens to go of the m-th). Source: Past-Future scheduler (LightLLM,
    arXiv 2507.10150), which draws the lengths anew at every step; here a request keeps its place in the distribution.
    """
    if replica.learned_count >= replica.next_learning:
        _learn(system, replica)
        more = min(max(replica.learned_count // 8, state.HISTORY_LEAST), state.HISTORY_MOST)
        replica.next_learning = replica.learned_count + more
    count = 0
    for place in range(replica.running_count + 1):
        other = integer_at(replica.running, place).value if place < replica.running_count else number
        request = request_at(system.requests, other)
        generated = _generated(system, replica, request)
        context = request.target_tokens
        if request.phase == state.DECODING:
            context += replica.clock - request.joined_clock
        left = _longest(system, replica, other, generated) - generated
        at = count
        while at > 0 and pair_at(system.scratch, at - 1).left_tokens < left:
            pair, before = pair_at(system.scratch, at), pair_at(system.scratch, at - 1)
            pair.left_tokens, pair.context_tokens = before.left_tokens, before.context_tokens
            at -= 1
        pair = pair_at(system.scratch, at)
        pair.left_tokens, pair.context_tokens = left, context
        count += 1
    total, peak = 0, 0
    for nth in range(count):
        total += pair_at(system.scratch, nth).context_tokens
        peak = max(peak, total + (nth + 1) * pair_at(system.scratch, nth).left_tokens)
    return peak <= system.usable_share * (replica.total_blocks * system.block_tokens)


@jit
def _admit(system, replica, at, now):
    """Let the request at a place of the queue run, if its blocks are there; returns whether they are."""
    number = integer_at(replica.waiting, at).value
    request = request_at(system.requests, number)
    size = system.block_tokens
    hits = 0 if request.cache_kept == 1 else _hits(system, replica, request)
    if system.admission == state.CONSERVATIVE:
        tokens = request.prompt + max(system.most_output_tokens, request.output)
    else:
        tokens = request.target_tokens
    need = blocks_of(tokens, size) - hits * system.chunk_blocks
    idle = 0  # chunks that it shares and nobody else holds cannot be evicted for it
    for nth in range(hits):
        if chunk_at(replica.chunks, _prompt_chunk(system, request, nth)).holders == 0:
            idle += system.chunk_blocks
    free = replica.free_blocks + replica.idle_blocks - idle
    if replica.running_count > 0:
        if system.admission == state.AGGRESSIVE and free - need < replica.watermark_blocks:
            return False
        if system.admission == state.PAST_FUTURE and not _future_fits(system, replica, number):
            return False
    if need > free:
        return False
    for nth in range(hits):
        chunk = chunk_at(replica.chunks, _prompt_chunk(system, request, nth))
        if chunk.holders == 0:
            replica.idle_blocks -= system.chunk_blocks
        chunk.holders += 1
    _take(system, replica, need)
    request.own_blocks = need
    request.shared_chunks = hits
    request.hit_tokens = hits * system.chunk_blocks * size
    replica.waiting_count -= 1
    integer_at(replica.waiting, at).value = integer_at(replica.waiting, replica.waiting_count).value
    integer_at(replica.running, replica.running_count).value = number
    replica.running_count += 1
    if request.started < 0.0:
        request.started = now
        _charge(system, request, float(request.prompt), 1.0)
    if request.cache_kept == 1:
        if replica.decoding_count == 0:
            replica.token_at = now
        _join(system, replica, request)
    else:
        request.phase = state.PREFILLING
        request.done_tokens = min(request.hit_tokens, request.target_tokens - 1)
    return True


@jit
def _assign(system, replica, request, most):
    """Give a request's prompt at most so many tokens of this iteration; returns how many."""
    tokens = min(request.target_tokens - request.done_tokens, most)
    request.now_tokens = tokens
    replica.prompt_tokens += tokens
    replica.pairs += tokens * (request.done_tokens + 0.5 * tokens)
    replica.part_count += 1.0
    return tokens


@jit
def _fill(system, replica, now, budget, whole, kept):
    """Let requests of the queue run, as many as fit, and give them tokens of this iteration.

    Args:
        budget: tokens for prompts.
        whole: prompts are not cut; the first may be longer than the budget.
        kept: 1 for requests whose cache is there (they only decode), 0 for those whose prompt is to be computed.

    Returns:
        The seconds that the replica stands still for swapping.
    """
    wait = 0.0
    given = replica.prompt_tokens > 0
    while replica.waiting_count > 0 and replica.blocked == 0:
        at = _best(system, replica, now, kept)
        if at < 0:
            break
        number = integer_at(replica.waiting, at).value
        request = request_at(system.requests, number)
        if kept == 0 and (budget <= 0 or (whole and given and request.target_tokens > budget)):
            break
        if replica.running_count >= system.most_running or not _admit(system, replica, at, now):
            place = _worst(system, replica, now) if system.quantum_tokens > 0 else -1
            margin = float(system.quantum_tokens) if system.order == state.FAIR else 0.0
            other = integer_at(replica.running, max(place, 0)).value
            if place >= 0 and _key(system, other, now) > _key(system, number, now) + margin:
                wait += _preempt(system, replica, place, now)
                continue
            replica.blocked = 1
            break
        if kept == 1:
            if request.preempted > 0 and system.swap_async == 0:
                wait += _swap_s(system, request.own_blocks)
            continue
        budget -= _assign(system, replica, request, request.target_tokens if whole else budget)
        given = True
        replica.admitted_count += 1.0
    return wait


@jit
def _go_on(system, replica, budget):
    """Give tokens of this iteration to prompts that were begun; returns what is left."""
    for place in range(replica.running_count):
        request = request_at(system.requests, integer_at(replica.running, place).value)
        if request.phase == state.PREFILLING and budget > 0:
            budget -= _assign(system, replica, request, budget)
    return budget


@jit
def _room(system, replica, now, steps):
    """Take the blocks that decoding so many tokens needs, from the last of the order if need be; returns seconds."""
    wait = 0.0
    if system.admission == state.CONSERVATIVE:
        replica.secured_steps = steps
        return wait
    size = system.block_tokens
    while True:
        need = 0
        for ahead in range(steps):
            need += integer_at(replica.phases, (-(replica.clock + ahead)) % size).value
        if _take(system, replica, need):
            replica.secured_steps = steps
            return wait
        place = _worst(system, replica, now)
        if place < 0:  # nobody decodes
            return wait
        wait += _preempt(system, replica, place, now)


@jit
def _advance(system, replica):
    """Tokens that a sequence gets in this iteration: one, or more where some were guessed right."""
    replica.guessed += system.tokens_per_step
    steps = int(replica.guessed + 1e-9)
    replica.guessed -= steps
    return steps


@jit
def schedule(system, replica, engine, now):
    """Compose the next iteration of a replica, and say when it ends; without work it stands still."""
    replica.prompt_tokens = 0
    replica.pairs = 0.0
    replica.admitted_count = 0.0
    replica.part_count = 0.0
    replica.secured_steps = 0
    mode, wait = system.batching, 0.0
    if mode != state.STATIC or replica.running_count == 0:
        wait += _fill(system, replica, now, 0, False, 1)
    if mode == state.PREFILL_FIRST or (mode == state.STATIC and replica.running_count == 0):
        _go_on(system, replica, state.BIG)
        wait += _fill(system, replica, now, system.most_tokens, True, 0)
        if replica.prompt_tokens == 0 and replica.decoding_count > 0:
            wait += _room(system, replica, now, _advance(system, replica))
    else:
        if replica.decoding_count > 0:
            wait += _room(system, replica, now, _advance(system, replica))
        if mode == state.MIXED:
            _go_on(system, replica, state.BIG)
            wait += _fill(system, replica, now, system.most_tokens, True, 0)
        elif mode == state.CHUNKED:
            left = _go_on(system, replica, max(system.chunk_tokens - replica.decoding_count * (1 + system.guesses), 0))
            wait += _fill(system, replica, now, left, False, 0)
    steps = replica.secured_steps
    batch, tokens = replica.decoding_count if steps > 0 else 0, replica.prompt_tokens
    if batch == 0 and tokens == 0:
        replica.ready_at = now + wait if wait > 0.0 else INF
        replica.pending = 0
        if replica.waiting_count > 0 and wait == 0.0:  # what is queued is still on its way from the host
            for place in range(replica.waiting_count):
                request = request_at(system.requests, integer_at(replica.waiting, place).value)
                replica.ready_at = min(replica.ready_at, max(request.ready_at, now))
        return
    most = 1 + system.guesses
    context = float(replica.context_tokens) if batch else 0.0
    took = iteration_s(engine, float(batch * most), context, float(tokens), replica.pairs)
    if system.guesses > 0 and batch > 0:
        took += system.guesses * system.draft_share * iteration_s(engine, float(batch), 0.0, 0.0, 0.0)
    took += replica.admitted_count * engine.admit_s + replica.part_count * engine.part_s + wait
    replica.steps = steps
    replica.pending = 1
    replica.iterations += 1
    replica.ready_at = now + took
    used = replica.total_blocks - replica.free_blocks - replica.idle_blocks
    replica.busy_s += took
    replica.used_s += took * used / replica.total_blocks
    replica.batched_s += took * batch
    if system.logged < system.log_size:
        entry = entry_at(system.log, system.logged)
        system.logged += 1
        entry.start, entry.end, entry.replica = now, now + took, replica.index
        entry.batch, entry.tokens, entry.used = batch, tokens, used


@jit
def _gap(system, replica, now):
    """Count the time since the last tokens of the sequences that decode, with the prompts that came between."""
    gap = max((now - replica.token_at) / max(replica.steps, 1), state.GAP_LEAST_S)
    # seldom: iterations are like the last one, and a logarithm is slow
    if gap < replica.gap_from_s or gap >= replica.gap_to_s:
        place = math.log(gap / state.GAP_LEAST_S) / math.log(state.GAP_STEP)
        # an infinite one must not become a place
        replica.gap_bin = int(place) if place < state.GAP_BINS - 1 else state.GAP_BINS - 1
        replica.gap_from_s = state.GAP_LEAST_S * state.GAP_STEP**replica.gap_bin
        replica.gap_to_s = replica.gap_from_s * state.GAP_STEP
    integer_at(system.gaps, replica.gap_bin).value += replica.decoding_count * replica.steps
    replica.token_at = now


@jit
def complete(system, replica, now):
    """Give the sequences of the iteration that has ended what it computed."""
    steps, tokens = replica.steps, replica.prompt_tokens
    replica.pending = 0
    replica.secured_steps = 0
    if steps > 0:
        _gap(system, replica, now)
        replica.clock += steps
        replica.context_tokens += steps * replica.decoding_count
        if replica.clock >= replica.next_end:
            place = 0
            while place < replica.running_count:
                request = request_at(system.requests, integer_at(replica.running, place).value)
                if request.phase == state.DECODING and request.end_clock <= replica.clock:
                    _finish(system, replica, place, now)
                else:
                    place += 1
            _next_end(system, replica)
    if tokens == 0:
        return
    place = 0
    while place < replica.running_count:
        request = request_at(system.requests, integer_at(replica.running, place).value)
        computed = request.now_tokens
        if request.phase != state.PREFILLING or computed == 0:
            place += 1
            continue
        request.now_tokens = 0
        request.done_tokens += computed
        if request.done_tokens < request.target_tokens:
            place += 1
            continue
        place += _computed(system, replica, place, now)


@jit
def _computed(system, replica, place, now):
    """A prompt is computed and has given a token; returns 0 if the request left the replica, else 1."""
    number = integer_at(replica.running, place).value
    request = request_at(system.requests, number)
    if system.caching == 1:
        for nth in range(request.shared_chunks, request.chunk_count):
            chunk = chunk_at(replica.chunks, _prompt_chunk(system, request, nth))
            if chunk.holders < 0:  # its own copy becomes the shared one
                chunk.holders = 1
            else:
                if chunk.holders == 0:
                    replica.idle_blocks -= system.chunk_blocks
                chunk.holders += 1
                replica.free_blocks += system.chunk_blocks
            request.own_blocks -= system.chunk_blocks
        request.shared_chunks = request.chunk_count
    request.generated += 1
    _charge(system, request, float(request.generated - request.charged_tokens), state.DECODE_WEIGHT)
    request.charged_tokens = request.generated
    if request.generated == 1:
        request.first_at = now
        replica.load_tokens -= request.prompt
    if request.generated >= request.output:
        _finish(system, replica, place, now)
        return 0
    if replica.index < system.prefiller_count:
        blocks = blocks_of(request.target_tokens, system.block_tokens)
        _leave(system, replica, place)
        replica.load_tokens -= request.predicted
        request.phase = state.MOVING
        request.cache_kept = 1
        request.ready_at = now + system.move_s + blocks * system.move_block_s
        push_event(system.moves, system.move_count, request.ready_at, number, number, 1)
        system.move_count += 1
        return 0
    if replica.decoding_count == 0:
        replica.token_at = now
    _join(system, replica, request)
    return 1


@jit
def _least(system, start, stop):
    best = start
    for index in range(start + 1, stop):
        if replica_at(system.replicas, index).load_tokens < replica_at(system.replicas, best).load_tokens:
            best = index
    return best


@jit
def _mix(bits):
    """Scramble 32 bits (Wang's hash)."""
    bits = (bits ^ 61 ^ (bits >> 16)) & 0xFFFFFFFF
    bits = (bits + (bits << 3)) & 0xFFFFFFFF
    bits = bits ^ (bits >> 4)
    bits = (bits * 0x27D4EB2D) & 0xFFFFFFFF
    return bits ^ (bits >> 15)


@jit
def route(system, number):
    """Replica of a new request."""
    request = request_at(system.requests, number)
    stop = system.prefiller_count if system.prefiller_count > 0 else system.replica_count
    how = system.routing
    if how == state.ROUND_ROBIN:
        system.turn += 1
        return (system.turn - 1) % stop
    if how == state.LEAST_LOADED or stop == 1:
        return _least(system, 0, stop)
    chunk_count = request.chunk_count
    if how == state.PREFIX:
        total, best, most = 0, -1, 0
        for index in range(stop):
            replica = replica_at(system.replicas, index)
            total += replica.load_tokens
            got = _hits(system, replica, request)
            if got > most:
                best, most = index, got
        most_tokens = 2 * total + stop * state.AFFINITY_TOKENS
        if best >= 0 and replica_at(system.replicas, best).load_tokens * stop <= most_tokens:
            return best
        return _least(system, 0, stop)
    # two hashes of the prompt's beginning, or of the request itself where that is short; the better of the two by what
    # is left to compute
    start = _prompt_chunk(system, request, system.hash_chunks - 1) if chunk_count >= system.hash_chunks else number
    one, two = _mix(start) % stop, _mix(start + 0x9E3779B9) % stop
    if how == state.ONE_HASH:
        return one
    size = system.chunk_blocks * system.block_tokens
    first, second = replica_at(system.replicas, one), replica_at(system.replicas, two)
    left = first.load_tokens - _hits(system, first, request) * size
    return one if left <= second.load_tokens - _hits(system, second, request) * size else two


@jit
def arrive(system, number):
    """A request comes: it is answered from the answers kept, refused, or queued."""
    request = request_at(system.requests, number)
    now = request.arrival_s
    if system.most_answers > 0 and _answered(system, number):
        request.phase = state.DONE
        system.unfinished -= 1
        request.first_at = request.done_at = now + system.lookup_s
        request.generated = request.output
        request.replica = -1
        _next_of_client(system, now)
        return
    size = system.block_tokens
    output = request.output
    if system.admission == state.CONSERVATIVE:
        output = max(system.most_output_tokens, output)
    needed = blocks_of(request.prompt + output, size)
    first, last = replica_at(system.replicas, 0), replica_at(system.replicas, system.replica_count - 1)
    if needed > first.total_blocks or needed > last.total_blocks:
        request.phase = state.REJECTED
        system.unfinished -= 1
        _next_of_client(system, now)
        return
    replica = replica_at(system.replicas, route(system, number))
    request.target_tokens = request.prompt
    replica.load_tokens += request.prompt + request.predicted
    if system.order == state.FAIR:
        _lift(system, number)
    _queue(system, replica, number)
    if replica.pending == 0:
        replica.ready_at = min(replica.ready_at, now)


@jit
def _lift(system, number):
    """A user who comes back gets no credit for the time away: the counter is lifted to the least of those here."""
    mine, least, here = request_at(system.requests, number).user, INF, False
    _settle_all(system)
    for index in range(system.replica_count):
        replica = replica_at(system.replicas, index)
        for place in range(replica.waiting_count + replica.running_count):
            at = place - replica.waiting_count
            queued = integer_at(replica.waiting, place) if at < 0 else integer_at(replica.running, at)
            user = request_at(system.requests, queued.value).user
            here = here or user == mine
            least = min(least, number_at(system.served, user).value)
    if not here and least < INF:
        number_at(system.served, mine).value = max(number_at(system.served, mine).value, least)


@jit
def _answered(system, number):
    """Whether an answer to the same question is kept and not too old for its category; keeps this one otherwise."""
    request = request_at(system.requests, number)
    if request.question < 0:
        return False
    ttl_s, now = number_at(system.ttl_s, request.category).value, request.arrival_s
    answer = answer_at(system.kept_answers, request.question)
    earlier = request_at(system.requests, answer.request)
    if answer.request >= 0 and earlier.done_at <= now and now - earlier.done_at <= ttl_s and answer.kept == 1:
        system.answered += 1
        system.stale += request.version != earlier.version
        return True
    if ttl_s > 0.0 and not (answer.request >= 0 and earlier.done_at > now):
        if answer.kept == 0:
            if system.answer_count >= system.most_answers:  # the oldest makes room
                oldest, oldest_at = -1, INF
                for other in range(system.question_count):
                    other_answer = answer_at(system.kept_answers, other)
                    asked = request_at(system.requests, other_answer.request)
                    if other_answer.kept == 1 and (oldest < 0 or asked.arrival_s < oldest_at):
                        oldest, oldest_at = other, asked.arrival_s
                answer_at(system.kept_answers, oldest).kept = 0
                system.answer_count -= 1
            answer.kept = 1
            system.answer_count += 1
        answer.request = number
    return False


@jit
def step(system, engine, prefill_engine):
    """Let the next event of a system happen; returns the replica that composes an iteration now, or -1.

    Args:
        system: whose.
        engine: of the replicas that decode (or do both).
        prefill_engine: of those that only prefill.
    """
    index, when = 0, replica_at(system.replicas, 0).ready_at
    for other in range(1, system.replica_count):
        if replica_at(system.replicas, other).ready_at < when:
            index, when = other, replica_at(system.replicas, other).ready_at
    following = request_at(system.requests, system.next_request)
    coming = following.arrival_s if system.next_request < system.request_count else INF
    moved = event_at(system.moves, 0).time_s if system.move_count > 0 else INF
    if moved < INF and moved <= when and moved <= coming:
        number = event_at(system.moves, 0).what
        system.move_count -= 1
        drop_event(system.moves, system.move_count)
        request = request_at(system.requests, number)
        replica = replica_at(system.replicas, _least(system, system.prefiller_count, system.replica_count))
        request.target_tokens = request.prompt
        replica.load_tokens += request.predicted
        _queue(system, replica, number)
        system.now_s = moved
        if replica.pending == 0:
            replica.ready_at = min(replica.ready_at, moved)
        return -1
    if coming <= when:
        if coming == INF:
            system.over = 1
            return -1
        system.next_request += 1
        system.now_s = coming
        arrive(system, system.next_request - 1)
        return -1
    system.now_s = when
    replica = replica_at(system.replicas, index)
    if replica.pending == 1:
        complete(system, replica, when)
    replica.ready_at = INF
    return index


@jit
def run(systems, index, engine, prefill_engine, most_waiting, until):
    """Simulate a system until nothing is left to do, too many wait, a decision is to be taken, or time is up.

    Args:
        systems: address.
        index: of the system.
        engine, prefill_engine: see ``step``.
        most_waiting: waiting requests at which the system is given up as unstable.
        until: 0, or 1 to stop before composing an iteration while requests wait.

    Returns:
        -1 when it is over, -2 when it was given up, else the replica that waits for a decision.
    """
    system = system_at(systems, index)
    while system.over == 0:
        ready = step(system, engine, prefill_engine)
        if ready < 0:
            continue
        replica = replica_at(system.replicas, ready)
        if replica.waiting_count > most_waiting:
            return -2
        if until == 1 and replica.waiting_count > 0:
            return ready
        schedule(system, replica, prefill_engine if ready < system.prefiller_count else engine, system.now_s)
    return -1
