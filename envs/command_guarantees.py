"""Guarantees of a command target: levels of durability, accuracy, quality and the like, declared in its TOML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, SpaceError
from tunewright.space import Choice, Config, Space, Value
from tunewright.space.expressions import Expr, parse, unknown_name
from tunewright.store.files import printable
from tunewright.target import Weaker


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of a guarantee.

    Attributes:
        when: condition on the parameters; None holds always.
        loses: what a configuration on this level loses against stronger ones, for people.
    """

    when: Expr | None
    loses: str


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What a configuration promises, in levels.

    Attributes:
        name: such as ``durability``.
        levels: the strongest first; the first whose condition holds is the configuration's.
    """

    name: str
    levels: tuple[Level, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that decide the level."""
        return tuple(dict.fromkeys(n for level in self.levels if level.when for n in level.when.names))

    def place(self, space: Space, config: Config) -> int:
        """Return the number of a configuration's level, 0 for the strongest; the weakest where none holds."""
        scope = space.scope(space.fill(config))
        for place, level in enumerate(self.levels):
            try:
                if level.when is None or level.when(scope):
                    return place
            except SpaceError:  # arithmetic that fails promises nothing
                continue
        return len(self.levels) - 1

    def strength(self, space: Space, config: Config) -> float:
        """Return the level as targets state it: higher is stronger, 0 the weakest."""
        return float(len(self.levels) - 1 - self.place(space, config))


def read_guarantees(
    path: Path, entries: Sequence[Any], space: Space, table: Callable[[str, Any, set[str]], Any]
) -> tuple[Guarantee, ...]:
    """Read the [[guarantee]] tables of a description.

    Args:
        path: of the description, for messages.
        entries: the tables.
        space: its parameters.
        table: opens one table for reading, given its place and the keys that it may have.

    Raises:
        ConfigError: something is missing or wrong; the message says where.
    """
    found: dict[str, Guarantee] = {}
    for number, data in enumerate(entries, 1):
        read = table(f"{path}, guarantee number {number}", data, {"name", "level"})
        name = read.get("name", str, needed=True)
        where = f"{path}, guarantee {printable(name, 60)}"
        if name in found:
            raise ConfigError(f"{where}: two guarantees have this name")
        rows = [table(f"{where}, level", row, {"when", "loses"}) for row in read.get("level", list, needed=True)]
        levels = tuple(_level(row, space, last=row is rows[-1]) for row in rows)
        if len(levels) < 2 or any(not level.loses for level in levels[1:]):
            raise ConfigError(f"{where}: give the strongest level first, and for every weaker one what it 'loses'")
        found[name] = Guarantee(name=name, levels=levels)
    return tuple(found.values())


def _level(row: Any, space: Space, *, last: bool) -> Level:
    """Return a level; only the weakest may hold without a condition."""
    text = row.get("when", str, needed=not last)
    try:
        when = None if text is None else parse(text)
    except SpaceError as error:
        raise ConfigError(f"{row.where}: {error}") from None
    for name in when.names if when else ():
        if name not in space.params:
            raise ConfigError(f"{row.where}: {unknown_name('parameter', name, space.params, text)}")
    return Level(when=when, loses=row.get("loses", str, ""))


def read_dangers(table: Any, space: Space) -> Mapping[str, str]:
    """Read what careful mode never tries: a list of expressions, or a table of them with the reason of each.

    Args:
        table: [target] of the description.
        space: its parameters.

    Raises:
        ConfigError: an expression is wrong, or names what is neither a parameter nor a fact of the machine.
    """
    listed = table.get("dangerous", (list, dict), [])
    if isinstance(listed, list):
        listed = dict.fromkeys(table.texts("dangerous"), "the description calls it dangerous")
    for text, reason in listed.items():
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f"{table.where}: dangerous: say in a text why {printable(text, 60)} is")
        try:
            names = parse(text).names
        except SpaceError as error:
            raise ConfigError(f"{table.where}: dangerous: {error}") from None
        for name in names:
            if name not in space.params and name not in space.facts:
                raise ConfigError(f"{table.where}: dangerous: {unknown_name('parameter', name, space.params, text)}")
    return {str(text): str(reason) for text, reason in listed.items()}


def weaker(space: Space, guarantees: Sequence[Guarantee], config: Config) -> list[Weaker]:
    """Return a configuration with one parameter changed for each weaker level that one change reaches."""
    found: list[Weaker] = []
    for guarantee in guarantees:
        now, seen = guarantee.place(space, config), set[int]()
        for name in guarantee.names:
            for value in _values(space, name) if name in config else ():
                changed = space.fill({**config, name: value})
                place = guarantee.place(space, changed)
                if place > now and place not in seen and not space.problems(changed):
                    seen.add(place)
                    found.append(Weaker(config=changed, loses=guarantee.levels[place].loses))
    return found


def fixed(space: Space, guarantees: Sequence[Guarantee]) -> set[str]:
    """Return the choices all of whose other values are weaker than the default's: they stay, unless that is allowed."""
    found = set()
    for guarantee in guarantees:
        now = guarantee.place(space, space.default)
        for name in guarantee.names:
            param = space.params[name]
            others = [v for v in param.choices if v != param.default] if isinstance(param, Choice) else []
            if others and all(guarantee.place(space, {**space.default, name: v}) > now for v in others):
                found.add(name)
    return found


def _values(space: Space, name: str) -> Sequence[Value]:
    """Return values of a parameter at which its guarantee may be another: of a number its ends."""
    param = space.params[name]
    if isinstance(param, Choice):
        return param.choices
    return (*param.bounds(space.scope(space.default)), *param.special)
