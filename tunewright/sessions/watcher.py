"""What a session tells while it runs, and what may be looked at then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tunewright.measuring.protocol import Trust
from tunewright.space import Space
from tunewright.store.plan import Plan
from tunewright.target import BaseTarget, Metric
from tunewright.tuner import Trial


class View(Protocol):
    """What may be read of a :class:`~tunewright.sessions.session.Session` at any time, from any thread."""

    @property
    def name(self) -> str:
        """Its name in the store."""
        ...

    @property
    def plan(self) -> Plan:
        """What it does."""
        ...

    @property
    def target(self) -> BaseTarget:
        """What is tuned."""
        ...

    @property
    def space(self) -> Space:
        """The target's space, guards included."""
        ...

    @property
    def metrics(self) -> Sequence[Metric]:
        """All metrics, the user's requirements included."""
        ...

    @property
    def objectives(self) -> Sequence[Metric]:
        """The metrics to optimise, first the most important."""
        ...

    @property
    def level(self) -> Trust:
        """How much is spent on a trial."""
        ...

    @property
    def all(self) -> Sequence[Trial]:
        """Every trial in order of its start."""
        ...

    @property
    def decided(self) -> Sequence[Trial]:
        """Trials that count."""
        ...

    @property
    def best(self) -> Trial | None:
        """The best feasible trial by the first objective."""
        ...

    @property
    def default_trial(self) -> Trial | None:
        """The trial of the default configuration."""
        ...

    @property
    def workdir(self) -> Path:
        """Where its files lie while it runs."""
        ...

    @property
    def seconds(self) -> float:
        """Wall time spent so far, earlier runs included."""
        ...

    @property
    def ended(self) -> str:
        """Why the tuner proposes nothing more; "" where it goes on."""
        ...

    @property
    def careful(self) -> str:
        """Where careful mode stands, in short; "" where it is off."""
        ...

    def noise(self) -> float:
        """Standard deviation of the log of the objective between runs of the default."""
        ...


class Watcher:
    """What a session tells while it runs, on the thread that runs it; does nothing by itself."""

    def preparing(self, session: View) -> None:
        """The target's data are being built."""

    def began(self, session: View, trial: Trial) -> None:
        """A trial is about to be measured."""

    def ended(self, session: View, trial: Trial) -> None:
        """A trial was decided, rejected or interrupted."""

    def told(self, session: View, text: str) -> None:
        """Something that the user should know happened, such as that what a killed session left was put back."""

    def exhausted(self, session: View, reason: str) -> None:
        """The tuner proposes nothing more, and says why."""

    def explaining(self, session: View, more: int) -> None:
        """The best configuration is about to be measured without each of its changes."""

    def verifying(self, session: View, done: int, of: int, what: str) -> None:
        """The winner is being measured against the default."""
