"""The TOML file of a command target: reading it, and saying what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.envs import loads
from tunewright.envs.command_guarantees import Guarantee, read_dangers, read_guarantees
from tunewright.envs.command_metrics import Rule, read_metrics
from tunewright.envs.command_parameters import Parameters, read_parameters
from tunewright.envs.command_places import PLACE
from tunewright.envs.command_success import Success, read_success
from tunewright.envs.command_table import Table, check_places
from tunewright.envs.command_used import check_used, missing_program
from tunewright.envs.machine import KINDS
from tunewright.envs.service_file import KEYS as SERVICE_KEYS
from tunewright.envs.service_file import PLACES as SERVICE_PLACES
from tunewright.envs.service_file import Service, mentions, read_service
from tunewright.errors import ConfigError, SpaceError, unknown
from tunewright.measuring.hooks import LIMIT_S
from tunewright.space import Space
from tunewright.store.files import MB, VARIABLE, WHOLE_MB, limit_mb, parsing, read_text, read_toml
from tunewright.target import Metric

if TYPE_CHECKING:
    from tunewright.envs.machine.keys import Key

_TABLES = {
    "target", "parameter", "parameters", "metric", "success", "file", "hooks", "workloads", "guarantee", "service",
}  # fmt: skip
_TARGET = {
    "name", "about", "command", "tool", "arguments", "metrics", "limit", "memory_mb", "cwd", "env", "shell", "parallel",
    "constraints", "needs", "dangerous",
}  # fmt: skip
HOOKS = ("reset", "apply", "rollback", "service_apply", "service_rollback")
_BUILT_IN = ("seed", "workload", "workdir", "rundir")
_USES = ("both", "trials", "service")


@dataclass(frozen=True, kw_only=True)
class File:
    """A configuration file to write.

    Attributes:
        path: relative to the description's cwd.
        text: with placeholders.
        inside: it lies in the run's or the session's own directory, so that nothing of the user's is replaced.
        use: written for ``trials``, when a configuration is put into ``service``, or for ``both``.
    """

    path: str
    text: str
    inside: bool
    use: str = "both"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the TOML file says; fields as there.

    Attributes:
        command: the measured one: of [target], or the load of [service].
        tool: name of the load whose parser gives metrics; "" for none.
        hook_limits: in seconds.
        dangerous: expressions that careful mode never lets hold, with the reason of each.
    """

    path: Path
    name: str
    about: str
    command: tuple[str, ...]
    tool: str
    shell: bool
    cwd: Path
    env: Mapping[str, str]
    limit_s: float | None
    memory_bytes: int | None
    parallel: bool
    space: Space
    parameters: Parameters
    metrics: tuple[Metric, ...]
    rules: Mapping[str, Rule]
    success: Success
    files: tuple[File, ...]
    hooks: Mapping[str, tuple[str, ...]]
    hook_limits: Mapping[str, float]
    workloads: Mapping[str, str]
    guarantees: tuple[Guarantee, ...] = ()
    service: Service | None = None
    needs: tuple[str, ...] = ()
    machine: tuple[Key, ...] = ()
    dangerous: Mapping[str, str] = field(default_factory=dict)

    def files_for(self, use: str) -> list[File]:
        """Return the files that are written for ``trials`` or to put a configuration into ``service``."""
        return [file for file in self.files if file.use in ("both", use)]


def load_description(path: Path) -> Description:
    """Read and check the file.

    Raises:
        ConfigError: it cannot be read, is not TOML (with line and column), or says something wrong.
    """
    if not path.exists():
        raise ConfigError(f"there is no file {path}; 'tunewright init {path}' writes a starting point")
    data = read_toml(path, "target's description")
    with parsing(path, "target's description"):
        return description_of(path, data)


def _machine_parameters(path: Path, rows: Sequence[Any]) -> dict[int, Key]:
    if not any(isinstance(row, dict) and not row.keys().isdisjoint(KINDS) for row in rows):
        return {}
    # a quarter of what the start of each run takes, and most descriptions have none
    from tunewright.envs.machine.description import machine_parameters

    return machine_parameters(path, rows, Table)


def description_of(path: Path, data: Any) -> Description:
    """Check what a file says, or what is said without one; see :func:`load_description`.

    Args:
        path: named in messages; commands run in its folder.
        data: as read from TOML.
    """
    top = Table(str(path), data, _TABLES)
    served = "service" in top.data
    target = Table(f"{path}, [target]", top.get("target", dict, needed=True), _TARGET)
    built_in = (*_BUILT_IN, *(SERVICE_PLACES if served else ()))
    short = top.get("parameters", (dict, str))
    rows = top.get("parameter", list, [], needed=short is None)
    machine = _machine_parameters(path, rows)
    given = {place: key.param for place, key in machine.items()}
    parameters = read_parameters(path, rows, short, built_in, given)
    try:
        space = Space(parameters.params, target.texts("constraints"))
    except SpaceError as error:
        raise ConfigError(f"{path}: {error}") from None
    shell = target.get("shell", bool, False)
    cwd = (path.parent / target.get("cwd", str, ".")).resolve()
    if not cwd.is_dir():
        raise ConfigError(f"{path}, [target]: cwd {cwd} is not a directory")
    known = {*parameters.names(), *built_in}
    tool, command, told = _measured(path, target, top, shell)
    metrics, rules = read_metrics(path, top.get("metric", list, [], needed=not tool), told)
    workloads = top.get("workloads", dict, {"default": target.get("about", str, "")})
    hooks = Table(f"{path}, [hooks]", top.get("hooks", dict, {}), {*HOOKS, *(f"{hook}_limit" for hook in HOOKS)})
    commands = {name: hooks.command(name, shell) for name in HOOKS if name in hooks.data}
    if ("service_apply" in commands) != ("service_rollback" in commands):
        raise ConfigError(f"{hooks.where}: service_apply and service_rollback, which undoes it, belong together")
    success = read_success(path, top.get("success", dict, {}), shell)
    for where, words in [("command", command), ("judge", success.judge), *commands.items()]:
        check_places(f"{path}, {where}", words, known | ({"output"} if where == "judge" else set()))
    files = _files(path, top.get("file", list, []), cwd, known, parameters)
    service = None
    if served:
        texts = [file.text for file in files]
        service = read_service(path, top.data["service"], shell=shell, params=space.params, known=known, files=texts)
    named = {f"[{'service' if served else 'target'}]": command, "[service]": service.start if service else ()}
    for where, words in {} if shell else named.items():
        if words and (wrong := missing_program(words[0], cwd)):
            raise ConfigError(f"{path}, {where}: {wrong}")
    if success.as_default and mentions((*command, *target.get("env", dict, {}).values()), "seed"):
        raise ConfigError(f"{path}, [success]: same_as = 'default' needs runs whose output does not depend on {{seed}}")
    limit, memory = target.seconds("limit"), target.seconds("memory_mb")
    parallel = target.get("parallel", bool, False)
    if parallel and not all(file.inside for file in files):
        raise ConfigError(
            f"{path}, [target]: parallel = true needs every [[file]] below {{rundir}}: runs would overwrite it"
        )
    if parallel and service is not None and (service.keep or not service.private):
        raise ConfigError(
            f"{path}, [target]: parallel = true needs a server for each run, on {{port}} or in {{rundir}}"
        )
    env = target.get("env", dict, {})
    if not all(isinstance(v, str) for v in env.values()):
        raise ConfigError(f"{path}, [target]: every value of env must be a text")
    of_machine = [key.param.name for key in machine.values()]
    check_used(path, top.data, [file.text for file in files], parameters, known, of_machine)
    return Description(
        path=path,
        name=target.get("name", str, path.stem),
        about=target.get("about", str, ""),
        command=command,
        tool=tool,
        shell=shell,
        cwd=cwd,
        env=env,
        limit_s=limit if limit is not None or service is None else service.total_s(),
        memory_bytes=int(memory * 2**20) if memory else None,
        parallel=parallel,
        space=space,
        parameters=parameters,
        metrics=metrics,
        rules=rules,
        success=success,
        files=files,
        hooks=commands,
        hook_limits={hook: hooks.seconds(f"{hook}_limit", LIMIT_S) or LIMIT_S for hook in HOOKS},
        workloads={str(k): str(v) for k, v in workloads.items()},
        guarantees=read_guarantees(path, top.get("guarantee", list, []), space, Table),
        service=service,
        machine=tuple(machine.values()),
        dangerous=read_dangers(target, space),
        needs=tuple(target.texts("needs")),
    )


def _measured(path: Path, target: Table, top: Table, shell: bool) -> tuple[str, tuple[str, ...], tuple[Metric, ...]]:
    """Return the tool that measures, or "", the measured command, its own or the tool's, and the tool's metrics."""
    place, key = target, "command"
    if "service" in top.data:
        if given := [k for k in ("command", "tool", "arguments", "metrics") if k in target.data]:
            raise ConfigError(
                f"{path}: {given[0]} of [target] belongs into [service]; the measured command is its 'load'"
            )
        place, key = Table(f"{path}, [service]", top.get("service", dict), SERVICE_KEYS), "load"
    tool, more, wanted = place.get("tool", str, ""), place.texts("arguments"), place.texts("metrics")
    told = {metric.name: metric for metric in loads.metrics(tool)} if tool else {}
    for name in wanted:
        if name not in told:
            of = f"metric of {tool or 'no tool'}"
            raise ConfigError(f"{place.where}: metrics: {unknown(of, name, told)}")
    if more and (not tool or key in place.data):
        raise ConfigError(f"{place.where}: arguments are added to the defaults of a tool; write all of them in {key}")
    metrics = tuple(told[name] for name in wanted or told)
    if not tool or key in place.data:
        return tool, place.command(key, shell), metrics
    return tool, loads.command_line(tool, more), metrics


def _files(
    path: Path, entries: list[Any], cwd: Path, known: Collection[str], parameters: Parameters
) -> tuple[File, ...]:
    files = []
    for number, data in enumerate(entries, 1):
        table = Table(f"{path}, file number {number}", data, {"path", "content", "template", "each", "use"})
        content, template, each = table.get("content", str), table.get("template", str), table.get("each", str)
        if (content is not None) + (template is not None) != 1 and (each is None or None not in (content, template)):
            raise ConfigError(f"{table.where}: give exactly one of content and template")
        if template is not None:
            try:
                content = read_text(path.parent / template, "template")
            except ConfigError as error:
                raise ConfigError(f"{table.where}: {error}") from None
        text = content or ""
        if each is not None:  # a line for each parameter that is active
            if "{value}" not in each:
                raise ConfigError(f"{table.where}: each must be a line such as '{{name}} {{value}}'")
            names = [param.name for param in parameters.params]
            lines = [each.replace("{name}", name).replace("{value}", f"{{{name}}}") for name in names]
            text = "\n".join([*([text.rstrip("\n")] if text else []), *lines])
        use = table.get("use", str, "both")
        if use not in _USES:
            raise ConfigError(f"{table.where}: use must be one of {', '.join(_USES)}, not {use!r}")
        where = table.get("path", str, needed=True)
        inside = _inside(table, where, cwd, known)
        if inside and use == "service":
            raise ConfigError(f"{table.where}: a file to put into service must be one of yours, not in {where}")
        files.append(File(path=where, text=text, inside=inside, use=use))
    return tuple(files)


def _inside(table: Table, where: str, cwd: Path, known: Collection[str]) -> bool:
    """Whether a file lies in the run's own directory; if not, it must be known which file of the user's it is."""
    first, *rest = Path(where).parts or ("",)
    inside = first in ("{rundir}", "{workdir}") or (first == "{datadir}" and "datadir" in known)
    if "\0" in where or not where.strip():
        raise ConfigError(f"{table.where}: the path {where!r} cannot be a file's")
    if inside and ".." in rest:
        raise ConfigError(f"{table.where}: the path {where} leads out of {first}; name the file itself")
    for name in PLACE.findall(where):
        if not inside and name in known:
            raise ConfigError(
                f"{table.where}: the path {where} has the placeholder {{{name}}}; only {{rundir}}/... and "
                "{workdir}/... may, since a file of yours must be known before it is changed, to be put back"
            )
    real = Path(os.path.realpath(cwd / where))
    if not inside and real.is_symlink():  # it led nowhere but to itself
        raise ConfigError(f"{table.where}: {where} is a symbolic link that leads in a circle")
    if not inside and real.exists() and not real.is_file():
        raise ConfigError(f"{table.where}: {where} is not a regular file")
    if not inside and real.exists() and real.stat().st_size > limit_mb(WHOLE_MB) * MB:
        raise ConfigError(
            f"{table.where}: {where} has {real.stat().st_size / MB:,.0f} MB, more than a configuration file; what is "
            f"there would be copied first; set {VARIABLE} if it is meant"
        )
    return inside
