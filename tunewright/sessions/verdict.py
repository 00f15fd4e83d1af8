"""What a session has shown, as data and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from statistics import median
from typing import Any

from tunewright.measuring.feasibility import Standing
from tunewright.measuring.protocol import Comparison
from tunewright.measuring.runs import fails_more, values_of
from tunewright.sessions.watcher import View
from tunewright.space import Config
from tunewright.space.notebook import html_table
from tunewright.store.files import finite
from tunewright.store.secrets import public_spec, redact
from tunewright.target import Metric

_UNRELIABLE = 0.05  # probability of so many more failures by chance, below which a winner is not recommended


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a session has shown.

    Attributes:
        number: trial number of the winner.
        config: what is recommended: the winner's configuration, less the changes that it does not need.
        metrics: its medians.
        comparisons: objective to comparison with the default, from fresh runs.
        improved: the first objective's interval lies wholly on the better side.
        sentence: the verdict in words.
        weaker: what weaker guarantees would give: ``{"config", "loses", "ratio", "low", "high"}``.
        pareto: winners of a multi-objective session, same form as this without the lists; ``unsure`` says which bounds
            they are not shown to keep.
        runs: the verification's runs.
        settings: the configuration in the system's own form.
        pruned: what was taken back from the winner, see :func:`~tunewright.sessions.reduction.recorded`; None where
            nothing was tried.
        steps: what each change gives, from the default on, see :class:`~tunewright.sessions.reduction.Step`.
        constraints: how winner and default stand to each bound.
        passed_over: what was verified before and not shown to keep its bounds: ``{"number", "config", "reason",
            "constraints"}``.
        estimate: what was estimated: ``pairs``, ``median``, ``mean`` or a quantile such as ``p90``.
        doubted: metric to what is said of values of it that were not believed.
        changes: the values of the configuration that are not the default's; not stored.
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
    pruned: Mapping[str, Any] | None = None
    steps: Sequence[Mapping[str, Any]] = ()
    constraints: Sequence[Standing] = ()
    passed_over: Sequence[Mapping[str, Any]] = ()
    estimate: str = "pairs"
    doubted: Mapping[str, str] = field(default_factory=dict)
    changes: Config = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Verdict on trial {self.number}: {self.sentence}>"

    def _repr_html_(self) -> str:
        changes = html_table(("parameter", "value"), self.changes.items()) if self.changes else ""
        return f"<p>{escape(self.sentence)}</p>{changes}"

    def stored(self) -> dict[str, Any]:
        """Return it as a store keeps it, JSON-able."""
        kept = {name: value for name, value in asdict(self).items() if name != "changes"}
        found: dict[str, Any] = finite({n: v for n, v in kept.items() if n != "pruned" or v is not None})
        return found

    @property
    def taken_back(self) -> Config:
        """Changes of the winner that are not recommended."""
        return taken_back(self.config, self.pruned)

    @property
    def of_winner(self) -> list[Standing]:
        """How the winner stands to each bound; empty where that is the default."""
        return [it for it in self.constraints if it.of == "candidate"]


def in_short(session: View, verdict: Mapping[str, Any] | None) -> str:
    """Return a session in a line: name, target, trials, and its verdict or the best of the search.

    Args:
        session: the session.
        verdict: as it is stored; None where there is none yet.
    """
    return f"<Session {session.name!r}: {_so_far(session, verdict)}>"


def as_html(session: View, verdict: Mapping[str, Any] | None) -> str:
    """Return a session as a notebook shows it: the same, with what the winner or the best of the search changes."""
    best = session.best
    config = verdict["config"] if verdict else best.config if best is not None else session.space.default
    changes, head = session.space.changes(config), "winner" if verdict else "best of the search"
    shown = html_table(("parameter", head), changes.items()) if changes else ""
    return f"<p>Session <b>{escape(session.name)}</b>: {escape(_so_far(session, verdict))}</p>{shown}"


def _so_far(session: View, verdict: Mapping[str, Any] | None) -> str:
    done, best, metric = len(session.decided), session.best, session.objectives[0]
    words = f"{session.target.name}, {done} trial{'' if done == 1 else 's'}"
    if verdict:
        return f"{words}. {verdict['sentence']}"
    if best is not None:
        words += f", best of the search {metric.name} {best.scores[metric.name]:.4g} {metric.unit}".rstrip()
        words += f" (trial {best.number}), not verified yet"
    return words


def sentence(compared: Comparison, metric: Metric, what: str = "") -> str:
    """Say in one sentence what a comparison shows.

    Args:
        compared: the comparison.
        metric: that was compared.
        what: is estimated, where that is not the median of the pairs' ratios.
    """
    if compared.kind == "ratio":
        times = f"{compared.value:.{3 if 0.99 < compared.value < 1.01 else 2}f}"  # never "1.00 times better"
        interval = f"{times} times the default's {metric.name}"
        if metric.direction == "min":
            interval = f"{times} times better than the default in {metric.name} (lower is better)"
        bounds = f"95 % interval {compared.low:.2f} to {compared.high:.2f}, {compared.pairs} fresh pairs"
        inside = compared.low <= 1 <= compared.high
    else:
        difference = f"{compared.value:+.4g} {metric.unit}".rstrip()
        interval = f"{difference} against the default in {metric.name}"
        bounds = f"95 % interval {compared.low:+.4g} to {compared.high:+.4g}, {compared.pairs} fresh pairs"
        inside = compared.low <= 0 <= compared.high
    if what:
        bounds = f"{what}; {bounds}"
    if compared.pairs == 1:  # only exact targets are verified by one
        bounds = "values of this target repeat exactly"
    if compared.improved:
        return f"Improved: {interval} ({bounds})."
    if inside:
        return f"No improvement was shown: {interval}, and the interval holds 'no change' ({bounds})."
    return f"No improvement was shown: on fresh runs it is worse, {interval} ({bounds})."


def reliability(failures: Mapping[str, tuple[int, int]]) -> tuple[bool, str]:
    """Say whether a winner fails more often than the default, and how often runs failed; "" if none did.

    Args:
        failures: of ``candidate`` and ``default``: failed runs, and all runs.

    >>> reliability({"candidate": (1, 13), "default": (0, 12)})[1]
    "Runs that failed and were repeated: 1 of the winner's 13, 0 of the default's 12."
    """
    (failed, runs), (others, beside) = failures["candidate"], failures["default"]
    if not failed + others:
        return False, ""
    counts = f"{failed} of the winner's {runs}, {others} of the default's {beside}."
    if fails_more(failures["candidate"], failures["default"]) < _UNRELIABLE:
        return True, f"No improvement was shown: it fails more often than the default, in {counts}"
    return False, f"Runs that failed and were repeated: {counts}"


def taken_back(config: Config, pruned: Mapping[str, Any] | None) -> Config:
    """Return the changes of a winner that are not recommended.

    Args:
        config: what is recommended.
        pruned: of the same verdict.

    >>> taken_back({"a": 2, "b": 0}, {"config": {"a": 2, "b": 7, "c": 3}})
    {'b': 7, 'c': 3}
    """
    winner: Config = dict(pruned["config"]) if pruned else {}
    return {n: v for n, v in winner.items() if n not in config or config[n] != v}


def medians(runs: Sequence[Mapping[str, Any]], metrics: Iterable[Metric]) -> dict[str, float]:
    """Return the median of each metric over the candidate's runs of a verification."""
    return {m.name: median(values) for m in metrics if (values := values_of(runs, "candidate", m.name))}


def summary(session: View, verdict: Verdict | None) -> dict[str, Any]:
    """Return the machine-readable result of a run, as ``tunewright tune --json`` prints it."""
    best = verdict or session.best
    first = verdict.comparisons[session.objectives[0].name] if verdict else None
    ratio = first if first and first.kind == "ratio" else None
    return {
        "name": session.name,
        "target": public_spec(session.plan.target),
        "workload": session.plan.workload,
        "tuner": session.plan.tuner,
        "trials": len(session.decided),
        "failed": sum(not t.ok for t in session.decided),
        "rejected": sum(t.status == "rejected" for t in session.all),
        "best": {"config": best.config, "metrics": dict(best.metrics)} if best else None,
        "taken_back": dict(verdict.taken_back) if verdict else {},
        "ratio": ratio.value if ratio else None,
        "ratio_low": _json_number(ratio.low) if ratio else None,
        "ratio_high": _json_number(ratio.high) if ratio else None,
        "improved": bool(verdict and verdict.improved),
        **(
            {"constraints": finite([asdict(it) for it in verdict.constraints])}
            if verdict and verdict.constraints
            else {}
        ),
        **({"doubted": dict(verdict.doubted)} if verdict and verdict.doubted else {}),
        "seconds": round(session.seconds, 3),
        **({"ended": redact(session.ended)} if session.ended else {}),
    }


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None
