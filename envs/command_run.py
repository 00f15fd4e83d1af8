"""One run of a command target: its files, its server, the measured command, and what comes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs import loads, service
from tunewright.envs import service_process as processes
from tunewright.envs.command_file import Description
from tunewright.envs.command_metrics import OUTPUT_LIMIT, STREAMS, fetch, gained, log_size, said, value_in
from tunewright.envs.command_parameters import shown
from tunewright.envs.command_places import Names, arguments, expanded, fill
from tunewright.envs.command_success import problem
from tunewright.envs.command_used import missing_program, misspelt
from tunewright.envs.loads import _progress
from tunewright.envs.service_instance import Instance
from tunewright.envs.service_waiting import Waiting
from tunewright.errors import TargetError
from tunewright.measuring import hooks
from tunewright.space import Config
from tunewright.target import Budget, Measurement

_TICK_NS = 20_000_000  # two writes of a file within a tick of the kernel's clock bear the same time
_KERNELS = ("/proc/", "/sys/")  # where files are never written: each reading asks the kernel
_SAID = 2000  # bytes of what a load printed that are looked at while it runs
WAITING = ".waiting"  # what a load waits for, beside the folders of runs
_WATCH_S = 0.1  # between looks whether the server is there while the load runs
_OWN_LOG = "service"  # the log of a metric that is what the server prints


def names_of(about: Description, config: Config, **more: str) -> dict[str, str | None]:
    """Return the values for placeholders; None for parameters that are not active."""
    names: dict[str, str | None] = dict.fromkeys(about.space.params)
    names.update({name: shown(value) for name, value in config.items()})
    names.update(about.parameters.lists(config))
    return expanded({**names, **more}, about.parameters.templates(config))


def environment(about: Description, names: Names) -> dict[str, str]:
    """Return the variables that the description sets."""
    return {key: fill(value, names) or "" for key, value in about.env.items()}


def argument_list(about: Description, words: Sequence[str], names: Names) -> list[str]:
    """Return a command's arguments; one text for the shell where the description wants that."""
    if about.shell and len(words) == 1:
        return [fill(words[0], names) or ""]
    return arguments(words, names)


def run_hook(about: Description, hook: str, names: Names) -> None:
    """Run a command that changes the system, where the description has it; what it starts lives on.

    Raises:
        TargetError: it failed, or took too long.
    """
    if not about.hooks.get(hook):
        return
    if wrong := missing_program(about.hooks[hook][0], about.cwd) if not about.shell else "":
        raise TargetError(f"{about.path.name}, [hooks], {hook}: {wrong}")
    run_command(hook, **hook_command(about, hook, names))


def hook_command(about: Description, hook: str, names: Names) -> dict[str, Any]:
    """Return what :func:`run_command` needs for a hook that the description has."""
    words = about.hooks[hook]
    return {
        "words": argument_list(about, words, names), "cwd": str(about.cwd), "env": environment(about, names),
        "shell": about.shell and len(words) == 1, "limit_s": about.hook_limits.get(hook, 0.0),
        "file": about.path.name,
    }  # fmt: skip


def run_command(hook: str, *, limit_s: float, file: str, **command: Any) -> None:
    """Run a command that changes the system; other arguments as for :func:`tunewright.measuring.hooks.run`.

    Args:
        hook: its name.
        limit_s: after so many seconds it is ended.
        file: of the description.

    Raises:
        TargetError: it failed, or took too long; the message names the hook.
    """
    done = hooks.run(**command, limit_s=limit_s)
    if done.code is None:
        raise TargetError(f"the {hook} command took more than {limit_s:.0f} s and was ended{done.where}")
    if done.code != 0:
        where = f"{file}, [hooks], {hook}: the {hook} command"
        raise TargetError(f"{where} {_exit(done.code)}{said(done.output)}{misspelt(done.output)}{done.where}")


def instance(about: Description, folder: Path, names: Names) -> Instance:
    """Return the server of a description in a folder."""
    assert about.service is not None
    env = environment(about, names)
    return Instance(service=about.service, folder=folder, names=names, cwd=about.cwd, env=env, shell=about.shell)


# -- the measured command ---------------------------------------------------------------------------


class _Lost(TargetError):
    """The load will not reach the server, however often it is run."""


@dataclass(frozen=True, kw_only=True)
class _Before:
    """What sources of metrics were before the run."""

    stamps: Mapping[Path, tuple[int, ...] | None]
    urls: Mapping[str, float]
    logs: Mapping[str, tuple[int, int]]


def measured(
    about: Description,
    names: Names,
    reference: Path,
    server: Instance | None = None,
    *,
    budget: Budget | None = None,
) -> Measurement:
    """Run the measured command and read its metrics.

    Args:
        about: the description.
        names: values of placeholders.
        reference: file with the default's output, where that is compared.
        server: that the command puts under load; it must be there afterwards, too.
        budget: that is told how a tool goes which prints that; None where nobody watches.

    Raises:
        TargetError: a metric cannot be read, or the server is gone.
    """
    before = _look(about, names, server)
    if any(stamp and time.time_ns() - stamp[-1] < _TICK_NS for stamp in before.stamps.values()):
        time.sleep(_TICK_NS / 1e9)
    begun = time.perf_counter()
    outputs = {}
    rundir = names["rundir"] or ""
    with open(Path(rundir, ".stdout"), "w+b") as out, open(Path(rundir, ".stderr"), "w+b") as err:
        try:
            with _progress.followed(_progress.reporter(about.tool, budget), [Path(f.name) for f in (out, err)]):
                code = _command(about, names, out, err, server)
        except _Lost as error:  # not 'failed', which is tried again
            return Measurement(status="rejected", reason=str(error), seconds=time.perf_counter() - begun)
        seconds = time.perf_counter() - begun
        for name, file in zip(STREAMS, (out, err), strict=True):
            outputs[name] = _tail(file)
    if server is not None:
        service.check_alive(server)
    reason = _failure(about, code, outputs) or _wrong(about, names, outputs, reference)
    if reason:
        return Measurement(status="failed", reason=reason, seconds=seconds)
    told = loads.parse(about.tool, outputs["stdout"], Path(rundir)) if about.tool else {}
    values = {}
    for metric in about.metrics:
        if about.rules[metric.name].tool:
            if metric.name not in told:
                raise TargetError(
                    f"{about.tool} did not tell {metric.name!r}, only {', '.join(told)}; name those wanted with "
                    "'metrics', or give it the option that prints it"
                )
            values[metric.name] = told[metric.name]
        else:
            values[metric.name] = _value(about, metric.name, outputs, seconds, names, before, server)
    return Measurement(values=values, seconds=seconds)


def _command(about: Description, names: Names, out: Any, err: Any, server: Instance | None) -> int:
    words = argument_list(about, about.command, names)
    shell = about.shell and len(about.command) == 1
    waiting = None
    if server is not None:
        ports = [port for _, port in service.addresses(server)]
        waiting = Waiting(server.main(), ports, lambda: _tail(out, _SAID) + _tail(err, _SAID))
    try:
        child = subprocess.Popen(
            words[0] if shell else words,
            shell=shell,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=about.cwd,
            env={**os.environ, **environment(about, names)},
            process_group=None if server is None else 0,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise TargetError(f"cannot start {words[0]!r} in {about.cwd}: {why}") from None
    if server is None or waiting is None:
        return child.wait()
    return _watched(child, server, waiting)


def _watched(child: subprocess.Popen[bytes], server: Instance, waiting: Waiting) -> int:
    """Wait for a load; it is ended where its server dies, it takes longer than its limit, or will not reach it."""
    over, why = threading.Event(), list[TargetError]()
    main, limit_s, told = server.main(), server.service.load_s, server.folder.parent / WAITING

    def watch() -> None:
        begun, shown = time.monotonic(), ""
        while not over.wait(_WATCH_S):
            late = limit_s is not None and time.monotonic() - begun > limit_s
            words = waiting.words()
            if words != shown:
                shown = words
                with suppress(OSError):
                    told.write_text(words, encoding="utf-8")
            if late:
                more = f"; {words}" if words else ""
                why.append(TargetError(f"the load took more than {limit_s:g} s and was ended{more}"))
            elif limit_s is None and waiting.lost():
                why.append(_Lost(
                    f"{words}, and was ended: is the address in 'load' of [service] the server's? {{port}} is its free "
                    "port; a load that begins later needs a 'load_limit'"
                ))  # fmt: skip
            elif main is None or main.alive:
                continue
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        code = child.wait()
    finally:
        over.set()
        watcher.join()
        told.unlink(missing_ok=True)
    if why:
        raise why[0]
    return code


def _failure(about: Description, code: int, outputs: Mapping[str, str]) -> str:
    last = said(outputs["stderr"] or outputs["stdout"])
    success = about.success
    if code not in success.exit_codes:
        return f"the command {_exit(code)}{last}"
    both = outputs["stdout"] + outputs["stderr"]
    if success.contains is not None and success.contains not in both:
        return f"the output does not contain {success.contains!r}{last}"
    if success.forbids is not None and success.forbids in both:
        return f"the output contains {success.forbids!r}{last}"
    return ""


def _wrong(about: Description, names: Names, outputs: Mapping[str, str], reference: Path) -> str:
    """Say what is wrong with the result itself; "" where nothing is."""
    success = about.success
    if not success.reads_output:
        return ""
    if success.source in outputs:
        text, file = outputs[success.source], Path(names["rundir"] or "", f".{success.source}")
    else:
        file = about.cwd / (fill(success.source, names) or "")
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"[success]: cannot read {file}: {error.strerror}"
    expected = success.reference
    if success.as_default:
        expected = reference.read_text(encoding="utf-8") if reference.is_file() else None
    if reason := problem(success, text, expected):
        return reason
    if success.as_default and expected is None:
        part = reference.with_name(f"{reference.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, reference)
    if success.judge:
        words = argument_list(about, success.judge, {**names, "output": str(file)})
        if about.shell and len(success.judge) == 1:
            words = ["/bin/sh", "-c", words[0]]
        env = {**environment(about, names), "TUNEWRIGHT_OUTPUT": str(file)}
        with file.open("rb") as given:
            code, output = processes.command(words, cwd=about.cwd, env=env, limit_s=success.judge_s, given=given)
        if code is None:
            return f"the judge took more than {success.judge_s:g} s and was ended"
        if code:
            return f"the judge refused the output: it {_exit(code)}{said(output)}"
    return ""


# -- metrics ----------------------------------------------------------------------------------------


def _look(about: Description, names: Names, server: Instance | None) -> _Before:
    """Look at the sources of metrics before the run."""
    files = {rule.file for rule in about.rules.values() if rule.file is not None}
    counters = {name: rule for name, rule in about.rules.items() if rule.url and rule.change}
    texts: dict[str, str] = {}
    urls = {}
    for name, rule in counters.items():
        url = fill(rule.url or "", names) or ""
        texts[url] = texts.get(url) or fetch(name, url)
        urls[name] = value_in(name, rule, texts[url], url)
    return _Before(
        stamps={path: _stamp(path) for path in (about.cwd / (fill(file, names) or "") for file in files)},
        urls=urls,
        logs={n: log_size(_log(about, rule.log, names, server)) for n, rule in about.rules.items() if rule.log},
    )


def _log(about: Description, log: str, names: Names, server: Instance | None) -> Path:
    """Return the log that a metric is read from."""
    if log == _OWN_LOG and server is not None:
        return server.logs[-1]
    return about.cwd / (fill(log, names) or "")


def _value(
    about: Description,
    name: str,
    outputs: Mapping[str, str],
    seconds: float,
    names: Names,
    before: _Before,
    server: Instance | None,
) -> float:
    rule = about.rules[name]
    if rule.wall_time:
        return seconds
    if rule.url is not None:
        url = fill(rule.url, names) or ""
        value = value_in(name, rule, fetch(name, url), url)
        if not rule.change:
            return value
        value -= before.urls[name]
        if value < 0:
            raise TargetError(f"metric {name!r}: the counter went back during the run; its server was started anew")
        return value / seconds if rule.per_second else value
    if rule.log is not None:
        path = _log(about, rule.log, names, server)
        return value_in(name, rule, gained(name, path, before.logs[name]), f"what {path.name} gained")
    if rule.source in outputs:
        text = outputs[rule.source]
    else:
        path = about.cwd / (fill(rule.source, names) or "")
        stamp = before.stamps[path]
        if stamp is not None and stamp == _stamp(path) and not os.path.realpath(path).startswith(_KERNELS):
            raise TargetError(
                f"metric {name!r}: the command did not write {path} in this run; what it holds is an earlier one's"
            )
        try:
            text = path.read_text(encoding="utf-8", errors="replace")[-OUTPUT_LIMIT:]
        except OSError as error:
            raise TargetError(f"metric {name!r}: cannot read {path}: {error.strerror}") from None
    return value_in(name, rule, text, rule.source)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes whenever a file is written, with the same content too; None where there is no file."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _tail(file: Any, limit: int = OUTPUT_LIMIT) -> str:
    """Return the end of what a program wrote; its own place in the file stays, which it may still write to."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), limit, max(0, size - limit)).decode("utf-8", errors="replace")


def _exit(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
