"""Targets, tuners and commands, found through entry points: the wings' and third parties' alike."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
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
LAYERS = "tunewright.layers"  # what is put around any target; an option of the layer's name says how

# order in which ``auto`` looks for a tuner that works here: Optuna's GP needs torch, TPE nothing
AUTO = ("gp", "tpe")
AUTO_MULTI = ("tpe",)

# specs whose argument is a path and nothing else; options that take a path, those of targets a preset's name as well
_FILE_SPECS = frozenset({"table", "command", "policy"})
_TARGET_FILES = frozenset({"trace", "nodes", "dags", "model", "cluster", "load", "schema", "dump", "config", "reset"})
_WAYS = {"reset": "dump:"}  # options that are a word, or with this in front a file
# addresses that a target is opened with as they are, by how they begin
_SCHEMES = {"postgresql": "postgres", "postgres": "postgres", "mariadb": "mariadb", "mysql": "mysql"}
_WEIGHT = re.compile(r"(?:@\d+)?\s*$")  # of one of several scripts
_TUNER_FILES = frozenset({"manual", "rules", "trace", "log", "replay"})


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
    """Split ``NAME`` or ``NAME:ARGUMENT``; a path to a TOML file means ``command:PATH``, and an address its target.

    >>> split_spec("table:data/t.csv.gz"), split_spec("my.toml")
    (('table', 'data/t.csv.gz'), ('command', 'my.toml'))
    >>> split_spec("postgresql://me@host/shop")
    ('postgres', 'postgresql://me@host/shop')
    """
    scheme, sign, _ = spec.partition("://")
    if sign and scheme in _SCHEMES:
        return _SCHEMES[scheme], spec
    if spec.endswith(".toml") and not spec.startswith("command:"):
        return "command", spec
    name, _, argument = spec.partition(":")
    return name, argument


def open_target(spec: str, options: Mapping[str, str] | None = None) -> BaseTarget:
    """Open a target by its spec.

    Args:
        spec: ``NAME``, ``NAME:ARGUMENT``, the path of a command target's TOML file, or a server's address.
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
    given = dict(options or {})
    layers = {layer: point for layer, point in installed(LAYERS).items() if layer in given}
    how = {layer: given.pop(layer) for layer in layers}
    target: BaseTarget = load(points[name], "target")(argument, given)
    for layer, point in layers.items():
        target = load(point, "layer")(target, str(how[layer]))
    return target


def options_of(spec: str) -> Mapping[str, str]:
    """Return the options of a target, each with what it sets; see :func:`open_target` for the spec.

    A target that cannot be opened without options declares them on its entry point, as ``open_target.options``.
    """
    name, _ = split_spec(spec)
    points = installed(TARGETS)
    declared = getattr(load(points[name], "target"), "options", None) if name in points else None
    return declared if declared is not None else open_target(spec).options


def put_back_layers(state: Mapping[str, Any], **how: Any) -> tuple[dict[str, Any], list[str]]:
    """Put back what layers around a target changed; the target itself need not be open for that.

    Args:
        state: the target's snapshot; a layer's part has its name.
        **how: given to each layer's ``put_back``.

    Returns:
        The rest of the snapshot, and what could not be put back, in words.
    """
    rest, problems = dict(state), []
    for layer, point in installed(LAYERS).items():
        if layer in state:
            del rest[layer]
            try:
                vars(sys.modules[load(point, "layer").__module__])["put_back"](state[layer], **how)
            except TunewrightError as error:
                problems.append(str(error))
    return rest, problems


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


def located(name: str, spec: str, record: Mapping[str, Any]) -> str:
    """Return a stored spec whose file is the one that the session was started with, wherever the program runs now.

    Args:
        name: the session's.
        spec: of a target or a tuner, as it was stored.
        record: the session's description; ``cwd`` is the directory that relative paths are meant from.

    Raises:
        ConfigError: the file is gone, and one here has its name: it may be another.
    """
    kind, argument = split_spec(spec)
    path = "PATH" if kind == "command" else f"{kind}:PATH"
    instead = "start a new session with another" if kind == "policy" else f"name the one to use with --target {path}"
    found = _as_started(name, argument, record, sure=kind in _FILE_SPECS, instead=instead)
    return spec if found == argument else f"{kind}:{found}"


def located_options(
    name: str,
    options: Mapping[str, Any],
    record: Mapping[str, Any],
    given: Collection[str] = (),
    *,
    tuner: bool = False,
) -> dict[str, Any]:
    """Return stored options whose files are those that the session was started with; see :func:`located`.

    Args:
        name: the session's.
        options: as they were stored.
        record: the session's description.
        given: names of options that are given anew, and need not be found.
        tuner: they are a tuner's, not a target's.

    Raises:
        ConfigError: as for :func:`located`.
    """
    files, flag = (_TUNER_FILES, "--tuner-option") if tuner else (_TARGET_FILES, "--option")
    found = dict(options)
    for key in files & options.keys() - set(given):
        if isinstance(options[key], str):
            way = _WAYS.get(key, "")
            if not options[key].startswith(way):
                continue
            given_path = options[key].removeprefix(way)
            parts = given_path.split(",") if key in ("manual", "load") else [given_path]
            instead = f"name the one to use with {flag} {key}={way}PATH"
            weights = [_WEIGHT.search(p)[0] if key == "load" else "" for p in parts]  # type: ignore[index]
            files_of = [p.strip().removesuffix(weight) for p, weight in zip(parts, weights, strict=True)]
            there = [_as_started(name, file, record, sure=tuner, instead=instead) for file in files_of]
            found[key] = way + ",".join(map("".join, zip(there, weights, strict=True)))
    return found


def _as_started(name: str, text: str, record: Mapping[str, Any], *, sure: bool, instead: str) -> str:
    """Return the path of a file or folder as seen from where a session was started; ``sure``: it can be nothing else.

    A preset's name is left alone where a folder happens to have it.
    """
    folder = record.get("cwd")
    here = Path(text)
    if not text or not folder or here.is_absolute() or os.path.realpath(folder) == os.getcwd():
        return text
    there = Path(folder, text)
    if there.exists() if sure or "/" in text else there.is_file():
        return str(there)
    if here.exists() if sure or "/" in text else here.is_file():
        raise ConfigError(
            f"session {name!r} was started with {there}, which is gone, and {text} in this directory may be another;"
            f" put it back, or {instead}"
        )
    return str(there) if sure else text


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
        ConfigError: a secret option is needed again, or a file that the session was started with is gone.
    """
    from tunewright.store.dsn import MASK
    from tunewright.store.secrets import public_spec, reopened

    plan = record["plan"]
    if spec is None:
        spec = located(name, plan["target"], record)
        spec = public_spec(spec) if MASK in spec else spec  # as an earlier version stored it
    stored = located_options(name, plan["options"], record, options or ())
    return open_target(spec, reopened(name, stored, options or {}))
