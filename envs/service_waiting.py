"""What a load waits for: whether it prints, and whether it has had a connection to the server that it should load.

A load that asks another port than the server's often says nothing at all. The kernel's tables of sockets tell: of each
connection to or from an address that the server listens on, those that are closing included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunewright.envs import service_process as processes
from tunewright.envs.service_process import Process

LOOK_AFTER_S = 2.0  # most loads are connected long before, and are looked at once only
LOST_AFTER_S = 30.0  # without a connection and a word: it waits for something that will not come
REFUSED_AFTER_S = 10.0  # where it says that it was refused: a server that is ready will not change its mind
_LOOK_S = 1.0
_LISTENS = "0A"  # TCP_LISTEN in /proc/net/tcp
_REFUSED = ("refused", "cannot connect", "could not connect", "failed to connect", "unable to connect", "no route to")


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where a server listens.

    Attributes:
        ports: of TCP.
        paths: of Unix sockets.
        sure: these are all, and it does not take UDP: a load that has no connection there does not reach it.
    """

    ports: Collection[int]
    paths: Collection[str]
    sure: bool

    @property
    def words(self) -> str:
        """The addresses, for people."""
        return " or ".join([*(f"port {port}" for port in sorted(self.ports)), *sorted(self.paths)])


def listening(main: Process | None, given: Collection[int] = ()) -> Listening:
    """Return where a server's processes listen.

    Args:
        main: its main process; None where that is not known.
        given: ports that its description says.
    """
    inodes: set[str] = set()
    for each in [main, *processes.family(main)] if main is not None else ():
        with suppress(OSError):
            links = [processes.link(str(fd)) for fd in Path(f"/proc/{each.pid}/fd").iterdir()]
            inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    ports = {int(line[1].rpartition(":")[2], 16) for line in _table("tcp") if line[3] == _LISTENS and line[9] in inodes}
    paths = {line[7] for line in _table("unix") if len(line) > 7 and line[6] in inodes and int(line[3], 16) & 0x10000}
    udp = any(line[9] in inodes for line in _table("udp"))
    return Listening(ports=ports or set(given), paths=paths, sure=bool(ports or paths) and not udp)


def connections(where: Listening) -> set[str]:
    """Return what tells the connections to some addresses apart, those that are closing included."""
    found = set()
    for line in _table("tcp"):
        ends = {int(line[side].rpartition(":")[2], 16) for side in (1, 2)}
        if line[3] != _LISTENS and ends & set(where.ports):
            found.add(f"{line[1]} {line[2]}")
    for line in _table("unix"):
        if len(line) > 7 and line[7] in where.paths and not int(line[3], 16) & 0x10000:
            found.add(f"unix {line[6]}")
    return found


def _table(kind: str) -> list[list[str]]:
    """Return the lines of a table of sockets below ``/proc/net``, in fields; IPv4 and IPv6 together."""
    lines: list[list[str]] = []
    for name in (kind,) if kind == "unix" else (kind, f"{kind}6"):
        with suppress(OSError):
            lines += [line.split() for line in Path(f"/proc/net/{name}").read_text(errors="replace").splitlines()[1:]]
    return [line for line in lines if len(line) >= (7 if kind == "unix" else 10)]


class Waiting:
    """Watches a load until it has had a connection to the server.

    Args:
        main: the server's main process; None where that is not known.
        given: ports that the server's description says.
        printed: returns the end of what the load printed so far.
    """

    def __init__(self, main: Process | None, given: Collection[int], printed: Callable[[], str]) -> None:
        self._main, self._given, self._printed = main, given, printed
        self._where = listening(main, given)
        self._before = connections(self._where)
        self._begun, self._next, self._reached = time.monotonic(), LOOK_AFTER_S, False

    def words(self) -> str:
        """Say what the load waits for, as far as is known; "" where it has had a connection, or it is too early."""
        late = time.monotonic() - self._begun
        if self._reached or late < LOOK_AFTER_S or not (self._where.ports or self._where.paths):
            return ""
        if late >= self._next:
            self._next = late + _LOOK_S
            self._reached = bool(connections(self._where) - self._before)
            if self._reached:
                return ""
        lines = self._printed().strip().splitlines()
        told = [line for line in lines if any(word in line.lower() for word in _REFUSED)] or lines
        said = f"and last said: {told[-1][:200]}" if told else "and has printed nothing"
        return f"the load has had no connection to the server ({self._where.words}) for {late:.0f} s {said}"

    def lost(self) -> bool:
        """Whether the load will not reach the server: silent or refused, and without a connection for long."""
        late = time.monotonic() - self._begun
        if not self._where.sure or late < min(REFUSED_AFTER_S, LOST_AFTER_S) or not self.words():
            return False
        text = self._printed().lower()
        if any(word in text for word in _REFUSED):
            return True
        return late >= LOST_AFTER_S and not text.strip()
