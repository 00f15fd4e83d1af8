"""Spaces: ordered parameters, conditions between them, constraints, and the map to the unit cube."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunewright.errors import SpaceError, unknown
from tunewright.space.expressions import parse, unknown_name
from tunewright.space.facts import machine_facts
from tunewright.space.notebook import html_table
from tunewright.space.parameters import Choice, Int, Param, Real, Restart, Value

if TYPE_CHECKING:  # NumPy takes a third of the start of a measuring process, which mostly needs no points of the cube
    import numpy as np
    from numpy.typing import NDArray

    Cube = NDArray[np.float64]

__all__ = ["Choice", "Config", "Constraint", "Cube", "Int", "Param", "Real", "Restart", "Space", "Value"]

Config = dict[str, Value]

_ENUMERATE = 20_000  # joint values of one constraint group up to which the nearest legal one is looked up
_TRIES = 64
_SHOWN = 8  # names of parameters in a repr


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A relation that every configuration must satisfy.

    Attributes:
        words: the relation as shown to people; for an expression, its text.
        names: the parameters it reads; it applies only where all of them are active.
        holds: predicate over the values of parameters and facts.
    """

    words: str
    names: tuple[str, ...]
    holds: Callable[[Mapping[str, Value]], bool]

    @staticmethod
    def of(text: str) -> Constraint:
        """Make a constraint from an expression such as ``"low <= high"`` or ``"a * b == 64"``."""
        expression = parse(text)
        return Constraint(words=text, names=expression.names, holds=lambda scope: bool(expression(scope)))


def single_change(a: Mapping[str, Value], b: Mapping[str, Value]) -> str:
    """Return the one parameter in which two configurations differ; "" if there is none, or more than one.

    >>> single_change({"a": 1, "b": 2}, {"a": 1, "b": 3}), single_change({"a": 1}, {"a": 1, "b": 3})
    ('b', '')
    """
    names = [n for n in a if a[n] != b[n]] if a.keys() == b.keys() else []
    return names[0] if len(names) == 1 else ""


class Space:
    """Parameters with their conditions and constraints.

    Args:
        params: the parameters; order is kept in every listing.
        constraints: expressions or Constraint objects.
        facts: machine facts that expressions may name, beside those of ``machine_facts()``.

    Raises:
        SpaceError: two parameters share a name, an expression names something unknown, conditions run in
            a circle, or the default configuration is not legal.
    """

    def __init__(
        self,
        params: Iterable[Param],
        constraints: Iterable[str | Constraint] = (),
        facts: Mapping[str, Value] | None = None,
    ) -> None:
        self.params: dict[str, Param] = {}
        for param in params:
            if param.name in self.params:
                raise SpaceError(f"two parameters are named {param.name!r}")
            self.params[param.name] = param
        if not self.params:
            raise SpaceError("a space needs at least one parameter")
        self.facts = {**machine_facts(), **(facts or {})}
        made = [Constraint.of(c) if isinstance(c, str) else c for c in constraints]
        for where, names, text in [(p.name, e.names, e.text) for p in self.params.values() for e in p.expressions] + [
            (f"the constraint {c.words!r}", c.names, c.words) for c in made
        ]:
            for name in names:
                if name not in self.params and name not in self.facts:
                    there = [*self.params, *self.facts]
                    raise SpaceError(f"{where}: {unknown_name('parameter or fact', name, there, text)}")
        self.constraints = tuple(
            Constraint(words=c.words, names=tuple(n for n in c.names if n in self.params), holds=c.holds) for c in made
        )
        self._defaults = {p.name: p.default for p in self.params.values()}
        self.order = self._topological()
        problems = self.problems(self.default)
        if problems:
            raise SpaceError(f"the default configuration is not legal: {'; '.join(problems)}")

    def __len__(self) -> int:
        return len(self.params)

    def __repr__(self) -> str:
        names = [*itertools.islice(self.params, _SHOWN)]
        rest = [f"and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return f"<Space of {len(self)} parameter{'' if len(self) == 1 else 's'}: {', '.join([*names, *rest])}>"

    def _repr_html_(self) -> str:
        rows = [
            (p.name, type(p).__name__.lower(), p.domain, p.default, p.unit, p.when or "", p.doc)
            for p in self.params.values()
        ]
        shown = html_table(("parameter", "kind", "values", "default", "unit", "only when", "meaning"), rows)
        return shown + (html_table(("constraint",), [(c.words,) for c in self.constraints]) if self.constraints else "")

    def with_constraints(self, more: Iterable[str | Constraint]) -> Space:
        """Return the same space with further constraints, such as a guard's."""
        return Space(self.params.values(), [*self.constraints, *more], self.facts)

    def _topological(self) -> list[str]:
        order: list[str] = []
        state: dict[str, int] = {}

        def visit(name: str) -> None:
            if state.get(name) == 1:
                raise SpaceError(f"conditions or bounds run in a circle through {name!r}")
            if state.get(name) == 2:
                return
            state[name] = 1
            for expression in self.params[name].expressions:
                for other in expression.names:
                    if other in self.params:
                        visit(other)
            state[name] = 2
            order.append(name)

        for name in self.params:
            visit(name)
        return order

    # -- configurations ---------------------------------------------------------------------------

    @cached_property
    def default(self) -> Config:
        """The system's own configuration, active parameters only."""
        return self.fill({})

    def scope(self, config: Mapping[str, Value]) -> dict[str, Value]:
        """Values of everything an expression may name; inactive parameters count with their default."""
        return {**self.facts, **self._defaults, **config}

    def is_active(self, name: str, config: Mapping[str, Value]) -> bool:
        """Whether a parameter has a meaning in this configuration."""
        when = self.params[name].when
        if when is None:
            return True
        expression = parse(when)
        return all(self.is_active(n, config) for n in expression.names if n in self.params) and bool(
            expression(self.scope(config))
        )

    def fill(self, partial: Mapping[str, Value]) -> Config:
        """Return the configuration with defaults for what is missing and inactive parameters dropped."""
        config: Config = {n: self._typed(n, partial.get(n, self._defaults[n])) for n in self.params}
        return {n: v for n, v in config.items() if self.is_active(n, config)}

    def _typed(self, name: str, value: Value) -> Value:
        param = self.params[name]
        if isinstance(param, Choice) or isinstance(value, bool) or not isinstance(value, (int, float)):
            return value
        if isinstance(param, Int):
            return int(value) if math.isfinite(value) and value == int(value) else value
        return float(value)

    def problems(self, config: Mapping[str, Value]) -> list[str]:
        """Say in words everything that is wrong with a configuration; empty if it is legal."""
        found: list[str] = []
        for name in config:
            if name not in self.params:
                found.append(str(unknown("parameter", name, self.params)))
        scope = self.scope({n: v for n, v in config.items() if n in self.params})
        broken: set[str] = set()
        for name, param in self.params.items():
            try:
                active = self.is_active(name, scope)
                if name not in config:
                    wrong = f"{name} is missing" if active else None
                elif not active:
                    wrong = f"{name} has no effect here: it needs {param.when}"
                else:
                    wrong = param.problem(config[name], scope)
            except SpaceError as error:  # a bound that cannot be evaluated with these values
                wrong = f"{name}: {error}"
            if wrong:
                found.append(wrong)
                broken.add(name)
        for constraint in self.constraints:
            if not broken.intersection(constraint.names) and not self._holds(constraint, config, scope):
                values = ", ".join(f"{n} = {config[n]}" for n in constraint.names if n in config)
                found.append(f"{constraint.words} does not hold ({values})")
        return found

    def _holds(self, constraint: Constraint, config: Mapping[str, Value], scope: Mapping[str, Value]) -> bool:
        if any(n not in config for n in constraint.names):
            return True
        try:
            return bool(constraint.holds(scope))
        except SpaceError:
            return False

    def _legal(self, config: Mapping[str, Value]) -> bool:
        scope = self.scope(config)
        try:
            return all(
                self.is_active(n, scope) and self.params[n].problem(v, scope) is None for n, v in config.items()
            ) and all(self._holds(c, config, scope) for c in self.constraints)
        except SpaceError:
            return False

    def key(self, config: Mapping[str, Value]) -> str:
        """Return a text that is equal for equal configurations."""
        rounded = {n: float(f"{v:.12g}") if isinstance(v, float) else v for n, v in self.fill(config).items()}
        return json.dumps(rounded, sort_keys=True, default=str)

    def changes(self, config: Mapping[str, Value]) -> Config:
        """Return the values that differ from the default's.

        A parameter that is active here alone, and has its own default there, is none: it came with another change.
        """
        return {n: v for n, v in config.items() if self.default.get(n, self.params[n].default) != v}

    # -- the unit cube ----------------------------------------------------------------------------

    def encode(self, config: Mapping[str, Value]) -> Cube:
        """Map a configuration to the unit cube, shape (parameters,); inactive ones lie at 0.5."""
        import numpy as np

        scope = self.scope(config)
        return np.array(
            [p.encode(config[n], scope) if n in config else 0.5 for n, p in self.params.items()],
            dtype=np.float64,
        )

    def decode(self, u: Cube) -> Config:
        """Map any point of the unit cube, shape (parameters,), to a legal configuration.

        Where constraints forbid the point's own configuration, a legal one near it is returned: the
        nearest joint values for small discrete groups, else the first legal of random neighbours and of
        points on the way to the default.
        """
        import numpy as np

        point = np.asarray(u, dtype=np.float64)
        if point.shape != (len(self),):
            raise SpaceError(f"a point of this space has shape ({len(self)},), not {point.shape}")
        if not np.isfinite(point).all():
            raise SpaceError("a point of the unit cube must be finite")
        return self.legalise(self._raw(np.clip(point, 0.0, 1.0)))

    def _raw(self, point: Cube, base: Mapping[str, Value] | None = None, names: Sequence[str] | None = None) -> Config:
        """Decode a point without regard to constraints; with ``base`` only those named, the rest from there."""
        values: Config = dict(base or {})
        scope = self.scope(values)
        position = {n: i for i, n in enumerate(self.params)}
        for name in self.order if names is None else names:
            if self.is_active(name, scope):
                values[name] = self.params[name].decode(float(point[position[name]]), scope)
                scope[name] = values[name]
        return {n: values[n] for n in self.params if n in values}

    def legalise(self, config: Mapping[str, Value]) -> Config:
        """Return a legal configuration near the given one; the same if it is legal."""
        fixed = self.fill(config)
        if self._legal(fixed):
            return fixed
        import numpy as np

        for names, joint in self._groups:
            point = self.encode(fixed)
            index = [i for i, n in enumerate(self.params) if n in names]
            near = min(joint, key=lambda values: _distance(self.params, names, values, point[index], fixed))
            fixed = self.fill({**fixed, **dict(zip(names, near, strict=True))})
        if self._legal(fixed):
            return fixed
        point, home = self.encode(fixed), self.encode(self.default)
        loose = self._tied(fixed)
        rng = np.random.default_rng([int(v * 2**31) for v in point])
        base: Config | None = None
        movable: list[str] | None = None
        if not any(p.when for p in self.params.values()):
            # only what is loose moves, and bounds that are expressions may follow it
            base = self._raw(point)
            moving = {n for n, free in zip(self.params, loose, strict=True) if free or self.params[n].expressions}
            movable = [n for n in self.order if n in moving]
        for i in range(_TRIES):
            moved = np.where(loose, point + rng.normal(0.0, 0.02 + 0.5 * i / _TRIES, len(point)), point)
            near_config = self._raw(np.clip(moved, 0.0, 1.0), base, movable)
            scope = self.scope(near_config)  # constraints first: they are what most of these points break
            if all(self._holds(c, near_config, scope) for c in self.constraints) and self._legal(near_config):
                return near_config
        for mask in (loose, np.ones(len(point), dtype=bool)):
            for t in np.linspace(0.1, 1.0, 10):
                if self._legal(near_config := self._raw(np.where(mask, (1 - t) * point + t * home, point))):
                    return near_config
        return dict(self.default)

    def _tied(self, config: Config) -> NDArray[np.bool_]:
        """Mark the parameters of broken constraints and all that are tied to them, shape (parameters,)."""
        scope = self.scope(config)
        names = {n for c in self.constraints if not self._holds(c, config, scope) for n in c.names}
        size = -1
        while size != len(names):
            size = len(names)
            for constraint in self.constraints:
                if names.intersection(constraint.names):
                    names.update(constraint.names)
        import numpy as np

        return np.array([n in names or not names for n in self.params])

    @cached_property
    def _groups(self) -> list[tuple[list[str], list[tuple[Value, ...]]]]:
        """Parameters tied by constraints, with their legal joint values, where these can be listed."""
        groups: list[set[str]] = []
        for constraint in self.constraints:
            merged = set(constraint.names)
            for other in [g for g in groups if g & merged]:
                merged |= other
                groups.remove(other)
            if merged:
                groups.append(merged)
        listed = []
        scope = self.scope({})
        for group in groups:
            names = [n for n in self.params if n in group]
            inside = all(
                other in group or other not in self.params
                for n in names
                for e in self.params[n].expressions
                for other in e.names
            )
            if not inside or math.prod(self.params[n].count(scope) for n in names) > _ENUMERATE:
                continue
            options = [self.params[n].options(scope, _ENUMERATE) for n in names]
            related = [c for c in self.constraints if set(c.names) <= group]
            legal = []
            for values in itertools.product(*options):
                chosen = dict(zip(names, values, strict=True))
                here = {**scope, **chosen}
                if all(self._holds(c, chosen, here) for c in related) and all(
                    self.params[n].problem(v, here) is None for n, v in chosen.items() if self.is_active(n, here)
                ):
                    legal.append(values)
            if legal:
                listed.append((names, legal))
        return listed

    # -- size, listing, schema --------------------------------------------------------------------

    def size(self) -> float:
        """Return an upper bound of the number of configurations; infinite with real parameters."""
        scope = self.scope({})
        return math.prod(p.count(scope) for p in self.params.values())

    def grid(self, points: int) -> Iterator[Config]:
        """Yield every legal configuration with at most ``points`` values for each numeric parameter."""

        def extend(at: int, values: Config) -> Iterator[Config]:
            if at == len(self.order):
                config = {n: values[n] for n in self.params if n in values}
                if self._legal(config):
                    yield config
                return
            name, scope = self.order[at], self.scope(values)
            if not self.is_active(name, scope):
                yield from extend(at + 1, values)
                return
            for value in self.params[name].options(scope, points):
                yield from extend(at + 1, {**values, name: value})

        return extend(0, {})

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of a configuration: what a language model is given."""
        scope = self.scope({})
        properties: dict[str, Any] = {}
        for name, param in self.params.items():
            entry = param.schema(scope)
            if param.when:
                entry["description"] = f"{entry['description']} Only where {param.when}.".strip()
            properties[name] = entry
        schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        schema["required"] = [n for n, p in self.params.items() if p.when is None]
        if self.constraints:
            schema["description"] = "Must hold: " + "; ".join(c.words for c in self.constraints)
        return schema


def _distance(
    params: Mapping[str, Param], names: list[str], values: tuple[Value, ...], at: Cube, config: Config
) -> tuple[float, float]:
    scope = dict(zip(names, values, strict=True))
    moved = 0.0
    for position, name in enumerate(names):
        if name in config and config[name] == scope[name]:
            continue
        param = params[name]
        # two different categories are one unit apart, whatever their order
        moved += 1.0 if isinstance(param, Choice) else abs(param.encode(scope[name], scope) - float(at[position]))
    tie = sum(abs(params[n].encode(scope[n], scope) - float(at[i])) for i, n in enumerate(names))
    return moved, tie
