"""The extractor: has a model read the passages of a manual on one parameter; every claim needs its quote."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.agents.llm.agent import Tool, converse, quoted
from tunewright.agents.llm.client import Ledger, Limits, open_model
from tunewright.knowledge.parameters import CLAIMS, TYPES, Evidence, ParameterDoc, Range, supported
from tunewright.knowledge.sections import Chunk
from tunewright.store.paths import home

SYSTEM = """You extract what a manual says about one parameter of a computer system. You are given passages of it.
Call `describe` with what they say. For each field give a quote: the words of one passage that say so, copied exactly,
and the passage's source. Leave out what the passages do not say; do not use what you know from elsewhere. A bound may
be an expression over facts of the machine and other parameters, such as CLIENT_RAM_MB / 2. Judge also whether the
parameter is worth tuning: it is not if it is a mere switch of a function, a name or path, or cannot affect \
performance."""


def _claim(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "value": value,
            "quote": {"type": "string", "description": "copied exactly from a passage"},
            "source": {"type": "string", "description": "the passage's source, as it stands in brackets"},
        },
        "required": ["value", "quote", "source"],
    }  # fmt: skip


_NUMBER = {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]}
_RANGE = {
    "type": "object",
    "properties": {"low": _NUMBER, "high": _NUMBER, "options": {"type": "array"}},
    "description": "low and high (numbers or expressions; null where none is stated), or the list of options",
}
_FIELDS: dict[str, dict[str, Any]] = {
    "definition": {"type": "string"}, "effect": {"type": "string", "description": "what raising or lowering it does"},
    "type": {"enum": list(TYPES)}, "unit": {"type": "string"}, "default": {"description": "in the unit"},
    "range": _RANGE,
    "special": {"type": "object", "description": "value to meaning, for values with one of their own"},
    "restart": {"enum": ["none", "reload", "restart"]},
    "remarks": {"type": "string", "description": "on durability and safety"},
}  # fmt: skip
_SCHEMA = {
    "type": "object",
    "properties": {
        **{name: _claim(value) for name, value in _FIELDS.items()},
        "tunable": {"type": "boolean", "description": "whether it is worth tuning for performance"},
        "importance": {"type": "number", "description": "for performance, 0 to 1"},
        "reason": {"type": "string", "description": "why it is tunable or not"},
    },
    "required": ["tunable", "reason"],
}


def describe(
    model: Any, ledger: Ledger, name: str, passages: Sequence[Chunk], texts: Mapping[str, str]
) -> tuple[ParameterDoc | None, list[str]]:
    """Have passages read for one parameter.

    Args:
        model: a LangChain chat model.
        ledger: counts and logs.
        name: of the parameter.
        passages: of the manual, best first.
        texts: of its files, in which quotes are looked for, from ``texts_of``.

    Returns:
        What the passages say, with what has no quote in them left out; None if the model judges that the parameter
        is not worth tuning. And what was dropped, and why, in words.

    Raises:
        TunerError: the model cannot be reached, its budget is spent, or it gives no usable answer.
    """
    held: list[tuple[ParameterDoc | None, list[str]]] = []
    repaired: list[int] = []

    def take(**fields: Any) -> str:
        doc, wrong = read_claims(name, fields)
        kept, dropped = supported(doc, texts)
        if (wrong or dropped) and not repaired:
            repaired.append(1)
            return "not accepted yet, describe it again: " + "; ".join([*wrong, *dropped])
        if fields.get("tunable") is False:
            held.append((None, [f"{name}: not worth tuning: {fields.get('reason', '')}"]))
        else:
            held.append((kept, [*wrong, *dropped]))
        return "accepted"

    text = f"Parameter: {name}\n\nPassages:\n" + "\n\n".join(
        quoted(f"[{c.source}] {' > '.join(c.path)}\n{c.text}") for c in passages
    )
    tools = [Tool(name="describe", does="Say what the passages say of the parameter.", function=take, schema=_SCHEMA)]
    converse(model, ledger, "extractor", SYSTEM, text, tools, lambda: bool(held), ends="`describe`")
    return held[-1]


def read_claims(name: str, fields: Mapping[str, Any]) -> tuple[ParameterDoc, list[str]]:
    """Read a model's description; returns the parameter, all claims with their quotes, and what cannot be used."""
    values: dict[str, Any] = {}
    evidence, wrong = [], []
    for field in CLAIMS:
        claim = fields.get(field)
        if claim is None:
            continue
        if not isinstance(claim, dict) or claim.get("value") is None:
            wrong.append(f"{field} must be an object with value, quote and source")
            continue
        value, why = _typed(field, claim["value"])
        if why:
            wrong.append(why)
            continue
        values[field] = value
        evidence.append(Evidence(field=field, quote=str(claim.get("quote", "")), source=str(claim.get("source", ""))))
    try:
        importance = min(max(float(fields.get("importance") or 0.0), 0.0), 1.0)
    except (TypeError, ValueError):
        importance = 0.0
    return ParameterDoc(name=name, importance=importance, evidence=tuple(evidence), **values), wrong


def _typed(field: str, value: Any) -> tuple[Any, str]:
    """Return a field's value as ``ParameterDoc`` has it, or what is wrong with it."""
    if field == "type" and value not in TYPES:
        return None, f"type must be one of {', '.join(TYPES)}, not {value!r}"
    if field == "restart" and value not in ("none", "reload", "restart"):
        return None, f"restart must be none, reload or restart, not {value!r}"
    if field == "default":
        return (value, "") if isinstance(value, int | float | str | bool) else (None, "default must be one value")
    if field == "special":
        fine = isinstance(value, dict)
        return (
            ({str(k): str(v) for k, v in value.items()}, "") if fine else (None, "special must map values to meanings")
        )
    if field == "remarks":
        return (str(value),), ""
    if field != "range":
        return str(value), ""
    ends = [value.get("low"), value.get("high")] if isinstance(value, dict) else [[]]
    options = value.get("options") or () if isinstance(value, dict) else ()
    if not all(e is None or (isinstance(e, int | float | str) and not isinstance(e, bool)) for e in ends):
        return None, "range must have low and high (numbers, expressions or null) or options"
    if not isinstance(options, list | tuple) or not all(isinstance(o, int | float | str | bool) for o in options):
        return None, "range's options must be a list of values"
    return Range(low=_end(ends[0]), high=_end(ends[1]), options=tuple(options)), ""


def _end(value: Any) -> float | str | None:
    """A bound: a number also where it is written as text."""
    if not isinstance(value, str):
        return None if value is None else float(value)
    try:
        return float(value)
    except ValueError:
        return value


class Extractor:
    """What ``tunewright read --model`` asks.

    Args:
        model: a LangChain chat model.
        ledger: counts and logs.
    """

    def __init__(self, model: Any, ledger: Ledger) -> None:
        self.model, self.ledger = model, ledger

    def describe(
        self, name: str, passages: Sequence[Chunk], texts: Mapping[str, str]
    ) -> tuple[ParameterDoc | None, list[str]]:
        """Have passages read for one parameter; see ``describe``."""
        return describe(self.model, self.ledger, name, passages, texts)

    def spent(self) -> dict[str, float]:
        """Return calls, tokens and money so far."""
        return dict(self.ledger.spent)


def reader(model: str, base_url: str = "") -> Extractor:
    """Return the extractor for a model by name; its calls are logged in the data directory."""
    return Extractor(
        open_model(model, base_url), Ledger(limits=Limits(), log=home() / "logs" / f"read-{time.time_ns()}.jsonl")
    )
