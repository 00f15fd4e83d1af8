"""Shared memory of PostgreSQL servers of our own that were killed: on Linux it stays until it is freed by name.

A server that is stopped frees it; one that ends with a measurement's hard limit leaves a small System V segment and
about 1 MB below /dev/shm, of which a container may have no more than 64 MB. PostgreSQL itself frees what it finds when
a server starts in the same directory again, which ours never do. Layouts are from its sources, the same from version
10 to 18: ``PGShmemHeader`` of storage/pg_shmem.h, ``dsm_control_header`` of storage/ipc/dsm.c.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

IN_USE = "pre-existing shared memory block"  # what a server says that finds its name taken

_SEGMENTS, _FILES = Path("/proc/sysvipc/shm"), Path("/dev/shm")
_MAGIC = 679834894  # PGShmemMagic
_HEADER = struct.Struct("@iiNNIPQQ")  # magic, creator, size, free offset, handle of the control file, -, device, inode
_CONTROL = struct.Struct("@IIII")  # magic, items that were used, most items, padding
_ITEM = struct.Struct("@IINNP?7x")  # handle, references, first page, pages, -, pinned
_READ_ONLY, _REMOVE = 0o10000, 0  # SHM_RDONLY and IPC_RMID of sys/shm.h


def free(home: Path) -> None:
    """Free the memory of the killed servers whose data directories lie in a folder; living ones keep theirs.

    Does nothing where the system does not list its segments.
    """
    for lock in home.glob("*/postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError, struct.error):
            segment = int(lock.read_text(encoding="utf-8").splitlines()[6].split()[1])
            if _attached(segment) == 0:
                _free(segment, lock.parent)


def _attached(segment: int) -> int | None:
    """Return how many processes use a segment; None where there is none of this number."""
    title, *rows = (line.split() for line in _SEGMENTS.read_text(encoding="ascii").splitlines())
    number, uses = title.index("shmid"), title.index("nattch")
    return next((int(row[uses]) for row in rows if int(row[number]) == segment), None)


def _free(segment: int, data: Path) -> None:
    """Free a segment and the files that it leads to, if it was made for this data directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(segment, None, _READ_ONLY)
    if address in (None, ctypes.c_void_p(-1).value):
        return
    magic, _, _, _, control, _, device, inode = _HEADER.unpack(ctypes.string_at(address, _HEADER.size))
    libc.shmdt(ctypes.c_void_p(address))
    about = data.stat()
    if (magic, device, inode) != (_MAGIC, about.st_dev, about.st_ino):
        return  # the number was given to somebody else
    with contextlib.suppress(FileNotFoundError):
        for handle in [*_handles(_file(control).read_bytes()), control]:
            _file(handle).unlink(missing_ok=True)
    libc.shmctl(segment, _REMOVE, None)


def _file(handle: int) -> Path:
    return _FILES / f"PostgreSQL.{handle}"


def _handles(control: bytes) -> Iterator[int]:
    """Yield the handles of the memory that a control file lists."""
    _, used, most, _ = _CONTROL.unpack_from(control)
    for item in range(min(used, most)):
        handle, references, *_ = _ITEM.unpack_from(control, _CONTROL.size + item * _ITEM.size)
        if references:
            yield handle
