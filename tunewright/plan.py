"""What defines a session, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunewright.tuner import Trial

if TYPE_CHECKING:
    from tunewright.session import Session


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
        allow: guarantees that may become weaker than the default's.
        never: expressions that no configuration may satisfy.
        options: target options.
        tuner_options: tuner options.
        limit_s: hard limit of one run; None derives it.
        memory_mb: hard limit of memory; None for three quarters of the machine's.
        repeats: measure a configuration again when the tuner proposes it again.
        workdir: directory for the target's files; empty for one under the data directory.
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
    workdir: str = ""


class Watcher:
    """What a session tells while it runs; does nothing by itself."""

    def preparing(self, session: Session) -> None:
        """The target's data are being built."""

    def began(self, session: Session, trial: Trial) -> None:
        """A trial is about to be measured."""

    def ended(self, session: Session, trial: Trial) -> None:
        """A trial was decided, rejected or interrupted."""

    def told(self, session: Session, text: str) -> None:
        """Something that the user should know happened, such as that what a killed session left was put back."""

    def exhausted(self, session: Session, reason: str) -> None:
        """The tuner proposes nothing more, and says why."""

    def explaining(self, session: Session, more: int) -> None:
        """The best configuration is about to be measured without each of its changes."""

    def verifying(self, session: Session, done: int, of: int, what: str) -> None:
        """The winner is being measured against the default."""
