"""What a session tells while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.tuner import Trial

if TYPE_CHECKING:
    from tunewright.sessions.session import Session


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
