"""The account that a server of our own runs as: our own or, where we are root, ``nobody``: servers refuse root."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any


def server_user() -> str | None:
    """Return the account the server runs as: None for our own, ``nobody`` for root, whom database servers refuse."""
    return "nobody" if os.geteuid() == 0 else None


def open_to_all(path: Path) -> bool:
    """Whether every account can reach what lies in a directory; those that are not there yet do not matter."""
    return all(p.stat().st_mode & 0o001 for p in [path, *path.parents] if p.exists())


def as_user() -> dict[str, Any]:
    """Return the arguments of ``subprocess`` that make a process run as the server's account."""
    user = server_user()
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def hand_over(folder: str | Path) -> None:
    """Give a directory to the account that the server runs as."""
    user = server_user()
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
