"""The drift watch: the runs of the default tell whether the machine changed while a session ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.measuring import drift
from tunewright.measuring.runs import values_of
from tunewright.sessions.setup import Setup
from tunewright.sessions.trials import Trials
from tunewright.store.store import Store

_MEANS = "Ratios compare runs made side by side, so they hold; other values from before and after it do not compare."
Run = tuple[int | None, float]  # (number of the trial, or None in the verification; the objective's value)


class MachineWatch:
    """Looks at the default's runs after each trial, and keeps with the session what it found.

    It watches where candidates are measured in pairs with the default: at ``normal`` and ``strict``, and not on targets
    whose values repeat exactly.

    Args:
        setup: of the session.
        trials: of the session; they learn of changes, so that these do not count as noise.
        store: where they are kept.
    """

    def __init__(self, setup: Setup, trials: Trials, store: Store) -> None:
        self._setup, self._trials, self._store = setup, trials, store
        self._watches = setup.level.paired and not setup.target.exact
        stored = store.session(setup.name).get("drift") or {}
        self._start, self._last = int(stored.get("start", 0)), int(stored.get("last", 0))
        self._changes = list(stored.get("changes", []))
        self._tell_trials()

    @property
    def sentences(self) -> tuple[str, ...]:
        """What changed, in words, oldest first."""
        return tuple(map(self._said, self._changes))

    def look(self) -> list[str]:
        """Look at the trials so far, where it is time for it; returns what is new, in words."""
        runs: list[Run] = [*self._trials.default_runs(self._setup.objectives[0].name)] if self._watches else []
        since = len(runs) - self._start
        if not drift.due(since, self._last):
            return []
        self._last = since
        return self._found(runs, verification=False)

    def conclude(self, verified: Sequence[Mapping[str, Any]]) -> list[str]:
        """Look once more, at the end, with the runs of the verification; returns what is new, in words."""
        if not self._watches:
            return []
        name = self._setup.objectives[0].name
        runs: list[Run] = [*self._trials.default_runs(name), *((None, v) for v in values_of(verified, "default", name))]
        dropped = any(c["verification"] for c in self._changes)
        self._changes = [c for c in self._changes if not c["verification"]]
        new = self._found(runs, verification=True)
        if dropped and not new:
            self._keep()
        return new

    def _found(self, runs: Sequence[Run], *, verification: bool) -> list[str]:
        """Test what came since the last change; a look of the verification leaves the place where that was."""
        start = self._start
        change = drift.find([value for _, value in runs[start:]], end=verification)
        if change is None:
            return []
        first, at = runs[start][0], start + change.index
        kept: dict[str, Any] = {
            "kind": change.kind, "index": at, "from": first, "verification": verification,
            "last": runs[at - 1][0], "next": runs[at][0] if change.kind == "step" else None,
            "before": change.before, "after": change.after,
        }  # fmt: skip
        self._changes.append(kept)
        if not verification:
            self._start, self._last = at, 0
        self._tell_trials()
        self._keep()
        return [self._said(kept)]

    def _said(self, change: Mapping[str, Any]) -> str:
        objective = self._setup.objectives[0]
        return sentence(change, objective.name, objective.unit)

    def _tell_trials(self) -> None:
        self._trials.changes = tuple(
            drift.Change(kind=c["kind"], index=c["index"], before=c["before"], after=c["after"])
            for c in self._changes
            if not c["verification"]
        )

    def _keep(self) -> None:
        found = {"start": self._start, "last": self._last, "changes": self._changes}
        self._store.update(self._setup.name, drift=found)


def told(record: Mapping[str, Any]) -> list[str]:
    """Return what a stored session's watch found, in words, oldest first; nothing for one that was not watched."""
    name = record["objectives"][0]
    unit = next(m["unit"] for m in record["metrics"] if m["name"] == name)
    return [sentence(change, name, unit) for change in (record.get("drift") or {}).get("changes", [])]


def sentence(change: Mapping[str, Any], name: str, unit: str) -> str:
    """Say in words what changed, and what that means for the session's figures.

    >>> change = {"kind": "step", "from": 0, "last": 4, "next": 5, "before": 1010.0, "after": 101.0}
    >>> sentence(change, "ops", "1/s").partition(" Ratios")[0]
    "The machine changed between trials 4 and 5: the default's ops went from 1010 to 101 1/s (0.10×)."
    """
    before, after = change["before"], change["after"]
    times = f" ({after / before:.2f}×)" if before > 0 and after > 0 else ""
    values = f"the default's {name} went from {before:.4g} to {after:.4g} {unit}".rstrip() + times
    if change["kind"] == "trend":
        until = "the verification" if change["last"] is None else f"trial {change['last']}"
        said = f"The machine changed little by little from trial {change['from']} to {until}: {values}."
    else:
        said = f"The machine changed {_when(change['last'], change['next'])}: {values}."
    return f"{said} {_MEANS}"


def _when(last: int | None, following: int | None) -> str:
    if following is None:
        return "during the verification" if last is None else f"between trial {last} and the verification"
    return f"during trial {last}" if last == following else f"between trials {last} and {following}"
