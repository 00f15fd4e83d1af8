"""Removing a folder of our own with all that is in it, and nothing that is only mounted there."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from tunewright.store.files import printable

_MOUNTS = Path("/proc/self/mountinfo")
_log = logging.getLogger(__name__)


def mount_points() -> frozenset[str]:
    """Return where something is mounted, links resolved; empty where the system does not tell."""
    try:
        lines = os.fsdecode(_MOUNTS.read_bytes()).splitlines()
    except OSError:
        return frozenset()
    # the fifth field, see proc(5); blanks and the like are written as octal numbers
    return frozenset(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4]) for line in lines)


def remove_tree(folder: Path) -> list[str]:
    """Remove a folder that we made, but nothing that is mounted below it: that belongs to somebody else.

    A bind mount may lie on the folder's own file system, so the list of mounts is read; another device says so too,
    where there is no such list. Links are removed, never followed. What cannot be removed stays, as does a folder that
    is none.

    Returns:
        The mount points that were left, with the folders above them; a warning is logged, too.
    """
    left: list[str] = []
    with suppress(OSError):
        real = os.path.join(os.path.realpath(folder.parent), folder.name)
        parent = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY)
        try:
            _remove(parent, real, mount_points(), os.lstat(real).st_dev, left)
        finally:
            os.close(parent)
    for point in left:
        _log.warning("%s is a mount point, so it was left with all that is in it; unmount it", printable(point))
    return left


def _remove(parent: int, path: str, mounts: frozenset[str], device: int, left: list[str]) -> None:
    """Remove a directory by its open parent; errors leave what they are about."""
    if path in mounts:
        left.append(path)
        return
    name = os.path.basename(path)
    with suppress(OSError):
        here = _opened(parent, name)
        try:
            if os.fstat(here).st_dev != device:
                left.append(path)
                return
            with suppress(OSError):
                os.fchmod(here, 0o700)  # a program may leave folders that not even we may change
            with os.scandir(here) as entries:
                inside = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for entry, is_folder in inside:
                below = os.path.join(path, entry)
                if is_folder:
                    _remove(here, below, mounts, device, left)
                elif below in mounts:
                    left.append(below)
                else:
                    with suppress(OSError):
                        os.unlink(entry, dir_fd=here)
        finally:
            os.close(here)
        os.rmdir(name, dir_fd=parent)


def _opened(parent: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)
