"""Tunable parameters of a MariaDB or MySQL server, read from the server itself.

Only the choice of names is ours. MariaDB tells types, bounds, block sizes, defaults, choices and what needs a restart
in ``information_schema.SYSTEM_VARIABLES``. MySQL tells bounds in ``performance_schema.variables_info``; what is not
dynamic there is taken from its manual. Three things are added, since a server knows only what is accepted, not what is
sensible: sizes end at a share of the machine's memory, thread counts at eight for each core, and other numbers at a
thousand times their default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.envs.storage.dangers import bounded
from tunewright.sessions.forms import ansible_files, set_global
from tunewright.space import Choice, Int, Param, Real, Space

NAMES = (
    "innodb_buffer_pool_size", "innodb_log_file_size", "innodb_log_buffer_size", "innodb_flush_log_at_trx_commit",
    "sync_binlog", "innodb_doublewrite", "innodb_flush_method", "innodb_io_capacity", "innodb_io_capacity_max",
    "innodb_flush_neighbors", "innodb_read_io_threads", "innodb_write_io_threads", "innodb_purge_threads",
    "innodb_lru_scan_depth", "innodb_max_dirty_pages_pct", "innodb_max_dirty_pages_pct_lwm", "innodb_adaptive_flushing",
    "innodb_adaptive_hash_index", "innodb_change_buffering", "innodb_old_blocks_time", "innodb_read_ahead_threshold",
    "innodb_random_read_ahead", "innodb_spin_wait_delay", "innodb_sync_spin_loops", "innodb_buffer_pool_instances",
    "innodb_thread_concurrency", "innodb_redo_log_capacity", "table_open_cache",
    "table_definition_cache", "thread_cache_size", "thread_handling", "sort_buffer_size",
    "join_buffer_size", "read_buffer_size", "read_rnd_buffer_size", "tmp_table_size", "max_heap_table_size",
    "query_cache_type", "query_cache_size", "optimizer_search_depth", "optimizer_use_condition_selectivity",
    "binlog_cache_size",
)  # fmt: skip
#: what ``parameters=all`` may take: settings that change speed, not meaning, security, replication or what is logged
_ALL = re.compile(
    r"innodb_|aria_|key_(buffer|cache)|table_(open|definition)_cache|thread_|sort_buffer|join_buffer|join_cache|read_buffer"
    r"|read_rnd|tmp_table|max_heap|query_cache_(type|size|limit|min)|binlog_(cache|stmt_cache|commit_wait|group"
    r"|file_cache|row_event_max)|sync_binlog|optimizer_|mrr_buffer|bulk_insert|myisam_sort|net_buffer|preload_buffer"
    r"|histogram|expensive_sub|host_cache|stored_program|back_log|eq_range|max_length_for_sort|use_stat_tables"
)
# innodb_log_file_buffering among them: after a change of the log's size MariaDB 10.11 does not take OFF back
_NEVER = re.compile(
    r".*(encrypt|_ft_|force|read_only|_now$|abort|debug|monitor|status|print|deadlock|timeout|page_size|undo|file_path"
    r"|tmpdir|checksum|compression|strict|autoinc|default_|rollback|fast_shutdown|snapshot_isolation|table_locks"
    r"|row_format|file_per_table|autoextend|dump|load_|defragment|scrub|instant|atomic|kill|stopword|purge_lag"
    r"|fatal|trace|thread_stack|file_hash|aria_group|aria_recover|aria_log|page_checksum|disable|buffer_pool_(filename"
    r"|in_core|chunk|size_)|data_home|log_group|cmp_|compress|write_ahead|log_checksums|temp_|dedicated|numa|ddl|max_undo"
    r"|aria_block|aria_sync|sort_file_size|thread_pool_max|open_cache_instances|log_file_buffering|fulltext|prefix_index|stats_method|optimizer_switch|validate|online_alter|open_files|sort_buffer_size_).*"
)
_CATEGORIES = {"innodb_flush_log_at_trx_commit", "innodb_flush_neighbors", "optimizer_prune_level"}
_REFUSED = {"thread_handling": ("no-threads",)}  # lets one connection in
# share of the machine's memory at which the search ends; other sizes: 1/64, since every connection may take one
_SHARE = {"innodb_buffer_pool_size": 2, "innodb_log_file_size": 4, "innodb_redo_log_capacity": 4, "key_buffer_size": 8}
_OTHER_SHARE, _THREADS_PER_CORE, _OTHER_FACTOR = 64, 8, 1000
_COUNTS = re.compile(r"(thread_cache|host_cache|thread_pool|lru_flush|purge_batch|parts|adaptive.*|sample.*)(_size)?$")
_MIB, _KIB = 2**20, 2**10
# of NAMES what MySQL 8 cannot change while it runs, by the table "System Variable Summary" of its manual
_MYSQL_STATIC = {
    "innodb_log_file_size", "innodb_doublewrite", "innodb_flush_method", "innodb_read_io_threads",
    "innodb_write_io_threads", "innodb_purge_threads", "innodb_buffer_pool_instances",
    "thread_handling",
}  # fmt: skip
_MYSQL_CHOICES = {
    "innodb_flush_method": ("fsync", "O_DSYNC", "littlesync", "nosync", "O_DIRECT", "O_DIRECT_NO_FSYNC"),
    "innodb_change_buffering": ("none", "inserts", "deletes", "changes", "purges", "all"),
}
# the second of a pair is never below the first: the server moves or refuses it
_PAIRS = (
    ("innodb_io_capacity", "innodb_io_capacity_max"),
    ("innodb_max_dirty_pages_pct_lwm", "innodb_max_dirty_pages_pct"),
    ("innodb_log_buffer_size", "innodb_log_file_size"),
)
_NOT_LESS = (
    ("innodb_buffer_pool_size", 0.5, "pages that are cached today would be read again"),
    ("innodb_log_file_size", 1.0, "pages would have to be written before the log comes round"),
    ("innodb_redo_log_capacity", 1.0, "pages would have to be written before the log comes round"),
    ("innodb_io_capacity", 0.5, "changed pages would pile up until writers have to wait"),
    ("sort_buffer_size", 1.0, "sorts that fit in memory today would go to the disk"),
    ("tmp_table_size", 1.0, "temporary tables that fit in memory today would go to the disk"),
    ("max_heap_table_size", 1.0, "temporary tables that fit in memory today would go to the disk"),
    ("table_open_cache", 0.5, "tables would be closed and opened again and again"),
    ("table_definition_cache", 0.5, "definitions of tables would be read again and again"),
    ("innodb_thread_concurrency", 1.0, "queries that run beside each other today would wait"),
)
_EACH = "each connection may take so much, and memory may run out"
_NOT_MORE = tuple(
    (name, 16.0, _EACH)
    for name in ("sort_buffer_size", "join_buffer_size", "read_buffer_size", "read_rnd_buffer_size", "tmp_table_size",
                 "max_heap_table_size", "binlog_cache_size")
)  # fmt: skip
_FILE = {True: Path("/etc/mysql/mariadb.conf.d/99-tuned.cnf"), False: Path("/etc/mysql/conf.d/99-tuned.cnf")}
_MARIADB = (
    "SELECT LOWER(VARIABLE_NAME), GLOBAL_VALUE, VARIABLE_TYPE, NUMERIC_MIN_VALUE, NUMERIC_MAX_VALUE,"
    " NUMERIC_BLOCK_SIZE, ENUM_VALUE_LIST, READ_ONLY, COMMAND_LINE_ARGUMENT, VARIABLE_COMMENT"
    " FROM information_schema.SYSTEM_VARIABLES"
    " WHERE GLOBAL_VALUE IS NOT NULL ORDER BY VARIABLE_NAME"
)
_MYSQL = (
    "SELECT LOWER(i.VARIABLE_NAME), g.VARIABLE_VALUE, i.MIN_VALUE, i.MAX_VALUE FROM performance_schema.variables_info i"
    " JOIN performance_schema.global_variables g USING (VARIABLE_NAME) ORDER BY 1"
)
_COLUMNS = ("name", "value", "type", "low", "high", "block", "choices", "read_only", "argument", "doc")
Ask = Callable[..., list[tuple[Any, ...]]]


def read_variables(ask: Ask, mariadb: bool) -> dict[str, dict[str, Any]]:
    """Return the server's variables by name, each with the keys of ``_COLUMNS``.

    Args:
        ask: runs a statement.
        mariadb: whether the server is MariaDB, and not MySQL.
    """
    if mariadb:
        return {row[0]: dict(zip(_COLUMNS, row, strict=True)) for row in ask(_MARIADB)}
    return {row[0]: of_mysql(*row) for row in ask(_MYSQL)}


def of_mysql(name: str, value: str, low: str, high: str) -> dict[str, Any]:
    """Return a row of MySQL's ``variables_info`` as one of MariaDB's, which tell more."""
    kind, choices = "VARCHAR", ""
    if name in _MYSQL_CHOICES:
        kind, choices = "ENUM", ",".join(_MYSQL_CHOICES[name])
    elif value in ("ON", "OFF"):
        kind, choices = "BOOLEAN", "OFF,ON"
    elif re.fullmatch(r"-?\d+", value) and high not in ("", "0"):
        kind = "BIGINT"
    elif re.fullmatch(r"-?\d+\.\d+", value):
        kind = "DOUBLE"
    static = "YES" if name in _MYSQL_STATIC else "NO"
    row = (name, value, kind, low or "0", high or "0", "0", choices, static, "REQUIRED", "")
    return dict(zip(_COLUMNS, row, strict=True))


def selected(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the names of the variables to tune: those named, or all that change speed alone.

    Args:
        rows: see read_variables.
        names: names; ``("all",)`` for all.
    """
    if tuple(names) != ("all",):
        return [name for name in names if name in rows and tunable(rows[name])]
    return [n for n, row in rows.items() if tunable(row) and (n in NAMES or (_ALL.match(n) and not _NEVER.match(n)))]


def tunable(row: Mapping[str, Any]) -> bool:
    """Whether a variable has values to choose from: a number, a switch or one of several words."""
    kind = str(row["type"]).split()[0]
    if row["argument"] is None and row["read_only"] == "YES":
        return False  # tells something about the server
    if kind in ("BOOLEAN", "ENUM"):
        return True
    return kind in ("TINYINT", "INT", "BIGINT", "DOUBLE") and float(row["low"] or 0) < float(row["high"] or 0)


def size_like(row: Mapping[str, Any]) -> bool:
    """Whether a variable is an amount of bytes: sizes are, unless they count entries."""
    name = str(row["name"])
    if int(float(row["block"] or 0)) >= 128 and float(row["value"]) >= _KIB:
        return not name.endswith("threshold")
    named = name.endswith(("_size", "_capacity", "_limit", "_space_limit")) and not _COUNTS.search(name)
    return bool(named) and float(row["value"]) >= 2 * _KIB


def factor(row: Mapping[str, Any]) -> int:
    """Return in how many bytes a size is counted: MiB, KiB or 1, so that today's value is a whole number."""
    value = int(float(row["value"]))
    if not size_like(row):
        return 1
    if value >= 64 * _MIB and value % _MIB == 0:
        return _MIB
    return _KIB if value % _KIB == 0 else 1


def parameter(row: Mapping[str, Any], ram_bytes: int, cores: int) -> Param:
    """Make a parameter of a server's variable; its default is the value that the server has now.

    Args:
        row: see read_variables.
        ram_bytes: memory of the server's machine.
        cores: its cores.
    """
    name, value, kind = str(row["name"]), str(row["value"]), str(row["type"]).split()[0]
    common: dict[str, Any] = {
        "name": name,
        "doc": " ".join(str(row["doc"] or "").split())[:400],
        "restart": "restart" if row["read_only"] == "YES" else "none",
    }
    if kind in ("BOOLEAN", "ENUM"):
        choices = [c for c in str(row["choices"]).split(",") if c and c not in _REFUSED.get(name, ())]
        same = next((c for c in choices if c.lower() == value.lower()), None)
        return Choice(choices=tuple(choices if same else [*choices, value]), default=same or value, **common)
    if kind == "DOUBLE":
        return _real(row, common)
    low, high, now = int(float(row["low"])), int(float(row["high"])), int(float(value))
    if high - low <= 3 and name in _CATEGORIES:
        return Choice(choices=tuple(range(low, high + 1)), default=now, ordered=True, **common)
    return _int(row, low, high, now, ram_bytes, cores, common)


def _real(row: Mapping[str, Any], common: Mapping[str, Any]) -> Param:
    low, high, now = float(row["low"]), float(row["high"]), float(row["value"])
    high = max(now, min(high, max(abs(now), 1.0) * _OTHER_FACTOR))
    return Real(low=min(low, now), high=high, default=now, **common)


def _int(
    row: Mapping[str, Any], low: int, high: int, now: int, ram_bytes: int, cores: int, common: Mapping[str, Any]
) -> Param:
    name, unit = str(row["name"]), factor(row)
    if size_like(row):
        high = min(high, ram_bytes // _SHARE.get(name, _OTHER_SHARE))
    elif "thread" in name:
        high = min(high, max(_THREADS_PER_CORE * cores, 4 * now))
    elif name == "sync_binlog":
        high = min(high, _OTHER_FACTOR)
    else:
        high = min(high, max(abs(now), 1) * _OTHER_FACTOR)
    block = max(int(float(row["block"] or 1)), 1)
    step = max(block // unit, 1) if unit > 1 or size_like(row) else block
    floor, now = math.ceil(low / unit), now // unit
    ceiling = max(high // unit, now)
    special: dict[float, str] = {}
    if floor <= 0 and (size_like(row) or ceiling > 50):
        special, floor = {0: "zero: off, or the server decides"}, 1
    floor = math.ceil(floor / step) * step
    if now not in special:
        floor = min(floor, now)
        if (now - floor) % step:  # a value that the server made itself, between its own blocks
            step = 1
    return Int(
        low=floor, high=max(ceiling, floor), default=now, step=step, log=ceiling > 50 * max(floor, 1),
        special=special, unit={_MIB: "MiB", _KIB: "KiB"}.get(unit, "bytes" if size_like(row) else ""), **common,
    )  # fmt: skip


def space(
    rows: Sequence[Mapping[str, Any]], every: Mapping[str, Mapping[str, Any]], ram_bytes: int, cores: int
) -> Space:
    """Make the space of a server's variables, with the constraints that the server would enforce itself.

    Args:
        rows: see read_variables.
        every: all variables, by name: some bound others.
        ram_bytes: memory of the server's machine.
        cores: its cores.
    """
    by_name = {str(row["name"]): _bounded(row, every) for row in rows}
    constraints = []
    for low, high in _PAIRS:
        if low in by_name and high in by_name:
            sizes = factor(by_name[low]), factor(by_name[high])
            scaled = [f"{n} * {size}" if sizes != (1, 1) else n for n, size in zip((low, high), sizes, strict=True)]
            # a killed session may have left values that break it, and the space must open to put them back
            if float(by_name[low]["value"]) <= float(by_name[high]["value"]):
                constraints.append(f"{scaled[0]} <= {scaled[1]}")
        elif low in by_name and high in every:  # the server would move the other one, which nobody would put back
            by_name[low]["high"] = str(min((by_name[low]["high"], every[high]["value"]), key=float))
        elif high in by_name and low in every:
            by_name[high]["low"] = str(max((by_name[high]["low"], every[low]["value"]), key=float))
    params = [parameter(row, ram_bytes, cores) for row in by_name.values()]
    if "query_cache_type" in by_name:  # a server that starts with a size switches the cache on
        condition = "query_cache_type != 'OFF'"
        params = [replace(p, when=condition) if p.name == "query_cache_size" else p for p in params]
    return Space(params, constraints)


def _bounded(row: Mapping[str, Any], every: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a variable with the bounds that the server keeps, but does not tell."""
    name, now = str(row["name"]), row["value"]
    changed = dict(row)
    if name == "innodb_buffer_pool_size":  # with pages of 16 KiB it refuses less than 6 MiB
        changed["low"] = str(max(int(row["low"]), min(int(now), 16 * _MIB)))
    elif name == "thread_cache_size" and "max_connections" in every:
        changed["high"] = str(max(int(now), int(every["max_connections"]["value"])))
    elif name == "table_open_cache" and {"open_files_limit", "max_connections"} <= set(every):
        # two files for a table, and one for a connection
        files = int(every["open_files_limit"]["value"]) - int(every["max_connections"]["value"])
        changed["high"] = str(max(int(now), min(int(row["high"]), files // 2 - 100)))
    return changed


def text_of(param: Param, value: Any) -> str:
    """Return a value as the server spells it, sizes in bytes."""
    if isinstance(param, Int):
        return str(int(value) * {"MiB": _MIB, "KiB": _KIB}.get(param.unit, 1))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def same(one: str, other: str) -> bool:
    """Whether two spellings mean one value.

    >>> same("90.000000", "90"), same("ON", "1"), same("fsync", "O_DIRECT")
    (True, True, False)
    """
    switch = {"on": "1", "off": "0", "true": "1", "false": "0"}
    one, other = (switch.get(text.lower(), text.lower()) for text in (one, other))
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-9, abs_tol=1e-6)
    except ValueError:
        return one == other


def durability(config: Mapping[str, Any]) -> float:
    """Return the durability level: see the module of the target."""
    method = str(config.get("innodb_flush_method", "")).lower()
    if config.get("innodb_doublewrite") == "OFF" or method in ("nosync", "littlesync", "o_direct_no_fsync"):
        return 0.0
    return {0: 1.0, 2: 2.0}.get(int(config.get("innodb_flush_log_at_trx_commit", 1)), 3.0)


def binlog_durability(config: Mapping[str, Any]) -> float:
    """Return the share of commits after which the binary log is synced; 0 where the system decides when."""
    every = int(config.get("sync_binlog", 1))
    return 1.0 / every if every else 0.0


def dangerous(space: Space) -> dict[str, str]:
    """Return what must not be tried on a server in use: expressions over the variables, with the reason.

    Args:
        space: its parameters' defaults are today's values.
    """
    found = {
        "innodb_flush_log_at_trx_commit == 0": "a crash of the server loses transactions reported as committed",
        "innodb_flush_log_at_trx_commit == 2": "a power cut loses transactions reported as committed",
        "innodb_doublewrite == 'OFF'": "a crash may corrupt pages",
        "innodb_flush_method in ('nosync', 'littlesync', 'O_DIRECT_NO_FSYNC')": "a power cut may corrupt the data",
        "sync_binlog == 0": "a power cut may lose transactions of the binary log, and replicas go astray",
        **bounded(space, _NOT_LESS, _NOT_MORE),
    }
    sync = space.params.get("sync_binlog")
    if isinstance(sync, Int) and sync.default > 0:
        found[f"sync_binlog > {sync.default}"] = "a power cut may lose more transactions of the binary log"
    threads = space.params.get("innodb_thread_concurrency")
    if isinstance(threads, Int) and threads.default == 0:
        found["0 < innodb_thread_concurrency < 4"] = "queries would wait for each other"
    return found


def forms(space: Space, changed: Mapping[str, Any], lines: str, *, mariadb: bool) -> dict[str, str]:
    """Return changed variables as SET GLOBAL statements, an option file, and a task of Ansible that writes it.

    Args:
        space: the server's variables.
        changed: values that are not the server's own.
        lines: the option file, as the target renders it.
        mariadb: whether the server is MariaDB, and not MySQL.
    """
    texts = {n: text_of(space.params[n], v) for n, v in changed.items() if n in space.params}
    dynamic = {n: text for n, text in texts.items() if space.params[n].restart == "none"}
    restart = len(dynamic) < len(texts)
    task = ansible_files({_FILE[mariadb]: lines + "\n"})
    return {
        "sql": set_global(dynamic, restart=restart),
        "conf.d": lines + "\n",
        "ansible": f"# the server reads it when it is restarted\n{task}" if texts else "",
        "env": "",
    }


def still_to_do(space: Space, changed: Mapping[str, Any], *, restarts: bool, kept: bool) -> list[str]:
    """Return what is not in service after SET GLOBAL, and what a restart of the server would forget.

    Args:
        space: the server's variables.
        changed: values that are new.
        restarts: there is a command that restarts the server.
        kept: the settings are written into an option file, too.
    """
    static = [n for n in changed if n in space.params and space.params[n].restart != "none"]
    found = []
    if static and not restarts:
        found.append(
            f"Not live: {', '.join(static)}. These need a restart: write them into an option file with "
            "'tunewright apply NAME --as conf.d', and restart the server."
        )
    if not kept and any(n in space.params and n not in static for n in changed):
        found.append(
            "The server forgets these values when it restarts; 'tunewright apply NAME --as conf.d' makes a file."
        )
    return found
