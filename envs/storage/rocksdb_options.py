"""RocksDB's options: the space that is searched, an open database's options, and an OPTIONS file."""

from __future__ import annotations

from typing import Any

from tunewright.space import Choice, Config, Int, Real, Space

_KIB, _MIB = 2**10, 2**20
_LEVEL0 = (
    "level0_file_num_compaction_trigger",
    "level0_slowdown_writes_trigger",
    "level0_stop_writes_trigger",
)
_JOBS = ("max_background_jobs", "max_subcompactions")
_BUFFERS = ("max_write_buffer_number", "min_write_buffer_number_to_merge")
_FLAGS = ("enable_pipelined_write", "unordered_write", "allow_concurrent_memtable_write")
_SIZES_MIB = ("write_buffer_size", "target_file_size_base")
_SIZES_KIB = ("compaction_readahead_size", "bytes_per_sync")


def space() -> Space:
    """Return the parameters, with RocksDB's own defaults."""
    level = "compaction_style == 'level'"
    return Space([
        Int(name="write_buffer_size", low=1, high=256, default=64, log=True, unit="MiB",
            doc="Memtable size at which it is flushed."),
        Int(name="max_write_buffer_number", low=2, high=8, default=2, doc="Memtables in memory before writes stop."),
        Int(name="min_write_buffer_number_to_merge", low=1, high="max_write_buffer_number - 1", default=1,
            doc="Memtables merged in one flush."),
        Choice(name="memtable", choices=("skiplist", "vector", "hash_skiplist"), default="skiplist",
               doc="Memtable representation."),
        Choice(name="compaction_style", choices=("level", "universal"), default="level",
               doc="Leveled has less space, universal less write amplification."),
        Int(name="level0_file_num_compaction_trigger", low=1, high=32, default=4, log=True,
            doc="Files in level 0 that start a compaction."),
        Int(name="level0_slowdown_writes_trigger", low=4, high=64, default=20, log=True,
            doc="Files in level 0 that slow writes down."),
        Int(name="level0_stop_writes_trigger", low=4, high=128, default=36, log=True,
            doc="Files in level 0 that stop writes."),
        Int(name="max_background_jobs", low=1, high="max(2 * CPU_COUNT, 4)", default=2,
            doc="Threads for flushes and compactions."),
        Int(name="max_subcompactions", low=1, high="max(CPU_COUNT, 2)", default=1, doc="Threads of one compaction."),
        Int(name="max_bytes_for_level_base", low=4, high=1024, default=256, log=True, unit="MiB", when=level,
            doc="Size of level 1."),
        Real(name="max_bytes_for_level_multiplier", low=2.0, high=20.0, default=10.0, when=level,
             doc="Growth from level to level."),
        Choice(name="level_compaction_dynamic_level_bytes", choices=(False, True), default=True, when=level,
               doc="Level sizes follow the last level."),
        Int(name="target_file_size_base", low=1, high=256, default=64, log=True, unit="MiB",
            doc="Size of a table file."),
        Choice(name="compression", choices=("none", "snappy", "lz4", "zstd", "zlib"), default="snappy",
               doc="Block compression."),
        Int(name="block_size", low=1, high=256, default=4, log=True, unit="KiB",
            doc="Uncompressed size of a data block."),
        Int(name="block_restart_interval", low=1, high=64, default=16, log=True,
            doc="Keys between restart points in a block."),
        Int(name="block_cache", low=1, high="max(RAM_MB // 4, 64)", default=32, log=True, unit="MiB",
            doc="Cache of uncompressed blocks."),
        Real(name="bloom_bits", low=2.0, high=24.0, default=0.0, special={0: "no filter"}, unit="bits/key",
             doc="Bloom filter."),
        Choice(name="index_type", choices=("binary_search", "two_level"), default="binary_search",
               doc="Index of a table file."),
        Choice(name="partition_filters", choices=(False, True), default=False, doc="Partition filters like the index."),
        Choice(name="data_block_index", choices=("binary_search", "binary_and_hash"), default="binary_search",
               doc="Lookup inside a block."),
        Choice(name="cache_index_and_filter_blocks", choices=(False, True), default=False,
               doc="Keep them in the block cache instead of beside it."),
        Choice(name="optimize_filters_for_hits", choices=(False, True), default=False,
               doc="No filters on the last level."),
        Int(name="compaction_readahead_size", low=16, high=16384, default=2048, log=True, special={0: "none"},
            unit="KiB", doc="Read-ahead of compactions."),
        Int(name="bytes_per_sync", low=16, high=16384, default=0, log=True, special={0: "never early"}, unit="KiB",
            doc="Write files back in the background."),
        Choice(name="direct_io_for_flush", choices=(False, True), default=False,
               doc="Flushes and compactions bypass the page cache."),
        Choice(name="enable_pipelined_write", choices=(False, True), default=False,
               doc="Log and memtable writes in two stages."),
        Choice(name="unordered_write", choices=(False, True), default=False,
               doc="Weaker snapshot order for faster writes."),
        Choice(name="allow_concurrent_memtable_write", choices=(False, True), default=True,
               doc="Several writers into one memtable."),
        Choice(name="sync", choices=(False, True), default=False, doc="Sync the log on every write."),
        Choice(name="disable_wal", choices=(False, True), default=False, doc="Write no log."),
    ], ["level0_slowdown_writes_trigger <= level0_stop_writes_trigger",
        "level0_file_num_compaction_trigger <= level0_slowdown_writes_trigger",
        "memtable == 'skiplist' or not allow_concurrent_memtable_write", "not (sync and disable_wal)"])  # fmt: skip


def open_options(rocksdict: Any, config: Config, *, direct_reads: bool) -> Any:
    """Return rocksdict's options for a configuration; statistics are counted in them."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.enable_statistics()
    options.set_use_direct_reads(direct_reads)
    for name in _LEVEL0:
        getattr(options, f"set_{name.replace('level0', 'level_zero')}")(config[name])
    for name in (*_BUFFERS, *_JOBS, *_FLAGS, "optimize_filters_for_hits"):
        getattr(options, f"set_{name}")(config[name])
    for name in _SIZES_MIB:
        getattr(options, f"set_{name}")(config[name] * _MIB)
    for name in _SIZES_KIB:
        getattr(options, f"set_{name}")(config[name] * _KIB)
    options.set_use_direct_io_for_flush_and_compaction(config["direct_io_for_flush"])
    options.set_compression_type(getattr(rocksdict.DBCompressionType, config["compression"])())
    options.set_compaction_style(getattr(rocksdict.DBCompactionStyle, config["compaction_style"])())
    if config["compaction_style"] == "level":
        options.set_max_bytes_for_level_base(config["max_bytes_for_level_base"] * _MIB)
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
    table.set_block_size(config["block_size"] * _KIB)
    table.set_block_restart_interval(config["block_restart_interval"])
    table.set_block_cache(rocksdict.Cache(config["block_cache"] * _MIB))
    if config["bloom_bits"]:
        table.set_bloom_filter(config["bloom_bits"], False)
    kinds = {"binary_search": "binary_search", "two_level": "two_level_index_search"}
    table.set_index_type(getattr(rocksdict.BlockBasedIndexType, kinds[config["index_type"]])())
    table.set_partition_filters(config["partition_filters"])
    table.set_data_block_index_type(getattr(rocksdict.DataBlockIndexType, config["data_block_index"])())
    table.set_cache_index_and_filter_blocks(config["cache_index_and_filter_blocks"])
    options.set_block_based_table_factory(table)
    return options


def render(config: Config) -> str:
    """Return an OPTIONS file's sections; cache, filter and write options as comments, as RocksDB keeps them in code."""
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
        *(f"  {n}={config[n]}" for n in _JOBS),
        *(f"  {n}={flag[config[n]]}" for n in _FLAGS),
        f"  use_direct_io_for_flush_and_compaction={flag[config['direct_io_for_flush']]}",
        *(f"  {n}={config[n] * _KIB}" for n in _SIZES_KIB),
        '[CFOptions "default"]',
        *(f"  {n}={config[n] * _MIB}" for n in _SIZES_MIB),
        *(f"  {n}={config[n]}" for n in (*_BUFFERS, *_LEVEL0)),
        f"  memtable_factory={table[config['memtable']]}",
        f"  compaction_style={style[config['compaction_style']]}",
        f"  compression={packing[config['compression']]}",
        f"  optimize_filters_for_hits={flag[config['optimize_filters_for_hits']]}",
    ]
    if config["compaction_style"] == "level":
        lines += [
            f"  max_bytes_for_level_base={config['max_bytes_for_level_base'] * _MIB}",
            f"  max_bytes_for_level_multiplier={config['max_bytes_for_level_multiplier']:g}",
            f"  level_compaction_dynamic_level_bytes={flag[config['level_compaction_dynamic_level_bytes']]}",
        ]
    bloom = f"bloomfilter:{config['bloom_bits']:.3g}:false" if config["bloom_bits"] else "nullptr"
    lines += [
        '[TableOptions/BlockBasedTable "default"]',
        f"  block_size={config['block_size'] * _KIB}",
        f"  block_restart_interval={config['block_restart_interval']}",
        f"  index_type={index[config['index_type']]}",
        f"  data_block_index_type={block[config['data_block_index']]}",
        *(f"  {n}={flag[config[n]]}" for n in ("partition_filters", "cache_index_and_filter_blocks")),
        f"  filter_policy={bloom}",
        f"# block cache: NewLRUCache({config['block_cache'] * _MIB})",
        f"# WriteOptions: sync={flag[config['sync']]}, disableWAL={flag[config['disable_wal']]}",
    ]
    return "\n".join(lines)
