"""A real PostgreSQL cluster of our own under Debian's pg_ctlcluster, and removing it again."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

# what the user set in the server for good, before anything of ours came near it
USERS_OWN = "# checked by Ada in May, do not touch\nwork_mem = '5MB'\n"


def unavailable() -> str:
    """Why no cluster can be made here; "" where one can."""
    if os.geteuid() != 0:
        return "only root can make clusters with pg_createcluster"
    for program in ("pg_createcluster", "pg_ctlcluster", "pg_dropcluster"):
        if shutil.which(program) is None:
            return f"there is no {program} here (Debian's postgresql-common)"
    if not _versions():
        return "there is no server below /usr/lib/postgresql"
    try:
        pwd.getpwnam("postgres")
        import psycopg  # noqa: F401
    except (KeyError, ImportError) as error:
        return str(error)
    return ""


def _versions() -> list[str]:
    found = [p.parts[-3] for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return sorted(found, key=float)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A cluster with a name, a port, a socket and a data directory of its own; a context manager.

    Args:
        name: in ``pg_lsclusters``; no cluster of this name may exist.
    """

    def __init__(self, name: str) -> None:
        self.name, self.version, self.port = name, _versions()[-1], _free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="tw-pg-", dir="/var/tmp"))
        (self.folder / "socket").mkdir()
        account = pwd.getpwnam("postgres")
        for path in (self.folder, self.folder / "socket"):
            os.chown(path, account.pw_uid, account.pw_gid)
            path.chmod(0o755)
        self.data = self.folder / "data"
        self.auto_conf = self.data / "postgresql.auto.conf"

    def __enter__(self) -> "Cluster":
        words = ["pg_createcluster", self.version, self.name, "-p", self.port, "-d", self.data]
        words += ["-s", self.folder / "socket", "-l", self.folder / "log", "--", "--auth-local=trust", "--no-sync"]
        try:
            _call(words)
            self.reset()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        subprocess.run(["pg_dropcluster", "--stop", self.version, self.name], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def dsn(self) -> str:
        return f"host={self.folder / 'socket'} port={self.port} user=postgres dbname=postgres"

    @property
    def restart(self) -> str:
        """The command that a user gives as the option ``restart``."""
        return f"pg_ctlcluster {self.version} {self.name} restart"

    def reset(self) -> None:
        """Bring the server up with the user's own settings, whatever happened to it."""
        current = self.auto_conf.read_text() if self.auto_conf.exists() else ""
        if current == USERS_OWN and self.up():
            return
        if self.auto_conf.exists():
            self.auto_conf.write_text(USERS_OWN)
        else:
            raise RuntimeError(f"{self.auto_conf} is gone")
        _call(self.restart.split())

    def up(self) -> bool:
        """Whether the server answers."""
        return self.ask("SELECT 1") == [(1,)]

    def down(self) -> bool:
        """Whether the server has no process at this moment."""
        return not (self.data / "postmaster.pid").exists()

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query; none where the server does not answer."""
        import psycopg

        with suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
            return connection.execute(query).fetchall()
        return []

    def settings(self, names: tuple[str, ...]) -> dict[str, object]:
        """What the server runs with, what it was told for good, and whether it answers."""
        listed = ", ".join(f"'{n}'" for n in names)
        rows = self.ask(f"SELECT name, setting, pending_restart FROM pg_settings WHERE name IN ({listed})")
        file = self.ask("SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'")
        about = os.stat(self.auto_conf)
        return {
            "the server": "up" if rows else "down",
            **{f"the setting {name}": f"{value}{', restart pending' * waits}" for name, value, waits in rows},
            "postgresql.auto.conf": sorted(map(str, file)),
            "owner and mode of postgresql.auto.conf": f"{about.st_uid}:{about.st_gid} {oct(about.st_mode)}",
        }


def _call(words: list[object]) -> None:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{words[0]} exited with code {done.returncode}: {done.stderr.strip()[-300:]}")
