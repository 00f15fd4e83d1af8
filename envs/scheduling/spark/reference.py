"""The Spark simulator in plain Python, task by task; tests hold the compiled one to it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.envs.scheduling.spark.jobs import Job, partitioned
from tunewright.envs.scheduling.spark.simulate import Options


@dataclass
class Running:
    """A job and where it stands."""

    number: int
    job: Job
    expected: float
    paths: list[float]
    launched: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    cores: int = 0
    deadline: float = math.inf
    virtual_left: float = 0.0
    done_at: float = math.inf
    here: bool = False

    def runnable(self) -> list[int]:
        """Stages with tasks that can start."""
        stages = self.job.stages
        return [
            index
            for index, stage in enumerate(stages)
            if self.launched[index] < stage.count
            and all(self.ended[parent] == stages[parent].count for parent in stage.parents)
        ]


class Reference:
    """Runs jobs.

    Args:
        jobs: in the order of their arrival.
        cores: how many.
        options: how.
        expected: work of each job as the scheduler believes; the true one if not given.
        each: called after every moment, with this object: for invariants.
    """

    def __init__(
        self, jobs: Sequence[Job], cores: int, options: Options, expected: Sequence[float] | None = None,
        each: Callable[[Reference], None] | None = None,
    ) -> None:  # fmt: skip
        cut = partitioned(jobs, options.partition_s) if options.partition_s else list(jobs)
        self.jobs = [
            Running(number, job, work, job.paths(), [0] * len(job.stages), [0] * len(job.stages))
            for number, (job, work) in enumerate(
                zip(cut, [job.work for job in cut] if expected is None else map(float, expected), strict=True)
            )
        ]
        self.cores, self.free, self.o, self.each = cores, cores, options, each
        self.now, self.heap, self.order = 0.0, [], 0  # type: ignore[var-annotated]
        self.weights = dict(enumerate(options.weights))
        self.virtual_now = self.clock = 0.0
        self.history: dict[str, list[tuple[float, int]]] = {}
        self.tasks_run = 0

    def weight(self, user: int) -> float:
        """Of a user."""
        return self.weights.get(user, 1.0)

    def finish_times(self, user: int) -> None:
        """Order a user's jobs by their ends in the virtual system: a clock that only the user's own share moves."""
        mine = sorted(
            (job for job in self.jobs if job.here and job.virtual_left > 0 and job.job.user == user),
            key=lambda job: job.virtual_left,
        )
        total = before = 0.0
        for place, job in enumerate(mine):
            total += (job.virtual_left - before) * (len(mine) - place)
            before = job.virtual_left
            job.deadline = self.clock + total / self.weight(user)

    def move_clock(self, until: float) -> None:
        """Move the virtual clock and serve the virtual system together."""
        while self.virtual_now < until:
            alive = [job for job in self.jobs if job.here and job.virtual_left > 0]
            if not alive:
                self.virtual_now = until
                return
            users = {job.job.user for job in alive}
            total = sum(self.weight(user) for user in users)
            count = {user: sum(job.job.user == user for job in alive) for user in users}
            rate = {user: self.cores * self.weight(user) / total / count[user] for user in users}
            step = min(min(job.virtual_left / rate[job.job.user] for job in alive), until - self.virtual_now)
            for job in alive:
                left = job.virtual_left - rate[job.job.user] * step
                job.virtual_left = left if left > 1e-9 * job.expected else 0.0
            self.clock += step * self.cores / total
            self.virtual_now += step

    def key(self, job: Running, stage: int) -> float:
        """Place in the order; the smallest first."""
        policy = self.o.policy
        if policy == "fifo":
            return job.number
        if policy in ("fair", "weighted"):
            used = sum(other.cores for other in self.jobs if other.job.user == job.job.user)
            return used / (self.weight(job.job.user) if policy == "weighted" else 1.0)
        if policy == "fair-jobs":
            return job.cores
        if policy == "sjf":
            return job.expected
        if policy == "uwfq":
            return job.deadline
        return -job.paths[stage]

    def run(self) -> list[Running]:
        """Run everything; returns the jobs."""
        coming = 0
        while coming < len(self.jobs) or self.heap:
            arrival = self.jobs[coming].job.arrival_s if coming < len(self.jobs) else math.inf
            self.now = min(arrival, self.heap[0][0] if self.heap else math.inf)
            while self.heap and self.heap[0][0] == self.now:
                _, _, job, k = heapq.heappop(self.heap)
                self.end(job, k)
            while coming < len(self.jobs) and self.jobs[coming].job.arrival_s == self.now:
                self.arrive(self.jobs[coming])
                coming += 1
            self.give()
            if self.each is not None:
                self.each(self)
        return self.jobs

    def arrive(self, job: Running) -> None:
        """A job comes."""
        if self.o.estimates == "learned":
            same = self.history.get(job.job.name)
            known = same or [ended for works in self.history.values() for ended in works]
            if known:
                work, tasks = (sum(column) for column in zip(*known, strict=True))
                job.expected = sum(stage.count for stage in job.job.stages) * work / tasks
        if self.o.policy == "uwfq":
            self.move_clock(self.now)
        job.here, job.virtual_left = True, job.expected
        if self.o.policy == "uwfq":
            self.finish_times(job.job.user)

    def end(self, job: Running, index: int) -> None:
        """A task has ended."""
        job.ended[index] += 1
        job.cores -= 1
        self.free += 1
        if all(ended == stage.count for ended, stage in zip(job.ended, job.job.stages, strict=True)):
            job.done_at = self.now
            self.history.setdefault(job.job.name, []).append(
                (job.job.work, sum(stage.count for stage in job.job.stages))
            )

    def give(self) -> None:
        """Give free cores to tasks, one by one."""
        while self.free:
            pools = self.o.policy in ("fair", "weighted")
            ready = [
                (self.key(job, index), job.job.user if pools else 0, job.number, index, job)
                for job in self.jobs
                if job.here and job.done_at == math.inf
                for index in job.runnable()
            ]
            if not ready:
                return
            *_, index, job = min(ready, key=lambda entry: entry[:4])
            stage = job.job.stages[index]
            took = float(stage.durations[0] if stage.tasks else stage.durations[job.launched[index]])
            if stage.tasks:
                end = self.now + self.o.overhead_s + took
            else:
                end = self.now + (self.o.overhead_s + took)
            self.order += 1
            heapq.heappush(self.heap, (end, self.order, job, index))
            job.launched[index] += 1
            job.cores += 1
            self.free -= 1
            self.tasks_run += 1


def invariants(reference: Reference) -> None:
    """Raise AssertionError where a rule is broken: cores, order of stages, work conserved."""
    assert 0 <= reference.free <= reference.cores
    assert reference.free + sum(job.cores for job in reference.jobs) == reference.cores, "a core is lost"
    waiting: Any = [job for job in reference.jobs if job.here and job.done_at == math.inf and job.runnable()]
    assert reference.free == 0 or not waiting, "cores stand idle beside tasks that could run"
    for job in reference.jobs:
        for index, stage in enumerate(job.job.stages):
            if job.launched[index]:
                assert all(job.ended[parent] == job.job.stages[parent].count for parent in stage.parents), (
                    "a stage began before its parents ended"
                )
