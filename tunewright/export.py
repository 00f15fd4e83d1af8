"""A stored session as one JSON-able document."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tunewright.facts import versions
from tunewright.guard import finite, redact
from tunewright.store import Store


def overview(store: Store, name: str) -> dict[str, Any]:
    """Return one line about a session."""
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
        "improved": bool(verdict and verdict["improved"]),
        "status": record.get("status", "new"),
        "created": record["created"],
    }


def export(store: Store, name: str) -> dict[str, Any]:
    """Return everything needed to repeat a session: versions, seeds, machine facts, all trials."""
    record = store.session(name)
    document = {
        "format": "tunewright session 1",
        "name": name,
        "store": redact(store.url),
        "repeat": repeat_command(record["plan"], sum(t.decided for t in store.trials(name))),
        **{k: v for k, v in record.items() if k not in ("schema", "snapshot", "retracted")},
        "exported_with": versions(),
        "trials": [asdict(t) for t in store.trials(name)],
    }
    return dict(finite(document))


def repeat_command(plan: Mapping[str, Any], trials: int) -> str:
    """Return the command line that starts the same session again."""
    words = ["tunewright", "tune", plan["target"], "--workload", plan["workload"], "--tuner", plan["tuner"]]
    words += ["--seed", str(plan["seed"]), "--trust", plan["trust"], "--trials", str(trials)]
    for flag, key in (
        ("--objective", "objectives"),
        ("--require", "require"),
        ("--allow", "allow"),
        ("--never", "never"),
    ):
        for value in plan[key]:
            words += [flag, value]
    for flag, key in (("--option", "options"), ("--tuner-option", "tuner_options")):
        for option, value in plan[key].items():
            words += [flag, f"{option}={value}"]
    for flag, key in (("--limit", "limit_s"), ("--memory", "memory_mb"), ("--dir", "workdir")):
        if plan[key]:
            words += [flag, f"{plan[key]}"]
    return shlex.join([*words, *(["--repeats"] if plan["repeats"] else [])])
