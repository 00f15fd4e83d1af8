"""A PostgreSQL server of the user's: who it is, who changes it, and bringing it up again."""

from __future__ import annotations

import os
import select
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tunewright.envs.storage.postgres_dsn import password_hint, place
from tunewright.errors import HeldError, TargetError
from tunewright.measuring import hooks
from tunewright.sessions import originals

_COMING_UP_S = 5.0  # a server that was just restarted may not answer at once
_ADVISORY = 0x74756E6577726967  # "tunewrig": key of the advisory lock


class Guard:
    """An advisory lock in a server, held by a connection that comes back after the restarts that tuning makes."""

    def __init__(self, dsn: str, what: str) -> None:
        self._dsn, self._what, self._ended = dsn, what, threading.Event()
        self._connection: Any = self._take()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _take(self) -> Any:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        connection: Any

        # advisory locks belong to a database: all sessions meet in the one that every server has
        there: dict[str, Any] = {
            **conninfo_to_dict(self._dsn),
            "application_name": f"tunewright {self._what}"[:63],
            "connect_timeout": 10,
        }
        for name in ("postgres", there.get("dbname", "postgres")):
            try:
                connection = psycopg.connect(**{**there, "dbname": name}, autocommit=True)
                break
            except psycopg.Error:
                continue
        else:
            raise TargetError("cannot connect to PostgreSQL to hold it")
        try:
            if connection.execute("SELECT pg_try_advisory_lock(%s)", (_ADVISORY,)).fetchone()[0]:
                return connection
            holder = connection.execute(
                "SELECT application_name, client_addr FROM pg_stat_activity JOIN pg_locks USING (pid) "
                "WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND granted",
                (_ADVISORY >> 32, _ADVISORY & 0xFFFFFFFF),
            ).fetchone() or ("another session", None)
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise HeldError(
            f"this PostgreSQL server is being changed by {str(holder[0]).removeprefix('tunewright ')}"
            f"{f' from {holder[1]}' if holder[1] else ''}; wait for it or stop it"
        )

    def _keep(self) -> None:
        """Take the lock again whenever the server has come back; while nothing happens, nothing is sent to it."""
        while not self._ended.wait(0.2):
            with suppress(Exception):  # down for the moment
                if self._connection.closed:
                    self._connection = self._take()
                elif select.select([self._connection.fileno()], [], [], 0)[0]:  # the server has said goodbye
                    self._connection.execute("SELECT 1")

    def end(self) -> None:
        """Give the lock back."""
        self._ended.set()
        self._thread.join()
        with suppress(Exception):
            self._connection.close()


def revive(argument: str, options: Mapping[str, str], state: Mapping[str, Any]) -> None:
    """Bring a server up that a killed session left down, so that the target can be opened.

    Args:
        argument: of the target spec.
        options: of the target.
        state: the session's snapshot.
    """
    given = argument or options.get("dsn") or os.environ.get("TUNEWRIGHT_POSTGRES_DSN", "")
    dsn = str(state.get("server") or given)
    if given and place(given) == place(dsn):  # it may have the password
        dsn = given
    if dsn and "settings" in state:
        bring_up(dsn, shlex.split(options.get("restart", "")), state.get("file"))


def bring_up(dsn: str, restart: Sequence[str], saved: Mapping[str, Any] | None) -> None:
    """Start a server that is down: first as it is, then with its former postgresql.auto.conf.

    Raises:
        TargetError: it stays down; the message says what to do.
    """
    try:
        _answers(dsn, _COMING_UP_S)
        return
    except RefusedError:  # it is up
        raise
    except TargetError as error:
        if not restart:
            raise TargetError(f"{error}: start the server") from None
    try:
        restart_server(restart, dsn)
    except TargetError:
        if saved is None:
            raise
        originals.put_back(saved)
        restart_server(restart, dsn)


def _answers(dsn: str, patience_s: float) -> None:
    import psycopg

    end = time.monotonic() + patience_s
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=10).close()
            return
        except psycopg.Error as error:
            said = str(error).strip().splitlines()[0]
            hint = password_hint(said, dsn)
            if hint or ("FATAL" in said and "starting up" not in said and "shutting down" not in said):
                raise RefusedError(f"cannot connect to PostgreSQL: {said}{hint}") from None
            if time.monotonic() > end:
                raise TargetError(f"cannot connect to PostgreSQL: {said}") from None
            time.sleep(0.2)


class RefusedError(TargetError):
    """The server is up, but does not let this role in."""


def restart_server(command: Sequence[str], dsn: str) -> None:
    """Run the user's command that restarts a server, and wait until it answers.

    Raises:
        TargetError: the command fails, or the server does not come back.
    """
    done = hooks.run(command)
    if done.code is None:
        raise TargetError(f"the restart command took more than {hooks.LIMIT_S:.0f} s and was ended")
    if done.code:
        said = done.output.strip().splitlines()
        raise TargetError(f"the restart command exited with code {done.code}: {said[-1] if said else ''}")
    _answers(dsn, 60)


def identity(connection: Any) -> str:
    """Return what tells a server from others: its system identifier or, where that may not be read, its address."""
    import psycopg

    try:
        return str(connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()[0])
    except psycopg.Error:
        info = connection.info
        return f"at {info.host}:{info.port}"
