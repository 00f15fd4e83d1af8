"""Whether what a store holds is a session as this program writes it, and not one that somebody edited."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from tunewright.errors import StoreError
from tunewright.store.files import printable
from tunewright.store.plan import Plan, impossible
from tunewright.target import Status

_NEXT = "Restore a backup, or start a new session"
_NUMBER: Any = (int, float, type(None))
_TEXT: Any = (str, type(None))
_VALUE: Any = (str, int, float, bool)
_RUN = {"of": str, "values": {str: _NUMBER}, "seconds?": _NUMBER, "status?": str, "reason?": str}
_COMPARISON = {"kind": str, "value": float, "low": _NUMBER, "high": _NUMBER, "improved": bool}
_CHANGE = {
    "kind": str, "index": int, "from": (int, type(None)), "last": (int, type(None)), "next": (int, type(None)),
    "before": float, "after": float, "verification": bool,
}  # fmt: skip
_SESSION = {
    "created": str, "objectives": [str], "default": {str: _VALUE}, "inactive?": {str: _VALUE}, "status?": str,
    "retracted?": {str: str},
    "set_aside?": {str: {"violations": {str: _NUMBER}, "reason": str}},
    "about?": str, "cwd?": str, "ended?": _TEXT, "seconds?": _NUMBER,
    "notes?": {"answers?": [dict], "quotes?": dict, "rules?": [str], "spent?": dict},
    "facts?": dict, "versions?": dict, "prepared?": (dict, type(None)),
    "applied?": (dict, type(None)), "watch?": (dict, type(None)),
    "drift?": {"start": int, "last": int, "changes": [_CHANGE]},
    "metrics": [{"name": str, "direction": str, "unit": str}],
    "plan": {
        **dict.fromkeys(("target", "workload", "tuner", "trust", "workdir"), str), "seed": int, "repeats": bool,
        **{key: [str] for key in ("objectives", "require", "allow", "never")}, "options": dict, "tuner_options": dict,
        "limit_s": _NUMBER, "memory_mb": _NUMBER, "keep_all?": bool, "estimate?": str, "believe?": [str],
    },
}  # fmt: skip
_STANDING = {
    **dict.fromkeys(("metric", "bound", "of", "standing"), str), "runs": int,
    **dict.fromkeys(("value", "low", "high"), _NUMBER),
}  # fmt: skip
_VERDICT = {
    "number": int, "config": {str: _VALUE}, "metrics": {str: _NUMBER}, "comparisons": {str: _COMPARISON},
    "constraints?": [_STANDING], "estimate?": str, "doubted?": {str: str},
    "passed_over?": [{"number": int, "config": {str: _VALUE}, "reason": str, "constraints": [_STANDING]}],
    "improved": bool, "sentence": str, "settings": str, "runs": [_RUN],
    "weaker": [{"config": {str: _VALUE}, "loses": str, "ratio": float, "low": _NUMBER, "high": _NUMBER}],
    "pareto": [
        {
            "number": int, "config": {str: _VALUE}, "metrics": {str: _NUMBER}, "comparisons?": (dict, type(None)),
            "unsure?": str,
        }
    ],
    "pruned?": {
        "config": {str: _VALUE}, "comparisons": {str: _COMPARISON}, "runs": [_RUN], "together": bool,
        "removals": [{"names": [str], "ratio": _NUMBER, "pairs": int, "needed": bool}],
    },
    "steps?": [
        {"names": [str], "ratio": float, "low": _NUMBER, "high": _NUMBER, "total": float, "rounds": int}
    ],
}  # fmt: skip
_HEAD = {"config": {str: _VALUE}, "why?": str, "step?": int, "attempt?": int, "asked_s?": float}
_OUTCOME = {
    "status": str, "reason?": str, "metrics?": {str: _NUMBER}, "scores?": {str: _NUMBER}, "ratio?": _NUMBER,
    "violations?": {str: _NUMBER}, "runs?": [_RUN], "seconds?": float,
}  # fmt: skip


def misfit(value: Any, shape: Any, where: str) -> str:
    """Say where a JSON value has not the shape that is wanted; "" where it has.

    Args:
        value: the value.
        shape: a type or several; ``[shape]`` for a list of such; ``{str: shape}`` for a mapping to such; else a mapping
            from names to shapes, a name with ``?`` being one that may be missing.
        where: its place, for the message.

    >>> misfit({"a": [1, "x"]}, {"a": [int]}, "it")
    'it.a[1] must be a whole number, not "x"'
    """
    if isinstance(shape, list):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return f"{where} must be a list, not {_shown(value)}"
        return next((m for i, v in enumerate(value) if (m := misfit(v, shape[0], f"{where}[{i}]"))), "")
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return f"{where} must be an object, not {_shown(value)}"
        if str in shape:
            return next((m for k, v in value.items() if (m := misfit(v, shape[str], f"{where}.{k}"))), "")
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if name not in value:
                if name == key:
                    return f"{where}.{name} is missing"
            elif said := misfit(value[name], inner, f"{where}.{name}"):
                return said
        return ""
    kinds = shape if isinstance(shape, tuple) else (float, int) if shape is float else (shape,)
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if fits and not isinstance(value, int | float):
        return ""
    if fits and (math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63):
        return ""
    return f"{where} must be {' or '.join(_WORDS[k] for k in kinds if k in _WORDS)}, not {_shown(value)}"


_WORDS: Mapping[type, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object",
    type(None): "null",
}  # fmt: skip


def _shown(value: Any) -> str:
    return f'"{printable(value, 40)}"' if isinstance(value, str) else printable(repr(value), 40)


def check_session(name: str, record: Any, verdict: Any) -> None:
    """See whether a session's description and verdict are as they were written.

    Raises:
        StoreError: something is missing or of another kind.
    """
    said = misfit(record, _SESSION, "session")
    said = said or (misfit(verdict, _VERDICT, "verdict") if verdict is not None else "")
    said = said or _impossible(record["plan"])
    if not said and verdict is not None:
        said = next(
            (m for i, p in enumerate(verdict["pareto"]) if (m := _unlike(p, record, f"verdict.pareto[{i}]"))), ""
        )
    if not said:
        known = [m["name"] for m in record["metrics"]]
        objectives = record["objectives"]
        if not objectives or not set(objectives) <= set(known):
            said = "session.objectives names none of session.metrics"
        elif any(m["direction"] not in ("min", "max") for m in record["metrics"]):
            said = "session.metrics has a direction that is neither min nor max"
        elif verdict is not None and not set(objectives) <= set(verdict["comparisons"]):
            said = "verdict.comparisons lacks an objective"
        elif verdict is not None and any(
            r.get("status", "ok") == "ok" and objectives[0] not in r["values"] for r in verdict["runs"]
        ):
            said = "verdict.runs lacks values of an objective"
    if said:
        raise StoreError(f"the session {name!r} is damaged: {said}; was it edited? {_NEXT}")


def _impossible(plan: Mapping[str, Any]) -> str:
    """Say what in a plan no command line can have brought; "" if nothing."""
    extra = sorted(set(plan) - {field.name for field in fields(Plan)})
    if extra:
        return f"session.plan has an entry {_shown(extra[0])}"
    said = impossible(plan)
    return said and f"session.plan.{said}"


def _unlike(entry: Mapping[str, Any], record: Mapping[str, Any], where: str) -> str:
    """Say what an entry of the Pareto set lacks; "" if nothing. Only some are compared with the default."""
    for objective in record["objectives"]:
        if entry["metrics"].get(objective) is None:
            return f"{where}.metrics lacks {_shown(objective)}"
        if entry.get("comparisons") and (
            said := misfit(entry["comparisons"], {objective: _COMPARISON}, f"{where}.comparisons")
        ):
            return said
    return ""


def check_numbers(name: str, numbers: Sequence[Any]) -> None:
    """See whether the trials of a session are numbered.

    Raises:
        StoreError: a number is none, or stands twice.
    """
    wrong = [n for n in numbers if not isinstance(n, int) or n < 0]
    twice = [] if wrong or len(set(numbers)) == len(numbers) else [n for n in numbers if numbers.count(n) > 1]
    if wrong or twice:
        said = f"a trial has the number {_shown(wrong[0])}" if wrong else f"two trials have the number {twice[0]}"
        raise StoreError(f"the session {name!r} is damaged: {said}; was it edited? {_NEXT}")


def check_trial(name: str, number: int, head: Any, outcome: Any, objectives: Sequence[str]) -> None:
    """See whether what is written of a trial is as it was written.

    Raises:
        StoreError: something is missing or of another kind.
    """
    where = f"trial {number}"
    said = misfit(head, _HEAD, where) or (misfit(outcome, _OUTCOME, where) if outcome is not None else "")
    if not said and outcome is not None:
        if outcome["status"] not in get_args(Status):
            said = f"{where}.status is {_shown(outcome['status'])}"
        elif outcome["status"] == "ok":
            lacking = [o for o in objectives if outcome.get("scores", {}).get(o) is None]
            said = f"{where}.scores lacks {lacking[0]!r}" if lacking else ""
    known = {*_HEAD, *_OUTCOME}
    extra = [k for part in (head, outcome or {}) for k in part if not {k, f"{k}?"} & known] if not said else []
    if extra:
        said = f"{where} has an entry {_shown(extra[0])}"
    if said:
        raise StoreError(f"the session {name!r} is damaged: {said}; was it edited? {_NEXT}")
