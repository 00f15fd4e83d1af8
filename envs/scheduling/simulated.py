"""What the simulated targets of scheduling share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.target import BaseTarget, check_options, numeric_options

SIMULATED = "an event simulator; see docs/scheduling.md for what it was checked against"


class SimulatedTarget(BaseTarget):
    """A target that runs in this process and gives the same numbers every time."""

    isolated = False
    parallel_safe = True
    exact = True


def numbers_of(
    target: str, options: Mapping[str, Any], known: Mapping[str, str], defaults: Mapping[str, float]
) -> dict[str, Any]:
    """Return the numeric options of a target, see ``numeric_options``; ``known`` are all that it has.

    Raises:
        UnknownNameError: there is no such option.
        ConfigError: a value is no number.
    """
    check_options(target, options, known)
    return numeric_options(target, {name: options[name] for name in options if name in defaults}, defaults)
