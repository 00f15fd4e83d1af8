"""The reflector: puts what a session showed about single parameters into words, for workloads of that kind.

What is claimed, and on what evidence, is computed (``knowledge.rules``); the model words it and may widen its context
by leaving features out. It cannot add claims, change numbers or name an application.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunewright.agents.llm.agent import Tool, converse, quoted
from tunewright.agents.llm.client import Ledger
from tunewright.knowledge.rules import Rule

SYSTEM = """\
You keep a notebook of tuning rules. You are given claims that a session's trials support: one parameter, two
of its values, the effect with its 95 % interval, and the features of the workload. For each claim call `keep` once, all
in one call: the rule in one sentence for engineers, with the mechanism if you know it, and the features on which it
depends, a subset of those given. Name no application, benchmark or workload. Leave out a claim that you think is an
accident, and say why in `left_out`."""


def reflect(
    model: Any, ledger: Ledger, rules: Sequence[Rule], names: Sequence[str] = ()
) -> tuple[list[Rule], list[str]]:
    """Have rules worded.

    Args:
        model: a LangChain chat model.
        ledger: counts and logs.
        rules: computed from a session.
        names: of applications and workloads, which no rule may contain.

    Returns:
        The rules with words and contexts; those that the model left out or worded badly keep their own. And what was
        not taken, in words.

    Raises:
        TunerError: the model cannot be reached, its budget is spent, or it gives no usable answer.
    """
    by_id = {r.id: r for r in rules}
    accepted: list[dict[str, Rule]] = []
    out: set[str] = set()
    wrong: list[str] = []
    repaired: list[int] = []

    def keep(rules: Any = None, left_out: Any = None, **ignored: Any) -> str:
        worded, wrong[:] = _read(by_id, rules, names)
        if wrong and not repaired:
            repaired.append(1)
            return "not accepted, keep again, all of them: " + "; ".join(wrong)
        for entry in left_out if isinstance(left_out, list) else []:
            if isinstance(entry, dict) and entry.get("id") in by_id:
                out.add(str(entry["id"]))
                wrong.append(f"{entry['id']}: left out by the model: {entry.get('why', '')}")
        accepted.append(worded)
        return "accepted"

    claims = [
        {
            "id": r.id, "parameter": r.parameter, "value": r.value, "instead_of": r.instead_of,
            "effect": [round(v, 3) for v in r.interval], "features": sorted(r.context), "manual": r.quote,
        }
        for r in rules
    ]  # fmt: skip
    text = "Claims:\n" + quoted(json.dumps(claims, ensure_ascii=False, indent=1))
    tools = [Tool(name="keep", does="Keep rules; ends the reflection.", function=keep, schema=_schema(list(by_id)))]
    converse(model, ledger, "reflector", SYSTEM, text, tools, lambda: bool(accepted), ends="`keep`")
    return [accepted[-1].get(r.id, r) for r in rules if r.id not in out], wrong


def _schema(ids: list[str]) -> dict[str, Any]:
    named = {"type": "string", "enum": ids}
    rule = {
        "type": "object",
        "properties": {
            "id": named, "words": {"type": "string", "description": "the rule in one sentence"},
            "features": {"type": "array", "items": {"type": "string"}, "description": "a subset of the claim's"},
        },
        "required": ["id", "words", "features"],
    }  # fmt: skip
    out = {"type": "object", "properties": {"id": named, "why": {"type": "string"}}, "required": ["id", "why"]}
    return {
        "type": "object",
        "properties": {"rules": {"type": "array", "items": rule}, "left_out": {"type": "array", "items": out}},
        "required": ["rules"],
    }


def _read(known: dict[str, Rule], rules: Any, names: Sequence[str]) -> tuple[dict[str, Rule], list[str]]:
    worded: dict[str, Rule] = {}
    wrong = [] if isinstance(rules, list) else ["rules must be a list of {id, words, features}"]
    for entry in rules if isinstance(rules, list) else []:
        name = entry.get("id") if isinstance(entry, dict) else None
        if name not in known:
            wrong.append(f"there is no claim {name!r}")
            continue
        rule, words = known[name], str(entry.get("words", "")).strip()
        features = entry.get("features")
        named = [n for n in names if n and re.search(rf"\b{re.escape(n)}\b", words, re.I)]
        if not isinstance(features, list) or not set(map(str, features)) <= rule.context or not features:
            wrong.append(f"{name}: features must be some of {', '.join(sorted(rule.context))}")
        elif not words or len(words) > 400:
            wrong.append(f"{name}: words must be one sentence of at most 400 characters")
        elif named:
            wrong.append(f"{name}: words must not name {named[0]}")
        else:
            worded[name] = replace(rule, words=words, context=frozenset(map(str, features)))
    return worded, wrong
