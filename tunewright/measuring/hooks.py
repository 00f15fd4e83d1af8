"""The user's own commands that change a system: a service that is restarted, a configuration that is loaded.

What such a command starts belongs to the user and lives on: it is run outside the process group of a measurement,
which is killed whole when the measurement ends. Inside a measuring child :func:`run` asks the process that measures to
run the command; anywhere else it runs it itself.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import IO, TYPE_CHECKING

from tunewright.errors import TargetError
from tunewright.measuring.interrupts import uninterrupted

if TYPE_CHECKING:
    import psutil

LIMIT_S = 120.0  # a command that takes longer is ended
_END_S = 5.0  # between asking a command to end and killing it
_OUTPUT_TAIL = 4000  # bytes
_ROOM = 2**20  # bytes that a disk must have left for such output
_MOST_LOGS = 10  # logs that stay though nothing writes to them any more
_NOTE, _LIMIT = "command", "command.limit"
_CLOCK_S = 0.1  # between clocks, where the system does not tell more: times of processes are known to a hundredth
# number and, on Linux, the line that says when it started in the system's own time, which nobody sets
_WRITE_DOWN = 'about=; { read -r about < /proc/$$/stat; } 2>/dev/null; echo "$$ $about" >&0'

_channel: socket.socket | None = None  # of a measuring child, to the process that measures
_records: ContextVar[Records] = ContextVar("records")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command to run.

    Attributes:
        words: program and arguments; with ``shell`` one text.
        cwd: directory to run it in; empty for the present one.
        env: variables on top of the environment.
        shell: let a shell read ``words[0]``.
        limit_s: after so many seconds it is ended.
    """

    words: Sequence[str]
    cwd: str = ""
    env: Mapping[str, str]
    shell: bool = False
    limit_s: float = LIMIT_S


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended.

    Attributes:
        code: exit code, negative for a signal; None where it took too long and was ended.
        output: the end of what it printed.
        log: the file that all of it is in; "" where it is gone, as nothing that the command started writes there.
    """

    code: int | None
    output: str
    log: str = ""

    @property
    def where(self) -> str:
        """For the end of a message: where all of the output is."""
        return f"; what it and its servers print is in {self.log}" if self.log else ""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Where it is written down what commands do.

    Attributes:
        note: folder for the number of the command that runs, see :func:`noting`; None for no note.
        log: path that the names of logs begin with; None for one in the directory for temporary files.
    """

    note: Path | None = None
    log: Path | None = None


def run(
    words: Sequence[str],
    *,
    cwd: str = "",
    env: Mapping[str, str] | None = None,
    shell: bool = False,
    limit_s: float | None = None,
) -> Done:
    """Run a command of the user's, and leave alone whatever it starts.

    Raises:
        TargetError: it cannot be started.
    """
    command = Command(words=list(words), cwd=cwd, env=dict(env or {}), shell=shell, limit_s=limit_s or LIMIT_S)
    if _channel is None:
        return _run_here(command, _records.get(Records()))
    with _channel.makefile("rw", encoding="utf-8") as line:
        line.write(json.dumps(asdict(command)) + "\n")
        line.flush()
        answer = json.loads(line.readline() or '{"error": "the session ended"}')
    if "error" in answer:
        raise TargetError(answer["error"])
    return Done(**answer)


def _run_here(command: Command, records: Records) -> Done:
    words = ["/bin/sh", "-c", command.words[0]] if command.shell else list(command.words)
    with _logging(records.log) as log, _noting(records.note, command.limit_s) as note:
        if note is not None:
            # a shell that writes down its number and start, lets go of the note, and becomes the command
            _check_program(words[0], command)
            words = ["/bin/sh", "-c", f'{_WRITE_DOWN}; exec "$@" </dev/null', "sh", *words]
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    words,
                    cwd=command.cwd or None,
                    env={**os.environ, **command.env},
                    stdin=subprocess.DEVNULL if note is None else note,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # the terminal's Ctrl-C is not for it, and no group of ours takes it along
                )
        except (OSError, ValueError) as error:
            raise _cannot_start(command, getattr(error, "strerror", None) or error) from None
        code = _wait(process, command.limit_s)
        with log.open("rb") as output:
            output.seek(max(0, os.fstat(output.fileno()).st_size - _OUTPUT_TAIL))
            said = output.read(_OUTPUT_TAIL).decode("utf-8", errors="replace")
    return Done(code=code, output=said, log=str(log) if log.exists() else "")


@contextmanager
def _logging(path: Path | None) -> Iterator[Path]:
    """Yield a new file for what a command prints; it stays while something that the command started may write to it.

    A server inherits it. Were it removed, it would grow on where nobody sees it, until the disk is full.
    """
    log = _new_log(path)
    if path is not None:
        _clear(path)
    try:
        yield log
    finally:
        if not _in_use(log):
            log.unlink(missing_ok=True)


def _new_log(path: Path | None) -> Path:
    for begin in (path, Path(gettempdir(), "tunewright")):
        if begin is None:
            continue
        log = begin.with_name(f"{begin.name}.command-{time.time_ns():020d}-{uuid.uuid4().hex[:6]}.log")
        try:
            log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            disk = os.statvfs(log.parent)
            if begin is path and disk.f_bavail * disk.f_frsize < _ROOM:  # a full disk must not make a command fail
                continue
            os.close(os.open(log, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            why = error.strerror
            continue
        return log
    raise TargetError(f"cannot write {log}, for what a command prints: {why}")


def _clear(path: Path) -> None:
    """Remove the oldest logs of servers that are gone."""
    with suppress(OSError):
        logs = sorted(p for p in path.parent.iterdir() if p.name.startswith(f"{path.name}.command-"))
        for log in logs[:-_MOST_LOGS]:
            if not _in_use(log):
                log.unlink(missing_ok=True)


def _in_use(log: Path) -> bool:
    """Whether another process has a file open: the system grants a write lease only on a file that none has."""
    try:
        with log.open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # ignored; SIGIO, sent if someone opens it now, kills
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:  # a network's file system grants none, and then nobody can tell
        return error.errno == errno.EAGAIN
    return False


def _check_program(program: str, command: Command) -> None:
    path = os.path.join(command.cwd, program) if os.path.dirname(program) else program
    if shutil.which(path, path=command.env.get("PATH")) is None:
        there = os.path.exists(path) and os.path.dirname(program)
        raise _cannot_start(command, os.strerror(errno.EACCES if there else errno.ENOENT))


def _cannot_start(command: Command, why: object) -> TargetError:
    return TargetError(f"cannot start {command.words[0]!r} in {command.cwd or os.getcwd()}: {why}")


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Wait for a command; one that takes too long is ended, but not the server that it may have begun to start."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


@contextmanager
def noting(folder: Path, log: Path | None = None) -> Iterator[None]:
    """Keep in a folder which command runs, so that :func:`wait_for` finds one that outlived its session.

    Args:
        folder: exists.
        log: path that the names of the commands' logs begin with.
    """
    token = _records.set(Records(note=folder, log=log))
    try:
        yield
    finally:
        _records.reset(token)


@contextmanager
def _noting(folder: Path | None, limit_s: float) -> Iterator[IO[bytes] | None]:
    """Yield the file, locked, into which a command writes its number; None where none is kept.

    The lock is shared with the command until the number is written: whoever gets the lock can read it, or there is no
    command, whenever this process was killed.
    """
    try:
        note = None if folder is None else (folder / _NOTE).open("a+b", buffering=0)
    except OSError:  # a full disk must not keep a service from being restarted
        note = None
    if note is None:
        yield None
        return
    with note:
        try:
            fcntl.flock(note, fcntl.LOCK_EX)
            note.truncate(0)
            with suppress(OSError):
                assert folder is not None
                (folder / _LIMIT).write_text(str(limit_s), encoding="utf-8")
            yield note
        finally:
            with suppress(OSError):
                note.truncate(0)


def wait_for(folder: Path) -> None:
    """Wait until the command that a killed session had begun is through, for at most its limit."""
    import psutil

    try:
        limit_s = float((folder / _LIMIT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        limit_s = LIMIT_S
    deadline = time.monotonic() + limit_s
    try:
        with (folder / _NOTE).open("rb") as note:
            while not _locked(note) and time.monotonic() < deadline:
                time.sleep(0.01)
            number, _, about = note.read().decode(errors="replace").partition(" ")
            process = psutil.Process(int(number))
            if _is_still(process, about.strip(), os.fstat(note.fileno()).st_mtime):
                process.wait(max(deadline - time.monotonic(), 0))
    except (OSError, ValueError, IndexError, psutil.Error):
        return


def _is_still(process: psutil.Process, about: str, noted: float) -> bool:
    """Whether a process is the one that was written down, and not a later one of that number."""
    if not about:
        return bool(process.create_time() <= noted + _CLOCK_S)
    return _started(Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")) == _started(about)


def _started(about: str) -> str:
    """Return when a process started, in ticks since the system did, from its line in ``/proc/PID/stat``.

    >>> _started("7 (a (strange) name) S 1 7 7 0 -1 4194304 97 0 0 0 0 0 0 0 20 0 1 0 12345 2314240 0")
    '12345'
    """
    return about.rpartition(")")[2].split()[19]


def _locked(note: IO[bytes]) -> bool:
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Server:
    """Runs the commands that a measuring child asks for, in a thread; one for each child.

    Args:
        records: where it is written down what they do.
    """

    def __init__(self, records: Records) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._records = records
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Begin to serve; call it once the child has its end of the channel."""
        self.theirs.close()
        self._thread.start()

    def _serve(self) -> None:
        # the child may be killed at any moment, also while its command runs: closing the channel fails then, too
        with suppress(OSError, ValueError), self._ours, self._ours.makefile("rw", encoding="utf-8") as line:
            for text in line:
                try:
                    answer = asdict(_run_here(Command(**json.loads(text)), self._records))
                except TargetError as error:
                    answer = {"error": str(error)}
                line.write(json.dumps(answer) + "\n")
                line.flush()

    def join(self) -> None:
        """Wait until a command that has begun is through: what comes next must not run beside it."""
        with uninterrupted():
            self._thread.join()


def connect(fd: int) -> None:
    """Use the channel that this measuring child was given."""
    global _channel
    _channel = socket.socket(fileno=fd)
    _channel.set_inheritable(False)
