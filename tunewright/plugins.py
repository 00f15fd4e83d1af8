"""Targets, tuners and commands, found through entry points: the wings' and third parties' alike."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import EntryPoint, distributions, entry_points
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tunewright.errors import ConfigError, MissingExtraError, TunewrightError, unknown

if TYPE_CHECKING:
    from tunewright.target import BaseTarget
    from tunewright.tuner import Problem, Tuner

TARGETS, TUNERS, COMMANDS = "tunewright.targets", "tunewright.tuners", "tunewright.commands"

# order in which ``auto`` looks for a tuner that works here: Optuna's GP needs torch, TPE nothing
AUTO = ("gp", "tpe")
AUTO_MULTI = ("tpe",)


def installed(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    try:
        points = list(entry_points(group=group))
    except Exception:  # one package's list of entry points is damaged; the others' still count
        points = [point for each in distributions() for point in _points_of(each) if point.group == group]
    return {point.name: point for point in sorted(points, key=lambda p: p.name)}


def _points_of(package: Any) -> list[EntryPoint]:
    try:
        return list(package.entry_points)
    except Exception:
        return []


def load(point: EntryPoint, kind: str) -> Any:
    """Import what an entry point names.

    A plugin may raise anything while it is imported; it is broken then, and nothing else is.

    Args:
        point: one of ``installed``.
        kind: what it is, for messages, such as ``target``.

    Raises:
        ConfigError: it cannot be imported.
    """
    stopped: list[int] = []
    try:
        # what a plugin prints is no part of our output, which may be a document
        with _noting(stopped), redirect_stdout(sys.stderr):
            return point.load()
    except TunewrightError:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the program
        if stopped:  # it was the user, not the plugin
            raise
        raise ConfigError(broken(point, kind, error)) from error


def broken(point: EntryPoint, kind: str, error: BaseException, why: str = "cannot be imported") -> str:
    """Say in a line that an entry point cannot be used, why, and what to do."""
    package = point.dist.name if point.dist is not None else "an unknown package"
    return (
        f"the {kind} {point.name!r} of {package} is broken: {point.value} {why}: {explained(error)};"
        " mend that package or uninstall it"
    )


@contextmanager
def _noting(stopped: list[int]) -> Iterator[None]:
    """Note a Ctrl-C, or a signal that ends the program, in a list, and pass it on; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        before[signal.Signals(number)](number, frame)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is note:  # the plugin may have set one of its own
                signal.signal(number, handler)


def explained(error: BaseException) -> str:
    """Say in a line what a plugin raised; its own ``str`` may be broken too."""
    from tunewright.store.files import printable, reason

    try:
        return printable(str(error)) if isinstance(error, TunewrightError) else reason(error)
    except Exception:
        return type(error).__name__


def split_spec(spec: str) -> tuple[str, str]:
    """Split ``NAME`` or ``NAME:ARGUMENT``; a path to a TOML file means ``command:PATH``.

    >>> split_spec("table:data/t.csv.gz"), split_spec("my.toml")
    (('table', 'data/t.csv.gz'), ('command', 'my.toml'))
    """
    if spec.endswith(".toml") and not spec.startswith("command:"):
        return "command", spec
    name, _, argument = spec.partition(":")
    return name, argument


def open_target(spec: str, options: Mapping[str, str] | None = None) -> BaseTarget:
    """Open a target by its spec.

    Args:
        spec: ``NAME``, ``NAME:ARGUMENT``, or the path of a command target's TOML file.
        options: target options by name.

    Raises:
        UnknownNameError: no such target.
        MissingExtraError: the target needs a package that is not installed.
    """
    name, argument = split_spec(spec)
    points = installed(TARGETS)
    if name not in points:
        if Path(spec).exists():
            raise ConfigError(f"{spec!r} is a file; write table:{spec} for a table, or give a .toml file for a command")
        raise unknown("target", name, points, plural="Installed")
    target: BaseTarget = load(points[name], "target")(argument, dict(options or {}))
    return target


def make_tuner(spec: str, problem: Problem) -> tuple[str, Tuner]:
    """Build a tuner by its spec; ``auto`` becomes the best one that is installed.

    Returns:
        The spec in use and the tuner.

    Raises:
        UnknownNameError: no such tuner.
        MissingExtraError: it needs a package that is not installed.
    """
    name, argument = split_spec(spec)
    if name == "auto":
        return _automatic(problem)
    points = installed(TUNERS)
    if name not in points:
        raise unknown("tuner", name, ["auto", *points], plural="Installed")
    factory: Callable[[Problem], Tuner] = load(points[name], "tuner")
    return spec, factory(_with_argument(problem, argument))


def _with_argument(problem: Problem, argument: str) -> Problem:
    from dataclasses import replace

    return replace(problem, argument=argument)


def _automatic(problem: Problem) -> tuple[str, Tuner]:
    conditional = any(p.when for p in problem.space.params.values())
    order = AUTO_MULTI if len(problem.objectives) > 1 or conditional else AUTO
    for name in order:
        try:
            return make_tuner(name, problem)
        except MissingExtraError:
            continue
    return make_tuner(order[-1], problem)


def parse_options(pairs: list[str] | None) -> dict[str, Any]:
    """Read ``key=value`` options.

    Raises:
        ConfigError: one has no ``=``.
    """
    found = {}
    for text in pairs or []:
        key, split, value = text.partition("=")
        if not split or not key.strip():
            raise ConfigError(f"cannot read the option {text!r}; write KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def located(spec: str, record: Mapping[str, Any]) -> str:
    """Return a stored target spec with its file found again from where the session was started."""
    kind, argument = split_spec(spec)
    there = Path(record.get("cwd", ".")) / argument
    if kind in ("table", "command") and not Path(argument).exists() and there.exists():
        return f"{kind}:{there}"
    return spec


def reopen(
    name: str, record: Mapping[str, Any], spec: str | None = None, options: Mapping[str, str] | None = None
) -> BaseTarget:
    """Open the target of a stored session.

    Args:
        name: the session's.
        record: its description, with ``plan`` and ``cwd``.
        spec: target spec to use instead of the stored one.
        options: target options to use instead of stored ones, such as secrets, which were not stored.

    Raises:
        ConfigError: a secret option is needed again.
    """
    from tunewright.store.dsn import MASK
    from tunewright.store.secrets import public_spec, reopened

    plan = record["plan"]
    stored = located(plan["target"], record)
    stored = public_spec(stored) if MASK in stored else stored  # as an earlier version stored it
    return open_target(spec or stored, reopened(name, plan["options"], options or {}))
