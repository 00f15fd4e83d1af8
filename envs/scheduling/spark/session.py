"""Sessions of a real Spark in local mode on loopback: settings that are tuned, and queries that check themselves."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.space import Config, Space
from tunewright.space.parameters import Choice, Int, Real

SPACE = Space(
    [
        Choice(name="scheduler_mode", choices=("FIFO", "FAIR"), default="FIFO",
               doc="which job's tasks get the next free core"),
        Choice(name="pools", choices=(False, True), default=False,
               doc="a pool for each user", when="scheduler_mode == 'FAIR'"),
        Int(name="shuffle_partitions", low=1, high=400, default=200, log=True, unit="partitions",
            doc="of joins and aggregations"),
        Choice(name="adaptive", choices=(False, True), default=True,
               doc="plan anew while a query runs, and join small partitions"),
        Choice(name="coalesce", choices=(False, True), default=True,
               doc="join small partitions after a shuffle", when="adaptive == true"),
        Int(name="broadcast_mb", low=0, high=64, default=10, special={0: "never"}, unit="MB",
            doc="tables up to this size are sent to every task instead of shuffled"),
        Real(name="memory_fraction", low=0.3, high=0.9, default=0.6, doc="of the heap for running and caching"),
        Real(name="storage_fraction", low=0.1, high=0.9, default=0.5, doc="of that, kept for caching"),
        Choice(name="codec", choices=("lz4", "snappy", "zstd"), default="lz4", doc="compression of shuffled data"),
        Choice(name="shuffle_compress", choices=(False, True), default=True, doc="compress what is shuffled"),
        Int(name="max_partition_mb", low=1, high=256, default=128, log=True, unit="MB",
            doc="bytes of a file that one task reads at most"),
    ]
)  # fmt: skip


def settings(config: Config) -> dict[str, str]:
    """Return a configuration as Spark's own properties."""

    def word(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    properties = {
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
        properties["spark.sql.adaptive.coalescePartitions.enabled"] = word(config["coalesce"])
    return properties


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
    require_java()
    os.environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_DIRS": str(folder)}
    fixed = {
        "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1", "spark.driver.memory": "1g", "spark.log.level": "ERROR",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.driver.extraJavaOptions": f'"-Dderby.system.home={folder}" {java}',
    }  # fmt: skip
    builder = SparkSession.builder.master(f"local[{cores}]").appName("tunewright")
    for name, value in {**fixed, **properties}.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def require_java() -> None:
    """Raise ConfigError where there is no Java."""
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise ConfigError("Spark needs Java: install a JRE, such as Debian's openjdk-17-jre-headless")


def queries(spark: Any, rows: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a join with a sort, and an aggregation; each checks its result against arithmetic.

    Args:
        spark: the session.
        rows: of the large table.
    """
    few, keys = rows // 8, 997

    def large() -> None:
        facts = spark.range(rows).selectExpr(f"id % {keys} as k", "id as v")
        names = spark.range(rows // 4).selectExpr("id as k", "id * 3 as w")
        collected = facts.join(names, "k").groupBy("k").sum("v", "w").orderBy("k").collect()
        total = sum(row[1] for row in collected)
        wanted = sum(range(rows)) if rows // 4 >= keys else None
        if len(collected) != min(keys, rows // 4) or (wanted is not None and total != wanted):
            raise TargetError(f"the join gave {len(collected)} rows with the sum {total}, not {keys} with {wanted}")

    def small() -> None:
        collected = spark.range(few).selectExpr("id % 97 as k", "id as v").groupBy("k").sum("v").collect()
        if sum(row[1] for row in collected) != few * (few - 1) // 2:
            raise TargetError("the aggregation gave a wrong sum")

    return large, small
