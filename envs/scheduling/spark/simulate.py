"""From jobs and a policy to a simulation of Spark, and from that to metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling import limits as L
from tunewright.envs.scheduling.serving.simulate import jain
from tunewright.envs.scheduling.spark import state as S
from tunewright.envs.scheduling.spark.jobs import Job, partitioned
from tunewright.errors import ConfigError, unknown

POLICIES = {
    "fifo": "jobs in the order of their arrival (Spark's default)",
    "fair": "users' pools by cores in use, FIFO within (Spark's fair scheduler, a pool a user)",
    "fair-jobs": "jobs by cores in use (Spark's fair scheduler, a pool a job)",
    "weighted": "as fair, by the users' weights",
    "sjf": "the job with the least expected work first",
    "critical-path": "the stage with the longest way to its job's end first",
    "uwfq": "by the time at which a job would end if users, and each user's jobs, shared the cores evenly",
}
_NUMBERS = {
    "fifo": S.FIFO, "fair": S.FAIR, "fair-jobs": S.FAIR_JOBS, "weighted": S.WEIGHTED, "sjf": S.SJF,
    "critical-path": S.CRITICAL_PATH, "uwfq": S.UWFQ, "chosen": S.CHOSEN,
}  # fmt: skip
ESTIMATES = ("perfect", "noisy", "learned")
OVERHEAD_S = 0.02  # of starting a task; Spark's own launch takes some tens of milliseconds; assumed
PARTITION_S = 1.0  # of a task under runtime partitioning
SMALL = 0.5  # jobs with less work than this quantile are small
MOST_ALIVE = 20_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """How jobs are scheduled.

    Attributes:
        policy: one of ``POLICIES``.
        partition_s: stages are cut into tasks of about so long; 0: as they are.
        estimates: of jobs' work: perfect, noisy, or learned: the tasks that a job has, by the mean time of tasks of jobs of its
            class that have ended.
        noise: standard deviation of the log of expected over true work.
        overhead_s: of starting a task.
        weights: of users; 1 where not given.
        seed: of noise.
    """

    policy: str = "fifo"
    partition_s: float = 0.0
    estimates: str = "perfect"
    noise: float = 0.5
    overhead_s: float = OVERHEAD_S
    weights: tuple[float, ...] = ()
    seed: int = 0


@dataclass
class Outcome:
    """What came of a simulation.

    Attributes:
        jobs: as they came.
        response_s, alone_s, fluid_s: of each: from arrival to end, with all cores to itself, and under the fluid share.
        small: which are.
        seconds: that simulating took.
        decisions: cores, or groups of cores, that were given out.
        tasks: how many ran.
        finished: it came to its end.
        systems: the state at the end.
    """

    jobs: Sequence[Job]
    response_s: NDArray[np.float64]
    alone_s: NDArray[np.float64]
    fluid_s: NDArray[np.float64]
    small: NDArray[np.bool_]
    seconds: float
    decisions: int
    tasks: int
    finished: bool
    systems: S.Systems
    notes: list[str] = field(default_factory=list)


def check(o: Options) -> None:
    """Raise ConfigError where an option is out of range."""
    if o.policy not in _NUMBERS:
        raise unknown("Spark policy", o.policy, POLICIES)
    if o.estimates not in ESTIMATES:
        raise unknown("kind of estimates", o.estimates, ESTIMATES)
    L.check(partition_s=o.partition_s, noise=o.noise, overhead=o.overhead_s)
    for weight in o.weights:
        L.check(weight=weight)


def systems(loads: Sequence[Sequence[Job]], cores: int, o: Options, log: int = 0) -> S.Systems:
    """Return systems that have not begun, one for each list of jobs; the lists are equally long.

    Raises:
        ConfigError: an option is out of range, or jobs are not in the order of their arrival.
    """
    check(o)
    if cores < 1:
        raise ConfigError(f"a cluster has at least one core, not {cores}")
    n, count = len(loads), len(loads[0])
    cut = [partitioned(jobs, o.partition_s) if o.partition_s else list(jobs) for jobs in loads]
    users = max(max(j.user for j in jobs) for jobs in cut) + 1
    most = max(sum(len(j.stages) for j in jobs) for jobs in cut)
    edges = max(sum(len(s.parents) for j in jobs for s in j.stages) for jobs in cut)
    times = max(sum(len(s.durations) for j in jobs for s in j.stages if not s.tasks) for jobs in cut)
    kinds = {name: k for k, name in enumerate(sorted({j.name for jobs in cut for j in jobs}))}
    jobs_, stages_ = np.zeros((n, count), S.JOB), np.zeros((n, most), S.STAGE)
    people = np.zeros((n, users), S.USER)
    people["weight"] = 1.0
    people["weight"][:, : len(o.weights[:users])] = o.weights[:users]
    children, durations = np.zeros((n, max(edges, 1)), np.int64), np.zeros((n, max(times, 1)))
    rng = np.random.default_rng([o.seed, 74])
    for k, jobs in enumerate(cut):
        _fill(k, jobs, jobs_, stages_, children, durations, kinds)
        if (np.diff(jobs_["arrival"][k]) < 0).any():
            raise ConfigError("jobs must be in the order of their arrival")
        if o.estimates == "noisy":
            jobs_["expected"][k] *= np.exp(rng.normal(0.0, o.noise, count))
    if o.estimates == "learned":
        jobs_["expected"] = jobs_["tasks"]  # a second for each, until something has ended
    jobs_["done_at"] = np.inf
    made = S.Systems(jobs_, stages_, people, children, durations, cores, len(kinds), log)
    made.systems["policy"], made.systems["overhead_s"] = _NUMBERS[o.policy], o.overhead_s
    made.systems["learned"] = o.estimates == "learned"
    return made


def _fill(
    k: int, jobs: Sequence[Job], jobs_: Any, stages_: Any, children: Any, durations: Any, kinds: dict[str, int]
) -> None:
    first, edge, at = 0, 0, 0
    rows, parts = [], []
    for number, j in enumerate(jobs):
        paths = j.paths()
        below: list[list[int]] = [[] for _ in j.stages]
        for i, s in enumerate(j.stages):
            for p in s.parents:
                below[p].append(first + i)
        tasks = sum(s.count for s in j.stages)
        rows.append(
            (j.arrival_s, j.work, j.work, j.work, j.user, kinds[j.name], first, len(j.stages), len(j.stages), tasks)
        )
        for i, s in enumerate(j.stages):
            place = -1
            if not s.tasks:
                place = at
                durations[k, at : at + len(s.durations)] = s.durations
                at += len(s.durations)
            children[k, edge : edge + len(below[i])] = below[i]
            parts.append(
                (
                    s.work / s.count,
                    paths[i],
                    number,
                    s.count,
                    len(s.parents),
                    len(s.parents),
                    edge,
                    len(below[i]),
                    place,
                )
            )
            edge += len(below[i])
        first += len(j.stages)
    for names, values, into in (
        (
            ("arrival", "work", "expected", "left", "user", "kind", "first", "stages", "stages_left", "tasks"),
            rows,
            jobs_,
        ),
        (
            ("mean", "path", "job", "tasks", "parents", "parents_left", "children", "children_n", "durations"),
            parts,
            stages_,
        ),
    ):
        for name, column in zip(names, zip(*values, strict=True), strict=True):
            into[name][k, : len(column)] = column


def simulate(
    jobs: Sequence[Job], cores: int, options: Options | None = None, *, log: int = 0, most_alive: int = MOST_ALIVE
) -> Outcome:
    """Run jobs on so many cores.

    Args:
        jobs: in the order of their arrival.
        cores: that tasks run on, one each.
        options: how; FIFO if not given.
        log: launches to keep for a picture.
        most_alive: unfinished jobs at which the system is given up.

    Raises:
        ConfigError: see ``systems``; or there are no jobs.
    """
    from tunewright.envs.scheduling.spark import kernel

    if not jobs:
        raise ConfigError("no jobs to run")
    o = options or Options()
    made = systems([jobs], cores, o, log)
    start = time.perf_counter()
    finished = bool(kernel.run_one(made.address, 0, most_alive))
    took = time.perf_counter() - start
    rows = made.jobs[0]
    arrival, work = np.array([j.arrival_s for j in jobs]), np.array([j.work for j in jobs])
    users = len(made.users[0])
    fluid = np.full(len(jobs), np.inf)
    weights = np.ascontiguousarray(made.users[0]["weight"])
    who = np.array([j.user for j in jobs])
    kernel.fluid(arrival, who, work, weights, float(cores), work.copy(), np.zeros(users, np.int64), fluid)
    alone = np.array([j.alone(cores) for j in jobs])
    return Outcome(
        jobs=jobs, response_s=rows["done_at"] - arrival, alone_s=alone, fluid_s=fluid - arrival,
        small=work <= np.quantile(work, SMALL), seconds=took, decisions=int(made.systems["decisions"][0]),
        tasks=int(made.stages[0]["launched"].sum()), finished=finished, systems=made,
    )  # fmt: skip


def metrics(o: Outcome) -> dict[str, Any]:
    """Return the metrics of an outcome.

    Slowdown is response over the least time alone. A job is delayed unfairly by the part of its response that is above
    what it would be under the fluid share, where every user has an equal part of the cores at every moment. Fairness is Jain's
    index of the users' mean parts (fluid over true response, at most 1).
    """
    done = np.isfinite(o.response_s)
    small, r = o.small & done, np.where(done, o.response_s, 0.0)
    users = np.array([j.user for j in o.jobs])
    slow = r / o.alone_s
    part = np.minimum(np.maximum(o.fluid_s, o.alone_s) / np.maximum(r, 1e-12), 1.0)
    people = [float(part[done & (users == u)].mean()) for u in np.unique(users[done])]
    late = np.maximum(r - np.maximum(o.fluid_s, o.alone_s), 0.0)

    def spread(x: Any) -> dict[str, float | None]:
        if not len(x):
            return {"mean": None, "p50": None, "p95": None, "p99": None}
        p50, p95, p99 = np.percentile(x, [50, 95, 99])
        return {"mean": float(x.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}

    end = max(j.arrival_s for j in o.jobs)
    if done.any():
        end = float((np.array([j.arrival_s for j in o.jobs]) + r)[done].max())
    return {
        "response_s": spread(r[done]), "small_response_s": spread(r[small]), "slowdown": spread(slow[done]),
        "small_slowdown": spread(slow[small]), "fairness": jain(people),
        "unfair_delay_s": float(late[done].mean()) if done.any() else None,
        "unfair_share": float((late[done] > 0.1 * o.fluid_s[done]).mean()) if done.any() else None,
        "makespan_s": end, "utilisation": sum(j.work for j in o.jobs) / (int(o.systems.systems["cores"][0]) * end),
    }  # fmt: skip


def stability(o: Outcome) -> tuple[bool, str]:
    """Say whether the cluster keeps up with its jobs."""
    if not o.finished:
        left = int((~np.isfinite(o.response_s)).sum())
        return False, f"given up with {left:,} jobs unfinished: more work comes than the cores do"
    last = o.jobs[-1].arrival_s
    ends = np.array([j.arrival_s for j in o.jobs]) + o.response_s
    drain, span = float(ends.max()) - last, max(last - o.jobs[0].arrival_s, 1e-9)
    n = len(o.jobs) // 2
    if n >= 50 and drain > 0.15 * span and np.median(o.response_s[n:]) > 2 * np.median(o.response_s[:n]):
        return False, (
            f"unstable: what was left took {drain:,.0f} s after {span:,.0f} s of arrivals, and response times grow to the"
            f" end; lower the load by about {100 * (1 - span / (span + drain)):.0f} %, or add cores"
        )
    return True, ""
