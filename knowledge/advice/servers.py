"""The facts of the machine, and what is set now: in a live server, or in a configuration file."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.space.facts import machine_facts
from tunewright.store.dsn import read_dsn
from tunewright.store.files import read_text

_ANSWER_S = 5.0
_HERE = ("", "localhost", "127.0.0.1", "::1", socket.gethostname())
_DATA = {"postgres": "/var/lib/postgresql", "mariadb": "/var/lib/mysql", "redis": "/var/lib/redis"}
_PROGRAMS = {"postgres": ("postgres",), "mariadb": ("mariadbd", "mysqld"), "redis": ("redis-server", "valkey-server")}


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is known of a server.

    Attributes:
        now: its settings, by name.
        version: such as 15.06 for 15.6; 0 where it is not known.
        here: whether it runs on this machine.
        data: its directory; "" where it is not known.
        fragmentation: memory that Redis has over what its data need; 1 where it is not known.
    """

    now: Mapping[str, str] = field(default_factory=dict)
    version: float = 0.0
    here: bool = True
    data: str = ""
    fragmentation: float = 1.0


def version_number(text: str) -> float:
    """Return a version for comparisons; 0 where there is none in the text.

    >>> version_number("10.6.12-MariaDB"), version_number("PostgreSQL 15.14"), version_number("none")
    (10.06, 15.14, 0.0)
    """
    found = re.search(r"(\d+)(?:\.(\d{1,2}))?", text)
    return float(found[1]) + float(found[2] or 0) / 100 if found else 0.0


def memory_bytes() -> int:
    """Return the memory that processes here may use: the machine's, or less where a control group limits it."""
    ram = int(machine_facts()["RAM_BYTES"])
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            ram = min(ram, int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")))
    return ram


def rotational(path: str) -> int:
    """Return 1 for a directory on a disk with moving parts, 0 for one without, and -1 where that is not known."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        device = place.stat().st_dev
        block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve(strict=True)
        for folder in (block, block.parent):  # a partition has its queue in the disk's folder
            if (folder / "queue" / "rotational").exists():
                return int((folder / "queue" / "rotational").read_text(encoding="ascii"))
    except (OSError, ValueError):
        pass
    return -1


def installed_version(system: str) -> float:
    """Return the version of the system's server that is installed here; 0 for none."""
    for name in _PROGRAMS[system]:
        program = shutil.which(name)
        if program is None and system == "postgres":
            clusters = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
            program = str(clusters[-1]) if clusters else None
        if program is not None:
            with suppress(OSError, subprocess.SubprocessError):
                done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_ANSWER_S)
                said = done.stdout.partition("v=" if system == "redis" else "Ver" if system == "mariadb" else ")")
                return version_number(said[2])
    return 0.0


def data_folder(system: str, server: Server) -> str:
    """Return where the data lie, as far as that is known."""
    return server.data or server.now.get("datadir", "") or server.now.get("dir", "") or _DATA[system]


def live(system: str, dsn: str) -> Server:
    """Ask a server.

    Raises:
        TargetError: it does not answer.
        ConfigError: the address cannot be read.
    """
    return {"postgres": _postgres, "mariadb": _mariadb, "redis": _redis}[system](dsn)


def _postgres(dsn: str) -> Server:
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        raise missing_extra("psycopg", "postgres", "asking a PostgreSQL server") from None
    if not read_dsn(dsn).clear:
        raise ConfigError("cannot read the connection string; write 'host=... user=...' or postgresql://HOST/DB")
    try:
        with psycopg.connect(dsn, connect_timeout=int(_ANSWER_S)) as connection:
            rows = connection.execute("SELECT name, current_setting(name) FROM pg_settings").fetchall()
            host = str(conninfo_to_dict(dsn).get("host") or "")
    except psycopg.Error as error:
        said = str(error).strip().splitlines()
        raise TargetError(f"cannot ask the PostgreSQL server: {said[0] if said else type(error).__name__}") from None
    now = {str(name): str(value) for name, value in rows}
    return Server(
        now=now, version=version_number(now.get("server_version", "")), here=host in _HERE or host.startswith("/"),
        data=now.get("data_directory", ""),
    )  # fmt: skip


def _mariadb(dsn: str) -> Server:
    url = _url(dsn, ("mariadb", "mysql"), "mariadb://USER@HOST:3306 or mariadb://USER@localhost/?socket=/PATH")
    program = shutil.which("mariadb") or shutil.which("mysql")
    if program is None:
        raise TargetError("no client 'mariadb' or 'mysql' is installed to ask the server with; give --config FILE")
    words = [program, "--batch", "--skip-column-names", "--raw", "--connect-timeout=5"]
    words += [f"--user={unquote(url.username)}"] if url.username else []
    socket_path = parse_qs(url.query).get("socket", [""])[0]
    if socket_path:
        words.append(f"--socket={socket_path}")
    elif url.hostname:
        words += [f"--host={url.hostname}", f"--port={url.port or 3306}"]
    environment = {**os.environ, **({"MYSQL_PWD": unquote(url.password)} if url.password else {})}
    try:
        done = subprocess.run(
            [*words, "--execute=SHOW GLOBAL VARIABLES"], capture_output=True, text=True, timeout=2 * _ANSWER_S,
            env=environment, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise TargetError(f"cannot ask the MariaDB server: {error}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise TargetError(f"cannot ask the MariaDB server: {said[-1] if said else 'its client failed'}")
    now = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    return Server(
        now=now, version=version_number(now.get("version", "")), here=bool(socket_path) or (url.hostname or "") in _HERE
    )


def _redis(dsn: str) -> Server:
    url = _url(dsn, ("redis", "valkey", "unix"), "redis://:PASSWORD@HOST:6379 or unix:///PATH")
    try:
        connection = (
            socket.socket(socket.AF_UNIX)
            if url.scheme == "unix"
            else socket.create_connection((url.hostname or "localhost", url.port or 6379), timeout=_ANSWER_S)
        )
        with connection:
            connection.settimeout(_ANSWER_S)
            if url.scheme == "unix":
                connection.connect(url.path)
            with connection.makefile("rwb") as file:
                if url.password:
                    _ask(file, "AUTH", *([unquote(url.username)] if url.username else []), unquote(url.password))
                pairs = _ask(file, "CONFIG", "GET", "*")
                info = str(_ask(file, "INFO"))
    except OSError as error:
        raise TargetError(f"cannot ask the Redis server: {error.strerror or error}") from None
    if not isinstance(pairs, list):
        raise TargetError("the Redis server did not answer CONFIG GET")
    about = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fragmentation = about.get("mem_fragmentation_ratio", "1") if float(about.get("used_memory", 0)) > 2**28 else "1"
    return Server(
        now=dict(zip(map(str, pairs[::2]), map(str, pairs[1::2]), strict=False)),
        version=version_number(about.get("redis_version", "")), fragmentation=float(fragmentation),
        here=url.scheme == "unix" or (url.hostname or "") in _HERE,
    )  # fmt: skip


def _url(dsn: str, schemes: tuple[str, ...], how: str) -> SplitResult:
    try:
        url = urlsplit(dsn)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme not in schemes or port == 0:
        raise ConfigError(f"cannot read the address; write {how}")
    return url


def _ask(file: Any, *words: str) -> Any:
    """Send a command of Redis's protocol (RESP 2) and return the answer.

    Raises:
        TargetError: the server refuses it.
    """
    parts = [w.encode() for w in words]
    file.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
    file.flush()
    return _answer(file)


def _answer(file: Any) -> Any:
    line = file.readline(65536)
    kind, rest = line[:1], line[1:].strip()
    if kind == b"-":
        raise TargetError(f"the Redis server says: {rest.decode(errors='replace')[:200]}")
    if kind == b"+":
        return rest.decode(errors="replace")
    if kind in (b":", b"$", b"*") and re.fullmatch(rb"-?\d{1,9}", rest):
        count = int(rest)
        if kind == b":":
            return count
        if kind == b"$":
            return file.read(count + 2)[:-2].decode(errors="replace") if count >= 0 else ""
        return [_answer(file) for _ in range(max(count, 0))]
    raise TargetError("what answers at this address is no Redis server")


def configured(system: str, path: Path) -> Server:
    """Read a configuration file: ``postgresql.conf``, ``my.cnf`` or ``redis.conf``; what it includes is not read.

    Raises:
        ConfigError: it cannot be read.
    """
    now = {name: value for _, name, value in lines_of(system, read_text(path, "configuration"))}
    return Server(now=now, data=now.get("data_directory", ""))


def lines_of(system: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (number of the line from 0, setting, value); of MariaDB the server's sections alone."""
    section = ""
    for number, line in enumerate(text.splitlines()):
        if system == "mariadb" and (head := re.match(r"\s*\[([^]]+)\]", line)):
            section = head[1].lower()
            continue
        if system == "mariadb" and not re.fullmatch(r"(mysqld|mariadbd?|server)([-.\d]*)", section):
            continue
        between = r"\s*=\s*|\s+" if system == "postgres" else r"\s*=\s*" if system == "mariadb" else r"\s+"
        found = re.match(rf"\s*([A-Za-z][\w.-]*)(?:{between})(.*?)\s*$", line)
        if found is None:
            continue
        value = found[2] if system == "redis" else re.sub(r"\s+#.*$", "", found[2])
        name = found[1] if system == "redis" else found[1].lower()
        yield number, name.replace("-", "_") if system == "mariadb" else name, value.strip().strip("'\"")
