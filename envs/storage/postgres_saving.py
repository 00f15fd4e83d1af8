"""What a session writes down of a foreign PostgreSQL server before it changes anything, and putting that back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.envs.storage import postgres_copies, postgres_scope
from tunewright.envs.storage.postgres_dsn import connected
from tunewright.envs.storage.postgres_foreign import alter, bring_up, identity, save_auto_conf
from tunewright.envs.storage.postgres_scope import Scope
from tunewright.errors import ConfigError
from tunewright.sessions import originals


def save(
    dsn: str, folder: Path, scope: Scope, names: Iterable[str], *, temporary: bool, databases: Sequence[str] = ()
) -> dict[str, Any]:
    """Note the settings that stand in a scope, and copy the file that those of the whole server are kept in.

    Args:
        dsn: of the server.
        folder: for copies and notes, kept until all is put back.
        scope: where settings will be set.
        names: of the settings.
        temporary: the scope is a database of ours, which goes as a whole.
        databases: names of those that will be made, to be dropped.
    """
    with connected(dsn) as connection:
        there = {} if temporary else postgres_scope.present(connection, scope, names)
        settings: dict[str, str | None] = {} if temporary else {**dict.fromkeys(names), **there}
        postgres_scope.begin(folder, settings)
        return {
            "settings": settings,
            "scope": scope.document(),
            "folder": str(folder),
            "file": save_auto_conf(connection, folder) if scope.kind == "system" else None,
            "identity": identity(connection),
            "databases": list(databases),
        }


def put_back(dsn: str, restart: Sequence[str], saved: Mapping[str, Any]) -> None:
    """Put back what :func:`save` found, drop what was made, and bring the server up again if it is down.

    What somebody else set meanwhile is left as it is, and said.

    Raises:
        ConfigError: it is another server.
        TunewrightError: something could not be put back.
    """
    bring_up(dsn, restart, saved.get("file"))
    scope, settings = postgres_scope.read_scope(saved.get("scope")), dict(saved["settings"])
    folder = Path(saved["folder"]) if saved.get("folder") else None
    with connected(dsn) as connection:
        here = identity(connection)
        if saved.get("identity", here) != here:
            raise ConfigError(
                f"this is not the PostgreSQL server that was changed (it is {here}, not {saved['identity']}); "
                "say which one is: --target 'postgres:host=... port=...'"
            )
        if scope.kind == "database" and not postgres_copies.exists(connection, scope.name):
            settings = {}
        now = postgres_scope.present(connection, scope, settings) if settings else {}
        theirs = postgres_scope.theirs(folder, now) if settings else {}
    if settings:
        alter(dsn, restart, {**settings, **theirs}, scope=scope, folder=folder)
    for name, value in theirs.items():
        originals.notice(postgres_scope.sentence(name, value))
    postgres_copies.drop(dsn, saved.get("databases", []))
