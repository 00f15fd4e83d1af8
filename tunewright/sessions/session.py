"""A tuning session: what a program or the command line opens, runs and looks at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError
from tunewright.measuring.executors import adopted
from tunewright.measuring.interrupts import orderly, uninterrupted
from tunewright.plugins import reopen
from tunewright.sessions.careful import Careful
from tunewright.sessions.loop import Inline, Limits, Loop
from tunewright.sessions.machine import MachineWatch
from tunewright.sessions.measurer import Measurer
from tunewright.sessions.notes import keep_notes
from tunewright.sessions.opening import Ahead, claim, look_again
from tunewright.sessions.recovery import opened, protected, recover, stored_plan
from tunewright.sessions.setup import set_up
from tunewright.sessions.trials import Trials
from tunewright.sessions.verdict import Verdict, as_html, in_short
from tunewright.sessions.verification import Verification
from tunewright.sessions.watcher import Watcher
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget
from tunewright.tuner import Problem, Trial, Tuner


class Session:
    """One tuning session in a store.

    Use :meth:`create` or :meth:`resume`, then :meth:`run`.

    A session owns its tuner, its trials and its folder. Target, executor and watcher stay the caller's; so does the
    store, which leaving a ``with`` block closes. One thread runs a session, and the store's lock refuses a second run
    anywhere. Other threads may read its properties at any time. Sessions share nothing: a program may run several at
    once, each on a thread of its own, unless their targets change the same thing.

    Example:
        >>> import tempfile
        >>> from tunewright.testing import Sphere
        >>> store = Store(f"sqlite:///{tempfile.mkdtemp()}/s.db")
        >>> with Session.create(Plan(target="sphere", tuner="random"), "a", store, target=Sphere()) as session:
        ...     verdict = session.run(trials=5)
        >>> len(session.decided)
        5
    """

    def __init__(
        self, plan: Plan, name: str, store: Store, target: BaseTarget, *, executor: Executor | None = None,
        workers: int = 1, watcher: Watcher | None = None, make: Callable[[Problem], Tuner] | None = None,
        trust_file: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.store, self.target = name, store, target
        self.workers, self.watcher = max(workers, 1), watcher or Watcher()
        self.executor: Executor = adopted(executor) or Inline()
        self._setup, self.tuner = set_up(plan, name, target, workers=self.workers, make=make, trust_file=trust_file)
        self.plan, self.space, self.level = self._setup.plan, self._setup.space, self._setup.level
        self.metrics, self.objectives, self.problem = self._setup.metrics, self._setup.objectives, self._setup.problem
        self.workload, self.tuner_spec = self.plan.workload, self.plan.tuner
        self._trials = Trials(self._setup, store)
        self._measurer = Measurer(self._setup, self._trials, store)
        self.replaced = False  # whether it takes the place of a session that never measured anything
        self._loop: Loop | None = None
        self._verdict: Mapping[str, Any] | None = None  # as it is stored
        self._started, self._spent = time.monotonic(), 0.0

    @classmethod
    def create(
        cls, plan: Plan, name: str, store: Store, *, target: BaseTarget | None = None, ahead: Ahead | None = None,
        **how: Any,
    ) -> Session:  # fmt: skip
        """Start a new session, once all that it needs is there.

        Args:
            plan: what to do.
            name: unique in the store; one whose session never measured anything is used again.
            store: where it is kept.
            target: an open target; None to open ``plan.target``.
            ahead: who is told what the session is about to do, before anything is stored or touched.
            **how: ``executor``, ``workers``, ``watcher``, ``make``, which makes the tuner where it is no spec, and
                ``trust_file``, which lets the tuner open a file that can run code; it is not stored.

        Raises:
            TunewrightError: as :func:`tunewright.sessions.opening.claim` says.
        """
        session = cls(plan, name, store, opened(plan) if target is None else target, **how)
        session.replaced = claim(session._setup, store, ahead)
        return session

    @classmethod
    def resume(
        cls, name: str, store: Store, *, target: BaseTarget | None = None, spec: str | None = None,
        options: Mapping[str, str] | None = None, tuner_options: Mapping[str, str] | None = None,
        believe: Sequence[str] = (), ahead: Ahead | None = None, **how: Any,
    ) -> Session:  # fmt: skip
        """Open a stored session; the next run replays its trials into the tuner.

        Args:
            name: its name.
            store: where it is kept.
            target: an open target; None to open the stored spec.
            spec: target spec to use instead of the stored one, such as a DSN whose password was not stored.
            options: target options to use instead of stored ones, such as secrets, which were not stored.
            tuner_options: tuner options likewise.
            believe: metrics whose values are believed from now on, see :class:`~tunewright.store.plan.Plan`; stored.
            ahead: who is told what the session is about to do; without it nothing is looked at.
            **how: ``executor``, ``workers``, ``watcher``, ``trust_file``.
        """
        record = store.session(name)
        plan = stored_plan(name, record, tuner_options or {}, spec=spec, options=options, believe=believe)
        target = reopen(name, record, spec, options) if target is None else target
        session = cls(plan, name, store, target, **how)
        session._measurer.prepared = dict(record.get("prepared") or {})
        session._verdict = record["verdict"]
        look_again(session._setup, store, ahead)
        if believe:
            store.update(name, plan={**record["plan"], "believe": list(plan.believe)})
        return session

    def __repr__(self) -> str:
        return in_short(self, self._verdict)

    def _repr_html_(self) -> str:
        return as_html(self, self._verdict)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.close()

    @property
    def all(self) -> list[Trial]:
        """Every trial in order of its start, rejected and interrupted ones included."""
        return self._trials.all

    @property
    def decided(self) -> list[Trial]:
        """Trials that count: measured, or tried and failed."""
        return self._trials.decided

    @property
    def best(self) -> Trial | None:
        """The best feasible trial by the first objective."""
        return self._trials.best

    @property
    def default_trial(self) -> Trial | None:
        """The trial of the default configuration."""
        return self._trials.default

    @property
    def workdir(self) -> Path:
        """Where its files lie while it runs, and what is left of them."""
        return self._measurer.folder

    @property
    def seconds(self) -> float:
        """Wall time spent on this session so far, earlier runs included."""
        return self._spent + time.monotonic() - self._started

    @property
    def ended(self) -> str:
        """Why the tuner proposes nothing more; "" where it goes on."""
        return self._loop.ended if self._loop is not None else ""

    @property
    def careful(self) -> str:
        """Where careful mode stands, in short; "" where it is off."""
        return Careful(self._setup, self._trials).words if self._loop is None else self._loop.careful.words

    def noise(self) -> float:
        """Standard deviation of the log of the objective between runs of the default, robustly."""
        return self._trials.noise()

    def run(
        self, *, trials: int | None = None, total: int | None = None, minutes: float | None = None,
        patience: int | None = None, explain: bool = False, verify: bool = True, keep: bool = False,
    ) -> Verdict | None:  # fmt: skip
        """Run more trials, then verify the winner.

        Args:
            trials: how many more configurations to decide; None for no limit (then give ``minutes``).
            total: how many to decide in all, those of earlier runs included; instead of ``trials``.
            minutes: start no trial after this time.
            patience: stop after this many trials without a gain beyond noise.
            explain: then take back each change of the best configuration, one at a time, as trials that come on top;
                and see what each change of the winner gives even where the plan keeps all of them.
            verify: measure the winner afresh against the default, and take back what it does not need.
            keep: leave what the target prepared, such as a database, for the next run of this session.

        Returns:
            The verdict, or None without verification.

        Raises:
            TargetError: the default configuration cannot be measured.
            VerificationError: the best configurations all failed when they were measured again.
            KeyboardInterrupt: after everything was put back; the session can be resumed.
        """
        if trials is None and total is None and minutes is None:
            raise ConfigError("say how long to tune: a number of trials or of minutes")
        with self.store.lock(self.name), orderly():
            loop, status = self._begin(), "interrupted"
            try:
                with protected(self._setup, self.store, self._measurer, partial(self.watcher.told, self), keep=keep):
                    self.watcher.preparing(self)
                    self._measurer.prepare()
                    total = len(self.decided) + trials if trials is not None else total
                    loop.run(Limits(total=total, minutes=minutes, patience=patience))
                    if explain:
                        loop.explain()
                    verdict = self._verified(loop.machine, explain) if verify else None
                status = "done"
                return verdict
            finally:
                with uninterrupted():
                    self._measurer.release()
                    keep_notes(self.store, self.name, loop.notes())
                    self.store.update(self.name, status=status, ended=self.ended, seconds=self.seconds)

    def _begin(self) -> Loop:
        """Take up the session where its store says that it stands."""
        self._started = time.monotonic()
        self._loop = Loop(
            self._setup, self._trials, self._measurer, self.tuner, MachineWatch(self._setup, self._trials, self.store),
            executor=self.executor, workers=self.workers, watcher=self.watcher, session=self,
        )  # fmt: skip
        self._spent = recover(self._setup, self.store, self._trials)
        self._trials.replay(self.tuner)
        return self._loop

    def _verified(self, machine: MachineWatch, explain: bool) -> Verdict:
        check = Verification(self._setup, self._trials, self._measurer, watcher=self.watcher, session=self)
        verdict = check.conclude(self._keep, explain=explain)
        self._keep(verdict)
        for text in machine.conclude(verdict.runs):
            self.watcher.told(self, text)
        return verdict

    def _keep(self, verdict: Verdict) -> None:
        self._verdict = verdict.stored()
        self.store.set_verdict(self.name, self._verdict)
