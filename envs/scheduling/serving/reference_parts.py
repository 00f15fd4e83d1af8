"""What the plain serving simulator is made of: requests, iterations, and replicas with their caches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tunewright.envs.parallelism.steptime import Engine
from tunewright.envs.scheduling.serving import state
from tunewright.envs.scheduling.serving.policies import Knobs
from tunewright.envs.scheduling.serving.requests import CHUNK_TOKENS


@dataclass
class Request:
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
    generated: int = 0  # tokens
    context: int = 0  # tokens in its cache
    decoding: bool = False
    kept: bool = False
    shared: list[int] = field(default_factory=list)
    own_blocks: int = 0
    ready_at: float = 0.0
    preempted: int = 0
    hit: int = 0  # tokens
    started: bool = False
    rejected: bool = False
    first_at: float = math.inf
    done_at: float = math.inf
    replica: int = -1


@dataclass
class Plan:
    """What an iteration computes: (request, tokens of its prompt), and whose next token."""

    prompts: list[tuple[Request, int]]
    decodes: list[Request]
    steps: int
    wait_s: float
    admitted: int


class Replica:
    """An engine with its cache, in blocks of tokens, and what it has learned of the lengths of outputs.

    Args:
        index: its number.
        engine: in numbers.
        blocks: of its cache.
        prefills_only: whether requests go on elsewhere once their prompt is computed.
        knobs: how requests are scheduled.
        caching: whether prefixes of prompts are kept.
    """

    def __init__(
        self, index: int, engine: Engine, blocks: int, prefills_only: bool, knobs: Knobs, caching: bool
    ) -> None:  # fmt: skip
        self.index, self.engine, self.total, self.free = index, engine, blocks, blocks
        self.prefills_only, self.knobs, self.caching = prefills_only, knobs, caching
        self.chunk_blocks = CHUNK_TOKENS // knobs.block
        self.running: list[Request] = []
        self.queue: list[Request] = []
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

    def take(self, blocks: int) -> bool:
        """Take blocks, evicting chunks that nobody holds."""
        if blocks > self.free + len(self.idle) * self.chunk_blocks:
            return False
        while self.free < blocks:
            chunk = self.idle.pop(0)
            del self.holders[chunk]
            self.free += self.chunk_blocks
        self.free -= blocks
        return True

    def hits(self, request: Request) -> list[int]:
        """Chunks at the start of the prompt that the replica has."""
        present: list[int] = []
        if self.caching:
            for chunk in request.chunks:
                if chunk not in self.holders:
                    break
                present.append(chunk)
        return present

    def hold(self, chunk: int) -> None:
        """One more request holds a chunk."""
        if self.holders.get(chunk) == 0:
            self.idle.remove(chunk)
        self.holders[chunk] = self.holders.get(chunk, 0) + 1

    def leave(self, request: Request) -> None:
        """Take a request out of its replica with all it holds."""
        self.running.remove(request)
        self.free += request.own_blocks
        request.own_blocks = 0
        for chunk in request.shared:
            self.holders[chunk] -= 1
            if self.holders[chunk] == 0:
                self.idle.append(chunk)
        request.shared = []
        self.blocked = False

    def future_fits(self, new: Request) -> bool:
        """Past-Future admission."""
        if len(self.lengths) >= self.learn_at:
            self.learn()
            more = min(max(len(self.lengths) // 8, state.HISTORY_LEAST), state.HISTORY_MOST)
            self.learn_at = len(self.lengths) + more
        parts = []
        for request in [*self.running, new]:
            generated, context = request.generated, request.context if request.decoding else request.target
            if self.prefills_only:
                longest = 0
            elif len(self.lengths) < state.HISTORY_LEAST:
                longest = self.knobs.max_output
            else:
                longest = self.drawn(request, generated)
            parts.append((max(longest, generated + 1) - generated, context))
        parts.sort(key=lambda part: -part[0])
        total = peak = 0
        for nth, (left, context) in enumerate(parts, 1):
            total += context
            peak = max(peak, total + nth * left)
        return peak <= (1 - self.knobs.reserve) * (self.total * self.knobs.block)

    def learn(self) -> None:
        """Kaplan and Meier's estimate of the lengths of outputs, in bins of 16 tokens."""

        def bins(lengths: list[int]) -> list[int]:
            return [min(length // state.HISTORY_STEP, state.HISTORY_BINS - 1) for length in lengths]

        ended, running = bins(self.lengths), bins([request.generated for request in self.running])
        self.survival = [1.0]
        for bucket in range(state.HISTORY_BINS):
            there = sum(end >= bucket for end in ended) + sum(so_far > bucket for so_far in running)
            going = (there - ended.count(bucket)) / there if there else 1.0
            self.survival.append(self.survival[-1] * going)

    def drawn(self, request: Request, generated: int) -> int:
        """A length of its own for a request, of those above what it has given."""
        first = min(generated // state.HISTORY_STEP, state.HISTORY_BINS - 1)
        few = (request.number * state.GOLDEN + 0.5) % 1.0 * self.survival[first]
        end = next((bucket for bucket in range(first, state.HISTORY_BINS) if self.survival[bucket + 1] <= few), None)
        return self.knobs.max_output if end is None else (end + 1) * state.HISTORY_STEP


class Answers:
    """Answers that are kept for questions asked again.

    Args:
        knobs: how many, and how long.
    """

    def __init__(self, knobs: Knobs) -> None:
        self.knobs = knobs
        self.by_question: dict[int, Request] = {}
        self.asked: dict[int, Request] = {}
        self.answered = self.stale = 0

    def kept(self, request: Request, now: float) -> bool:
        """Whether an answer is at hand; keeps this request's otherwise."""
        knobs = self.knobs
        if not knobs.answers or request.question < 0:
            return False
        ttl = knobs.answer_fresh_s if request.category == 0 and knobs.answer_fresh_s >= 0 else knobs.answer_ttl_s
        old = self.asked.get(request.question)
        known = old if request.question in self.by_question else None
        if known is not None and known.done_at <= now and now - known.done_at <= ttl:
            self.answered += 1
            self.stale += known.version != request.version
            return True
        if ttl > 0 and not (old is not None and old.done_at > now):
            if request.question not in self.by_question and len(self.by_question) >= knobs.answers:
                oldest = min(self.by_question, key=lambda question: (self.by_question[question].arrival, question))
                del self.by_question[oldest]
            self.by_question[request.question] = self.asked[request.question] = request
        return False


def hashed(bits: int) -> int:
    """Scramble 32 bits (Wang's hash)."""
    bits = (bits ^ 61 ^ (bits >> 16)) & 0xFFFFFFFF
    bits = (bits + (bits << 3)) & 0xFFFFFFFF
    bits ^= bits >> 4
    bits = (bits * 0x27D4EB2D) & 0xFFFFFFFF
    return bits ^ (bits >> 15)
