"""What a session has shown: the winner measured afresh, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright import measure, protocol
from tunewright.errors import ConfigError, TargetError
from tunewright.guard import redact
from tunewright.protocol import Comparison
from tunewright.space import Config
from tunewright.target import Metric
from tunewright.tuner import Trial, pareto

if TYPE_CHECKING:
    from tunewright.session import Session


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a session has shown.

    Attributes:
        number: trial number of the winner.
        config: its configuration.
        metrics: its medians.
        comparisons: objective to comparison with the default, from fresh runs.
        improved: the first objective's interval lies wholly on the better side.
        sentence: the verdict in words.
        weaker: what weaker guarantees would give: ``{"config", "loses", "ratio", "low", "high"}``.
        pareto: winners of a multi-objective session, same form as this without the lists.
        runs: the verification's runs.
        settings: the configuration in the system's own form.
    """

    number: int
    config: Config
    metrics: Mapping[str, float]
    comparisons: Mapping[str, Comparison]
    improved: bool
    sentence: str
    weaker: Sequence[Mapping[str, Any]] = ()
    pareto: Sequence[Mapping[str, Any]] = ()
    runs: Sequence[Mapping[str, Any]] = ()
    settings: str = ""


def _compare(
    session: Session, config: Config, against: Config, what: str, *, brief: bool = False
) -> tuple[dict[str, Comparison], list[dict[str, Any]]]:
    def run(tried: Config, number: int) -> Any:
        return measure.measure_once(
            session.target, tried, workload=session.workload, seed=number, budget=session.budget()
        )

    level = session.level
    if brief:
        level = replace(level, verify_most=level.verify_least)
    if session.target.exact:
        level = replace(level, verify_least=1, verify_most=1)
    seed = session.plan.seed * 1_000_003 + 999_000_000
    compared, runs = protocol.verify(
        run,
        config,
        against,
        session.objectives,
        level,
        seed,
        lambda done, of: session.watcher.verifying(session, done, of, what),
    )
    if session.target.exact:  # one run tells all: the interval is a point
        compared = {
            n: replace(c, low=c.value, high=c.value, improved=c.value > (1 if c.kind == "ratio" else 0))
            for n, c in compared.items()
        }
    return compared, runs


def conclude(session: Session) -> Verdict:
    """Verify the winner; a winner that fails when measured again gives way to the next."""
    for _ in range(3):
        best = session.best
        if best is None:
            raise TargetError("no configuration met the constraints, not even the default; see 'tunewright show'")
        if session.space.key(best.config) == session.space.key(session.space.default):
            verdict = _nothing_better(session, best)
            break
        try:
            compared, runs = _compare(session, best.config, session.space.default, "the winner against the default")
        except ConfigError as error:
            failed = replace(best, status="failed", reason=str(error))
            session.replace(failed)
            session.store.retract(session.name, failed)
            continue
        verdict = Verdict(
            number=best.number,
            config=best.config,
            metrics=best.metrics,
            comparisons=compared,
            improved=compared[session.objectives[0].name].improved,
            runs=runs,
            sentence=sentence(compared[session.objectives[0].name], session.objectives[0]),
            weaker=_weaker(session, best),
            pareto=_front(session, best, compared),
        )
        break
    else:
        raise TargetError("the three best configurations all failed when they were measured again")
    verdict = replace(verdict, settings=session.target.render(verdict.config))
    session.store.set_verdict(session.name, asdict(verdict))
    return verdict


def _nothing_better(session: Session, best: Trial) -> Verdict:
    same = {
        o.name: Comparison(kind="ratio", value=1.0, low=1.0, high=1.0, pairs=0, improved=False)
        for o in session.objectives
    }
    text = "No improvement was shown: nothing that was tried beat the default configuration."
    return Verdict(
        number=best.number,
        config=best.config,
        metrics=best.metrics,
        comparisons=same,
        improved=False,
        sentence=text,
        weaker=_weaker(session, best),
        pareto=_front(session, best, same),
    )


def _weaker(session: Session, best: Trial) -> list[dict[str, Any]]:
    if session.plan.allow or len(session.objectives) > 1:
        return []
    found = []
    for option in session.target.weaker(best.config):
        try:
            compared, _ = _compare(session, option.config, best.config, "what weaker guarantees would give", brief=True)
        except ConfigError:
            continue
        first = compared[session.objectives[0].name]
        found.append(
            {
                "config": option.config,
                "loses": option.loses,
                "ratio": first.value,
                "low": first.low,
                "high": first.high,
            }
        )
    return found


def _front(session: Session, best: Trial, compared: Mapping[str, Comparison]) -> list[dict[str, Any]]:
    """Verify the Pareto set: at most five members, spread over the first objective."""
    if len(session.objectives) < 2:
        return []
    first = session.objectives[0].name
    front = sorted(pareto(session.decided, session.objectives), key=lambda t: t.scores[first])
    chosen = {front[round(i)].number for i in np.linspace(0, len(front) - 1, min(len(front), 5))} | {best.number}
    found = []
    for trial in front:
        entry: dict[str, Any] = {
            "number": trial.number,
            "config": trial.config,
            "metrics": trial.metrics,
            "comparisons": None,
        }
        if trial.number == best.number:
            entry["comparisons"] = {n: asdict(c) for n, c in compared.items()}
        elif trial.number in chosen:
            with suppress(ConfigError):
                again, _ = _compare(
                    session,
                    trial.config,
                    session.space.default,
                    "the Pareto set against the default",
                    brief=True,
                )
                entry["comparisons"] = {n: asdict(c) for n, c in again.items()}
        found.append(entry)
    return found


def sentence(compared: Comparison, metric: Metric) -> str:
    """Say in one sentence what a comparison shows."""
    if compared.kind == "ratio":
        interval = f"{compared.value:.2f} times the default's {metric.name} performance"
        if metric.direction == "min":
            interval = f"{compared.value:.2f} times better than the default in {metric.name} (lower is better)"
        bounds = f"95 % interval {compared.low:.2f} to {compared.high:.2f}, {compared.pairs} fresh pairs"
        inside = compared.low <= 1 <= compared.high
    else:
        interval = f"{compared.value:+.4g} {metric.unit} against the default in {metric.name}"
        bounds = f"95 % interval {compared.low:+.4g} to {compared.high:+.4g}, {compared.pairs} fresh pairs"
        inside = compared.low <= 0 <= compared.high
    if compared.improved:
        return f"Improved: {interval} ({bounds})."
    if inside:
        return f"No improvement was shown: {interval}, and the interval holds 'no change' ({bounds})."
    return f"No improvement was shown: on fresh runs it is worse, {interval} ({bounds})."


def summary(session: Session, verdict: Verdict | None) -> dict[str, Any]:
    """Return the machine-readable result of a run, as ``tunewright tune --json`` prints it."""
    best = session.best
    first = verdict.comparisons[session.objectives[0].name] if verdict else None
    ratio = first if first and first.kind == "ratio" else None
    return {
        "name": session.name,
        "target": redact(session.plan.target),
        "workload": session.workload,
        "tuner": session.tuner_spec,
        "trials": len(session.decided),
        "failed": sum(not t.ok for t in session.decided),
        "rejected": sum(t.status == "rejected" for t in session.all),
        "best": {"config": best.config, "metrics": dict(best.metrics)} if best else None,
        "ratio": ratio.value if ratio else None,
        "ratio_low": _json_number(ratio.low) if ratio else None,
        "ratio_high": _json_number(ratio.high) if ratio else None,
        "improved": bool(verdict and verdict.improved),
        "seconds": round(session.seconds, 3),
    }


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None
