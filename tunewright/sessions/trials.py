"""The trials of a session, in memory and in its store, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from tunewright.measuring import drift
from tunewright.measuring.plausibility import Doubt
from tunewright.measuring.protocol import Baseline
from tunewright.measuring.runs import values_of
from tunewright.sessions.doubts import doubted_trials
from tunewright.sessions.setup import Setup
from tunewright.store.store import Store
from tunewright.tuner import Trial, Tuner, best_trial

_NO_GAIN = 0.01  # share by which the best must improve to count as a gain, where the noise is smaller
_UNWATCHED = 3  # trials in a row without a run of the default, after which one stands beside the next, come what may
_REPEATS_TRIED = 3  # trials with failed runs after which it is clear that repeating them does not help


class Trials:
    """The trials of one session; each is written to the store before it is measured and once it has ended.

    The thread that runs the session alone changes them. Others, such as a live display, may read at any time.

    Attributes:
        all: every trial in order of its start, rejected and interrupted ones included.
        changes: of the machine, found in the runs of the default; they are no noise.
    """

    def __init__(self, setup: Setup, store: Store) -> None:
        self.all: list[Trial] = []
        self.changes: tuple[drift.Change, ...] = ()
        self._setup, self._store = setup, store
        self._doubted: tuple[int, dict[int, Doubt]] = (0, {})  # for so many decided ones
        self._aside: dict[int, tuple[Mapping[str, float], str]] = {}
        self._replayed = False
        self._keys: dict[int, str] = {}  # by number: one step must not cost the whole history again

    def load(self) -> None:
        """Read what the store holds."""
        self.all = self._store.trials(self._setup.name)
        noted = self._store.session(self._setup.name).get("set_aside", {})
        believe = set(self._setup.plan.believe)
        self._aside = {
            int(n): (entry["violations"], entry["reason"])
            for n, entry in noted.items()
            if not set(entry["violations"]) <= believe
        }
        if len(self._aside) < len(noted):  # the user said since that such values are real
            self._store.set_aside(self._setup.name, self._aside)
            self.all = self._store.trials(self._setup.name)
        self._doubted = (0, {})

    def replay(self, tuner: Tuner) -> None:
        """Tell a tuner all trials decided so far, once."""
        if not self._replayed:
            for trial in self.decided:
                tuner.tell(self.as_told(trial))
            self._replayed = True

    def start(self, trial: Trial) -> Trial:
        """Write down a trial before its configuration is applied; returns it with its number."""
        trial = self._store.start(self._setup.name, trial, self._setup.space)
        self.all.append(trial)
        return trial

    def finish(self, trial: Trial) -> None:
        """Write down what came of a started trial."""
        self._replace(trial)
        self._store.finish(self._setup.name, trial, self._setup.problem.objectives)

    def retract(self, trial: Trial) -> None:
        """Write down that a finished trial failed when it was measured again."""
        self._replace(trial)
        self._store.retract(self._setup.name, trial)

    def set_aside(self, trial: Trial, violations: Mapping[str, float], reason: str) -> None:
        """Write down that a measured trial is not to be recommended.

        Args:
            trial: it keeps what was measured.
            violations: metric to the amount by which it misses what is asked of it, above 0.
            reason: for people.
        """
        self._aside[trial.number] = dict(violations), reason
        self._replace(replace(trial, violations={**trial.violations, **violations}, reason=reason))
        self._store.set_aside(self._setup.name, self._aside)

    def _replace(self, trial: Trial) -> None:
        self.all = [trial if t.number == trial.number else t for t in self.all]

    @property
    def decided(self) -> list[Trial]:
        """Those that count: measured, or tried and failed."""
        return [t for t in self.all if t.decided]

    @property
    def believed(self) -> list[Trial]:
        """Those that count, without those whose values are doubted."""
        doubted = self.doubted
        return [t for t in self.decided if t.number not in doubted] if doubted else self.decided

    @property
    def best(self) -> Trial | None:
        """The best feasible one by the first objective."""
        return best_trial(self.believed, self._setup.objectives[0])

    @property
    def doubted(self) -> dict[int, Doubt]:
        """Trials whose values look too good to be measurements, by number; worked out anew with every trial."""
        decided = self.decided
        if self._doubted[0] != len(decided):
            self._doubted = len(decided), doubted_trials(self._setup, decided)
        return self._doubted[1]

    def as_told(self, trial: Trial) -> Trial:
        """Return a trial as tuners see it: one whose values are doubted failed, or it would be searched for more."""
        doubt = self.doubted.get(trial.number)
        return trial if doubt is None else replace(trial, status="failed", reason=f"not believed: {doubt.words}")

    def put_doubted_aside(self) -> None:
        """Write down that trials whose values are doubted are not to be recommended."""
        for number, doubt in self.doubted.items():
            if number not in self._aside:
                trial = next(t for t in self.all if t.number == number)
                self.set_aside(trial, {doubt.metric: abs(doubt.value) or 1.0}, f"not believed: {doubt.words}")

    @property
    def default(self) -> Trial | None:
        """That of the default configuration."""
        return next((t for t in self.all if t.step == 0 and t.ok), None)

    def key(self, trial: Trial) -> str:
        """Return the key of its configuration, see :meth:`~tunewright.space.Space.key`."""
        if trial.number not in self._keys:
            self._keys[trial.number] = self._setup.space.key(trial.config)
        return self._keys[trial.number]

    def default_runs(self, metric: str) -> list[tuple[int, float]]:
        """Return the default's runs in order, those beside failed candidates too: (number of the trial, value)."""
        return [
            (trial.number, value)
            for trial in self.decided
            for value in values_of(trial.runs, "candidate" if trial.step == 0 else "default", metric)
        ]

    def noise(self) -> float:
        """Standard deviation of the log of the objective between runs of the default on an unchanged machine."""
        values = [value for _, value in self.default_runs(self._setup.objectives[0].name)]
        if values and min(values) <= 0:
            return drift.spread([value for value in values if value > 0])
        return drift.spread(values, self.changes)

    def unwatched(self) -> bool:
        """Whether so many trials went by without a run of the default that the machine may have changed unseen."""
        last = [t for t in self.decided[-_UNWATCHED:] if t.step]
        return len(last) == _UNWATCHED and not any(r["of"] == "default" for t in last for r in t.runs)

    def baseline(self) -> Baseline | None:
        """Return what is known of the default; None until it was measured."""
        default, best = self.default, self.best
        if default is None:
            return None
        gain = math.log(best.ratio) if best and best.ratio and best.ratio > 0 else 0.0
        return Baseline(
            values=default.metrics,
            noise=self.noise(),
            best=gain,
            repeat=self._repeating_helps() and not self._setup.plan.careful,
            unwatched=self.unwatched() or self._setup.plan.careful,
        )

    def _repeating_helps(self) -> bool:
        """Whether runs that failed went well when they were repeated, as far as is known."""
        again = [t for t in self.decided if any(r.get("status", "ok") != "ok" for r in t.runs)]
        return len(again) < _REPEATS_TRIED or any(t.ok for t in again)

    def stalled(self, patience: int | None) -> bool:
        """Whether the last ``patience`` trials brought no gain beyond the noise."""
        decided = self.decided
        if patience is None or len(decided) <= patience or len(self._setup.objectives) > 1:
            return False
        metric, margin = self._setup.objectives[0], max(_NO_GAIN, self.noise())
        believed = {t.number for t in self.believed}
        now, before = (
            best_trial([t for t in some if t.number in believed], metric) for some in (decided, decided[:-patience])
        )
        if now is None or before is None:
            return now is None and before is None
        a, b = now.scores[metric.name], before.scores[metric.name]
        return not metric.better(a, b) or abs(a - b) <= margin * abs(b)
