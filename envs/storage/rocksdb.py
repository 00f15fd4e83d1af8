"""RocksDB through rocksdict, with workloads after YCSB A to F.

Every run loads a fresh database under the candidate's options (not timed), flushes it, then does a fixed
number of operations. Reads bypass the page cache (direct I/O) where the file system allows it. Options that
refuse to open together, and writes that stall for too long, are failures with their reason.

Durability levels: 3 every write is synced, 2 written to the log without sync (RocksDB's default: a power cut
may lose the last writes), 0 no log (any crash loses what was not flushed).
"""

from __future__ import annotations

import errno
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.envs.storage.rocksdb_options import open_options, render, space
from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.sessions import workfolder
from tunewright.space import Config
from tunewright.space.amounts import size
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Metric, Preflight, Weaker, numeric_options

NEEDS = {"rocksdict": "rocksdb"}
_WORKLOADS = {
    "a": "YCSB A: 50 % reads, 50 % updates, Zipf keys",
    "b": "YCSB B: 95 % reads, 5 % updates, Zipf keys",
    "c": "YCSB C: reads only, Zipf keys",
    "d": "YCSB D: 95 % reads of recent keys, 5 % inserts",
    "e": "YCSB E: 95 % short scans, 5 % inserts",
    "f": "YCSB F: 50 % reads, 50 % read-modify-writes, Zipf keys",
}
_ROWS, _VALUE_BYTES, _SCAN = 100_000, 400, 50
_KEY_BYTES, _WHILE_MERGING = 20, 3  # with its log, and old and new files side by side
_ZIPF = 0.99  # YCSB's constant (Cooper et al., Benchmarking Cloud Serving Systems with YCSB, SoCC 2010)
_AIM_S, _STALL_SHARE = 1.0, 0.5
_OPTIONS = {"rows": f"keys loaded before the run ({_ROWS})"}


def open_target(argument: str, options: Mapping[str, str]) -> RocksDBTarget:
    """Entry point; takes no argument and the option ``rows``."""
    if argument:
        raise ConfigError(f"target 'rocksdb' takes no argument, not {argument!r}")
    rows = numeric_options("rocksdb", options, {"rows": _ROWS})["rows"]
    try:
        import rocksdict  # noqa: F401
    except ImportError:
        raise missing_extra("rocksdict", "rocksdb", "target 'rocksdb'") from None
    return RocksDBTarget(rows=rows)


class RocksDBTarget(BaseTarget):
    """RocksDB through rocksdict: a key-value store on your disk, with workloads after YCSB A to F.

    Args:
        rows: keys loaded before the run, with values of 400 bytes.
    """

    name = "rocksdb"
    workloads = _WORKLOADS
    options = _OPTIONS
    metrics = (
        Metric(name="throughput", direction="max", unit="operations/s", doc="fixed work over its wall time"),
        Metric(name="latency_p99", direction="min", unit="ms", doc="99th percentile of one operation"),
        Metric(name="space", direction="min", unit="MiB", doc="files on disk after the run"),
        Metric(name="durability", direction="max", unit="level", doc="3 synced writes, 2 logged, 0 no log"),
    )
    manual = "https://github.com/facebook/rocksdb/wiki/RocksDB-Tuning-Guide"

    def __init__(self, *, rows: int = _ROWS) -> None:
        if rows < 1000:
            raise ConfigError(f"option rows must be at least 1000, not {rows}")
        self.rows = rows
        self.facts = {"rows": rows, "value_bytes": _VALUE_BYTES}
        self.space = space()

    # -- guarantees -------------------------------------------------------------------------------

    def guarantee_names(self) -> tuple[str, ...]:
        """Return the parameters that decide the guarantees."""
        return ("sync", "disable_wal", "unordered_write")

    def guarantees(self, config: Config) -> dict[str, float]:
        """Return durability as in the module's docstring, and 1 for ordered snapshots."""
        return {"durability": _durability(config), "ordering": float(not config["unordered_write"])}

    def weaker(self, config: Config) -> list[Weaker]:
        """Return the same settings without a log."""
        if config["disable_wal"] or config["sync"]:
            return []
        return [Weaker(config={**config, "disable_wal": True}, loses="any crash loses what was not flushed")]

    # -- measuring --------------------------------------------------------------------------------

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Calibrate the amount of work, unless it is fixed already."""
        operations = budget.prepared.get("operations")
        if operations is None:
            probe = 2000
            run = self._run(self.space.default, workload, seed, budget.workdir, probe)
            operations = max(500, round(probe * _AIM_S / run["seconds"]))
        return {"operations": int(operations)}

    def preflight(self, *, workload: str, workdir: Path) -> Preflight:
        """Tell the size of the database that every run fills."""
        one = self.rows * (_VALUE_BYTES + _KEY_BYTES)
        return Preflight(
            creates=[
                f"A database of {self.rows:,} keys below the work folder for every run, about {size(one)} and up to "
                f"{size(_WHILE_MERGING * one)} while it is merged; it is removed after the run."
            ],
            disk_bytes=_WHILE_MERGING * one,
        )

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Load a fresh database and run the fixed number of operations."""
        operations = int(budget.prepared["operations"])
        run = self._run(config, workload, seed, budget.workdir, operations)
        if run["stalled"] > _STALL_SHARE * run["seconds"]:
            reason = f"writes stalled for {run['stalled']:.2f} s of {run['seconds']:.2f} s"
            return Measurement(status="failed", reason=reason, traces=run["counters"])
        values = {
            "throughput": operations / run["seconds"],
            "latency_p99": 1e3 * run["p99"],
            "space": run["space"] / 2**20,
            "durability": _durability(config),
        }
        return Measurement(values=values, traces=run["counters"])

    def cleanup(self, workdir: Path) -> None:
        """Remove what a killed run left."""
        workfolder.remove(workdir, self.name)

    def _run(self, config: Config, workload: str, seed: int, workdir: Path, operations: int) -> dict[str, Any]:
        import rocksdict

        workdir = workfolder.private(workdir, self.name)
        folder = Path(tempfile.mkdtemp(dir=workdir, prefix="run-"))
        try:
            options = open_options(rocksdict, config, direct_reads=_direct_io(workdir))
            try:
                db = rocksdict.Rdict(str(folder / "db"), options)
            except Exception as error:
                raise TargetError(f"RocksDB refuses these options together: {error}") from None
            try:
                return self._work(rocksdict, db, options, config, workload, seed, operations, folder)
            except Exception as error:
                if type(error) is Exception:  # rocksdict's own errors are plain exceptions
                    raise TargetError(f"RocksDB: {error}") from None
                raise
            finally:
                db.close()
        finally:
            remove_tree(folder)
            workfolder.give_back(workdir)

    def _work(
        self,
        rocksdict: Any,
        db: Any,
        options: Any,
        config: Config,
        workload: str,
        seed: int,
        operations: int,
        folder: Path,
    ) -> dict[str, Any]:
        rng = random.Random(seed)
        value = rng.randbytes(_VALUE_BYTES // 2).hex().encode()[:_VALUE_BYTES]
        for begin in range(0, self.rows, 1000):
            batch = rocksdict.WriteBatch(raw_mode=True)
            for row in range(begin, min(begin + 1000, self.rows)):
                batch.put(_key(row), value[row % 100 :] + value[: row % 100])
            db.write(batch)
        db.flush()
        _settle(db)
        write = rocksdict.WriteOptions()
        write.sync, write.disable_wal = config["sync"], config["disable_wal"]
        db.set_write_options(write)
        plan = _plan(workload, seed, self.rows, operations)
        _perform(db, plan[: max(len(plan) // 10, 1)], value)  # warm-up
        before = _counters(options)
        begun = time.perf_counter()
        latencies = _perform(db, plan, value)
        seconds = time.perf_counter() - begun
        after = _counters(options)
        counters = {k: after[k] - before.get(k, 0) for k in after}
        space = sum(f.stat().st_size for f in (folder / "db").iterdir())
        latencies.sort()
        return {
            "seconds": seconds,
            "p99": latencies[int(0.99 * (len(latencies) - 1))],
            "space": space,
            "stalled": counters.get("rocksdb.stall.micros", 0) / 1e6,
            "counters": counters,
        }

    def render(self, config: Config) -> str:
        """Return an OPTIONS file's sections, and comments with what RocksDB keeps in code."""
        return render(config)


def _durability(config: Config) -> float:
    if config["disable_wal"]:
        return 0.0
    return 3.0 if config["sync"] else 2.0


def _key(row: int) -> bytes:
    # scattered over the key space, as YCSB's hashed keys are
    return b"user%016x" % ((row * 0x9E3779B97F4A7C15) % 2**64)


def _direct_io(folder: Path) -> bool:
    """Whether the file system of the folder takes O_DIRECT."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
    return True


def _settle(db: Any, most_s: float = 5.0) -> None:
    """Wait until the compactions that the load caused are done."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        busy = [
            db.property_int_value(f"rocksdb.{p}") or 0
            for p in ("num-running-compactions", "compaction-pending", "num-running-flushes")
        ]
        if not any(busy):
            return
        time.sleep(0.005)


_Step = tuple[str, int]


def _plan(workload: str, seed: int, rows: int, operations: int) -> list[_Step]:
    """Draw the operations before the clock runs: kind and row."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, rows + 1) ** _ZIPF
    ranks = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(operations))
    # one fixed scattering of the popular keys, whatever the seed
    popular = np.random.default_rng(20_240_601).permutation(rows)
    chosen = popular[np.minimum(ranks, rows - 1)]
    writes = rng.random(operations) < {"a": 0.5, "b": 0.05, "c": 0.0, "d": 0.05, "e": 0.05, "f": 0.5}[workload]
    plan: list[_Step] = []
    top = rows
    for rank, row, changes in zip(ranks.tolist(), chosen.tolist(), writes.tolist(), strict=True):
        if workload in "de" and changes:
            plan.append(("put", top))
            top += 1
        elif workload == "d":
            plan.append(("get", max(top - 1 - rank, 0)))
        elif workload == "e":
            plan.append(("scan", row))
        elif changes:
            plan.append(("rmw" if workload == "f" else "put", row))
        else:
            plan.append(("get", row))
    return plan


def _perform(db: Any, plan: list[_Step], value: bytes) -> list[float]:
    get, put, clock = db.get, db.put, time.perf_counter
    latencies = []

    def scan(key: bytes) -> None:
        cursor = db.iter()
        cursor.seek(key)
        for _ in range(_SCAN):
            if not cursor.valid():
                break
            cursor.value()
            cursor.next()

    run: dict[str, Callable[[bytes], Any]] = {
        "get": get,
        "put": lambda key: put(key, value),
        "scan": scan,
        "rmw": lambda key: (get(key), put(key, value)),
    }
    for kind, row in plan:
        key = _key(row)
        begun = clock()
        run[kind](key)
        latencies.append(clock() - begun)
    return latencies


_WANTED = (
    "rocksdb.stall.micros",
    "rocksdb.block.cache.hit",
    "rocksdb.block.cache.miss",
    "rocksdb.bloom.filter.useful",
    "rocksdb.compact.read.bytes",
    "rocksdb.compact.write.bytes",
    "rocksdb.flush.write.bytes",
    "rocksdb.wal.bytes",
)


def _counters(options: Any) -> dict[str, float]:
    counters = {}
    for line in (options.get_statistics() or "").splitlines():
        name, _, rest = line.partition(" COUNT : ")
        if name in _WANTED:
            count = float(rest.split()[0])
            counters[name] = count if math.isfinite(count) else 0.0
    return counters
