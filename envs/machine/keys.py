"""Which settings of a machine a user named, and each as a parameter."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.envs.machine import allowed, live
from tunewright.envs.machine.allowed import Allowed
from tunewright.envs.machine.live import Machine
from tunewright.errors import ConfigError, SpaceError, TargetError, unknown
from tunewright.space import Choice, Int, Param, Value
from tunewright.space.expressions import parse
from tunewright.space.facts import machine_facts

_ANY = "allow:"  # before a setting that is not on the list
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_BLOCK = "/sys/block/{}/queue/{}"


@dataclass(frozen=True, kw_only=True)
class Key:
    """One setting of a machine that is tuned.

    Attributes:
        name: of its parameter.
        path: of its file on the machine.
        param: the parameter; its default is today's value.
        before: today's value as the file spells it; written for the default, so that nothing is rounded.
        bytes_in_unit: see :class:`~tunewright.envs.machine.allowed.Allowed`.
        breaks: what a bad value may do to others.
        careful: what careful mode never tries, as an expression; "" for nothing.
    """

    name: str
    path: str
    param: Param
    before: str
    bytes_in_unit: int = 1
    breaks: str = ""
    careful: str = ""

    def text(self, value: Value) -> str:
        """Return what is written for a value."""
        if value == self.param.default:
            return self.before
        if value == -1 and value in getattr(self.param, "special", ()):
            return "max"
        return str(value if isinstance(value, str) else int(value) * self.bytes_in_unit)


@dataclass(frozen=True, kw_only=True)
class Named:
    """A setting as a user named it: the place of its file, and what the list says of it (None: it is not on it)."""

    words: str
    path: str
    on_list: Allowed | None


def find(words: str, machine: Machine) -> Named:
    """Find the setting that a name stands for.

    Args:
        words: ``vm.swappiness``, ``thp``, ``read_ahead_kb@vda``, ``memory.high@/my/group``, or a path below /proc/sys
            or /sys.
        machine: where it is.

    Raises:
        ConfigError: there is no such name, or it is one of those that are never changed.
    """
    path = _path(words, machine)
    real = "/" + os.path.relpath(os.path.realpath(machine.file(path)), os.path.realpath(machine.root))
    if not any(p.startswith(("/proc/sys/", "/sys/")) and posixpath.normpath(p) == p for p in (path,)) or not (
        real.startswith(("/proc/sys/", "/sys/"))
    ):
        raise ConfigError(f"{words!r} is no setting of the machine: it must lie below /proc/sys or /sys")
    if allowed.forbidden(path) or allowed.forbidden(real):
        raise ConfigError(f"{words} is never tuned: a bad value may stop the machine or lock you out of it")
    groups = machine.groups()
    if groups and path.startswith(f"{groups}/"):
        return Named(words=words, path=path, on_list=allowed.CGROUP.get(posixpath.basename(path)))
    if path.startswith("/sys/"):
        return Named(words=words, path=path, on_list=allowed.of_sysfs(path))
    return Named(words=words, path=path, on_list=allowed.SYSCTL.get(live.dotted(path)))


def _path(words: str, machine: Machine) -> str:
    if words.startswith("/"):
        return words
    if words in allowed.NAMES:
        return allowed.NAMES[words]
    name, at, where = words.partition("@")
    queue = {pattern.rpartition("/")[2] for pattern in allowed.SYSFS if pattern.startswith("/sys/block/")}
    if name in queue:
        disks = sorted(p.name for p in machine.file("/sys/block").glob("*"))
        if where not in disks:
            raise ConfigError(str(unknown("block device", where, disks)) if at else f"write {name}@{_one_of(disks)}")
        return _BLOCK.format(where, name)
    if name in allowed.CGROUP or at:
        if name not in allowed.CGROUP:
            raise unknown("setting of the machine", name, [*sorted(queue), *allowed.CGROUP])
        return group_path(name, where, machine)
    if not re.fullmatch(r"[a-z][\w\-]*([./][\w\-]+)+", words, re.ASCII):
        raise unknown("setting of the machine", words, [*allowed.NAMES, *allowed.SYSCTL, *sorted(queue)])
    return "/proc/sys/" + words.translate(str.maketrans("/.", "./"))


def group_path(name: str, group: str, machine: Machine) -> str:
    """Return the file of a control group's limit.

    Raises:
        ConfigError: there is no such group, or it has no such limit; the message says what to do.
    """
    mounted = machine.groups()
    if not mounted:
        raise ConfigError(f"{name}: control groups of version 2 are not mounted here, so it cannot be tuned")
    folder = posixpath.normpath(f"{mounted}/{group.strip('/')}")
    if not group.strip("/") or ".." in group.split("/"):
        raise ConfigError(f"say whose {name}: {name}@/GROUP, a folder below {mounted}; the root group has no limits")
    if not machine.file(folder).is_dir():
        raise ConfigError(f"there is no control group {group} below {mounted}")
    if not machine.file(f"{folder}/{name}").exists():
        kind = name.partition(".")[0]
        raise ConfigError(
            f"the control group {group} has no {name}: either control groups of version 1 hold the controller {kind!r} "
            f"here, or it is off above it; then: echo +{kind} > {posixpath.dirname(folder)}/cgroup.subtree_control"
        )
    return f"{folder}/{name}"


def _one_of(names: Sequence[str]) -> str:
    return f"DEVICE, one of {', '.join(names)}" if names else "DEVICE; there is no block device here"


def read_keys(text: str, machine: Machine) -> list[Key]:
    """Read what follows ``--machine``: names, each with ``=LOW..HIGH`` or ``=A|B`` for a range or choices of its own.

    Raises:
        ConfigError: one is not on the list and has not the word ``allow:`` before it, or cannot be read here.
    """
    keys: list[Key] = []
    for entry in [part.strip() for part in text.split(",") if part.strip()]:
        name, equals, span = entry.removeprefix(_ANY).partition("=")
        keys.append(key(find(name, machine), machine, wanted=_wanted(name, span) if equals else {},
                        anything=entry.startswith(_ANY)))  # fmt: skip
    if not keys:
        raise ConfigError("say which settings of the machine, such as --machine vm.swappiness,thp")
    check_different(keys)
    return keys


def check_different(keys: Sequence[Key]) -> None:
    """Raise ConfigError where two parameters are one setting."""
    seen: dict[str, str] = {}
    for one in keys:
        if one.path in seen:
            raise ConfigError(f"{seen[one.path]} and {one.name} are the same setting, {one.path}")
        seen[one.path] = one.name


def _wanted(name: str, span: str) -> dict[str, Any]:
    if found := _RANGE.fullmatch(span):
        return {"low": int(found[1]), "high": int(found[2])}
    if "|" in span:
        return {"choices": tuple(span.split("|"))}
    raise ConfigError(f"cannot read {name}={span}: write {name}=LOW..HIGH or {name}=A|B")


def key(named: Named, machine: Machine, *, wanted: Mapping[str, Any], anything: bool) -> Key:
    """Return a setting as a parameter whose default is today's value.

    Args:
        named: the setting.
        machine: where it is.
        wanted: ``low``, ``high``, ``choices``, ``name``, ``doc``, ``unit``, ``log``, ``when`` instead of the list's.
        anything: the user takes the risk of what the list does not know.

    Raises:
        ConfigError: as for :func:`read_keys`.
    """
    words, about = named.words, named.on_list
    try:
        before = live.today(machine, named.path)
    except TargetError as error:
        raise ConfigError(f"{words} cannot be tuned: {error}") from None
    if about is None:
        if not anything:
            raise ConfigError(
                f"{words} is not on the list of settings that are safe to tune (see docs/guides/machine.md); if you "
                f"know what it may break, write {_ANY}{words}=LOW..HIGH"
            )
        about = Allowed(breaks="It is not on the list of settings that are safe to tune; you allowed it.")
        if not wanted.keys() & {"low", "choices"}:
            raise ConfigError(f"{words} is not on the list, so say what to try: {_ANY}{words}=LOW..HIGH or =A|B")
    if about.twin and before == "0":
        raise ConfigError(f"{words} is off here, since {live.dotted(about.twin)} is set instead; tune that one")
    try:
        param = _param(named, about, machine, before, wanted, anything)
    except SpaceError as error:
        raise ConfigError(f"{words}: {error}") from None
    careful = about.careful.format(name=param.name, default=param.default)
    return Key(
        name=param.name, path=named.path, param=param, before=before, bytes_in_unit=about.bytes_in_unit,
        breaks=about.breaks, careful=careful,
    )  # fmt: skip


def _param(
    named: Named, about: Allowed, machine: Machine, before: str, wanted: Mapping[str, Any], anything: bool
) -> Param:
    words = named.words
    common: dict[str, Any] = {
        "name": wanted.get("name") or parameter_name(words), "doc": wanted.get("doc") or about.doc,
        "unit": wanted.get("unit") or about.unit, "when": wanted.get("when"),
    }  # fmt: skip
    if about.low is None and "low" not in wanted:
        known = about.choices or tuple(live.listed(machine, about.choices_in or named.path))
        shown = live.listed(machine, named.path) if "[" in machine.read(named.path) else known
        choices = tuple(wanted.get("choices") or [c for c in known if c in shown])
        for choice in choices:
            if (not anything and choice not in known) or (shown and choice not in shown):
                raise unknown(f"value of {words}", choice, [c for c in known if c in shown] or list(shown))
        return Choice(choices=tuple(dict.fromkeys([*choices, before])), default=before, **common)
    if "choices" in wanted:
        raise ConfigError(f"{words} is a number: write {words}=LOW..HIGH")
    facts = machine_facts()
    high = int(parse(about.high)(facts)) if isinstance(about.high, str) else about.high
    low, most = wanted.get("low", about.low), wanted.get("high", high)
    if about.low is not None and not anything and not about.low <= low <= most <= high:
        raise ConfigError(
            f"{words}: {low} to {most} is not within {about.low} to {high}, which is safe to tune; if you know what "
            f"the rest may break, write {_ANY} before it"
        )
    special = {float(value): meaning for value, meaning in about.special.items()}
    number = _number(words, before, about.bytes_in_unit, special)
    if number not in special:
        low, most = min(low, number), max(most, number)
    log = wanted.get("log", about.log) and low > 0
    return Int(low=low, high=most, default=number, step=about.step, log=log, special=special, **common)


def _number(words: str, before: str, bytes_in_unit: int, special: Mapping[float, str]) -> int:
    if before == "max" and -1 in special:
        return -1
    try:
        return int(before) // bytes_in_unit
    except ValueError:
        raise ConfigError(f"{words} is {before!r} here, which is not a whole number, so it cannot be tuned") from None


def parameter_name(words: str) -> str:
    """Return the name of a setting's parameter, which expressions can read.

    >>> parameter_name("vm.page-cluster"), parameter_name("read_ahead_kb@vda"), parameter_name("memory.high@/my/db")
    ('vm.page_cluster', 'read_ahead_kb.vda', 'memory.high.my.db')
    """
    known = {path: name for name, path in allowed.NAMES.items()}
    if found := re.fullmatch(r"/sys/block/([^/]+)/queue/(\w+)", words):
        words = f"{found[2]}@{found[1]}"
    words = known.get(words, words).removeprefix("/proc/sys/").removeprefix("/sys/").replace("@/", "@")
    return re.sub(r"[^A-Za-z0-9_.]", "_", re.sub(r"[@/]", ".", words))
