"""State of the cluster simulator: records of systems and jobs, and the room of its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.records import INTEGER, Batch, record

WHOLE = 1000  # thousandths of a GPU
BIG = 2**62
# order of the queue
FIFO, SJF, LAS = range(3)
# what runs before its turn
NONE, EASY, CONSERVATIVE = range(3)
# which node
FIRST, BEST, WORST, FRAGMENTATION, BEST_ALL = range(5)
# where a job stands
COMING, WAITING, RUNNING, DONE, REJECTED = range(5)

_ROWS = "jobs room shadow waiting running pieces plan profile log"
_SHARED = "kinds whole"
#: ``room`` is what is free on the nodes: for each CPU (thousandths), memory (MiB), then thousandths of each GPU;
#: ``shadow`` is room to try things in, ``whole`` that of an empty cluster
SYSTEM = record(
    f"""
    i8: {_ROWS} {_SHARED}
    i8: job_count node_count gpus_per_node stride order backfill placement depth level_count kind_count log_size
    i8: total_milli_cpus total_milli_gpus refuse
    i8: next_job waiting_count running_count free_piece plan_size over logged preemptions migrations decisions refused
    i8: profile_size
    f8: now_s level_s restart_s migrate_s balance next_balance_at every_s used_milli_s used_until_s milli_gpus
    f8: milli_cpus most_milli_cpu most_memory_mib
    """
)
#: a job: ``gpus`` GPUs with ``milli`` of each, ``cpu`` (thousandths) and memory on each node that it uses; ``left_s``
#: is of its run time, ``served_s`` in GPU-seconds
JOB = record(
    """
    f8: submit_s run_s estimate_s started_at first_start_at end_at done_at left_s served_s
    i8: gpus milli cpu memory_mib user phase first_piece level moved preempted
    """
)
PIECE = record("i8: node mask next")
PLAN = record("i8: node mask")
STEP = record("f8: time_s\ni8: units")
#: a kind of job and how often it comes, for fragmentation
KIND = record("f8: share\ni8: gpus milli cpu memory_mib")
ENTRY = record("f8: start end\ni8: job node mask")


class Systems(Batch):
    """``n`` clusters of the same nodes that run equally many jobs.

    Args:
        jobs: (n, jobs) of ``JOB``.
        cpu, memory: of each node, (nodes,).
        gpus: of each node, (nodes,).
        kinds: kinds of jobs, of ``KIND``.
        log: runs to keep.
    """

    rows, shared = tuple(_ROWS.split()), tuple(_SHARED.split())

    def __init__(
        self, jobs: NDArray[Any], cpu: NDArray[Any], memory: NDArray[Any], gpus: NDArray[Any], kinds: NDArray[Any],
        log: int,
    ) -> None:  # fmt: skip
        n, count = jobs.shape
        nodes, most = len(cpu), int(gpus.max(initial=0))
        self.jobs, self.log = jobs, np.zeros((n, max(log, 1)), ENTRY)
        self.room = np.zeros((n, nodes, 2 + most), INTEGER)
        free = self.room["value"]
        free[:, :, 0], free[:, :, 1] = cpu, memory
        free[:, :, 2:] = np.where(gpus[:, None] > np.arange(most), WHOLE, 0)
        self.whole, self.shadow = self.room[0].copy(), self.room.copy()
        self.kinds = kinds if len(kinds) else np.zeros(1, KIND)
        pieces = count + int(gpus.sum()) + nodes + 8
        self.pieces = np.zeros((n, pieces), PIECE)
        self.pieces["next"] = np.arange(1, pieces + 1)
        self.waiting, self.running = np.zeros((n, count + 1), INTEGER), np.zeros((n, count + 1), INTEGER)
        self.plan, self.profile = np.zeros((n, nodes + 1), PLAN), np.zeros((n, 2 * count + 4), STEP)
        self.systems = np.zeros(n, SYSTEM)
        self._link()
        self._set(
            job_count=count, node_count=nodes, gpus_per_node=most, stride=2 + most, kind_count=len(kinds), log_size=log,
            total_milli_cpus=int(cpu.sum()), total_milli_gpus=int(gpus.sum()) * WHOLE,
        )  # fmt: skip
        self.jobs["first_piece"] = -1
        self.jobs["done_at"] = self.jobs["first_start_at"] = np.inf
