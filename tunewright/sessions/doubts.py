"""Trials of a session whose values are not believed, and what a verdict says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunewright.measuring.plausibility import Doubt, advice, doubts, sign_changed, watched
from tunewright.measuring.runs import values_of
from tunewright.sessions.bounds import default_runs
from tunewright.sessions.setup import Setup
from tunewright.target import Metric
from tunewright.tuner import Trial


def watched_metrics(setup: Setup) -> list[Metric]:
    """Return the metrics that decide who wins, but for those of which the user says what is possible or believed."""
    decisive = {m.name for m in (*setup.objectives, *setup.bounded)}
    return [m for m in setup.metrics if m.name in decisive and watched(m) and m.name not in setup.plan.believe]


def doubted_trials(setup: Setup, trials: Sequence[Trial]) -> dict[int, Doubt]:
    """Return the trials whose values are not believed, by number.

    Args:
        setup: of the session.
        trials: decided ones.
    """
    found: dict[int, Doubt] = {}
    measured = [t for t in trials if t.ok and t.step > 0]
    # a table or a simulator gives no number for want of one, and its best may be far from all others
    far = setup.target.isolated or not setup.target.exact
    for metric in watched_metrics(setup) if measured else ():
        values = {t.number: values_of(t.runs, "candidate", metric.name) for t in measured}
        found = {**doubts(metric, default_runs(trials, metric.name), values, far=far), **found}
    return found


def doubt_of_fresh_runs(setup: Setup, runs: Sequence[Mapping[str, Any]]) -> Doubt | None:
    """Return why the fresh runs of a winner are not believed: one of them has another sign than the default's."""
    for metric in watched_metrics(setup):
        default = values_of(runs, "default", metric.name)
        for value in values_of(runs, "candidate", metric.name):
            if sign_changed(metric, value, default):
                words = f"{metric.name} is {value:.4g} in one of its fresh runs".replace("  ", " ")
                return Doubt(metric=metric.name, value=value, words=words)
    return None


def told(metrics: Iterable[Metric], doubted: Mapping[int, Doubt]) -> dict[str, str]:
    """Return what a verdict says of values that were not believed, by metric."""
    said = {}
    for metric in metrics:
        of = [d for d in doubted.values() if d.metric == metric.name]
        if of:
            trials = "one trial" if len(of) == 1 else f"{len(of)} trials"
            said[metric.name] = f"Not believed, in {trials}: {of[0].words}. {advice(metric)}"
    return said
