"""The target ``spark``: how a Spark application with many users is scheduled, on generated or measured jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.envs.scheduling.simulated import SIMULATED, SimulatedTarget, numbers_of
from tunewright.envs.scheduling.spark import jobs as spark_jobs
from tunewright.envs.scheduling.spark import simulate
from tunewright.errors import unknown
from tunewright.space import Config, Space
from tunewright.space.parameters import Choice, Real
from tunewright.target import Budget, Measurement, Metric

WORKLOADS = {
    "mixed": ("20 users, a fifth of them with large jobs", {}),
    "busy": ("the same at 90 % load", {"load": 0.9}),
    "uneven": (
        "one heavy user of ten, jobs forty times as large, uneven tasks",
        {"users": 10, "heavy_users": 0.1, "heavy_factor": 40, "skew": 1.0},
    ),
    "short": ("many small jobs of short tasks", {"work": 15, "task_s": 0.3, "heavy_factor": 5}),
}  # fmt: skip
OPTIONS = {
    "cores": "that tasks run on (32)",
    "jobs": "how many (400)",
    "seed": "of the jobs (1)",
    "dags": "measured jobs to draw from: tpch_dags.json, or workflows",
}


class SparkTarget(SimulatedTarget):
    """A Spark application with many users: how its jobs are scheduled and cut into tasks; simulated.

    Args:
        cores, jobs, seed: see ``OPTIONS``.
        dags: file of measured jobs.
    """

    name = "spark"
    options: Mapping[str, str] = OPTIONS
    metrics = (
        Metric(
            name="small_response", direction="min", unit="s", doc="mean response time of the smaller half of the jobs"
        ),
        Metric(name="response", direction="min", unit="s", doc="mean response time of all jobs"),
        Metric(name="response_p95", direction="min", unit="s", doc="95th percentile of it"),
        Metric(
            name="unfair_delay",
            direction="min",
            unit="s",
            doc="mean part of the response above that of an ideal fluid share",
        ),
    )
    workloads: Mapping[str, str] = {n: words for n, (words, _) in WORKLOADS.items()}
    space = Space(
        [
            Choice(name="policy", choices=tuple(simulate.POLICIES), default="fifo",
                   doc="which stage gets the next free core"),
            Choice(name="partition", choices=(False, True), default=False,
                   doc="cut stages into tasks of about partition_s"),
            Real(
                name="partition_s", low=0.1, high=20.0, default=1.0, log=True, unit="s",
                doc="time of a task when stages are cut", when="partition == true",
            ),
            Choice(name="estimates", choices=("learned", "noisy"), default="learned", doc="how jobs' work is expected"),
        ]
    )  # fmt: skip

    def __init__(self, cores: int, jobs: int, seed: int, dags: str) -> None:
        self.cores, self.count, self.seed, self.pool = cores, jobs, seed, spark_jobs.pool_of(dags)
        self.facts = {
            "CORES": cores,
            "jobs": jobs,
            "simulated": SIMULATED,
        }
        self._mixes: dict[str, list[spark_jobs.Job]] = {}

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Run the jobs."""
        if workload not in WORKLOADS:
            raise unknown("workload", workload, WORKLOADS)
        if workload not in self._mixes:
            self._mixes[workload] = spark_jobs.generate(
                self.cores, {"jobs": self.count, **WORKLOADS[workload][1]}, self.seed, self.pool
            )
        outcome = simulate.simulate(
            self._mixes[workload], self.cores,
            simulate.Options(
                policy=str(config["policy"]), partition_s=float(config["partition_s"]) if config["partition"] else 0.0,
                estimates=str(config["estimates"]), seed=self.seed,
            ),
        )  # fmt: skip
        stable, words = simulate.stability(outcome)
        if not outcome.finished:
            return Measurement(status="failed", reason=words)
        metrics = simulate.metrics(outcome)
        values = {
            "small_response": metrics["small_response_s"]["mean"], "response": metrics["response_s"]["mean"],
            "response_p95": metrics["response_s"]["p95"], "unfair_delay": metrics["unfair_delay_s"],
        }  # fmt: skip
        return Measurement(
            values=values,
            seconds=outcome.seconds,
            traces={"tasks": outcome.tasks, "stable": stable, "fairness": metrics["fairness"]},
        )

    def render(self, config: Config) -> str:
        """Return what Spark itself has of it, and the rest in words."""
        policy = str(config["policy"])
        lines = [f"spark.scheduler.mode={'FAIR' if policy.startswith(('fair', 'weighted')) else 'FIFO'}"]
        if policy not in ("fifo", "fair", "fair-jobs"):
            lines.append(f"# Spark has no {policy} scheduler of its own: {simulate.POLICIES[policy]}")
        if config["partition"]:
            lines.append(f"# partition so that a task takes about {float(config['partition_s']):.3g} s")
        return "\n".join(lines)


def open_target(argument: str, options: Mapping[str, Any]) -> SparkTarget:
    """Open ``spark``, or ``spark:FILE`` for measured jobs.

    Raises:
        ConfigError: an option is wrong.
    """
    numbers = numbers_of("spark", options, OPTIONS, {"cores": 32, "jobs": 400, "seed": 1})
    return SparkTarget(numbers["cores"], numbers["jobs"], numbers["seed"], str(options.get("dags", argument)))
