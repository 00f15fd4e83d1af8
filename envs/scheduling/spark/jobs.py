"""Jobs of many users as DAGs of stages: measured ones, and mixtures of them with stated parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.generated import lognormal, numbers, zipf
from tunewright.errors import ConfigError
from tunewright.store.files import check_size, parsing, read_json

_STAGE_BYTES, _TASK_BYTES = 400, 40  # of memory for a stage and for a task


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Tasks that may run at once.

    Attributes:
        durations: of the tasks, s; all the same where ``tasks`` is given.
        parents: stages of the job that must end before.
        tasks: how many, all of the duration ``durations[0]``; 0: as many as durations are given.
    """

    durations: NDArray[np.float64]
    parents: tuple[int, ...] = ()
    tasks: int = 0

    @property
    def count(self) -> int:
        """Tasks."""
        return self.tasks or len(self.durations)

    @property
    def work(self) -> float:
        """Core-seconds."""
        return float(self.durations[0]) * self.tasks if self.tasks else float(self.durations.sum())


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job.

    Attributes:
        name: of its class, such as a query.
        stages: in an order in which parents come first.
        arrival_s: when it comes.
        user: number of the user.
    """

    name: str
    stages: tuple[Stage, ...]
    arrival_s: float = 0.0
    user: int = 0

    @property
    def work(self) -> float:
        """Core-seconds."""
        return sum(s.work for s in self.stages)

    def paths(self) -> list[float]:
        """Longest way from the start of each stage to the end of the job, with a core for every task, s."""
        children: list[list[int]] = [[] for _ in self.stages]
        for k, s in enumerate(self.stages):
            for p in s.parents:
                children[p].append(k)
        found = [0.0] * len(self.stages)
        for k in reversed(range(len(self.stages))):
            longest = float(self.stages[k].durations.max())
            found[k] = longest + max((found[c] for c in children[k]), default=0.0)
        return found

    def alone(self, cores: int) -> float:
        """Least time that it takes with all cores to itself: its longest way, or its work over the cores."""
        return max(max(self.paths()), self.work / cores)


def ordered(name: str, stages: Sequence[Stage], where: str) -> tuple[Stage, ...]:
    """Return stages with parents before children.

    Raises:
        ConfigError: the stages wait for each other in a circle, or for one that is not there.
    """
    n = len(stages)
    for k, s in enumerate(stages):
        for p in s.parents:
            if not 0 <= p < n:
                raise ConfigError(
                    f"{where}: stage {k} of {name} waits for stage {p}, and there are stages 0 to {n - 1}"
                )
    left = {k: set(s.parents) for k, s in enumerate(stages)}
    order: list[int] = []
    while left:
        free = sorted(k for k, waits in left.items() if not waits)
        if not free:
            circle = sorted(left)[:6]
            raise ConfigError(f"{where}: {name} has a cycle: stages {', '.join(map(str, circle))} wait for each other")
        for k in free:
            order.append(k)
            del left[k]
        for waits in left.values():
            waits.difference_update(free)
    place = {k: i for i, k in enumerate(order)}
    return tuple(replace(stages[k], parents=tuple(sorted(place[p] for p in stages[k].parents))) for k in order)


def tpch(
    path: Path, sizes: Sequence[str] = ("2g", "5g", "10g", "20g", "50g", "80g", "100g"), executors: str = "40"
) -> list[Job]:
    """Read the DAGs of TPC-H queries that Decima was trained on (times are in ms).

    Args:
        path: the JSON file, plain or gzip.
        sizes: of the data.
        executors: number of executors at which the durations were measured.

    Raises:
        ConfigError: the file cannot be read so.
    """
    data = read_json(path, "file of jobs")
    found = []
    with parsing(path, "jobs in the form of tpch_dags.json"):
        for size in sizes:
            for query, entry in data[size].items():
                parents: dict[int, list[int]] = {}
                for parent, child in entry["edges"]:
                    parents.setdefault(int(child), []).append(int(parent))
                stages = []
                for k, s in enumerate(entry["stages"]):
                    counts = [n for n in (*s["first_wave"], *s["rest_wave"])]
                    near = executors if executors in counts else max(counts, key=int)
                    times = [*s["first_wave"].get(near, []), *s["rest_wave"].get(near, [])]
                    if not times:  # some stages were measured in fresh executors only
                        times = next((v for v in s["fresh_durations"].values() if v), [1.0])
                    stages.append(
                        Stage(
                            durations=np.maximum(np.array(times, float) / 1e3, 1e-3), parents=tuple(parents.get(k, ()))
                        )
                    )
                found.append(Job(name=f"q{query}-{size}", stages=ordered(f"query {query}", stages, str(path))))
    return found


def wfcommons(path: Path) -> Job:
    """Read a workflow in WfFormat; every task becomes a stage of one task.

    Raises:
        ConfigError: the file cannot be read so, or tasks wait for each other in a circle.
    """
    data = read_json(path, "workflow")
    with parsing(path, "workflow in WfFormat"):
        workflow = data["workflow"]
        if "specification" in workflow:
            tasks = workflow["specification"]["tasks"]
            times = {t["id"]: t["runtimeInSeconds"] for t in workflow["execution"]["tasks"]}
        else:
            tasks = workflow["tasks"]
            times = {t["id"]: t.get("runtimeInSeconds", t.get("runtime")) for t in tasks}
        place = {t["id"]: k for k, t in enumerate(tasks)}
        stages = [
            Stage(durations=np.array([max(float(times[t["id"]]), 1e-3)]), parents=tuple(place[p] for p in t["parents"]))
            for t in tasks
        ]
    name = path.name.split(".")[0]
    return Job(name=name, stages=ordered(name, stages, str(path)))


DEFAULTS: dict[str, float] = {
    "users": 20,
    "jobs": 400,
    "load": 0.7,  # work that arrives over what the cores do
    "cv": 1.0,  # of the gaps between a user's jobs; 1 Poisson
    "work": 60.0,  # mean core-seconds of a small job
    "work_cv": 1.0,
    "heavy_users": 0.2,  # share of the users whose jobs are large
    "heavy_factor": 20.0,  # work of a large job over a small one's
    "heavy_share": 0.5,  # of all work that the heavy users send
    "stages": 3.0,  # mean stages of a job
    "task_s": 2.0,  # mean time of a task of a small job
    "task_power": 0.6,  # tasks of larger jobs are longer: work^power
    "skew": 0.3,  # coefficient of variation of the tasks of a stage
}


def parameters_of(options: Mapping[str, Any]) -> dict[str, float]:
    """Return all parameters of the generator.

    Raises:
        UnknownNameError: there is no such parameter.
        ConfigError: a value is out of range.
    """
    found = numbers(
        "the jobs", DEFAULTS, options, whole=("users", "jobs"),
        positive=("users", "jobs", "load", "cv", "work", "task_s", "stages", "heavy_factor"),
    )  # fmt: skip
    if found["jobs"] > 200_000:
        raise ConfigError("at most 200,000 jobs are generated")
    if found["task_power"] > 10:
        raise ConfigError(f"task_power must lie between 0 and 10, not {found['task_power']:g}")
    for name in ("heavy_users", "heavy_share"):
        if not 0 <= found[name] <= 1:
            raise ConfigError(f"{name} is a share, 0 to 1, not {found[name]:g}")
    return found


def generate(
    cores: int, options: Mapping[str, Any] | None = None, seed: int = 0, pool: Sequence[Job] = ()
) -> list[Job]:
    """Return jobs of many users, in the order of their arrival.

    Some users are heavy: their jobs are larger, and their tasks longer. Arrivals are scaled so that the work that comes
    is ``load`` times what the cores do.

    Args:
        cores: of the cluster.
        options: parameters, see ``DEFAULTS``.
        seed: fixes everything.
        pool: jobs to draw from instead of making them; heavy users draw from the larger half.
    """
    p = parameters_of(options or {})
    rng = np.random.default_rng([seed, 1510])
    users, n = int(p["users"]), int(p["jobs"])
    heavy = max(round(users * p["heavy_users"]), 1) if p["heavy_users"] > 0 and p["heavy_share"] > 0 else 0
    # heavy users send few large jobs: the shares of work and the ratio of sizes fix the shares of jobs
    share = (
        p["heavy_share"] / p["heavy_factor"] / (p["heavy_share"] / p["heavy_factor"] + 1 - p["heavy_share"])
        if heavy
        else 0.0
    )
    if heavy == users:
        share = 1.0
    large = rng.random(n) < share
    who = np.where(large, rng.integers(0, max(heavy, 1), n), heavy + rng.integers(0, max(users - heavy, 1), n))
    ranked = sorted(pool, key=lambda j: j.work)
    bodies: list[Job] = []
    stages = tasks = 0
    for k in range(n):
        if ranked:
            half = ranked[len(ranked) // 2 :] if large[k] else ranked[: (len(ranked) + 1) // 2]
            bodies.append(half[int(rng.integers(len(half)))])
        else:
            bodies.append(_made(rng, p, bool(large[k])))
        stages += len(bodies[-1].stages)
        tasks += sum(len(s.durations) for s in bodies[-1].stages)
        if not k & 0xFF:
            needed = stages * _STAGE_BYTES + tasks * _TASK_BYTES
            check_size(f"{k + 1:,} of {n:,} jobs with {tasks:,} tasks", needed, 1, "ask for fewer jobs or longer tasks")
    shape = 1.0 / p["cv"] ** 2
    gaps = np.maximum(rng.gamma(shape, 1.0 / shape, n), 1e-100)  # a wild cv gives nothing but zeros
    span = sum(b.work for b in bodies) / (p["load"] * cores)
    times = np.cumsum(gaps)
    times *= span / times[-1]
    return [replace(b, arrival_s=float(t), user=int(u)) for b, t, u in zip(bodies, times, who, strict=True)]


def _made(rng: np.random.Generator, p: Mapping[str, float], large: bool) -> Job:
    mean = p["work"] * (p["heavy_factor"] if large else 1.0)
    work = float(lognormal(rng, mean, p["work_cv"], 1)[0])
    check_size(f"{p['stages']:g} stages", p["stages"], _STAGE_BYTES)
    count = 1 + int(rng.poisson(max(p["stages"] - 1.0, 0.0)))
    parts = rng.dirichlet(np.full(count, 2.0)) * work
    task = p["task_s"] * (work / p["work"]) ** p["task_power"]
    stages: list[Stage] = []
    for k in range(count):
        n = max(round(parts[k] / task), 1)
        check_size(f"a stage of {n:,} tasks", n, _TASK_BYTES, "make tasks longer (task_s)")
        times = lognormal(rng, parts[k] / n, p["skew"], n)
        waits = (
            () if k == 0 else tuple(sorted({k - 1, int(zipf(rng, k, 1.0, 1)[0])} if rng.random() < 0.3 else {k - 1}))
        )
        stages.append(Stage(durations=np.maximum(times, 1e-3), parents=waits))
    return Job(name="large" if large else "small", stages=tuple(stages))


def partitioned(jobs: Sequence[Job], seconds: float) -> list[Job]:
    """Return jobs whose stages are cut into tasks of about so many seconds (runtime partitioning, after UWFQ).

    A stage whose tasks are longer in the mean, or uneven, becomes ceil(work / seconds) tasks alike; shorter ones stay.
    """

    def cut(s: Stage) -> Stage:
        if s.durations.max() <= seconds:
            return s
        check_size(f"a stage in tasks of {seconds:g} s", s.work / seconds, _TASK_BYTES, "make them longer")
        n = max(math.ceil(s.work / seconds), s.count)
        return Stage(durations=np.array([s.work / n]), parents=s.parents, tasks=n)

    return [replace(j, stages=tuple(cut(s) for s in j.stages)) for j in jobs]


def pool_of(dags: str) -> list[Any]:
    """Return measured jobs to draw from: TPC-H's DAGs, a workflow, or a folder of these; none for ""."""
    if not dags:
        return []
    path = Path(dags)
    if path.is_dir():
        jobs = [wfcommons(p) for p in sorted(path.glob("*.json*"))]
        if not jobs:
            raise ConfigError(f"{path} has no workflows (*.json, *.json.gz)")
        return jobs
    return tpch(path) if "tpch" in path.name else [wfcommons(path)]
