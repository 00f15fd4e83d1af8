"""The user's files: written in place, and put back as they were.

Files are never replaced by a new one: a symbolic link stays a link, and owner, mode, extended attributes and hard links
stay with the file. What a half-written file would cost is paid for by the copy that is made, and synced, before.
"""

from __future__ import annotations

import base64
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tunewright.errors import TargetError
from tunewright.store.paths import home


def save(path: Path, folder: Path, name: str) -> dict[str, Any]:
    """Copy a file into a folder.

    Args:
        path: the file; it may be a symbolic link, or not exist.
        folder: where the copy goes; exists.
        name: of the copy.

    Returns:
        What :func:`put_back` needs, JSON-able; ``copy`` is None where there is no file.

    Raises:
        TargetError: it is no regular file, or cannot be read or copied.
    """
    path = Path(os.path.abspath(path))
    real = Path(os.path.realpath(path))
    entry: dict[str, Any] = {"path": str(path), "real": str(real), "copy": None}
    entry["link"] = os.readlink(path) if path.is_symlink() else None
    entry["made"] = [str(p) for p in real.parents if not p.exists()]
    try:
        if not real.exists():
            return entry
        about = real.stat()
        if not stat.S_ISREG(about.st_mode):
            raise TargetError(f"{path} is not a regular file, so it cannot be changed and put back")
        copy = folder / name
        with open(real, "rb") as source, open(copy, "wb", opener=_private) as sink:
            shutil.copyfileobj(source, sink)
            sink.flush()
            os.fsync(sink.fileno())
        entry |= {
            "copy": str(copy),
            "mode": stat.S_IMODE(about.st_mode),
            "uid": about.st_uid,
            "gid": about.st_gid,
            "times_ns": [about.st_atime_ns, about.st_mtime_ns],
            "xattrs": {n: base64.b64encode(v).decode() for n, v in _xattrs(real).items()},
        }
    except OSError as error:
        raise TargetError(f"cannot copy {path} to {folder}: {error.strerror or error}") from None
    return entry


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _xattrs(path: Path) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(path, name) for name in os.listxattr(path)}
    except OSError:  # the file system has none
        return {}


def write(path: Path, data: bytes) -> None:
    """Write a file of the user's in place: all of it or, where the disk is full, nothing.

    Raises:
        TargetError: it is no regular file, or cannot be written.
    """
    real = Path(os.path.realpath(path))
    fresh = not real.exists()
    try:
        if not fresh and not real.is_file():
            raise TargetError(f"{path} is not a regular file")
        real.parent.mkdir(parents=True, exist_ok=True)
        with _writable(real) as file:
            before = os.fstat(file).st_size
            if len(data) > before:
                _reserve(file, before, len(data))
            done = 0
            while done < len(data):
                done += os.pwrite(file, data[done:], done)
            os.ftruncate(file, len(data))
            os.fsync(file)
    except OSError as error:
        if fresh:
            with suppress(OSError):
                real.unlink(missing_ok=True)
        raise TargetError(f"cannot write {path}: {error.strerror or error}") from None


def _reserve(file: int, before: int, size: int) -> None:
    """Take the room for what a file grows by before anything of it is overwritten."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        os.ftruncate(file, before)
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


@contextmanager
def _writable(path: Path) -> Iterator[int]:
    """Open a file for writing; one of ours that is read-only is made writable for the while."""
    flags, mode = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, None
    try:
        file = os.open(path, flags, 0o644)
    except PermissionError:
        about = path.stat()
        if about.st_uid != os.geteuid():
            raise
        mode = stat.S_IMODE(about.st_mode)
        os.chmod(path, mode | stat.S_IWUSR)
        try:
            file = os.open(path, flags)
        except OSError:
            os.chmod(path, mode)
            raise
    try:
        yield file
    finally:
        if mode is not None:
            os.fchmod(file, mode)
        os.close(file)


_noticed: ContextVar[list[str] | None] = ContextVar("noticed", default=None)


@contextmanager
def noticing() -> Iterator[list[str]]:
    """Collect what putting back finds that the user should know."""
    texts: list[str] = []
    token = _noticed.set(texts)
    try:
        yield texts
    finally:
        _noticed.reset(token)


def _foreign(path: Path, entry: Mapping[str, Any], original: bytes | None) -> bytes | None:
    """Return what somebody else wrote into a file meanwhile: neither the original nor filled in from the template."""
    if "template" not in entry or not path.is_file():
        return None
    data = path.read_bytes()
    return None if data == original or not data or _fills(entry["template"], data) else data


def _fills(template: str, data: bytes) -> bool:
    """Whether a text can be the template with values for its placeholders, lines of inactive ones left out."""
    lines = []
    for line in template.splitlines():
        parts = [re.escape(part) for part in re.split(r"\{[A-Za-z_][\w.\-]*\}", line)]
        lines.append(parts[0] + "\n" if len(parts) == 1 else f"(?:{'.*'.join(parts)}\n)?")
    return re.fullmatch("".join(lines), data.decode(errors="surrogateescape")) is not None


def _keep(path: Path, data: bytes) -> str:
    """Keep what somebody else wrote, and return where."""
    folder = home() / "kept"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, copy = tempfile.mkstemp(dir=folder, prefix=f"{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return copy


def notice(text: str) -> None:
    """Say something that the user should know; see :func:`noticing`."""
    texts = _noticed.get()
    if texts is not None:
        texts.append(text)


def put_back(entry: Mapping[str, Any]) -> None:
    """Bring a file back to what :func:`save` found; safe to repeat.

    What somebody else wrote into it meanwhile is kept: in the data directory or, where there was no file, where it is.
    That can be told where the entry has a ``template``, the text that the file was filled in from.

    Raises:
        TargetError: it cannot be written, or its copy is gone.
    """
    path = Path(entry["path"])
    real = Path(entry.get("real") or os.path.realpath(path))
    try:
        _relink(path, entry)
        if entry["copy"] is None:
            if _foreign(real, entry, None) is not None:
                notice(f"{path} was written by somebody else meanwhile, and is left as it is")
                return
            with suppress(FileNotFoundError, NotADirectoryError):
                real.unlink()
            for made in entry.get("made", []):  # innermost first
                with suppress(OSError):  # something of the user's is in it by now, or it is gone
                    os.rmdir(made)
            return
        try:
            data = Path(entry["copy"]).read_bytes()
        except FileNotFoundError:
            raise TargetError(f"the copy {entry['copy']} of {path} is gone, so it cannot be put back") from None
        if (edited := _foreign(real, entry, data)) is not None:
            notice(f"{path} was changed by somebody else meanwhile; that version is kept as {_keep(path, edited)}")
        if not real.is_file() or real.read_bytes() != data:
            write(real, data)
        if "mode" in entry:
            _redress(real, entry)
    except OSError as error:
        raise TargetError(f"cannot put back {path}: {error.strerror or error}") from None


def _relink(path: Path, entry: Mapping[str, Any]) -> None:
    """Make a path again the link, or the plain file, that it was."""
    if "link" not in entry:  # written by an earlier version
        return
    there = os.readlink(path) if path.is_symlink() else None
    if there == entry["link"]:
        return
    path.unlink(missing_ok=True)
    if entry["link"] is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(entry["link"], path)


def _redress(path: Path, entry: Mapping[str, Any]) -> None:
    """Give a file its owner, extended attributes, mode and times again, where they changed."""
    about = path.stat()
    if (about.st_uid, about.st_gid) != (entry["uid"], entry["gid"]):
        os.chown(path, entry["uid"], entry["gid"])
    wanted = {name: base64.b64decode(value) for name, value in entry["xattrs"].items()}
    there = _xattrs(path)
    for name in there.keys() - wanted.keys():
        os.removexattr(path, name)
    for name, value in wanted.items():
        if there.get(name) != value:
            os.setxattr(path, name, value)
    if stat.S_IMODE(path.stat().st_mode) != entry["mode"]:  # after the owner, whose change drops set-user-id
        os.chmod(path, entry["mode"])
    with suppress(PermissionError):  # only the owner may set times
        os.utime(path, ns=(entry["times_ns"][0], entry["times_ns"][1]))
