"""The rows that a game leaves in a bundle: of the game, of its trials and of its target."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunewright.comparing.games import Entry, Game
from tunewright.errors import TunewrightError, unknown
from tunewright.measuring.protocol import compare_pairs
from tunewright.measuring.runs import verified_pairs
from tunewright.store.files import finite
from tunewright.store.secrets import redact
from tunewright.store.store import Store
from tunewright.target import DECIDED, BaseTarget, Metric
from tunewright.tuner import Trial

KEY = ["by", "target", "tuner", "seed"]  # columns that tell games apart
_LATER = ("scores",)  # columns that bundles of earlier versions lack
TRIAL_COLUMNS = (
    *KEY, "number", "step", "status", "reason", "why", "config", "value", "feasible", "ratio", "seconds", "asked_s",
    "attempt", "started", "runs", "scores", "digest",
)  # fmt: skip


def objectives_of(entry: Entry, target: BaseTarget) -> list[Metric]:
    """Return what a target is tuned for: the metrics that its entry names, or its first.

    Raises:
        UnknownNameError: it has no such metric.
    """
    metrics = {m.name: m for m in target.metrics}
    for name in entry.objectives:
        if name not in metrics:
            raise unknown(f"metric of {entry.label}", name, metrics)
    return [metrics[n] for n in entry.objectives] or [target.metrics[0]]


def target_facts(entry: Entry, target: BaseTarget) -> dict[str, Any]:
    """Return the row of a target."""
    objectives, workload = objectives_of(entry, target), entry.workload
    metric = objectives[0]
    space = json.dumps([target.space.json_schema(), [m.name + m.direction for m in target.metrics]], sort_keys=True)
    first = next(iter(target.workloads))
    # what is known is of the first workload and metric
    known = dict(target.known) if workload in ("", first) and metric == target.metrics[0] else {}
    return {
        "target": entry.label, "workload": workload or first, "metric": metric.name,
        "direction": metric.direction, "unit": metric.unit, "parameters": len(target.space),
        "known_best": _number(known.get("best")), "known_median": _number(known.get("median")),
        "exact": bool(target.exact), "simulated": not target.isolated,
        "fingerprint": hashlib.sha256(space.encode()).hexdigest()[:16],
        "objectives": json.dumps([[m.name, m.direction] for m in objectives]) if len(objectives) > 1 else "",
    }  # fmt: skip


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def game_rows(
    store: Store, name: str, game: Game, target: BaseTarget, reason: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the row of a game that was played, and those of its trials."""
    objectives = objectives_of(game.target, target)
    metric = objectives[0]
    try:
        record, trials = store.session(name), store.trials(name)
    except TunewrightError as error:
        return game_row(game, reason or redact(str(error))), []
    rows = [_trial_row(_key(game), t, objectives) for t in trials]
    return game_row(game, reason, metric, rows, record), rows


def game_row(
    game: Game,
    reason: str,
    metric: Metric | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the row of a game; without a metric and a session, of one that could not be played."""
    record = record or {}
    verdict, spent = record.get("verdict") or {}, (record.get("notes") or {}).get("spent") or {}
    pairs = _verified(verdict, metric) if metric else []
    return {
        "name": game.name, **_key(game), "status": "failed" if reason else "done", "reason": reason,
        "direction": metric.direction if metric else "",
        **summary(rows, pairs, metric or Metric(name="lost", direction="min")), "verification": json.dumps(pairs),
        "best_config": json.dumps(verdict.get("config", {}), default=str), "ended": redact(record.get("ended") or ""),
        "calls": int(spent.get("calls", 0)), "tokens": int(spent.get("tokens_in", 0)) + int(spent.get("tokens_out", 0)),
        "dollars": float(spent.get("money", 0.0)), "host": "", "wall_s": 0.0,
    }  # fmt: skip


def _key(game: Game) -> dict[str, Any]:
    return {"by": "", "target": game.target.label, "tuner": game.tuner.label, "seed": game.seed}


def _trial_row(key: Mapping[str, Any], trial: Trial, objectives: Sequence[Metric]) -> dict[str, Any]:
    value = trial.scores.get(objectives[0].name) if trial.ok else None
    several = trial.ok and len(objectives) > 1
    row = {
        **key, "number": trial.number, "step": trial.step, "status": trial.status, "reason": redact(trial.reason),
        "why": redact(trial.why), "config": json.dumps(trial.config, default=str),
        "value": value if value is not None and math.isfinite(value) else None,
        "feasible": trial.feasible, "ratio": trial.ratio, "seconds": trial.seconds, "asked_s": trial.asked_s,
        "attempt": trial.attempt, "started": trial.started,
        "runs": json.dumps(finite([{k: v for k, v in r.items() if k != "traces"} for r in trial.runs]), default=str),
        "scores": json.dumps({m.name: trial.scores[m.name] for m in objectives}) if several else None,
    }  # fmt: skip
    return {**row, "digest": digest(row)}


def digest(row: Mapping[str, Any]) -> str:
    """Return the check sum of a trial's row, by which an edited one is known."""
    kept = {k: plain(v) for k, v in row.items() if k not in ("digest", "by")}
    kept = {k: v for k, v in kept.items() if not (k in _LATER and v is None)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Return a value as it compares whether it comes from Python or from Parquet: text, a float, or None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    return float(value) if hasattr(value, "__float__") else str(value)


def _verified(verdict: Mapping[str, Any], metric: Metric) -> list[list[float]]:
    """Return the (winner, default) pairs of the verification."""
    return [list(pair) for pair in verified_pairs(verdict.get("runs", ()), metric.name)]


def summary(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Sequence[float]], metric: Metric) -> dict[str, Any]:
    """Return what follows from a game's trials and its verification."""
    decided = [r for r in rows if r["status"] in DECIDED]
    good = [r for r in decided if r["status"] == "ok" and r["feasible"] and plain(r["value"]) is not None]
    default = next((float(r["value"]) for r in good if r["step"] == 0), math.nan)
    values = [float(r["value"]) for r in good]
    best = (max(values) if metric.direction == "max" else min(values)) if values else math.nan
    shown = compare_pairs(metric, [(c, d) for c, d in pairs]) if pairs else None
    if shown is not None and len(pairs) == 1:  # only targets that repeat exactly are verified by one pair
        shown = replace(shown, low=shown.value, high=shown.value, improved=shown.value > (shown.kind == "ratio"))
    ratio = shown if shown is not None and shown.kind == "ratio" else None
    return {
        "trials": len(decided), "failed": sum(r["status"] != "ok" for r in decided),
        "rejected": sum(r["status"] == "rejected" for r in rows),
        "refused": sum(int(r["attempt"]) for r in decided), "default": default, "best": best,
        "ratio": ratio.value if ratio else math.nan,
        "ratio_low": ratio.low if ratio and math.isfinite(ratio.low) else math.nan,
        "ratio_high": ratio.high if ratio and math.isfinite(ratio.high) else math.nan,
        "improved": bool(shown and shown.improved),
        "measured_s": round(sum(float(r["seconds"]) for r in decided), 6),
        "tuner_s": round(sum(float(r["asked_s"]) for r in decided), 6),
    }  # fmt: skip
