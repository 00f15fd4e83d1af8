"""State of the Spark simulator: records of systems, users, jobs and stages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.records import EVENT, INTEGER, Batch, record

# policies: which runnable stage gets the next free core
FIFO, FAIR, FAIR_JOBS, SJF, CRITICAL_PATH, UWFQ, WEIGHTED, CHOSEN = range(8)

_ROWS = "jobs stages users children durations_s events runnable virtual_jobs log classes"
#: a system: addresses, what it is, what has happened; the virtual clock counts service to a user of weight 1
SYSTEM = record(
    f"""
    i8: {_ROWS}
    i8: core_count policy job_count user_count log_size learned most_virtual_jobs
    i8: free_cores next_job event_count runnable_count unfinished over logged launched decisions
    f8: now_s overhead_s virtual_s virtual_now_s virtual_weight ended_work_s ended_tasks job_s rewarded_job_s
    """
)
#: a job: work in core-seconds, ``expected`` as the scheduler believes; ``deadline`` on the virtual clock
JOB = record(
    """
    f8: arrival_s work_s expected left_s done_at deadline
    i8: user kind first_stage stage_count stages_left running_tasks task_count
    """
)
#: a stage: tasks of its own durations, or all of ``task_s`` where ``first_duration`` is -1; ``path_s`` is its longest
#: way to the job's end
STAGE = record(
    """
    f8: task_s path_s started_at
    i8: job task_count launched ended parent_count parents_left first_child child_count first_duration place
    i8: running_tasks
    """
)
#: a user: ``virtual_count`` jobs in the virtual system, whose ``clock_s`` counts service to each of them
USER = record("f8: weight clock_s seen_s finish_s\ni8: virtual_count cores runnable_count in_virtual")
VIRTUAL = record("f8: finish_s\ni8: job")
ENTRY = record("f8: start end\ni8: stage tasks")
CLASS = record("f8: work_s\ni8: tasks")


class Systems(Batch):
    """``n`` systems that run the same number of jobs, ready to begin.

    Args:
        jobs, stages, users: (n, ...) records.
        children: (n, edges) stages that wait for a stage, in a row.
        durations_s: (n, tasks).
        cores: of each.
        kinds: classes of jobs, for learned run times.
        log: launches to keep.

    Attributes:
        systems: (n,) of ``SYSTEM``; the others as given.
        log: (n, log) of ``ENTRY``.
    """

    rows = tuple(_ROWS.split())

    def __init__(
        self, jobs: NDArray[Any], stages: NDArray[Any], users: NDArray[Any], children: NDArray[Any],
        durations_s: NDArray[Any], cores: int, kinds: int, log: int,
    ) -> None:  # fmt: skip
        n, count = jobs.shape
        self.jobs, self.stages, self.users = jobs, stages, users
        self.children, self.durations_s = children.astype(INTEGER), durations_s.astype(np.float64)
        self.systems, self.log = np.zeros(n, SYSTEM), np.zeros((n, max(log, 1)), ENTRY)
        self.events, self.runnable = np.zeros((n, cores + 1), EVENT), np.zeros((n, stages.shape[1]), INTEGER)
        self.virtual_jobs = np.zeros((n, users.shape[1] * count), VIRTUAL)
        self.classes = np.zeros((n, max(kinds, 1)), CLASS)
        self._link()
        self._set(
            core_count=cores, free_cores=cores, job_count=count, user_count=users.shape[1], log_size=log,
            most_virtual_jobs=count,
        )  # fmt: skip

    def again(self) -> Systems:
        """Return systems that begin as these did; these must not have begun."""
        fresh = Systems(
            self.jobs.copy(), self.stages.copy(), self.users.copy(), self.children, self.durations_s,
            int(self.systems["core_count"][0]), self.classes.shape[1], self.log.shape[1],
        )  # fmt: skip
        fresh._set(**{name: self.systems[name] for name in ("policy", "overhead_s", "learned")})
        return fresh
