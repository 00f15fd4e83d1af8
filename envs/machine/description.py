"""Settings of the machine in a TOML description: ``[[parameter]] sysctl = "vm.dirty_ratio"``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunewright.envs.machine import KINDS
from tunewright.envs.machine.keys import Key, check_different, find, key
from tunewright.envs.machine.live import Machine
from tunewright.errors import ConfigError

_KNOWN = {*KINDS, "name", "group", "low", "high", "choices", "doc", "unit", "log", "when", "allow"}


def machine_parameters(
    path: Path, entries: Sequence[Any], table: Callable[[str, Any, set[str]], Any], machine: Machine | None = None
) -> dict[int, Key]:
    """Read those tables of parameters that are settings of the machine.

    Args:
        path: of the description, for messages.
        entries: all tables of parameters.
        table: opens one table for reading, given its place and the keys that it may have.
        machine: whose settings they are; None for this one.

    Returns:
        The settings, by the place of their table.

    Raises:
        ConfigError: one cannot be tuned here; the message says where it stands.
    """
    machine, found = machine or Machine(), {}
    for place, data in enumerate(entries):
        if isinstance(data, dict) and (kinds := [kind for kind in KINDS if kind in data]):
            where = f"{path}, parameter number {place + 1}"
            row = table(where, data, _KNOWN)
            if len(kinds) > 1:
                raise ConfigError(f"{where}: give one of {', '.join(KINDS)}, not {' and '.join(kinds)}")
            try:
                found[place] = _key(row, kinds[0], machine)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
    try:
        check_different(list(found.values()))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return found


def _key(row: Any, kind: str, machine: Machine) -> Key:
    words = str(row.get(kind, str, needed=True))
    group = row.get("group", str)
    if kind == "cgroup":
        if group is None:
            raise ConfigError(f'say whose {words} it is: group = "/system.slice/NAME.service"')
        words = f"{words}@{group}"
    elif group is not None:
        raise ConfigError("only a setting of a control group has a group")
    if (kind == "sysctl" and words.startswith("/")) or (kind == "sysfs" and words.startswith("/proc/")):
        raise ConfigError(f"{words!r} is no name of a {kind} setting")
    wanted = {
        name: value
        for name, types in (
            ("name", str), ("low", int), ("high", int), ("choices", list), ("doc", str), ("unit", str), ("log", bool),
            ("when", str),
        )
        if (value := row.get(name, types)) is not None
    }  # fmt: skip
    if "choices" in wanted:
        wanted["choices"] = tuple(str(choice) for choice in wanted["choices"])
    return key(find(words, machine), machine, wanted=wanted, anything=row.get("allow", bool, False))
