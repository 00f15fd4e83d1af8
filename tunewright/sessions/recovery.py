"""Where a session stands when it is opened again, and what puts a system back that a killed one had changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from tunewright.errors import TargetError, TunewrightError
from tunewright.measuring import isolation
from tunewright.plugins import located, located_options, open_target, reopen
from tunewright.sessions import workfolder
from tunewright.sessions.changes import Journal, Say, changing, command_log, left_behind, restoring
from tunewright.sessions.measurer import Measurer
from tunewright.sessions.setup import Setup
from tunewright.sessions.trials import Trials
from tunewright.store.plan import Plan
from tunewright.store.secrets import public_spec, reopened, restored
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Status

_DEFAULT_TRIES = 3  # how often the default may be cut off by a dying session before we give up
_CUT_OFF = "the session ended while this was being measured"


def opened(plan: Plan) -> BaseTarget:
    """Open the target of a new session.

    Raises:
        TargetError: it cannot be opened; the message says whether a killed session may have left it so.
    """
    try:
        return open_target(plan.target, plan.options)
    except TargetError as error:
        raise TargetError(f"{error}{left_behind(plan.target)}") from None


def stored_plan(
    name: str,
    record: Mapping[str, Any],
    tuner_options: Mapping[str, str],
    *,
    spec: str | None = None,
    options: Mapping[str, str] | None = None,
    believe: Sequence[str] = (),
) -> Plan:
    """Return the plan of a stored session, its files those that it was started with.

    Args:
        name: the session's.
        record: its description.
        tuner_options: instead of stored ones, such as secrets, which were not stored.
        spec: target spec instead of the stored one.
        options: target options that are given anew.
        believe: metrics whose values are believed besides those stored.

    Raises:
        ConfigError: a secret option is needed again, or a file that the session was started with is gone.
    """
    stored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["plan"].items()}
    stored["never"] = restored(name, stored["never"])
    stored["target"] = spec or located(name, stored["target"], record)
    stored["options"] = located_options(name, stored["options"], record, options or ())
    stored["tuner"] = located(name, stored["tuner"], record)
    located_tuner = located_options(name, stored["tuner_options"], record, tuner_options, tuner=True)
    stored["tuner_options"] = reopened(name, located_tuner, tuner_options, "--tuner-option")
    stored["believe"] = tuple(dict.fromkeys([*stored.get("believe", ()), *believe]))
    return Plan(**stored)


def recover(setup: Setup, store: Store, trials: Trials) -> float:
    """Read the stored trials; one left running took its session down, and is told as failed.

    Returns:
        Seconds that were spent on the session before.

    Raises:
        TargetError: the session died again and again while the default was measured.
    """
    record = store.session(setup.name)
    trials.load()
    for trial in [t for t in trials.all if t.status == "running"]:
        # an orderly stop is not the configuration's fault; and the default has to work, so that it
        # was cut off is not held against it at once
        orderly = record.get("status") != "running"
        status: Status = "interrupted" if orderly or trial.step == 0 else "failed"
        trials.finish(replace(trial, status=status, reason=_CUT_OFF))
    cut = sum(t.step == 0 and t.status == "interrupted" and t.reason.startswith("the session") for t in trials.all)
    if cut >= _DEFAULT_TRIES and trials.default is None:
        raise TargetError(
            f"the session died {cut} times while the default configuration was measured; "
            f"run 'tunewright check {public_spec(setup.plan.target)}' to see why"
        )
    return float(record.get("seconds") or 0.0)


@contextmanager
def protected(setup: Setup, store: Store, measurer: Measurer, say: Say, *, keep: bool = False) -> Iterator[None]:
    """Let a block measure the target, whatever happens: held, with all put back before and after it.

    Args:
        setup: of the session.
        store: says from now on that the session runs.
        measurer: may measure within the block.
        say: is told what was put back.
        keep: leave what the target prepared.

    Raises:
        HeldError: somebody else changes the same thing.
        TunewrightError: something could not be put back; the message says how to go on.
    """
    workdir, owner = measurer.workdir(), setup.owner(store.public_url)
    store.update(setup.name, status="running")
    with changing(setup.target, owner, say) as (hold, journal):
        _restore_old_snapshot(setup, store)
        clear_killed(setup, store)
        with restoring(setup.target, owner, hold, journal, workdir, say, keep=keep):
            with isolation.Runs(hold.fds, journal.folder, command_log(setup.name)) as measurer.runs:
                yield


def clear_killed(setup: Setup, store: Store) -> None:
    """Give back the work folders of other sessions of this store on the same target that were killed, and of checks.

    What a user's program left in them stays. A session that left the system changed is put back by its journal, and its
    folder goes then.
    """
    parent = workfolder.parent_of(setup.plan.workdir)
    workfolder.clear_checks(parent)
    known = set(store.names())
    for folder, session in workfolder.of_sessions(parent):
        if session == setup.name or session not in known:
            continue
        if folder != workfolder.path_of(parent, workfolder.name_of(store.public_url, session)):
            continue  # another store's session of that name
        with suppress(TunewrightError), store.lock(session):
            same = store.session(session)["plan"]["target"] == public_spec(setup.plan.target)
            if same and Journal(store.public_url, session, "measure").read() is None:
                setup.target.cleanup(folder)
                workfolder.give_back(folder)


def clear_replaced(record: Mapping[str, Any], name: str, store: Store) -> None:
    """Clear the work folder of a session whose place a new one of the name takes, unless it left the system changed."""
    parent = workfolder.parent_of(record["plan"]["workdir"])
    folder = workfolder.path_of(parent, workfolder.name_of(store.public_url, name))
    if folder.is_dir() and Journal(store.public_url, name, "measure").read() is None:
        with suppress(TunewrightError):  # of a target that cannot be opened any more, nothing is known
            reopen(name, dict(record), None, None).cleanup(folder)
            workfolder.give_back(folder)


def _restore_old_snapshot(setup: Setup, store: Store) -> None:
    """Put back what a session of a version that kept its snapshots in the store was killed with."""
    snapshot = store.session(setup.name).get("snapshot")
    if snapshot is not None:
        setup.target.restore(snapshot)
        # all is as it was: what the next snapshot is written over must not be restored from again
        store.update(setup.name, snapshot=None)
