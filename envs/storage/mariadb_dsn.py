"""How the target reaches a MariaDB or MySQL server by its address without showing the password to anybody.

An address is a URI: ``mariadb://USER:PASSWORD@HOST:PORT/DATABASE``, or with a Unix socket ``?socket=PATH``.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.store.dsn import read_dsn

HOW_TO_WRITE = (
    "write mariadb://USER:PASSWORD@HOST:PORT/DATABASE or mariadb://USER@localhost/DATABASE?socket=PATH, with the signs "
    "of the password percent-encoded (@ is %40, / is %2F), or leave the password to MYSQL_PWD"
)
_SCHEMES = ("mariadb", "mysql")
_PORT = 3306
_SOCKETS = ("/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")
_CONNECT_S, _NOBODY_THERE = 10, 2002  # the second is the number of the servers' own clients for it


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is, and who we are there.

    Attributes:
        user: of the server.
        password: empty where there is none; never shown.
        host, port: for TCP.
        socket: path of a Unix socket; empty for TCP.
        database: that statements are run in; empty for none.
        ssl_ca: file of certificates that the server's is checked against; empty for no TLS.
    """

    user: str
    password: str = ""
    host: str = "localhost"
    port: int = _PORT
    socket: str = ""
    database: str = ""
    ssl_ca: str = ""

    def __repr__(self) -> str:
        return f"Address({self.place}, user={self.user!r}, database={self.database!r})"

    @property
    def place(self) -> str:
        """Return what tells servers apart."""
        return self.socket or f"{self.host}:{self.port}"

    def at(self, database: str) -> Address:
        """Return the address of another database of the same server."""
        return replace(self, database=database)


def chosen(given: str, known: str) -> tuple[str, str]:
    """Return the address to use, and its public part where it comes from the environment.

    Args:
        given: in the spec or the options; a stored session has it without its password.
        known: the environment's.
    """
    public = read_dsn(known).public
    return (known, public) if given in ("", public) else (given, "")


def read_address(dsn: str) -> Address:
    """Read an address; the password may come from ``MYSQL_PWD``.

    Raises:
        ConfigError: it cannot be read; its text is not shown.
    """
    try:
        if not read_dsn(dsn).clear:
            raise ValueError
        parts = urlsplit(dsn)
        if parts.scheme not in _SCHEMES or not parts.netloc:
            raise ValueError
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        if unknown := set(options) - {"socket", "ssl_ca"}:
            raise ConfigError(f"an address has no option {sorted(unknown)[0][:40]!r}: socket and ssl_ca are known")
        port = parts.port
        user, password = unquote(parts.username or "", errors="strict"), unquote(parts.password or "", errors="strict")
    except ValueError:  # an error of the parser would quote the password
        raise ConfigError(f"cannot read the address for target mariadb: {HOW_TO_WRITE}") from None
    host, path = parts.hostname or "localhost", options.get("socket", "")
    if host == "localhost" and port is None and not path:  # as the servers' own clients do
        path = next((p for p in _SOCKETS if Path(p).exists()), "")
    return Address(
        user=user or os.environ.get("USER", "root"),
        password=password or os.environ.get("MYSQL_PWD", ""),
        host=host,
        port=port or _PORT,
        socket=path,
        database=unquote(parts.path.removeprefix("/")),
        ssl_ca=options.get("ssl_ca", ""),
    )


def connect(address: Address, **more: Any) -> Any:
    """Open a connection in which every statement is a transaction of its own.

    Raises:
        pymysql.Error: it cannot be opened.
    """
    try:
        import pymysql
    except ImportError:
        raise missing_extra("pymysql", "mariadb", "target 'mariadb'") from None
    where: dict[str, Any] = {"host": address.host, "port": address.port}
    if address.socket:
        where = {"unix_socket": address.socket, "defer_connect": True}
    if address.ssl_ca:
        where["ssl"] = {"ca": address.ssl_ca}
    options = {"connect_timeout": _CONNECT_S, "autocommit": True, "charset": "utf8mb4", **where, **more}
    connection: Any = pymysql.connect(
        user=address.user, password=address.password, database=address.database or None, **options
    )
    if address.socket:  # the driver would leave a socket open that nobody answers on
        there = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            there.settimeout(_CONNECT_S)
            there.connect(address.socket)
        except OSError as error:
            there.close()
            why = f"Can't connect through the socket {address.socket!r} ({error.strerror or error})"
            raise pymysql.OperationalError(_NOBODY_THERE, why) from None
        connection._secure = True  # nobody listens on a Unix socket, as the driver sees it, too
        connection.connect(there)
    return connection


@contextmanager
def connected(address: Address) -> Iterator[Any]:
    """Connect to a server.

    Yields:
        A function that runs a statement and returns its rows.

    Raises:
        TargetError: the server cannot be reached, or does not let this user in.
    """
    import pymysql

    try:
        connection = connect(address)
    except pymysql.Error as error:
        raise TargetError(f"cannot connect to MariaDB: {said(error)}{password_hint(error, address)}") from None
    with connection:
        yield Statements(connection)


class Statements:
    """Runs statements in one connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def __call__(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement; ``%s`` stands for a value.

        Raises:
            TargetError: the server refuses it; the message is the server's.
        """
        import pymysql

        try:
            with self.connection.cursor() as cursor:
                cursor.execute(text, values or None)
                return list(cursor.fetchall())
        except pymysql.Error as error:
            raise TargetError(said(error)) from None

    def script(self, statements: list[str]) -> None:
        """Run statements one after the other."""
        for text in statements:
            self(text)


def said(error: Exception) -> str:
    """Return the sentence in an error of the driver, without its number.

    >>> said(Exception(1045, "Access denied for user 'me'"))
    "Access denied for user 'me'"
    """
    text = str(error.args[-1]) if error.args else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]


def refused(error: Exception) -> bool:
    """Whether a server answered that it does not let this user in, so that it is up."""
    return bool(error.args) and error.args[0] in (1044, 1045, 1049, 1698)


def password_hint(error: Exception, address: Address) -> str:
    """Return what to do where a server wants a password that the address does not have; "" for other errors."""
    if not refused(error) or address.password:
        return ""
    return (
        ". Passwords are not stored with a session: set MYSQL_PWD, or give the address again, with its password "
        "(resume, rollback: --target 'mariadb://USER:PASSWORD@HOST/'; apply: --to or --target)"
    )


@contextmanager
def secret_file(lines: str) -> Iterator[str]:
    """A file that only we can read, for the options of a program that hold a password; its path."""
    with tempfile.TemporaryDirectory(prefix="tunewright-") as folder:
        path = Path(folder) / "options.cnf"
        with open(path, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(lines)
        yield str(path)


def client_options(address: Address) -> str:
    """Return a text for ``--defaults-file`` of the servers' own clients.

    Raises:
        ConfigError: the password has signs that such a file cannot hold.
    """
    lines = ["[client]", f"user={_quoted(address.user)}"]
    if address.password:
        lines.append(f"password={_quoted(address.password)}")
    if address.socket:
        lines.append(f"socket={_quoted(address.socket)}")
    else:
        lines += [f"host={_quoted(address.host)}", f"port={address.port}", "protocol=tcp"]
    if address.ssl_ca:
        lines.append(f"ssl-ca={_quoted(address.ssl_ca)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    if re.search(r"[\r\n\0]", text):
        raise ConfigError("a user, password or path with a line break cannot be given to the server's own clients")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
