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
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.sessions import workfolder
from tunewright.space import Choice, Config, Int, Real, Space
from tunewright.target import BaseTarget, Budget, Measurement, Metric, Weaker, numeric_options

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
        level = "compaction_style == 'level'"
        self.space = Space([
            Int(name="write_buffer_size", low=1, high=256, default=64, log=True, unit="MiB", doc="Memtable size at which it is flushed."),
            Int(name="max_write_buffer_number", low=2, high=8, default=2, doc="Memtables in memory before writes stop."),
            Int(name="min_write_buffer_number_to_merge", low=1, high="max_write_buffer_number - 1", default=1, doc="Memtables merged in one flush."),
            Choice(name="memtable", choices=("skiplist", "vector", "hash_skiplist"), default="skiplist", doc="Memtable representation."),
            Choice(name="compaction_style", choices=("level", "universal"), default="level", doc="Leveled has less space, universal less write amplification."),
            Int(name="level0_file_num_compaction_trigger", low=1, high=32, default=4, log=True, doc="Files in level 0 that start a compaction."),
            Int(name="level0_slowdown_writes_trigger", low=4, high=64, default=20, log=True, doc="Files in level 0 that slow writes down."),
            Int(name="level0_stop_writes_trigger", low=4, high=128, default=36, log=True, doc="Files in level 0 that stop writes."),
            Int(name="max_background_jobs", low=1, high="max(2 * CPU_COUNT, 4)", default=2, doc="Threads for flushes and compactions."),
            Int(name="max_subcompactions", low=1, high="max(CPU_COUNT, 2)", default=1, doc="Threads of one compaction."),
            Int(name="max_bytes_for_level_base", low=4, high=1024, default=256, log=True, unit="MiB", when=level, doc="Size of level 1."),
            Real(name="max_bytes_for_level_multiplier", low=2.0, high=20.0, default=10.0, when=level, doc="Growth from level to level."),
            Choice(name="level_compaction_dynamic_level_bytes", choices=(False, True), default=True, when=level, doc="Level sizes follow the last level."),
            Int(name="target_file_size_base", low=1, high=256, default=64, log=True, unit="MiB", doc="Size of a table file."),
            Choice(name="compression", choices=("none", "snappy", "lz4", "zstd", "zlib"), default="snappy", doc="Block compression."),
            Int(name="block_size", low=1, high=256, default=4, log=True, unit="KiB", doc="Uncompressed size of a data block."),
            Int(name="block_restart_interval", low=1, high=64, default=16, log=True, doc="Keys between restart points in a block."),
            Int(name="block_cache", low=1, high="max(RAM_MB // 4, 64)", default=32, log=True, unit="MiB", doc="Cache of uncompressed blocks."),
            Real(name="bloom_bits", low=2.0, high=24.0, default=0.0, special={0: "no filter"}, unit="bits/key", doc="Bloom filter."),
            Choice(name="index_type", choices=("binary_search", "two_level"), default="binary_search", doc="Index of a table file."),
            Choice(name="partition_filters", choices=(False, True), default=False, doc="Partition filters like the index."),
            Choice(name="data_block_index", choices=("binary_search", "binary_and_hash"), default="binary_search", doc="Lookup inside a block."),
            Choice(name="cache_index_and_filter_blocks", choices=(False, True), default=False, doc="Keep them in the block cache instead of beside it."),
            Choice(name="optimize_filters_for_hits", choices=(False, True), default=False, doc="No filters on the last level."),
            Int(name="compaction_readahead_size", low=16, high=16384, default=2048, log=True, special={0: "none"}, unit="KiB", doc="Read-ahead of compactions."),
            Int(name="bytes_per_sync", low=16, high=16384, default=0, log=True, special={0: "never early"}, unit="KiB", doc="Write files back in the background."),
            Choice(name="direct_io_for_flush", choices=(False, True), default=False, doc="Flushes and compactions bypass the page cache."),
            Choice(name="enable_pipelined_write", choices=(False, True), default=False, doc="Log and memtable writes in two stages."),
            Choice(name="unordered_write", choices=(False, True), default=False, doc="Weaker snapshot order for faster writes."),
            Choice(name="allow_concurrent_memtable_write", choices=(False, True), default=True, doc="Several writers into one memtable."),
            Choice(name="sync", choices=(False, True), default=False, doc="Sync the log on every write."),
            Choice(name="disable_wal", choices=(False, True), default=False, doc="Write no log."),
        ], ["level0_slowdown_writes_trigger <= level0_stop_writes_trigger",
            "level0_file_num_compaction_trigger <= level0_slowdown_writes_trigger",
            "memtable == 'skiplist' or not allow_concurrent_memtable_write", "not (sync and disable_wal)"])  # fmt: skip

    # -- guarantees -------------------------------------------------------------------------------

    def guarantee_names(self) -> tuple[str, ...]:
        """Return the parameters that decide the guarantees."""
        return ("sync", "disable_wal", "unordered_write")

    def guarantees(self, config: Config) -> dict[str, float]:
        """Return durability as in the module's docstring, and 1 for ordered snapshots."""
        return {"durability": _durability(config), "ordering": float(not config["unordered_write"])}

    def weaker(self, config: Config) -> list[Weaker]:
        """Return the same settings without a log, or with unordered writes."""
        found = []
        if not config["disable_wal"] and not config["sync"]:
            found.append(Weaker(config={**config, "disable_wal": True}, loses="any crash loses what was not flushed"))
        return found

    # -- measuring --------------------------------------------------------------------------------

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Calibrate the amount of work, unless it is fixed already."""
        operations = budget.prepared.get("operations")
        if operations is None:
            probe = 2000
            found = self._run(self.space.default, workload, seed, budget.workdir, probe)
            operations = max(500, round(probe * _AIM_S / found["seconds"]))
        return {"operations": int(operations)}

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Load a fresh database and run the fixed number of operations."""
        operations = int(budget.prepared["operations"])
        found = self._run(config, workload, seed, budget.workdir, operations)
        if found["stalled"] > _STALL_SHARE * found["seconds"]:
            reason = f"writes stalled for {found['stalled']:.2f} s of {found['seconds']:.2f} s"
            return Measurement(status="failed", reason=reason, traces=found["counters"])
        values = {
            "throughput": operations / found["seconds"],
            "latency_p99": 1e3 * found["p99"],
            "space": found["space"] / 2**20,
            "durability": _durability(config),
        }
        return Measurement(values=values, traces=found["counters"])

    def cleanup(self, workdir: Path) -> None:
        """Remove what a killed run left."""
        workfolder.remove(workdir, self.name)

    def _run(self, config: Config, workload: str, seed: int, workdir: Path, operations: int) -> dict[str, Any]:
        import rocksdict

        workdir = workfolder.private(workdir, self.name)
        folder = Path(tempfile.mkdtemp(dir=workdir, prefix="run-"))
        try:
            options = _options(rocksdict, config, direct_reads=_direct_io(workdir))
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
            shutil.rmtree(folder, ignore_errors=True)
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

    # -- using the result -------------------------------------------------------------------------

    def render(self, config: Config) -> str:
        """Return an OPTIONS file's sections; cache, filter and write options as comments, as RocksDB keeps them in code."""
        mib, kib = 2**20, 2**10
        flag = {True: "true", False: "false"}
        style = {"level": "kCompactionStyleLevel", "universal": "kCompactionStyleUniversal"}
        packing = {
            "none": "kNoCompression",
            "snappy": "kSnappyCompression",
            "lz4": "kLZ4Compression",
            "zstd": "kZSTD",
            "zlib": "kZlibCompression",
        }
        index = {"binary_search": "kBinarySearch", "two_level": "kTwoLevelIndexSearch"}
        block = {"binary_search": "kDataBlockBinarySearch", "binary_and_hash": "kDataBlockBinaryAndHash"}
        table = {
            "skiplist": "SkipListFactory",
            "vector": "VectorRepFactory",
            "hash_skiplist": "HashSkipListRepFactory",
        }
        lines = [
            "[DBOptions]",
            *(f"  {n}={config[n]}" for n in ("max_background_jobs", "max_subcompactions")),
            *(
                f"  {n}={flag[config[n]]}"
                for n in ("enable_pipelined_write", "unordered_write", "allow_concurrent_memtable_write")
            ),
            f"  use_direct_io_for_flush_and_compaction={flag[config['direct_io_for_flush']]}",
            *(f"  {n}={config[n] * kib}" for n in ("compaction_readahead_size", "bytes_per_sync")),
            '[CFOptions "default"]',
            *(f"  {n}={config[n] * mib}" for n in ("write_buffer_size", "target_file_size_base")),
            *(f"  {n}={config[n]}" for n in ("max_write_buffer_number", "min_write_buffer_number_to_merge", *_LEVEL0)),
            f"  memtable_factory={table[config['memtable']]}",
            f"  compaction_style={style[config['compaction_style']]}",
            f"  compression={packing[config['compression']]}",
            f"  optimize_filters_for_hits={flag[config['optimize_filters_for_hits']]}",
        ]
        if config["compaction_style"] == "level":
            lines += [
                f"  max_bytes_for_level_base={config['max_bytes_for_level_base'] * mib}",
                f"  max_bytes_for_level_multiplier={config['max_bytes_for_level_multiplier']:g}",
                f"  level_compaction_dynamic_level_bytes={flag[config['level_compaction_dynamic_level_bytes']]}",
            ]
        lines += [
            '[TableOptions/BlockBasedTable "default"]',
            f"  block_size={config['block_size'] * kib}",
            f"  block_restart_interval={config['block_restart_interval']}",
            f"  index_type={index[config['index_type']]}",
            f"  data_block_index_type={block[config['data_block_index']]}",
            *(f"  {n}={flag[config[n]]}" for n in ("partition_filters", "cache_index_and_filter_blocks")),
            f"  filter_policy={'bloomfilter:' + format(config['bloom_bits'], '.3g') + ':false' if config['bloom_bits'] else 'nullptr'}",
            f"# block cache: NewLRUCache({config['block_cache'] * mib})",
            f"# WriteOptions: sync={flag[config['sync']]}, disableWAL={flag[config['disable_wal']]}",
        ]
        return "\n".join(lines)


_LEVEL0 = (
    "level0_file_num_compaction_trigger",
    "level0_slowdown_writes_trigger",
    "level0_stop_writes_trigger",
)


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


def _options(rocksdict: Any, config: Config, *, direct_reads: bool) -> Any:
    mib, kib = 2**20, 2**10
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.enable_statistics()
    options.set_use_direct_reads(direct_reads)
    for name in (
        *_LEVEL0,
        "max_write_buffer_number",
        "min_write_buffer_number_to_merge",
        "max_background_jobs",
        "max_subcompactions",
    ):
        set_ = "set_level_zero" + name.removeprefix("level0") if name in _LEVEL0 else f"set_{name}"
        getattr(options, set_)(config[name])
    for name in (
        "enable_pipelined_write",
        "unordered_write",
        "allow_concurrent_memtable_write",
        "optimize_filters_for_hits",
    ):
        getattr(options, f"set_{name}")(config[name])
    for name in ("write_buffer_size", "target_file_size_base"):
        getattr(options, f"set_{name}")(config[name] * mib)
    for name in ("compaction_readahead_size", "bytes_per_sync"):
        getattr(options, f"set_{name}")(config[name] * kib)
    options.set_use_direct_io_for_flush_and_compaction(config["direct_io_for_flush"])
    options.set_compression_type(getattr(rocksdict.DBCompressionType, config["compression"])())
    options.set_compaction_style(getattr(rocksdict.DBCompactionStyle, config["compaction_style"])())
    if config["compaction_style"] == "level":
        options.set_max_bytes_for_level_base(config["max_bytes_for_level_base"] * mib)
        options.set_max_bytes_for_level_multiplier(config["max_bytes_for_level_multiplier"])
        options.set_level_compaction_dynamic_level_bytes(config["level_compaction_dynamic_level_bytes"])
    if config["memtable"] == "vector":
        options.set_memtable_factory(rocksdict.MemtableFactory.vector())
    elif config["memtable"] == "hash_skiplist":
        options.set_prefix_extractor(rocksdict.SliceTransform.create_fixed_prefix(6))
        options.set_memtable_factory(
            rocksdict.MemtableFactory.hash_skip_list(bucket_count=100_000, height=4, branching_factor=4)
        )
    table = rocksdict.BlockBasedOptions()
    table.set_block_size(config["block_size"] * kib)
    table.set_block_restart_interval(config["block_restart_interval"])
    table.set_block_cache(rocksdict.Cache(config["block_cache"] * mib))
    if config["bloom_bits"]:
        table.set_bloom_filter(config["bloom_bits"], False)
    kinds = {"binary_search": "binary_search", "two_level": "two_level_index_search"}
    table.set_index_type(getattr(rocksdict.BlockBasedIndexType, kinds[config["index_type"]])())
    table.set_partition_filters(config["partition_filters"])
    table.set_data_block_index_type(getattr(rocksdict.DataBlockIndexType, config["data_block_index"])())
    table.set_cache_index_and_filter_blocks(config["cache_index_and_filter_blocks"])
    options.set_block_based_table_factory(table)
    return options


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


_WANTED = ("rocksdb.stall.micros", "rocksdb.block.cache.hit", "rocksdb.block.cache.miss", "rocksdb.bloom.filter.useful",
           "rocksdb.compact.read.bytes", "rocksdb.compact.write.bytes", "rocksdb.flush.write.bytes", "rocksdb.wal.bytes")  # fmt: skip


def _counters(options: Any) -> dict[str, float]:
    found = {}
    for line in (options.get_statistics() or "").splitlines():
        name, _, rest = line.partition(" COUNT : ")
        if name in _WANTED:
            count = float(rest.split()[0])
            found[name] = count if math.isfinite(count) else 0.0
    return found
