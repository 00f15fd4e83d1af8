"""How a session's lock is taken: in a file here, or in PostgreSQL for all machines."""

from __future__ import annotations

import fcntl
import hashlib
import time
from contextlib import suppress
from typing import IO


def take(file: IO[str]) -> None:
    """Lock a file, unless a process keeps it; ``held`` takes it for an instant, which must not look like that."""
    for _ in range(3):
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def advisory_key(text: str) -> int:
    """Return a number for PostgreSQL's advisory locks, 64 bits with sign."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
