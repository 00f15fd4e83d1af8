"""What an agent was trained on, in words that are kept with it, and whether a session is of the same kind.

Two targets may have as many parameters and yet mean something else by each number: an agent's output is a point of the
unit cube, and a parameter's name, kind, range and scale say which value that is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from tunewright.agents.archive import DamagedError
from tunewright.envs.family import TuningFamilyEnv
from tunewright.envs.tuning import TuningEnv
from tunewright.sessions.guards import guarded
from tunewright.space import Space
from tunewright.space.parameters import Choice, Int, Param

_DRAWN = 3  # members of each target that are looked at, to see what varies in a family
_SHOWN = 5  # differences that a message names


def described(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """Return what an environment trains for, JSON-able.

    Returns:
        ``kind`` is ``target``, ``family`` or ``environment``. The first two have ``targets`` (names) and
        ``parameters``, one mapping each in the space's order: name, kind, and what its values' encoding rests on. In a
        family, what differs between members is None.
    """
    inner = env.unwrapped
    if isinstance(inner, TuningEnv):
        return {
            "kind": "target", "targets": [inner.target.name], "parameters": parameters(inner.space),
            "metrics": [m.name for m in inner.metrics], "workloads": list(inner.workloads),
        }  # fmt: skip
    if isinstance(inner, TuningFamilyEnv):
        spaces = [guarded(t) for t in inner.targets]
        for number, target in enumerate(inner.targets):
            rng = np.random.default_rng(number)
            spaces += [guarded(target.drawn(rng)[0]) for _ in range(_DRAWN)]
        members = [parameters(s) for s in spaces]
        return {
            "kind": "family", "targets": [t.name for t in inner.targets],
            "parameters": [_common(like) for like in zip(*members, strict=False)],
            "facts": list(inner.layout.facts),
        }  # fmt: skip
    return {"kind": "environment", "targets": [type(inner).__name__], "parameters": []}


def parameters(space: Space) -> list[dict[str, Any]]:
    """Return each parameter of a space: its name, and all that its encoding rests on."""
    return [_parameter(p) for p in space.params.values()]


def _parameter(param: Param) -> dict[str, Any]:
    if isinstance(param, Choice):
        return {
            "name": param.name,
            "kind": "choice",
            "choices": [_plain(c) for c in param.choices],
            "when": param.when or "",
        }
    told = {
        "name": param.name, "kind": "int" if isinstance(param, Int) else "real", "low": _plain(param.low),
        "high": _plain(param.high), "log": param.log, "special": [_plain(v) for v in param.special],
        "when": param.when or "",
    }  # fmt: skip
    return told | ({"step": param.step} if isinstance(param, Int) else {})


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else repr(value)


def _common(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what all members say of a parameter; None where they differ."""
    first = members[0]
    return {key: value if all(_same(m.get(key), value) for m in members) else None for key, value in first.items()}


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and (not isinstance(one, list) or json.dumps(one) == json.dumps(other))


def checked(document: Any) -> dict[str, Any]:
    """Return what a file says that its agent was trained on, as :func:`described` gave it.

    Raises:
        DamagedError: it says something else.
    """
    texts = [document[key] for key in ("targets", "metrics", "workloads", "facts") if key in document]
    names = [p["name"] for p in document["parameters"]]
    if document["kind"] not in ("target", "family", "environment") or not all(
        isinstance(text, str) for text in [*names, *(t for listed in texts for t in listed)]
    ):
        raise DamagedError("what it was trained on cannot be read")
    return dict(document)


def differences(trained: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how the parameters of a session differ from those that an agent was trained on.

    Args:
        trained: as :func:`described` gave them when it was trained; a value of None is not compared.
        here: the session's, as from :func:`parameters`.
    """
    then, now = {str(p.get("name")): p for p in trained}, {str(p.get("name")): p for p in here}
    told = [f"{name} (only the agent knows it)" for name in then if name not in now]
    told += [f"{name} (unknown to the agent)" for name in now if name not in then]
    if not told and list(then) != list(now):
        told.append(f"another order ({', '.join(then)})")
    for name in (n for n in then if n in now):
        told += [f"{name}: {words}" for words in _apart(then[name], now[name])]
    return told


def _apart(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say how one parameter differs."""
    if then.get("kind") not in (None, now["kind"]):
        return [f"{then['kind']} for the agent, {now['kind']} here"]
    keys = [k for k in now if k not in ("name", "kind") and k in then]
    apart = [k for k in keys if then[k] is not None and not _same(then[k], now[k])]
    if {"low", "high"} & set(apart):
        ends = [f"{p.get('low')} to {p.get('high')}" for p in (then, now)]
        apart = [k for k in apart if k not in ("low", "high")]
        return [f"{ends[0]} for the agent, {ends[1]} here", *(_words(k, then, now) for k in apart)]
    return [_words(k, then, now) for k in apart]


def _words(key: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return f"{key} {_short(then[key])} for the agent, {_short(now[key])} here"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(told: Sequence[str]) -> str:
    """Return differences as one line, the first few of them."""
    more = len(told) - _SHOWN
    return "; ".join(told[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
