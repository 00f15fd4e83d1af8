"""The target ``spark-local``: a real Spark in local mode on loopback, with queries of several users at once.

Each user is a thread with a pool of its own (where pools are on); a user's queries follow each other. Starting Spark
and a first run that warms up are not measured. Results are checked against arithmetic: a setting that computes
something else fails.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.envs.scheduling.spark.archive import archive, java_options
from tunewright.envs.scheduling.spark.session import SPACE, queries, require_java, session, settings
from tunewright.errors import ConfigError, TargetError, missing_extra, unknown
from tunewright.space import Config
from tunewright.target import BaseTarget, Budget, Measurement, Metric, numeric_options

WORKLOADS = {
    "mixed": "one user with a large join and sort, two with small aggregations",
    "small": "four users with small aggregations",
    "large": "two users with a large join and sort each",
}
OPTIONS = {"cores": "threads that run tasks (2)", "rows": "of the large table (600000)"}


def together(
    spark: Any, users: Sequence[tuple[str, float, Sequence[Callable[[], None]]]], pools: bool
) -> dict[str, list[float]]:
    """Run users' work at once, each user's pieces after each other; returns the response times by user, s.

    Args:
        spark: the session.
        users: (name, seconds until its first piece, pieces).
        pools: a pool for each user.

    Raises:
        TargetError: a piece failed.
    """
    times: dict[str, list[float]] = {name: [] for name, _, _ in users}
    wrong: list[str] = []
    begin = time.perf_counter() + 0.05

    def work(name: str, delay: float, pieces: Sequence[Callable[[], None]]) -> None:
        if pools:
            spark.sparkContext.setLocalProperty("spark.scheduler.pool", name)
        time.sleep(max(begin + delay - time.perf_counter(), 0.0))
        for piece in pieces:
            start = time.perf_counter()
            try:
                piece()
            except Exception as error:  # whatever Spark says is this trial's reason
                wrong.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:300]}")
                return
            times[name].append(time.perf_counter() - start)

    threads = [threading.Thread(target=work, args=user, daemon=True) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise TargetError("; ".join(wrong))
    return times


class SparkLocal(BaseTarget):
    """A real Spark in local mode on loopback, with queries of several users at once.

    Args:
        cores: threads that run tasks.
        rows: of the large table.
    """

    name = "spark-local"
    options: Mapping[str, str] = OPTIONS
    workloads: Mapping[str, str] = WORKLOADS
    space = SPACE
    metrics = (
        Metric(name="makespan", direction="min", unit="s", doc="until all queries of all users have ended"),
        Metric(name="small_response", direction="min", unit="s", doc="mean response time of the small queries"),
        Metric(
            name="large_response",
            direction="min",
            unit="s",
            doc="mean response time of the large queries; of all where there are none",
        ),
    )

    def __init__(self, cores: int, rows: int) -> None:
        if cores < 1 or rows < 1000:
            raise ConfigError(f"cores must be at least 1 and rows at least 1000, not {cores} and {rows}")
        self.cores, self.rows = cores, rows
        self.facts = {"CORES": cores, "rows": rows, "HEAP_MB": 1024}

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Make the archive of Spark's classes, once for all sessions."""
        return {**budget.prepared, "archive": str(archive() or "")}

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Start Spark, warm it up, and run the users' queries."""
        if workload not in WORKLOADS:
            raise unknown("workload", workload, WORKLOADS)
        with tempfile.TemporaryDirectory(dir=budget.workdir, prefix="spark-") as folder:
            shared = budget.prepared.get("archive")
            spark = session(self.cores, Path(folder), settings(config), java_options(shared) if shared else "")
            try:
                large, small = queries(spark, self.rows)
                users: list[tuple[str, float, list[Callable[[], None]]]] = {
                    "mixed": [("large", 0.0, [large]), ("ann", 0.2, [small] * 3), ("bob", 0.3, [small] * 3)],
                    "small": [
                        (name, 0.1 * place, [small] * 3) for place, name in enumerate(("ann", "bob", "cem", "dee"))
                    ],
                    "large": [("large", 0.0, [large]), ("other", 0.1, [large])],
                }[workload]
                small()  # warm up: compilation, Python workers, page cache
                start = time.perf_counter()
                times = together(spark, users, bool(config.get("pools", False)))
                took = time.perf_counter() - start
            finally:
                spark.stop()
        quick = [taken_s for name, taken in times.items() if name not in ("large", "other") for taken_s in taken]
        slow = [taken_s for name, taken in times.items() if name in ("large", "other") for taken_s in taken]
        every = quick + slow
        values = {
            "makespan": took, "small_response": sum(quick or every) / len(quick or every),
            "large_response": sum(slow or every) / len(slow or every),
        }  # fmt: skip
        return Measurement(values=values, traces={"response_s": times})

    def render(self, config: Config) -> str:
        """Return lines for spark-defaults.conf."""
        lines = [f"{name} {value}" for name, value in settings(config).items()]
        if config.get("pools"):
            lines.append("# and for each user: sc.setLocalProperty('spark.scheduler.pool', USER)")
        return "\n".join(lines)


def open_target(argument: str, options: Mapping[str, Any]) -> SparkLocal:
    """Open ``spark-local``.

    Raises:
        ConfigError: an option is wrong, or there is no Java.
        MissingExtraError: PySpark is not installed.
    """
    import importlib.util

    numbers = numeric_options("spark-local", options, {"cores": 2, "rows": 600_000})
    if importlib.util.find_spec("pyspark") is None:
        raise missing_extra("pyspark", "spark", "the target spark-local")
    require_java()
    return SparkLocal(numbers["cores"], numbers["rows"])
