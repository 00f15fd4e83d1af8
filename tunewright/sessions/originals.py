"""The user's files: written in place, and put back as they were.

Files are never replaced by a new one: a symbolic link stays a link, and owner, mode, extended attributes and hard links
stay with the file. What a half-written file would cost is paid for by the copy that is made, and synced, before.
"""

from __future__ import annotations

import base64
import errno
import json
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
    entry: dict[str, Any] = {"path": str(path), "real": str(real), "copy": None, "inode": None}
    entry["place"] = os.path.join(os.path.realpath(path.parent), path.name)  # where the link is, if it is one
    entry["note"] = str(folder / f"{name}.written")
    entry["link"] = os.readlink(path) if path.is_symlink() else None
    entry["made"] = [str(p) for p in real.parents if not p.exists()]
    try:
        if real.is_symlink():  # still one, so that it leads nowhere but to itself
            raise TargetError(f"{path} is a symbolic link that leads in a circle, so it cannot be changed and put back")
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
            "inode": [about.st_dev, about.st_ino],
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


def write(path: Path, data: bytes, entry: Mapping[str, Any] | None = None) -> None:
    """Write a file of the user's in place: all of it or, where the disk is full, nothing.

    Args:
        path: the file.
        data: its new content.
        entry: what :func:`save` returned for it. Then nothing is written but the file that was saved, and what somebody
            else wrote into it since the last write is kept in the data directory.

    Raises:
        TargetError: it is no regular file, leads to another file than the saved one, or cannot be written.
    """
    real = Path(os.path.realpath(path))
    if entry is not None:
        try:
            _prepare(real, data, entry)
        except OSError as error:
            raise TargetError(f"cannot write {path}: {error.strerror or error}") from None
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


def _prepare(real: Path, data: bytes, entry: Mapping[str, Any]) -> None:
    """Make sure that a file is the saved one, keep what somebody else wrote, and note what is written now."""
    path = entry["path"]
    if str(real) not in (entry["real"], entry["place"]) and _inode(real) != entry["inode"]:
        raise TargetError(
            f"{path} leads to {real} now instead of {entry['real']}, of which there is a copy, so it is not written; "
            "run it again to tune with the file as it is now"
        )
    there = real.read_bytes() if real.is_file() else None
    note = _read_note(entry) or {"files": {}, "kept": []}
    if there is not None and not _ours(there, entry, note):
        if _shared(real, entry):
            raise TargetError(f"{path} is another file now, which has other names, too, so it is not written")
        note["kept"].append(_keep(real, there))
    note["files"][str(real)] = [base64.b64encode(content).decode() for content in (there or b"", data)]
    unfinished = f"{entry['note']}.part"
    with open(unfinished, "w", encoding="utf-8", opener=_private) as file:
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, entry["note"])


def _inode(path: Path) -> list[int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return [about.st_dev, about.st_ino]


def _shared(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a file is not the saved one and has other names: writing it would change these."""
    return path.stat().st_nlink > 1 and _inode(path) != entry.get("inode")


def _read_note(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what was written last; None where nothing was.

    It has ``files``, by path the content before and after the last write, and the copies ``kept`` of others' versions.
    """
    try:
        note: dict[str, Any] = json.loads(Path(entry["note"]).read_text(encoding="utf-8"))
    except (KeyError, FileNotFoundError):
        return None
    return note


def _ours(data: bytes, entry: Mapping[str, Any], note: Mapping[str, Any]) -> bool:
    """Whether a file's content is the original or what was written last, also where that write was cut short."""
    if not data or (entry["copy"] is not None and data == Path(entry["copy"]).read_bytes()):
        return True
    written = [[base64.b64decode(content) for content in pair] for pair in note["files"].values()]
    return any(_between(data, before, after) for before, after in written)


def _between(data: bytes, before: bytes, after: bytes) -> bool:
    """Whether a file can have this content while it is written: before, after or between."""
    grown = before.ljust(len(after), b"\0")  # room is taken first, then it is written from the beginning
    pairs = enumerate(zip(data, after, strict=False))
    same = next((number for number, (one, other) in pairs if one != other), min(len(data), len(after)))
    return len(data) in (len(before), len(grown), len(after)) and data[same:] == grown[same : len(data)]


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
    """Return what somebody else wrote into a file meanwhile: neither the original nor what was written last."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    if not data or data == original:
        return None
    if (note := _read_note(entry)) is not None:
        return None if _ours(data, entry, note) else data
    if "template" not in entry:  # written by a server, which keeps no notes
        return None
    # with no note nothing was written yet; an earlier version made none
    return data if "note" in entry else None if _fills(entry["template"], data) else data


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
    That can be told where it was written with its entry, or the entry has a ``template``, the text that it was filled
    in from. A link that somebody else made or re-pointed meanwhile stays, and nothing is written through it.

    Raises:
        TargetError: it cannot be written, or its copy is gone.
    """
    path = Path(entry["path"])
    real = Path(entry.get("real") or os.path.realpath(path))
    try:
        data = None if entry["copy"] is None else Path(entry["copy"]).read_bytes()
    except FileNotFoundError:
        raise TargetError(f"the copy {entry['copy']} of {path} is gone, so it cannot be put back") from None
    try:
        kept = list((_read_note(entry) or {"kept": []})["kept"])
        kept += _relink(path, entry, data)
        if os.path.realpath(real) != str(real):
            moved = Path(os.path.realpath(path))
            if data is None or _inode(moved) != entry.get("inode"):
                copy = "" if data is None else f"; what it was is kept as {_keep(real, data)}"
                notice(f"{real} was made a link by somebody else meanwhile, and is left as it is{copy}")
                _say_kept(path, kept)
                return
            real = moved
        if data is None:
            _remove(path, real, entry, kept)
        else:
            _restore(real, entry, data, kept)
            _say_kept(path, kept)
        if "note" in entry:
            Path(entry["note"]).unlink(missing_ok=True)
    except OSError as error:
        raise TargetError(f"cannot put back {path}: {error.strerror or error}") from None


def _remove(path: Path, real: Path, entry: Mapping[str, Any], kept: list[str]) -> None:
    """Remove a file where there was none, unless somebody else wrote it."""
    if _foreign(real, entry, None) is None:
        if not kept:
            with suppress(FileNotFoundError, NotADirectoryError):
                real.unlink()
            for made in entry.get("made", []):  # innermost first
                with suppress(OSError):  # something of the user's is in it by now, or it is gone
                    os.rmdir(made)
            return
        write(real, Path(kept[-1]).read_bytes())  # a later run had written over it
    notice(f"{path} was written by somebody else meanwhile, and is left as it is")


def _restore(real: Path, entry: Mapping[str, Any], data: bytes, kept: list[str]) -> None:
    """Give a file its content and what else belongs to it again."""
    if (edited := _foreign(real, entry, data)) is not None:
        kept.append(_keep(real, edited))
        if _shared(real, entry):  # its other names are somebody else's
            real.unlink()
    if not real.is_file() or real.read_bytes() != data:
        write(real, data)
    if "mode" in entry:
        _redress(real, entry)


def _say_kept(path: Path, kept: list[str]) -> None:
    if kept:
        versions = "that version is" if len(kept) == 1 else f"the {len(kept)} versions are"
        notice(f"{path} was changed by somebody else meanwhile; {versions} kept as {', '.join(kept)}")


def _relink(path: Path, entry: Mapping[str, Any], original: bytes | None) -> list[str]:
    """Make a path again the link that it was, unless somebody else made it another; returns what was kept."""
    if "link" not in entry:  # written by an earlier version
        return []
    place = Path(entry.get("place", path))
    if os.path.realpath(path.parent) != str(place.parent):
        notice(f"{path} leads elsewhere by now and is left as it is; what was changed is {place}")
    there = os.readlink(place) if place.is_symlink() else None
    if there is None and place.is_dir():
        return []
    if entry["link"] in (there, None):
        return []
    if there is not None:
        notice(f"{path} was made to lead to {there} by somebody else meanwhile, and is left so")
        return []
    edited = _foreign(place, entry, original)
    kept = [] if edited is None else [_keep(place, edited)]
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(entry["link"], place)
    return kept


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
