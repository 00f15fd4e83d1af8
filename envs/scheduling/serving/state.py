"""State of the serving simulator: records of systems, replicas and requests, and the arrays behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.records import Batch, record

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


#: a system: addresses of its arrays, its knobs, and what has happened
SYSTEM = record(
    """
    i8: reps asks moves_at scratch_at served_at log_at chunks_at ttl_at answers_at gaps_at
    i8: replicas prefillers requests batching order admission routing swap swap_async swap_group caching most_running
    i8: most_tokens chunk most_output quantum guesses block chunk_blocks hash_chunks answers questions log_size closed
    i8: next left over turn moves preemptions logged answered stale kept released good seen
    f8: now limit_ttft limit_tpot usable swap_operation_s swap_block_s move_s move_block_s tokens_step draft lookup_s
    """
)
#: a replica: addresses, what it holds (blocks free, held by nobody, all of them), the iteration at hand, sums over time
REPLICA = record(
    """
    i8: running_at waiting_at phases_at chunks_at lru_at history_at curve_at lru_size index
    i8: running queued decodes context clock next_end free idle total watermark blocked load head tail
    i8: pending steps secured tokens iterations peak learned learn_at gap_at
    f8: ready pairs admitted parts guessed busy used batched token_at gap_from gap_to
    """
)
#: a request: what it is, where it stands, and when
REQUEST = record(
    """
    f8: arrival work work_first ready_at started first_at done_at stopped_at stall
    i8: prompt output predicted user rank chunk_at chunk_n question category version
    i8: phase replica target done now_tokens generated joined end blocks shared hit_tokens kept charged preempted
    """
)
CELL = np.dtype([("v", "i8")])
REAL = np.dtype([("v", "f8")])
CHUNK = np.dtype([("refs", "i8"), ("stamp", "i8")])  # who holds it (-1: it is not there), its place in the queue
PAIR = np.dtype([("left", "i8"), ("context", "i8")])
ANSWER = np.dtype([("at", "i8"), ("kept", "i8")])
ENTRY = record("f8: start end\ni8: replica batch tokens used")


class Systems(Batch):
    """``n`` systems of the same size, ready to begin.

    Args:
        n: systems.
        requests, replicas: of each.
        most_running: sequences that a replica runs at most.
        block: tokens of a block.
        chunks: different chunks of prompts.
        places: of the queue of chunks that nobody holds.
        users, questions, categories: how many.
        log: iterations to keep.

    Attributes:
        systems: (n,) of ``SYSTEM``.
        replicas: (n, replicas) of ``REPLICA``.
        requests: (n, requests) of ``REQUEST``.
        log: (n, log) of ``ENTRY``.
        gaps: (n, GAP_BINS) times between a sequence's tokens, counted by length.
        ttl: (n, categories), s.
        chunks: identities of the chunks of all prompts in a row.
    """

    def __init__(
        self, n: int, *, requests: int, replicas: int, most_running: int, block: int, chunks: int, places: int, users: int,
        questions: int, categories: int, log: int, flat: NDArray[np.int64],
    ) -> None:  # fmt: skip
        def whole(*shape: int) -> NDArray[Any]:
            return np.zeros((n, *(max(s, 1) for s in shape)), CELL)

        self.systems, self.replicas = np.zeros(n, SYSTEM), np.zeros((n, replicas), REPLICA)
        self.requests, self.log = np.zeros((n, requests), REQUEST), np.zeros((n, max(log, 1)), ENTRY)
        self.ttl, self.chunks = np.zeros((n, categories)), np.ascontiguousarray(flat, np.int64)
        self._running, self._waiting = whole(replicas, most_running), whole(replicas, requests)
        self._phases, self._lru = whole(replicas, block), whole(replicas, places)
        self._chunks = np.zeros((n, replicas, max(chunks, 1)), CHUNK)
        self._chunks["refs"] = -1
        self._moves, self._history = whole(requests), whole(replicas, HISTORY_BINS)
        self._curve = np.zeros((n, replicas, HISTORY_BINS))
        self._scratch, self._served = np.zeros((n, most_running + 1), PAIR), np.zeros((n, users))
        self._answers = np.zeros((n, max(questions, 1)), ANSWER)
        self._answers["at"] = -1
        self.gaps = whole(GAP_BINS)
        self.requests["replica"] = -1
        self.requests["started"] = self.requests["stopped_at"] = -1.0
        self.requests["first_at"] = self.requests["done_at"] = self.replicas["ready"] = np.inf
        self.replicas["next_end"], self.replicas["learn_at"] = BIG, HISTORY_LEAST
        self.replicas["index"] = np.arange(replicas)
        self.replicas["lru_size"] = max(places, 1)
        self.systems["questions"], self.systems["log_size"] = questions, log
        self._link()

    def _parts(self) -> dict[str, NDArray[Any]]:
        return {
            "reps": self.replicas, "asks": self.requests, "moves_at": self._moves, "scratch_at": self._scratch,
            "served_at": self._served, "log_at": self.log,
            "ttl_at": self.ttl, "answers_at": self._answers, "gaps_at": self.gaps,
        }  # fmt: skip

    def _link(self) -> None:
        super()._link()
        self.systems["chunks_at"] = self.chunks.ctypes.data
        parts = {
            "running_at": self._running, "waiting_at": self._waiting, "phases_at": self._phases, "chunks_at": self._chunks,
            "lru_at": self._lru, "history_at": self._history, "curve_at": self._curve,
        }  # fmt: skip
        n, replicas = self.replicas.shape
        for name, array in parts.items():
            offsets = np.arange(n)[:, None] * array.strides[0] + np.arange(replicas)[None] * array.strides[1]
            self.replicas[name] = array.ctypes.data + offsets
