"""Tunable parameters: real, integer and categorical."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from tunewright.errors import SpaceError
from tunewright.space.expressions import Expr, Scope, parse

Value = Any
Restart = Literal["none", "reload", "restart", "rebuild"]

_SPECIAL_SHARE = 0.1  # of the unit interval, for each special value
_MOST = 1e150  # of a real bound: tuners compute with squares of it
_MOST_WHOLE = 2**63 - 1  # of a whole number: what is stored has 64 bits


def _storable(value: Any) -> bool:
    """Whether a number can be stored and searched: finite, and a whole one of at most 64 bits."""
    return abs(value) <= _MOST_WHOLE if isinstance(value, int) else math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    return text if len(text) <= 60 else f"{text[:59]}…"


@dataclass(frozen=True, kw_only=True)
class _Number:
    """What Real and Int share; see there.

    Attributes:
        name: identifier, as the system spells it.
        low: lowest value, a number or an expression over machine facts and other parameters.
        high: highest value, inclusive, likewise.
        default: the system's own default; a special value is allowed.
        log: search on a logarithmic scale.
        unit: unit of the values, for people and for language models.
        doc: one or two sentences on the effect.
        special: values outside the range and what they mean, such as ``{-1: "all targets"}``.
        when: expression that must hold for the parameter to be active.
        restart: what applying a new value costs: ``none``, ``reload``, ``restart`` or ``rebuild``.
    """

    name: str
    low: float | str
    high: float | str
    default: float
    log: bool = False
    unit: str = ""
    doc: str = ""
    special: Mapping[float, str] = field(default_factory=dict)
    when: str | None = None
    restart: Restart = "none"

    def __post_init__(self) -> None:
        if not self.name:
            raise SpaceError("every parameter needs a name, and one has none")
        for what, value in (("default", self.default), *(("special value", v) for v in self.special)):
            if not _storable(value):
                raise SpaceError(f"{self.name}: the {what} must be a finite number, not {_shown(value)}")
        if isinstance(self.low, (int, float)) and isinstance(self.high, (int, float)):
            self._check_range(self.low, self.high)
            if self.low > self.high:
                raise SpaceError(f"{self.name}: low {self.low} and high {self.high} are not a range")
            if self.default not in self.special and not self.low <= self.default <= self.high:
                raise SpaceError(
                    f"{self.name}: the default {self.default} is outside {self.low} to {self.high} "
                    "and is not a special value"
                )
            if self.log and isinstance(self, Real) and self.low <= 0:
                raise SpaceError(f"{self.name}: a logarithmic scale needs low > 0, not {self.low}")

    def _check_range(self, low: float, high: float) -> None:
        """Refuse bounds between which no tuner can search.

        Raises:
            SpaceError: one is not finite, or far beyond what any system's settings are.
        """
        for bound in (low, high):
            most = _MOST_WHOLE if isinstance(self, Int) else _MOST
            if not abs(bound) <= most:
                raise SpaceError(
                    f"{self.name}: low {_shown(low)} and high {_shown(high)} are not a range: both must lie within"
                    f" {_shown(-most)} and {_shown(most)}"
                )

    @cached_property
    def expressions(self) -> list[Expr]:
        return [parse(text) for text in (self.low, self.high, self.when) if isinstance(text, str)]

    @property
    def domain(self) -> str:
        """The legal values in words, for people."""
        log = ", logarithmic" if self.log else ""
        return f"{self.low} to {self.high}{log}" + "".join(f"; {v:g}: {meaning}" for v, meaning in self.special.items())

    def bounds(self, scope: Scope) -> tuple[float, float]:
        """Return (low, high) in the given scope of parameters and facts."""
        if not isinstance(self.low, str) and not isinstance(self.high, str):
            return self.low, self.high
        low = parse(self.low)(scope) if isinstance(self.low, str) else self.low
        high = parse(self.high)(scope) if isinstance(self.high, str) else self.high
        self._check_range(low, high)
        return low, high

    def problem(self, value: Value, scope: Scope) -> str | None:
        """Say in words what is wrong with a value, or None."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{self.name} must be a number, not {value!r}"
        if value in self.special:
            return None
        if not math.isfinite(value):
            return f"{self.name} must be finite, not {value}"
        low, high = self.bounds(scope)
        if low > high:
            return f"{self.name} has no legal value here: its bounds are {low:g} to {high:g}"
        if not low <= value <= high:
            extra = f" (or one of {', '.join(f'{v:g}' for v in self.special)})" if self.special else ""
            unit = f" {self.unit}" if self.unit else ""
            return f"{self.name} = {value} is outside {low:g} to {high:g}{unit}{extra}"
        return None

    def _split(self, u: float) -> tuple[Value | None, float]:
        """Map u in [0, 1] to a special value, or to the position in the range."""
        if u < self._cut:
            return list(self.special)[min(int(u / self._share), len(self.special) - 1)], 0.0
        return None, (u - self._cut) / (1 - self._cut)

    def _join(self, value: Value, position: float) -> float:
        if value in self.special:
            return (list(self.special).index(value) + 0.5) * self._share
        return self._cut + position * (1 - self._cut)

    @cached_property
    def _share(self) -> float:
        """Part of the unit interval that each special value takes."""
        return min(_SPECIAL_SHARE, 0.5 / len(self.special)) if self.special else 0.0

    @cached_property
    def _cut(self) -> float:
        """Where the special values end and the range begins."""
        return self._share * len(self.special)

    def _spread(self, decode: Callable[[float, Scope], Value], scope: Scope, limit: int) -> list[Value]:
        """Return at most ``limit`` values, the special ones and evenly spread ones of the range."""
        count = max(limit - len(self.special), 2)
        places = (self._cut + (1 - self._cut) * i / (count - 1) for i in range(count))
        return list(dict.fromkeys([*self.special, *(decode(u, scope) for u in places)]))

    def schema(self, scope: Scope) -> dict[str, Any]:
        low, high = self.bounds(scope)
        described = f" [{self.unit}]" if self.unit else ""
        described = f"{self.doc}{described}"
        if isinstance(self.low, str) or isinstance(self.high, str):
            described += f" Range: {self.low} to {self.high}."
        kind = {"type": "integer" if isinstance(self, Int) else "number"}
        ranged = {**kind, "minimum": low, "maximum": high}
        if self.special:
            options = [{"const": value, "description": meaning} for value, meaning in self.special.items()]
            return {"description": described, "anyOf": [ranged, *options], "default": self.default}
        return {"description": described, **ranged, "default": self.default}


@dataclass(frozen=True, kw_only=True)
class Real(_Number):
    """A real parameter. Attributes as in the base: name, low, high, default, log, unit, doc, special, when."""

    def decode(self, u: float, scope: Scope) -> Value:
        """Map u in [0, 1] to a legal value; both ends are reached."""
        special, t = self._split(u)
        if special is not None:
            return special
        low, high = self.bounds(scope)
        if low > high:
            return self.default
        if self.log and low > 0:
            return min(max(math.exp(math.log(low) + t * (math.log(high) - math.log(low))), low), high)
        return min(max(low + t * (high - low), low), high)

    def encode(self, value: Value, scope: Scope) -> float:
        """Map a value to [0, 1]; the inverse of decode up to rounding."""
        low, high = self.bounds(scope)
        if value in self.special or high <= low:
            return self._join(value, 0.5)
        if self.log and low > 0:
            t = (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
        else:
            t = (value - low) / (high - low)
        return self._join(value, min(max(t, 0.0), 1.0))

    def options(self, scope: Scope, limit: int) -> list[Value]:
        """At most ``limit`` evenly spread values, special ones first."""
        return self._spread(self.decode, scope, limit)

    def count(self, scope: Scope) -> float:
        """Return the number of values: infinite."""
        low, high = self.bounds(scope)
        return math.inf if high > low else 1 + len(self.special)


@dataclass(frozen=True, kw_only=True)
class Int(_Number):
    """An integer parameter; ``step`` is counted from ``low``. Other attributes as for Real."""

    default: int
    step: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step < 1:
            raise SpaceError(f"{self.name}: step must be at least 1, not {self.step}")

    def bounds(self, scope: Scope) -> tuple[int, int]:
        """Return (low, high) as integers inside the expressions' range."""
        low, high = super().bounds(scope)
        return math.ceil(low), math.floor(high)

    def problem(self, value: Value, scope: Scope) -> str | None:
        """Say in words what is wrong with a value, or None."""
        wrong = super().problem(value, scope)
        if wrong or value in self.special:
            return wrong
        if value != int(value):
            return f"{self.name} must be a whole number, not {value}"
        low = self.bounds(scope)[0]
        if (int(value) - low) % self.step and value != self.default:
            return f"{self.name} = {value} is not {low} plus a multiple of {self.step}"
        return None

    def _cells(self, scope: Scope) -> tuple[int, int]:
        low, high = self.bounds(scope)
        return low, (high - low) // self.step + 1

    def _axis(self, low: int, cells: int) -> tuple[float, float, float]:
        """Return (base, start, end): cell k covers base + k -+ 1/2 on a logarithmic axis from start to end."""
        base = max(low, 1) / self.step
        return base, math.log(base - 0.5 if base > 0.5 else 0.5), math.log(base + cells - 0.5)

    def decode(self, u: float, scope: Scope) -> Value:
        """Map u in [0, 1] to a legal value."""
        special, t = self._split(u)
        if special is not None:
            return special
        low, cells = self._cells(scope)
        if cells < 1:
            return self.default
        if self.log and cells > 1:
            base, start, end = self._axis(low, cells)
            index = round(math.exp(start * (1 - t) + end * t) - base)
        else:
            index = int(t * cells)
        return low + self.step * min(max(index, 0), cells - 1)

    def encode(self, value: Value, scope: Scope) -> float:
        """Map a value to the middle of its cell in [0, 1]."""
        low, cells = self._cells(scope)
        if value in self.special or cells <= 1:
            return self._join(value, 0.5)
        index = min(max(round((value - low) / self.step), 0), cells - 1)
        if self.log:
            base, start, end = self._axis(low, cells)
            t = (math.log(base + index) - start) / (end - start)
        else:
            t = (index + 0.5) / cells
        return self._join(value, min(max(t, 0.0), 1.0))

    def options(self, scope: Scope, limit: int) -> list[Value]:
        """All values, or at most ``limit`` evenly spread ones, special ones first."""
        low, cells = self._cells(scope)
        if cells + len(self.special) <= limit:
            return list(dict.fromkeys([*self.special, *(low + self.step * k for k in range(cells))]))
        return self._spread(self.decode, scope, limit)

    def count(self, scope: Scope) -> float:
        """Return the number of values."""
        low, cells = self._cells(scope)
        inside = sum(1 for v in self.special if low <= v < low + cells * self.step)
        return max(cells, 0) + len(self.special) - inside


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A categorical parameter.

    Attributes:
        name: identifier, as the system spells it.
        choices: the values, numbers, text or booleans.
        default: one of them.
        ordered: neighbours are alike (kept for tuners that can use it).
        unit, doc, when, restart: as for Real.
    """

    name: str
    choices: tuple[Value, ...]
    default: Value
    ordered: bool = False
    unit: str = ""
    doc: str = ""
    when: str | None = None
    restart: Restart = "none"

    def __post_init__(self) -> None:
        if not self.name:
            raise SpaceError("every parameter needs a name, and one has none")
        object.__setattr__(self, "choices", tuple(self.choices))
        for choice in self.choices:
            if not isinstance(choice, (str, bool)) and not (isinstance(choice, (int, float)) and _storable(choice)):
                raise SpaceError(
                    f"{self.name}: every choice must be a text, a finite number, true or false, not {_shown(choice)}"
                )
        # True == 1 in Python, yet they are different settings; 1 and 1.0 are the same one
        if not self.choices or len({(isinstance(c, bool), c) for c in self.choices}) != len(self.choices):
            listed = _shown(list(self.choices))
            raise SpaceError(f"{self.name}: choices must be at least one, all different, not {listed}")
        if self._index(self.default) is None:
            raise SpaceError(
                f"{self.name}: the default {_shown(self.default)} is not one of {_shown(list(self.choices))}"
            )

    def _index(self, value: Value) -> int | None:
        # True == 1 in Python, yet they are different settings
        return next(
            (i for i, c in enumerate(self.choices) if c == value and isinstance(c, bool) == isinstance(value, bool)),
            None,
        )

    @property
    def domain(self) -> str:
        """The legal values in words, for people."""
        return ", ".join(str(choice) for choice in self.choices)

    @property
    def expressions(self) -> list[Expr]:
        """Expressions this parameter depends on."""
        return [parse(self.when)] if self.when else []

    def problem(self, value: Value, scope: Scope) -> str | None:
        """Say in words what is wrong with a value, or None."""
        if self._index(value) is None:
            return f"{self.name} = {value!r} is not one of {', '.join(map(str, self.choices))}"
        return None

    def decode(self, u: float, scope: Scope) -> Value:
        """Map u in [0, 1] to a choice."""
        return self.choices[min(max(int(u * len(self.choices)), 0), len(self.choices) - 1)]

    def encode(self, value: Value, scope: Scope) -> float:
        """Map a choice to the middle of its cell in [0, 1]."""
        index = self._index(value)
        return 0.5 if index is None else (index + 0.5) / len(self.choices)

    def options(self, scope: Scope, limit: int) -> list[Value]:
        """All choices, whatever the limit."""
        return list(self.choices)

    def count(self, scope: Scope) -> float:
        """Return the number of choices."""
        return len(self.choices)

    def schema(self, scope: Scope) -> dict[str, Any]:
        """Return the JSON schema of one value."""
        return {"description": self.doc, "enum": list(self.choices), "default": self.default}


Param = Real | Int | Choice
