"""A session as one self-contained HTML file. Everything in it is escaped; it loads nothing and runs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.measuring.runs import values_of
from tunewright.report import pages, svg
from tunewright.report.importance import importance
from tunewright.report.verdicts import NOT_VERIFIED, beside_search, fresh_values, heading, repeated, tried_in, verified
from tunewright.report.words import duration, number
from tunewright.sessions.machine import told
from tunewright.sessions.verdict import taken_back
from tunewright.store.export import changes_of, missed, shown
from tunewright.store.outputs import write_text
from tunewright.target import DECIDED

_MOST_AXES = 12


def write_report(document: Mapping[str, Any], path: Path) -> None:
    """Write the report.

    Args:
        document: an exported session.
        path: HTML file to write.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_text(path, render_report(document))


def render_report(document: Mapping[str, Any]) -> str:
    """Return the page as text."""
    return pages.render("report.html.j2", _content(document), number=number, duration=duration)


def _content(document: Mapping[str, Any]) -> dict[str, Any]:
    objective = next(m for m in document["metrics"] if m["name"] == document["objectives"][0])
    name, trials, verdict = objective["name"], document["trials"], document["verdict"]
    decided = [trial for trial in trials if trial["status"] in DECIDED]
    label = f"{name} [{objective['unit']}]" if objective["unit"] else name
    first = verdict["comparisons"][name] if verdict else None
    ratio = first["value"] if first and first["kind"] == "ratio" else None
    difference = first["value"] if first and first["kind"] == "difference" else None
    shares, explained = importance(document)
    return {
        "doc": document,
        "objective": objective,
        "verdict": verdict,
        "first": first,
        "gain": verified(
            {"ratio": ratio, "difference": difference, "unit": objective["unit"], "verdict": shown(verdict)}
        ),
        "beside_search": beside_search(verdict, name, tried_in(trials)) if verdict else "",
        "heading": heading(bool(verdict and verdict["improved"])),
        "not_verified": NOT_VERIFIED,
        "machine": told(document),
        "repeated": repeated(document),
        "fresh": [(m, v) for m in document["metrics"] if (v := fresh_values(verdict, m["name"]))] if verdict else [],
        "trials": trials,
        "decided": decided,
        "changes": [
            (n, document["default"].get(n, "(not active)"), v)
            for n, v in (changes_of(document, verdict["config"]) if verdict else {}).items()
        ],
        "said": _said(document, verdict),
        "staircase": _staircase(verdict),
        "taken_back": taken_back(verdict["config"], verdict.get("pruned")) if verdict else {},
        "notes": document.get("notes") or {},
        "history": svg.history([_point(trial, name, document) for trial in decided], label, objective["direction"]),
        "importance": _importance(shares, explained),
        "explained": explained if shares else None,
        "parallel": _parallel([parameter for parameter, _ in shares], decided, objective),
        "noise": _noise(decided, verdict, name, label),
        "failures": [trial for trial in trials if trial["status"] not in ("ok", "running")],
        "missed": lambda trial: missed(trial["violations"]) if trial["status"] == "ok" else "",
        "summary_of": lambda trial: _changes(trial, document),
    }


def _point(trial: Mapping[str, Any], metric: str, document: Mapping[str, Any]) -> dict[str, Any]:
    reason = f" — {trial['reason']}" if trial["reason"] else ""
    return {
        "number": trial["number"],
        "value": trial["scores"].get(metric) if trial["status"] == "ok" else None,
        "feasible": _feasible(trial),
        "title": f"trial {trial['number']}: {_changes(trial, document)}{reason}",
    }


def _importance(shares: list[tuple[str, float]], explained: float) -> Any:
    if shares:
        return svg.bars([(name, share, f"{100 * share:.0f} %") for name, share in shares], "share of what it predicts")
    if math.isnan(explained):
        return svg.nothing("Too few trials to fit a model to.")
    said = "nothing" if explained <= 0 else f"{100 * explained:.0f} %"
    return svg.nothing(f"Not shown: a model explains {said} of the order of trials that it was not fitted to.")


def _staircase(verdict: Mapping[str, Any] | None) -> Any:
    """Draw what each change gives, where that was measured."""
    steps = (verdict or {}).get("steps")
    return svg.staircase(steps) if steps else ""


def _said(document: Mapping[str, Any], verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what was said of the winner when it was proposed: why, reasons by parameter, expectation and doubts."""
    if not verdict:
        return {}
    why = next((t["why"] for t in document["trials"] if t["config"] == verdict["config"] and t["step"]), "")
    answers = (document.get("notes") or {}).get("answers", [])
    said: Mapping[str, Any] = next((a for a in reversed(answers) if a.get("config") == verdict["config"]), {})
    return {"why": why, "reasons": {}, "expects": "", "doubts": "", **said}


def _feasible(trial: Mapping[str, Any]) -> bool:
    return trial["status"] == "ok" and not missed(trial["violations"])


def _changes(trial: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    return ", ".join(f"{n}={new}" for n, new in changes_of(document, trial["config"]).items()) or "default"


def _parallel(first: list[str], decided: list[dict[str, Any]], objective: Mapping[str, Any]) -> Any:
    """Draw all measured trials; the parameters that matter most come first."""
    measured = [trial for trial in decided if trial["status"] == "ok"]
    metric = objective["name"]
    ranked = sorted(measured, key=lambda trial: trial["scores"][metric], reverse=objective["direction"] == "min")
    shade = {trial["number"]: rank / max(len(ranked) - 1, 1) for rank, trial in enumerate(ranked)}
    values: dict[str, list[Any]] = {}
    for name in dict.fromkeys([*first, *(n for trial in measured for n in trial["config"])]):
        values[name] = [trial["config"].get(name) for trial in measured]
    varied = [name for name in values if len({str(value) for value in values[name]}) > 1][:_MOST_AXES]
    places = {name: _places(values[name]) for name in varied}
    lines = [
        {
            "points": [places[name].get(str(trial["config"].get(name))) for name in varied],
            "shade": shade[trial["number"]],
            "title": f"trial {trial['number']}: {trial['scores'][metric]:,.6g}",
        }
        for trial in measured
    ]
    axes = []
    for name in varied:
        ends = sorted(places[name], key=places[name].__getitem__)
        axes.append((name, _short(ends[0]), _short(ends[-1])))
    return svg.parallel(axes, lines)


def _short(text: str) -> str:
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def _places(values: list[Any]) -> dict[str, float]:
    """Map the text of every value to its place on an axis, by rank."""
    present = {str(v): v for v in values if v is not None}
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present.values())
    ordered = sorted(present, key=(lambda t: float(present[t])) if numeric else str)
    return {text: i / max(len(ordered) - 1, 1) for i, text in enumerate(ordered)}


def _noise(decided: list[dict[str, Any]], verdict: Mapping[str, Any] | None, name: str, label: str) -> Any:
    during = [
        value for t in decided for value in values_of(t["runs"], "candidate" if t["step"] == 0 else "default", name)
    ]
    groups: list[tuple[str, list[float]]] = [("default, during trials", during)]
    if verdict:
        for of, text in (("default", "default, verified"), ("candidate", "winner, verified")):
            groups.append((text, values_of(verdict["runs"], of, name)))
    return svg.strip(groups, label)
