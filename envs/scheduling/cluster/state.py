"""State of the cluster simulator: records of systems and jobs, and the room of its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.records import Batch, record

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

#: ``room`` is what is free on the nodes: for each CPU (thousandths), memory (MiB), then thousandths of each GPU
SYSTEM = record(
    """
    i8: jobs_at room_at shadow_at waiting_at running_at pieces_at plan_at profile_at kinds_at whole_at log_at
    i8: jobs nodes gpus stride order backfill placement depth levels kinds log_size cpu_total gpu_total refuse
    i8: next waiting running free_piece plan over logged preemptions migrations decisions refused profile
    f8: now level_s restart_s migrate_s balance next_balance every_s used used_at gpu_seconds cpu_seconds most_cpu most_memory
    """
)
#: a job: ``gpus`` GPUs with ``milli`` of each, CPU and memory on each node that it uses; ``left`` is of its run time
JOB = record(
    """
    f8: submit run estimate started first_start end done_at left served
    i8: gpus milli cpu memory user phase piece level moved preempted kind
    """
)
PIECE = record("i8: node mask next")
PLAN = record("i8: node mask")
STEP = record("f8: time\ni8: units")
#: a kind of job and how often it comes, for fragmentation
KIND = record("f8: share\ni8: gpus milli cpu memory")
ENTRY = record("f8: start end\ni8: job node mask")
CELL = np.dtype([("v", "i8")])


class Systems(Batch):
    """``n`` clusters of the same nodes that run equally many jobs.

    Args:
        jobs: (n, jobs) of ``JOB``.
        cpu, memory: of each node, (nodes,).
        gpus: of each node, (nodes,).
        kinds: kinds of jobs, of ``KIND``.
        log: runs to keep.
    """

    def __init__(
        self,
        jobs: NDArray[Any],
        cpu: NDArray[Any],
        memory: NDArray[Any],
        gpus: NDArray[Any],
        kinds: NDArray[Any],
        log: int,
    ) -> None:
        n, count = jobs.shape
        nodes, most = len(cpu), int(gpus.max(initial=0))
        stride = 2 + most
        room = np.zeros((n, nodes, stride), CELL)
        room["v"][:, :, 0], room["v"][:, :, 1] = cpu, memory
        for g in range(most):
            room["v"][:, :, 2 + g] = np.where(gpus > g, WHOLE, 0)
        self.jobs, self.room, self.log = jobs, room, np.zeros((n, max(log, 1)), ENTRY)
        self._whole, self._shadow = room[0].copy(), room.copy()
        self._kinds = kinds if len(kinds) else np.zeros(1, KIND)
        pieces = count + int(gpus.sum()) + nodes + 8
        self._pieces = np.zeros((n, pieces), PIECE)
        self._pieces["next"] = np.arange(1, pieces + 1)
        self._waiting, self._running = np.zeros((n, count + 1), CELL), np.zeros((n, count + 1), CELL)
        self._plan, self._profile = np.zeros((n, nodes + 1), PLAN), np.zeros((n, 2 * count + 4), STEP)
        self.systems = np.zeros(n, SYSTEM)
        self._link()
        for name, value in {
            "jobs": count, "nodes": nodes, "gpus": most, "stride": stride, "kinds": len(kinds), "log_size": log,
            "cpu_total": int(cpu.sum()), "gpu_total": int(gpus.sum()) * WHOLE,
        }.items():  # fmt: skip
            self.systems[name] = value
        self.jobs["piece"] = -1
        self.jobs["done_at"], self.jobs["first_start"] = np.inf, np.inf

    def _parts(self) -> dict[str, NDArray[Any]]:
        return {
            "jobs_at": self.jobs, "room_at": self.room, "shadow_at": self._shadow, "waiting_at": self._waiting,
            "running_at": self._running, "pieces_at": self._pieces, "plan_at": self._plan, "profile_at": self._profile,
            "log_at": self.log,
        }  # fmt: skip

    def _link(self) -> None:
        super()._link()
        self.systems["kinds_at"], self.systems["whole_at"] = self._kinds.ctypes.data, self._whole.ctypes.data
