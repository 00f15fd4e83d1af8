"""A PostgreSQL server of the user's: who it is, who changes it, its settings, and bringing it up again."""

from __future__ import annotations

import os
import select
import shlex
import signal
import tempfile
import threading
import time
from _thread import interrupt_main
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from tunewright.envs.storage import postgres_scope, servers
from tunewright.envs.storage.postgres_dsn import connected, password_hint, place
from tunewright.envs.storage.postgres_scope import Scope
from tunewright.errors import HeldError, TargetError
from tunewright.sessions import originals
from tunewright.store.trees import remove_tree

_POLL_S = 0.05  # between looks whether the server said goodbye
_COMING_UP_S = 5.0  # a server that was just restarted may not answer at once
_ADVISORY = 0x74756E6577726967  # "tunewrig": key of the advisory lock


class Guard:
    """An advisory lock in a server, held by a connection that comes back after the restarts that tuning makes.

    A restart ends the lock. It is taken again at once; if another session was faster, the main thread is interrupted,
    as Ctrl-C does, and ``lost`` says who has it.

    Attributes:
        lost: that another session has the server; None while the lock is ours, or the server is down.
    """

    def __init__(self, dsn: str, what: str) -> None:
        self._dsn, self._what, self._ended = dsn, what, threading.Event()
        self.lost: HeldError | None = None
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
        while not self._ended.wait(_POLL_S):
            with suppress(Exception):  # down for the moment
                if self._connection.closed:
                    try:
                        self._connection = self._take()
                    except HeldError as error:
                        self.lost = HeldError(
                            f"{error}. The server was restarted, which ends the lock on it, and that session took it "
                            "before this one could take it again"
                        )
                        _interrupt()
                        return
                elif select.select([self._connection.fileno()], [], [], 0)[0]:  # the server has said goodbye
                    self._connection.execute("SELECT 1")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for a while.

        Raises:
            HeldError: another session took it meanwhile.
        """
        try:
            yield
        except KeyboardInterrupt:
            if self.lost is not None:
                raise self.lost from None
            raise
        finally:
            self.end()
        if self.lost is not None:
            raise self.lost

    def end(self) -> None:
        """Give the lock back."""
        self._ended.set()
        self._thread.join()
        with suppress(Exception):
            self._connection.close()


def _interrupt() -> None:
    """Interrupt the main thread, by the signal that it listens to: one in the background ignores Ctrl-C."""
    ignored = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    interrupt_main(signal.SIGTERM if ignored else signal.SIGINT)


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
    servers.run_restart(command)
    _answers(dsn, 60)


def identity(connection: Any) -> str:
    """Return what tells a server from others: its system identifier or, where that may not be read, its address."""
    import psycopg

    try:
        return str(connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()[0])
    except psycopg.Error:
        info = connection.info
        return f"at {info.host}:{info.port}"


def alter(
    dsn: str,
    restart: Sequence[str],
    settings: Mapping[str, str | None],
    *,
    scope: Scope | None = None,
    folder: Path | None = None,
) -> None:
    """Set or reset (None) settings, then reload, and restart if one of them needs it.

    Args:
        dsn: connection string.
        restart: command that restarts the server; empty where that is left to its user.
        settings: by name, as PostgreSQL spells them.
        scope: where they are set; None for the whole server.
        folder: of the snapshot, see :func:`tunewright.envs.storage.postgres_scope.setting`; a copy of the server's file
            is kept there meanwhile, so that it goes with the snapshot where this process is killed.

    Raises:
        TargetError: the server refuses a setting, or does not start under them; it is brought back then.
    """
    scope = scope or Scope()
    with connected(dsn) as connection, _scratch(folder) as scratch:
        if folder is not None:
            postgres_scope.setting(folder, postgres_scope.present(connection, scope, settings), settings)
        saved = save_auto_conf(connection, scratch) if restart and scope.kind == "system" else None
        for name, value in settings.items():
            try:
                connection.execute(postgres_scope.statement(scope, name, value))
            except Exception as error:
                said = str(error).strip().splitlines()[0]
                raise TargetError(f"the server refuses {name} = {value}: {said}") from None
        if scope.kind != "system":  # new connections have them
            return
        connection.execute("SELECT pg_reload_conf()")
        time.sleep(0.1)  # the postmaster handles the signal on its own time
        pending = connection.execute("SELECT name FROM pg_settings WHERE pending_restart").fetchall()
        connection.close()  # a restart waits for its clients
        if pending and restart:
            try:
                restart_server(restart, dsn)
            except TargetError as error:
                _rescue(dsn, restart, saved, error)


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """A folder for the copy of a file: within the snapshot's, which recovery removes, or else a temporary one."""
    if folder is None or not folder.is_dir():
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
        return
    place = folder / "before"
    remove_tree(place)
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        remove_tree(place)


def _rescue(dsn: str, restart: Sequence[str], saved: Mapping[str, Any] | None, error: TargetError) -> NoReturn:
    """Bring a server back that does not start under new settings, with the file it last started from."""
    if saved is None:
        raise TargetError(
            f"the server did not come back under these settings ({error}), and its postgresql.auto.conf cannot be "
            "written from here: put the file right by hand, start the server, then run 'tunewright rollback'"
        )
    originals.put_back(saved)
    restart_server(restart, dsn)
    raise TargetError(
        f"the server did not start under these settings and was brought back with its former ones: {error}"
    )


def save_auto_conf(connection: Any, folder: Path) -> dict[str, Any] | None:
    """Copy the server's postgresql.auto.conf; None where it is not on this machine or may not be written."""
    import psycopg

    query = "SELECT current_setting('data_directory'), pg_read_file('postgresql.auto.conf')"
    try:
        directory, text = connection.execute(query).fetchone()
        path = Path(directory) / "postgresql.auto.conf"
        # a file of this name may be another server's
        if not os.access(path, os.W_OK) or path.read_text(encoding="utf-8") != text:
            return None
    except (psycopg.Error, OSError, ValueError):
        return None
    return originals.save(path, folder, "postgresql.auto.conf")
