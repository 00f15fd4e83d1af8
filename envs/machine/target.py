"""A target together with settings of the machine below it.

``tune TARGET --machine vm.swappiness,thp`` puts this around any target, and ``[[parameter]] sysctl = "vm.swappiness"``
in a TOML file around the program that the file describes. Settings are set before each run and set back after it; what
they were is written down before the first one, so that they are put back after a kill as well.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from tunewright.envs.machine import live
from tunewright.envs.machine.keys import Key, read_keys
from tunewright.envs.machine.live import PART, Machine, Writer
from tunewright.errors import ConfigError, TargetError
from tunewright.sessions import originals
from tunewright.space import Config, Space
from tunewright.target import BaseTarget, Budget, Measurement, Preflight, Weaker

_SYSCTL_FILES, _TMPFILES = "/etc/sysctl.d", "/etc/tmpfiles.d"


def around(target: BaseTarget, text: str) -> MachineTarget:
    """Entry point: put settings of the machine around a target.

    Args:
        target: open.
        text: what follows ``--machine``.
    """
    machine = Machine()
    return MachineTarget(target, read_keys(text, machine), machine)


def put_back(state: Mapping[str, Any], *, after_reboot: bool = False) -> None:
    """Put back what a snapshot's part says; its target need not be open.

    Args:
        state: the part.
        after_reboot: set what differs even if the machine was started anew since.
    """
    live.put_back(state, after_reboot=after_reboot)


class MachineTarget(BaseTarget):
    """A target together with settings of the machine below it.

    Args:
        inner: the target; its space may have the settings' parameters already.
        keys: the settings.
        machine: which they belong to.
    """

    def __init__(self, inner: BaseTarget, keys: Sequence[Key], machine: Machine) -> None:
        if inner.exact or not inner.isolated:
            raise ConfigError(f"target {inner.name!r} is simulated: the settings of this machine do not change it")
        self.inner, self.keys, self.machine = inner, tuple(keys), machine
        self.own = set(inner.space.params) - {k.name for k in keys}
        for one in keys:
            if one.name in inner.space.params and inner.space.params[one.name] is not one.param:
                raise ConfigError(f"target {inner.name!r} has a parameter of its own that is called {one.name!r}")
        self.space = inner.space if len(self.own) < len(inner.space) else _together(inner.space, keys, machine)
        for name in (
            "name", "metrics", "workloads", "known", "options", "secret_options", "address", "manual", "live",
            "isolated", "limit_seconds", "memory_bytes", "packages",
        ):  # fmt: skip
            setattr(self, name, getattr(inner, name))
        self.facts = {**inner.facts, "machine_settings": ", ".join(k.name for k in keys)}
        self.parallel_safe = False  # all runs see the same machine
        self._state: dict[str, Any] = {}

    def _inner(self, config: Mapping[str, Any]) -> Config:
        """Return the part of a configuration that is not the machine's."""
        return {name: value for name, value in config.items() if name in self.own}

    def _texts(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Return what is written for a configuration; a setting that is not active keeps today's value."""
        return {k.name: k.text(config.get(k.name, k.param.default)) for k in self.keys}

    # -- guarantees -------------------------------------------------------------------------------

    def guarantee_names(self) -> tuple[str, ...]:
        """Return the parameters that the target's guarantees read."""
        return tuple(self.inner.guarantee_names())

    def guarantees(self, config: Config) -> dict[str, float]:
        """Return the target's."""
        return self.inner.guarantees(self._inner(config))

    def weaker(self, config: Config) -> list[Weaker]:
        """Return the target's, with the machine as it is in the configuration."""
        mine = {name: value for name, value in config.items() if name not in self.own}
        return [
            Weaker(config={**found.config, **mine}, loses=found.loses)
            for found in self.inner.weaker(self._inner(config))
        ]

    def dangerous(self) -> Mapping[str, str]:
        """Return the target's, and what the list of settings says."""
        mine = {k.careful: k.breaks or "it takes something from other programs" for k in self.keys if k.careful}
        return {**self.inner.dangerous(), **mine}

    # -- measuring --------------------------------------------------------------------------------

    def waiting(self, workdir: Path) -> str:
        """Return what the target's run waits for."""
        return self.inner.waiting(workdir)

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Let the target prepare, and write today's values to see that each setting can be written."""
        if self._state:
            Writer(self.machine, self._state).back()
        return self.inner.prepare(workload=workload, seed=seed, budget=budget)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Set the machine, run the target once, and set the machine back."""
        if not self._state:
            raise TargetError("nothing says what the settings of the machine were, so they are not changed")
        writer = Writer(self.machine, self._state)
        writer.set(self._texts(config))
        try:
            return self.inner.measure(self._inner(config), workload=workload, seed=seed, budget=budget)
        finally:
            writer.back()

    def processes(self, workdir: Path, runner: int) -> Collection[int]:
        """Return the target's."""
        return self.inner.processes(workdir, runner)

    def revert(self) -> None:
        """Set the machine back after a run that was cut short, and let the target do likewise."""
        if self._state:
            Writer(self.machine, self._state).back()
        self.inner.revert()

    def cleanup(self, workdir: Path) -> None:
        """Let the target clean up."""
        self.inner.cleanup(workdir)

    # -- what is changed, and put back ------------------------------------------------------------

    def changes(self, to: str | None = None) -> Sequence[str]:
        """Return the target's keys and one for each setting, whatever name it was given by."""
        root = "" if self.machine.root == Path("/") else f"{self.machine.root}"
        return [*self.inner.changes(to), *(f"setting {root}{k.path} of the machine" for k in self.keys)]

    def hold(self, what: str, to: str | None = None) -> AbstractContextManager[None]:
        """Hold what the target holds."""
        return self.inner.hold(what, to)

    def _trouble(self) -> list[str]:
        """Say of each setting that cannot be written here why, and what to do."""
        return [
            f"{k.name} cannot be set: {why} ({k.path}). {_instead(k, why)}"
            for k in self.keys
            if (why := self.machine.trouble(k.path))
        ]

    def preflight(self, *, workload: str, workdir: Path) -> Preflight:
        """Look at every setting: today's value, what is tried, and whether it can be written."""
        inner, notes = self.inner.preflight(workload=workload, workdir=workdir), list[str]()
        changes = []
        for one in self.keys:
            unit = f" {one.param.unit}" if one.param.unit else ""
            shown = one.before if isinstance(one.param.default, str) else str(one.param.default)
            changes.append(
                f"{one.name} of this machine, today {shown}{unit}, is set to {one.param.domain}. {one.breaks}"
            )
            with suppress(TargetError):
                now = self.machine.read(one.path)
                if not live.same(now, one.before):
                    notes.append(
                        f"{one.name} is {live.chosen(now)}, left by a session that was killed; it is put back."
                    )
        notes.append(
            "Settings of the machine concern everything that runs on it; each is set back after every run, and at the "
            "end, whatever happens."
        )
        return Preflight(
            changes=[*inner.changes, *(text.strip() for text in changes)],
            restarts=inner.restarts,
            creates=inner.creates,
            leaves=inner.leaves,
            locks=[*inner.locks, *(f"{k.name} of this machine" for k in self.keys)],
            missing=[*inner.missing, *self._trouble()],
            notes=[*inner.notes, *notes],
        )

    def _snapshot(self, folder: Path) -> dict[str, Any]:
        if trouble := self._trouble():
            raise TargetError("; ".join(trouble))
        return live.snapshot(self.machine, {k.name: k.path for k in self.keys}, folder)

    def snapshot(self, folder: Path) -> dict[str, Any]:
        """Note what the settings are, beside what the target saves."""
        self._state = self._snapshot(folder)
        return {**self.inner.snapshot(folder), PART: self._state}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put the machine back, and then the target, even if one of them fails."""
        self._state = {}
        _all_of(snapshot, self.inner.restore)

    # -- putting into service ---------------------------------------------------------------------

    def render(self, config: Config) -> str:
        """Return the target's settings, and the commands that set the machine."""
        parts = [self.inner.render(self._inner(config))] if self.own else []
        changed = {k.name: k for k in self.keys if config.get(k.name, k.param.default) != k.param.default}
        texts = self._texts(config)
        lines = [live.command(k.path, texts[name]) for name, k in changed.items()]
        parts.append("\n".join(["# the machine, until it is started anew; 'tunewright apply' makes it last", *lines]))
        return "\n\n".join(part for part in parts if part) if lines or not self.own else parts[0]

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Note the settings and the files that make them last, beside what the target notes."""
        inner = self.inner.undo(folder, to) if self.inner.applies else {}
        state = self._snapshot(folder)
        files = [originals.save(path, folder, f"machine-{k.name}") for k in self.keys if (path := self._file(k))]
        self._state = {**state, "files": files}
        return {**inner, PART: self._state}

    def apply(self, config: Config, to: str | None = None) -> None:
        """Put the target's settings into service, set the machine, and write files that set it at each start."""
        texts, entries = self._texts(config), {entry["path"]: entry for entry in self._state["files"]}
        writer = Writer(self.machine, self._state)
        writer.note(texts)  # before the files: a restart that comes between would set them
        for one in self.keys:
            path = self._file(one)
            if path is None:
                originals.notice(f"{one.name} is set until the group ends; put it into its unit to make it last")
            elif config.get(one.name, one.param.default) != one.param.default:
                originals.write(path, _line(one, texts[one.name]).encode(), entries.get(str(path.absolute())))
        writer.set(texts)
        if self.inner.applies:
            self.inner.apply(self._inner(config), to)
        elif self._inner(self.space.changes(config)):
            originals.notice(f"only the machine is set: target {self.inner.name!r} has no running system to apply to")

    def _file(self, key: Key) -> Path | None:
        """Return the file that sets a setting at each start; None where it has no place in one."""
        if key.path.startswith("/proc/sys/"):
            return self.machine.file(f"{_SYSCTL_FILES}/99-tunewright-{key.name}.conf")
        groups = self.machine.groups()
        if groups and key.path.startswith(f"{groups}/"):
            return None
        return self.machine.file(f"{_TMPFILES}/tunewright-{key.name}.conf")

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Put the machine back, its files removed, and the target."""
        self._state = {}
        _all_of(undo, self.inner.rollback)


def _all_of(state: Mapping[str, Any], inner: Callable[[Mapping[str, Any]], None]) -> None:
    """Put back the machine's part of a state and the rest, the second even if the first fails."""
    rest = {name: value for name, value in state.items() if name != PART}
    problems = []
    if PART in state:
        try:
            live.put_back(state[PART])
        except TargetError as error:
            problems.append(str(error))
    if rest.keys() - {"workdir"}:
        try:
            inner(rest)
        except TargetError as error:
            problems.append(str(error))
    if problems:
        raise TargetError("; ".join(problems))


def _together(space: Space, keys: Sequence[Key], machine: Machine) -> Space:
    """Return a target's space with the settings' parameters and the rules between these."""
    rules = []
    names = {k.path: k.name for k in keys}
    for low, high in (("dirty_background_ratio", "dirty_ratio"), ("dirty_background_bytes", "dirty_bytes")):
        both = [names.get(f"/proc/sys/vm/{name}") for name in (low, high)]
        values = {k.name: k.param.default for k in keys}
        if all(both) and values[str(both[0])] < values[str(both[1])]:
            rules.append(f"{both[0]} < {both[1]}")  # the kernel takes half of the larger one otherwise
    return Space([*space.params.values(), *(k.param for k in keys)], [*space.constraints, *rules], space.facts)


def _line(key: Key, text: str) -> str:
    """Return the line of a file of sysctl.d or tmpfiles.d that sets a setting."""
    head = "# written by 'tunewright apply'; 'tunewright rollback' removes it\n"
    if key.path.startswith("/proc/sys/"):
        return f"{head}{live.dotted(key.path)} = {text}\n"
    return f"{head}w {key.path} - - - - {text}\n"


def _instead(key: Key, why: str) -> str:
    """Say what to do about a setting that cannot be written."""
    if "read-only" in why:
        return f"Tune from outside the container, or leave {key.name} out."
    if "root" in why:
        return f"Run tunewright as root, or leave {key.name} out."
    return f"Leave {key.name} out, or see 'ls -l {posixpath.dirname(key.path)}'."
