"""What happens between opening a session and its first run: it looks ahead, tells, refuses, and takes its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tunewright.sessions.locks import holding
from tunewright.sessions.preflight import Outlook, look
from tunewright.sessions.recovery import clear_replaced
from tunewright.sessions.setup import Setup
from tunewright.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """Who is told what a session is about to do, before anything is stored or touched.

    Attributes:
        told: is given it.
        trials: for which the session is going to run; None for as many as there is time for.
        minutes: after which no trial is going to begin; None for no limit.
        lists: whoever is told shows all that is missing, so that the error need not.
    """

    told: Callable[[Outlook], None]
    trials: int | None = None
    minutes: float | None = None
    lists: bool = False


def claim(setup: Setup, store: Store, ahead: Ahead | None) -> bool:
    """Take the name of a new session, once all that it needs is there.

    Returns:
        Whether it takes the place of a session that never measured anything.

    Raises:
        TargetError: something is missing that it cannot do without; the message says what.
        ConfigError: the name is taken.
        HeldError: somebody else changes the same thing.
    """
    outlook = _outlook(setup, store, ahead)
    with holding(setup.target.changes(), f"session {setup.name!r}"):
        pass  # refused before the name is taken, where somebody else changes the same thing
    _refuse(outlook, ahead)
    before = store.create(setup.name, setup.problem.directions, setup.record())
    if ahead is not None:  # once nothing is wrong any more: a mistake should not stand below a long table
        ahead.told(outlook)
    if before is not None:
        clear_replaced(before, setup.name, store)
    return before is not None


def look_again(setup: Setup, store: Store, ahead: Ahead | None) -> None:
    """Tell what a stored session is about to do; where nobody is told nothing is looked at, it may only be read.

    Raises:
        TargetError: something is missing that it cannot do without.
    """
    if ahead is not None:
        outlook = _outlook(setup, store, ahead)
        _refuse(outlook, ahead)
        ahead.told(outlook)


def _refuse(outlook: Outlook, ahead: Ahead | None) -> None:
    """Raise TargetError where something is missing; who is told what is ahead is told of that first."""
    if ahead is not None and not outlook.ready:
        ahead.told(outlook)
    outlook.check(listed=ahead is not None and ahead.lists)


def _outlook(setup: Setup, store: Store, ahead: Ahead | None) -> Outlook:
    return look(
        setup.plan, setup.target, setup.name, store_url=store.public_url,
        store=store if ahead else None,  # looking through its sessions takes time
        trials=ahead.trials if ahead else None, minutes=ahead.minutes if ahead else None,
    )  # fmt: skip
