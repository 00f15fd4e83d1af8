"""Where settings of a PostgreSQL server are set, what stands there, and whose it is.

A session may change postgresql.auto.conf (ALTER SYSTEM), the settings of one database or those of one role. What it
sets is written down beside its snapshot before it is set. A value that is neither the original nor one of these was
set by somebody else meanwhile; it is left, or set again, at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, LiteralString

from tunewright.envs.storage.postgres_options import ScopeKind

_NOTE = "settings.json"
# sources of pg_settings that win over a scope, by the section "Setting Parameters" of PostgreSQL's manual
_STRONGER = {
    "system": {"global", "database", "user", "database user", "client", "environment variable", "command line"},
    "database": {"user", "database user", "client", "environment variable"},
    "role": {"database user", "client", "environment variable"},
}
_PER_SESSION = {"user", "superuser", "backend", "superuser-backend"}  # contexts that a database or a role can set
Values = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Where settings are set.

    Attributes:
        kind: ``system``, ``database`` or ``role``.
        name: of the database or the role.
    """

    kind: ScopeKind = "system"
    name: str = ""

    @property
    def head(self) -> LiteralString:
        """Return how a statement begins that sets or resets something here."""
        heads: dict[str, LiteralString] = {"database": "ALTER DATABASE {}", "role": "ALTER ROLE {}"}
        return heads.get(self.kind, "ALTER SYSTEM")

    def document(self) -> dict[str, str]:
        """Return it JSON-able."""
        return asdict(self)


def read_scope(document: Mapping[str, str] | None) -> Scope:
    """Return a scope of a snapshot; those of earlier versions have none."""
    return Scope(**document) if document else Scope()  # type: ignore[arg-type]


def statement(scope: Scope, name: str, value: str | None) -> Any:
    """Return the statement that sets a setting, or resets it where the value is None."""
    from psycopg import sql

    head = sql.SQL(scope.head).format(*([sql.Identifier(scope.name)] if scope.kind != "system" else []))
    if value is None:
        return sql.SQL("{} RESET {}").format(head, sql.Identifier(name))
    return sql.SQL("{} SET {} = {}").format(head, sql.Identifier(name), sql.Literal(value))


def present(connection: Any, scope: Scope, names: Iterable[str]) -> dict[str, str]:
    """Return what is set in a scope now of the named settings; those that are not set there are left out."""
    if scope.kind == "system":
        rows = connection.execute(
            "SELECT name, setting FROM pg_file_settings "
            "WHERE sourcefile LIKE '%%postgresql.auto.conf' AND name = ANY(%s)",
            (list(names),),
        ).fetchall()
        return dict(rows)
    where = {
        "database": "setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = %s)",
        "role": "setdatabase = 0 AND setrole = (SELECT oid FROM pg_roles WHERE rolname = %s)",
    }[scope.kind]
    rows = connection.execute(
        f"SELECT unnest(setconfig) FROM pg_db_role_setting WHERE {where}", (scope.name,)
    ).fetchall()
    found = dict(str(row[0]).split("=", 1) for row in rows)
    return {name: found[name] for name in names if name in found}


def usable(rows: Sequence[Mapping[str, Any]], kind: ScopeKind, *, restart: bool) -> tuple[list[Any], dict[str, str]]:
    """Split rows of pg_settings into those that can be tuned in a scope, and why not for the others, by name."""
    able, left = [], {}
    for row in rows:
        name, context, source = row["name"], row["context"], row["source"]
        if kind != "system" and context not in _PER_SESSION:
            left[name] = f"only the whole server has it (-O scope=system), not one {kind}"
        elif context == "postmaster" and not restart:
            left[name] = "it needs a restart; give the command that does it, such as "
            left[name] += "-O restart='systemctl restart postgresql'"
        elif source in _STRONGER[kind]:
            left[name] = f"{_WORDS[source]} sets it, which wins over scope={kind}"
        else:
            able.append(row)
    return able, left


_WORDS = {
    "global": "ALTER ROLE ALL",
    "database": "ALTER DATABASE",
    "user": "ALTER ROLE",
    "database user": "ALTER ROLE ... IN DATABASE",
    "client": "the connection string",
    "environment variable": "PGOPTIONS",
    "command line": "the server's command line",
}


# -- whose a value is ---------------------------------------------------------------------------------------------


def begin(folder: Path, originals: Values) -> None:
    """Write down what stands in a scope before anything is set."""
    _write(folder, {"original": dict(originals), "last": dict(originals), "next": dict(originals), "theirs": {}})


def setting(folder: Path | None, now: Mapping[str, str], wanted: Values) -> None:
    """Write down what is about to be set; what somebody else has set meanwhile is remembered as theirs.

    Args:
        folder: of the snapshot; None, or one that is not here, where nobody keeps notes.
        now: what stands there of the settings that are set.
        wanted: what will.
    """
    if folder is None or (note := _read(folder)) is None:
        return
    note["theirs"] |= {name: value for name, value in _foreign(note, now).items() if name in wanted}
    for name, value in wanted.items():
        note["last"][name], note["next"][name] = now.get(name), value
    _write(folder, note)


def theirs(folder: Path | None, now: Mapping[str, str]) -> dict[str, str | None]:
    """Return the values that somebody else set while we did; None for one that they reset."""
    note = None if folder is None else _read(folder)
    return {} if note is None else {**note["theirs"], **_foreign(note, now)}


def _foreign(note: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, str | None]:
    return {
        name: now.get(name)
        for name, original in note["original"].items()
        if now.get(name) not in (original, note["last"][name], note["next"][name])
    }


def sentence(name: str, value: str | None) -> str:
    """Say that a setting was somebody else's."""
    done = "reset" if value is None else f"set to {value}"
    return f"{name} was {done} by somebody else while it was being tuned, and is left so"


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / _NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _write(folder: Path, note: Mapping[str, Any]) -> None:
    path = folder / _NOTE
    unfinished = path.with_suffix(".part")
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
