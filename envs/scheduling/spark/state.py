"""State of the Spark simulator: records of systems, users, jobs and stages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.records import Batch, record

# policies: which runnable stage gets the next free core
FIFO, FAIR, FAIR_JOBS, SJF, CRITICAL_PATH, UWFQ, WEIGHTED, CHOSEN = range(8)


#: a system: addresses, what it is, what has happened
SYSTEM = record(
    """
    i8: jobs_at stages_at users_at children_at durations_at heap_at ready_at virtual_at log_at classes_at
    i8: cores policy jobs users log_size learned most_virtual
    i8: free next heap ready alive over logged launched decisions
    f8: now overhead_s virtual virtual_now weight ended_work ended_tasks
    """
)
#: a job: ``work`` in core-seconds, ``expected`` as the scheduler believes; ``deadline`` on the virtual clock
JOB = record(
    """
    f8: arrival work expected left done_at deadline alone
    i8: user kind first stages stages_left running tasks limit arrived
    """
)
#: a stage: tasks of its own durations, or all alike where ``durations`` is -1; ``path`` is its longest way to the job's end
STAGE = record(
    """
    f8: mean path started
    i8: job tasks launched ended parents parents_left children children_n durations ready_place running
    """
)
#: a user: cores in use (``crowd``); jobs in the virtual system (``running``), whose ``clock`` counts service to each of them
USER = record("f8: weight clock seen finish\ni8: running crowd queued alive")
#: tasks of a stage that end together
EVENT = record("f8: time\ni8: order stage tasks")
VIRTUAL = record("f8: finish\ni8: job")
ENTRY = record("f8: start end\ni8: stage tasks core")
CELL = np.dtype([("v", "i8")])
REAL = np.dtype([("v", "f8")])
CLASS = record("f8: work\ni8: tasks")


class Systems(Batch):
    """``n`` systems that run the same number of jobs, ready to begin.

    Args:
        jobs, stages, users: (n, ...) records.
        children: (n, edges) stages that wait for a stage, in a row.
        durations: (n, tasks) s.
        cores: of each.
        kinds: classes of jobs, for learned run times.
        log: launches to keep.

    Attributes:
        systems: (n,) of ``SYSTEM``; the others as given.
        log: (n, log) of ``ENTRY``.
    """

    def __init__(
        self, jobs: NDArray[Any], stages: NDArray[Any], users: NDArray[Any], children: NDArray[Any], durations: NDArray[Any],
        cores: int, kinds: int, log: int,
    ) -> None:  # fmt: skip
        n = len(jobs)
        self.jobs, self.stages, self.users = jobs, stages, users
        self.children, self.durations = children.astype(CELL), durations.astype(np.float64)
        self.systems, self.log = np.zeros(n, SYSTEM), np.zeros((n, max(log, 1)), ENTRY)
        self._heap, self._ready = np.zeros((n, cores + 1), EVENT), np.zeros((n, stages.shape[1]), CELL)
        self._most = jobs.shape[1]
        self._virtual = np.zeros((n, users.shape[1] * self._most), VIRTUAL)
        self._classes = np.zeros((n, max(kinds, 1)), CLASS)
        self._link()
        for name, value in {
            "cores": cores, "free": cores, "jobs": jobs.shape[1], "users": users.shape[1], "log_size": log,
            "most_virtual": self._most,
        }.items():  # fmt: skip
            self.systems[name] = value

    def _parts(self) -> dict[str, NDArray[Any]]:
        return {
            "jobs_at": self.jobs, "stages_at": self.stages, "users_at": self.users, "children_at": self.children,
            "durations_at": self.durations, "heap_at": self._heap, "ready_at": self._ready, "virtual_at": self._virtual,
            "log_at": self.log, "classes_at": self._classes,
        }  # fmt: skip

    def again(self) -> Systems:
        """Return systems that begin as these did; these must not have begun."""
        made = Systems(
            self.jobs.copy(), self.stages.copy(), self.users.copy(), self.children, self.durations,
            int(self.systems["cores"][0]), self._classes.shape[1], self.log.shape[1],
        )  # fmt: skip
        for name in ("policy", "overhead_s", "learned"):
            made.systems[name] = self.systems[name]
        return made
