"""Tunable parameters of a PostgreSQL server, read from its own ``pg_settings``.

Only the choice of names is ours: settings known to matter for performance. Types, units, bounds, defaults and
restart need are the server's. Two things are added, since ``pg_settings`` knows only what is accepted, not what
is sensible: memory settings end at a share of the machine's memory, worker counts at eight for each core,
planner costs a factor of 16 around their default, and other numbers at a thousand times it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.envs.storage.dangers import bounded
from tunewright.envs.storage.postgres_scope import Scope
from tunewright.knowledge.live import PG_RESTART
from tunewright.knowledge.quantities import scale
from tunewright.sessions.forms import alter_system, ansible_tasks
from tunewright.space import Choice, Int, Param, Real, Space

QUERY = (
    "SELECT name, setting, unit, vartype, context, source, min_val, max_val, boot_val, enumvals, short_desc "
    "FROM pg_settings WHERE name = ANY(%s) ORDER BY name"
)
NAMES = (
    "shared_buffers", "work_mem", "hash_mem_multiplier", "effective_cache_size", "wal_buffers", "max_wal_size",
    "min_wal_size", "checkpoint_timeout", "checkpoint_completion_target", "wal_compression", "wal_sync_method",
    "wal_writer_delay", "wal_init_zero", "commit_delay", "commit_siblings", "synchronous_commit", "fsync",
    "full_page_writes",
    "random_page_cost", "cpu_tuple_cost", "parallel_tuple_cost", "parallel_setup_cost", "effective_io_concurrency",
    "max_parallel_workers_per_gather", "max_parallel_workers", "max_worker_processes", "jit", "io_method", "autovacuum",
)  # fmt: skip
# share of the machine's memory at which the search ends; the rest of the names with a memory unit: 1/16
_SHARE = {
    "shared_buffers": 2,
    "effective_cache_size": 1,
    "max_wal_size": 2,
    "min_wal_size": 4,
    "work_mem": 32,
    "temp_buffers": 16,
}
# of today's value: what careful mode does not go below, and not beyond
_NOT_LESS = (
    ("work_mem", 1.0, "sorts and hashes that fit in memory today would spill to disk"),
    ("hash_mem_multiplier", 1.0, "hashes that fit in memory today would spill to disk"),
    ("shared_buffers", 0.5, "pages that are cached today would be read again"),
    ("effective_cache_size", 0.25, "plans with indexes would give way to scans of whole tables"),
    ("max_wal_size", 1.0, "checkpoints would come more often"),
    ("checkpoint_timeout", 0.5, "checkpoints would come more often"),
    ("max_worker_processes", 1.0, "extensions and replication may need those that there are"),
)
_NOT_MORE = (
    ("work_mem", 16.0, "each sort of each connection may take so much, and memory may run out"),
    ("commit_delay", 10.0, "each commit would wait"),
)
_WORKERS_PER_CORE, _COST_FACTOR, _OTHER_FACTOR = 8, 16, 1000


def read_settings(connection: Any, names: Sequence[str] = NAMES) -> list[dict[str, Any]]:
    """Return the rows of pg_settings as dictionaries of text and lists."""
    cursor = connection.execute(QUERY, (list(names),))
    columns = [c.name for c in cursor.description]
    rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    segment = connection.execute(
        "SELECT setting::bigint / 1048576 FROM pg_settings WHERE name = 'wal_segment_size'"
    ).fetchone()
    for row in rows:
        if row["name"] in ("min_wal_size", "max_wal_size"):  # the server wants at least two segments, says its manual
            row["min_val"] = str(max(int(row["min_val"]), 2 * int(segment[0])))
    return rows


def parameter(row: Mapping[str, Any], ram_bytes: int, cores: int) -> Param:
    """Make a parameter from a row of pg_settings.

    Args:
        row: see read_settings.
        ram_bytes: memory of the server's machine.
        cores: its cores.
    """
    common: dict[str, Any] = {
        "name": row["name"],
        "doc": row["short_desc"],
        "unit": row["unit"] or "",
        "restart": PG_RESTART.get(row["context"], "none"),
    }
    if row["vartype"] == "bool":
        return Choice(choices=("on", "off"), default=row["setting"], **common)
    if row["vartype"] == "enum":
        choices = list(row["enumvals"])
        if row["setting"] not in choices:  # a hidden synonym
            choices.append(row["setting"])
        return Choice(choices=tuple(choices), default=row["setting"], **common)
    kind = int if row["vartype"] == "integer" else float
    low, high, default = kind(float(row["min_val"])), kind(float(row["max_val"])), kind(float(row["setting"]))
    unit = scale(row["unit"] or "")
    if unit is not None and unit[0] == "bytes":
        high = min(high, kind(ram_bytes / _SHARE.get(row["name"], 16) / unit[1]))
    elif "worker" in row["name"] and kind is int:
        high = min(high, _WORKERS_PER_CORE * cores)
    elif row["name"].endswith("_cost") and default > 0:
        low, high = max(low, default / _COST_FACTOR), min(high, default * _COST_FACTOR)
    else:
        high = min(high, kind(max(abs(default), 1) * _OTHER_FACTOR))
    high = max(high, default)
    special: dict[float, str] = {}
    if low == -1:
        special, low = {-1: "the server decides"}, kind(0)
    log = high > 50 * (low if low > 0 else 1)
    if log and low == 0:
        special = {**special, 0: "zero: off, or no limit"}
        low = kind(1) if kind is int else kind(min(1.0, abs(default) or 1.0) / _OTHER_FACTOR)
        if 0 < default < low:
            low = default
    if kind is int:
        return Int(low=int(low), high=int(high), default=int(default), log=log, special=special, **common)
    return Real(low=low, high=high, default=default, log=log and low > 0, special=special, **common)


def text_of(value: Any) -> str:
    """Return a value as PostgreSQL spells it."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def texts(space: Space, values: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as PostgreSQL spells them, without those that are none of its own."""
    return {n: text_of(v) for n, v in values.items() if n in space.params}


def forms(space: Space, changed: Mapping[str, Any], lines: str, scope: Scope) -> dict[str, str]:
    """Return changed settings as ALTER SYSTEM statements, a file for conf.d, and tasks of Ansible.

    Args:
        space: the server's parameters.
        changed: values that are not the server's own.
        lines: the configuration as the target renders it.
        scope: where it is set; of a database or a role there are statements alone.
    """
    if scope.kind != "system":
        return {"sql": lines + "\n", "conf.d": "", "ansible": "", "env": ""}
    settings = texts(space, changed)
    return {
        "sql": alter_system(settings, restart=any(space.params[n].restart == "restart" for n in settings)),
        "conf.d": lines + "\n",
        "ansible": ansible_tasks("community.postgresql.postgresql_set", settings),
        "env": "",
    }


def line(param: Param, value: Any, scope: Scope) -> str:
    """Return a line of postgresql.conf, one that needs a restart marked, or the statement of a smaller scope."""
    blocks = f"x {param.unit}" if param.unit and param.unit[0].isdigit() else ""
    text = text_of(value) + (param.unit if param.unit and not blocks and float(value) > 0 else "")
    if scope.kind != "system":
        remark = f"  -- {blocks}" if blocks else ""
        return f"ALTER {scope.kind.upper()} \"{scope.name}\" SET {param.name} = '{text}';{remark}"
    remark = f"  # {blocks}" if blocks else ""
    return f"{param.name} = '{text}'{remark}{'  # needs a restart' if param.restart == 'restart' else ''}"


def durability(config: Mapping[str, Any]) -> float:
    """Return the durability level of a configuration; 3 is the strongest."""
    if config.get("fsync", "on") == "off":
        return 0.0
    if config.get("full_page_writes", "on") == "off":
        return 1.0
    return 2.0 if config.get("synchronous_commit", "on") == "off" else 3.0


def dangerous(space: Space) -> dict[str, str]:
    """Return what must not be tried on a server in use: expressions over the settings, with the reason.

    Args:
        space: its parameters' defaults are today's values.
    """
    return {
        "fsync == 'off'": "a crash may corrupt the whole cluster",
        "full_page_writes == 'off'": "a crash may corrupt pages",
        "synchronous_commit == 'off'": "a crash loses transactions that were reported as committed",
        "autovacuum == 'off'": "tables grow and statistics age until somebody cleans up",
        **bounded(space, _NOT_LESS, _NOT_MORE),
    }
