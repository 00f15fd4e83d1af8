"""What runs on a MariaDB server: sysbench's OLTP tests or the user's own SQL, on data that each run finds the same."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from tunewright.envs.loads import _progress, sysbench
from tunewright.envs.storage import mariadb_clients
from tunewright.envs.storage.mariadb_dsn import Address, Statements, client_options, connected, secret_file
from tunewright.envs.storage.mariadb_server import program
from tunewright.errors import ConfigError, TargetError
from tunewright.target import Budget

WORKLOADS = {
    "read-write": "sysbench's oltp_read_write: point and range reads, two updates, a delete and an insert",
    "read-only": "sysbench's oltp_read_only: point and range reads",
    "write-only": "sysbench's oltp_write_only: two updates, a delete and an insert",
    "point-select": "sysbench's oltp_point_select: reads by primary key",
}
OWN = "own"
BENCH = "tunewright_bench"
_WRITES = ("read-write", "write-only")
_FIRST, _FIRST_OWN, _LEAST = 50, 2, 2  # transactions of a client: to see how fast the load is, and in any case
_READS = re.compile(
    r"[\s(]*(SELECT|WITH|SHOW|EXPLAIN|DESCRIBE|DESC|DO|VALUES|TABLE|SET|START|BEGIN|COMMIT|ROLLBACK|USE)\b",
    re.IGNORECASE,
)
_SWITCHES = re.compile(
    r"\b(SET\s+(@@)?(GLOBAL|PERSIST)|READ\s+WRITE|(TX|TRANSACTION)_READ_ONLY|INTO\s+(OUT|DUMP)FILE)\b", re.IGNORECASE
)
_NOT_PREPARED = re.compile("not supported in the prepared statement protocol|explicit or implicit commit")
_NOT_THERE = re.compile("doesn't exist|Unknown (table|column)")  # a statement before may make it
_ELSEWHERE = re.compile(rb"^\s*(/\*!\d+\s*)?(USE\s|CREATE\s+(DATABASE|SCHEMA)|DROP\s+(DATABASE|SCHEMA))", re.I | re.M)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is run, and on what.

    Attributes:
        script: file of the user's own SQL; None for sysbench.
        statements: of the script.
        tables, size: of sysbench: how many tables of how many rows.
        threads: concurrent connections.
        seconds: that the default takes; it says how many transactions a run has.
        events: transactions of a run; 0 to find out.
        reset: how each run finds the same data on a server of the user's: none, copy or dump.
        writes: the user's own SQL may write to the database as it is.
        dump: file of SQL that the data come from; empty for none.
    """

    script: Path | None = None
    statements: tuple[str, ...] = ()
    tables: int = 4
    size: int = 10000
    threads: int = 4
    seconds: float = 3.0
    events: int = 0
    reset: str = ""
    writes: bool = False
    dump: str = ""

    def way(self, workload: str) -> str:
        """Return how the data are reset before a run of a workload."""
        return self.reset or ("copy" if self.script is None and workload in _WRITES else "none")


def read_script(text: str) -> tuple[Path, tuple[str, ...]]:
    """Return the path and the statements of a file of SQL.

    Raises:
        ConfigError: it cannot be read, or has none.
    """
    path = Path(text).expanduser().absolute()
    try:
        statements = mariadb_clients.split_statements(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read the load {text!r}: {why}; write -O load=FILE.sql") from None
    if not statements:
        raise ConfigError(f"the load {text!r} has no statements")
    return path, tuple(statements)


def checked_dump(text: str) -> str:
    """Return the path of a dump that writes into the database it is loaded into, and into no other one.

    Raises:
        ConfigError: it cannot be read, or names a database.
    """
    path = Path(text).expanduser().absolute()
    try:
        with path.open("rb") as file:
            named = any(_ELSEWHERE.match(line) for line in file)
    except OSError as error:
        raise ConfigError(f"cannot read the dump {text!r}: {error.strerror}") from None
    if named:
        raise ConfigError(
            f"the dump {text!r} names a database (USE or CREATE DATABASE), which it would write to: make it with "
            "'mariadb-dump DATABASE', without --databases"
        )
    return str(path)


def new_name() -> str:
    """Draw the name of a database of ours, which no server has."""
    return f"tunewright_run_{uuid.uuid4().hex[:10]}"


# -- data ---------------------------------------------------------------------------------------------------------


def fill(address: Address, work: Work, seed: int) -> None:
    """Make sysbench's tables anew in a database, which is there."""
    with connected(address) as ask:
        for number in range(1, work.tables + 1):
            ask(f"DROP TABLE IF EXISTS `sbtest{number}`")
    _sysbench(address, work, "read-write", seed, ["prepare"])


def filled(address: Address, work: Work) -> bool:
    """Whether a database has sysbench's tables with these numbers of rows."""
    with connected(address) as ask:
        there = {
            str(row[0])
            for row in ask("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()")
        }
        names = {f"sbtest{number}" for number in range(1, work.tables + 1)}
        return names <= there and all(ask(f"SELECT COUNT(*) FROM `{n}`")[0][0] == work.size for n in sorted(names))


def has_database(ask: Statements, name: str) -> bool:
    """Whether a server has a database."""
    return bool(ask("SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", name))


def size_bytes(ask: Statements, name: str) -> int:
    """Return about how much the tables of a database take."""
    query = "SELECT SUM(DATA_LENGTH + INDEX_LENGTH) FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
    return int(ask(query, name)[0][0] or 0)


def drop(ask: Statements, name: str) -> None:
    """Drop a database of ours."""
    if name.startswith("tunewright_"):
        ask(f"DROP DATABASE IF EXISTS `{name}`")


def uncopied(ask: Statements, database: str) -> str:
    """Return what in a database cannot be copied table by table; "" where all can."""
    found = {
        "views": "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE <> 'BASE TABLE'",
        "foreign keys": "SELECT 1 FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = %s",
        "triggers": "SELECT 1 FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = %s",
        "routines": "SELECT 1 FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s",
        "generated columns": "SELECT 1 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s"
        " AND EXTRA LIKE '%%GENERATED%%'",
    }
    return ", ".join(what for what, query in found.items() if ask(f"{query} LIMIT 1", database))


def copy(address: Address, source: str, name: str) -> None:
    """Make a database of ours anew as a copy of another one's tables.

    Raises:
        TargetError: it has what cannot be copied so.
    """
    with connected(address.at("")) as ask:
        if what := uncopied(ask, source):
            raise TargetError(f"database {source} has {what}, which -O reset=copy does not copy: take -O reset=dump")
        _create(ask, source, name)
        rows = ask("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s ORDER BY 1", source)
        for (table,) in rows:
            quoted = str(table).replace("`", "``")
            ask(f"CREATE TABLE `{name}`.`{quoted}` LIKE `{source}`.`{quoted}`")
            ask(f"INSERT INTO `{name}`.`{quoted}` SELECT * FROM `{source}`.`{quoted}`")
            ask(f"ANALYZE TABLE `{name}`.`{quoted}`")


def _create(ask: Statements, source: str, name: str) -> None:
    drop(ask, name)
    columns = "DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME"
    rows = ask(f"SELECT {columns} FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", source)
    signs = f" CHARACTER SET {rows[0][0]} COLLATE {rows[0][1]}" if rows else ""
    ask(f"CREATE DATABASE `{name}`{signs}")


def dump(address: Address, source: str, path: Path) -> None:
    """Write a database into a file that only we can read.

    Raises:
        TargetError: it cannot be dumped; the message is the program's own.
    """
    unfinished = path.with_suffix(".part")
    words = ["--single-transaction", "--routines", "--triggers", "--skip-comments", source]
    with (
        secret_file(client_options(address)) as options,
        open(unfinished, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as file,
    ):
        tool = program("mariadb-dump", "mysqldump")
        done = subprocess.run([tool, f"--defaults-file={options}", *words], stdout=file, stderr=subprocess.PIPE)
    if done.returncode:
        unfinished.unlink()
        raise TargetError(f"cannot dump database {source}: {_last(done.stderr)}")
    os.replace(unfinished, path)


def load_dump(address: Address, source: str, name: str, path: Path) -> None:
    """Make a database of ours anew from a dump.

    Raises:
        TargetError: it cannot be loaded; the message is the program's own.
    """
    with connected(address.at("")) as ask:
        _create(ask, source, name)
    with secret_file(client_options(address)) as options, path.open("rb") as file:
        words = [program("mariadb", "mysql"), f"--defaults-file={options}", "--batch", name]
        done = subprocess.run(words, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        raise TargetError(f"cannot load the dump {path.name}: {_last(done.stderr)}")


def _last(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return (lines or ["it said nothing"])[-1][:300]


# -- running ------------------------------------------------------------------------------------------------------


def writes(work: Work) -> str:
    """Return the first statement of the user's own SQL that may write; "" where all only read."""
    return next((s for s in work.statements if not _READS.match(s) or _SWITCHES.search(s)), "")


def check(address: Address, work: Work) -> None:
    """See that the user's own SQL may run in the database itself: it only reads, also when it is tried.

    Raises:
        TargetError: it writes, or fails.
    """
    if work.script is None or work.way(OWN) != "none" or work.writes:
        return
    refusal = (
        f"{work.script.name} writes to database {address.database} ({{}}), so no two runs would see the same data: "
        "give each run a copy with -O reset=copy or -O reset=dump, or let it write there with -O writes=yes"
    )
    if statement := writes(work):
        raise TargetError(refusal.format(" ".join(statement.split())[:60]))
    with connected(address) as ask:
        ask("SET SESSION TRANSACTION READ ONLY")
        try:
            ask.script(list(work.statements))
        except TargetError as error:
            if "READ ONLY" in str(error):
                raise TargetError(refusal.format(str(error))) from None
            raise TargetError(f"{work.script.name} fails: {error}") from None


def faults(ask: Statements, work: Work, database: str) -> list[str]:
    """Return why statements of the user's own SQL cannot run: their syntax, tables and rights, with file and line.

    Each is prepared by the server, which executes nothing: what is changed could not be rolled back in all engines.
    """
    assert work.script is not None
    ask(f"USE `{database.replace('`', '``')}`")
    makes = any(re.match(r"(CREATE|ALTER|RENAME)\b", text, re.IGNORECASE) for text in work.statements)
    text, at = work.script.read_text(encoding="utf-8"), 0
    for statement in work.statements:
        found = text.find(statement[:40].split("\n")[0], at)
        at = at if found < 0 else found
        try:
            ask("PREPARE tunewright FROM %s", statement)
            ask("DEALLOCATE PREPARE tunewright")
        except TargetError as error:
            said = str(error)
            if _NOT_PREPARED.search(said) or (makes and _NOT_THERE.search(said)):
                continue
            line = text.count("\n", 0, at) + 1
            return [f"The load has to work: {work.script}, the statement on line {line}: {said}"]
    return []


def run(
    address: Address,
    work: Work,
    workload: str,
    seed: int,
    *,
    events: int,
    warm: bool,
    budget: Budget | None = None,
) -> dict[str, float]:
    """Run a fixed number of transactions.

    Args:
        address: of the server and database.
        work: what is run.
        workload: one of ``WORKLOADS``, or ``OWN``.
        seed: of sysbench.
        events: transactions of all connections together.
        warm: whether a quarter as many run before.
        budget: that is told how sysbench goes; None where nobody watches.

    Returns:
        The metrics of :mod:`tunewright.envs.loads.sysbench`; a pass over the user's SQL counts as a transaction.
    """
    before = max(work.threads, events // 4) if warm else 0
    if work.script is not None:
        statements = list(work.statements)
        if before:
            mariadb_clients.run_clients(address, statements, clients=work.threads, passes=before)
        return mariadb_clients.run_clients(address, statements, clients=work.threads, passes=events)
    if before:
        _sysbench(address, work, workload, seed, [f"--events={before}", "--time=0", "run"])
    os.sync()
    watching = _progress.reporter("sysbench", budget)
    reports = [] if watching is None else ["--report-interval=1"]
    words = [f"--events={events}", "--time=0", "--histogram", *reports, "run"]
    text = _sysbench(address, work, workload, seed, words, watching)
    return sysbench.parse(text, Path())


def first_events(work: Work) -> int:
    """Return how many transactions are run to see how fast the load is."""
    return work.threads * (_FIRST if work.script is None else _FIRST_OWN)


def calibrated(work: Work, tps: float) -> int:
    """Return how many transactions the default does in the time aimed at."""
    return work.events or max(_LEAST * work.threads, round(tps * work.seconds))


def _sysbench(
    address: Address,
    work: Work,
    workload: str,
    seed: int,
    more: list[str],
    watching: _progress.Reporter | None = None,
) -> str:
    where = {"host": address.host, "port": str(address.port)}
    if address.socket:
        where = {"socket": address.socket}
    words = [f"oltp_{workload.replace('-', '_')}", "--db-driver=mysql", f"--mysql-user={address.user}"]
    words += [f"--mysql-db={address.database}", f"--tables={work.tables}", f"--table-size={work.size}"]
    words += [f"--threads={work.threads}", f"--rand-seed={seed % (2**31 - 1) + 1}"]
    if address.ssl_ca:
        words += ["--mysql-ssl=on", f"--mysql-ssl-ca={address.ssl_ca}"]
    words += [f"--mysql-{name}={value}" for name, value in where.items()]
    # sysbench's file of options knows no quotes within quotes; the environment only we can read
    environment = {**os.environ, "MYSQL_PWD": address.password}
    done = _progress.run([program("sysbench"), *words, *more], watching, env=environment, told_on="stdout")
    if done.returncode:
        lines = [x for x in (done.stdout + done.stderr).splitlines() if x.startswith("FATAL: ")]
        told = [x.removeprefix("FATAL: ") for x in lines]
        # the server's own sentence, where there is one
        best = next((x for x in told if re.match(r"(mysql_|error \d|unable to)", x)), (told or ["it said nothing"])[0])
        raise TargetError(f"sysbench exited with code {done.returncode}: {best[:300]}")
    return done.stdout
