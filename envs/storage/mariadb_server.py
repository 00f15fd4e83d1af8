"""A MariaDB server of our own, from the distribution's binaries: started for one run on a Unix socket, then gone.

It reads no option files and listens on no port. Its data directory, grant tables included, is a private folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tunewright.envs.storage import accounts, mariadb_dsn, servers
from tunewright.envs.storage.mariadb_dsn import Address
from tunewright.envs.storage.mariadb_foreign import values_of
from tunewright.envs.storage.mariadb_params import same
from tunewright.envs.storage.postgres_server import copy_cluster, hash_path
from tunewright.errors import TargetError
from tunewright.sessions import workfolder
from tunewright.store.trees import remove_tree

_START_S, _STOP_S = 120.0, 60.0
LOG_FILE_BYTES = 8 * 2**20  # of the prepared data: it is copied for every run, and the server makes the size it is told
_LONGEST_SOCKET = 80  # characters of a folder: the path of a socket may have 107
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/usr/bin"


def program(*names: str) -> str:
    """Return the path of the first of some programs that is installed.

    Raises:
        TargetError: none is.
    """
    for name in names:
        if path := shutil.which(name, path=_PATH):
            return path
    package = {"sysbench": "sysbench", "mariadb": "mariadb-client", "mariadb-dump": "mariadb-client"}
    raise TargetError(
        f"there is no {names[0]} here; install it: apt-get install {package.get(names[0], 'mariadb-server')}"
    )


def _data_place(workdir: Path) -> tuple[Path, str]:
    """Return where data directories lie: below workdir, or in a temporary directory where root's is closed."""
    if accounts.server_user() is not None and not accounts.open_to_all(workdir.resolve()):
        return Path("/var/tmp"), f"mariadb-{hash_path(workdir):x}"
    return workdir, "mariadb"


def data_home(workdir: Path) -> Path:
    """Return the directory for data directories, made if it is not there."""
    folder = workfolder.private(*_data_place(workdir))
    if accounts.server_user() is not None:
        os.chmod(folder, 0o711)
    return folder


def data_path(workdir: Path) -> Path:
    """Return the directory for data directories, which need not be there."""
    return workfolder.path_of(*_data_place(workdir))


def remove_data_home(workdir: Path) -> None:
    """Remove the directory for data directories with all of them."""
    workfolder.remove(*_data_place(workdir))


def make_data(folder: Path) -> None:
    """Make a data directory with its system tables; it appears whole or not at all.

    Raises:
        TargetError: it cannot be made; the message is the program's own.
    """
    words = [program("mariadb-install-db"), "--no-defaults", "--auth-root-authentication-method=normal"]
    words += ["--skip-test-db", "--skip-name-resolve", f"--innodb-log-file-size={LOG_FILE_BYTES}"]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".install-", ignore_cleanup_errors=True) as made:
        os.chmod(made, 0o711)
        place = Path(made) / "data"
        place.mkdir(mode=0o700)
        accounts.hand_over(place)
        done = subprocess.run(
            [*words, f"--datadir={place}"], capture_output=True, text=True, cwd="/", **accounts.as_user()
        )
        if done.returncode:
            lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
            raise TargetError(f"mariadb-install-db failed: {serious_lines(lines) or f'exit code {done.returncode}'}")
        os.rename(place, folder)


def serious_lines(lines: list[str]) -> str:
    """Return the first lines in which the server says what went wrong.

    >>> serious_lines(["2026-11-28  6:40:57 0 [Note] ok", "2026-11-28  6:40:57 0 [ERROR] Aborting"])
    'Aborting'
    """
    serious = [line.split("[ERROR] ", 1)[1].strip() for line in lines if "[ERROR] " in line]
    told = [line for line in serious if line != "Aborting"] or serious
    return "; ".join(told[:2] or [line.strip() for line in lines[-1:]])[:400]


def corrections(lines: list[str]) -> list[str]:
    """Return the sentences in which the server says that it took another value than it was given."""
    marks = ("adjusted", "Changed limits", "deprecated", "requested")
    return [
        x.split("[Warning] ", 1)[1].strip()[:300] for x in lines if "[Warning] " in x and any(m in x for m in marks)
    ]


class Server:
    """A running server; a context manager. Listens on a Unix socket in a directory of its own, nowhere else.

    Args:
        data: data directory; may be empty with ``tables`` off.
        settings: by name, as the server spells them.
        tables: whether the grant tables are read.

    Raises:
        TargetError: it does not start; the message is the server's own.
    """

    def __init__(self, data: Path, settings: Mapping[str, str], *, tables: bool = True) -> None:
        # beside the data, so that it goes with it
        near = str(data.parent) if len(str(data.parent)) < _LONGEST_SOCKET else "/tmp"
        self.folder = tempfile.mkdtemp(prefix="socket-", dir=near)
        accounts.hand_over(self.folder)
        self.address = Address(user="root", socket=f"{self.folder}/s.sock")
        words = [program("mariadbd"), "--no-defaults", f"--datadir={data}", f"--socket={self.address.socket}"]
        words += [f"--pid-file={self.folder}/pid", "--skip-networking", "--skip-log-bin", f"--tmpdir={self.folder}"]
        words += [] if tables else ["--skip-grant-tables"]
        self.log = tempfile.TemporaryFile()
        words += [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd="/", **accounts.as_user()
        )

    def __enter__(self) -> Server:
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _wait(self) -> None:
        import pymysql

        end = time.monotonic() + _START_S
        while True:
            if self.process.poll() is not None:
                said = serious_lines(self.lines()) or f"exit code {self.process.returncode}"
                raise TargetError(f"the server refuses these settings: {said}")
            try:
                mariadb_dsn.connect(self.address).close()
                return
            except pymysql.Error:
                if time.monotonic() > end:
                    said = serious_lines(self.lines())
                    raise TargetError(f"the server did not start within {_START_S:.0f} s: {said}") from None
                time.sleep(0.02)

    def lines(self) -> list[str]:
        """Return what the server has printed."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace").splitlines()

    def stop(self) -> None:
        """Shut down, and for sure."""
        servers.end(self.process, signal.SIGTERM, _STOP_S)
        self.log.close()
        remove_tree(Path(self.folder))


@contextmanager
def served(template: Path, settings: Mapping[str, str]) -> Iterator[Address]:
    """The address of a server with settings, on a copy of prepared data, which goes with it.

    Raises:
        TargetError: the server refuses or rounds a setting.
    """
    data = template.with_name(f"run-{os.getpid()}-{time.monotonic_ns()}")
    try:
        copy_cluster(template, data)
        with Server(data, settings) as server:
            with mariadb_dsn.connected(server.address) as ask:
                now = values_of(ask, list(settings))
            for name, value in settings.items():
                if not same(now[name], value):
                    told = [line for line in corrections(server.lines()) if name in line.replace("-", "_")]
                    raise TargetError(
                        f"the server made {now[name]} of {name} = {value}{f': {told[0]}' if told else ''}"
                    )
            yield server.address
    finally:
        remove_tree(data)
