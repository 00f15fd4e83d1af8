"""What a session has shown: the winner measured afresh, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.errors import ConfigError, TargetError
from tunewright.measuring import isolation, protocol
from tunewright.measuring.protocol import Comparison
from tunewright.space import Config
from tunewright.space.space import single_change
from tunewright.store.secrets import public_spec, redact
from tunewright.target import Measurement, Metric
from tunewright.tuner import Trial, pareto

if TYPE_CHECKING:
    from tunewright.sessions.session import Session


SEEDS = 1_000_003  # seeds of runs: sessions lie this far apart, trials 1000, the verification beyond them all
VERIFICATION = 999_000_000


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


def _once(session: Session, config: Config, seed: int) -> Measurement:
    return isolation.measure_once(
        session.target, config, workload=session.workload, seed=seed, budget=session.budget(), runs=session.runs
    )


def _compare(
    session: Session, config: Config, against: Config, what: str, *, brief: bool = False
) -> tuple[dict[str, Comparison], list[dict[str, Any]]]:
    level = session.level
    if brief:
        level = level.brief()
    if session.target.exact:
        level = replace(level, looks=protocol.ONE_RUN)
    seed = session.plan.seed * SEEDS + VERIFICATION
    compared, runs = protocol.verify(
        partial(_once, session),
        config,
        against,
        session.objectives,
        level,
        seed,
        lambda done, of: session.watcher.verifying(session, done, of, what),
    )
    compared = {name: _point(session, c) for name, c in compared.items()}
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
    """Measure the winner and its variants with weaker guarantees in turn; for information only.

    Never on a live system: its users would have the weaker guarantee for the while, and a kill would leave it.
    """
    if session.plan.allow or len(session.objectives) > 1 or session.target.live:
        return []
    options, objective = session.target.weaker(best.config), session.objectives[0]
    rounds = 1 if session.target.exact else session.level.verify_least
    values: dict[int, list[float]] = {i: [] for i in range(-1, len(options))}  # -1 is the winner
    for number in range(rounds if options else 0):
        session.watcher.verifying(session, number, rounds, "what weaker guarantees would give")
        for i in list(values):
            tried = best.config if i < 0 else options[i].config
            found = _once(session, tried, session.plan.seed * SEEDS + VERIFICATION + number)
            if found.ok:
                values[i].append(found.values[objective.name])
            elif i < 0:
                return []
            else:
                del values[i]
    told = []
    for i in [i for i in values if i >= 0]:
        compared = _point(session, protocol.compare_pairs(objective, list(zip(values[i], values[-1], strict=True))))
        entry = {"config": options[i].config, "loses": options[i].loses}
        told.append({**entry, "ratio": compared.value, "low": compared.low, "high": compared.high})
    return told


def _point(session: Session, compared: Comparison) -> Comparison:
    """For exact targets one run tells all: the interval is a point."""
    if not session.target.exact:
        return compared
    better = compared.value > (1 if compared.kind == "ratio" else 0)
    return replace(compared, low=compared.value, high=compared.value, improved=better)


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
        times = f"{compared.value:.{3 if 0.99 < compared.value < 1.01 else 2}f}"  # never "1.00 times better"
        interval = f"{times} times the default's {metric.name}"
        if metric.direction == "min":
            interval = f"{times} times better than the default in {metric.name} (lower is better)"
        bounds = f"95 % interval {compared.low:.2f} to {compared.high:.2f}, {compared.pairs} fresh pairs"
        inside = compared.low <= 1 <= compared.high
    else:
        interval = f"{compared.value:+.4g} {metric.unit} against the default in {metric.name}"
        bounds = f"95 % interval {compared.low:+.4g} to {compared.high:+.4g}, {compared.pairs} fresh pairs"
        inside = compared.low <= 0 <= compared.high
    if compared.pairs == 1:  # only exact targets are verified by one
        bounds = "values of this target repeat exactly"
    if compared.improved:
        return f"Improved: {interval} ({bounds})."
    if inside:
        return f"No improvement was shown: {interval}, and the interval holds 'no change' ({bounds})."
    return f"No improvement was shown: on fresh runs it is worse, {interval} ({bounds})."


def contributions(
    trials: Iterable[tuple[Config, float | None]], config: Config, default: Config, ratio: float
) -> dict[str, float]:
    """Return what each change of the winner gives, by trials with and without that change alone.

    Args:
        trials: configuration and ratio to the default of each measured trial.
        config: the winner's.
        default: the default.
        ratio: the winner's, verified.

    Returns:
        Parameter to the ratio with the change over that without it; below 1 it seems to cost something.
    """
    held = [(dict(c), r) for c, r in trials if r]

    def undone(base: Config, its: float) -> dict[str, float]:
        """What each change of a configuration gives, by its neighbours with the default's value."""
        near = [(single_change(base, c), c, r) for c, r in held]
        return {n: its / r for n, c, r in near if n and c[n] == default.get(n) and base[n] != default.get(n)}

    # the winner may itself be one of those trials: lucky, or rid of a change that was bad; of a base that is clearly
    # worse nothing is concluded
    bases = [
        (config, ratio),
        *(
            (c, r)
            for c, r in held
            if r > 0.9 * ratio and (n := single_change(config, c)) and config[n] == default.get(n)
        ),
    ]
    found = max((undone(base, its) for base, its in bases), key=len)
    return {n: gain for n, gain in found.items() if config.get(n) != default.get(n)}


def summary(session: Session, verdict: Verdict | None) -> dict[str, Any]:
    """Return the machine-readable result of a run, as ``tunewright tune --json`` prints it."""
    best = session.best
    first = verdict.comparisons[session.objectives[0].name] if verdict else None
    ratio = first if first and first.kind == "ratio" else None
    return {
        "name": session.name,
        "target": public_spec(session.plan.target),
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
        **({"ended": redact(session.ended)} if session.ended else {}),
    }


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None
