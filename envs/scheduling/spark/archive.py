"""Spark's classes in an archive that Java maps into memory (class data sharing): Spark starts in half the time.

Made once for a Java and a PySpark, by running some queries in a process of its own: ``python -m
tunewright.envs.scheduling.spark.archive FILE``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import psutil

from tunewright.envs.scheduling.spark.session import SPACE, queries, session, settings
from tunewright.store.paths import home

_MAKE_S = 300


def archive() -> Path | None:
    """Return the archive, made on the first call; None where it cannot be: Spark then starts without."""
    try:
        program = str(Path(os.environ["JAVA_HOME"]) / "bin" / "java") if os.environ.get("JAVA_HOME") else "java"
        java = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
        key = hashlib.sha256(f"{java}\0{version('pyspark')}\0{sys.prefix}".encode()).hexdigest()[:16]
        place = home() / "cache" / "spark" / f"{key}.jsa"
        if place.exists():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f"{key}.[0-9]*"):  # by a process that was killed
            if not psutil.pid_exists(int(left.suffix[1:])):
                left.unlink(missing_ok=True)
        partial = place.with_suffix(f".{os.getpid()}")
        command = [sys.executable, "-m", __name__, str(partial)]
        try:
            subprocess.run(command, capture_output=True, timeout=_MAKE_S, check=True)
            partial.replace(place)  # which fails where Java is too old to write one
        finally:
            partial.unlink(missing_ok=True)
        return place
    except (OSError, subprocess.SubprocessError):
        return None


def java_options(place: str | Path) -> str:
    """Return options that let Java use an archive; it ignores one that does not fit."""
    return f'"-XX:SharedArchiveFile={place}" -Xshare:auto -Xlog:disable'


def _make(place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="spark-") as folder:
        spark = session(2, Path(folder), settings(SPACE.default), f'"-XX:ArchiveClassesAtExit={place}"')
        for query in queries(spark, rows=20_000):
            query()
        java = spark.sparkContext._gateway.proc
        spark.stop()
        java.stdin.close()  # Java ends, and writes the archive
        java.wait(_MAKE_S)


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
