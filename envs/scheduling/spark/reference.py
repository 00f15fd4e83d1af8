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
            k
            for k, s in enumerate(stages)
            if self.launched[k] < s.count and all(self.ended[p] == stages[p].count for p in s.parents)
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
            Running(
                k,
                j,
                j.work if expected is None else float(expected[k]),
                j.paths(),
                [0] * len(j.stages),
                [0] * len(j.stages),
            )
            for k, j in enumerate(cut)
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
            (j for j in self.jobs if j.here and j.virtual_left > 0 and j.job.user == user), key=lambda j: j.virtual_left
        )
        total = before = 0.0
        for k, j in enumerate(mine):
            total += (j.virtual_left - before) * (len(mine) - k)
            before = j.virtual_left
            j.deadline = self.clock + total / self.weight(user)

    def move_clock(self, until: float) -> None:
        """Move the virtual clock and serve the virtual system together."""
        while self.virtual_now < until:
            alive = [j for j in self.jobs if j.here and j.virtual_left > 0]
            if not alive:
                self.virtual_now = until
                return
            users = {j.job.user for j in alive}
            total = sum(self.weight(u) for u in users)
            count = {u: sum(j.job.user == u for j in alive) for u in users}
            rate = {u: self.cores * self.weight(u) / total / count[u] for u in users}
            step = min(min(j.virtual_left / rate[j.job.user] for j in alive), until - self.virtual_now)
            for j in alive:
                left = j.virtual_left - rate[j.job.user] * step
                j.virtual_left = left if left > 1e-9 * j.expected else 0.0
            self.clock += step * self.cores / total
            self.virtual_now += step

    def key(self, j: Running, stage: int) -> float:
        """Place in the order; the smallest first."""
        policy = self.o.policy
        if policy == "fifo":
            return j.number
        if policy in ("fair", "weighted"):
            used = sum(other.cores for other in self.jobs if other.job.user == j.job.user)
            return used / (self.weight(j.job.user) if policy == "weighted" else 1.0)
        if policy == "fair-jobs":
            return j.cores
        if policy == "sjf":
            return j.expected
        if policy == "uwfq":
            return j.deadline
        return -j.paths[stage]

    def run(self) -> list[Running]:
        """Run everything; returns the jobs."""
        coming = 0
        while coming < len(self.jobs) or self.heap:
            arrival = self.jobs[coming].job.arrival_s if coming < len(self.jobs) else math.inf
            self.now = min(arrival, self.heap[0][0] if self.heap else math.inf)
            while self.heap and self.heap[0][0] == self.now:
                _, _, j, k = heapq.heappop(self.heap)
                self.end(j, k)
            while coming < len(self.jobs) and self.jobs[coming].job.arrival_s == self.now:
                self.arrive(self.jobs[coming])
                coming += 1
            self.give()
            if self.each is not None:
                self.each(self)
        return self.jobs

    def arrive(self, j: Running) -> None:
        """A job comes."""
        if self.o.estimates == "learned":
            same = self.history.get(j.job.name)
            known = same or [w for works in self.history.values() for w in works]
            if known:
                work, tasks = (sum(c) for c in zip(*known, strict=True))
                j.expected = sum(s.count for s in j.job.stages) * work / tasks
        if self.o.policy == "uwfq":
            self.move_clock(self.now)
        j.here, j.virtual_left = True, j.expected
        if self.o.policy == "uwfq":
            self.finish_times(j.job.user)

    def end(self, j: Running, k: int) -> None:
        """A task has ended."""
        j.ended[k] += 1
        j.cores -= 1
        self.free += 1
        if all(e == s.count for e, s in zip(j.ended, j.job.stages, strict=True)):
            j.done_at = self.now
            self.history.setdefault(j.job.name, []).append((j.job.work, sum(s.count for s in j.job.stages)))

    def give(self) -> None:
        """Give free cores to tasks, one by one."""
        while self.free:
            pools = self.o.policy in ("fair", "weighted")
            ready = [
                (self.key(j, k), j.job.user if pools else 0, j.number, k, j)
                for j in self.jobs
                if j.here and j.done_at == math.inf
                for k in j.runnable()
            ]
            if not ready:
                return
            *_, k, j = min(ready, key=lambda r: r[:4])
            s = j.job.stages[k]
            took = float(s.durations[0] if s.tasks else s.durations[j.launched[k]])
            if s.tasks:
                end = self.now + self.o.overhead_s + took
            else:
                end = self.now + (self.o.overhead_s + took)
            self.order += 1
            heapq.heappush(self.heap, (end, self.order, j, k))
            j.launched[k] += 1
            j.cores += 1
            self.free -= 1
            self.tasks_run += 1


def invariants(r: Reference) -> None:
    """Raise AssertionError where a rule is broken: cores, order of stages, work conserved."""
    assert 0 <= r.free <= r.cores
    assert r.free + sum(j.cores for j in r.jobs) == r.cores, "a core is lost"
    waiting: Any = [j for j in r.jobs if j.here and j.done_at == math.inf and j.runnable()]
    assert r.free == 0 or not waiting, "cores stand idle beside tasks that could run"
    for j in r.jobs:
        for k, s in enumerate(j.job.stages):
            if j.launched[k]:
                assert all(j.ended[p] == j.job.stages[p].count for p in s.parents), (
                    "a stage began before its parents ended"
                )
