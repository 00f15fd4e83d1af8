"""What a session is about to do to a system, and what it lacks for that, before anything is touched.

The target says what it changes, restarts, creates and leaves (``BaseTarget.preflight``); the session adds what it knows
itself: its folder and the room on that disk, who holds the same things, and about how long it takes. Looking changes
nothing: no folder is made and nothing is stored.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.errors import TargetError, TunewrightError, unknown
from tunewright.measuring.protocol import Trust, trust
from tunewright.sessions import workfolder
from tunewright.sessions.locks import holders, words
from tunewright.space.amounts import duration, size
from tunewright.store.plan import Plan
from tunewright.store.secrets import public_spec
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Preflight

_TRIALS = 25  # that 'tune' makes where nothing is said
_LOOKED_AT = 20  # latest sessions whose runs tell how long one of the same target takes


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a session would do.

    Attributes:
        name: of the session.
        target: its name.
        workload: its name.
        live: the system is the user's, and others may be using it.
        said: by target and session together.
        workdir: where the session's files would lie.
        free_bytes: room on that disk; None where it is not known.
        runs: fewest and most runs of the target; None where only a time is given.
        run_s: seconds that a run of the default took lately; None where that is not known.
    """

    name: str
    target: str
    workload: str
    live: bool
    said: Preflight
    workdir: Path
    free_bytes: int | None
    runs: tuple[int, int] | None
    run_s: float | None

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.said.missing

    @property
    def changes_nothing(self) -> bool:
        """Whether nothing outside the session's own folder is changed, restarted or left."""
        return not (self.said.changes or self.said.restarts or self.said.leaves)

    def document(self) -> dict[str, Any]:
        """Return it JSON-able."""
        said = {k: list(v) if isinstance(v, list | tuple) else v for k, v in asdict(self.said).items()}
        return {
            "session": self.name, "target": self.target, "workload": self.workload, "live": self.live,
            "ready": self.ready, **said, "workdir": str(self.workdir), "free_bytes": self.free_bytes,
            "runs": list(self.runs) if self.runs else None, "run_seconds": self.run_s,
        }  # fmt: skip

    def check(self, *, listed: bool = False) -> None:
        """Refuse to go on while something is missing.

        Args:
            listed: whoever is told has seen all that is missing already.

        Raises:
            TargetError: the message names what is missing, unless it was listed.
        """
        if not self.ready:
            first, *more = self.said.missing
            others = f" (and {len(more)} more; --dry-run lists all)" if more else ""
            if listed and more:
                raise TargetError(f"nothing was started, since the {len(more) + 1} things above are missing")
            raise TargetError(f"nothing was started, since something is missing: {first}{others}")


def look(
    plan: Plan,
    target: BaseTarget,
    name: str,
    *,
    store_url: str,
    store: Store | None = None,
    trials: int | None = None,
    minutes: float | None = None,
) -> Outlook:
    """Look at what a session would do, and change nothing.

    Args:
        plan: of the session.
        target: open.
        name: of the session.
        store_url: of its store, without a password.
        store: the store, where it exists: its sessions tell how long a run takes.
        trials: how many configurations are tried; None with ``minutes`` for as many as there is time for.
        minutes: after which no trial begins.

    Raises:
        UnknownNameError: the target has no such workload.
    """
    if plan.workload and plan.workload not in target.workloads:
        raise unknown(f"workload of {target.name}", plan.workload, target.workloads)
    workload = plan.workload or next(iter(target.workloads))
    parent = workfolder.parent_of(plan.workdir)
    workdir = workfolder.path_of(parent, workfolder.name_of(store_url, name))
    said = target.preflight(workload=workload, workdir=workdir)
    free, problem = _room(parent)
    runs = None if trials is None and minutes is not None else _runs(trust(plan.trust), trials or _TRIALS, target.exact)
    run_s = usual_seconds(store, name, plan.target, workload) if store is not None else None
    keys = target.changes()
    missing = [*said.missing, *([problem] if problem else []), *_too_little(said.disk_bytes, free, parent)]
    missing += [
        f"{h.thing} is being changed by {h.what} (process {h.pid or 'unknown'}): wait for it or stop it"
        for h in holders(keys)
        if not h.killed
    ]
    left = [
        f"{h.what[:1].upper()}{h.what[1:]} was killed and left {h.thing} changed; this is put back first."
        for h in holders(keys)
        if h.killed
    ]
    said = replace(
        said,
        changes=[*said.changes, *_unsaid_files(keys, said.changes)],
        creates=[*said.creates, _folder_words(workdir, free, said.disk_bytes)],
        locks=[*said.locks, *_held(keys, said.locks)],
        missing=missing,
        notes=[*said.notes, *left, _time_words(runs, run_s, minutes)],
    )
    return Outlook(
        name=name, target=target.name, workload=workload, live=target.live, said=said, workdir=workdir,
        free_bytes=free, runs=runs, run_s=run_s,
    )  # fmt: skip


def _room(parent: Path) -> tuple[int | None, str]:
    """Return the free bytes where a directory is or would be made, and why nothing can be made there, or ""."""
    stands = next((p for p in (parent, *parent.parents) if p.exists()), Path("/"))
    if not stands.is_dir():
        return None, f"{stands} is a file: name another directory with --dir"
    try:
        free = shutil.disk_usage(stands).free
    except OSError as error:
        return None, f"the disk of {stands} cannot be asked ({error.strerror}): name another directory with --dir"
    if not os.access(stands, os.W_OK | os.X_OK):
        return free, f"no folder can be made in {stands}: name another directory with --dir"
    return free, ""


def _too_little(needed: int | None, free: int | None, parent: Path) -> list[str]:
    if needed is None or free is None or needed <= free:
        return []
    return [f"room on the disk of {parent}: {size(needed)} are needed and {size(free)} are free; make room, or name "
            "another directory with --dir"]  # fmt: skip


def _folder_words(workdir: Path, free: int | None, needed: int | None) -> str:
    room = "" if free is None else f"; {size(free)} are free there"
    need = "" if needed is None else f", about {size(needed)} are needed"
    return f"The work folder {workdir}{room}{need}."


def _unsaid_files(keys: Sequence[str], said: Sequence[str]) -> list[str]:
    files = [words(key) for key in keys if key.startswith("file ")]
    return [f"{f} is written while candidates are measured, and put back." for f in files if f not in " ".join(said)]


def _held(keys: Sequence[str], said: Sequence[str]) -> list[str]:
    told = " ".join(said)
    things = [words(key) for key in keys if not {"inode", "entry"} & set(key.split()[:3])]
    return [f"{t[:1].upper()}{t[1:]} is held, so that no other session changes it." for t in things if t not in told]


def _runs(level: Trust, trials: int, exact: bool) -> tuple[int, int]:
    """Return the fewest and the most runs of so many trials with their verification; failures repeat some."""
    if exact:
        return trials, trials + 2
    sides = 2 if level.paired else 1
    trial = sides * level.least, sides * level.most
    return trials * trial[0] + 2 * level.verify_least, trials * trial[1] + 2 * level.verify_most


def _time_words(runs: tuple[int, int] | None, run_s: float | None, minutes: float | None) -> str:
    """Say about how long it takes."""
    if runs is None:
        return f"About {minutes:g} min of trials, then the verification."
    least, most = runs
    many = f"About {least}{f' to {most}' if most > least else ''} runs of the workload"
    limit = f"; no trial begins after {minutes:g} min" if minutes is not None else ""
    if run_s is None:
        return f"{many}{limit}; how long one takes is not known before the first."
    times = duration(least * run_s) + (f" to {duration(most * run_s)}" if most > least else "")
    return f"{many} of {duration(run_s)} each, by an earlier session: {times} without set-up{limit}."


def usual_seconds(store: Store, name: str, spec: str, workload: str) -> float | None:
    """Return how long a run of the default took lately: in this session, or in another of the same target.

    Args:
        store: of the session.
        name: of the session; it may not exist.
        spec: target spec.
        workload: its name.
    """
    names = store.names()
    for other in ([name] if name in names else []) + names[: -_LOOKED_AT - 1 : -1]:
        with suppress(TunewrightError):
            planned: Mapping[str, Any] = store.session(other)["plan"]
            if (planned["target"], planned["workload"]) != (public_spec(spec), workload):
                continue
            seconds = [float(r["seconds"]) for t in store.trials(other) if t.step == 0 and t.ok for r in t.runs]
            if seconds:
                return float(np.median(seconds))
    return None


def left_in(workdir: Path) -> int:
    """Return how many bytes of files are in a session's folder, our mark apart; 0 where there is none."""
    total = 0
    for place, _, files in os.walk(workdir):
        for file in files:
            if file != workfolder.MARKER:
                with suppress(OSError):
                    total += os.lstat(os.path.join(place, file)).st_size
    return total
