"""What a manual says of a parameter, each claim with its quote; and how that becomes a Space."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, SpaceError
from tunewright.knowledge.sections import Section, bare
from tunewright.space import Space
from tunewright.space.parameters import Choice, Int, Param, Real, Restart, Value
from tunewright.store.files import parsing, printable, read_json
from tunewright.store.outputs import write_text

TYPES = ("boolean", "integer", "real", "enum", "string")
#: fields that are claims: each needs a quote
CLAIMS = ("definition", "effect", "type", "unit", "default", "range", "special", "restart", "remarks")
_HUGE = 1e30  # no parameter of a system is larger; floats of its products stay finite
WIDEST = 64.0  # without a stated end, a range goes so many times below and above the default


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Where a claim comes from.

    Attributes:
        field: the claim, one of ``CLAIMS``.
        quote: the manual's words; they stand in its text, but for white space.
        source: file and line.
    """

    field: str
    quote: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Range:
    """Legal values: numbers from ``low`` to ``high`` or ``options``; ends may be expressions over facts.

    Either end is None where the manual states none.
    """

    low: float | str | None = None
    high: float | str | None = None
    options: tuple[Value, ...] = ()

    @property
    def stated(self) -> bool:
        """Whether anything is known."""
        return bool(self.options) or self.low is not None or self.high is not None


@dataclass(frozen=True, kw_only=True)
class ParameterDoc:
    """One parameter as a manual describes it.

    Attributes:
        name: as the system spells it.
        definition: what it is.
        effect: what changing it does.
        type: one of ``TYPES``; "" if unknown.
        unit: of number, as the system spells it (``8kB``, ``ms``).
        default: in ``unit``; None if unknown.
        range: legal values in ``unit``.
        special: value to meaning, for values that mean something else than a number of that size.
        restart: what a change costs: none, reload, restart; "" if unknown.
        remarks: on durability and safety.
        importance: for performance, 0 to 1: an estimate from how the manual speaks of it.
        evidence: a quote for each claim.
    """

    name: str
    definition: str = ""
    effect: str = ""
    type: str = ""
    unit: str = ""
    default: Value | None = None
    range: Range = field(default_factory=Range)
    special: Mapping[str, str] = field(default_factory=dict)
    restart: str = ""
    remarks: tuple[str, ...] = ()
    importance: float = 0.0
    evidence: tuple[Evidence, ...] = ()


def texts_of(sections: Iterable[Section]) -> dict[str, str]:
    """Return the text of each file in which quotes are looked for: bare, and without upper case."""
    said: dict[str, list[str]] = {}
    for section in sections:
        said.setdefault(_file(section.source), []).append(bare(f"{section.term} {section.text}"))
    return {file: " ".join(parts).casefold() for file, parts in said.items()}


def _file(source: str) -> str:
    return source.rsplit(":", 1)[0]


def supported(doc: ParameterDoc, texts: Mapping[str, str]) -> tuple[ParameterDoc, list[str]]:
    """Drop every claim whose quote is not in the manual.

    Args:
        doc: the parameter.
        texts: of the manual's files, from ``texts_of``.

    Returns:
        The parameter with what is left, and what was dropped, in words.
    """
    kept, dropped = [], []
    for evidence in doc.evidence:
        quote = bare(evidence.quote)
        if len(quote) >= 3 and quote.casefold() in texts.get(_file(evidence.source), ""):
            kept.append(evidence)
        else:
            dropped.append(f"{doc.name}.{evidence.field}: {evidence.source} does not say {quote[:120]!r}")
    proven = {e.field for e in kept}
    blank = ParameterDoc(name=doc.name)
    changes: dict[str, Any] = {"evidence": tuple(kept)}
    for claim in CLAIMS:
        if claim not in proven and getattr(doc, claim) != getattr(blank, claim):
            changes[claim] = getattr(blank, claim)
            if not any(d.startswith(f"{doc.name}.{claim}:") for d in dropped):
                dropped.append(f"{doc.name}.{claim}: no quote was given")
    return replace(doc, **changes), dropped


# -- files ----------------------------------------------------------------------------------------


def to_json(doc: ParameterDoc) -> dict[str, Any]:
    """Return the form that ``tunewright read`` prints."""
    entry = asdict(doc)
    entry["range"] = {
        k: list(v) if isinstance(v, tuple) else v for k, v in entry["range"].items() if v is not None and v != ()
    } or None
    entry["special"] = dict(doc.special)
    entry["remarks"] = list(doc.remarks)
    entry["evidence"] = [asdict(e) for e in doc.evidence]
    return entry


def from_json(entry: Mapping[str, Any], where: str = "") -> ParameterDoc:
    """Read what ``to_json`` wrote.

    Raises:
        ConfigError: something is missing or of the wrong type.
    """
    try:
        limits = entry.get("range") or {}
        numbers = [entry.get("default"), limits.get("low"), limits.get("high"), *limits.get("options", ())]
        if wrong := [v for v in numbers if not isinstance(v, str | int | float | bool | None)]:
            raise ValueError(f"{printable(repr(wrong[0]), 40)} is neither a number nor a text")
        if not all(
            isinstance(entry.get(k, ""), str) for k in ("name", "definition", "effect", "type", "unit", "restart")
        ):
            raise ValueError("its name, definition, effect, type, unit and restart are texts")
        plain = ("name", "definition", "effect", "type", "unit", "default", "restart")
        return ParameterDoc(
            **{k: entry[k] for k in plain if k in entry},
            range=Range(low=limits.get("low"), high=limits.get("high"), options=tuple(limits.get("options", ()))),
            special=dict(entry.get("special") or {}),
            remarks=tuple(entry.get("remarks") or ()),
            importance=float(entry.get("importance") or 0.0),
            evidence=tuple(Evidence(**e) for e in entry.get("evidence") or ()),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"{where}: not a parameter as 'tunewright read' writes it: {error}") from None


def save(path: Path, system: str, docs: Iterable[ParameterDoc]) -> None:
    """Write a file of parameters."""
    document = {"system": system, "parameters": [to_json(d) for d in docs]}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> tuple[str, list[ParameterDoc]]:
    """Read a file of parameters: system and parameters.

    Raises:
        ConfigError: it cannot be read.
    """
    document = read_json(path, "file of parameters")
    with parsing(path, "file of parameters, as 'tunewright read' writes it"):
        return str(document.get("system", "")), [from_json(e, str(path)) for e in document["parameters"]]


# -- from documents to a space --------------------------------------------------------------------


def to_space(docs: Iterable[ParameterDoc], facts: Mapping[str, Value] | None = None) -> tuple[Space, dict[str, str]]:
    """Make a space of the parameters that are described well enough.

    A parameter needs a type, a default, and options or at least a default from which a range follows: where the manual
    states no end, it lies ``WIDEST`` times below or above the default.

    Args:
        docs: the parameters.
        facts: beside the machine's.

    Returns:
        The space, and for each parameter left out the reason.

    Raises:
        SpaceError: none is left.
    """
    left_out: dict[str, str] = {}
    params: dict[str, Param] = {}
    for doc in docs:
        one = _param(doc)
        if isinstance(one, str):
            left_out[doc.name] = one
        else:
            params[doc.name] = one
    while True:  # one whose range names another goes when that one does
        gone = {}
        for name, one in params.items():
            try:
                Space([*(params[n] for n in _named(one) if n in params and n != name), one], facts=facts)
            except SpaceError as error:
                gone[name] = str(error)
        if not gone:
            break
        left_out.update(gone)
        params = {n: p for n, p in params.items() if n not in gone}
    if not params:
        raise SpaceError("no parameter is described well enough to be tuned")
    return Space(list(params.values()), facts=facts), left_out


def _named(param: Param) -> set[str]:
    """Return the names in a parameter's bounds."""
    ends = () if isinstance(param, Choice) else (param.low, param.high)
    return {n for end in ends if isinstance(end, str) for n in re.findall(r"[A-Za-z_][\w.]*", end)}


def _param(doc: ParameterDoc) -> Param | str:
    shared: dict[str, Any] = {"name": doc.name, "unit": doc.unit, "doc": doc.definition}
    restart: dict[str, Restart] = {"": "none", "none": "none", "reload": "reload", "restart": "restart"}
    shared["restart"] = restart.get(doc.restart, "none")
    if doc.default is None:
        return "the manual states no default"
    if doc.type == "boolean":
        return Choice(**shared, choices=(False, True), default=bool(doc.default))
    if doc.type == "enum":
        if len(doc.range.options) < 2:
            return "the manual lists no values"
        options = dict.fromkeys([*doc.range.options, doc.default])
        return Choice(**shared, choices=tuple(options), default=doc.default)
    if doc.type not in ("integer", "real"):
        return f"a parameter of type {doc.type or 'unknown'} is not tuned"
    if isinstance(doc.default, (str, bool)):
        return f"the default {doc.default!r} is no number"
    if not all(abs(v) < _HUGE for v in (doc.default, doc.range.low, doc.range.high) if isinstance(v, int | float)):
        return "its default or range is too large to be meant"
    special = {_number(k): v for k, v in doc.special.items() if _number(k) is not None}
    default = float(doc.default)
    base = abs(default) if default not in special and default != 0 else 1.0
    low = doc.range.low if doc.range.low is not None else (0.0 if default <= 0 else base / WIDEST)
    high = doc.range.high if doc.range.high is not None else base * WIDEST
    if isinstance(low, float | int) and isinstance(high, float | int):
        if not math.isfinite(low + high) or low >= high:
            return f"the range {low} to {high} is empty"
        if high > WIDEST * WIDEST * max(base, 1.0):  # what a server accepts is not what is sensible
            high = base * WIDEST
    inside = {k: v for k, v in special.items() if k is not None and k != default}
    if doc.type == "integer":
        least = low if isinstance(low, str) else math.floor(low)
        most = high if isinstance(high, str) else math.ceil(high)
        shared["special"] = {int(k): v for k, v in inside.items() if k == int(k)}
        return _safely(lambda: Int(**shared, low=least, high=most, default=int(default), log=_wide(low, high)))
    shared["special"] = inside
    return _safely(lambda: Real(**shared, low=low, high=high, default=default, log=_wide(low, high)))


def _safely(make: Any) -> Param | str:
    try:
        param: Param = make()
    except SpaceError as error:
        return str(error)
    return param


def _wide(low: Any, high: Any) -> bool:
    return not isinstance(low, str) and not isinstance(high, str) and low > 0 and high / low > 50


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d{1,30}(\.\d+)?", text.strip()) else None
