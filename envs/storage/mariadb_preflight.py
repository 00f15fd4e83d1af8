"""What a session on a foreign MariaDB server will do and lacks; found by asking, with nothing changed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.envs.storage import mariadb_load, servers
from tunewright.envs.storage.mariadb_dsn import Statements
from tunewright.envs.storage.mariadb_foreign import is_mariadb, set_by_hand
from tunewright.envs.storage.mariadb_load import BENCH, Work
from tunewright.errors import TargetError
from tunewright.target import Preflight

_ROW_BYTES, _SYSTEM_BYTES = 250, 120e6  # of sysbench's tables, index included, and of a server without any
# MariaDB from 10.5 on splits SUPER: these variables have a privilege of their own, by its manual's page "GRANT"
_BINLOG = re.compile(r"sync_binlog|binlog_.*")
_CONNECTION = re.compile(r"thread_pool_.*|max_connections|connect_timeout|extra_max_connections")
_ON_DATABASE = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "INDEX", "ALTER")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a session would do; see the target's attributes of these names.

    Attributes:
        work: the load.
        workload: its name.
        database: that the load runs in, or is copied from.
        run: name of the database that a run gets; empty for none.
        parameters: names of the parameters that are tuned.
        static: those of them that need a restart.
        kept: those that no other value leaves as safe as it is, with the guarantee.
        left: parameters that are left alone since they need a restart.
        restart: the user's command.
        config: option file of ours.
        keep: the benchmark's database stays.
    """

    work: Work
    workload: str
    database: str
    run: str
    parameters: Sequence[str]
    static: Sequence[str]
    kept: Mapping[str, str]
    left: Sequence[str]
    restart: Sequence[str]
    config: str
    keep: bool


@dataclass(frozen=True, kw_only=True)
class Grants:
    """What a user may do.

    Attributes:
        everywhere: privileges on ``*.*``, ``ALL PRIVILEGES`` among them.
        databases: privileges by pattern of a database's name.
    """

    everywhere: frozenset[str] = frozenset()
    databases: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def may(self, *privileges: str) -> bool:
        """Whether the user has one of some privileges on everything."""
        return "ALL PRIVILEGES" in self.everywhere or bool(self.everywhere & set(privileges))

    def lacks(self, privileges: Sequence[str], database: str) -> list[str]:
        """Return which of some privileges the user does not have on a database."""
        has = set(self.everywhere)
        for pattern, more in self.databases.items():
            if _like(pattern, database):
                has |= more
        return [] if "ALL PRIVILEGES" in has else [p for p in privileges if p not in has]


def _like(pattern: str, name: str) -> bool:
    r"""Whether a database has a name that a grant names, where ``%`` and ``_`` are wildcards and ``\_`` is none.

    >>> _like(r"tunewright\_%", "tunewright_bench"), _like("a_c", "abc"), _like("a", "b")
    (True, True, False)
    """
    words = {"%": ".*", "_": ".", "\\_": "_", "\\%": "%"}
    parts = re.findall(r"\\[_%]|.", pattern)
    return re.fullmatch("".join(words.get(p, re.escape(p)) for p in parts), name) is not None


def read_grants(lines: Sequence[str]) -> Grants:
    """Read what ``SHOW GRANTS`` says.

    >>> grants = read_grants(["GRANT SUPER, PROCESS ON *.* TO `me`@`%`", "GRANT SELECT ON `shop`.* TO `me`@`%`"])
    >>> sorted(grants.everywhere), grants.lacks(["SELECT", "DROP"], "shop")
    (['PROCESS', 'SUPER'], ['DROP'])
    """
    everywhere: set[str] = set()
    databases: dict[str, frozenset[str]] = {}
    for line in lines:
        match = re.match(r"GRANT (.+?) ON (\*|`(?:[^`]|``)*`)\.\* TO ", line)
        if match is None:  # a role, or a table
            continue
        privileges = {p.strip().upper() for p in re.sub(r"\([^)]*\)", "", match[1]).split(",")}
        if match[2] == "*":
            everywhere |= privileges
        else:
            name = match[2][1:-1].replace("``", "`")
            databases[name] = databases.get(name, frozenset()) | privileges
    return Grants(everywhere=frozenset(everywhere), databases=databases)


def private(work: Work, place: Path, missing: Sequence[str]) -> Preflight:
    """Return what a session with a server of our own does.

    Args:
        work: the load.
        place: of its data.
        missing: programs that are.
    """
    size_mb = (work.tables * work.size * _ROW_BYTES + _SYSTEM_BYTES) / 1e6
    return Preflight(
        creates=[f"A MariaDB server of our own for each run, with its data in {place}, about {2 * size_mb:.0f} MB."],
        missing=missing,
        notes=["It listens on a Unix socket alone and reads no option files of this machine."],
    )


def look(ask: Statements, facts: Facts) -> Preflight:
    """Ask the server, and change nothing."""
    grants = read_grants([str(row[0]) for row in ask("SHOW GRANTS")])
    who = "`{}`@`{}`".format(*str(ask("SELECT CURRENT_USER()")[0][0]).rpartition("@")[::2])
    bench_there = mariadb_load.has_database(ask, BENCH)
    missing = [f"{what}: GRANT {privilege} ON *.* TO {who};" for privilege, what in _admin(ask, facts, grants).items()]
    missing += _databases(facts, grants, who, bench_there)
    dynamic = [p for p in facts.parameters if p not in facts.static and p not in facts.kept]
    static = [p for p in facts.static if p not in facts.kept]
    changes = [f"SET GLOBAL sets, while candidates are measured: {_listed(dynamic)}.", *servers.kept_words(facts.kept)]
    restarts, notes = [], []
    if facts.static:
        changes.append(f"{facts.config} is written with: {_listed(static)}.")
        restarts.append(
            f"The server is restarted with {' '.join(facts.restart)!r} whenever one of these has another "
            "value, and at the end."
        )
        folder = Path(facts.config).parent
        if not os.access(facts.config if Path(facts.config).exists() else folder, os.W_OK):
            missing.append(
                f"The option file {facts.config} cannot be written from here; name another one with -O config=FILE."
            )
        by_hand = set_by_hand(ask, list(facts.parameters))
        if by_hand:
            notes.append(
                f"A restart forgets what was set by hand; it is set again afterwards: {_listed(sorted(by_hand))}."
            )
    if facts.left:
        notes.append(
            f"{_listed(facts.left)} need a restart and are left alone; to tune them: -O restart=COMMAND -O "
            "config=FILE, a file that the server reads, such as /etc/mysql/mariadb.conf.d/99-tunewright.cnf."
        )
    notes.append(
        "Connections that are open keep sizes of their own, such as sort_buffer_size; new ones get the new values."
    )
    if facts.work.script is not None:
        with_fault(facts, ask, missing)
        if not missing:
            missing += mariadb_load.faults(ask, facts.work, facts.database)
    creates, leaves = _room(ask, facts, bench_there)
    return Preflight(
        changes=changes, restarts=restarts, creates=creates, leaves=leaves, missing=missing, notes=notes,
        locks=["GET_LOCK('tunewright') is held on the server, so that no other session of tunewright changes it."],
    )  # fmt: skip


def with_fault(facts: Facts, ask: Statements, missing: list[str]) -> None:
    """Add why the user's own SQL cannot be a load as it is."""
    work = facts.work
    statement = mariadb_load.writes(work)
    if work.way(facts.workload) == "none" and not work.writes and statement:
        missing.append(
            f"The load writes ({' '.join(statement.split())[:60]}): give each run a copy with -O "
            "reset=copy or -O reset=dump, or let it write with -O writes=yes."
        )
    if not facts.database:
        missing.append("The address names no database that the load runs in: mariadb://USER@HOST/DATABASE.")
    elif not mariadb_load.has_database(ask, facts.database):
        missing.append(f"There is no database {facts.database}, or this user may not see it.")
    elif work.way(facts.workload) == "copy" and (what := mariadb_load.uncopied(ask, facts.database)):
        missing.append(f"Database {facts.database} has {what}, which -O reset=copy does not copy: take -O reset=dump.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _admin(ask: Statements, facts: Facts, grants: Grants) -> dict[str, str]:
    """Return the privileges that are missing to set the parameters, and what for."""
    mariadb = is_mariadb(ask)
    dynamic = [p for p in facts.parameters if p not in facts.static]
    needed: dict[str, list[str]] = {}
    for name in dynamic:
        if not mariadb:
            if not grants.may("SUPER", "SYSTEM_VARIABLES_ADMIN"):
                needed.setdefault("SYSTEM_VARIABLES_ADMIN", []).append(name)
            continue
        own = (
            "BINLOG ADMIN"
            if _BINLOG.fullmatch(name)
            else "CONNECTION ADMIN"
            if _CONNECTION.fullmatch(name)
            else "SUPER"
        )
        if not grants.may("SUPER", own):
            needed.setdefault(own, []).append(name)
    return {privilege: f"Setting {_listed(names)} needs it" for privilege, names in needed.items()}


def _databases(facts: Facts, grants: Grants, who: str, bench_there: bool) -> list[str]:
    wanted: dict[str, Sequence[str]] = {}
    if facts.work.script is None:
        wanted[BENCH] = _ON_DATABASE
    elif facts.database:
        wanted[facts.database] = ("SELECT",)
    if facts.run:
        wanted[facts.run] = _ON_DATABASE
    missing = []
    for name, privileges in wanted.items():
        lacks = grants.lacks(privileges, name)
        if lacks:
            shown = r"tunewright\_%" if name.startswith("tunewright_") else name
            missing.append(f"The load needs it in database {name}: GRANT {', '.join(lacks)} ON `{shown}`.* TO {who};")
    return missing


def _room(ask: Statements, facts: Facts, bench_there: bool) -> tuple[list[str], list[str]]:
    work, creates, leaves = facts.work, [], []
    size = work.tables * work.size * _ROW_BYTES
    if work.script is None and not bench_there:
        creates.append(f"Database {BENCH} with {work.tables} tables of {work.size} rows, about {size / 1e6:.0f} MB.")
        if facts.keep:
            leaves.append(f"Database {BENCH}, since keep=yes; to remove it: DROP DATABASE {BENCH};")
    elif work.script is None:
        leaves.append(f"Database {BENCH}, which is there already, stays; to remove it: DROP DATABASE {BENCH};")
    if facts.run:
        source = BENCH if work.script is None else facts.database
        try:
            size = mariadb_load.size_bytes(ask, source) or size
        except TargetError:
            pass
        creates.append(
            f"Database {facts.run}, a copy of {source} for each run, about {size / 1e6:.0f} MB; it is dropped."
        )
    if work.script is not None and work.writes and not facts.run:
        leaves.append(f"What the load writes to database {facts.database}.")
    return creates, leaves
