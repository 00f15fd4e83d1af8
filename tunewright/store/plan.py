"""What defines a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunewright.errors import ConfigError

_MOST = 1e12  # seconds and megabytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that defines a session; stored with it.

    Attributes:
        target: target spec, such as ``sqlite`` or ``table:FILE``.
        workload: name of the workload; empty for the target's first.
        tuner: tuner spec, such as ``tpe``; ``auto`` for the best installed.
        objectives: metrics to optimise; empty for the target's first.
        seed: fixes data, suggestions and the order of runs.
        trust: ``fast``, ``normal`` or ``strict``.
        require: constraints on metrics, such as ``recall>=0.9``.
        estimate: what the verdict estimates: ``pairs`` (the median of the pairs' ratios), ``median`` or ``mean`` for a
            ratio of these, or a quantile such as ``p90`` likewise.
        believe: metrics whose values are believed also where their sign changes or they are far better than all others.
        allow: guarantees that may become weaker than the default's.
        never: expressions that no configuration may satisfy.
        options: target options.
        tuner_options: tuner options.
        limit_s: hard limit of one run; None derives it.
        memory_mb: hard limit of memory; None for three quarters of the machine's.
        repeats: measure a configuration again when the tuner proposes it again.
        keep_all: recommend the winner as it is, with what it may not need.
        workdir: directory for the target's files; empty for one under the data directory.
        careful: stay in a trust region around today's values, for systems that others use.
    """

    target: str
    workload: str = ""
    tuner: str = "auto"
    objectives: tuple[str, ...] = ()
    seed: int = 0
    trust: str = "normal"
    require: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    tuner_options: Mapping[str, Any] = field(default_factory=dict)
    limit_s: float | None = None
    memory_mb: float | None = None
    repeats: bool = False
    keep_all: bool = False
    workdir: str = ""
    estimate: str = "pairs"
    believe: tuple[str, ...] = ()
    careful: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that no session can work with.

        Raises:
            ConfigError: one is out of its range.
        """
        if said := impossible({"seed": self.seed, "limit_s": self.limit_s, "memory_mb": self.memory_mb}):
            raise ConfigError(f"the plan's {said}")


def impossible(plan: Mapping[str, Any]) -> str:
    """Say which number of a plan is out of its range; "" if none.

    >>> impossible({"seed": -5, "limit_s": None, "memory_mb": 100.0})
    'seed must be 0 or more, not -5'
    """
    if plan["seed"] < 0:
        return f"seed must be 0 or more, not {plan['seed']}"
    for name in ("limit_s", "memory_mb"):
        if plan[name] is not None and not 0 < plan[name] < _MOST:
            return f"{name} must be above 0 and below {_MOST:g}, not {plan[name]:g}"
    return ""
