"""Careful mode: tuning a system that others use. Small steps, tight limits, and back to the default at once.

Candidates stay in a trust region (:mod:`tunewright.sessions.region`), settings that the target calls dangerous are not
tried, a run that is clearly worse than the default is ended while it goes on, and so is every run as soon as memory is
nearly full. After such an end the system is set back at once, is given time, and the default is measured again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tunewright.errors import TargetError, TunerError
from tunewright.measuring import guarding
from tunewright.measuring.guarding import Bounds
from tunewright.sessions.region import SLOWER, Region, region_of
from tunewright.sessions.setup import Setup
from tunewright.sessions.trials import Trials
from tunewright.space import Config
from tunewright.target import BaseTarget, Budget, Measurement
from tunewright.tuner import History, Suggestion

PAUSE_S = 30.0  # after a run that was ended, before the next one
_MOST_PAUSES = 20  # of waiting for memory
_SLACK_S = 2.0  # of the time limit, for what a short run needs besides its work
_DRAWS = 200
_LATELY = 9  # runs of the default that tell how long it takes now


@dataclass(frozen=True, kw_only=True)
class Caution:
    """How a candidate's runs are limited; travels with the job.

    Attributes:
        limit_s: of one run, derived from the default's.
        bounds: watched while it runs, where the target reports how it goes.
        pause_s: after a run that was ended.
    """

    limit_s: float
    bounds: Bounds
    pause_s: float

    def budget(self, budget: Budget) -> Budget:
        """Return the limits of a candidate's run, once there is memory for it.

        Raises:
            TargetError: memory stays nearly full.
        """
        self._wait()
        return replace(budget, seconds=min(budget.seconds, self.limit_s), bounds=self.bounds)

    def after(self, target: BaseTarget, measured: Measurement) -> None:
        """Set the system back at once after a run that was ended, and give it time.

        Raises:
            TargetError: memory stays nearly full.
        """
        if measured.status in ("timed out", "killed"):
            target.revert()
            time.sleep(self.pause_s)
            self._wait()

    def _wait(self) -> None:
        for _ in range(_MOST_PAUSES):
            if guarding.memory_share() <= guarding.FULL:
                return
            time.sleep(self.pause_s)
        raise TargetError(
            f"more than {100 * guarding.FULL:.0f} % of the memory is in use without a candidate, so careful mode tries "
            "none; free some and resume the session"
        )


class Careful:
    """Keeps what a session tries within careful mode's limits; without it, it changes nothing.

    Args:
        setup: of the session.
        trials: of the session; the region is worked out from these.
    """

    def __init__(self, setup: Setup, trials: Trials) -> None:
        self.on = setup.plan.careful
        self._setup, self._trials = setup, trials
        self._region: tuple[int, Region] | None = None

    @property
    def region(self) -> Region:
        """The region after the trials so far."""
        decided = self._trials.decided
        if self._region is None or self._region[0] != len(decided):
            told = [self._trials.as_told(t) for t in decided]
            self._region = len(decided), region_of(self._setup.space, told, self._setup.metrics, self._trials.noise())
        return self._region[1]

    @property
    def words(self) -> str:
        """The state in short, for people; "" where the mode is off."""
        return self.region.words if self.on else ""

    def within(self, suggestion: Suggestion, history: History) -> Suggestion:
        """Return a suggestion within the region."""
        if not self.on or self._setup.space.problems(suggestion.config):
            return suggestion
        rng = self._setup.problem.rng(history)
        config = self.region.within(dict(suggestion.config), rng)
        moved = "" if config == suggestion.config else ", moved into it"
        return Suggestion(config=config, why=f"{suggestion.why} ({self.words}{moved})")

    def untried(self, tried: Mapping[str, object], near: Config, history: History) -> Config:
        """Return an untried configuration of the region.

        Raises:
            TunerError: none was found.
        """
        space, rng = self._setup.space, self._setup.problem.rng(history)
        for _ in range(_DRAWS):
            config = self.region.draw(rng, near)
            if space.key(config) not in tried and not space.problems(config):
                return config
        raise TunerError(f"nothing untried was found in the trust region ({self.words})")

    def caution(self) -> Caution | None:
        """Return how the next candidate's runs are limited; None where the mode is off."""
        default = self._trials.default
        if not self.on or default is None:
            return None
        runs = [
            float(r["seconds"])
            for t in self._trials.decided
            for r in t.runs
            if r.get("status", "ok") == "ok" and r["of"] == ("candidate" if t.step == 0 else "default")
        ]
        bounds = guarding.bounds_of(self._setup.metrics, self._setup.objectives[0], default.metrics, SLOWER)
        return Caution(limit_s=SLOWER * max(runs[-_LATELY:]) + _SLACK_S, bounds=bounds, pause_s=PAUSE_S)
