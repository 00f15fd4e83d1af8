"""How a session measures: in a folder of its own, within limits, in processes that it can end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.measuring import isolation
from tunewright.sessions import workfolder
from tunewright.sessions.setup import Setup
from tunewright.sessions.trials import Trials
from tunewright.space import Config
from tunewright.store.store import Store
from tunewright.target import Budget, Measurement

_LIMIT_FLOOR_S, _LIMIT_FACTOR = 20.0, 5.0  # a candidate may take this many times the default's run time
_LATELY = 5  # runs of the default that tell how long it takes now
_LIMIT_S = 600.0  # of the default where nobody gave one, and the least for preparing


class Measurer:
    """What all measurements of a session share.

    Attributes:
        prepared: what the target's ``prepare`` returned.
        runs: the processes that measure now.
    """

    def __init__(self, setup: Setup, trials: Trials, store: Store) -> None:
        self.prepared: dict[str, Any] = {}
        self.runs = isolation.Runs()
        self._setup, self._trials, self._store = setup, trials, store
        self._parent = workfolder.parent_of(setup.plan.workdir)
        self._folder_name = workfolder.name_of(store.public_url, setup.name)

    @property
    def folder(self) -> Path:
        """Where the session's files lie; it is there only while it runs, or where something is left in it."""
        return workfolder.path_of(self._parent, self._folder_name)

    def workdir(self) -> Path:
        """Return the session's own folder, below the user's directory where one was given."""
        return workfolder.private(self._parent, self._folder_name, session=self._setup.name)

    def release(self) -> None:
        """Give the folder back if nothing is left in it."""
        workfolder.release(self._parent, self._folder_name)

    def budget(self) -> Budget:
        """Return the limits of one run; from the default's run time where the user gave none."""
        plan, target = self._setup.plan, self._setup.target
        limit = plan.limit_s or target.limit_seconds
        default = self._trials.default
        if limit is None and default is not None:
            slowest = max((float(r["seconds"]) for r in default.runs), default=0.0)
            # a machine that has become slow must not make every run look as if it hung; the median, because a run of
            # the default hangs now and then, too
            lately = [float(r["seconds"]) for t in self._trials.decided for r in t.runs if r["of"] == "default"]
            usual = float(np.median(lately[-_LATELY:])) if len(lately) >= _LATELY else 0.0
            limit = max(_LIMIT_FLOOR_S, _LIMIT_FACTOR * max(slowest, usual))
        memory = int(plan.memory_mb * 2**20) if plan.memory_mb else target.memory_bytes
        return Budget(workdir=self.workdir(), seconds=limit or _LIMIT_S, memory_bytes=memory, prepared=self.prepared)

    def prepare(self) -> None:
        """Have the target build what all measurements share, and store what it says of it."""
        plan, budget = self._setup.plan, self.budget()
        least = self._setup.target.prepare_seconds or 0.0
        budget = replace(budget, seconds=max(budget.seconds, _LIMIT_S, least))
        self.prepared = isolation.call_isolated(
            self._setup.target, "prepare", workload=plan.workload, seed=plan.seed, budget=budget, runs=self.runs
        )
        self._store.update(self._setup.name, prepared=self.prepared)

    def once(self, config: Config, seed: int) -> Measurement:
        """Run one configuration once."""
        plan = self._setup.plan
        return isolation.measure_once(
            self._setup.target, config, workload=plan.workload, seed=seed, budget=self.budget(), runs=self.runs
        )
