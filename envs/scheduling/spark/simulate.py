"""From jobs and a policy to a simulation of Spark, and from that to metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling import limits
from tunewright.envs.scheduling.outcomes import jain, spread
from tunewright.envs.scheduling.spark import state
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
    "fifo": state.FIFO, "fair": state.FAIR, "fair-jobs": state.FAIR_JOBS, "weighted": state.WEIGHTED, "sjf": state.SJF,
    "critical-path": state.CRITICAL_PATH, "uwfq": state.UWFQ, "chosen": state.CHOSEN,
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
        estimates: of jobs' work: perfect, noisy, or learned: the tasks that a job has, by the mean time of tasks of
            jobs of its class that have ended.
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
    systems: state.Systems
    notes: list[str] = field(default_factory=list)


def check(options: Options) -> None:
    """Raise ConfigError where an option is out of range."""
    if options.policy not in _NUMBERS:
        raise unknown("Spark policy", options.policy, POLICIES)
    if options.estimates not in ESTIMATES:
        raise unknown("kind of estimates", options.estimates, ESTIMATES)
    limits.check(partition_s=options.partition_s, noise=options.noise, overhead=options.overhead_s)
    for weight in options.weights:
        limits.check(weight=weight)


def systems(loads: Sequence[Sequence[Job]], cores: int, options: Options, log: int = 0) -> state.Systems:
    """Return systems that have not begun, one for each list of jobs; the lists are equally long.

    Raises:
        ConfigError: an option is out of range, or jobs are not in the order of their arrival.
    """
    check(options)
    if cores < 1:
        raise ConfigError(f"a cluster has at least one core, not {cores}")
    cut = [partitioned(jobs, options.partition_s) if options.partition_s else list(jobs) for jobs in loads]
    kinds = {name: k for k, name in enumerate(sorted({job.name for jobs in cut for job in jobs}))}
    tables = [_tables(jobs, kinds) for jobs in cut]
    jobs, stages, children, durations_s = (_stacked(parts) for parts in zip(*tables, strict=True))
    users = np.zeros((len(loads), int(jobs["user"].max()) + 1), state.USER)
    users["weight"] = 1.0
    users["weight"][:, : len(options.weights)] = options.weights[: users.shape[1]]
    rng = np.random.default_rng([options.seed, 74])
    if (np.diff(jobs["arrival_s"], axis=1) < 0).any():
        raise ConfigError("jobs must be in the order of their arrival")
    if options.estimates == "noisy":
        for expected in jobs["expected"]:
            expected *= np.exp(rng.normal(0.0, options.noise, len(expected)))
    if options.estimates == "learned":
        jobs["expected"] = jobs["task_count"]  # a second for each, until something has ended
    jobs["done_at"] = np.inf
    batch = state.Systems(jobs, stages, users, children, durations_s, cores, len(kinds), log)
    batch._set(
        policy=_NUMBERS[options.policy], overhead_s=options.overhead_s, learned=options.estimates == "learned"
    )  # fmt: skip
    return batch


def _stacked(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays as the rows of one, (n, most), zeros behind those that are shorter; at least one column."""
    stacked = np.zeros((len(parts), max(1, *map(len, parts))), parts[0].dtype)
    for row, part in zip(stacked, parts, strict=True):
        row[: len(part)] = part
    return stacked


def _records(kind: np.dtype[Any], names: str, rows: Sequence[tuple[float, ...]]) -> NDArray[Any]:
    records = np.zeros(len(rows), kind)
    for name, column in zip(names.split(), zip(*rows, strict=True), strict=True):
        records[name] = column
    return records


def _tables(jobs: Sequence[Job], kinds: dict[str, int]) -> tuple[NDArray[Any], ...]:
    """Return jobs as records of jobs and stages, the children of all stages in a row, and the times of their tasks."""
    rows: list[tuple[float, ...]] = []
    stages: list[tuple[float, ...]] = []
    children: list[int] = []
    durations_s: list[NDArray[np.float64]] = []
    first_duration = 0
    for number, job in enumerate(jobs):
        first, count, work = len(stages), len(job.stages), job.work
        tasks = sum(stage.count for stage in job.stages)
        rows.append((job.arrival_s, work, work, work, job.user, kinds[job.name], first, count, count, tasks))
        below: list[list[int]] = [[] for _ in job.stages]
        for k, stage in enumerate(job.stages):
            for parent in stage.parents:
                below[parent].append(first + k)
        for stage, path_s, waiting in zip(job.stages, job.paths(), below, strict=True):
            parents, place = len(stage.parents), -1
            if not stage.tasks:
                place = first_duration
                durations_s.append(stage.durations)
                first_duration += len(stage.durations)
            task_s = stage.work / stage.count
            edges = (parents, parents, len(children), len(waiting))
            stages.append((task_s, path_s, number, stage.count, *edges, place))
            children += waiting
    return (
        _records(
            state.JOB, "arrival_s work_s expected left_s user kind first_stage stage_count stages_left task_count", rows
        ),
        _records(
            state.STAGE,
            "task_s path_s job task_count parent_count parents_left first_child child_count first_duration", stages,
        ),
        np.array(children, np.int64), np.concatenate([np.zeros(0), *durations_s]),
    )  # fmt: skip


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
    batch = systems([jobs], cores, options or Options(), log)
    start = time.perf_counter()
    finished = bool(kernel.run(batch.address, 0, most_alive))
    took_s = time.perf_counter() - start
    arrival_s, work_s = np.array([job.arrival_s for job in jobs]), np.array([job.work for job in jobs])
    users = np.array([job.user for job in jobs])
    weights = np.ascontiguousarray(batch.users[0]["weight"])
    fluid_s = np.full(len(jobs), np.inf)
    alive = np.zeros(len(weights), np.int64)
    kernel.fluid(arrival_s, users, work_s, weights, float(cores), work_s.copy(), alive, fluid_s)
    return Outcome(
        jobs=jobs, response_s=batch.jobs[0]["done_at"] - arrival_s,
        alone_s=np.array([job.alone(cores) for job in jobs]), fluid_s=fluid_s - arrival_s,
        small=work_s <= np.quantile(work_s, SMALL), seconds=took_s, decisions=int(batch.systems["decisions"][0]),
        tasks=int(batch.stages[0]["launched"].sum()), finished=finished, systems=batch,
    )  # fmt: skip


def metrics(outcome: Outcome) -> dict[str, Any]:
    """Return the metrics of an outcome.

    Slowdown is response over the least time alone. A job is delayed unfairly by the part of its response that is above
    what it would be under the fluid share, where every user has an equal part of the cores at every moment. Fairness is
    Jain's index of the users' mean parts (fluid over true response, at most 1).
    """
    jobs, done = outcome.jobs, np.isfinite(outcome.response_s)
    small, response_s = outcome.small & done, np.where(done, outcome.response_s, 0.0)
    arrival_s, users = np.array([job.arrival_s for job in jobs]), np.array([job.user for job in jobs])
    slowdown = response_s / outcome.alone_s
    due_s = np.maximum(outcome.fluid_s, outcome.alone_s)
    part = np.minimum(due_s / np.maximum(response_s, 1e-12), 1.0)
    parts = [float(part[done & (users == user)].mean()) for user in np.unique(users[done])]
    late_s = np.maximum(response_s - due_s, 0.0)
    end_s = float((arrival_s + response_s)[done].max()) if done.any() else max(job.arrival_s for job in jobs)
    return {
        "response_s": spread(response_s[done], 95), "small_response_s": spread(response_s[small], 95),
        "slowdown": spread(slowdown[done], 95), "small_slowdown": spread(slowdown[small], 95), "fairness": jain(parts),
        "unfair_delay_s": float(late_s[done].mean()) if done.any() else None,
        "unfair_share": float((late_s[done] > 0.1 * outcome.fluid_s[done]).mean()) if done.any() else None,
        "makespan_s": end_s,
        "utilisation": sum(job.work for job in jobs) / (int(outcome.systems.systems["core_count"][0]) * end_s),
    }  # fmt: skip


def stability(outcome: Outcome) -> tuple[bool, str]:
    """Say whether the cluster keeps up with its jobs."""
    jobs, response_s = outcome.jobs, outcome.response_s
    if not outcome.finished:
        left = int((~np.isfinite(response_s)).sum())
        return False, f"given up with {left:,} jobs unfinished: more work comes than the cores do"
    last_s = jobs[-1].arrival_s
    ends_s = np.array([job.arrival_s for job in jobs]) + response_s
    drain_s, span_s = float(ends_s.max()) - last_s, max(last_s - jobs[0].arrival_s, 1e-9)
    half = len(jobs) // 2
    if half >= 50 and drain_s > 0.15 * span_s and np.median(response_s[half:]) > 2 * np.median(response_s[:half]):
        return False, (
            f"unstable: what was left took {drain_s:,.0f} s after {span_s:,.0f} s of arrivals, and response times grow"
            f" to the end; lower the load by about {100 * (1 - span_s / (span_s + drain_s)):.0f} %, or add cores"
        )
    return True, ""
