"""The bounds on metrics in a session: which configuration is verified next, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tunewright.measuring import estimates
from tunewright.measuring.feasibility import Standing, room, spread, standing
from tunewright.measuring.runs import values_of
from tunewright.sessions.setup import Setup
from tunewright.space import Config
from tunewright.target import Metric
from tunewright.tuner import Trial


def default_runs(trials: Sequence[Trial], metric: str) -> list[float]:
    """Return the values of a metric in all runs of the default that a search has made."""
    return [v for t in trials for v in values_of(t.runs, "candidate" if t.step == 0 else "default", metric)]


def standings(
    metrics: Sequence[Metric], runs: Sequence[Mapping[str, Any]], of: str, interval: Callable[..., Any]
) -> list[Standing]:
    """Return how one side of a verification stands to each bound.

    Args:
        metrics: those without bounds are passed over.
        runs: of the verification.
        of: ``candidate`` or ``default``.
        interval: gives value and interval of one side's values.
    """
    return [standing(m, values_of(runs, of, m.name), interval, of) for m in metrics if m.constrained]


def of_the_default(setup: Setup, trials: Sequence[Trial], runs: Sequence[Mapping[str, Any]] = ()) -> list[Standing]:
    """Return how the default stands to each bound, by all its runs: those of the search and of a verification."""

    def values(metric: Metric) -> list[float]:
        return default_runs(trials, metric.name) + values_of(runs, "default", metric.name)

    interval = estimates.side(setup.estimate, 1 if setup.target.exact else None)
    return [standing(m, values(m), interval, "default") for m in setup.bounded]


def contender(setup: Setup, trials: Sequence[Trial], fresh: Sequence[Sequence[Mapping[str, Any]]] = ()) -> Trial | None:
    """Return the trial to verify next: the best one that keeps more distance from the bounds with each one passed over.

    A search's winner was picked among noisy runs, so what was lucky with a bound is over-represented. Each that was not
    shown to keep its bounds makes the next one stay half a standard deviation of a run further away; where none does,
    the one that is furthest away is taken. The default is a choice unless its runs show that it breaks a bound.

    Args:
        setup: of the session.
        trials: decided ones.
        fresh: runs of each verification that did not show that bounds are kept.

    Returns:
        None where no trial kept its bounds in its own runs, and the default is shown to break one.
    """
    objective, bounded = setup.objectives[0], setup.bounded
    runs = [run for those in fresh for run in those]
    noise = {m.name: spread(default_runs(trials, m.name) + values_of(runs, "default", m.name)) for m in bounded}
    default = [t for t in trials if t.step == 0 and t.ok and not broken(setup, trials, runs)]
    others = [
        t
        for t in trials
        if t.feasible
        and t.step > 0
        and all(objective.better(t.scores[objective.name], d.scores[objective.name]) for d in default)
    ]
    away = {t.number: room(bounded, t.metrics, noise) for t in others}
    far = [t for t in others if away[t.number] >= len(fresh) / 2]
    if not far and others:
        far = [max(others, key=lambda t: away[t.number])]
    best: Trial | None = None
    for trial in sorted([*default, *far], key=lambda t: t.number):
        if best is None or objective.better(trial.scores[objective.name], best.scores[objective.name]):
            best = trial
    return best


def broken(setup: Setup, trials: Sequence[Trial], runs: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether the default's runs show that it breaks a bound; of too few runs for an interval, the median counts."""
    by_name = {m.name: m for m in setup.bounded}
    return any(
        it.standing == "missed" or (not math.isfinite(it.high - it.low) and by_name[it.metric].violation(it.value) > 0)
        for it in of_the_default(setup, trials, runs)
    )


def missed(told: Sequence[Standing], metrics: Sequence[Metric]) -> tuple[bool, float]:
    """Order configurations that are not shown to keep their bounds: first those that may keep them, by distance."""
    amounts, values = misses(told, metrics), {it.metric: it.value for it in told}
    shares = [amount / (abs(values[name]) or 1.0) for name, amount in amounts.items()]
    return any(it.standing == "missed" for it in told), max(shares, default=0.0)


def misses(told: Sequence[Standing], metrics: Sequence[Metric]) -> dict[str, float]:
    """Return by how much each bound is not shown to be kept, in the metric's unit, above 0."""
    by_name = {m.name: m for m in metrics}
    amounts = {}
    for it in told:
        if it.standing != "met":
            ends = [by_name[it.metric].violation(v) for v in (it.low, it.high, it.value) if math.isfinite(v)]
            amounts[it.metric] = max([*ends, abs(it.value) * 1e-9, 1e-300])
    return amounts


def refusal(told: Sequence[Standing]) -> str:
    """Say why a configuration is passed over; "" where all its bounds are kept.

    >>> refusal([Standing(metric="lat", bound="lat <= 15 ms", of="candidate", value=16.0, low=15.2, high=17.0, runs=12,
    ...                   standing="missed")])
    'lat <= 15 ms does not hold: 16 (95 % interval 15.2 to 17, 12 runs)'
    """
    how = {"missed": "does not hold", "open": "is not shown to hold"}
    return "; ".join(f"{it.bound} {how[it.standing]}: {it.words()}" for it in told if it.standing != "met")


def judgement(
    said: str, candidate: Sequence[Standing], default: Sequence[Standing], improved: bool, *, reliable: bool = True
) -> tuple[bool, str]:
    """Put what is shown of the bounds into a verdict.

    Args:
        said: the verdict on the objective, in words.
        candidate: how the winner stands to the bounds; empty where that is the default itself.
        default: how the default does.
        improved: whether the objective was shown to be better.
        reliable: whether it fails no more often than the default.

    Returns:
        Whether the winner improves on the default, bounds included, and the verdict in words.
    """
    breaks = _listed(it for it in default if it.standing == "missed")
    of_default = f" The default does not keep {breaks}." if breaks else ""
    if refused := refusal(candidate):
        return False, f"No improvement was shown: {refused}. {_objective_alone(said)}{of_default}"
    if not candidate:
        unsure = _listed(it for it in default if it.standing == "open")
        return improved, f"{said} The default is not shown to keep {unsure}." if unsure else f"{said}{of_default}"
    kept = _listed(candidate)
    if not breaks or improved or not reliable:
        return improved, f"{said} It keeps {kept}.{of_default}"
    return True, f"Improved: it keeps {kept}, which the default does not: {breaks}. {_objective_alone(said)}"


def gave_way(over: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence what was passed over; "" for nothing."""
    if not over:
        return ""
    reasons = "; ".join(f"trial {entry['number']} ({entry['reason']})" for entry in over)
    return f"Passed over, as fresh runs did not show that bounds hold: {reasons}."


def _listed(told: Iterable[Standing]) -> str:
    return "; ".join(f"{it.bound} with {it.words()}" for it in told)


def _objective_alone(said: str) -> str:
    """Return what a verdict says of the objective, without its first words."""
    return f"On the objective alone: {said.partition(': ')[2] or said}"


def passed_over(number: int, config: Config, told: Sequence[Standing]) -> dict[str, Any]:
    """Return a configuration that was not shown to keep its bounds, as a verdict holds it."""
    return {"number": number, "config": config, "reason": refusal(told), "constraints": [asdict(it) for it in told]}
