"""Generated work: its parameters, read and checked in one way, and the distributions that it is drawn from."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tunewright.errors import ConfigError, unknown
from tunewright.store.files import check_size, printable

_MOST = 1e12  # beyond it, sums and products of parameters are no numbers any more
_MOST_SPREAD = 100.0  # of the log of a value: beyond it, values are infinite
_EACH_BYTES = 80  # of memory for one of what is counted


def numbers(
    what: str, defaults: Mapping[str, float], options: Mapping[str, Any], positive: Collection[str] = (),
    whole: Collection[str] = (),
) -> dict[str, float]:  # fmt: skip
    """Return all parameters, the given ones put in.

    Args:
        what: whose parameters, for messages.
        defaults: all of them.
        options: given ones, as texts or numbers.
        positive: those that must be above 0; all must be at least 0.
        whole: those that must be whole numbers.

    Raises:
        UnknownNameError: there is no such parameter.
        ConfigError: a value is no number in its range.
    """
    parameters = dict(defaults)
    for name, value in options.items():
        if name not in parameters:
            raise unknown(f"parameter of {what}", name, parameters)
        try:
            parameters[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{name} must be a number, not {printable(repr(value), 60)}") from None
    for name, number in parameters.items():
        least = "above" if name in positive else "at least"
        if not math.isfinite(number) or number < 0 or (name in positive and number == 0):
            raise ConfigError(f"{name} must be {least} 0, not {number:g}")
        if name in whole and number != int(number):
            raise ConfigError(f"{name} must be a whole number, not {number:g}")
        if name in whole and number > _MOST:
            raise ConfigError(
                f"{name} must be a whole number from {int(name in positive)} to {_MOST:,.0f}, not {number:g}"
            )
        if number > _MOST or (name in positive and number < 1 / _MOST):
            raise ConfigError(f"{name} must lie between {1 / _MOST:g} and {_MOST:g}, not {number:g}")
        if name.endswith("_spread") and number > _MOST_SPREAD:
            raise ConfigError(f"{name} must lie between 0 and {_MOST_SPREAD:g}, not {number:g}")
        if name in whole:
            check_size(f"{name}={number:g}", number, _EACH_BYTES)
    return parameters


def lognormal(rng: np.random.Generator, mean: float, cv: float, count: int) -> Any:
    """Draw log-normal values by mean and coefficient of variation."""
    if cv == 0:
        return np.full(count, mean)
    sigma = math.sqrt(math.log1p(cv * cv))
    return rng.lognormal(math.log(mean) - 0.5 * sigma * sigma, sigma, count)


def zipf(rng: np.random.Generator, count: int, skew: float, n: int) -> Any:
    """Draw numbers below ``count`` whose shares fall with rank^-skew."""
    share = np.arange(1, count + 1, dtype=float) ** -skew
    return rng.choice(count, size=n, p=share / share.sum())
