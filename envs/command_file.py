"""The TOML file of a command target: reading it, and saying what is wrong with it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs.command_guarantees import Guarantee, read_guarantees
from tunewright.envs.machine.description import machine_parameters
from tunewright.envs.machine.keys import Key
from tunewright.errors import ConfigError, SpaceError, TargetError, unknown
from tunewright.space import Choice, Int, Param, Real, Space
from tunewright.store.files import parsing, printable, read_text, read_toml, reason
from tunewright.target import Metric

_TABLES = {"target", "parameter", "metric", "success", "file", "hooks", "workloads", "guarantee"}
_TARGET = {"name", "about", "command", "limit", "memory_mb", "cwd", "env", "shell", "parallel", "constraints"}
_NUMBER = {
    "name",
    "type",
    "low",
    "high",
    "default",
    "log",
    "unit",
    "doc",
    "special",
    "when",
    "restart",
    "step",
}
_CHOICE = {"name", "type", "choices", "default", "ordered", "unit", "doc", "when", "restart"}
_METRIC = {"name", "direction", "unit", "doc", "regex", "json", "wall_time", "source", "at_least", "at_most"}
_BUILT_IN = ("seed", "workload", "workdir", "rundir")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Where a metric's value comes from: one of regex, json and wall_time."""

    source: str
    regex: re.Pattern[str] | None
    json: str | None
    wall_time: bool


@dataclass(frozen=True, kw_only=True)
class File:
    """A configuration file to write.

    Attributes:
        path: relative to the description's cwd.
        text: with placeholders.
        inside: it lies in the run's or the session's own directory, so that nothing of the user's is replaced.
    """

    path: str
    text: str
    inside: bool


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the TOML file says; fields as there."""

    path: Path
    name: str
    about: str
    command: tuple[str, ...]
    shell: bool
    cwd: Path
    env: Mapping[str, str]
    limit_s: float | None
    memory_bytes: int | None
    parallel: bool
    space: Space
    metrics: tuple[Metric, ...]
    rules: Mapping[str, Rule]
    exit_codes: tuple[int, ...]
    contains: str | None
    forbids: str | None
    files: tuple[File, ...]
    hooks: Mapping[str, tuple[str, ...]]
    workloads: Mapping[str, str]
    guarantees: tuple[Guarantee, ...] = ()
    machine: tuple[Key, ...] = ()


class _Table:
    """One TOML table, read key by key with errors that name file and place."""

    def __init__(self, where: str, data: Any, known: set[str]) -> None:
        self.where = where
        if not isinstance(data, dict):
            raise ConfigError(f"{where} must be a table, not {printable(repr(data), 60)}")
        self.data = data
        for key in data:
            if key not in known:
                raise ConfigError(f"{where}: {unknown('key', key, known)}")

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None, *, needed: bool = False) -> Any:
        if key not in self.data:
            if needed:
                raise ConfigError(f"{self.where}: {key!r} is missing")
            return default
        value = self.data[key]
        allowed = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join(_KINDS.get(k, k.__name__) for k in allowed)
            raise ConfigError(f"{self.where}: {key} must be {names}, not {printable(repr(value), 60)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{self.where}: {key} must be finite, not {value!r}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"{self.where}: {key} must be a number of at most 64 bits")
        return value


_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
    bool: "true or false",
}


def load_description(path: Path) -> Description:
    """Read and check the file.

    Raises:
        ConfigError: it cannot be read, is not TOML (with line and column), or says something wrong.
    """
    if not path.exists():
        raise ConfigError(f"there is no file {path}; 'tunewright init {path}' writes a starting point")
    data = read_toml(path, "target's description")
    with parsing(path, "target's description"):
        return _description(path, data)


def _description(path: Path, data: Any) -> Description:
    top = _Table(str(path), data, _TABLES)
    target = _Table(f"{path}, [target]", top.get("target", dict, needed=True), _TARGET)
    rows = top.get("parameter", list, [], needed=True)
    machine = machine_parameters(path, rows, _Table)
    params = [machine[i].param if i in machine else _parameter(path, i + 1, p) for i, p in enumerate(rows)]
    try:
        space = Space(params, _texts(target, "constraints"))
    except SpaceError as error:
        raise ConfigError(f"{path}: {error}") from None
    metrics, rules = _metrics(path, top.get("metric", list, [], needed=True))
    shell = target.get("shell", bool, False)
    command = _command(target, "command", shell)
    cwd = (path.parent / target.get("cwd", str, ".")).resolve()
    if not cwd.is_dir():
        raise ConfigError(f"{path}, [target]: cwd {cwd} is not a directory")
    workloads = top.get("workloads", dict, {"default": target.get("about", str, "")})
    hooks = _Table(f"{path}, [hooks]", top.get("hooks", dict, {}), {"reset", "apply", "rollback"})
    commands = {name: _command(hooks, name, shell) for name in hooks.data}
    known = {*space.params, *_BUILT_IN}
    for where, words in [("command", command), *commands.items()]:
        _check_places(path, where, words, known)
    if not shell:
        _check_program(path, command[0], cwd)
    success = _Table(f"{path}, [success]", top.get("success", dict, {}), {"exit_codes", "contains", "forbids"})
    limit, memory = target.get("limit", (int, float)), target.get("memory_mb", (int, float))
    for key, value in (("limit", limit), ("memory_mb", memory)):
        if value is not None and value <= 0:
            raise ConfigError(f"{path}, [target]: {key} must be above 0, not {value}")
    files = _files(path, top.get("file", list, []), cwd, known)
    parallel = target.get("parallel", bool, False)
    if parallel and not all(file.inside for file in files):
        raise ConfigError(
            f"{path}, [target]: parallel = true needs every [[file]] below {{rundir}}: runs would overwrite it"
        )
    env = target.get("env", dict, {})
    if not all(isinstance(v, str) for v in env.values()):
        raise ConfigError(f"{path}, [target]: every value of env must be a text")
    return Description(
        path=path,
        name=target.get("name", str, path.stem),
        about=target.get("about", str, ""),
        command=command,
        shell=shell,
        cwd=cwd,
        env=env,
        limit_s=limit,
        memory_bytes=int(memory * 2**20) if memory else None,
        parallel=parallel,
        space=space,
        metrics=metrics,
        rules=rules,
        exit_codes=tuple(success.get("exit_codes", list, [0])),
        contains=success.get("contains", str),
        forbids=success.get("forbids", str),
        files=files,
        hooks=commands,
        workloads={str(k): str(v) for k, v in workloads.items()},
        guarantees=read_guarantees(path, top.get("guarantee", list, []), space, _Table),
        machine=tuple(machine.values()),
    )


def _texts(table: _Table, key: str) -> list[str]:
    texts = table.get(key, list, [])
    if not all(isinstance(v, str) for v in texts):
        raise ConfigError(f"{table.where}: every entry of {key} must be a text")
    return list(texts)


def _command(table: _Table, key: str, shell: bool) -> tuple[str, ...]:
    value = table.get(key, (list, str), needed=True)
    if isinstance(value, str):
        if not shell:
            raise ConfigError(
                f"{table.where}: {key} must be a list of arguments; one string needs 'shell = true' in [target]"
            )
        return (value,)
    words = _texts(table, key)
    if not words:
        raise ConfigError(f"{table.where}: {key} is empty")
    return tuple(words)


def _check_places(path: Path, where: str, words: tuple[str, ...], known: set[str]) -> None:
    for word in words:
        # only an argument that is nothing but a placeholder, or --flag={placeholder}, is surely meant as one
        match = re.fullmatch(r"(?:[\w\-./=:]*)\{([A-Za-z_][\w.\-]*)\}(?:[\w\-./=:]*)", word)
        if match and match[1] not in known:
            raise ConfigError(f"{path}, {where}: {unknown('placeholder', match[1], known)}")


def _check_program(path: Path, program: str, cwd: Path) -> None:
    if "{" not in program and shutil.which(program) is None and not (cwd / program).exists():
        raise ConfigError(f"{path}, [target]: there is no program {program!r} on the PATH or in {cwd}")


def _parameter(path: Path, number: int, data: Any) -> Param:
    name = (data.get("name") if isinstance(data, dict) else "") or f"number {number}"
    name = printable(str(name), 60)
    where = f"{path}, parameter {name}"
    kind = data.get("type") if isinstance(data, dict) else None
    if kind not in ("int", "real", "choice"):
        raise ConfigError(f"{where}: type must be int, real or choice, not {kind!r}")
    table = _Table(where, data, _CHOICE if kind == "choice" else _NUMBER)
    common: dict[str, Any] = {
        "name": table.get("name", str, needed=True),
        "unit": table.get("unit", str, ""),
        "doc": table.get("doc", str, ""),
        "when": table.get("when", str),
        "restart": table.get("restart", str, "none"),
    }
    if common["name"] in _BUILT_IN:
        raise ConfigError(f"{where}: the names {', '.join(_BUILT_IN)} are taken")
    try:
        if kind == "choice":
            choices = table.get("choices", list, needed=True)
            return Choice(
                choices=tuple(choices),
                default=table.get("default", (str, int, float, bool), needed=True),
                ordered=table.get("ordered", bool, False),
                **common,
            )
        number_kind: Any = (int, float)
        special = {}
        for text, meaning in table.get("special", dict, {}).items():
            try:
                special[int(text) if kind == "int" else float(text)] = str(meaning)
            except ValueError:
                raise ConfigError(f"{where}: the special value {text!r} is not a number") from None
        default = table.get("default", int if kind == "int" else number_kind, needed=True)
        numeric: dict[str, Any] = {
            "low": table.get("low", (int, float, str), needed=True),
            "high": table.get("high", (int, float, str), needed=True),
            "log": table.get("log", bool, False),
            "special": special,
            **common,
        }
        if kind == "int":
            return Int(default=default, step=table.get("step", int, 1), **numeric)
        return Real(default=default, **numeric)
    except SpaceError as error:
        raise ConfigError(f"{path}, parameter {error}" if common["name"] else f"{where}: {error}") from None


def _metrics(path: Path, entries: list[Any]) -> tuple[tuple[Metric, ...], dict[str, Rule]]:
    metrics: list[Metric] = []
    rules: dict[str, Rule] = {}
    for number, data in enumerate(entries, 1):
        table = _Table(f"{path}, metric number {number}", data, _METRIC)
        name = table.get("name", str, needed=True)
        where = f"{path}, metric {name}"
        if name in rules:
            raise ConfigError(f"{where}: two metrics have this name")
        given = [k for k in ("regex", "json", "wall_time") if data.get(k)]
        if len(given) != 1:
            raise ConfigError(f"{where}: give exactly one of regex, json and wall_time = true")
        pattern = table.get("regex", str)
        try:
            regex = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            raise ConfigError(f"{where}: the regex {pattern!r} is wrong: {error}") from None
        if regex is not None and regex.groups < 1:
            raise ConfigError(f"{where}: the regex {pattern!r} needs a group (...) around the number")
        rules[name] = Rule(
            source=table.get("source", str, "stdout"),
            regex=regex,
            json=table.get("json", str),
            wall_time=table.get("wall_time", bool, False),
        )
        bound: Any = (int, float)
        metrics.append(
            Metric(
                name=name,
                direction=_direction(table),
                unit=table.get("unit", str, ""),
                doc=table.get("doc", str, ""),
                at_least=table.get("at_least", bound),
                at_most=table.get("at_most", bound),
            )
        )
    if not metrics:
        raise ConfigError(f"{path}: at least one [[metric]] is needed")
    return tuple(metrics), rules


def _direction(table: _Table) -> Any:
    direction = table.get("direction", str, needed=True)
    if direction not in ("min", "max"):
        raise ConfigError(f"{table.where}: direction must be min or max, not {direction!r}")
    return direction


def _files(path: Path, entries: list[Any], cwd: Path, known: set[str]) -> tuple[File, ...]:
    files = []
    for number, data in enumerate(entries, 1):
        table = _Table(f"{path}, file number {number}", data, {"path", "content", "template"})
        content, template = table.get("content", str), table.get("template", str)
        if (content is None) == (template is None):
            raise ConfigError(f"{table.where}: give exactly one of content and template")
        if template is not None:
            try:
                content = read_text(path.parent / template, "template")
            except ConfigError as error:
                raise ConfigError(f"{table.where}: {error}") from None
        where = table.get("path", str, needed=True)
        files.append(File(path=where, text=str(content), inside=_inside(table, where, cwd, known)))
    return tuple(files)


def _inside(table: _Table, where: str, cwd: Path, known: set[str]) -> bool:
    """Whether a file lies in the run's own directory; if not, it must be known which file of the user's it is."""
    first, *rest = Path(where).parts or ("",)
    inside = first in ("{rundir}", "{workdir}")
    if "\0" in where or not where.strip():
        raise ConfigError(f"{table.where}: the path {where!r} cannot be a file's")
    if inside and ".." in rest:
        raise ConfigError(f"{table.where}: the path {where} leads out of {first}; name the file itself")
    for name in _PLACES.findall(where):
        if not inside and name in known:
            raise ConfigError(
                f"{table.where}: the path {where} has the placeholder {{{name}}}; only {{rundir}}/... and "
                "{workdir}/... may, since a file of yours must be known before it is changed, to be put back"
            )
    real = Path(os.path.realpath(cwd / where))
    if not inside and real.exists() and not real.is_file():
        raise ConfigError(f"{table.where}: {where} is not a regular file")
    return inside


_PLACES = re.compile(r"\{([A-Za-z_][\w.\-]*)\}")


def read_json_path(name: str, path: str, text: str) -> float:
    """Return the number at a path such as ``results.0.ops`` (``$.results[0].ops`` works, too).

    The JSON document is the whole text, or its last line that is one.

    Raises:
        TargetError: there is no JSON, no such path, or no number there.
    """
    for candidate in [text, *reversed(text.strip().splitlines()[-50:])]:
        try:
            value = json.loads(candidate)
            break
        except RecursionError as error:
            raise TargetError(f"metric {name!r}: the JSON cannot be read: {reason(error)}") from None
        except ValueError as error:
            if "integer string conversion" in str(error):
                raise TargetError(f"metric {name!r}: the JSON cannot be read: {reason(error)}") from None
            continue
    else:
        raise TargetError(f"metric {name!r}: the output is not JSON, and none of its last lines is")
    for step in re.findall(r"[^.\[\]]+", path.removeprefix("$")):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise TargetError(f"metric {name!r}: the JSON has nothing at {path!r} (stopped at {step!r})") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TargetError(f"metric {name!r}: {path!r} is {printable(repr(value), 80)}, not a number")
    try:
        return float(value)
    except OverflowError:
        digits = len(str(abs(value)))
        raise TargetError(
            f"metric {name!r}: {path!r} is a number of {digits} digits, too large to be a metric"
        ) from None


# a comma stands between thousands only before groups of three digits, and none of them follows a lone 0
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?(?:[eE][+-]?\d+)?\s*", re.ASCII)


def read_number(name: str, text: str) -> float:
    """Return the number that a metric's regex has found; ``1,234.5`` is 1234.5.

    Raises:
        TargetError: it is no number, or its comma may stand for a decimal point.
    """
    if "," in text and not _THOUSANDS.fullmatch(text):
        raise TargetError(
            f"metric {name!r}: {printable(text, 80)!r} is not a number: commas are read only between thousands, as in "
            "1,234.5; let the command write a decimal point, for example by running it with LC_ALL=C"
        )
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise TargetError(f"metric {name!r}: {printable(text, 80)!r} is not a number") from None
