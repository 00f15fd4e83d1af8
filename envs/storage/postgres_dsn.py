"""How the target reaches a PostgreSQL server by its DSN without showing the password to anybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from tunewright.errors import ConfigError, TargetError
from tunewright.store.dsn import HOW_TO_WRITE, is_secret, pairs_of, read_dsn


def chosen(given: str, known: str) -> tuple[str, str]:
    """Return the DSN to use, and its public part where it comes from the environment.

    Args:
        given: DSN in the spec or the options; a stored session has it without its password.
        known: the environment's.
    """
    public = read_dsn(known).public
    return (known, public) if given in ("", public) else (given, "")


def checked(dsn: str) -> str:
    """Return a DSN that can be read in one way only; what a driver says of another one would quote its password.

    Raises:
        ConfigError: it cannot; its text is not shown.
    """
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(dsn)
    except (Error, ValueError):  # ValueError: percent-encoded bytes that are no text
        pass
    else:
        if not dsn or read_dsn(dsn).clear:
            return dsn
    _check_keywords(dsn)
    raise ConfigError(
        "cannot read the connection string for target postgres: write host=HOST user=USER password='PASSWORD' "
        f"(with \\' for a quote and \\\\ for a backslash), or {HOW_TO_WRITE}"
    )


def _check_keywords(dsn: str) -> None:
    """Name a keyword that libpq does not know; what stands behind a password may be a piece of it, and is not shown.

    Raises:
        ConfigError: there is one.
    """
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for name, *_ in pairs_of(dsn) or ():
        if is_secret(name):
            return
        if name not in known:
            near = "".join(f". Did you mean {match!r}?" for match in get_close_matches(name, known, 1))
            raise ConfigError(f"cannot read the connection string for target postgres: no keyword named {name!r}{near}")


def password_hint(said: str, dsn: str) -> str:
    """Return what to do where a server wants a password that the DSN does not have; "" for other errors."""
    from psycopg.conninfo import conninfo_to_dict

    if "password" not in said or conninfo_to_dict(dsn).get("password"):
        return ""
    return (
        ". Passwords are not stored with a session: set PGPASSWORD, add a line to a pgpass file (~/.pgpass or "
        "PGPASSFILE), or give the connection string again, with its password (resume, rollback: --target "
        "'postgres:host=... password=...'; apply: --to or --target)"
    )


@contextmanager
def connected(dsn: str) -> Iterator[Any]:
    """Connect to a server; every statement is a transaction of its own.

    Raises:
        TargetError: it cannot be reached, or does not let this role in.
    """
    import psycopg

    try:
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=10)
    except psycopg.Error as error:
        said = str(error).strip().splitlines()[0]
        raise TargetError(f"cannot connect to PostgreSQL: {said}{password_hint(said, dsn)}") from None
    with connection:
        yield connection


def place(dsn: str) -> tuple[Any, ...]:
    """Return what tells servers apart; where a DSN says nothing, the environment does."""
    from psycopg.conninfo import conninfo_to_dict

    known = conninfo_to_dict(dsn)
    return tuple(known.get(name) for name in ("host", "hostaddr", "port", "service"))


def argument_and_environment(dsn: str, database: str) -> tuple[str, dict[str, str]]:
    """Return how to give a DSN to one of PostgreSQL's programs.

    Args:
        dsn: connection string.
        database: where it names none.

    Returns:
        The argument, which everybody on the machine can read, and what belongs into the environment.
    """
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    known = {k: str(v) for k, v in conninfo_to_dict(dsn).items()}
    public = {k: v for k, v in known.items() if not is_secret(k)}
    return make_conninfo(**{"dbname": database, **public}), (
        {"PGPASSWORD": known["password"]} if "password" in known else {}
    )
