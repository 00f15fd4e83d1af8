"""Tuners: anything that asks for a configuration and is told what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from tunewright.errors import ConfigError, TunerError, unknown
from tunewright.space import Config, Space
from tunewright.target import DECIDED, Metric, Status

MAX_ASKS = 12  # suggestions in a row that may be refused before an untried neighbour is taken instead


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration and what came of it.

    Attributes:
        number: position in the session, from 0.
        config: the configuration, active parameters only.
        status: see Measurement; ``interrupted`` trials are measured again on resume.
        reason: why it is not ``ok``.
        why: the tuner's reason for proposing it.
        metrics: median of each metric over the trial's runs.
        scores: the same, corrected for drift by the default measured beside it; what tuners learn from.
        ratio: improvement of the first objective over the default, above 1 is better; None if unknown.
        violations: constraint metric to the amount by which it misses its bound, in its unit.
        runs: every single run: ``{"of": "candidate" | "default", "values": …, "seconds": …}``.
        seconds: wall time of the trial.
        step: how many trials were decided when it was proposed; with the seed it fixes the suggestion.
        attempt: how many earlier suggestions at this step were refused.
        started: time stamp, ISO 8601.
        asked_s: seconds that the tuner took: to learn of the trial before, and to propose this one.
    """

    number: int
    config: Config
    status: Status
    reason: str = ""
    why: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    ratio: float | None = None
    violations: Mapping[str, float] = field(default_factory=dict)
    runs: Sequence[Mapping[str, Any]] = ()
    seconds: float = 0.0
    step: int = 0
    attempt: int = 0
    started: str = ""
    asked_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it was measured."""
        return self.status == "ok"

    @property
    def feasible(self) -> bool:
        """Whether it was measured and meets every constraint."""
        return self.ok and all(v <= 0 for v in self.violations.values())

    @property
    def decided(self) -> bool:
        """Whether it counts as a trial of the budget: measured, or tried and failed."""
        return self.status in DECIDED


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A suggestion that was not measured, and why."""

    config: Config
    reason: str


@dataclass(frozen=True, kw_only=True)
class History:
    """What a tuner is shown when asked.

    Attributes:
        trials: all decided trials in order.
        step: number of trials decided or running; with the session seed it fixes the randomness.
        refused: suggestions already refused at this step (illegal, or measured before).
        running: configurations being measured by other workers.
        remaining: trials left in the budget, or None.
        machine: what changed about the machine while the trials were measured, in words. ``scores`` and ``ratio`` of a
            trial are corrected for it, ``metrics`` are not.
    """

    trials: Sequence[Trial] = ()
    step: int = 0
    refused: Sequence[Refusal] = ()
    running: Sequence[Config] = ()
    remaining: int | None = None
    machine: Sequence[str] = ()

    @property
    def attempt(self) -> int:
        """How many suggestions were refused at this step."""
        return len(self.refused)

    def tried(self, space: Space) -> set[str]:
        """Return the keys of all that was tried, is running, or was refused at this step."""
        configs = [*(t.config for t in self.trials), *(r.config for r in self.refused), *self.running]
        return {space.key(config) for config in configs}


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A configuration to try and the reason, which is shown to the user."""

    config: Config
    why: str


class Tuner(Protocol):
    """Asks and tells. Built as ``factory(problem)``; the same problem and history give the same suggestion.

    One session owns a tuner and calls it from one thread. :class:`BaseTuner` has defaults for all but ``ask``; a tuner
    that has ``ask`` and ``tell`` alone works too, see :func:`completed`.
    """

    @property
    def repeats(self) -> bool:
        """Whether a configuration is measured again when it is proposed again."""
        ...

    @property
    def asks(self) -> int:
        """Suggestions in a row that may be refused before an untried neighbour is measured instead."""
        ...

    def ask(self, history: History) -> Suggestion:
        """Propose a configuration.

        Raises:
            TunerError: nothing is left to propose.
        """
        ...

    def tell(self, trial: Trial) -> None:
        """Learn from a decided trial, or from one replayed out of the store."""
        ...

    def notes(self) -> dict[str, Any]:
        """Return what the report should show beside the trials, JSON-able; lists hold what is new since the start."""
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a tuner is built for.

    Attributes:
        space: the space, guards included.
        metrics: all metrics of the target, constraints included.
        objectives: names of the metrics to optimise, first the most important.
        seed: session seed.
        options: tuner options by name, such as ``{"startup": 3}``; unknown ones are an error.
        argument: what follows the colon in ``policy:FILE``.
        facts: facts of the machine and target.
        workload: name of the workload.
        about: what the workload does, in words.
        workloads: names of all workloads of the target, in order.
        trials: planned number of trials, or None.
        target: name of the target, such as ``sqlite``.
        log: file to which a tuner may add what it asked others, such as a model; None without a session.
        trust_file: the tuner's file may be opened even where that can run code; said anew at every start, never stored.
    """

    space: Space
    metrics: Sequence[Metric]
    objectives: Sequence[str]
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    argument: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    workload: str = ""
    about: str = ""
    workloads: Sequence[str] = ()
    trials: int | None = None
    target: str = ""
    log: Path | None = None
    trust_file: bool = False

    def metric(self, name: str) -> Metric:
        """Return a metric by name."""
        return next(m for m in self.metrics if m.name == name)

    @property
    def directions(self) -> list[str]:
        """``min`` or ``max`` for each objective."""
        return [self.metric(name).direction for name in self.objectives]

    @property
    def constrained(self) -> list[Metric]:
        """Metrics that have a bound."""
        return [m for m in self.metrics if m.constrained]

    def rng(self, history: History) -> np.random.Generator:
        """Return the generator of this ask: a function of seed, step and attempt alone."""
        return np.random.default_rng([self.seed, history.step, history.attempt])

    def option(self, name: str, default: int, *, low: int = 0) -> int:
        """Return an integer option.

        Raises:
            ConfigError: it is not a whole number of at least ``low``.
        """
        value = self.options.get(name, default)
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ConfigError(f"tuner option {name} must be a whole number, not {value!r}") from None
        if number < low:
            raise ConfigError(f"tuner option {name} must be at least {low}, not {number}")
        return number


class BaseTuner:
    """Shared by tuners that keep no state besides the problem: checks options, ignores ``tell``.

    Attributes:
        known: options it takes.
        label: its name, for messages and reasons.
        multi_objective: whether it takes more than one objective.
        repeats: whether a configuration is measured again when it is proposed again.
        asks: suggestions in a row that may be refused before an untried neighbour is measured instead.
    """

    known: ClassVar[tuple[str, ...]] = ()
    label: ClassVar[str] = ""
    multi_objective: ClassVar[bool] = True
    repeats: ClassVar[bool] = False
    asks: ClassVar[int] = MAX_ASKS

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        if len(problem.objectives) > 1 and not self.multi_objective:
            raise TunerError(f"tuner {self.label!r} optimises one objective; for several use tpe or nsga2")
        for name in problem.options:
            if name not in self.known:
                raise unknown("tuner option", name, self.known)

    def ask(self, history: History) -> Suggestion:
        """Propose a configuration; see Tuner."""
        raise TunerError(f"tuner {self.label!r} has no ask method")

    def tell(self, trial: Trial) -> None:
        """Learn nothing: ask sees the whole history."""

    def notes(self) -> dict[str, Any]:
        """Return what the report should show beside the trials, JSON-able; lists hold what is new since the start."""
        return {}


class _Completed:
    """A tuner with BaseTuner's defaults for what it leaves out; see :func:`completed`."""

    def __init__(self, tuner: Any) -> None:
        self.tuner = tuner
        self.ask, self.tell = tuner.ask, tuner.tell
        self.notes: Callable[[], dict[str, Any]] = getattr(tuner, "notes", dict)

    @property
    def repeats(self) -> bool:
        repeats: bool = getattr(self.tuner, "repeats", BaseTuner.repeats)
        return repeats

    @property
    def asks(self) -> int:
        asks: int = getattr(self.tuner, "asks", BaseTuner.asks)
        return asks


def completed(tuner: Any) -> Tuner:
    """Return a tuner with the whole contract.

    The session's loop calls this once. It is the only place where a tuner may lack something: one of another package
    need not derive from BaseTuner, and may have ``ask`` and ``tell`` alone.

    Args:
        tuner: any object with ``ask`` and ``tell``.
    """
    return tuner if isinstance(tuner, BaseTuner) else _Completed(tuner)


def best_trial(trials: Sequence[Trial], metric: Metric) -> Trial | None:
    """Return the feasible trial with the best score, the earliest among equals."""
    best: Trial | None = None
    for trial in trials:
        if trial.feasible and (best is None or metric.better(trial.scores[metric.name], best.scores[metric.name])):
            best = trial
    return best


def pareto(trials: Sequence[Trial], metrics: Sequence[Metric]) -> list[Trial]:
    """Return the feasible trials that no other one beats in every metric, in order of number."""

    def vector(trial: Trial) -> list[float]:
        return [trial.scores[m.name] * (1 if m.direction == "min" else -1) for m in metrics]

    feasible = [(t, vector(t)) for t in trials if t.feasible]
    return [
        trial
        for trial, mine in feasible
        if not any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for _, other in feasible)
    ]


def untried(space: Space, tried: set[str], near: Config, rng: np.random.Generator) -> Config:
    """Return an untried configuration close to ``near``: ever larger random moves, then a full listing.

    Raises:
        TunerError: every configuration was tried.
    """
    point = space.encode(near)
    for i in range(200):
        moved = point.copy()
        count = 1 + rng.binomial(len(moved) - 1, min(0.05 + i / 200, 1.0)) if len(moved) > 1 else 1
        chosen = rng.choice(len(moved), size=count, replace=False)
        moved[chosen] = rng.random(count)
        config = space.decode(moved)
        if space.key(config) not in tried:
            return config
    if math.isfinite(space.size()) and space.size() <= 1_000_000:
        for config in space.grid(int(space.size())):
            if space.key(config) not in tried:
                return config
    raise TunerError("every configuration of the space was tried; there is nothing left to propose")
