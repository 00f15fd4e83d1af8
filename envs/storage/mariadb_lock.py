"""The lock that keeps a second session away from a MariaDB or MySQL server of the user's."""

from __future__ import annotations

from typing import Any

from tunewright.envs.storage import postgres_foreign
from tunewright.envs.storage.mariadb_dsn import Address, Statements, connect, said
from tunewright.errors import HeldError, TargetError

_LOCK = "tunewright"
_LONG_S = 31536000  # the longest wait_timeout: a lock's connection says nothing for hours


class _Held:
    """A connection that holds the lock, as :class:`postgres_foreign.Guard` wants it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def closed(self) -> bool:
        return not self._connection.open

    def fileno(self) -> int:
        return int(self._connection._sock.fileno())

    def execute(self, text: str) -> None:
        """Run a statement, so that the driver notices a server that said goodbye."""
        self._connection.ping(reconnect=False)

    def close(self) -> None:
        self._connection.close()


class Guard(postgres_foreign.Guard):
    """A lock of GET_LOCK in a server, held by a connection that comes back after the restarts that tuning makes.

    Args:
        address: of the server.
        what: who holds it.
    """

    def __init__(self, address: Address, what: str) -> None:
        self._address = address
        super().__init__(address.place, what)

    def _take(self) -> _Held:
        import pymysql

        try:
            connection = connect(self._address, program_name=f"tunewright {self._what}"[:63])
        except pymysql.Error as error:
            raise TargetError(f"cannot connect to MariaDB to hold it: {said(error)}") from None
        try:
            ask = Statements(connection)
            ask(f"SET SESSION wait_timeout = {_LONG_S}")
            if ask("SELECT GET_LOCK(%s, 0)", _LOCK)[0][0] == 1:
                return _Held(connection)
            number = ask("SELECT IS_USED_LOCK(%s)", _LOCK)[0][0]
            rows = ask("SELECT USER, HOST FROM information_schema.PROCESSLIST WHERE ID = %s", number)
            who = (
                f"another session of tunewright (connection {number}{f' of {rows[0][0]}@{rows[0][1]}' if rows else ''})"
            )
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise HeldError(f"this MariaDB server is being changed by {who}; wait for it or stop it")
