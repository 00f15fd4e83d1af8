"""Putting a result into service, undoing it, and checking a target before tuning."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.measuring import hooks, isolation
from tunewright.measuring.interrupts import orderly, uninterrupted
from tunewright.measuring.protocol import improvement
from tunewright.plugins import located, located_options, reopen
from tunewright.sessions import forms, workfolder
from tunewright.sessions.changes import (
    Journal,
    Owner,
    Say,
    changing,
    command_log,
    document,
    protected,
    put_back,
    settle,
    silent,
)
from tunewright.sessions.locks import holding, this_process
from tunewright.sessions.undoing import left, nothing_left
from tunewright.space import Config
from tunewright.store.export import changes_of
from tunewright.store.paths import home
from tunewright.store.secrets import public_options, public_spec
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Budget


def _old_undo_file(name: str) -> Path:
    """Where versions before the journals kept what ``apply`` replaced."""
    return home() / "applied" / f"{name.replace(os.sep, '_')}.json"


def _old_undo(name: str, spec: str) -> dict[str, Any] | None:
    """Return what such a version kept of a session on this target; another store's session of the name is not it."""
    try:
        document = json.loads(_old_undo_file(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return dict(document["undo"]) if isinstance(document, dict) and document.get("target") == spec else None


def apply_session(
    store: Store,
    name: str,
    *,
    to: str | None,
    spec: str | None,
    number: int | None,
    force: bool,
    options: Mapping[str, str] | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """Apply a trial's configuration, with what undoes it written down before.

    Raises:
        ConfigError: nothing to apply, no gain was shown (without ``force``), or an earlier apply is
            not rolled back yet.
        HeldError: a session is running, or somebody else changes the same thing.
    """
    record = store.session(name)
    config, number = _chosen(store, name, record, number, force)
    target = reopen(name, record, spec, options)
    problems = target.space.problems(config)
    if problems:
        raise ConfigError(f"trial {number} is not legal on this machine: {'; '.join(problems)}")
    owner = _owner(store, name, record, spec, options)
    with store.lock(name), orderly(), changing(target, owner, say, to=to, kind="apply") as (hold, journal):
        if journal.read() or _old_undo(name, record["plan"]["target"]):
            raise ConfigError(f"session {name!r} is applied already; first run: tunewright rollback {name}")
        folder = journal.begin()
        undo = target.undo(folder, to)
        journal.write(document(target, owner, undo, "applying", to=to))
        hold.note(str(journal.path))
        try:
            with hooks.noting(folder, command_log(name)):
                target.apply(config, to)
        except BaseException as error:
            put_back(journal.path, owner, hold, say, target)
            hold.note(None)
            if isinstance(error, TargetError):
                raise TargetError(f"{error}; what it had changed was taken back") from None
            raise
        journal.write(document(target, owner, undo, "applied", to=to))
        hold.note(None)
        # what it was before counts, not the target's default of today: of a live system that is what is applied now
        store.update(name, applied={"trial": number, "config": config, "at": time.time()}, watch=None)
    return {
        "name": name,
        "trial": number,
        "config": config,
        "settings": target.render(config),
        "still_to_do": list(target.still_to_do(config, changes_of(record, config))),
        "undo": str(journal.path),
    }


def session_form(
    store: Store,
    name: str,
    form: str,
    *,
    spec: str | None = None,
    number: int | None = None,
    force: bool = False,
    options: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a trial's configuration in a form that operations use; nothing in service is changed.

    Args:
        store: of the session.
        name: its name.
        form: one of :data:`tunewright.sessions.forms.FORMS`.
        spec: target spec instead of the stored one.
        number: of the trial; None for the verified winner.
        force: also where no improvement was shown.
        options: target options in the place of stored ones.

    Raises:
        ConfigError: there is nothing to apply, or the target has no such form.
    """
    record = store.session(name)
    config, number = _chosen(store, name, record, number, force)
    target = reopen(name, record, spec, options)
    verdict = record.get("verdict")
    shown = verdict["sentence"] if verdict and verdict["number"] == number else "not verified"
    about = [f"tunewright, session {name}, trial {number}: {shown}"]
    text = forms.form(target, form, config, changes_of(record, config), about)
    return {"name": name, "trial": number, "config": config, "as": form, "text": text}


def _owner(
    store: Store, name: str, record: dict[str, Any], spec: str | None, options: Mapping[str, str] | None
) -> Owner:
    plan = record["plan"]
    return Owner(
        what=f"the apply of session {name!r}",
        store=store.public_url,
        name=name,
        target=public_spec(spec or located(name, plan["target"], record)),
        options=located_options(name, plan["options"], record, options or ()),
    )


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
    store: Store,
    name: str,
    *,
    spec: str | None,
    options: Mapping[str, str] | None = None,
    say: Say = silent,
    after_reboot: bool = False,
) -> dict[str, Any]:
    """Undo ``apply`` and whatever a killed session left changed.

    Settings of a machine that was started anew since are what its start made them, and are only told; with
    ``after_reboot`` they are set to what they were before the session.

    Raises:
        ConfigError: there is nothing to undo, or another configuration was applied on top of this session's.
        HeldError: the session is running, or somebody else changes the same thing.
    """
    record = store.session(name)
    done: list[str] = []
    # what was changed, and where, is for the journal to say
    owner = Owner(what=f"session {name!r}", store=store.public_url, name=name, target="", options={})
    with store.lock(name), orderly():
        for journal, said in left(store, name):
            with holding(said["keys"], owner.what) as hold:
                settle(owner, hold, say, but=journal.path)  # what came on top comes off first
                done.append(
                    put_back(journal.path, owner, hold, say, spec=spec, options=options, after_reboot=after_reboot)
                )
        done += _roll_back_old(store, name, record, spec, options)
    if not done:
        raise nothing_left(name)
    if record.get("applied"):
        store.update(name, applied=None)
    return {"name": name, "message": f"{'; '.join(done)}."}


def _roll_back_old(
    store: Store, name: str, record: dict[str, Any], spec: str | None, options: Mapping[str, str] | None
) -> list[str]:
    """Undo what a version before the journals had changed."""
    undo = _old_undo(name, record["plan"]["target"])
    if not record.get("snapshot") and undo is None:
        return []
    target = reopen(name, record, spec, options)
    done = []
    with holding(target.changes(), f"session {name!r}"), uninterrupted():
        if record.get("snapshot"):
            target.restore(record["snapshot"])
            store.update(name, snapshot=None)
            done.append("what the killed session left changed was put back")
        if undo is not None:
            target.rollback(undo)
            _old_undo_file(name).unlink()
            done.append("the applied configuration was taken back")
    return done


def check_target(
    target: BaseTarget,
    *,
    spec: str = "",
    options: Mapping[str, str] | None = None,
    workload: str,
    runs: int,
    limit_s: float,
    say: Say = silent,
) -> dict[str, Any]:
    """Measure the default several times; what that changes is put back.

    Returns:
        ``runs`` (values of each), ``noise`` (metric to spread between runs as a share) and ``restored``.

    Raises:
        TargetError: the default cannot be measured.
    """
    if workload and workload not in target.workloads:
        raise unknown(f"workload of {target.name}", workload, target.workloads)
    workload = workload or next(iter(target.workloads))
    measurements = []
    base = home() / "work"
    base.mkdir(parents=True, exist_ok=True)
    spec, name = public_spec(spec), f"check-{uuid.uuid4().hex[:12]}"  # checks may run side by side
    owner = Owner(
        what=f"a check of {spec or target.name}",
        name=name,
        target=spec,
        options=public_options(options or {}, target.secret_options),
    )
    workfolder.clear_checks(base)
    its_journal = Journal(owner.store, name, "measure").folder
    folder = workfolder.private(base, name, check=this_process(), journal=str(its_journal))
    with ExitStack() as stack:
        stack.callback(workfolder.remove, base, name)
        stack.enter_context(orderly())
        its = stack.enter_context(protected(target, owner, folder, say))
        budget = Budget(workdir=folder, seconds=target.limit_seconds or limit_s, memory_bytes=target.memory_bytes)
        longer = replace(budget, seconds=max(budget.seconds, target.prepare_seconds or 0.0))
        prepared = isolation.call_isolated(target, "prepare", workload=workload, seed=0, budget=longer, runs=its)
        budget = replace(budget, prepared=prepared)
        for _ in range(runs):
            once = isolation.measure_once(
                target, target.space.default, workload=workload, seed=0, budget=budget, runs=its
            )
            if not once.ok:
                raise TargetError(f"the default configuration cannot be measured: {once.status}: {once.reason}")
            measurements.append(once)
    noise: dict[str, float | None] = {}
    for metric in target.metrics:
        values = [m.values[metric.name] for m in measurements]
        logs = [improvement(metric, v, values[0]) for v in values]
        noise[metric.name] = None if None in logs else float(np.ptp(np.array(logs, dtype=float)))
    return {
        "target": target.name,
        "workload": workload,
        "parameters": len(target.space),
        "runs": [{"values": dict(m.values), "seconds": m.seconds, "traces": dict(m.traces)} for m in measurements],
        "noise": noise,
        "units": {m.name: m.unit for m in target.metrics},
        "objective": target.metrics[0].name,
    }
