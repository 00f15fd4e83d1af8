"""Databases that are ours: copies of the user's, made by name before a run and dropped after it.

Names are drawn when a target is opened and written down with its snapshot before the first database is made, so that
recovery knows them. The user's database is only ever read.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs.storage.postgres_bench import run_file, said
from tunewright.envs.storage.postgres_dsn import argument_and_environment, connected
from tunewright.envs.storage.postgres_programs import program
from tunewright.errors import TargetError
from tunewright.sessions import originals

_ENDING_S = 30.0  # for a CREATE DATABASE whose client was killed
_FILE_COPY = 150000  # server version from which CREATE DATABASE can copy files and need not log every page
_LARGE_BYTES = 2**28  # from which that is worth its two checkpoints


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Names of databases of ours.

    Attributes:
        clean: what every run is copied from.
        run: what a run changes.
    """

    clean: str
    run: str


def names() -> Copies:
    """Draw names that no server has."""
    drawn = uuid.uuid4().hex[:10]
    return Copies(clean=f"tunewright_clean_{drawn}", run=f"tunewright_run_{drawn}")


def exists(connection: Any, name: str) -> bool:
    """Whether a server has a database."""
    return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None


def tell_of_what_stays(dsn: str, name: str) -> None:
    """Say that a database that was kept is still on the server, where it is."""
    with connected(dsn) as connection:
        if exists(connection, name):
            originals.notice(
                f"the benchmark's database {name} stays on the server, for further sessions; to remove it: DROP"
                f" DATABASE {name}"
            )


def at(dsn: str, database: str) -> str:
    """Return the connection string of another database of the same server."""
    from psycopg.conninfo import make_conninfo

    return make_conninfo(dsn, dbname=database)


def create(dsn: str, name: str, template: str) -> None:
    """Make a database as a copy of another one.

    Raises:
        TargetError: it cannot be made; the message says what to do where others are connected to the other one.
    """
    import psycopg
    from psycopg import sql

    with connected(at(dsn, _elsewhere(dsn, template))) as connection:
        try:
            quick = connection.info.server_version >= _FILE_COPY and size_bytes(connection, template) > _LARGE_BYTES
            text = sql.SQL(f"CREATE DATABASE {{}} TEMPLATE {{}}{' STRATEGY FILE_COPY' if quick else ''}")
            connection.execute(text.format(sql.Identifier(name), sql.Identifier(template)))
        except psycopg.errors.ObjectInUse:
            raise TargetError(
                f"database {template} cannot be copied by CREATE DATABASE while others are connected to it: end their "
                "connections, or take -O reset=dump, which reads it like any other client"
            ) from None
        except psycopg.Error as error:
            raise TargetError(f"cannot copy database {template}: {str(error).strip().splitlines()[0]}") from None


def _elsewhere(dsn: str, database: str) -> str:
    """Return a database to connect to while another one is copied or dropped."""
    from psycopg.conninfo import conninfo_to_dict

    given = str(conninfo_to_dict(dsn).get("dbname") or "postgres")
    return given if given != database else "template1" if database == "postgres" else "postgres"


def copy_by_dump(dsn: str, name: str, source: str, dump: str) -> None:
    """Make a database from a dump.

    Args:
        dsn: connection string of the server.
        name: of the new database.
        source: database that is dumped; it may be in use.
        dump: file of pg_dump to take instead: in its custom, directory or tar format, or plain SQL.

    Raises:
        TargetError: it cannot be dumped or restored.
    """
    create(dsn, name, "template0")
    to = at(dsn, name)
    with connected(to) as connection:
        major = connection.info.server_version // 10000
    if dump and _plain(Path(dump)):
        run_file(to, Path(dump))
    else:
        public, secret = argument_and_environment(to, name)
        words = ["--no-owner", "--no-privileges", "--no-comments", "--exit-on-error", "-d", public]
        into = [str(program("pg_restore", major)), *words]
        if dump:
            _piped([], [*into, dump], secret)
        else:
            out = argument_and_environment(at(dsn, source), source)[0]
            _piped([str(program("pg_dump", major)), "-Fc", "-Z0", out], into, secret)
    with connected(to) as connection:
        connection.execute("VACUUM (ANALYZE)")


def _plain(path: Path) -> bool:
    if path.is_dir():
        return False
    with path.open("rb") as file:
        head = file.read(300)
    return not head.startswith(b"PGDMP") and b"\0" not in head


def _piped(first: Sequence[str], second: Sequence[str], secret: dict[str, str]) -> None:
    """Run one or two programs, the first's output into the second."""
    environment = {**os.environ, **secret}
    if not first:
        done = subprocess.run(second, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise TargetError(f"{Path(second[0]).name} failed: {said(done.stderr)}")
        return
    with (
        subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as dumping,
        subprocess.Popen(second, stdin=dumping.stdout, stderr=subprocess.PIPE, text=True, env=environment) as restoring,
    ):
        assert dumping.stdout is not None
        dumping.stdout.close()  # so that the first hears when the second ends
        errors = restoring.communicate()[1]
        words = dumping.stderr.read() if dumping.stderr else ""
    for process, text in ((dumping, words), (restoring, errors)):
        if process.returncode:
            raise TargetError(f"{Path(str(process.args[0])).name} failed: {said(text)}")  # type: ignore[index]


def copy_settings(dsn: str, source: str, target: str) -> None:
    """Give a copy the settings that ALTER DATABASE set for the original, which CREATE DATABASE does not copy.

    Raises:
        TargetError: one of them may not be set by this role.
    """
    import psycopg
    from psycopg import sql

    with connected(dsn) as connection:
        rows = connection.execute(
            "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = 0"
            " AND setdatabase = (SELECT oid FROM pg_database WHERE datname = %s)",
            (source,),
        ).fetchall()
        for (entry,) in rows:
            name, _, value = str(entry).partition("=")
            try:  # FROM CURRENT, since lists such as search_path are quoted in a way of their own
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
                text = sql.SQL("ALTER DATABASE {} SET {} FROM CURRENT")
                connection.execute(text.format(sql.Identifier(target), sql.Identifier(name)))
            except psycopg.Error as error:
                why = str(error).strip().splitlines()[0]
                raise TargetError(f"cannot give the copy of database {source} its setting {name}: {why}") from None


def drop(dsn: str, names: Iterable[str]) -> None:
    """Drop databases that we made, also where the client that was making one was killed in the middle.

    Raises:
        TargetError: one stays.
    """
    import psycopg
    from psycopg import sql

    for name in names:
        with connected(at(dsn, _elsewhere(dsn, name))) as connection:
            try:
                _end_making(connection, name)
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            except psycopg.Error as error:
                raise TargetError(f"cannot drop database {name}: {str(error).strip().splitlines()[0]}") from None


def _end_making(connection: Any, name: str) -> None:
    """End a CREATE DATABASE that goes on without its client: the database would appear later and stay."""
    end = time.monotonic() + _ENDING_S
    while connection.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND usename = current_user AND state = 'active' AND query LIKE %s",
        (f'CREATE DATABASE "{name}"%',),
    ).fetchone()[0]:
        if time.monotonic() > end:
            raise TargetError(f"CREATE DATABASE {name} does not end")
        time.sleep(0.1)


def size_bytes(connection: Any, name: str) -> int:
    """Return the size of a database."""
    return int(connection.execute("SELECT pg_database_size(%s)", (name,)).fetchone()[0])
