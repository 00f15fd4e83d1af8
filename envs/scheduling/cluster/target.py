"""A cluster's jobs: how they are ordered, backfilled, placed and moved; or how long functions are kept; simulated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.envs.scheduling.cluster import jobs as cluster_jobs
from tunewright.envs.scheduling.cluster import serverless, simulate
from tunewright.envs.scheduling.simulated import SIMULATED, SimulatedTarget, numbers_of
from tunewright.envs.scheduling.traces import real_file
from tunewright.errors import ConfigError, unknown
from tunewright.space import Config, Space
from tunewright.space.parameters import Choice, Int, Real
from tunewright.target import Budget, Measurement, Metric

REAL = {
    "philly": ("sched/philly.csv.gz", "Microsoft's Philly, GPU jobs of 2017"),
    "nasa": ("sched/NASA-iPSC-1993-3.1-cln.swf.gz", "NASA's iPSC/860, 1993"),
    "surf": ("sched/surf_week/tasks.parquet", "SURF Lisa, a week; needs the extra 'llm' for reading Parquet"),
}
SYNTHETIC = {
    "gpu": ("GPU jobs on 16 nodes of 8, heavy-tailed run times", "16x8", {}),
    "gpu-busy": ("the same with a tenth more work than the cluster does", "16x8", {"load": 1.1}),
    "batch": ("batch jobs on a pool of 256 CPUs", "cpu:256", {"gpus": 128, "load": 0.85}),
}
OPTIONS = {
    "nodes": "such as 16x8 or cpu:1024; default: the workload's",
    "load": "work that arrives over what the cluster does, for nodes that are not given (0.9)",
    "jobs": "how many (3000)",
    "trace": "a file of your own, as the workload 'trace'",
    "seed": "of generated jobs (1)",
}


class ClusterTarget(SimulatedTarget):
    """Scheduling of a cluster, simulated.

    Args:
        trace: file of the workload ``trace``; "" for none.
        nodes: description; "" for the workload's own.
        numbers: the numeric options.
    """

    name = "cluster"
    options: Mapping[str, str] = OPTIONS
    metrics = (
        Metric(
            name="slowdown",
            direction="min",
            doc="mean bounded slowdown: response over run time, at least ten seconds of the latter",
        ),
        Metric(name="wait", direction="min", unit="s", doc="mean time until a job first starts"),
        Metric(name="response_p99", direction="min", unit="s", doc="99th percentile of the response time"),
        Metric(name="utilisation", direction="max", doc="used share of GPUs, or CPUs, until the last job ends"),
        Metric(name="fairness", direction="max", doc="Jain's index of the users' mean slowdowns"),
    )

    def __init__(self, trace: str, nodes: str, numbers: Mapping[str, float]) -> None:
        self.trace, self.nodes, self.numbers = trace, nodes, dict(numbers)
        if numbers["jobs"] < 10 or numbers["load"] <= 0:
            raise ConfigError("jobs must be at least 10, and load above 0")
        found = {"trace": f"the file {trace}"} if trace else {}
        found |= {n: words for n, (words, _, _) in SYNTHETIC.items()}
        found |= {n: f"{words}; needs the project's data directory" for n, (_, words) in REAL.items()}
        self.workloads: Mapping[str, str] = found
        self.facts = {
            "jobs": int(numbers["jobs"]),
            "simulated": SIMULATED,
        }
        self.space = _space()
        self._loads: dict[str, tuple[cluster_jobs.Jobs, cluster_jobs.Nodes]] = {}

    def load(self, workload: str) -> tuple[cluster_jobs.Jobs, cluster_jobs.Nodes]:
        """Return jobs and nodes of a workload.

        Raises:
            ConfigError: the data is not there.
        """
        if workload not in self._loads:
            count, load = int(self.numbers["jobs"]), float(self.numbers["load"])
            if workload in SYNTHETIC:
                _, own, mix = SYNTHETIC[workload]
                where = cluster_jobs.nodes(self.nodes or own)
                self._loads[workload] = (
                    cluster_jobs.generate(where, {"jobs": count, **mix}, int(self.numbers["seed"])),
                    where,
                )
            else:
                jobs = cluster_jobs.read(self._file(workload)).first(count)
                self._loads[workload] = jobs, cluster_jobs.nodes(self.nodes or "auto", jobs, load)
        return self._loads[workload]

    def _file(self, workload: str) -> Path:
        if workload == "trace" and self.trace:
            return Path(self.trace)
        if workload not in REAL:
            raise unknown("workload", workload, self.workloads)
        return real_file(workload, REAL)

    def policy(self, config: Config) -> simulate.Policy:
        """Return the policy of a configuration."""
        given = {name: config[name] for name in simulate.Policy.__dataclass_fields__ if name in config}
        given["backfill"] = config.get("backfill", "none")
        given["every_s"] = float(config.get("every_s", 0.0)) if config.get("migration") else 0.0
        return simulate.policy("fifo", **given)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Run the jobs."""
        jobs, where = self.load(workload)
        outcome = simulate.simulate(jobs, where, self.policy(config))
        stable, words = simulate.stability(outcome)
        metrics = simulate.metrics(outcome)
        if not outcome.finished or metrics["wait_s"]["mean"] is None:
            return Measurement(status="failed", reason=words or "no job could run")
        values = {
            "slowdown": metrics["bounded_slowdown"]["mean"], "wait": metrics["wait_s"]["mean"],
            "response_p99": metrics["response_s"]["p99"], "utilisation": metrics["utilisation"],
            "fairness": metrics["fairness"],
        }  # fmt: skip
        more = {name: metrics[name] for name in ("preemptions", "migrations", "makespan_s")}
        return Measurement(values=values, seconds=outcome.seconds, traces={"stable": stable, **more})


def _space() -> Space:
    return Space(
        [
            Choice(name="order", choices=simulate.ORDERS, default="fifo", doc="of the queue"),
            Choice(name="backfill", choices=simulate.BACKFILLS, default="none", when="order != 'las'",
                   doc="what runs before its turn"),
            Choice(name="placement", choices=simulate.PLACEMENTS, default="first", doc="which node that fits"),
            Int(name="depth", low=1, high=1000, default=100, log=True, unit="jobs",
                doc="jobs of the queue that are looked at"),
            Int(name="levels", low=2, high=6, default=3, doc="queues of least attained service", when="order == 'las'"),
            Real(name="level_s", low=30.0, high=100_000.0, default=3600.0, log=True, unit="GPU s",
                 doc="service that a job may have in the first queue", when="order == 'las'"),
            Choice(name="migration", choices=(False, True), default=False, doc="move jobs for balance"),
            Real(name="balance", low=0.05, high=0.9, default=0.3, when="migration == true",
                 doc="difference of loads above which a job is moved"),
            Real(name="every_s", low=60.0, high=7200.0, default=600.0, log=True, unit="s", when="migration == true",
                 doc="between looks at the balance"),
        ]
    )  # fmt: skip


class ServerlessTarget(SimulatedTarget):
    """How long instances of functions are kept, simulated.

    Args:
        options: parameters of the generator.
    """

    name = "cluster"
    options: Mapping[str, str] = {n: f"parameter of the generator ({v:g})" for n, v in serverless.DEFAULTS.items()}
    metrics = (
        Metric(name="cold_share", direction="min", doc="invocations that wait for a new instance"),
        Metric(name="idle", direction="min", unit="GB s", doc="memory of instances without work, over time"),
        Metric(name="wait", direction="min", unit="s", doc="mean wait for an instance"),
    )
    workloads: Mapping[str, str] = {"functions": "two hundred functions over six hours, some of them called by clocks"}
    facts: Mapping[str, Any] = {"simulated": "checked against a closed form; see docs/scheduling.md"}
    space = Space(
        [
            Choice(name="policy", choices=serverless.POLICIES, default="fixed",
                   doc="how long an instance is kept without work"),
            Real(name="keep_s", low=1.0, high=14400.0, default=600.0, log=True, unit="s", when="policy != 'none'",
                 doc="that time, where the histogram says nothing"),
        ]
    )  # fmt: skip

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.invocations = serverless.generate(options, seed=1)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Run the functions."""
        metrics = serverless.simulate(self.invocations, str(config["policy"]), float(config.get("keep_s", 0.0)))
        return Measurement(
            values={
                "cold_share": metrics["cold_share"],
                "idle": metrics["idle_gb_s"],
                "wait": metrics["wait_s"]["mean"],
            },
            seconds=metrics["seconds"],
        )


def open_target(argument: str, options: Mapping[str, Any]) -> SimulatedTarget:
    """Open ``cluster``, ``cluster:FILE`` for a trace of one's own, or ``cluster:serverless``.

    Raises:
        ConfigError: an option is wrong.
    """
    if argument == "serverless":
        return ServerlessTarget(options)
    numbers = numbers_of("cluster", options, OPTIONS, {"load": 0.9, "jobs": 3000, "seed": 1})
    return ClusterTarget(str(options.get("trace", argument)), str(options.get("nodes", "")), numbers)
