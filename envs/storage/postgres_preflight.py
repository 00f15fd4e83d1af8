"""What a session on a foreign PostgreSQL server will do and lacks; found by asking, with nothing changed.

Privileges are asked for in one query with the functions ``has_*_privilege``, so that all that is missing is said at
once, each as a statement to paste.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs.storage import postgres_load, servers
from tunewright.envs.storage.postgres_copies import at, exists, size_bytes
from tunewright.envs.storage.postgres_options import Work
from tunewright.envs.storage.postgres_programs import program
from tunewright.envs.storage.postgres_scope import Scope
from tunewright.errors import TargetError
from tunewright.target import Preflight

_PARAMETER_PRIVILEGES = 150000  # server version that has them, and the role pg_checkpoint
_DRY_RUN_S = 5.0
_BENCH_BYTES, _EMPTY_BYTES = 15e6, 7.5e6  # of pgbench's tables for each scale, and of an empty database


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a session would do; see the target's attributes of these names.

    Attributes:
        dsn: of the server.
        work: the load.
        database: that the load runs in.
        bench: name of the benchmark's database; "" for a load of the user's own.
        scale: of the benchmark's tables.
        scope: where candidates' settings are set.
        restart: the command that restarts the server; empty for none.
        contexts: of the parameters that are tuned, by name.
        kept: those that no other value leaves as safe as it is, with the guarantee.
        left: parameters that are left alone, and why.
    """

    dsn: str
    work: Work
    database: str
    bench: str
    scale: int
    scope: Scope
    restart: Sequence[str]
    contexts: Mapping[str, str]
    kept: Mapping[str, str]
    left: Mapping[str, str]


def look(connection: Any, facts: Facts) -> Preflight:
    """Ask the server, and change nothing.

    Args:
        connection: to the server; in the database that the load runs in, if it has one of its own.
        facts: what is planned.
    """
    has = _privileges(connection, facts)
    bench_there = bool(facts.bench) and exists(connection, facts.bench)
    missing = _missing(connection, facts, has, bench_there)
    if problem := facts.work.problem():
        missing.append(problem)
    copies = facts.work.reset != "none"
    names = ", ".join(name for name in facts.contexts if name not in facts.kept)
    where = {
        "system": "postgresql.auto.conf by ALTER SYSTEM, for the whole server",
        "database": f"database {facts.scope.name} by ALTER DATABASE ... SET",
        "role": f"role {facts.scope.name} by ALTER ROLE ... SET, for its new connections to any database",
    }[facts.scope.kind]
    changes = [f"Settings are set in {where}: {names}.", *servers.kept_words(facts.kept)]
    if facts.work.scripts and not copies and facts.work.writes:
        changes.append(f"The load writes to database {facts.database}; that is not undone.")
    creates, leaves, notes = _room(connection, facts, bench_there)
    notes += _notes(connection, facts)
    if facts.work.scripts and not missing:
        _tried_undone(facts, missing, notes) if copies or facts.work.writes else _tried(facts, missing, notes)
    return Preflight(
        changes=changes,
        restarts=_restarts(facts),
        creates=creates,
        leaves=leaves,
        locks=["An advisory lock in the server's database postgres, so that no other tunewright session changes it."],
        missing=missing,
        notes=notes,
    )


# -- privileges ---------------------------------------------------------------------------------------------------


def _privileges(connection: Any, facts: Facts) -> dict[str, Any]:
    """Ask for all privileges at once."""
    source = facts.work.source if facts.work.reset == "template" and facts.work.source else facts.database
    columns = {
        "role": "quote_ident(current_user)",
        "superuser": "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
        "createdb": "(SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user)",
        "file_settings": "has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')",
        "show_file": "has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')",
        "reload": "has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE')",
        "read_file": "has_function_privilege('pg_catalog.pg_read_file(text)', 'EXECUTE')",
        "owner": "(SELECT quote_ident(pg_get_userbyid(datdba)) FROM pg_database WHERE datname = %(source)s)",
        "owns": "(SELECT pg_has_role(datdba, 'USAGE') OR datistemplate FROM pg_database WHERE datname = %(source)s)",
        "owns_scope": "(SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = %(scope)s)",
        "scope_owner": "(SELECT quote_ident(pg_get_userbyid(datdba)) FROM pg_database WHERE datname = %(scope)s)",
        "others": "(SELECT count(*) FROM pg_stat_activity WHERE datname = %(source)s AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend')",
        "unread": "(SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p', 'S', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
        " AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')))",
        "system": "'{}'::text[]",
        "set": "'{}'::text[]",
        "checkpoint": "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
    }
    if connection.info.server_version >= _PARAMETER_PRIVILEGES:
        lacks = (
            "ARRAY(SELECT name FROM unnest(%(names)s::text[]) AS name WHERE NOT has_parameter_privilege(name, '{}'))"
        )
        columns["system"] = lacks.format("ALTER SYSTEM")
        columns["set"] = lacks.replace("%(names)s", "%(guarded)s").format("SET")
        columns["checkpoint"] = "pg_has_role('pg_checkpoint', 'USAGE')"
    row = connection.execute(
        "SELECT " + ", ".join(columns.values()),
        {
            "source": source,
            "scope": facts.scope.name if facts.scope.kind == "database" else "",
            "names": list(facts.contexts),
            "guarded": [n for n, context in facts.contexts.items() if context.startswith("superuser")],
        },
    ).fetchone()
    return dict(zip(columns, row, strict=True))


def _missing(connection: Any, facts: Facts, has: Mapping[str, Any], bench_there: bool) -> list[str]:
    role, kind, work = has["role"], facts.scope.kind, facts.work
    new = connection.info.server_version >= _PARAMETER_PRIVILEGES
    in_database = f" -- in database {connection.info.dbname}"
    missing = []
    if kind == "system":
        if not new and not has["superuser"]:
            missing.append(
                f"ALTER ROLE {role} SUPERUSER; -- before PostgreSQL 15 nobody else may ALTER SYSTEM; or take a smaller "
                "scope: -O scope=database"
            )
        if has["system"]:
            missing.append(f"GRANT ALTER SYSTEM ON PARAMETER {', '.join(has['system'])} TO {role};")
        if not has["file_settings"]:
            missing.append(f"GRANT SELECT ON pg_catalog.pg_file_settings TO {role};{in_database}")
        if not has["show_file"]:
            missing.append(f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_show_all_file_settings() TO {role};{in_database}")
        if not has["reload"]:
            missing.append(f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO {role};{in_database}")
    else:
        if has["set"]:
            missing.append(f"GRANT SET ON PARAMETER {', '.join(has['set'])} TO {role};")
        if has["owns_scope"] is False:
            missing.append(f"GRANT {has['scope_owner']} TO {role}; -- owns database {facts.scope.name}")
    if not has["checkpoint"]:
        if new:
            missing.append(f"GRANT pg_checkpoint TO {role};")
        elif kind != "system":
            missing.append(f"ALTER ROLE {role} SUPERUSER; -- before PostgreSQL 15 nobody else may CHECKPOINT")
    creates = work.reset != "none" or (facts.bench and not bench_there)
    if creates and not has["createdb"]:
        missing.append(f"ALTER ROLE {role} CREATEDB;")
    if work.reset == "template":
        source = work.source or facts.database
        if has["owns"] is None:
            missing.append(f"There is no database {source} to copy: name one with -O reset=template:DATABASE.")
        elif not has["owns"]:
            missing.append(f"GRANT {has['owner']} TO {role}; -- owns database {source}, which is copied")
        if has["others"]:
            missing.append(
                f"Nobody else may be connected to database {source} while it is copied, and {has['others']} are: end "
                "their connections, or take -O reset=dump"
            )
    if work.reset == "dump" and not work.source and has["unread"]:
        missing.append(f"GRANT pg_read_all_data TO {role}; -- {has['unread']} tables or sequences cannot be read")
    return missing + _programs(connection, work)


def _programs(connection: Any, work: Work) -> list[str]:
    """Return what has to be installed on this machine."""
    major = connection.info.server_version // 10000
    needed = [("pgbench", 0)]
    if work.reset == "dump":
        needed += [("pg_restore", major)] + ([] if work.source else [("pg_dump", major)])
    missing = []
    for name, server in needed:
        try:
            program(name, server)
        except TargetError as error:
            missing.append(str(error))
    return missing


def _tried(facts: Facts, missing: list[str], notes: list[str]) -> None:
    """Run the load once in transactions that cannot write."""
    tried = postgres_load.dry_run(at(facts.dsn, facts.database), facts.work, times=1, limit_s=_DRY_RUN_S)
    if tried.writes:
        missing.append(postgres_load.refusal(tried.writes, facts.database))
    elif tried.fails:
        missing.append(f"The load has to work: {tried.fails}")
    elif tried.slow:
        notes.append("A script of the load takes more than 5 s: whether it only reads is seen when the session begins.")
    else:
        notes.append("The load only reads, so it runs in the database itself, in transactions that cannot write.")


def _tried_undone(facts: Facts, missing: list[str], notes: list[str]) -> None:
    """Run a load that may write once, in a transaction that is rolled back, where its copies will come from."""
    work = facts.work
    if work.reset == "dump" and work.source:
        notes.append("The load is tried first on the dump, when the session begins.")
        return
    database = work.source or facts.database
    tried = postgres_load.dry_run_undone(at(facts.dsn, database), work, limit_s=_DRY_RUN_S, owned=work.reset == "dump")
    if tried.fails:
        missing.append(f"The load has to work: {tried.fails}")
    elif tried.slow:
        notes.append(
            "A script of the load was not tried: it takes more than 5 s, waits for a lock of somebody else, or cannot "
            "run within a transaction."
        )
    else:
        notes.append(f"The load was tried once in database {database}, in a transaction that was rolled back.")


# -- the rest -----------------------------------------------------------------------------------------------------


def _restarts(facts: Facts) -> list[str]:
    if facts.scope.kind != "system":
        return ["Nothing is restarted or reloaded: new connections have the settings."]
    found = ["The server reloads its configuration before each run and at the end (pg_reload_conf)."]
    restarting = [name for name, context in facts.contexts.items() if context == "postmaster"]
    if restarting:
        found.append(
            f"The server is restarted with '{' '.join(facts.restart)}' before each run that changes "
            f"{', '.join(restarting)}, and at the end: all clients lose their connections."
        )
    return found


def _room(connection: Any, facts: Facts, bench_there: bool) -> tuple[list[str], list[str], list[str]]:
    """Return what is created and what stays, with sizes, and what is to be said of them."""
    if facts.bench and bench_there:
        old = f"The database {facts.bench}, which is there already, stays (DROP DATABASE {facts.bench} removes it)."
        return [f"The tables of pgbench in the database {facts.bench} are filled anew if need be."], [old], []
    if facts.bench:
        size = _megabytes(_EMPTY_BYTES + facts.scale * _BENCH_BYTES)
        kept = [f"The database {facts.bench} stays, about {size}, for further sessions."] if facts.work.keep else []
        gone = "" if facts.work.keep else "; it is dropped at the end (-O keep=yes leaves it)"
        return [f"A database {facts.bench} with pgbench's tables, about {size}{gone}."], kept, []
    if facts.work.reset == "none":
        stays = [f"What the load writes stays in database {facts.database}."] if facts.work.writes else []
        return [], stays, []
    source = facts.work.source or facts.database
    notes = []
    if facts.work.reset == "dump" and facts.work.source:
        size, bytes_each = "of the dump's size unpacked", 0
    else:
        bytes_each = size_bytes(connection, source) if exists(connection, source) else 0
        size = f"{_megabytes(bytes_each)} each"
    if bytes_each and (free := _free(connection)) is not None and free < 2 * bytes_each:
        notes.append(f"The two copies need {_megabytes(2 * bytes_each)}, and the disk has {_megabytes(free)} left.")
    what = "the dump" if facts.work.reset == "dump" and facts.work.source else f"database {source}"
    made = f"Two copies of {what}, {size}: a clean one, and one of that before each run; both are dropped at the end."
    return [made], [], notes


def _free(connection: Any) -> int | None:
    """Return the bytes that the server's disk has left, where it is this machine's and may be seen."""
    try:
        folder = Path(connection.execute("SELECT current_setting('data_directory', true)").fetchone()[0] or "")
        return shutil.disk_usage(folder).free if folder.is_absolute() and folder.exists() else None
    except Exception:  # a role without pg_read_all_settings may not see it
        return None


def _notes(connection: Any, facts: Facts) -> list[str]:
    notes = []
    by_reason: dict[str, list[str]] = {}
    for name, why in facts.left.items():
        by_reason.setdefault(why, []).append(name)
    notes += [f"Left alone: {', '.join(names)}: {why}." for why, names in by_reason.items()]
    aim = facts.work.seconds or facts.work.aim
    timed = dict(
        connection.execute(
            "SELECT name, setting::int FROM pg_settings WHERE name IN ('checkpoint_timeout', 'autovacuum_naptime')"
        ).fetchall()
    )
    longer = [f"{name} ({seconds} s)" for name, seconds in sorted(timed.items()) if seconds > aim]
    if longer and not facts.work.transactions:
        notes.append(
            f"A run of about {aim:g} s is shorter than {' and '.join(longer)}, so their work is seldom part of it; "
            "for a load that writes, give longer runs with -O aim=SECONDS."
        )
    if facts.restart and facts.scope.kind == "system" and not _rescuable(connection):
        notes.append(
            "The server's postgresql.auto.conf cannot be written from here: should the server not start under a "
            "candidate, it has to be mended by hand."
        )
    return notes


def _rescuable(connection: Any) -> bool:
    from tempfile import TemporaryDirectory

    from tunewright.envs.storage.postgres_foreign import save_auto_conf

    with TemporaryDirectory() as folder:
        return save_auto_conf(connection, Path(folder)) is not None


def _megabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
