"""The target ``spark-local``: a real Spark in local mode on loopback, with queries of several users at once.

Each user is a thread with a pool of its own (where pools are on); a user's queries follow each other. Starting Spark and a
first run that warms up are not measured. Results are checked against arithmetic: a setting that computes something else
fails.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.envs.scheduling.spark.archive import archive, java_options
from tunewright.errors import ConfigError, TargetError, missing_extra, unknown
from tunewright.space import Config, Space
from tunewright.space.parameters import Choice, Int, Real
from tunewright.target import BaseTarget, Budget, Measurement, Metric, numeric_options

WORKLOADS = {
    "mixed": "one user with a large join and sort, two with small aggregations",
    "small": "four users with small aggregations",
    "large": "two users with a large join and sort each",
}
OPTIONS = {"cores": "threads that run tasks (2)", "rows": "of the large table (600000)"}
_SPACE = Space(
    [
        Choice(name="scheduler_mode", choices=("FIFO", "FAIR"), default="FIFO", doc="which job's tasks get the next free core"),
        Choice(name="pools", choices=(False, True), default=False, doc="a pool for each user", when="scheduler_mode == 'FAIR'"),
        Int(name="shuffle_partitions", low=1, high=400, default=200, log=True, unit="partitions", doc="of joins and aggregations"),
        Choice(name="adaptive", choices=(False, True), default=True, doc="plan anew while a query runs, and join small partitions"),
        Choice(name="coalesce", choices=(False, True), default=True, doc="join small partitions after a shuffle", when="adaptive == true"),
        Int(name="broadcast_mb", low=0, high=64, default=10, special={0: "never"}, unit="MB", doc="tables up to this size are sent to every task instead of shuffled"),
        Real(name="memory_fraction", low=0.3, high=0.9, default=0.6, doc="of the heap for running and caching"),
        Real(name="storage_fraction", low=0.1, high=0.9, default=0.5, doc="of that, kept for caching"),
        Choice(name="codec", choices=("lz4", "snappy", "zstd"), default="lz4", doc="compression of shuffled data"),
        Choice(name="shuffle_compress", choices=(False, True), default=True, doc="compress what is shuffled"),
        Int(name="max_partition_mb", low=1, high=256, default=128, log=True, unit="MB", doc="bytes of a file that one task reads at most"),
    ]
)  # fmt: skip


def settings(config: Config) -> dict[str, str]:
    """Return a configuration as Spark's own properties."""

    def word(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    found = {
        "spark.scheduler.mode": str(config["scheduler_mode"]),
        "spark.sql.shuffle.partitions": word(config["shuffle_partitions"]),
        "spark.sql.adaptive.enabled": word(config["adaptive"]),
        "spark.sql.autoBroadcastJoinThreshold": "-1" if not config["broadcast_mb"] else f"{config['broadcast_mb']}MB",
        "spark.memory.fraction": f"{float(config['memory_fraction']):.4f}",
        "spark.memory.storageFraction": f"{float(config['storage_fraction']):.4f}",
        "spark.io.compression.codec": str(config["codec"]),
        "spark.shuffle.compress": word(config["shuffle_compress"]),
        "spark.sql.files.maxPartitionBytes": f"{config['max_partition_mb']}MB",
    }
    if "coalesce" in config:
        found["spark.sql.adaptive.coalescePartitions.enabled"] = word(config["coalesce"])
    return found


def session(cores: int, folder: Path, properties: Mapping[str, str], java: str = "") -> Any:
    """Start Spark on loopback, with its files below a folder, and with further options for Java.

    Raises:
        MissingExtraError: PySpark is not installed.
        ConfigError: there is no Java.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise missing_extra("pyspark", "spark", "the target spark-local") from None
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise ConfigError("Spark needs Java: install a JRE, such as Debian's openjdk-17-jre-headless")
    os.environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_DIRS": str(folder)}
    fixed = {
        "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1", "spark.driver.memory": "1g", "spark.log.level": "ERROR",
        "spark.sql.warehouse.dir": str(folder / "warehouse"), "spark.driver.extraJavaOptions": f'"-Dderby.system.home={folder}" {java}',
    }  # fmt: skip
    builder = SparkSession.builder.master(f"local[{cores}]").appName("tunewright")
    for name, value in {**fixed, **properties}.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


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

    threads = [threading.Thread(target=work, args=u, daemon=True) for u in users]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
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
    space = _SPACE
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
                large, small = self.queries(spark)
                users: list[tuple[str, float, list[Callable[[], None]]]] = {
                    "mixed": [("large", 0.0, [large]), ("ann", 0.2, [small] * 3), ("bob", 0.3, [small] * 3)],
                    "small": [(n, 0.1 * k, [small] * 3) for k, n in enumerate(("ann", "bob", "cem", "dee"))],
                    "large": [("large", 0.0, [large]), ("other", 0.1, [large])],
                }[workload]
                small()  # warm up: compilation, Python workers, page cache
                start = time.perf_counter()
                times = together(spark, users, bool(config.get("pools", False)))
                took = time.perf_counter() - start
            finally:
                spark.stop()
        quick = [t for name, own in times.items() if name not in ("large", "other") for t in own]
        slow = [t for name, own in times.items() if name in ("large", "other") for t in own]
        every = quick + slow
        values = {
            "makespan": took, "small_response": sum(quick or every) / len(quick or every),
            "large_response": sum(slow or every) / len(slow or every),
        }  # fmt: skip
        return Measurement(values=values, traces={"response_s": times})

    def queries(self, spark: Any) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return a join with a sort, and an aggregation; each checks its result against arithmetic."""
        n, few = self.rows, self.rows // 8
        keys = 997

        def large() -> None:
            facts = spark.range(n).selectExpr(f"id % {keys} as k", "id as v")
            names = spark.range(n // 4).selectExpr("id as k", "id * 3 as w")
            found = facts.join(names, "k").groupBy("k").sum("v", "w").orderBy("k").collect()
            total = sum(r[1] for r in found)
            wanted = sum(range(n)) if n // 4 >= keys else None
            if len(found) != min(keys, n // 4) or (wanted is not None and total != wanted):
                raise TargetError(f"the join gave {len(found)} rows with the sum {total}, not {keys} with {wanted}")

        def small() -> None:
            found = spark.range(few).selectExpr("id % 97 as k", "id as v").groupBy("k").sum("v").collect()
            if sum(r[1] for r in found) != few * (few - 1) // 2:
                raise TargetError("the aggregation gave a wrong sum")

        return large, small

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
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise ConfigError("Spark needs Java: install a JRE, such as Debian's openjdk-17-jre-headless")
    return SparkLocal(numbers["cores"], numbers["rows"])
