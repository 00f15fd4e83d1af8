"""[service] of a command target's description: how a server is started, asked, reloaded and stopped."""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunewright.envs.command_places import PLACE
from tunewright.envs.command_table import Table, check_places
from tunewright.errors import ConfigError, unknown
from tunewright.space import Config, Space
from tunewright.store.files import printable

#: placeholders that a description with [service] has besides the others
PLACES = ("port", "port2", "port3", "datadir")
LIMITS_S: Mapping[str, float] = {
    "prepare_limit": 600.0,
    "fill_limit": 600.0,
    "restore_limit": 120.0,
    "start_limit": 60.0,
    "ready_limit": 30.0,
    "reload_limit": 30.0,
    "warmup_limit": 120.0,
    "stop_limit": 60.0,
}
_COMMANDS = ("prepare", "fill", "restore", "warmup")
KEYS = {
    "start", "daemon", "pid_file", "ready", "load", "tool", "arguments", "metrics", "stop", "reload", "restart_for",
    "keep", "log", "data", "load_limit", *_COMMANDS, *LIMITS_S,
}  # fmt: skip
_READY = ("command", "tcp", "unix", "http", "line")


@dataclass(frozen=True, kw_only=True)
class Ready:
    """When a server can be used.

    Attributes:
        kind: what is asked.
        value: host and port, path, URL or regular expression; "" for a command.
        words: of the command.
    """

    kind: Literal["command", "tcp", "unix", "http", "line"]
    value: str = ""
    words: tuple[str, ...] = ()

    def says(self, value: str) -> str:
        """Say what is asked, for messages."""
        return {"command": self.words[0] if self.words else "", "line": f"a line like {value!r}"}.get(
            self.kind, f"{self.kind} {value}"
        )


@dataclass(frozen=True, kw_only=True)
class Service:
    """What [service] says; keys as there, empty where they are not given.

    Attributes:
        start: starts the server; empty for one of the user's that runs already.
        daemon: the start command puts the server into the background and is through.
        pid_file: where the server then writes its number; else it is found by what listens.
        ready: when it can be used.
        stop: command; or the number of a signal.
        reload: command; or the number of a signal; None where a change needs a restart.
        restart_for: parameters whose change needs a restart, besides those with ``restart``; None for all.
        keep: the server runs on between trials.
        log: of the server itself, for messages.
        data: folder below ``{rundir}`` that it keeps its data in; what it holds once prepared and filled is copied, and
            each start begins with that copy.
        commands: ``prepare`` (once, before the first start), ``fill`` (once, while it runs), ``restore`` (before each
            start) and ``warmup`` (before each load).
        limits: of each step, in seconds.
        load_s: of the load; None leaves it to the limit of the whole run.
    """

    start: tuple[str, ...]
    daemon: bool
    pid_file: str | None
    ready: Ready
    stop: tuple[str, ...] | int
    reload: tuple[str, ...] | int | None
    restart_for: tuple[str, ...] | None
    keep: bool
    log: str | None
    data: str | None
    commands: Mapping[str, tuple[str, ...]]
    limits: Mapping[str, float]
    load_s: float | None

    @property
    def private(self) -> bool:
        """Whether it listens on a free port or in a folder of its own, beside any other."""
        texts = (*self.start, self.ready.value, *self.ready.words)
        return bool(self.start) and any(f"{{{name}}}" in text for text in texts for name in ("port", "rundir"))

    def total_s(self) -> float | None:
        """Return the limit of a whole run that these limits make; None where the load has none of its own."""
        if self.load_s is None:
            return None
        steps = ("restore_limit", "start_limit", "ready_limit", "warmup_limit", "stop_limit")
        return self.load_s + sum(self.limits[step] for step in steps)

    def prepare_s(self) -> float:
        """Return the limit of what is done once a session."""
        steps = ("prepare_limit", "fill_limit", "restore_limit", "start_limit", "ready_limit", "stop_limit")
        return sum(self.limits[step] for step in steps)


def read_service(
    path: Path,
    data: Any,
    *,
    shell: bool,
    params: Collection[str],
    known: Collection[str],
    files: Collection[str],
) -> Service:
    """Read [service].

    Args:
        path: of the description.
        data: the table.
        shell: commands may be texts for the shell.
        params: names of parameters.
        known: names that placeholders may have.
        files: texts of the configuration files.

    Raises:
        ConfigError: something is missing or wrong; the message says where.
    """
    table = Table(f"{path}, [service]", data, KEYS)
    start = table.command("start", shell) if "start" in table.data else ()
    pid_file, keep = table.get("pid_file", str), table.get("keep", bool, False)
    commands = {key: table.command(key, shell) for key in _COMMANDS if key in table.data}
    restart_for = table.get("restart_for", (list, str), [])
    if isinstance(restart_for, str) and restart_for != "all":
        raise ConfigError(f"{table.where}: restart_for must be a list of parameters, or 'all'")
    names = None if restart_for == "all" else tuple(table.texts("restart_for") if restart_for else ())
    for name in names or ():
        if name not in params:
            raise ConfigError(f"{table.where}: restart_for: {unknown('parameter', name, params)}")
    service = Service(
        start=start,
        daemon=table.get("daemon", bool, pid_file is not None),
        pid_file=pid_file,
        ready=_ready(table, start, shell, mentions((*start, *files), "port")),
        stop=_command_or_signal(table, "stop", shell) if "stop" in table.data else int(signal.SIGTERM),
        reload=_command_or_signal(table, "reload", shell) if "reload" in table.data else None,
        restart_for=names,
        keep=keep,
        log=table.get("log", str),
        data=table.get("data", str),
        commands=commands,
        limits={key: table.seconds(key, default) or default for key, default in LIMITS_S.items()},
        load_s=table.seconds("load_limit"),
    )
    _check(table, service)
    for key, words in {
        "start": start, "ready": (*service.ready.words, service.ready.value), **commands,
        **{k: getattr(service, k) for k in ("stop", "reload") if isinstance(getattr(service, k), tuple)},
    }.items():  # fmt: skip
        check_places(f"{path}, [service], {key}", words, known)
    return service


def _check(table: Table, service: Service) -> None:
    """Refuse what does not go together."""
    where = table.where
    if not service.start:
        for key in (
            "daemon",
            "pid_file",
            "stop",
            "reload",
            "restart_for",
            "keep",
            "prepare",
            "fill",
            "restore",
            "log",
            "data",
        ):
            if key in table.data:
                raise ConfigError(
                    f"{where}: {key} needs 'start'; a server of yours that runs already is changed by [hooks]"
                )
    if service.daemon and service.pid_file is None and service.ready.kind not in ("tcp", "unix"):
        raise ConfigError(
            f"{where}: a server that puts itself into the background needs pid_file, or ready with tcp or unix, by "
            "which its process is found"
        )
    if service.daemon and service.ready.kind == "line" and service.log is None:
        raise ConfigError(
            f"{where}: ready by a line of a server in the background needs 'log', where it prints that line"
        )
    if service.data is not None and (not service.data.startswith("{rundir}/") or ".." in Path(service.data).parts):
        raise ConfigError(f"{where}: data must be a folder below {{rundir}}, which is made for each start and removed")
    if "reload" in table.data and not service.keep:
        raise ConfigError(f"{where}: reload is for a server that is kept; say keep = true")


def _ready(table: Table, start: tuple[str, ...], shell: bool, port: bool) -> Ready:
    """Read ``ready``; a server with a free port is ready when that answers."""
    data = table.get("ready", (dict, list, str))
    if data is None:
        if not start:
            return Ready(kind="command")
        if port:
            return Ready(kind="tcp", value="127.0.0.1:{port}")
        raise ConfigError(
            f"{table.where}: 'ready' is missing: say when the server can be used, such as "
            'ready = { tcp = "127.0.0.1:6379" }; a command, unix, http and line can be asked, too'
        )
    if not isinstance(data, dict):
        return Ready(kind="command", words=table.command("ready", shell))
    inner = Table(f"{table.where}, ready", data, _READY)
    given = [key for key in _READY if key in data]
    if len(given) != 1:
        raise ConfigError(f"{inner.where}: give exactly one of {', '.join(_READY)}")
    kind: Any = given[0]
    if kind == "command":
        return Ready(kind="command", words=inner.command("command", shell))
    value = inner.get(kind, str, needed=True)
    wrong = {
        "tcp": re.fullmatch(r".+:(\d{1,5}|\{[\w.\-]+\})", value) is None and "write HOST:PORT",
        "http": re.match(r"https?://", value) is None and "write http://HOST:PORT/PATH",
        "unix": not value.strip() and "write the path of a socket",
    }.get(kind)
    if kind == "line":
        inner.pattern("line", group=False)
    if wrong:
        raise ConfigError(f"{inner.where}: {wrong}, not {printable(repr(value), 60)}")
    return Ready(kind=kind, value=value)


def _command_or_signal(table: Table, key: str, shell: bool) -> tuple[str, ...] | int:
    """Read a command, or the name of a signal such as ``SIGHUP``."""
    value = table.get(key, (list, str), needed=True)
    if isinstance(value, str) and re.fullmatch(r"(SIG)?[A-Z]+\d?", value):
        name = value if value.startswith("SIG") else f"SIG{value}"
        names = [s.name for s in signal.Signals]
        if name not in names:
            raise ConfigError(f"{table.where}: {key}: {unknown('signal', name, names)}")
        return int(signal.Signals[name])
    return table.command(key, shell)


def needed(service: Service, space: Space, was: Config, now: Config, *, applied: bool) -> str:
    """Return what a kept server needs for another configuration: "", ``reload`` or ``restart``.

    Args:
        service: what the description says.
        space: the parameters.
        was: what it was started with, or last given.
        now: what is to be measured.
        applied: the description has a command of its own that gives it to the server.
    """
    changed = {name for name in {*was, *now} if was.get(name) != now.get(name)}
    if not changed:
        return ""
    marked = {n for n in space.params if space.params[n].restart in ("restart", "rebuild")}
    if service.restart_for is None or changed & (marked | set(service.restart_for)):
        return "restart"
    if service.reload is not None:
        return "reload"
    return "" if applied else "restart"


def mentions(words: Collection[str], name: str) -> bool:
    """Whether a placeholder is among some texts."""
    return any(name in PLACE.findall(word) for word in words)
