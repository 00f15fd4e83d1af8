"""The serving simulator in plain Python, token by token: slow, and easy to check against the published policies.

Tests hold the compiled kernel to it, request by request. The time of an iteration comes from a function, so that the
same scheduler also drives a real model (``executor``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

from tunewright.envs.parallelism.steptime import decode_s, iteration_s, prefill_s
from tunewright.envs.scheduling.serving import state
from tunewright.envs.scheduling.serving.policies import Knobs
from tunewright.envs.scheduling.serving.reference_parts import Answers, Plan, Replica, Request, hashed
from tunewright.envs.scheduling.serving.requests import CHUNK_TOKENS, Requests
from tunewright.envs.scheduling.serving.simulate import (
    LOOKUP_S,
    MOVE_S,
    SWAP_OPERATION_S,
    TYPICAL_BATCH,
    WATERMARK,
    Setup,
)

StepTime = Callable[[Replica, Plan], float]


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
        self.setup, self.knobs, self.ttft_s, self.each = setup, knobs, ttft_s, each
        self.step_s = step_s or self._modelled
        step_s_expected = float(decode_s(setup.engine, TYPICAL_BATCH, 1000.0)) / TYPICAL_BATCH
        first_of: dict[int, int] = {}
        self.items = []
        for number, start in enumerate(requests.first_chunk):
            chunks = [int(chunk) for chunk in requests.chunks[start : start + requests.chunk_count[number]]]
            whole: dict[str, Any] = {
                name: int(getattr(requests, name)[number])
                for name in ("prompt", "output", "user", "question", "category", "version")
            }
            guess = whole["output"] if predicted is None else int(predicted[number])
            work_first = float(prefill_s(setup.prefill or setup.engine, float(whole["prompt"])))
            self.items.append(
                Request(
                    number=number, arrival=float(requests.arrival_s[number]), predicted=guess, chunks=chunks,
                    work=work_first + guess * step_s_expected, work_first=work_first,
                    rank=first_of.setdefault(chunks[0], number) if chunks else number, **whole,
                )
            )  # fmt: skip
        self.released = clients or len(self.items)
        for request in self.items[self.released :]:
            request.arrival = math.inf
        self.caching = knobs.caching and len(requests.chunks) > 0
        fronts = [(setup.prefill or setup.engine, setup.prefill_blocks, True)] * setup.prefillers
        self.replicas = [
            Replica(index, *kind, knobs, self.caching)
            for index, kind in enumerate([*fronts, *[(setup.engine, setup.blocks, False)] * setup.replicas])
        ]
        self.counters: dict[int, float] = {}
        self.moving: list[tuple[float, int, Request]] = []
        self.answers = Answers(knobs)
        self.turn = self.preemptions = 0
        self.now = 0.0
        self.chunk_blocks = CHUNK_TOKENS // knobs.block
        self.log: list[tuple[float, float, int, int, int]] = []

    # --- the order of requests

    def key(self, request: Request) -> float:
        """Place in the order; the smallest first."""
        order = self.knobs.order
        if order == "fcfs":
            return request.number
        if order == "sjf":
            return request.work
        if order == "group":
            return request.rank
        if order == "fair":
            return self.counters.get(request.user, 0.0)
        if request.generated > 0:
            return request.work * 0.1
        slack = self.ttft_s - (self.now - request.arrival) - request.work_first
        if slack < 0:
            return 1e9 + request.arrival
        return request.work * min(max(slack / self.ttft_s, 0.1), 1.0)

    def charge(self, request: Request, amount: float) -> None:
        """Put tokens on the user's counter."""
        self.counters[request.user] = self.counters.get(request.user, 0.0) + amount

    # --- memory

    def blocks(self, tokens: int) -> int:
        """Blocks of so many tokens."""
        return -(-tokens // self.knobs.block)

    # --- admission and preemption

    def admit(self, replica: Replica, request: Request) -> bool:
        """Let a request run if its blocks are there."""
        knobs = self.knobs
        hits = [] if request.kept else replica.hits(request)
        tokens = request.target
        if knobs.admission == "conservative":
            tokens = request.prompt + max(knobs.max_output, request.output)
        need = self.blocks(tokens) - len(hits) * self.chunk_blocks
        lone = sum(replica.holders[chunk] == 0 for chunk in hits) * self.chunk_blocks
        free = replica.free + len(replica.idle) * self.chunk_blocks - lone
        if replica.running:
            if knobs.admission == "aggressive" and free - need < max(int(replica.total * WATERMARK), 1):
                return False
            if knobs.admission == "past-future" and not replica.future_fits(request):
                return False
        if need > free:
            return False
        for chunk in hits:
            replica.hold(chunk)
        assert replica.take(need)
        request.own_blocks, request.shared, request.hit = need, hits, len(hits) * CHUNK_TOKENS
        replica.queue.remove(request)
        replica.running.append(request)
        if not request.started:
            request.started = True
            self.charge(request, request.prompt)
        if request.kept:
            request.decoding, request.context = True, request.target
        else:
            request.done = min(request.hit, request.target - 1)
        return True

    def swap_s(self, blocks: int) -> float:
        """Time of moving blocks to or from the host."""
        return -(-blocks // self.knobs.swap_group) * SWAP_OPERATION_S + blocks * self.setup.swap_block_s

    def preempt(self, replica: Replica, request: Request) -> float:
        """Take a decoding request's blocks away; returns seconds that the replica stands still."""
        swapped = self.knobs.preemption == "swap"
        wait = self.swap_s(request.own_blocks + len(request.shared) * self.chunk_blocks) if swapped else 0.0
        replica.leave(request)
        request.decoding, request.kept, request.done = False, swapped, 0
        request.target = request.prompt + (max(request.generated - 1, 0) if swapped else request.generated)
        if swapped:
            request.ready_at = self.now + wait
        request.preempted += 1
        self.preemptions += 1
        replica.queue.append(request)
        return 0.0 if self.knobs.swap_async else wait

    def worst(self, replica: Replica) -> Request | None:
        """The decoding request that comes last."""
        found = None
        for request in replica.running:
            if request.decoding and (found is None or self.key(request) >= self.key(found)):
                found = request
        return found

    # --- iterations

    def fill(self, replica: Replica, plan: Plan, budget: int, whole: bool, kept: bool) -> None:
        """Let requests of the queue run and give them tokens."""
        given = bool(plan.prompts)
        knobs = self.knobs
        while not replica.blocked:
            ready = [item for item in replica.queue if item.kept == kept and not (kept and item.ready_at > self.now)]
            if not ready:
                break
            request = min(ready, key=lambda item: (self.key(item), item.number))
            if not kept and (budget <= 0 or (whole and given and request.target > budget)):
                break
            if len(replica.running) >= knobs.max_seqs or not self.admit(replica, request):
                last = self.worst(replica) if knobs.quantum > 0 else None
                margin = knobs.quantum if knobs.order == "fair" else 0.0
                if last is not None and self.key(last) > self.key(request) + margin:
                    plan.decodes = [item for item in plan.decodes if item is not last]
                    plan.wait_s += self.preempt(replica, last)
                    continue
                replica.blocked = True
                break
            if kept:
                if request.preempted and not knobs.swap_async:
                    plan.wait_s += self.swap_s(request.own_blocks)
                continue
            tokens = min(request.target - request.done, request.target if whole else budget)
            plan.prompts.append((request, tokens))
            budget -= tokens
            given = True
            plan.admitted += 1

    def go_on(self, replica: Replica, plan: Plan, budget: int) -> int:
        """Give tokens to prompts that were begun."""
        for request in replica.running:
            if not request.decoding and budget > 0:
                tokens = min(request.target - request.done, budget)
                plan.prompts.append((request, tokens))
                budget -= tokens
        return budget

    def room(self, replica: Replica, plan: Plan) -> None:
        """Take the blocks that the next tokens of all decoding requests need."""
        knobs = self.knobs
        replica.guessed += sum(knobs.accept**ahead for ahead in range(knobs.guesses + 1))
        plan.steps = int(replica.guessed + 1e-9)
        replica.guessed -= plan.steps
        if knobs.admission == "conservative":
            plan.decodes = [request for request in replica.running if request.decoding]
            return
        while True:
            decoding = [request for request in replica.running if request.decoding]
            needs = [self.blocks(request.context + plan.steps) - self.blocks(request.context) for request in decoding]
            if replica.take(sum(needs)):
                for request, blocks in zip(decoding, needs, strict=True):
                    request.own_blocks += blocks
                plan.decodes = decoding
                return
            last = self.worst(replica)
            assert last is not None
            plan.wait_s += self.preempt(replica, last)

    def compose(self, replica: Replica) -> Plan:
        """Compose the next iteration."""
        knobs, plan = self.knobs, Plan([], [], 0, 0.0, 0)
        if knobs.batching != "static" or not replica.running:
            self.fill(replica, plan, 0, False, True)
        decoding = any(request.decoding for request in replica.running)
        if knobs.batching == "prefill-first" or (knobs.batching == "static" and not replica.running):
            self.go_on(replica, plan, state.BIG)
            self.fill(replica, plan, knobs.max_tokens, True, False)
            if not plan.prompts and any(request.decoding for request in replica.running):
                self.room(replica, plan)
        else:
            if decoding:
                self.room(replica, plan)
            if knobs.batching == "mixed":
                self.go_on(replica, plan, state.BIG)
                self.fill(replica, plan, knobs.max_tokens, True, False)
            elif knobs.batching == "chunked":
                decodes = sum(request.decoding for request in replica.running)
                left = self.go_on(replica, plan, max(knobs.chunk - decodes * (1 + knobs.guesses), 0))
                self.fill(replica, plan, left, False, False)
        return plan

    def _modelled(self, replica: Replica, plan: Plan) -> float:
        """Time by the step-time model."""
        knobs, engine = self.knobs, replica.engine
        batch, tokens = len(plan.decodes), sum(part for _, part in plan.prompts)
        context = sum(request.context for request in plan.decodes)
        pairs = 0.0
        for request, part in plan.prompts:
            pairs += part * (request.done + 0.5 * part)
        took = float(iteration_s(engine, float(batch * (1 + knobs.guesses)), float(context), float(tokens), pairs))
        if knobs.guesses and batch:
            took += knobs.guesses * knobs.draft * float(iteration_s(engine, float(batch), 0.0, 0.0, 0.0))
        return float(took + plan.admitted * engine.admit_s + len(plan.prompts) * engine.part_s + plan.wait_s)

    def schedule(self, replica: Replica) -> None:
        """Begin the next iteration, or stand still."""
        plan = self.compose(replica)
        if not plan.decodes and not plan.prompts:
            replica.plan = None
            replica.ready = self.now + plan.wait_s if plan.wait_s > 0 else math.inf
            if replica.queue and plan.wait_s == 0:
                replica.ready = min(max(request.ready_at, self.now) for request in replica.queue)
            return
        took = self.step_s(replica, plan)
        replica.plan, replica.ready = plan, self.now + took
        replica.iterations += 1
        tokens = sum(part for _, part in plan.prompts)
        self.log.append((self.now, replica.ready, replica.index, len(plan.decodes), tokens))

    def complete(self, replica: Replica) -> None:
        """Hand out what an iteration computed."""
        plan, replica.plan = replica.plan, None
        assert plan is not None
        for request in plan.decodes:
            request.context += plan.steps
            gained = min(plan.steps, request.output - request.generated)
            request.generated += gained
            self.charge(request, gained * state.DECODE_WEIGHT)
        for request in list(replica.running):
            if request.decoding and request.generated >= request.output:
                self.finish(replica, request)
        for request in list(replica.running):
            part = next((part for item, part in plan.prompts if item is request), 0)
            if request.decoding or not part:
                continue
            request.done += part
            if request.done >= request.target:
                self.computed(replica, request)

    def computed(self, replica: Replica, request: Request) -> None:
        """A prompt is computed and has given a token."""
        if self.caching:
            for chunk in request.chunks[len(request.shared) :]:
                request.own_blocks -= self.chunk_blocks
                if chunk in replica.holders:
                    replica.free += self.chunk_blocks
                replica.hold(chunk)
            request.shared = list(request.chunks)
        request.generated += 1
        self.charge(request, state.DECODE_WEIGHT)
        if request.generated == 1:
            request.first_at = self.now
            replica.load -= request.prompt
        if request.generated >= request.output:
            self.finish(replica, request)
        elif replica.prefills_only:
            moved = self.blocks(request.target)
            replica.leave(request)
            replica.load -= request.predicted
            request.kept, request.ready_at = True, self.now + MOVE_S + moved * self.setup.move_block_s
            heapq.heappush(self.moving, (request.ready_at, request.number, request))
        else:
            request.decoding, request.context = True, request.target

    def finish(self, replica: Replica, request: Request) -> None:
        """A request has all its tokens."""
        replica.leave(request)
        request.done_at = self.now
        request.decoding = False
        replica.load -= request.predicted
        replica.lengths.append(request.output)
        self.next_of_client()

    def next_of_client(self) -> None:
        """In a closed loop, a client sends its next request when it has the answer to the last."""
        if self.released < len(self.items):
            self.items[self.released].arrival = self.now
            self.released += 1

    # --- arrivals

    def route(self, request: Request) -> Replica:
        """Replica of a new request."""
        front = [replica for replica in self.replicas if replica.prefills_only] or self.replicas
        how = self.knobs.routing
        if how == "round-robin":
            self.turn += 1
            return front[(self.turn - 1) % len(front)]
        least = min(front, key=lambda replica: replica.load)
        if how == "least-loaded" or len(front) == 1:
            return least
        if how == "prefix":
            counts = [len(replica.hits(request)) for replica in front]
            best, total = front[counts.index(max(counts))], sum(replica.load for replica in front)
            close = best.load * len(front) <= 2 * total + len(front) * state.AFFINITY_TOKENS
            return best if max(counts) > 0 and close else least
        start = request.chunks[1] if len(request.chunks) > 1 else request.number
        one, two = (front[hashed(bits) % len(front)] for bits in (start, start + 0x9E3779B9))
        if how == "one-hash":
            return one

        def left(replica: Replica) -> int:
            return replica.load - len(replica.hits(request)) * CHUNK_TOKENS

        return one if left(one) <= left(two) else two

    def arrive(self, request: Request) -> None:
        """A request comes."""
        knobs = self.knobs
        if self.answers.kept(request, self.now):
            request.first_at = request.done_at = self.now + LOOKUP_S
            self.next_of_client()
            return
        output = max(knobs.max_output, request.output) if knobs.admission == "conservative" else request.output
        if self.blocks(request.prompt + output) > min(self.replicas[0].total, self.replicas[-1].total):
            request.rejected = True
            self.next_of_client()
            return
        replica = self.route(request)
        request.target = request.prompt
        replica.load += request.prompt + request.predicted
        if knobs.order == "fair":
            here = [item.user for one in self.replicas for item in [*one.queue, *one.running]]
            if here and request.user not in here:
                least = min(self.counters.get(user, 0.0) for user in here)
                self.counters[request.user] = max(self.counters.get(request.user, 0.0), least)
        self.enqueue(replica, request)

    def enqueue(self, replica: Replica, request: Request) -> None:
        """Put a request into a queue and wake the replica up."""
        replica.queue.append(request)
        request.replica = replica.index
        replica.blocked = False
        if replica.plan is None:
            replica.ready = min(replica.ready, self.now)

    def run(self) -> list[Request]:
        """Serve all requests; returns them."""
        coming = 0
        while True:
            replica = min(self.replicas, key=lambda one: one.ready)
            arrival = self.items[coming].arrival if coming < len(self.items) else math.inf
            moved = self.moving[0][0] if self.moving else math.inf
            if moved < math.inf and moved <= min(replica.ready, arrival):
                self.now = moved
                request = heapq.heappop(self.moving)[2]
                to = min((one for one in self.replicas if not one.prefills_only), key=lambda one: one.load)
                request.target = request.prompt
                to.load += request.predicted
                self.enqueue(to, request)
            elif arrival <= replica.ready:
                if arrival == math.inf:
                    return self.items
                self.now = arrival
                coming += 1
                self.arrive(self.items[coming - 1])
            else:
                self.now = replica.ready
                if replica.plan is not None:
                    self.complete(replica)
                self.schedule(replica)
            if self.each is not None:
                self.each(self)


def invariants(reference: Reference) -> None:
    """Raise AssertionError where a rule is broken: blocks, sequences, order of times, lost requests."""
    for replica in reference.replicas:
        used = sum(request.own_blocks for request in replica.running) + len(replica.holders) * reference.chunk_blocks
        assert used + replica.free == replica.total, (
            f"replica {replica.index} at {reference.now}: {used} + {replica.free} blocks of {replica.total}"
        )
        assert 0 <= replica.free <= replica.total
        assert len(replica.running) <= reference.knobs.max_seqs
        assert replica.ready >= reference.now, "an iteration ends before it begins"
        for request in replica.running:
            needed = reference.blocks(request.context if request.decoding else request.done)
            assert request.own_blocks + len(request.shared) * reference.chunk_blocks >= needed
