"""Targets: anything that can be configured and measured."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.space import Config, Space, Value

if TYPE_CHECKING:
    import numpy as np

Status = Literal["running", "ok", "failed", "timed out", "killed", "rejected", "interrupted"]
Direction = Literal["min", "max"]
DECIDED: tuple[Status, ...] = ("ok", "failed", "timed out", "killed")  # of trials that count


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured quantity.

    Attributes:
        name: identifier.
        direction: ``max`` where more is better.
        unit: unit of the values.
        doc: one sentence for people.
        at_least: constraint; a configuration with less is not feasible.
        at_most: constraint; a configuration with more is not feasible.
    """

    name: str
    direction: Direction
    unit: str = ""
    doc: str = ""
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("min", "max"):
            raise ConfigError(f"metric {self.name!r}: direction must be min or max, not {self.direction!r}")

    def better(self, a: float, b: float) -> bool:
        """Whether a is strictly better than b."""
        return a > b if self.direction == "max" else a < b

    def violation(self, value: float) -> float:
        """By how much the constraints are missed, in the metric's unit; 0 or less where they hold."""
        missed = [-math.inf]
        if self.at_least is not None:
            missed.append(self.at_least - value)
        if self.at_most is not None:
            missed.append(value - self.at_most)
        return max(missed)

    @property
    def constrained(self) -> bool:
        """Whether the metric has a bound."""
        return self.at_least is not None or self.at_most is not None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What came of running one configuration once.

    Attributes:
        values: metric name to value; empty unless the status is ``ok``.
        status: ``ok``, ``failed``, ``timed out``, ``killed`` (memory) or ``rejected`` (by the system).
        reason: for people, where the status is not ``ok``.
        seconds: wall time of the run, set-up included.
        traces: what else was learned (counters, logs), JSON-able.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    status: Status = "ok"
    reason: str = ""
    seconds: float = 0.0
    traces: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the run gave values."""
        return self.status == "ok"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a measurement may use.

    Attributes:
        workdir: directory for files; prepared state lies here.
        seconds: hard limit of one run.
        memory_bytes: hard limit of resident memory of the whole process tree.
        prepared: what ``prepare`` returned for this session, such as the calibrated amount of work.
        bounds: a :class:`~tunewright.measuring.guarding.Bounds` that the run is watched against; None for none.
        progress: file that ``report`` writes to; None where nobody watches.
    """

    workdir: Path
    seconds: float = 600.0
    memory_bytes: int | None = None
    prepared: Mapping[str, Any] = field(default_factory=dict)
    bounds: Any = None
    progress: Path | None = None

    def report(self, values: Mapping[str, float]) -> None:
        """Say how a run goes while it goes on, so that one that is clearly worse than the default is ended early.

        Args:
            values: some of the metrics, as they are now: of the last second, say, not of the whole run.
        """
        if self.progress is not None:
            with open(self.progress, "a", encoding="utf-8") as file:
                file.write(json.dumps({name: float(value) for name, value in values.items()}) + "\n")


@dataclass(frozen=True, kw_only=True)
class Weaker:
    """A configuration with weaker guarantees, shown for information only."""

    config: Config
    loses: str


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a session will do to a system, and what it lacks for that; every entry is for people, in a full sentence.

    Attributes:
        changes: what is changed while candidates are measured, and put back afterwards.
        restarts: what is restarted or reloaded, and when.
        creates: what is created, with its size where that is known.
        leaves: what stays after the session.
        locks: what is held, so that no other session changes it meanwhile.
        missing: what the session cannot do without: the statement or command that gives it, ready to paste.
        notes: what else the user should know beforehand.
        disk_bytes: room that the session needs where its files lie, where that is known.
    """

    changes: Sequence[str] = ()
    restarts: Sequence[str] = ()
    creates: Sequence[str] = ()
    leaves: Sequence[str] = ()
    locks: Sequence[str] = ()
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()
    disk_bytes: int | None = None


@runtime_checkable
class Target(Protocol):
    """The seam between tunewright and a system; ``BaseTarget`` has defaults for all but the first part."""

    name: str
    space: Space
    metrics: Sequence[Metric]
    workloads: Mapping[str, str]
    facts: Mapping[str, Any]
    manual: str

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Run the workload once under the configuration, from reset state, with a fixed amount of work."""
        ...


class BaseTarget:
    """Defaults for everything a target may leave out.

    Attributes:
        isolated: measure in a process group of its own; False only for tables and simulators.
        parallel_safe: several measurements may run at once without disturbing each other.
        exact: a repeated measurement gives the same values, so that repeats are wasted.
        known: what is known of all configurations under the first workload, such as the ``best`` value: for judging
            tuners, never shown to them.
        options: what ``--option NAME=VALUE`` may set, with a description of each.
        live: the system is the user's and others may be using it: nothing weaker than the default's guarantees is
            measured on it for information only.
        secret_options: those of them whose values are secrets, such as a password: a session does not store them (of a
            connection string all but its passwords).
        address: connection string, without its password, of a system that the environment named: a session stores it,
            so that it goes on with the same system.
        limit_seconds: hard limit of one run; None derives it from the default's run time.
        memory_bytes: hard limit of memory; None means three quarters of the machine's.
        prepare_seconds: the least limit of ``prepare``, where it may take longer than a run; None for the usual one.
        packages: distributions whose installed versions a session stores, besides those of tunewright's core.
    """

    name: str = ""
    space: Space
    metrics: Sequence[Metric] = ()
    workloads: Mapping[str, str] = {"default": "the only workload"}
    facts: Mapping[str, Any] = {}
    known: Mapping[str, Any] = {}
    options: Mapping[str, str] = {}
    secret_options: Sequence[str] = ()
    address: str = ""
    manual: str = ""
    live: bool = False
    isolated: bool = True
    parallel_safe: bool = False
    exact: bool = False
    limit_seconds: float | None = None
    memory_bytes: int | None = None
    prepare_seconds: float | None = None
    packages: Sequence[str] = ()

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Run the workload once; see Target."""
        raise TargetError(f"target {self.name!r} has no measure method")

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Build what all measurements share, once a session; must be safe to repeat.

        Args:
            workload: name of the workload.
            seed: seed of the data.
            budget: its ``prepared`` holds an earlier result when a session is resumed; amounts of work
                must then be kept.

        Returns:
            JSON-able facts that every measurement is given as ``budget.prepared``.
        """
        return dict(budget.prepared)

    def drawn(self, rng: np.random.Generator) -> tuple[BaseTarget, str]:
        """Draw another member of the target's family, for agents that learn to tune more than one.

        Parameters keep their names and order; bounds, machines and workloads may differ.

        Returns:
            A target, and the name of one of its workloads; by default this target and any of its workloads.
        """
        names = list(self.workloads)
        return self, names[int(rng.integers(len(names)))]

    def guarantees(self, config: Config) -> dict[str, float]:
        """Return guarantees known without measuring, such as ``{"durability": 3}``; higher is stronger."""
        return {}

    def guarantee_names(self) -> tuple[str, ...]:
        """Return the parameters that ``guarantees`` reads."""
        return tuple(self.space.params)

    def weaker(self, config: Config) -> list[Weaker]:
        """Return variants with weaker guarantees, to tell the user what these would give."""
        return []

    def dangerous(self) -> Mapping[str, str]:
        """Return what careful mode never tries on a system in use: expressions over the parameters, with the reason.

        What holds for the default already, and expressions that name a parameter which is not tuned, are left out.
        Example: ``{"work_mem < 4096": "sorts and hashes spill to disk"}``.
        """
        return {}

    def waiting(self, workdir: Path) -> str:
        """Return what the run that goes on in a session's folder waits for, where that is not its work; else "".

        Called in the session's process, several times a second.
        """
        return ""

    def processes(self, workdir: Path, runner: int) -> Collection[int]:
        """Return the numbers of processes beside a measuring process whose memory counts as the run's, too.

        Called in the session's process every fraction of a second while the run goes on. They are killed with a run
        that takes more memory than it may.

        Args:
            workdir: of the session.
            runner: number of the measuring process.
        """
        return ()

    def revert(self) -> None:
        """Bring a running system back to the default's configuration at once, after a run that was cut short.

        Called in the session's process, outside of any run, in careful mode; must be quick, and safe to repeat. A run
        of the default follows.
        """

    def render(self, config: Config) -> str:
        """Return the configuration in the system's own form, ready to paste."""
        return "\n".join(f"{name} = {value}" for name, value in config.items())

    def forms(self, config: Config, changed: Mapping[str, Value]) -> Mapping[str, str]:
        """Return a configuration in forms that operations use, in the place of the general ones of the same names.

        Args:
            config: a legal configuration.
            changed: those of its values that are new, against what was in service before the session.

        Returns:
            Text by name: ``conf.d`` (lines of a configuration file), ``sql``, ``systemd`` (a drop-in), ``ansible`` (a
            list of tasks), ``diff``, ``env``. What a target leaves out is made from ``files`` and the changed values
            where that can be done; a form with an empty text makes no sense for it.
        """
        return {}

    def files(self, config: Config) -> Mapping[Path, str]:
        """Return the configuration files that ``apply`` writes, with their texts."""
        return {}

    def still_to_do(self, config: Config, changed: Mapping[str, Value]) -> Sequence[str]:
        """Return what the user has to do after ``apply`` before all values are in service; one sentence each.

        Args:
            config: what was applied.
            changed: as for ``forms``.
        """
        return ()

    def changes(self, to: str | None = None) -> Sequence[str]:
        """Return keys of everything outside the work directory that measuring changes, for locks.

        Two sessions whose targets share a key are never run at once. :func:`tunewright.sessions.locks.file_keys` gives
        those of a file; a server's are its identity, whatever address it has.

        Args:
            to: what ``apply`` is given; then the keys of what ``apply`` changes.
        """
        return ()

    def preflight(self, *, workload: str, workdir: Path) -> Preflight:
        """Look, and change nothing: what a session would change, restart, create and leave, and what is missing.

        Args:
            workload: name of the workload.
            workdir: where the session's files would lie; it may not exist yet.
        """
        return Preflight()

    def hold(self, what: str, to: str | None = None) -> AbstractContextManager[None]:
        """Hold what ``changes`` names against other machines, too, where the system has locks of its own.

        Args:
            what: who holds it, for others.
            to: as for ``changes``.
        """
        return nullcontext()

    def snapshot(self, folder: Path) -> dict[str, Any]:
        """Save what ``restore`` needs to undo every change measuring makes; called before the first one.

        Args:
            folder: empty and private; for copies of files and other contents that may hold secrets.

        Returns:
            JSON-able; empty if nothing outside the work directory is changed. The session adds ``workdir``.
        """
        return {}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Bring the system back to the snapshot; must be safe to repeat, also after a crash, and to be interrupted."""

    def cleanup(self, workdir: Path) -> None:
        """Remove what ``prepare`` and ``measure`` left, and nothing that they did not make.

        Called at the end of a run and for what a killed one left, but not where the user keeps it for further sessions.

        Args:
            workdir: of the session; what they made elsewhere, such as a database of ours in a server, goes as well.
        """

    @property
    def applies(self) -> bool:
        """Whether there is something that a configuration can be put into."""
        return type(self).undo is not BaseTarget.undo

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Save what ``rollback`` needs to undo ``apply``; called, and written down, before it.

        Args:
            folder: empty and private, for copies of files; kept until the rollback.
            to: as for ``apply``.

        Returns:
            JSON-able.
        """
        what = f"target {self.name!r} has no running system to apply to"
        raise ConfigError(f"{what}; copy the settings that 'tunewright show' prints")

    def apply(self, config: Config, to: str | None = None) -> None:
        """Put a configuration into service; ``undo`` was called before.

        Args:
            config: a legal configuration.
            to: what to apply it to, where the target needs it: a database file, a DSN.
        """
        raise ConfigError(f"target {self.name!r} has no running system to apply to")

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Undo ``apply``, whole or interrupted; must be safe to repeat."""
        raise ConfigError(f"target {self.name!r} cannot roll back")


def check_options(target: str, options: Iterable[str], known: Collection[str]) -> None:
    """Raise UnknownNameError where a target has no option of a name."""
    for name in options:
        if name not in known:
            raise unknown(f"option of target {target}", name, known)


def numeric_options(target: str, options: Mapping[str, Any], defaults: Mapping[str, float]) -> dict[str, Any]:
    """Return a target's numeric options, the defaults filled in; whole numbers where the default is an int.

    Raises:
        UnknownNameError: the target has no such option.
        ConfigError: a value is no such number.
    """
    found: dict[str, Any] = dict(defaults)
    for name, value in options.items():
        if name not in defaults:
            raise unknown(f"option of target {target}", name, defaults)
        whole = isinstance(defaults[name], int)
        try:
            found[name] = int(value) if whole else float(value)
        except ValueError:
            raise ConfigError(f"option {name} must be a {'whole ' if whole else ''}number, not {value!r}") from None
    return found


def with_requirements(metrics: Sequence[Metric], requirements: Sequence[str]) -> list[Metric]:
    """Return the metrics with user constraints such as ``recall>=0.9`` or ``memory<=512`` put in.

    Raises:
        ConfigError: a requirement cannot be read or names no metric.
    """
    found = {m.name: m for m in metrics}
    for text in requirements:
        for sign in (">=", "<="):
            name, split, bound = text.partition(sign)
            if split:
                break
        else:
            raise ConfigError(f"cannot read the requirement {text!r}; write METRIC>=NUMBER or METRIC<=NUMBER")
        name = name.strip()
        if name not in found:
            raise unknown("metric", name, found)
        try:
            value = float(bound)
        except ValueError:
            raise ConfigError(f"cannot read the number in the requirement {text!r}") from None
        found[name] = replace(found[name], at_least=value) if sign == ">=" else replace(found[name], at_most=value)
    return list(found.values())
