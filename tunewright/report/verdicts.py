"""What a verdict shows, in the same words wherever it is shown: terminal, list, report, dashboard and notebooks.

A trial's ratio led the search. The best of many noisy trials looks better than it is, so nothing but fresh runs
decides, and where both are shown the difference is explained.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tunewright.measuring.protocol import trust
from tunewright.measuring.runs import values_of
from tunewright.store.files import printable

NOT_VERIFIED = "no verdict yet: the best of the search has not been measured afresh"


def verified(row: Mapping[str, Any]) -> str:
    """Say in a few words what a session's verdict shows; "" without one.

    Args:
        row: ``verdict``, "shown", "not shown" or ""; ``ratio``, or None; and where values have no ratio ``difference``,
            above 0 where the winner is better, with its ``unit``.

    >>> verified({"ratio": 1.68, "verdict": "not shown"}), verified({"ratio": None, "verdict": "shown"})
    ('1.68× not shown', 'shown')
    >>> verified({"ratio": None, "difference": 2.5, "unit": "ms", "verdict": "shown"})
    '+2.5 ms shown'
    """
    if not row["verdict"]:
        return ""
    gain = ""
    if row["ratio"] is not None and row["ratio"] != 1:  # exactly 1 was not measured: nothing beat the default
        gain = f"{row['ratio']:.2f}×"
    elif row.get("difference"):
        gain = f"{row['difference']:+.4g} {row.get('unit', '')}".strip()
    return f"{gain} {row['verdict']}".strip()


def heading(improved: bool) -> str:
    """Return what stands above the configuration that a verdict is about, in the system's own form."""
    if improved:
        return "Best configuration, in the system's own form"
    return "Not shown to be better than the default: the best of the search, in the system's own form"


def fresh_values(verdict: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """Return the medians of the verification's runs of the default and the winner; None where there are none."""
    default, winner = (values_of(verdict["runs"], of, metric) for of in ("default", "candidate"))
    return (float(np.median(default)), float(np.median(winner))) if default and winner else None


def beside_search(
    verdict: Mapping[str, Any], objective: str, tried: Iterable[tuple[int, Mapping[str, Any], float | None]]
) -> str:
    """Explain a search's ratio that the verdict does not confirm; "" where both agree.

    Args:
        verdict: as it is stored.
        objective: the first.
        tried: number, configuration and ratio in the search of each trial.
    """
    first = verdict["comparisons"][objective]
    winner = dict((verdict.get("pruned") or verdict)["config"])  # as the search found it
    found = [(number, ratio) for number, config, ratio in tried if ratio and dict(config) == winner]
    if not found or first["kind"] != "ratio" or not first.get("pairs", 1):
        return ""
    number, ratio = found[-1]
    low, high = (first[side] if first[side] is not None else math.inf for side in ("low", "high"))
    if low <= ratio <= high and (verdict["improved"] or ratio <= 1):
        return ""
    return (
        f"In the search, trial {number} looked like {ratio:.2f}×. The best of many noisy trials looks better than it"
        " is: what counts is the verdict, from fresh runs."
    )


def repeated(document: Mapping[str, Any]) -> str:
    """Say in one line why runs of an exported session were repeated: failed, undecided, noisy; "" where none was."""
    level, verdict = trust(document["plan"]["trust"]), document["verdict"]
    groups = [trial["runs"] for trial in document["trials"]] + ([verdict["runs"]] if verdict else [])
    again = [
        run for runs in groups for place, run in enumerate(runs)
        if run.get("status", "ok") != "ok" and any(later["of"] == run["of"] for later in runs[place + 1 :])
    ]  # fmt: skip
    parts = []
    if again:
        reason, _ = Counter(printable(str(run.get("reason", run["status"])), 160) for run in again).most_common(1)[0]
        parts.append(f"{len(again)} failed and {'was' if len(again) == 1 else 'were'} repeated (most often: {reason})")
    closer = sum(max(_ok(t["runs"], "candidate") - level.least, 0) for t in document["trials"] if t["step"])
    if closer:
        parts.append(f"{closer} more for trials that could not be told from the best by {level.least}")
    pairs = _ok(verdict["runs"], "candidate") if verdict else 0
    if pairs > level.verify_least:
        wide = f"{100 * level.width:.0f} %"
        parts.append(f"{pairs - level.verify_least} pairs to verify, as the interval was wider than {wide} or open")
    return f"Runs beyond the least: {'; '.join(parts)}." if parts else ""


def _ok(runs: Sequence[Mapping[str, Any]], of: str) -> int:
    return sum(run["of"] == of and run.get("status", "ok") == "ok" for run in runs)


def tried_in(trials: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any], float | None]]:
    """Return what ``beside_search`` needs of an exported session's trials."""
    return [(t["number"], t["config"], t["ratio"]) for t in trials if t["status"] == "ok"]
