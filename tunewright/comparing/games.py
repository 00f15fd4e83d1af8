"""What a tournament is made of: targets and tuners as they are named, and the games between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, TunewrightError, unknown
from tunewright.plugins import TARGETS, TUNERS, installed, open_target, split_spec
from tunewright.store.plan import Plan
from tunewright.store.secrets import public_options, public_spec
from tunewright.target import BaseTarget

OBJECTIVES = "objectives"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A target or a tuner of a tournament.

    Attributes:
        label: its name in tables; unique.
        spec: as ``tunewright tune`` takes it.
        workload: of a target.
        options: of the target or tuner.
        objectives: metrics that a target is tuned for; empty for its first.
        made: the target itself, or what makes the tuner, where it is no spec.
    """

    label: str
    spec: str
    workload: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    made: Any = None


@dataclass(frozen=True, kw_only=True)
class Tournament:
    """What is compared; see :func:`compare` for the fields."""

    targets: Sequence[Entry]
    tuners: Sequence[Entry]
    trials: int = 30
    seeds: Sequence[int] = tuple(range(10))
    trust: str = "fast"
    by: str = ""

    def games(self) -> Iterator[Game]:
        """Yield all games, those of one seed together, so that an unfinished tournament is still paired."""
        for seed in self.seeds:
            for target in self.targets:
                for tuner in self.tuners:
                    yield Game(target=target, tuner=tuner, seed=seed, trials=self.trials, trust=self.trust)


@dataclass(frozen=True, kw_only=True)
class Game:
    """One tuner on one target with one seed."""

    target: Entry
    tuner: Entry
    seed: int
    trials: int
    trust: str
    tournament: str = ""
    trust_file: bool = False

    @property
    def name(self) -> str:
        """Its name in the tournament."""
        return f"{self.target.label} | {self.tuner.label} | {self.seed}"

    @property
    def session(self) -> str:
        """The name of its session; a store may hold those of many tournaments."""
        return f"{self.tournament} {self.name}".strip()


def entries(texts: Sequence[Any], kind: str) -> list[Entry]:
    """Read targets or tuners: ``NAME[:ARGUMENT]``, with ``@WORKLOAD`` (targets) and ``@NAME=VALUE`` behind it.

    ``@objectives=A+B`` names the metrics that a target is tuned for.

    A target object stands for itself; a tuner that is no spec is (label, function of the problem).

    Example:
        >>> first, second = entries(("tpe@startup=10", "random"), "tuner")
        >>> first.spec, first.options
        ('tpe', {'startup': '10'})

    Raises:
        ConfigError: a text cannot be read, or two entries have one name.
        UnknownNameError: there is no such target or tuner.
    """
    read = [entry(t, kind) for t in texts]
    labels = [e.label for e in read]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{label!r} stands twice among the {kind}s; tell them apart by their options")
    if not read:
        raise ConfigError(f"name at least one {kind}; 'tunewright {kind}s' lists them")
    return read


def entry(given: Any, kind: str) -> Entry:
    """Read one target or tuner; see :func:`entries`."""
    if isinstance(given, Entry):
        return given
    if isinstance(given, BaseTarget):
        return Entry(label=given.name, spec=given.name, made=given)
    if isinstance(given, tuple) and len(given) == 2 and callable(given[1]):
        return Entry(label=str(given[0]), spec=str(given[0]), made=given[1])
    spec, *rest = str(given).strip().split("@")
    workload, options, objectives = "", {}, tuple[str, ...]()
    for word in rest:
        name, equals, value = word.partition("=")
        if equals and kind == "target" and name.strip() == OBJECTIVES:
            objectives = _metrics(value, str(given))
        elif equals:
            options[name.strip()] = value.strip()
        elif kind == "target" and not workload:
            workload = word
        else:
            raise ConfigError(f"cannot read {word!r} in {given!r}; options of a {kind} are written @NAME=VALUE")
    name, argument = split_spec(spec)
    points = installed(TARGETS if kind == "target" else TUNERS)
    if name not in points and not (kind == "tuner" and name == "auto"):
        raise unknown(kind, name, points, plural="Installed")
    if kind == "target" and argument and not workload and not Path(argument).exists():
        with suppress(TunewrightError):  # lustre:ior-16m: the argument may be meant as a workload
            if argument in open_target(name, options).workloads:
                label = f"{spec}@{OBJECTIVES}={'+'.join(objectives)}" if objectives else spec
                return Entry(label=label, spec=name, workload=argument, options=options, objectives=objectives)
    shown = f"{name}:{Path(argument).name.split('.')[0]}" if name in ("table", "command", "policy") else spec
    public = public_options(options)  # the label stands in every table, and in the sessions' names
    words = [w if public.get(k := w.partition("=")[0].strip()) == options.get(k) else f"{k}={public[k]}" for w in rest]
    label = "@".join([public_spec(shown), *words])
    return Entry(label=label, spec=spec, workload=workload, options=options, objectives=objectives)


def _metrics(text: str, given: str) -> tuple[str, ...]:
    names = tuple(n.strip() for n in text.split("+"))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"cannot read {OBJECTIVES}={text!r} in {given!r}; write different metrics, such as A+B")
    return names


def open_entry(entry: Entry) -> BaseTarget:
    """Return the target of an entry, open.

    Raises:
        TunewrightError: it cannot be opened; where a workload may be misspelt, the message lists them.
    """
    target: BaseTarget | None = entry.made
    if target is not None:
        return target
    try:
        return _opened(entry.spec, tuple(entry.options.items()))
    except TunewrightError as error:
        kind, argument = split_spec(entry.spec)
        known: list[str] = []
        if argument and kind not in ("table", "command"):
            with suppress(TunewrightError):  # a workload that is misspelt, perhaps
                known = list(open_target(kind).workloads)
        if not known:
            raise
        raise ConfigError(f"{error}. Workloads of {kind}, written {kind}@WORKLOAD: {', '.join(known)}") from None


@cache
def _opened(spec: str, options: tuple[tuple[str, str], ...]) -> BaseTarget:
    return open_target(spec, dict(options))  # once in a process: reading a table takes longer than a game on it


def plan_of(game: Game, workdir: str = "") -> Plan:
    """Return the plan of a game's session."""
    return Plan(
        target=game.target.spec, workload=game.target.workload, tuner=game.tuner.spec, seed=game.seed, trust=game.trust,
        options=game.target.options, tuner_options=game.tuner.options, objectives=game.target.objectives,
        workdir=workdir,
        keep_all=True,  # tuners are compared by what they found
    )  # fmt: skip
