"""The serving simulator in plain Python, token by token: slow, and easy to check against the published policies.

Tests hold the compiled kernel to it, request by request. The time of an iteration comes from a function, so that the
same scheduler also drives a real model (``executor``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tunewright.envs.parallelism.steptime import Engine, iteration_s
from tunewright.envs.scheduling.serving import state
from tunewright.envs.scheduling.serving.policies import Knobs
from tunewright.envs.scheduling.serving.simulate import (
    LOOKUP_S,
    MOVE_S,
    SWAP_OPERATION_S,
    TYPICAL_BATCH,
    WATERMARK,
    Setup,
)
from tunewright.envs.scheduling.serving.requests import CHUNK_TOKENS, Requests


@dataclass
class Item:
    """A request and where it stands."""

    number: int
    arrival: float
    prompt: int
    output: int
    predicted: int
    user: int
    work: float
    work_first: float
    rank: int
    chunks: list[int]
    question: int
    category: int
    version: int
    target: int = 0
    done: int = 0
    made: int = 0
    context: int = 0  # tokens in its cache
    decoding: bool = False
    kept: bool = False
    shared: list[int] = field(default_factory=list)
    own: int = 0  # blocks
    ready_at: float = 0.0
    preempted: int = 0
    hit: int = 0
    started: bool = False
    rejected: bool = False
    first_at: float = math.inf
    done_at: float = math.inf
    replica: int = -1


@dataclass
class Plan:
    """What an iteration computes: (request, tokens of its prompt), and whose next token."""

    prompts: list[tuple[Item, int]]
    decodes: list[Item]
    steps: int
    wait_s: float
    admitted: int


StepTime = Callable[["Replica", Plan], float]


class Replica:
    """An engine with its cache."""

    def __init__(self, index: int, engine: Engine, blocks: int, prefills_only: bool) -> None:
        self.index, self.engine, self.total, self.free = index, engine, blocks, blocks
        self.prefills_only = prefills_only
        self.running: list[Item] = []
        self.queue: list[Item] = []
        self.holders: dict[int, int] = {}  # chunk: requests that hold it
        self.idle: list[int] = []  # chunks that nobody holds, least recent first
        self.ready = math.inf
        self.plan: Plan | None = None
        self.guessed = 0.0
        self.load = 0
        self.blocked = False
        self.iterations = 0
        self.lengths: list[int] = []  # of finished outputs
        self.survival: list[float] = []  # share of outputs that are longer than so many bins
        self.learn_at = state.HISTORY_LEAST


class Reference:
    """Serves requests; see ``simulate.simulate`` for the arguments.

    Args:
        step_s: time of an iteration; None for the step-time model.
        clients: who send their next request when they have the answer; 0: requests come when the trace says.
        each: called after every event, with this object: for invariants.
    """

    def __init__(
        self, requests: Requests, setup: Setup, knobs: Knobs, *, ttft_s: float = 2.0, predicted: Any = None,
        step_s: StepTime | None = None, each: Callable[[Reference], None] | None = None,
        clients: int = 0,
    ) -> None:  # fmt: skip
        from tunewright.envs.parallelism.steptime import decode_s, prefill_s

        self.setup, self.knobs, self.ttft_s, self.each = setup, knobs, ttft_s, each
        self.step_s = step_s or self._modelled
        step = float(decode_s(setup.engine, TYPICAL_BATCH, 1000.0)) / TYPICAL_BATCH
        at = requests.first_chunk
        first_of: dict[int, int] = {}
        self.items = []
        for i in range(len(requests)):
            chunks = [int(c) for c in requests.chunks[at[i] : at[i] + requests.chunk_count[i]]]
            guess = int(requests.output[i] if predicted is None else predicted[i])
            first = float(prefill_s(setup.prefill or setup.engine, float(requests.prompt[i])))
            rank = first_of.setdefault(chunks[0], i) if chunks else i
            self.items.append(Item(
                i, float(requests.arrival_s[i]), int(requests.prompt[i]), int(requests.output[i]), guess, int(requests.user[i]),
                first + guess * step, first, rank, chunks, int(requests.question[i]), int(requests.category[i]),
                int(requests.version[i]),
            ))  # fmt: skip
        self.released = clients or len(self.items)
        for a in self.items[self.released :]:
            a.arrival = math.inf
        self.replicas = [
            Replica(r, setup.prefill or setup.engine, setup.prefill_blocks, True)
            if r < setup.prefillers
            else Replica(r, setup.engine, setup.blocks, False)
            for r in range(setup.prefillers + setup.replicas)
        ]
        self.counters: dict[int, float] = {}
        self.moving: list[tuple[float, int, Item]] = []
        self.answers: dict[int, Item] = {}
        self.asked: dict[int, Item] = {}
        self.answered = self.stale = self.turn = self.preemptions = 0
        self.now = 0.0
        self.chunk_blocks = CHUNK_TOKENS // knobs.block
        self.caching = knobs.caching and len(requests.chunks) > 0
        self.log: list[tuple[float, float, int, int, int]] = []

    # --- the order of requests

    def key(self, a: Item) -> float:
        """Place in the order; the smallest first."""
        order = self.knobs.order
        if order == "fcfs":
            return a.number
        if order == "sjf":
            return a.work
        if order == "group":
            return a.rank
        if order == "fair":
            return self.counters.get(a.user, 0.0)
        if a.made > 0:
            return a.work * 0.1
        slack = self.ttft_s - (self.now - a.arrival) - a.work_first
        if slack < 0:
            return 1e9 + a.arrival
        return a.work * min(max(slack / self.ttft_s, 0.1), 1.0)

    def charge(self, a: Item, amount: float) -> None:
        """Put tokens on the user's counter."""
        self.counters[a.user] = self.counters.get(a.user, 0.0) + amount

    # --- memory

    def blocks(self, tokens: int) -> int:
        """Blocks of so many tokens."""
        return -(-tokens // self.knobs.block)

    def take(self, q: Replica, blocks: int) -> bool:
        """Take blocks, evicting chunks that nobody holds."""
        if blocks > q.free + len(q.idle) * self.chunk_blocks:
            return False
        while q.free < blocks:
            chunk = q.idle.pop(0)
            del q.holders[chunk]
            q.free += self.chunk_blocks
        q.free -= blocks
        return True

    def hits(self, q: Replica, a: Item) -> list[int]:
        """Chunks at the start of the prompt that the replica has."""
        found: list[int] = []
        if self.caching:
            for chunk in a.chunks:
                if chunk not in q.holders:
                    break
                found.append(chunk)
        return found

    def hold(self, q: Replica, chunk: int) -> None:
        """One more request holds a chunk."""
        if q.holders.get(chunk) == 0:
            q.idle.remove(chunk)
        q.holders[chunk] = q.holders.get(chunk, 0) + 1

    def leave(self, q: Replica, a: Item) -> None:
        """Take a request out of its replica with all it holds."""
        q.running.remove(a)
        q.free += a.own
        a.own = 0
        for chunk in a.shared:
            q.holders[chunk] -= 1
            if q.holders[chunk] == 0:
                q.idle.append(chunk)
        a.shared = []
        q.blocked = False

    # --- admission and preemption

    def future_fits(self, q: Replica, new: Item) -> bool:
        """Past-Future admission."""
        if len(q.lengths) >= q.learn_at:
            self.learn(q)
            q.learn_at = len(q.lengths) + min(max(len(q.lengths) // 8, state.HISTORY_LEAST), state.HISTORY_MOST)
        parts = []
        for a in [*q.running, new]:
            made, context = a.made, a.context if a.decoding else a.target
            if q.prefills_only:
                longest = 0
            elif len(q.lengths) < state.HISTORY_LEAST:
                longest = self.knobs.max_output
            else:
                longest = self.drawn(q, a, made)
            parts.append((max(longest, made + 1) - made, context))
        parts.sort(key=lambda p: -p[0])
        total = peak = 0
        for m, (left, context) in enumerate(parts, 1):
            total += context
            peak = max(peak, total + m * left)
        return peak <= (1 - self.knobs.reserve) * (q.total * self.knobs.block)

    def learn(self, q: Replica) -> None:
        """Kaplan and Meier's estimate of the lengths of outputs, in bins of 16 tokens."""

        def bins(lengths: list[int]) -> list[int]:
            return [min(n // state.HISTORY_STEP, state.HISTORY_BINS - 1) for n in lengths]

        ended, running = bins(q.lengths), bins([a.made for a in q.running])
        q.survival = [1.0]
        for b in range(state.HISTORY_BINS):
            there = sum(e >= b for e in ended) + sum(r > b for r in running)
            going = (there - ended.count(b)) / there if there else 1.0
            q.survival.append(q.survival[-1] * going)

    def drawn(self, q: Replica, a: Item, made: int) -> int:
        """A length of its own for a request, of those above what it has given."""
        first = min(made // state.HISTORY_STEP, state.HISTORY_BINS - 1)
        few = (a.number * state.GOLDEN + 0.5) % 1.0 * q.survival[first]
        end = next((b for b in range(first, state.HISTORY_BINS) if q.survival[b + 1] <= few), None)
        return self.knobs.max_output if end is None else (end + 1) * state.HISTORY_STEP

    def admit(self, q: Replica, a: Item) -> bool:
        """Let a request run if its blocks are there."""
        k = self.knobs
        hits = [] if a.kept else self.hits(q, a)
        tokens = a.prompt + max(k.max_output, a.output) if k.admission == "conservative" else a.target
        need = self.blocks(tokens) - len(hits) * self.chunk_blocks
        lone = sum(q.holders[c] == 0 for c in hits) * self.chunk_blocks
        free = q.free + len(q.idle) * self.chunk_blocks - lone
        if q.running:
            if k.admission == "aggressive" and free - need < max(int(q.total * WATERMARK), 1):
                return False
            if k.admission == "past-future" and not self.future_fits(q, a):
                return False
        if need > free:
            return False
        for chunk in hits:
            self.hold(q, chunk)
        assert self.take(q, need)
        a.own, a.shared, a.hit = need, hits, len(hits) * CHUNK_TOKENS
        q.queue.remove(a)
        q.running.append(a)
        if not a.started:
            a.started = True
            self.charge(a, a.prompt)
        if a.kept:
            a.decoding, a.context = True, a.target
        else:
            a.done = min(a.hit, a.target - 1)
        return True

    def swap_s(self, blocks: int) -> float:
        """Time of moving blocks to or from the host."""
        return -(-blocks // self.knobs.swap_group) * SWAP_OPERATION_S + blocks * self.setup.swap_block_s

    def preempt(self, q: Replica, a: Item) -> float:
        """Take a decoding request's blocks away; returns seconds that the replica stands still."""
        swapped = self.knobs.preemption == "swap"
        wait = self.swap_s(a.own + len(a.shared) * self.chunk_blocks) if swapped else 0.0
        self.leave(q, a)
        a.decoding, a.kept, a.done = False, swapped, 0
        a.target = a.prompt + (max(a.made - 1, 0) if swapped else a.made)
        if swapped:
            a.ready_at = self.now + wait
        a.preempted += 1
        self.preemptions += 1
        q.queue.append(a)
        return 0.0 if self.knobs.swap_async else wait

    def worst(self, q: Replica) -> Item | None:
        """The decoding request that comes last."""
        found = None
        for a in q.running:
            if a.decoding and (found is None or self.key(a) >= self.key(found)):
                found = a
        return found

    # --- iterations

    def fill(self, q: Replica, plan: Plan, budget: int, whole: bool, kept: bool) -> None:
        """Let requests of the queue run and give them tokens."""
        given = bool(plan.prompts)
        k = self.knobs
        while not q.blocked:
            ready = [a for a in q.queue if a.kept == kept and not (kept and a.ready_at > self.now)]
            if not ready:
                break
            a = min(ready, key=lambda x: (self.key(x), x.number))
            if not kept and (budget <= 0 or (whole and given and a.target > budget)):
                break
            if len(q.running) >= k.max_seqs or not self.admit(q, a):
                last = self.worst(q) if k.quantum > 0 else None
                margin = k.quantum if k.order == "fair" else 0.0
                if last is not None and self.key(last) > self.key(a) + margin:
                    plan.decodes = [d for d in plan.decodes if d is not last]
                    plan.wait_s += self.preempt(q, last)
                    continue
                q.blocked = True
                break
            if kept:
                if a.preempted and not k.swap_async:
                    plan.wait_s += self.swap_s(a.own)
                continue
            n = min(a.target - a.done, a.target if whole else budget)
            plan.prompts.append((a, n))
            budget -= n
            given = True
            plan.admitted += 1

    def go_on(self, q: Replica, plan: Plan, budget: int) -> int:
        """Give tokens to prompts that were begun."""
        for a in q.running:
            if not a.decoding and budget > 0:
                n = min(a.target - a.done, budget)
                plan.prompts.append((a, n))
                budget -= n
        return budget

    def room(self, q: Replica, plan: Plan) -> None:
        """Take the blocks that the next tokens of all decoding requests need."""
        k = self.knobs
        q.guessed += sum(k.accept**j for j in range(k.guesses + 1))
        plan.steps = int(q.guessed + 1e-9)
        q.guessed -= plan.steps
        if k.admission == "conservative":
            plan.decodes = [a for a in q.running if a.decoding]
            return
        while True:
            decoding = [a for a in q.running if a.decoding]
            needs = [self.blocks(a.context + plan.steps) - self.blocks(a.context) for a in decoding]
            if self.take(q, sum(needs)):
                for a, n in zip(decoding, needs, strict=True):
                    a.own += n
                plan.decodes = decoding
                return
            last = self.worst(q)
            assert last is not None
            plan.wait_s += self.preempt(q, last)

    def compose(self, q: Replica) -> Plan:
        """Compose the next iteration."""
        k, plan = self.knobs, Plan([], [], 0, 0.0, 0)
        if k.batching != "static" or not q.running:
            self.fill(q, plan, 0, False, True)
        decoding = any(a.decoding for a in q.running)
        if k.batching == "prefill-first" or (k.batching == "static" and not q.running):
            self.go_on(q, plan, state.BIG)
            self.fill(q, plan, k.max_tokens, True, False)
            if not plan.prompts and any(a.decoding for a in q.running):
                self.room(q, plan)
        else:
            if decoding:
                self.room(q, plan)
            if k.batching == "mixed":
                self.go_on(q, plan, state.BIG)
                self.fill(q, plan, k.max_tokens, True, False)
            elif k.batching == "chunked":
                decodes = sum(a.decoding for a in q.running)
                left = self.go_on(q, plan, max(k.chunk - decodes * (1 + k.guesses), 0))
                self.fill(q, plan, left, False, False)
        return plan

    def _modelled(self, q: Replica, plan: Plan) -> float:
        """Time by the step-time model."""
        k, e = self.knobs, q.engine
        batch, tokens = len(plan.decodes), sum(n for _, n in plan.prompts)
        context = sum(a.context for a in plan.decodes)
        pairs = 0.0
        for a, n in plan.prompts:
            pairs += n * (a.done + 0.5 * n)
        took = float(iteration_s(e, float(batch * (1 + k.guesses)), float(context), float(tokens), pairs))
        if k.guesses and batch:
            took += k.guesses * k.draft * float(iteration_s(e, float(batch), 0.0, 0.0, 0.0))
        return float(took + plan.admitted * e.admit_s + len(plan.prompts) * e.part_s + plan.wait_s)

    def schedule(self, q: Replica) -> None:
        """Begin the next iteration, or stand still."""
        plan = self.compose(q)
        if not plan.decodes and not plan.prompts:
            q.plan = None
            q.ready = self.now + plan.wait_s if plan.wait_s > 0 else math.inf
            if q.queue and plan.wait_s == 0:
                q.ready = min(max(a.ready_at, self.now) for a in q.queue)
            return
        took = self.step_s(q, plan)
        q.plan, q.ready = plan, self.now + took
        q.iterations += 1
        self.log.append((self.now, q.ready, q.index, len(plan.decodes), sum(n for _, n in plan.prompts)))

    def complete(self, q: Replica) -> None:
        """Hand out what an iteration computed."""
        plan, q.plan = q.plan, None
        assert plan is not None
        for a in plan.decodes:
            a.context += plan.steps
            gained = min(plan.steps, a.output - a.made)
            a.made += gained
            self.charge(a, gained * state.DECODE_WEIGHT)
        for a in list(q.running):
            if a.decoding and a.made >= a.output:
                self.finish(q, a)
        for a in list(q.running):
            n = next((n for item, n in plan.prompts if item is a), 0)
            if a.decoding or not n:
                continue
            a.done += n
            if a.done >= a.target:
                self.computed(q, a)

    def computed(self, q: Replica, a: Item) -> None:
        """A prompt is computed and has given a token."""
        if self.caching:
            for chunk in a.chunks[len(a.shared) :]:
                a.own -= self.chunk_blocks
                if chunk in q.holders:
                    q.free += self.chunk_blocks
                self.hold(q, chunk)
            a.shared = list(a.chunks)
        a.made += 1
        self.charge(a, state.DECODE_WEIGHT)
        if a.made == 1:
            a.first_at = self.now
            q.load -= a.prompt
        if a.made >= a.output:
            self.finish(q, a)
        elif q.prefills_only:
            moved = self.blocks(a.target)
            self.leave(q, a)
            q.load -= a.predicted
            a.kept, a.ready_at = True, self.now + MOVE_S + moved * self.setup.move_block_s
            heapq.heappush(self.moving, (a.ready_at, a.number, a))
        else:
            a.decoding, a.context = True, a.target

    def finish(self, q: Replica, a: Item) -> None:
        """A request has all its tokens."""
        self.leave(q, a)
        a.done_at = self.now
        a.decoding = False
        q.load -= a.predicted
        q.lengths.append(a.output)
        self.next_of_client()

    def next_of_client(self) -> None:
        """In a closed loop, a client sends its next request when it has the answer to the last."""
        if self.released < len(self.items):
            self.items[self.released].arrival = self.now
            self.released += 1

    # --- arrivals

    def route(self, a: Item) -> Replica:
        """Replica of a new request."""
        front = [q for q in self.replicas if q.prefills_only] or self.replicas
        how = self.knobs.routing
        if how == "round-robin":
            self.turn += 1
            return front[(self.turn - 1) % len(front)]
        least = min(front, key=lambda q: q.load)
        if how == "least-loaded" or len(front) == 1:
            return least
        if how == "prefix":
            counts = [len(self.hits(q, a)) for q in front]
            best, total = front[counts.index(max(counts))], sum(q.load for q in front)
            close = best.load * len(front) <= 2 * total + len(front) * state.AFFINITY_TOKENS
            return best if max(counts) > 0 and close else least
        from tunewright.envs.scheduling.serving.kernel import _mix

        start = a.chunks[1] if len(a.chunks) > 1 else a.number
        one, two = (front[int(_mix(x)) % len(front)] for x in (start, start + 0x9E3779B9))

        if how == "one-hash":
            return one

        def left(q: Replica) -> int:
            return q.load - len(self.hits(q, a)) * CHUNK_TOKENS

        return one if left(one) <= left(two) else two

    def kept_answer(self, a: Item) -> bool:
        """Whether an answer is at hand; keeps this request's otherwise."""
        k = self.knobs
        if not k.answers or a.question < 0:
            return False
        ttl = k.answer_fresh_s if a.category == 0 and k.answer_fresh_s >= 0 else k.answer_ttl_s
        old = self.asked.get(a.question)
        if old is not None and a.question in self.answers and old.done_at <= self.now and self.now - old.done_at <= ttl:
            self.answered += 1
            self.stale += old.version != a.version
            return True
        if ttl > 0 and not (old is not None and old.done_at > self.now):
            if a.question not in self.answers and len(self.answers) >= k.answers:
                del self.answers[min(self.answers, key=lambda n: (self.answers[n].arrival, n))]
            self.answers[a.question] = self.asked[a.question] = a
        return False

    def arrive(self, a: Item) -> None:
        """A request comes."""
        k = self.knobs
        if self.kept_answer(a):
            a.first_at = a.done_at = self.now + LOOKUP_S
            self.next_of_client()
            return
        most = a.prompt + (max(k.max_output, a.output) if k.admission == "conservative" else a.output)
        if self.blocks(most) > min(self.replicas[0].total, self.replicas[-1].total):
            a.rejected = True
            self.next_of_client()
            return
        q = self.route(a)
        a.target = a.prompt
        q.load += a.prompt + a.predicted
        if k.order == "fair":
            here = [b.user for p in self.replicas for b in [*p.queue, *p.running]]
            if here and a.user not in here:
                least = min(self.counters.get(u, 0.0) for u in here)
                self.counters[a.user] = max(self.counters.get(a.user, 0.0), least)
        self.enqueue(q, a)

    def enqueue(self, q: Replica, a: Item) -> None:
        """Put a request into a queue and wake the replica up."""
        q.queue.append(a)
        a.replica = q.index
        q.blocked = False
        if q.plan is None:
            q.ready = min(q.ready, self.now)

    def run(self) -> list[Item]:
        """Serve all requests; returns them."""
        coming = 0
        while True:
            q = min(self.replicas, key=lambda r: r.ready)
            arrival = self.items[coming].arrival if coming < len(self.items) else math.inf
            moved = self.moving[0][0] if self.moving else math.inf
            if moved < math.inf and moved <= min(q.ready, arrival):
                self.now = moved
                a = heapq.heappop(self.moving)[2]
                to = min((r for r in self.replicas if not r.prefills_only), key=lambda r: r.load)
                a.target = a.prompt
                to.load += a.predicted
                self.enqueue(to, a)
            elif arrival <= q.ready:
                if arrival == math.inf:
                    return self.items
                self.now = arrival
                coming += 1
                self.arrive(self.items[coming - 1])
            else:
                self.now = q.ready
                if q.plan is not None:
                    self.complete(q)
                self.schedule(q)
            if self.each is not None:
                self.each(self)


def invariants(r: Reference) -> None:
    """Raise AssertionError where a rule is broken: blocks, sequences, order of times, lost requests."""
    for q in r.replicas:
        held = sum(a.own for a in q.running) + len(q.holders) * r.chunk_blocks
        assert held + q.free == q.total, f"replica {q.index} at {r.now}: {held} + {q.free} blocks of {q.total}"
        assert 0 <= q.free <= q.total
        assert len(q.running) <= r.knobs.max_seqs
        assert q.ready >= r.now, "an iteration ends before it begins"
        for a in q.running:
            assert a.own + len(a.shared) * r.chunk_blocks >= r.blocks(a.context if a.decoding else a.done)
