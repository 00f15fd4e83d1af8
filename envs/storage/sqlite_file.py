"""Settings that lie in a SQLite database file of the user's, changed with every row keeping its rowid.

``VACUUM`` renumbers the rows of tables without an ``INTEGER PRIMARY KEY``, and whatever refers to these rows by number
then points at others. Here the file is rebuilt with ``VACUUM INTO``, which copies the numbers, the copy is compared,
and SQLite's backup, one transaction, brings it into the file.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tunewright.errors import TargetError

_WAIT_S = 5.0  # for other users of the database


def _open(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, isolation_level=None, timeout=_WAIT_S))


def read_settings(path: Path) -> dict[str, Any]:
    """Return ``journal_mode``, ``page_size`` and ``auto_vacuum`` of a database file."""
    with _open(path) as db:
        vacuum = ("NONE", "FULL", "INCREMENTAL")[db.execute("PRAGMA auto_vacuum").fetchone()[0]]
        return {
            "journal_mode": db.execute("PRAGMA journal_mode").fetchone()[0].upper(),
            "page_size": db.execute("PRAGMA page_size").fetchone()[0],
            "auto_vacuum": vacuum,
        }


def write_settings(path: Path, wanted: Mapping[str, Any]) -> None:
    """Give a database file the settings that :func:`read_settings` returns.

    Raises:
        TargetError: rows would be renumbered, or there is no room for a copy; the file is as it was.
        sqlite3.Error: SQLite refuses, for example since somebody else uses the database.
    """
    now = read_settings(path)
    with _open(path) as db:
        if (now["page_size"], now["auto_vacuum"]) != (wanted["page_size"], wanted["auto_vacuum"]):
            db.execute("PRAGMA journal_mode = DELETE")  # a WAL database keeps its page size
            try:
                _rebuild(db, path, wanted)
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute(f"PRAGMA journal_mode = {now['journal_mode']}")
                raise
        db.execute(f"PRAGMA journal_mode = {wanted['journal_mode']}")


def make_empty(path: Path) -> None:
    """Make a file that was empty, and in which there is nothing but settings, empty again."""
    with _open(path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        with _alone(db):
            db.execute("BEGIN EXCLUSIVE")
            filled = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            numbers = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")]
            if not filled and not any(numbers):
                os.truncate(path, 0)
            db.execute("ROLLBACK")


def _rebuild(db: sqlite3.Connection, path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        with _alone(db), tempfile.TemporaryDirectory(prefix="tunewright-") as folder:
            copy = Path(folder) / "copy.db"
            db.execute(f"PRAGMA page_size = {int(wanted['page_size'])}")
            db.execute(f"PRAGMA auto_vacuum = {wanted['auto_vacuum']}")
            db.execute("VACUUM INTO ?", (str(copy),))
            with _open(copy) as rebuilt:
                if table := _renumbered(db, rebuilt):
                    raise TargetError(
                        f"{path}: page_size and auto_vacuum cannot be changed, since the rows of table {table!r} would "
                        "get other rowids; give it an INTEGER PRIMARY KEY, or set the other settings by hand"
                    )
                rebuilt.backup(db)
    except OSError as error:
        raise TargetError(f"cannot copy {path} to {tempfile.gettempdir()}: {error.strerror or error}") from None


@contextmanager
def _alone(db: sqlite3.Connection) -> Iterator[None]:
    """Keep every other connection out, between transactions too: what it wrote meanwhile would be lost."""
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("BEGIN EXCLUSIVE")
    db.execute("COMMIT")
    try:
        yield
    finally:
        db.execute("PRAGMA locking_mode = NORMAL")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the lock goes with the next read


def _renumbered(db: sqlite3.Connection, copy: sqlite3.Connection) -> str:
    """Return a table whose rows have other rowids in the copy, or ""."""
    # a virtual table, which has no root page, has no rows of its own
    tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0").fetchall()
    for (table,) in tables:
        if (name := _rowid_name(db, table)) is None:
            continue
        query = f"SELECT {name} FROM {_quoted(table)} ORDER BY {name}"
        rows = zip(db.execute(query), copy.execute(query), strict=False)
        counts = [c.execute(f"SELECT count(*) FROM {_quoted(table)}").fetchone() for c in (db, copy)]
        if counts[0] != counts[1] or any(row != copied for row, copied in rows):
            return str(table)
    return ""


def _rowid_name(db: sqlite3.Connection, table: str) -> str | None:
    """Return a name of a table's rowid that no column has; None where there is none, so nothing can refer to it."""
    columns = {str(column[1]).lower() for column in db.execute(f"PRAGMA table_xinfo({_quoted(table)})")}
    free = [name for name in ("rowid", "_rowid_", "oid") if name not in columns]
    if not free:
        return None
    try:
        db.execute(f"SELECT {free[0]} FROM {_quoted(table)} LIMIT 0")
    except sqlite3.OperationalError:  # a table WITHOUT ROWID
        return None
    return free[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
