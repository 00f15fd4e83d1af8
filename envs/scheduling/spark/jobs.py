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
        return sum(stage.work for stage in self.stages)

    def paths(self) -> list[float]:
        """Longest way from the start of each stage to the end of the job, with a core for every task, s."""
        children: list[list[int]] = [[] for _ in self.stages]
        for index, stage in enumerate(self.stages):
            for parent in stage.parents:
                children[parent].append(index)
        found = [0.0] * len(self.stages)
        for index in reversed(range(len(self.stages))):
            longest = float(self.stages[index].durations.max())
            found[index] = longest + max((found[child] for child in children[index]), default=0.0)
        return found

    def alone(self, cores: int) -> float:
        """Least time that it takes with all cores to itself: its longest way, or its work over the cores."""
        return max(max(self.paths()), self.work / cores)


def ordered(name: str, stages: Sequence[Stage], where: str) -> tuple[Stage, ...]:
    """Return stages with parents before children.

    Raises:
        ConfigError: the stages wait for each other in a circle, or for one that is not there.
    """
    count = len(stages)
    for index, stage in enumerate(stages):
        for parent in stage.parents:
            if not 0 <= parent < count:
                raise ConfigError(
                    f"{where}: stage {index} of {name} waits for stage {parent}, and there are stages 0 to {count - 1}"
                )
    left = {index: set(stage.parents) for index, stage in enumerate(stages)}
    order: list[int] = []
    while left:
        free = sorted(index for index, waits in left.items() if not waits)
        if not free:
            circle = sorted(left)[:6]
            raise ConfigError(f"{where}: {name} has a cycle: stages {', '.join(map(str, circle))} wait for each other")
        for index in free:
            order.append(index)
            del left[index]
        for waits in left.values():
            waits.difference_update(free)
    place = {index: position for position, index in enumerate(order)}
    return tuple(
        replace(stages[index], parents=tuple(sorted(place[parent] for parent in stages[index].parents)))
        for index in order
    )


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
                for index, stage in enumerate(entry["stages"]):
                    counts = [count for count in (*stage["first_wave"], *stage["rest_wave"])]
                    near = executors if executors in counts else max(counts, key=int)
                    times = [*stage["first_wave"].get(near, []), *stage["rest_wave"].get(near, [])]
                    if not times:  # some stages were measured in fresh executors only
                        times = next((values for values in stage["fresh_durations"].values() if values), [1.0])
                    stages.append(
                        Stage(
                            durations=np.maximum(np.array(times, float) / 1e3, 1e-3),
                            parents=tuple(parents.get(index, ())),
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
            times = {task["id"]: task["runtimeInSeconds"] for task in workflow["execution"]["tasks"]}
        else:
            tasks = workflow["tasks"]
            times = {task["id"]: task.get("runtimeInSeconds", task.get("runtime")) for task in tasks}
        place = {task["id"]: index for index, task in enumerate(tasks)}
        stages = [
            Stage(
                durations=np.array([max(float(times[task["id"]]), 1e-3)]),
                parents=tuple(place[parent] for parent in task["parents"]),
            )
            for task in tasks
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
    params = parameters_of(options or {})
    rng = np.random.default_rng([seed, 1510])
    users, count = int(params["users"]), int(params["jobs"])
    work_share, factor = params["heavy_share"], params["heavy_factor"]
    heavy = max(round(users * params["heavy_users"]), 1) if params["heavy_users"] > 0 and work_share > 0 else 0
    # heavy users send few large jobs: the shares of work and the ratio of sizes fix the shares of jobs
    share = work_share / factor / (work_share / factor + 1 - work_share) if heavy else 0.0
    if heavy == users:
        share = 1.0
    large = rng.random(count) < share
    who = np.where(large, rng.integers(0, max(heavy, 1), count), heavy + rng.integers(0, max(users - heavy, 1), count))
    ranked = sorted(pool, key=lambda job: job.work)
    bodies: list[Job] = []
    stages = tasks = 0
    for number in range(count):
        if ranked:
            half = ranked[len(ranked) // 2 :] if large[number] else ranked[: (len(ranked) + 1) // 2]
            bodies.append(half[int(rng.integers(len(half)))])
        else:
            bodies.append(_made(rng, params, bool(large[number])))
        stages += len(bodies[-1].stages)
        tasks += sum(len(stage.durations) for stage in bodies[-1].stages)
        if not number & 0xFF:
            needed = stages * _STAGE_BYTES + tasks * _TASK_BYTES
            check_size(
                f"{number + 1:,} of {count:,} jobs with {tasks:,} tasks",
                needed,
                1,
                "ask for fewer jobs or longer tasks",
            )
    shape = 1.0 / params["cv"] ** 2
    gaps = np.maximum(rng.gamma(shape, 1.0 / shape, count), 1e-100)  # a wild cv gives nothing but zeros
    span = sum(body.work for body in bodies) / (params["load"] * cores)
    times = np.cumsum(gaps)
    times *= span / times[-1]
    return [
        replace(body, arrival_s=float(time_s), user=int(user))
        for body, time_s, user in zip(bodies, times, who, strict=True)
    ]


def _made(rng: np.random.Generator, params: Mapping[str, float], large: bool) -> Job:
    mean = params["work"] * (params["heavy_factor"] if large else 1.0)
    work = float(lognormal(rng, mean, params["work_cv"], 1)[0])
    check_size(f"{params['stages']:g} stages", params["stages"], _STAGE_BYTES)
    count = 1 + int(rng.poisson(max(params["stages"] - 1.0, 0.0)))
    parts = rng.dirichlet(np.full(count, 2.0)) * work
    task = params["task_s"] * (work / params["work"]) ** params["task_power"]
    stages: list[Stage] = []
    for index in range(count):
        tasks = max(round(parts[index] / task), 1)
        check_size(f"a stage of {tasks:,} tasks", tasks, _TASK_BYTES, "make tasks longer (task_s)")
        times = lognormal(rng, parts[index] / tasks, params["skew"], tasks)
        waits = (
            ()
            if index == 0
            else tuple(sorted({index - 1, int(zipf(rng, index, 1.0, 1)[0])} if rng.random() < 0.3 else {index - 1}))
        )
        stages.append(Stage(durations=np.maximum(times, 1e-3), parents=waits))
    return Job(name="large" if large else "small", stages=tuple(stages))


def partitioned(jobs: Sequence[Job], seconds: float) -> list[Job]:
    """Return jobs whose stages are cut into tasks of about so many seconds (runtime partitioning, after UWFQ).

    A stage whose tasks are longer in the mean, or uneven, becomes ceil(work / seconds) tasks alike; shorter ones stay.
    """

    def cut(stage: Stage) -> Stage:
        if stage.durations.max() <= seconds:
            return stage
        check_size(f"a stage in tasks of {seconds:g} s", stage.work / seconds, _TASK_BYTES, "make them longer")
        count = max(math.ceil(stage.work / seconds), stage.count)
        return Stage(durations=np.array([stage.work / count]), parents=stage.parents, tasks=count)

    return [replace(job, stages=tuple(cut(stage) for stage in job.stages)) for job in jobs]


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
