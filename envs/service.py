"""A server around the measured load of a command target: its start, readiness, reload and end.

A server is started for each run and lives in the measuring process's tree, so that it ends with it whatever happens; or
it is kept between runs, and then started outside it, as the user's own commands are. Either way it is written down
before it runs, in the folder of its own that ``{rundir}`` names, and :func:`end_left` ends what a killed session left.
"""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tunewright.envs import service_process as processes
from tunewright.envs.command_metrics import gained, log_size
from tunewright.envs.service_file import mentions
from tunewright.envs.service_instance import (
    CLOCK_TICKS,
    LOG,
    NOTE,
    STATE,
    Instance,
    in_background,
    main_of,
    read_state,
    run_command,
)
from tunewright.envs.service_process import Process
from tunewright.errors import TargetError
from tunewright.measuring import hooks
from tunewright.space import Config
from tunewright.store.trees import remove_tree

_FIRST_POLL_S, _LAST_POLL_S = 0.02, 0.25
_BEHIND_S = 0.5  # within which one that went into the background listens there
_SOCKET_PATH = 107  # bytes, unix(7)
_ASK_S = 5.0  # for one question whether it is ready


# -- starting ---------------------------------------------------------------------------------------


def start(instance: Instance, config: Config, ports: Mapping[str, str]) -> None:
    """Start a server and wait until it can be used.

    Args:
        instance: of which nothing runs yet.
        config: that it is started with, for the next run.
        ports: its free ports by placeholder.

    Raises:
        TargetError: its address is taken, it could not be started, ended, or was not ready in time; then nothing of it
            is left.
    """
    service = instance.service
    if taken := taken_by(instance):
        raise TargetError(taken)
    token, log_before = uuid.uuid4().hex, log_size(instance.logs[0])
    pid_file = instance.cwd / instance.text(service.pid_file) if service.pid_file else None
    if pid_file is not None:
        with suppress(OSError):  # of one that is gone: it would name another process
            pid_file.unlink()
    instance.note(
        config=dict(config), ports=dict(ports), busy=True, runner=os.getpid(), token=token, begun=processes.now_ticks(),
        daemon=service.daemon, pid_file=str(pid_file or ""), listens=_listens(instance), main=None,
        stop=service.stop if isinstance(service.stop, int) else instance.words(service.stop),
        stop_limit=service.limits["stop_limit"], cwd=str(instance.cwd), env=dict(instance.env),
        logs=[str(path) for path in instance.logs],
    )  # fmt: skip
    words = instance.words(service.start)
    log = instance.folder / LOG
    words = processes.logged_words(log, words) if service.daemon else processes.detach_words(
        instance.folder / NOTE, log, words
    )  # fmt: skip
    try:
        _run_start(instance, words, {**instance.env, processes.MARK: token})
        wait_ready(instance, log_before)
        if service.daemon:
            main = in_background(instance.state)
            if main is None:
                found_by = f"{pid_file} names no process" if pid_file else f"nothing listens on {_listens(instance)}"
                raise TargetError(f"the server was started, but its process was not found: {found_by}")
            instance.note(main=[main.pid, main.started])
    except BaseException:
        kill(instance.folder)
        raise


def _run_start(instance: Instance, words: Sequence[str], env: Mapping[str, str]) -> None:
    service, limit_s = instance.service, instance.service.limits["start_limit"]
    if service.keep:
        done = hooks.run(words, cwd=str(instance.cwd), env=env, limit_s=limit_s)
        code, output = done.code, done.output
    else:
        code, output = processes.command(words, cwd=instance.cwd, env=env, limit_s=limit_s)
    if code is None:
        raise TargetError(
            f"the start command took more than {limit_s:g} s and was ended{processes.tail(instance.logs)}"
        )
    if code and service.daemon:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        raise TargetError(f"the start command {how}{processes.tail(instance.logs)}")
    if code:
        why = output.strip().splitlines()[-1:] or [f"code {code}"]
        raise TargetError(f"cannot start {instance.words(service.start)[0]!r} in {instance.cwd}: {why[0][:200]}")


def addresses(instance: Instance) -> list[tuple[str, int]]:
    """Return the addresses that a server will listen on, as far as its description says."""
    service, found = instance.service, []
    value = instance.text(service.ready.value)
    with suppress(ValueError):
        if service.ready.kind == "tcp":
            host, _, port = value.rpartition(":")
            found.append((host.strip("[]"), int(port)))
        elif service.ready.kind == "http":
            parts = urlsplit(value)
            found.append((parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)))
    if mentions(service.start, "port"):
        found.append(("127.0.0.1", int(str(instance.names["port"]))))
    return list(dict.fromkeys(found))


def _listens(instance: Instance) -> str:
    value = instance.text(instance.service.ready.value)
    if instance.service.ready.kind == "unix":
        return f"unix {instance.cwd / value}"
    found = addresses(instance)
    return f"tcp {found[0][0]}:{found[0][1]}" if found else ""


def taken_by(instance: Instance) -> str:
    """Say in words who listens on a server's address already; "" where nobody does."""
    for host, port in addresses(instance):
        if processes.tcp_taken(host, port):
            name = processes.who(processes.listeners(port))
            return f"port {port} is taken already, by {name}; stop it, or let the server listen on {{port}}, a free one"
    if instance.service.ready.kind == "unix":
        path = str(instance.cwd / instance.text(instance.service.ready.value))
        if len(os.fsencode(path)) > _SOCKET_PATH:
            return (
                f"the path {path} is longer than the {_SOCKET_PATH} bytes that a socket's may have; let the work files "
                "lie elsewhere with --dir, or let the server listen on {port}"
            )
        if processes.answers_unix(path):
            name = processes.who(processes.unix_listeners(path))
            return f"the socket {path} is taken already, by {name}; stop it, or name a socket in {{rundir}}"
    return ""


def wait_ready(instance: Instance, log_before: tuple[int, int] | None = None) -> None:
    """Wait until a server can be used.

    Args:
        instance: was started.
        log_before: how long its log was before it was started; None for one that ran before, of which no line is
            waited for.

    Raises:
        TargetError: it ended, or was not ready in time; the message has the last lines of its log.
    """
    service = instance.service
    limit_s = service.limits["ready_limit"]
    deadline, pause = time.monotonic() + limit_s, _FIRST_POLL_S
    while True:
        ready = answers(instance, log_before, deadline)
        if service.start:
            main = instance.main() if not (service.daemon and not ready) else None
            if main is not None and not main.alive:
                raise TargetError(_gone(instance, main))
        if ready:
            return
        if time.monotonic() >= deadline:
            asked = service.ready.says(instance.text(service.ready.value))
            log = processes.tail(instance.logs) if service.start else ""
            raise TargetError(f"the server was not ready within {limit_s:g} s (asked: {asked}){log}")
        time.sleep(pause)
        pause = min(pause * 1.5, _LAST_POLL_S)


def _gone(instance: Instance, main: Process) -> str:
    """Say why a server that should stay in the foreground is not there any more: it ended, or went into the background.

    One in the background is written down as the main process, so that it is ended as well.
    """
    how, deadline = main.ended(), time.monotonic() + _BEHIND_S
    while how in ("ended", "exited with code 0") and not instance.service.daemon:
        state = {**instance.state, "daemon": True}
        behind = in_background(state)
        if behind is not None:
            instance.note(daemon=True, main=[behind.pid, behind.started])
            return (
                f"the server went into the background, where {processes.who([behind])} goes on, and its start command "
                "ended: say 'daemon = true' in [service], or let it stay in the foreground, such as by nginx's "
                "'daemon off;' or redis-server's '--daemonize no'"
            )
        if time.monotonic() > deadline:
            break
        time.sleep(_FIRST_POLL_S)
    return f"the server {how} before it was ready{processes.tail(instance.logs)}"


def answers(instance: Instance, log_before: tuple[int, int] | None = None, deadline: float | None = None) -> bool:
    """Whether a server can be used now; arguments as for :func:`wait_ready`."""
    ready = instance.service.ready
    value = instance.text(ready.value)
    left = _ASK_S if deadline is None else max(min(_ASK_S, deadline - time.monotonic()), 0.1)
    if ready.kind == "tcp":
        host, _, port = value.rpartition(":")
        return processes.answers_tcp(host.strip("[]"), int(port), left)
    if ready.kind == "unix":
        return processes.answers_unix(str(instance.cwd / value), left)
    if ready.kind == "http":
        return _answers_http(value, left)
    if ready.kind == "line":
        return log_before is None or _has_line(instance, value, log_before)
    if not ready.words:
        return True
    code, _ = processes.command(instance.words(ready.words), cwd=instance.cwd, env=instance.env, limit_s=left)
    return code == 0


def _answers_http(url: str, timeout_s: float) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s):
            return True
    except urllib.error.HTTPError as error:  # it answers; whether it has this page is not asked
        error.close()
        return error.code < 500
    except (OSError, ValueError):
        return False


def _has_line(instance: Instance, pattern: str, before: tuple[int, int]) -> bool:
    for number, log in enumerate(instance.logs):
        with suppress(TargetError):
            text = gained("ready", log, before if number == 0 else (0, 0))
            if re.search(pattern, text, re.MULTILINE):
                return True
    return False


# -- between runs -----------------------------------------------------------------------------------


def reload(instance: Instance) -> None:
    """Let a server read its configuration again, and wait until it can be used."""
    how = instance.service.reload
    if isinstance(how, int):
        main = instance.main()
        if main is not None:
            main.send(how)
    elif how is not None:
        instance.command("reload", how, instance.service.limits["reload_limit"])
    wait_ready(instance)


def check_alive(instance: Instance) -> None:
    """Raise TargetError where a server is gone after its load."""
    main = instance.main()
    if main is not None and not main.alive:
        raise TargetError(f"the server {main.ended()} while the load ran{processes.tail(instance.logs)}")


# -- the end ----------------------------------------------------------------------------------------


def stop(folder: Path) -> None:
    """Stop a server as its description said when it was started; nothing of it is left.

    Args:
        folder: of the server.

    Raises:
        TargetError: the stop command failed, or the server did not go in time and was killed.
    """
    state = read_state(folder)
    main, how, limit_s = (
        main_of(folder, state),
        state.get("stop", int(signal.SIGTERM)),
        float(state.get("stop_limit", 5)),
    )
    deadline = time.monotonic() + limit_s
    try:
        if isinstance(how, list):
            run_command("stop", how, cwd=Path(state["cwd"]), env=state["env"], limit_s=limit_s)
        elif main is not None:
            main.send(how)
        left = max(deadline - time.monotonic(), 0.0)
        if main is not None and not processes.wait_gone([main], left):
            log = processes.tail([Path(log) for log in state.get("logs", ())])
            raise TargetError(f"the server did not stop within {limit_s:g} s and was killed{log}")
    finally:
        kill(folder, gently=main is not None and not main.alive)


def kill(folder: Path, *, gently: bool = False) -> None:
    """End what is left of a server, by what is written down in its folder, and nothing else.

    Args:
        folder: of the server.
        gently: ask with SIGTERM first.
    """
    state = read_state(folder)
    if not state:
        return
    main = main_of(folder, state)
    found = {p.pid: p for p in processes.marked(str(state["token"]))} if state.get("token") else {}
    if main is not None and main.started >= int(state.get("begun", 0)) - CLOCK_TICKS:
        found.update({p.pid: p for p in [main, *processes.family(main)]})
    processes.end(list(found.values()), 5.0 if gently else 0.0)


def left(runs: Path) -> Iterator[Path]:
    """Yield the folders below one in which a server is written down."""
    for folder in sorted(runs.glob("run-*")):
        if (folder / STATE).is_file():
            yield folder


def running(folder: Path) -> bool:
    """Whether the server that is written down in a folder runs."""
    main = main_of(folder, read_state(folder))
    return main is not None and main.alive


def kept_processes(runs: Path, runner: int) -> list[int]:
    """Return the numbers of the processes of the server that a measuring process uses now.

    Args:
        runs: folder of the runs' folders.
        runner: number of the measuring process.
    """
    for folder in left(runs):
        state = read_state(folder)
        main = main_of(folder, state) if state.get("busy") and state.get("runner") == runner else None
        if main is not None:
            return [p.pid for p in processes.family(main)]
    return []


def kept(runs: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder and the state of the server that an earlier run left for the next; None where there is none."""
    for folder in left(runs):
        state = read_state(folder)
        if not state.get("busy", True) and running(folder):
            return folder, state
    return None


def end_left(runs: Path, but: Path | None = None, *, stopping: bool = False) -> None:
    """End the servers of earlier runs, and remove their folders.

    Args:
        runs: folder of the runs' folders.
        but: one that stays.
        stopping: stop them as their description said first; what that leaves is killed.
    """
    for folder in left(runs):
        if folder != but:
            if stopping and running(folder):
                with suppress(TargetError):
                    stop(folder)
            kill(folder, gently=stopping)
            remove_tree(folder)
