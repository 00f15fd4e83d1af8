"""Putting a result into service, undoing it, and checking a target before tuning."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunewright import measure
from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.protocol import improvement
from tunewright.session import reopen
from tunewright.space import Config
from tunewright.store import Store, home
from tunewright.target import BaseTarget, Budget


def _undo_file(name: str) -> Path:
    folder = home() / "applied"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name.replace(os.sep, '_')}.json"


def apply_session(
    store: Store,
    name: str,
    *,
    to: str | None,
    spec: str | None,
    number: int | None,
    force: bool,
    options: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Apply a trial's configuration and note how to undo it.

    Raises:
        ConfigError: nothing to apply, no gain was shown (without ``force``), or an earlier apply is not
            rolled back yet.
    """
    record = store.session(name)
    config, number = _chosen(store, name, record, number, force)
    undo_file = _undo_file(name)
    if undo_file.exists():
        raise ConfigError(f"session {name!r} is applied already; first run: tunewright rollback {name}")
    target = reopen(name, record, spec, options)
    problems = target.space.problems(config)
    if problems:
        raise ConfigError(f"trial {number} is not legal on this machine: {'; '.join(problems)}")
    undo = target.apply(config, to)
    with open(undo_file, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        json.dump({"target": record["plan"]["target"], "undo": undo}, file)
    return {
        "name": name,
        "trial": number,
        "config": config,
        "settings": target.render(config),
        "undo": str(undo_file),
    }


def _chosen(store: Store, name: str, record: dict[str, Any], number: int | None, force: bool) -> tuple[Config, int]:
    if number is not None:
        for trial in store.trials(name):
            if trial.number == number:
                if not trial.feasible and not force:
                    raise ConfigError(
                        f"trial {number} is {trial.status} or misses a constraint; --force applies it all the same"
                    )
                return trial.config, number
        raise ConfigError(f"session {name!r} has no trial {number}")
    verdict = record.get("verdict")
    if not verdict:
        raise ConfigError(f"session {name!r} has no verdict yet; first run: tunewright resume {name}")
    if not verdict["improved"] and not force:
        raise ConfigError(f"nothing to apply: {verdict['sentence']} (--force applies it all the same)")
    return verdict["config"], verdict["number"]


def rollback_session(
    store: Store, name: str, *, spec: str | None, options: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Undo ``apply`` and whatever a killed session left changed.

    Raises:
        ConfigError: there is nothing to undo.
    """
    record = store.session(name)
    undo_file = _undo_file(name)
    done = []
    target: BaseTarget | None = None
    with store.lock(name):
        if record.get("snapshot"):
            target = reopen(name, record, spec, options)
            target.restore(record["snapshot"])
            store.update(name, snapshot=None)
            done.append("what the killed session left changed was put back")
        if undo_file.exists():
            undo = json.loads(undo_file.read_text(encoding="utf-8"))
            target = target or reopen(name, record, spec, options)
            target.rollback(undo["undo"])
            undo_file.unlink()
            done.append("the applied configuration was taken back")
    if not done:
        raise ConfigError(f"nothing to roll back: session {name!r} is not applied and left nothing changed")
    return {"name": name, "message": f"{'; '.join(done)}."}


def check_target(target: BaseTarget, *, workload: str, runs: int, limit_s: float) -> dict[str, Any]:
    """Measure the default several times.

    Returns:
        ``runs`` (values of each), ``noise`` (metric to spread between runs as a share) and ``restored``.

    Raises:
        TargetError: the default cannot be measured.
    """
    if workload and workload not in target.workloads:
        raise unknown(f"workload of {target.name}", workload, target.workloads)
    workload = workload or next(iter(target.workloads))
    found = []
    base = home() / "work"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as folder:
        budget = Budget(workdir=Path(folder), seconds=target.limit_seconds or limit_s, memory_bytes=target.memory_bytes)
        snapshot = target.snapshot(Path(folder))
        try:
            prepared = measure.call_isolated(target, "prepare", workload=workload, seed=0, budget=budget)
            budget = Budget(
                workdir=budget.workdir,
                seconds=budget.seconds,
                memory_bytes=budget.memory_bytes,
                prepared=prepared,
            )
            for _ in range(runs):
                once = measure.measure_once(target, target.space.default, workload=workload, seed=0, budget=budget)
                if not once.ok:
                    raise TargetError(f"the default configuration cannot be measured: {once.status}: {once.reason}")
                found.append(once)
        finally:
            target.restore(snapshot)
            target.cleanup(Path(folder))
    noise: dict[str, float | None] = {}
    for metric in target.metrics:
        values = [m.values[metric.name] for m in found]
        logs = [improvement(metric, v, values[0]) for v in values]
        noise[metric.name] = None if None in logs else float(np.ptp(np.array(logs, dtype=float)))
    return {
        "target": target.name,
        "workload": workload,
        "parameters": len(target.space),
        "runs": [{"values": dict(m.values), "seconds": m.seconds, "traces": dict(m.traces)} for m in found],
        "noise": noise,
        "units": {m.name: m.unit for m in target.metrics},
        "objective": target.metrics[0].name,
    }
