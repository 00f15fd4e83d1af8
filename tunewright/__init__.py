"""Autotuner for computer systems: measured, guarded, and honest about what it gained."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunewright.comparing import plot
    from tunewright.comparing.bundle import load
    from tunewright.comparing.tournament import compare
    from tunewright.plugins import open_target
    from tunewright.sessions.session import Session
    from tunewright.space import Choice, Constraint, Int, Real, Space
    from tunewright.store.plan import Plan
    from tunewright.store.store import Store
    from tunewright.target import BaseTarget, Budget, Measurement, Metric, Target
    from tunewright.tuner import History, Problem, Suggestion, Trial, Tuner

_MODULES = {"plot": "comparing.plot"}
_HOME = {
    "compare": "comparing.tournament",
    "load": "comparing.bundle",
    "open_target": "plugins",
    "Plan": "store.plan",
    "Session": "sessions.session",
    **dict.fromkeys(("Choice", "Constraint", "Int", "Real", "Space"), "space"),
    "Store": "store.store",
    **dict.fromkeys(("BaseTarget", "Budget", "Measurement", "Metric", "Target"), "target"),
    **dict.fromkeys(("History", "Problem", "Suggestion", "Trial", "Tuner"), "tuner"),
}

__all__ = [
    "BaseTarget",
    "Budget",
    "Choice",
    "Constraint",
    "History",
    "Int",
    "Measurement",
    "Metric",
    "Plan",
    "Problem",
    "Real",
    "Session",
    "Space",
    "Store",
    "Suggestion",
    "Target",
    "Trial",
    "Tuner",
    "compare",
    "load",
    "open_target",
    "plot",
]


def __dir__() -> list[str]:  # for tab completion, which does not know of __getattr__
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:  # lazily, so that the command line starts fast
    if name == "__version__":
        return import_module("tunewright.space.facts").versions().get("tunewright", "unknown")
    if name in _MODULES:
        return import_module(f"tunewright.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'tunewright' has no attribute {name!r}")
    return getattr(import_module(f"tunewright.{_HOME[name]}"), name)
