"""Optuna's distributions of our parameters."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tunewright.errors import SpaceError
from tunewright.space import Choice, Int, Param, Space, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distribution(param: Param, space: Space, value: Value | None = None) -> BaseDistribution:
    """Return the Optuna distribution of a parameter, wide enough for its special values and ``value``."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(param, Choice):
        return CategoricalDistribution(param.choices)
    low, high = widest(param, space)
    values = [low, high, *param.special, *([] if value is None else [value])]
    low, high = min(values), max(values)
    log = param.log and low > 0
    if isinstance(param, Int):
        step = 1 if log or param.special or (high - low) % param.step else param.step
        if value is not None and (value - low) % step:
            step = 1
        return IntDistribution(int(low), int(high), log=log, step=step)
    return FloatDistribution(float(low), float(high), log=log)


def widest(param: Any, space: Space) -> tuple[float, float]:
    """Return the widest range that bounds given as expressions can take over the other parameters."""
    names = [n for e in param.expressions if e.text != param.when for n in e.names if n in space.params]
    scope = space.scope({})
    corners = []
    for name in names:
        other = space.params[name]
        if isinstance(other, Choice):
            corners.append(list(other.choices))
        else:
            corners.append([*widest(other, space), other.default])
    lows, highs = [], []
    for values in itertools.islice(itertools.product(*corners), 4096):
        try:
            low, high = param.bounds({**scope, **dict(zip(names, values, strict=True))})
        except SpaceError:
            continue
        if low <= high:
            lows.append(low)
            highs.append(high)
    return (min(lows), max(highs)) if lows else (param.default, param.default)
