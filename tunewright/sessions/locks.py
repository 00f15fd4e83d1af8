"""Locks on what a session changes: the file, directory or server itself, whatever name or store the session has.

A lock is a file in one directory of the machine, held with ``flock`` by the process that changes the thing and by the
measuring children it starts; it is free again when all of them are gone, however they ended. Its text says who holds
it and, for whoever comes next, where a holder that was killed wrote down what it changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import HeldError, StoreError

_LOCKS = "/var/tmp/tunewright-locks"
_DYING_S = 30.0  # how long the last child of a killed session may take to go
_WRITING_S = 2.0  # how long a holder may take to say who it is


def _directory() -> Path:
    """Return the directory of the locks; the same for every user and every store of this machine."""
    folder = Path(os.environ.get("TUNEWRIGHT_LOCKS") or _LOCKS)
    try:
        folder.mkdir()
        os.chmod(folder, 0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreError(
            f"cannot make {folder} for locks ({error.strerror}); name another directory in TUNEWRIGHT_LOCKS"
        ) from None
    return folder


def file_keys(path: Path) -> list[str]:
    """Return the keys of a file: its real path and, so that other names of it count, its inode and its directory's."""
    real = os.path.realpath(path)
    keys = [f"file {real}"]
    with suppress(OSError):
        about = os.stat(os.path.dirname(real))
        keys.append(f"entry {about.st_dev}:{about.st_ino} {os.path.basename(real)}")  # through another mount
        about = os.stat(real)
        keys.append(f"inode {about.st_dev}:{about.st_ino}")
    return keys


class Hold:
    """Locks that are held.

    Attributes:
        fds: their descriptors, for children that must hold them, too.
        keys: what is held.
        left: journals that killed holders of the same things left behind, with the keys whose locks name them.
    """

    def __init__(self, who: Mapping[str, Any]) -> None:
        self.fds: tuple[int, ...] = ()
        self.left: dict[str, set[str]] = {}
        self.keys: set[str] = set()
        self._who = dict(who)

    def _take(self, key: str, fd: int, text: Mapping[str, Any]) -> None:
        self.fds = (*self.fds, fd)
        self.keys.add(key)
        journal = text.get("journal")
        if isinstance(journal, str):
            self.left.setdefault(journal, set()).add(key)
        # who holds it is known at once; what was left stays named until it is put back
        self._write(fd, {"journal": journal} if journal else {})

    def _write(self, fd: int, more: Mapping[str, Any]) -> None:
        data = json.dumps({**self._who, **more}).encode()
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
        os.fsync(fd)

    def note(self, journal: str | None) -> None:
        """Write down where it stands what is about to be changed; None where nothing is changed any more."""
        for fd in self.fds:
            self._write(fd, {"journal": journal} if journal else {})


@contextmanager
def holding(keys: Sequence[str], what: str) -> Iterator[Hold]:
    """Hold everything that the keys stand for.

    Args:
        keys: what is changed, such as :func:`file_keys`.
        what: who changes it, for others: ``session 'a'``.

    Raises:
        HeldError: somebody else holds one of them; the message says who.
    """
    hold = Hold({"what": what, **this_process()})
    with ExitStack() as stack:
        for key in sorted(set(keys)):
            path = _directory() / _lock_name(key)
            fd, text = _acquire(path, key)
            stack.callback(_release, path, fd)
            hold._take(key, fd, text)
        yield hold


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a thing, or held it when it was killed.

    Attributes:
        thing: what is held, in words.
        what: who holds it, such as ``session 'a'``.
        pid: of its process; None where it is unknown.
        killed: it holds nothing any more, but left changes that the next session puts back first.
    """

    thing: str
    what: str
    pid: int | None = None
    killed: bool = False


def holders(keys: Sequence[str]) -> list[Holder]:
    """Return who holds something of what the keys stand for, without waiting, and without making or changing a lock."""
    folder, found = Path(os.environ.get("TUNEWRIGHT_LOCKS") or _LOCKS), dict[str, Holder]()
    for key in dict.fromkeys(keys):
        try:
            fd = os.open(folder / _lock_name(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            killed = True
        except BlockingIOError:
            killed = False
        finally:
            text = _text(fd)
            os.close(fd)
        if killed and not isinstance(text.get("journal"), str):
            continue
        pid = text.get("pid") if isinstance(text.get("pid"), int) else None
        what = str(text.get("what", "another session"))
        found.setdefault(what, Holder(thing=words(key), what=what, pid=pid, killed=killed))
    return list(found.values())


def _acquire(path: Path, key: str) -> tuple[int, dict[str, Any]]:
    begun = time.monotonic()
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, waited = _text(fd), time.monotonic() - begun
            os.close(fd)
            patience = _DYING_S if holder and not alive(holder) else _WRITING_S if not holder else 0.0
            if waited >= patience:
                raise HeldError(
                    f"{words(key)} is being changed by {holder.get('what', 'another session')} "
                    f"(process {holder.get('pid', 'unknown')}); wait for it or stop it"
                ) from None
            time.sleep(0.05)
            continue
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return fd, _text(fd)
        os.close(fd)  # its last holder removed it: take the new one


def _lock_name(key: str) -> str:
    return f"{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:32]}.lock"


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)  # without O_CREAT, which a sticky directory refuses for other users' files
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"cannot open the lock {path}: {error.strerror}") from None
    try:
        fd = os.open(path, flags | os.O_CREAT, 0o666)
        with suppress(OSError):
            os.fchmod(fd, 0o666)  # whatever the umask: other users must see it held
        return fd
    except OSError as error:
        raise StoreError(f"cannot make the lock {path}: {error.strerror}") from None


def _release(path: Path, fd: int) -> None:
    with suppress(OSError):
        if not _text(fd).get("journal"):
            path.unlink()
    os.close(fd)


def _text(fd: int) -> dict[str, Any]:
    try:
        text = json.loads(os.pread(fd, 65536, 0) or b"{}")
    except ValueError:
        return {}
    return text if isinstance(text, dict) else {}


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others of this machine, JSON-able."""
    import psutil

    me = psutil.Process()
    return {"pid": me.pid, "started": me.create_time()}


def alive(holder: Mapping[str, Any]) -> bool:
    """Whether the process that :func:`this_process` told of still runs."""
    import psutil

    try:
        return bool(abs(psutil.Process(int(holder["pid"])).create_time() - float(holder["started"])) < 0.01)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def words(key: str) -> str:
    """Return what a key stands for, for people."""
    kind, _, name = key.partition(" ")
    if kind in ("commands", "server"):  # "commands in" or "server of" the key of a description
        described = words(name.partition(" ")[2])
        return f"what {described} changes" if kind == "commands" else f"the server that {described} describes"
    other = "this file (under another name)"
    return {"file": name, "inode": other, "entry": other}.get(kind, key)
