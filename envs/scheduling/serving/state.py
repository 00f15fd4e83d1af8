"""State of the serving simulator: records of systems, replicas and requests, and the arrays behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.records import EVENT, INTEGER, NUMBER, Batch, link, record

BIG = 2**62
HISTORY_BINS, HISTORY_STEP = 512, 16  # of finished outputs' lengths, in tokens
HISTORY_LEAST, HISTORY_MOST = 8, 64  # finished outputs between two looks at them: an eighth of them, in these bounds
GAP_BINS, GAP_LEAST_S, GAP_STEP = 256, 1e-4, 1.06  # of times between a sequence's tokens; each bin is wider by the step
DECODE_WEIGHT = 2.0  # of an output token on a user's counter, over a prompt's token (VTC, arXiv 2401.00588)
AFFINITY_TOKENS = 8192  # load that prefix affinity may add to a replica over its share; assumed
GOLDEN = 0.6180339887498949  # its multiples' fractions spread evenly: a request's draw from the lengths so far
# phases of a request
COMING, QUEUE, PREFILLING, DECODING, MOVING, DONE, REJECTED = range(7)
# batching
PREFILL_FIRST, MIXED, CHUNKED, STATIC = range(4)
# order of the queue
FCFS, SJF, SLO, FAIR, GROUP = range(5)
# admission
AGGRESSIVE, CONSERVATIVE, PAST_FUTURE = range(3)
# routing
ROUND_ROBIN, LEAST_LOADED, PREFIX, TWO_HASHES, ONE_HASH = range(5)
# what an agent chooses from: tokens of an iteration, and the order of the queue
BUDGETS, ORDERS = (0, 128, 256, 512, 1024, 2048), (FCFS, SJF, SLO)

_ROWS = "replicas requests moves scratch served log ttl_s kept_answers gaps"
#: a system: addresses of its arrays, its knobs, and what has happened
SYSTEM = record(
    f"""
    i8: {_ROWS} prompt_chunks
    i8: replica_count prefiller_count request_count batching order admission routing swap swap_async swap_group_blocks
    i8: caching most_running most_tokens chunk_tokens most_output_tokens quantum_tokens guesses block_tokens
    i8: chunk_blocks hash_chunks most_answers question_count log_size closed
    i8: next_request unfinished over turn move_count preemptions logged answered stale answer_count released good
    i8: rewarded
    f8: now_s ttft_limit_s tpot_limit_s usable_share swap_operation_s swap_block_s move_s move_block_s tokens_per_step
    f8: draft_share lookup_s
    """
)
_REPLICA_ROWS = "running waiting phases chunks lru history curve"
#: a replica: addresses, what it holds (blocks free, idle in chunks that nobody holds, all of them), the iteration at
#: hand, sums over time (``used_s`` and ``batched_s`` are shares of the cache and sequences, by the seconds that they
#: lasted)
REPLICA = record(
    f"""
    i8: {_REPLICA_ROWS} lru_size index
    i8: running_count waiting_count decoding_count context_tokens clock next_end free_blocks idle_blocks total_blocks
    i8: watermark_blocks blocked load_tokens lru_head lru_tail
    i8: pending steps secured_steps prompt_tokens iterations peak_blocks learned_count next_learning gap_bin
    f8: ready_at pairs admitted_count part_count guessed busy_s used_s batched_s token_at gap_from_s gap_to_s
    """
)
#: a request: what it is, where it stands, and when; ``started``, ``first_at`` and ``done_at`` are in seconds,
#: ``prompt``, ``output``, ``predicted`` and ``generated`` in tokens
REQUEST = record(
    """
    f8: arrival_s work_s first_work_s ready_at started first_at done_at stopped_at stall_s
    i8: prompt output predicted user rank first_chunk chunk_count question category version
    i8: phase replica target_tokens done_tokens now_tokens generated joined_clock end_clock own_blocks shared_chunks
    i8: hit_tokens cache_kept charged_tokens preempted
    """
)
CHUNK = record("i8: holders lru_stamp")  # who holds it (-1: it is not there), its place in the queue
PAIR = record("i8: left_tokens context_tokens")
ANSWER = record("i8: request kept")
ENTRY = record("f8: start end\ni8: replica batch tokens used")


class Systems(Batch):
    """``n`` systems of the same size, ready to begin.

    Args:
        n: systems.
        requests, replicas: of each.
        most_running: sequences that a replica runs at most.
        block_tokens: of a block.
        chunks: different chunks of prompts.
        places: of the queue of chunks that nobody holds.
        users, questions, categories: how many.
        log: iterations to keep.
        prompt_chunks: identities of the chunks of all prompts in a row.

    Attributes:
        systems: (n,) of ``SYSTEM``.
        replicas: (n, replicas) of ``REPLICA``.
        requests: (n, requests) of ``REQUEST``.
        log: (n, log) of ``ENTRY``.
        gaps: (n, GAP_BINS) times between a sequence's tokens, counted by length.
        ttl_s: (n, categories).
    """

    rows, shared, replica_rows = tuple(_ROWS.split()), ("prompt_chunks",), tuple(_REPLICA_ROWS.split())

    def __init__(
        self, n: int, *, requests: int, replicas: int, most_running: int, block_tokens: int, chunks: int, places: int,
        users: int, questions: int, categories: int, log: int, prompt_chunks: NDArray[np.int64],
    ) -> None:  # fmt: skip
        def zeros(kind: np.dtype[Any], *shape: int) -> NDArray[Any]:
            return np.zeros((n, *(max(size, 1) for size in shape)), kind)

        self.systems, self.replicas = np.zeros(n, SYSTEM), zeros(REPLICA, replicas)
        self.requests, self.log = zeros(REQUEST, requests), zeros(ENTRY, log)
        self.ttl_s = np.zeros((n, categories))
        self.prompt_chunks = np.ascontiguousarray(prompt_chunks, np.int64)
        self.running, self.waiting = zeros(INTEGER, replicas, most_running), zeros(INTEGER, replicas, requests)
        self.phases, self.lru = zeros(INTEGER, replicas, block_tokens), zeros(INTEGER, replicas, places)
        self.history, self.curve = zeros(INTEGER, replicas, HISTORY_BINS), zeros(NUMBER, replicas, HISTORY_BINS)
        self.chunks, self.kept_answers = zeros(CHUNK, replicas, chunks), zeros(ANSWER, questions)
        self.moves, self.gaps = zeros(EVENT, requests), zeros(INTEGER, GAP_BINS)
        self.scratch, self.served = zeros(PAIR, most_running + 1), zeros(NUMBER, users)
        self.chunks["holders"] = self.kept_answers["request"] = self.requests["replica"] = -1
        self.requests["started"] = self.requests["stopped_at"] = -1.0
        self.requests["first_at"] = self.requests["done_at"] = self.replicas["ready_at"] = np.inf
        self.replicas["next_end"], self.replicas["next_learning"] = BIG, HISTORY_LEAST
        self.replicas["index"], self.replicas["lru_size"] = np.arange(replicas), max(places, 1)
        self._link()
        self._set(
            replica_count=replicas, request_count=requests, unfinished=requests, most_running=most_running,
            block_tokens=block_tokens, question_count=questions, log_size=log,
        )  # fmt: skip

    def _link(self) -> None:
        super()._link()
        for name in self.replica_rows:
            link(self.replicas, name, getattr(self, name))
