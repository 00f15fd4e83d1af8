"""What a session is made of: its plan, worked out for one open target."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from tunewright.errors import ConfigError, unknown
from tunewright.measuring.estimates import PAIRS, Estimate, estimate_of
from tunewright.measuring.protocol import Trust, trust
from tunewright.plugins import make_tuner
from tunewright.sessions.changes import Owner
from tunewright.sessions.guards import guarded
from tunewright.sessions.workfolder import file_name
from tunewright.space import Space
from tunewright.space.facts import machine_facts, versions
from tunewright.store.paths import home
from tunewright.store.plan import Plan
from tunewright.store.secrets import public_plan
from tunewright.target import BaseTarget, Metric, with_requirements
from tunewright.tuner import Problem, Tuner

SEEDS = 1_000_003  # seeds of runs: sessions lie this far apart, trials 1000, the verification beyond them all
TRIAL_SEEDS, VERIFICATION_SEEDS = 1000, 999_000_000


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a session is made of; nothing of it changes.

    Attributes:
        name: of the session.
        plan: with workload, tuner and objectives filled in.
        target: open.
        space: the target's, guards included.
        metrics: the target's, with the user's requirements.
        objectives: the metrics to optimise, first the most important.
        level: how much is spent on a trial.
        problem: what the tuner is built for.
        estimate: what the verdict estimates.
    """

    name: str
    plan: Plan
    target: BaseTarget
    space: Space
    metrics: list[Metric]
    objectives: list[Metric]
    level: Trust
    problem: Problem
    estimate: Estimate = PAIRS

    @property
    def bounded(self) -> list[Metric]:
        """The metrics that have a bound."""
        return [m for m in self.metrics if m.constrained]

    @property
    def seed(self) -> int:
        """Seed of the first run of the default; those of other sessions lie beyond all of this one's."""
        return self.plan.seed * SEEDS

    def public_plan(self) -> dict[str, Any]:
        """Return the plan as it may be stored."""
        return public_plan(asdict(self.plan), self.target)

    def record(self) -> dict[str, Any]:
        """Return what a store keeps of it, JSON-able and without secrets."""
        return {
            "plan": self.public_plan(),
            "facts": self.problem.facts,
            "versions": versions(*self.target.packages),
            "objectives": self.problem.objectives,
            "metrics": [asdict(m) for m in self.metrics],
            "default": self.space.default,
            "inactive": {n: p.default for n, p in self.space.params.items() if n not in self.space.default},
            "status": "new",
            "about": self.problem.about,
            "cwd": os.getcwd(),
        }

    def owner(self, store: str) -> Owner:
        """Return who changes the target.

        Args:
            store: URL of the session's store, without its password.
        """
        plan = self.public_plan()
        return Owner(
            what=f"session {self.name!r}", store=store, name=self.name, target=plan["target"], options=plan["options"]
        )


def set_up(
    plan: Plan,
    name: str,
    target: BaseTarget,
    *,
    workers: int = 1,
    make: Callable[[Problem], Tuner] | None = None,
    trust_file: bool = False,
) -> tuple[Setup, Tuner]:
    """Work out a plan for an open target, and build the tuner.

    Args:
        plan: what to do.
        name: of the session.
        target: open.
        workers: how many trials are measured at once.
        make: builds the tuner, where it is no spec.
        trust_file: let the tuner open a file that can run code.

    Raises:
        TunewrightError: such a session cannot work, with the reason.
    """
    if workers > 1 and not target.parallel_safe:
        raise ConfigError(
            f"target {target.name!r} cannot be measured in parallel: runs would disturb each other; leave out --workers"
        )
    metrics = with_requirements(target.metrics, plan.require)
    objectives = [_metric(metrics, name, target) for name in plan.objectives] or [metrics[0]]
    if plan.workload and plan.workload not in target.workloads:
        raise unknown(f"workload of {target.name}", plan.workload, target.workloads)
    workload = plan.workload or next(iter(target.workloads))
    for believed in plan.believe:
        _metric(metrics, believed, target)
    level, estimate = trust(plan.trust), estimate_of(plan.estimate)
    if plan.careful:
        _check_careful(paired=level.paired or target.exact, workers=workers)
    space = guarded(target, allow=plan.allow, never=plan.never, careful=plan.careful)
    problem = Problem(
        space=space,
        metrics=metrics,
        objectives=[o.name for o in objectives],
        seed=plan.seed,
        options=plan.tuner_options,
        facts={**machine_facts(), **target.facts},
        workload=workload,
        about=target.workloads[workload],
        workloads=tuple(target.workloads),
        target=target.name,
        log=home() / "logs" / f"{file_name(name)}.jsonl",
        trust_file=trust_file,
    )
    spec, tuner = (plan.tuner, make(problem)) if make else make_tuner(plan.tuner, problem)
    plan = replace(plan, tuner=spec, workload=workload, objectives=tuple(problem.objectives))
    setup = Setup(
        name=name, plan=plan, target=target, space=space, metrics=metrics, objectives=objectives, level=level,
        problem=problem, estimate=PAIRS if target.exact else estimate,
    )  # fmt: skip
    return setup, tuner


def _metric(metrics: list[Metric], name: str, target: BaseTarget) -> Metric:
    for metric in metrics:
        if metric.name == name:
            return metric
    raise unknown(f"metric of {target.name}", name, [m.name for m in metrics])


def _check_careful(*, paired: bool, workers: int) -> None:
    """Refuse what careful mode cannot work with.

    Args:
        paired: the default is measured beside each candidate, or one measurement tells all.
        workers: how many trials are measured at once.

    Raises:
        ConfigError: the message says what to change.
    """
    if workers > 1:
        raise ConfigError("careful mode tries one candidate at a time; leave out --workers")
    if not paired:
        raise ConfigError(
            "careful mode measures the default beside each candidate, which --trust fast leaves out; "
            "use --trust normal or strict"
        )
