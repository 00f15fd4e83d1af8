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
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from tunewright.errors import TargetError
from tunewright.measuring.interrupts import uninterrupted

LIMIT_S = 120.0  # a command that takes longer is ended
_END_S = 5.0  # between asking a command to end and killing it
_OUTPUT_TAIL = 4000  # bytes
_NOTE = "command"
_CLOCK_S = 0.1  # between clocks: times of processes are known to a hundredth of a second

_channel: socket.socket | None = None  # of a measuring child, to the process that measures
_note_folder: ContextVar[Path | None] = ContextVar("note_folder", default=None)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command to run.

    Attributes:
        words: program and arguments; with ``shell`` one text.
        cwd: directory to run it in; empty for the present one.
        env: variables on top of the environment.
        shell: let a shell read ``words[0]``.
    """

    words: Sequence[str]
    cwd: str = ""
    env: Mapping[str, str]
    shell: bool = False


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended.

    Attributes:
        code: exit code, negative for a signal; None where it took too long and was ended.
        output: the end of what it printed.
    """

    code: int | None
    output: str


def run(words: Sequence[str], *, cwd: str = "", env: Mapping[str, str] | None = None, shell: bool = False) -> Done:
    """Run a command of the user's, and leave alone whatever it starts.

    Raises:
        TargetError: it cannot be started.
    """
    command = Command(words=list(words), cwd=cwd, env=dict(env or {}), shell=shell)
    if _channel is None:
        return _run_here(command, _note_folder.get())
    with _channel.makefile("rw", encoding="utf-8") as line:
        line.write(json.dumps(asdict(command)) + "\n")
        line.flush()
        answer = json.loads(line.readline() or '{"error": "the session ended"}')
    if "error" in answer:
        raise TargetError(answer["error"])
    return Done(**answer)


def _run_here(command: Command, folder: Path | None) -> Done:
    words = ["/bin/sh", "-c", command.words[0]] if command.shell else list(command.words)
    with tempfile.TemporaryFile() as output, _noting(folder) as note:
        if note is not None:
            # a shell that writes down its number, lets go of the note, and becomes the command
            _check_program(words[0], command)
            words = ["/bin/sh", "-c", 'echo $$ >&0; exec "$@" </dev/null', "sh", *words]
        try:
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
        code = _wait(process)
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - _OUTPUT_TAIL))
        return Done(code=code, output=output.read().decode("utf-8", errors="replace"))


def _check_program(program: str, command: Command) -> None:
    path = os.path.join(command.cwd, program) if os.path.dirname(program) else program
    if shutil.which(path, path=command.env.get("PATH")) is None:
        there = os.path.exists(path) and os.path.dirname(program)
        raise _cannot_start(command, os.strerror(errno.EACCES if there else errno.ENOENT))


def _cannot_start(command: Command, why: object) -> TargetError:
    return TargetError(f"cannot start {command.words[0]!r} in {command.cwd or os.getcwd()}: {why}")


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for a command; one that takes too long is ended, but not the server that it may have begun to start."""
    try:
        return process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


@contextmanager
def noting(folder: Path) -> Iterator[None]:
    """Keep in a folder which command runs, so that :func:`wait_for` finds one that outlived its session."""
    token = _note_folder.set(folder)
    try:
        yield
    finally:
        _note_folder.reset(token)


@contextmanager
def _noting(folder: Path | None) -> Iterator[IO[bytes] | None]:
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
            yield note
        finally:
            with suppress(OSError):
                note.truncate(0)


def wait_for(folder: Path) -> None:
    """Wait until the command that a killed session had begun is through, for at most its limit."""
    import psutil

    deadline = time.monotonic() + LIMIT_S
    try:
        with (folder / _NOTE).open("rb") as note:
            while not _locked(note) and time.monotonic() < deadline:
                time.sleep(0.01)
            process = psutil.Process(int(note.read()))
            if process.create_time() <= os.fstat(note.fileno()).st_mtime + _CLOCK_S:  # not a later one of that number
                process.wait(max(deadline - time.monotonic(), 0))
    except (OSError, ValueError, psutil.Error):
        return


def _locked(note: IO[bytes]) -> bool:
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Server:
    """Runs the commands that a measuring child asks for, in a thread; one for each child.

    Args:
        note: folder for :func:`noting`; None for no note.
    """

    def __init__(self, note: Path | None) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._note = note
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
                    answer = asdict(_run_here(Command(**json.loads(text)), self._note))
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
