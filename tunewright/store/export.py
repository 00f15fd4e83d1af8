"""A stored session as one JSON-able document."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from tunewright.space.facts import versions
from tunewright.store.files import finite
from tunewright.store.secrets import redact
from tunewright.store.store import Store

# what was measured and how it can be repeated is exported as it is, expressions and configurations included; texts
# beside it are filtered
_PLAIN = {
    "config", "default", "inactive", "metrics", "scores", "objectives", "facts", "versions", "seconds", "prepared",
    "violations", "require", "allow", "never", "repeat",
}  # fmt: skip


def overview(store: Store, name: str) -> dict[str, Any]:
    """Return one line about a session.

    Returns:
        Among others ``ratio``, the verified one or None; ``difference``, in ``unit``, where values have no ratio; and
        ``verdict``: "shown", "not shown", or "" where there is none yet. ``status`` is "interrupted" where the process
        that ran the session is gone.
    """
    record, trials = store.session(name), store.trials(name)
    verdict = record.get("verdict")
    first = verdict["comparisons"][record["objectives"][0]] if verdict else None
    return {
        "name": name,
        "target": record["plan"]["target"],
        "workload": record["plan"]["workload"],
        "tuner": record["plan"]["tuner"],
        "trials": sum(t.decided for t in trials),
        "ratio": first["value"] if first and first["kind"] == "ratio" else None,
        "difference": first["value"] if first and first["kind"] == "difference" else None,
        "unit": next(m["unit"] for m in record["metrics"] if m["name"] == record["objectives"][0]),
        "improved": bool(verdict and verdict["improved"]),
        "verdict": shown(verdict),
        "sentence": verdict["sentence"] if verdict else "",
        "status": status(store, name, record),
        "created": record["created"],
    }


def changes_of(session: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration that are new, against the default that its session began with.

    Args:
        session: as it is stored or exported; ``inactive`` has the defaults of parameters that its default does without.
        config: of one of its trials.
    """
    before = {**session.get("inactive", {}), **session["default"]}
    return {n: v for n, v in config.items() if n not in before or before[n] != v}


def missed(violations: Mapping[str, float | None]) -> str:
    """Return the metrics whose bounds a trial misses, by commas."""
    return ", ".join(name for name, amount in violations.items() if amount is None or amount > 0)


def shown(verdict: Mapping[str, Any] | None) -> str:
    """Say whether a verdict shows an improvement: "shown", "not shown", or "" without a verdict."""
    return ("shown" if verdict["improved"] else "not shown") if verdict else ""


def status(store: Store, name: str, record: Mapping[str, Any]) -> str:
    """Return a session's status; a session whose process is gone is interrupted, whatever it last wrote."""
    stored = str(record.get("status", "new"))
    return "interrupted" if stored == "running" and not store.held(name) else stored


def export(store: Store, name: str) -> dict[str, Any]:
    """Return everything needed to repeat a session: versions, seeds, machine facts, all trials.

    Texts of programs, servers and models are filtered: a document is made to be shown and given away.
    """
    record, trials = store.session(name), store.trials(name)
    stands = status(store, name, record)
    if stands != "running":  # nothing runs any more that was left so
        trials = [replace(t, status="interrupted", reason=_CUT) if t.status == "running" else t for t in trials]
    document = {
        "format": "tunewright session 1",
        "name": name,
        "store": store.public_url,
        "repeat": repeat_command(redact(record["plan"], keep=_PLAIN), sum(t.decided for t in trials)),
        **{k: v for k, v in record.items() if k not in ("schema", "snapshot", "retracted")},
        "status": stands,
        "exported_with": versions(),
        "trials": [asdict(t) for t in trials],
    }
    return dict(finite(redact(document, keep=_PLAIN)))


_CUT = "the session ended while this was being measured"


def repeat_command(plan: Mapping[str, Any], trials: int) -> str:
    """Return the command line that starts the same session again."""
    words = ["tunewright", "tune", plan["target"], "--workload", plan["workload"], "--tuner", plan["tuner"]]
    words += ["--seed", str(plan["seed"]), "--trust", plan["trust"], "--trials", str(max(trials, 1))]
    for flag, key in (
        ("--objective", "objectives"),
        ("--require", "require"),
        ("--allow", "allow"),
        ("--never", "never"),
        ("--believe", "believe"),
    ):
        for value in plan.get(key, ()):
            words += [flag, value]
    if plan.get("estimate", "pairs") != "pairs":
        words += ["--estimate", plan["estimate"]]
    for flag, key in (("--option", "options"), ("--tuner-option", "tuner_options")):
        for option, value in plan[key].items():
            words += [flag, f"{option}={value}"]
    for flag, key in (("--limit", "limit_s"), ("--memory", "memory_mb"), ("--dir", "workdir")):
        if plan[key]:
            words += [flag, f"{plan[key]}"]
    flags = [f"--{key.replace('_', '-')}" for key in ("repeats", "keep_all", "careful") if plan.get(key)]
    return shlex.join([*words, *flags])
