"""Processes of servers: started so that they can be found again, known by pid and start time, ended exactly.

A number of a process is given to others once it is gone, so every process here is known by the time of its start as
well, in ticks since the machine started, which nobody sets. Linux only, as is all measuring here.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tunewright.errors import TargetError

MARK = "TUNEWRIGHT_SERVICE"  # variable in the environment of what a start command started
_TAIL = 4000  # bytes of a log that are looked at for its last lines
_POLL_S = 0.02
_END_S = 5.0  # between SIGTERM and SIGKILL for what is not the server's main process

# Starts a program in a session of its own. It is written down, with its start, before the program begins: whoever is
# killed at any moment, there is no server that nobody knows of. Tells on standard error why it could not be started.
_DETACH = """
import os, signal, sys
note, log, *words = sys.argv[1:]
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    with open("/proc/self/stat", "rb") as file:
        about = file.read()
    with open(note + ".part", "wb") as file:
        file.write(about)
        file.flush()
        os.fsync(file.fileno())
    os.replace(note + ".part", note)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        os.write(write, (error.strerror or str(error)).encode())
    os._exit(127)
os.close(write)
said = os.read(read, 4096).decode()
sys.exit(said or 0)
"""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process, and no later one of its number.

    Attributes:
        pid: its number.
        started: ticks since the machine started.
    """

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        about = _about(self.pid)
        return about is not None and about.started == self.started and about.state not in "ZX"

    def send(self, number: int) -> None:
        """Send a signal to it, if it still runs."""
        with suppress(OSError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.alive:  # looked at once the handle is open, which stays with this process
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def ended(self) -> str:
        """Say how it ended, where this process is its parent; a zombie of ours goes."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except OSError:
            return "ended"
        code = os.waitstatus_to_exitcode(status) if pid else 0
        if not pid:
            return "ended"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


@dataclass(frozen=True, kw_only=True)
class _About:
    state: str
    parent: int
    session: int
    started: int


def _about(pid: int) -> _About | None:
    """Return what ``/proc/PID/stat`` says (proc(5): fields 3, 4, 6 and 22); None where there is no such process."""
    try:
        return _parsed(Path(f"/proc/{pid}/stat").read_bytes())
    except OSError:
        return None


def _parsed(line: bytes) -> _About:
    fields = line.rpartition(b")")[2].split()
    return _About(state=fields[0].decode(), parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]))


def process(pid: int) -> Process | None:
    """Return the process that has a number now; None where there is none."""
    about = _about(pid)
    return None if about is None or about.state in "ZX" else Process(pid=pid, started=about.started)


def written_down(note: Path) -> Process | None:
    """Return the process that was written down; None where there is no note."""
    try:
        line = note.read_bytes()
        return Process(pid=int(line.split()[0]), started=_parsed(line).started)
    except (OSError, ValueError, IndexError):
        return None


def now_ticks() -> int:
    """Return the time in ticks since the machine started, as starts of processes are told."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def detach_words(note: Path, log: Path, words: Sequence[str]) -> list[str]:
    """Return the command that starts a program that stays in the foreground, and is through at once.

    Args:
        note: file to write its number and start into.
        log: file that its output is appended to.
        words: the program and its arguments.
    """
    return [sys.executable, "-I", "-S", "-c", _DETACH, str(note), str(log), *words]


def logged_words(log: Path, words: Sequence[str]) -> list[str]:
    """Return a command whose output, and that of what it starts, is appended to a log."""
    return ["/bin/sh", "-c", 'exec "$@" >>"$0" 2>&1 </dev/null', str(log), *words]


def _all() -> Iterator[tuple[int, _About]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (about := _about(int(entry))) is not None and about.state not in "ZX":
            yield int(entry), about


def family(main: Process) -> list[Process]:
    """Return a server's living processes: the main one, those in its session, and what descends from these.

    The session counts where the main process leads it, also when it is gone; nothing older than it belongs to it.
    """
    every = {pid: about for pid, about in _all() if about.started >= main.started and pid != os.getpid()}
    members = {pid for pid, about in every.items() if pid == main.pid or about.session == main.pid}
    if (there := every.get(main.pid)) is not None and there.started != main.started:
        return []  # the number is another's by now, and the session that one's
    while more := {pid for pid, about in every.items() if about.parent in members} - members:
        members |= more
    return [Process(pid=pid, started=every[pid].started) for pid in sorted(members)]


def marked(token: str) -> list[Process]:
    """Return living processes that have the mark of a start in their environment."""
    wanted, found = f"{MARK}={token}".encode(), []
    for pid, about in _all():
        with suppress(OSError):
            if pid != os.getpid() and wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(Process(pid=pid, started=about.started))
    return found


def end(processes: Sequence[Process], within_s: float = _END_S) -> None:
    """End processes: SIGTERM, and SIGKILL to those that do not go in time."""
    for number, limit_s in ((signal.SIGTERM, within_s), (signal.SIGKILL, _END_S)):
        left = [p for p in processes if p.alive]
        for each in left:
            each.send(number)
        wait_gone(left, limit_s)
    for each in processes:
        each.ended()


def wait_gone(processes: Sequence[Process], limit_s: float) -> bool:
    """Wait until processes are gone, for at most a time; return whether they are."""
    deadline = time.monotonic() + limit_s
    while any(p.alive for p in processes):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


# -- addresses --------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nothing listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def tcp_taken(host: str, port: int) -> bool:
    """Whether something listens on an address of this machine; False for another machine's."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return False
    except OSError as error:
        return error.errno == errno.EADDRINUSE


def answers_tcp(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a TCP port accepts connections."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def answers_unix(path: str, timeout_s: float = 1.0) -> bool:
    """Whether a Unix socket accepts connections."""
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(timeout_s)
            asked.connect(path)
            return True
    except OSError:
        return False


def listeners(port: int) -> list[Process]:
    """Return the processes that listen on a TCP port of this machine, as far as this user may see them."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: TCP_LISTEN
                    inodes.add(fields[9])
    return _holders(inodes)


def unix_listeners(path: str) -> list[Process]:
    """Return the processes that listen on a Unix socket."""
    inodes = set()
    with suppress(OSError):
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and int(fields[3], 16) & 0x10000 and fields[7] == path:  # __SO_ACCEPTCON
                inodes.add(fields[6])
    return _holders(inodes)


def _holders(inodes: set[str]) -> list[Process]:
    """Return the processes that have one of these sockets open; the oldest first."""
    wanted, found = {f"socket:[{inode}]" for inode in inodes}, []
    for pid, about in _all() if wanted else ():
        with suppress(OSError):
            if any(link(f"/proc/{pid}/fd/{fd}") in wanted for fd in os.listdir(f"/proc/{pid}/fd")):
                found.append(Process(pid=pid, started=about.started))
    return sorted(found, key=lambda p: (p.started, p.pid))


def link(path: str) -> str:
    """Return where a symbolic link leads; "" where it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def who(processes: Sequence[Process]) -> str:
    """Name the first of some processes, for messages; "another program" where none can be seen."""
    for each in processes:
        with suppress(OSError):
            return f"{Path(f'/proc/{each.pid}/comm').read_text().strip()} (process {each.pid})"
    return "another program"


# -- commands and logs ------------------------------------------------------------------------------


def command(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str], limit_s: float, given: IO[bytes] | None = None
) -> tuple[int | None, str]:
    """Run a command within a time limit, and end it with its whole group where it takes longer.

    Args:
        words: program and arguments.
        cwd: directory to run it in.
        env: variables on top of the environment.
        limit_s: after so many seconds it is ended.
        given: its standard input; None for none.

    Returns:
        Its exit code, None where it took too long, and the end of what it printed.

    Raises:
        TargetError: it cannot be started.
    """
    with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as anything that the command left
        try:
            child = subprocess.Popen(
                list(words), cwd=cwd, env={**os.environ, **env}, stdin=given or subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise TargetError(f"cannot start {words[0]!r} in {cwd}: {why}") from None
        code: int | None = None
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if code is None:
                with suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        output.seek(max(0, os.fstat(output.fileno()).st_size - _TAIL))
        return code, output.read(_TAIL).decode("utf-8", errors="replace")


def tail(paths: Sequence[Path], lines: int = 4) -> str:
    """Return the last lines of the first log that has any, in one line for a message; "" where none has."""
    for path in paths:
        try:
            with path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                text = file.read(_TAIL).decode("utf-8", errors="replace")
        except OSError:
            continue
        if last := [line.strip() for line in text.splitlines() if line.strip()][-lines:]:
            return f"; its log ends: {' | '.join(line[:200] for line in last)}"
    return ""
