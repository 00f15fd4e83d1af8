"""Parameters read from structured manuals without a model, by the phrases that manuals are written in (``phrases``).

Every claim is made from one sentence, which becomes its quote. What no sentence says stays unknown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunewright.knowledge.parameters import CLAIMS, Evidence, ParameterDoc, Range
from tunewright.knowledge.phrases import (
    RISK,
    SPEED,
    WORDS,
    sentences,
    stated_default,
    stated_ends,
    stated_options,
    stated_restart,
    stated_special,
    stated_unit,
)
from tunewright.knowledge.quantities import in_unit, quantity, scale
from tunewright.knowledge.sections import Section, bare
from tunewright.space.parameters import Value

_TYPES = {
    **dict.fromkeys(("integer", "int", "uint", "bigint", "long", "number"), "integer"),
    **dict.fromkeys(("floating point", "float", "double", "real"), "real"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    "enum": "enum",
    **dict.fromkeys(("string", "str"), "string"),
}
_TRUE, _FALSE = ("on", "true", "yes", "enabled"), ("off", "false", "no", "disabled")
_TERM = re.compile(r"^(?P<name>[A-Za-z_][\w.*<>/{}-]*)\s*(?:\((?P<kind>[^)]*)\)|=\s*(?P<value>.+))?\s*$")
_DUMP = re.compile(r"^type (?P<kind>.+?), default (?P<value>.+?)\)?$")


@dataclass
class _Draft:
    """A parameter being put together."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)

    def claim(self, name: str, value: Any, quote: str, source: str) -> None:
        """Make a claim, unless it was made before."""
        if name not in self.values:
            self.values[name] = value
            self.evidence.append(Evidence(field=name, quote=quote, source=source))

    def gather(self, name: str, key: str, value: str, evidence: Evidence) -> None:
        """Add one entry to a claim that has several, unless there is one of that key."""
        entries = self.values.setdefault(name, {})
        if key not in entries:
            entries[key] = value
            self.evidence.append(evidence)


def extract(sections: Iterable[Section]) -> list[ParameterDoc]:
    """Read every parameter that a section defines, in the order in which they first appear."""
    sections = list(sections)
    drafts: dict[str, _Draft] = {}
    words = (word for s in sections for word in re.findall(r"\w+", s.text) if "_" in word)
    mentions = Counter(m[0] for word in words if (m := re.search(r"[A-Za-z]\w*_\w+", word)))
    for section in sections:
        for name, kind, value in _terms(section):
            draft = drafts.setdefault(name, _Draft(name))
            _read(draft, section, kind, value)
    docs = [_finish(draft) for draft in drafts.values()]
    most = max([1, *(mentions[d.name.rsplit(".", 1)[-1]] for d in docs)])
    return [_weigh(d, mentions[d.name.rsplit(".", 1)[-1]] / most) for d in docs]


def _terms(section: Section) -> list[tuple[str, str, str]]:
    """Names, kinds and values that a section defines."""
    terms = []
    dump = next((m for line in section.text.splitlines()[:2] if (m := _DUMP.match(bare(line)))), None)
    if dump and section.path:
        return [(section.path[-1], dump["kind"], dump["value"])]
    several = re.findall(r"[\w.]+ \([^)]*\)", section.term)
    for term in several if len(several) > 1 else section.term.split(", "):
        match = _TERM.match(term.strip())
        if match is None:
            continue
        kind = (match["kind"] or "").lower()
        identifier = "_" in match["name"] or "." in match["name"] or kind in _TYPES or match["value"] is not None
        if identifier and not match["name"].startswith("--"):
            name = re.sub(r"\*[\w-]+\*|<[\w-]+>|\{[\w-]+\}", "*", match["name"])  # osc.*osc_instance*.max_dirty_mb
            value = match["value"] or ""
            placeholder = re.fullmatch(r"<?[A-Z]+>?", value) is not None  # the N of "name=N"
            terms.append((name.strip(".<>"), kind, "" if placeholder else value))
    return terms


def _read(draft: _Draft, section: Section, kind: str, value: str) -> None:
    """Make every claim that a section supports."""
    source, said = section.source, sentences(section.text)
    declared = section.term or next((s for s in said if _DUMP.match(bare(s))), "")
    if typed := _TYPES.get(kind) or _dump_type(kind):
        draft.claim("type", typed, declared, source)
    prose = [
        s
        for s in said
        if not _DUMP.match(bare(s)) and not re.match(r"^-{3,}", s) and s != section.text.splitlines()[-1]
    ] or said
    if prose:
        said_of = re.sub(r"^`?[\w.*<>/{}-]+`?\s*(?:[-–—:|]|- )\s*(?=\S)", "", prose[0])
        draft.claim("definition", said_of, prose[0], source)
    effect = next((s for s in prose[1:] if SPEED.search(s)), None)
    if effect:
        draft.claim("effect", effect, effect, source)
    for sentence in said:
        if unit := stated_unit(sentence):
            draft.claim("unit", unit, sentence, source)
        for end, amount in stated_ends(sentence).items():
            draft.gather("ends", end, amount, Evidence(field="range", quote=sentence, source=source))
        if restart := stated_restart(sentence):
            draft.claim("restart", restart, sentence, source)
        if special := stated_special(sentence):
            draft.gather("special", *special, Evidence(field="special", quote=sentence, source=source))
        if RISK.search(sentence) and len(draft.values.get("remarks", ())) < 4:
            draft.values.setdefault("remarks", []).append(sentence)
            draft.evidence.append(Evidence(field="remarks", quote=sentence, source=source))
    if options := stated_options(draft.name, said, draft.values.get("type") == "enum"):
        draft.claim("range", Range(options=options[0]), options[1], source)
    if value:
        quote = section.term if section.term.endswith(value) else next((s for s in said if value in s), section.term)
        draft.claim("default", value.strip(" `'\""), quote, source)
    for sentence in said:
        default = stated_default(sentence)
        if default is not None:
            draft.claim("default", default, sentence, source)


def _dump_type(kind: str) -> str:
    """Return the type of a declaration in a source dump, such as ``uint64_t`` or ``Optional[int]``."""
    word = re.sub(r"Optional\[(.+)\]|std::atomic<(.+)>", lambda m: m[1] or m[2], kind).strip("` ")
    if re.fullmatch(r"u?int(8|16|32|64)?(_t)?|size_t|unsigned int|unsigned|int|long", word):
        return "integer"
    if word in ("float", "double"):
        return "real"
    return "boolean" if word == "bool" else "string" if word in ("str", "std::string") else ""


# -- putting it together --------------------------------------------------------------------------


def _finish(draft: _Draft) -> ParameterDoc:
    """Bring default and range into one unit and type."""
    values, ends = draft.values, draft.values.pop("ends", {})
    doc = ParameterDoc(name=draft.name)
    raw = values.get("default")
    kind, unit = values.get("type", ""), values.get("unit", "")
    limits: Range = values.get("range", Range())
    if not kind and raw is not None:
        kind = _guess(raw)
        if kind:
            quote = next(e for e in draft.evidence if e.field == "default")
            draft.evidence.append(replace(quote, field="type"))
    if kind in ("integer", "real") and not unit and raw is not None:
        amount = quantity(str(raw))
        if amount and amount[1]:
            unit = amount[1]
            quote = next(e for e in draft.evidence if e.field == "default")
            draft.evidence.append(replace(quote, field="unit"))
    if limits.options and kind in ("integer", "real"):
        numbers = [in_unit(str(o), unit) for o in limits.options]
        limits = Range(options=tuple(n for n in numbers if n is not None))
    for end, stated in ends.items():
        value = in_unit(str(WORDS.get(stated, stated)), unit)
        if value is not None and not limits.options:
            whole = _whole(value) if kind != "real" else value
            limits = replace(limits, low=whole) if end == "low" else replace(limits, high=whole)
    default = None if raw is None else _typed(raw, kind, unit)
    if kind == "boolean":
        limits = Range()
    if kind == "enum" and limits.options and isinstance(default, str) and default not in limits.options:
        limits = replace(limits, options=(default, *limits.options))
    kept: dict[str, Any] = {k: values[k] for k in ("definition", "effect", "restart") if k in values}
    claimed: dict[str, Any] = {
        "type": kind, "unit": unit, "default": default, "range": limits, "special": dict(values.get("special", {})),
        "remarks": tuple(values.get("remarks", ())), **kept,
    }  # fmt: skip
    empty = {name for name, value in claimed.items() if value == getattr(doc, name)}
    evidence = tuple(e for e in draft.evidence if e.field not in empty)
    return replace(doc, **claimed, evidence=evidence)


def _guess(raw: str) -> str:
    amount = quantity(raw)
    if amount:
        return "real" if not float(amount[0]).is_integer() and not amount[1] else "integer"
    return "boolean" if raw.lower() in _TRUE + _FALSE else ""


def _typed(raw: str, kind: str, unit: str) -> Value | None:
    word = str(WORDS.get(raw.lower(), raw))
    if kind == "boolean":
        return True if word.lower() in (*_TRUE, "1") else False if word.lower() in (*_FALSE, "0") else None
    if kind in ("integer", "real"):
        value = in_unit(word, unit)
        if value is not None and re.fullmatch(r"0[0-7]{3}", word):
            value = float(int(word, 8))  # a file mode
        return None if value is None else _whole(value) if kind == "integer" else value
    return word


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _weigh(doc: ParameterDoc, mentioned: float) -> ParameterDoc:
    """Estimate importance: how often the manual names it, and whether it speaks of speed when it does."""
    said = " ".join([doc.definition, doc.effect])
    speed = min(len(SPEED.findall(said)), 4) / 4
    return replace(doc, importance=round(0.5 * speed + 0.5 * mentioned**0.5, 3))


def merged(first: Sequence[ParameterDoc], second: Sequence[ParameterDoc]) -> list[ParameterDoc]:
    """Fill the gaps of the first documents with the second ones; new parameters come after.

    Amounts are brought to the first one's unit; where that cannot be done, they are left out.
    """
    others = {d.name: d for d in second}
    docs = []
    for doc in first:
        other = others.pop(doc.name, None)
        if other is None:
            docs.append(doc)
            continue
        blank = ParameterDoc(name=doc.name)
        other = _in_unit_of(doc, other)
        taken = {
            name: getattr(other, name)
            for name in CLAIMS
            if getattr(doc, name) == getattr(blank, name) and getattr(other, name) != getattr(blank, name)
        }
        proof = tuple(e for e in other.evidence if e.field in taken)
        docs.append(
            replace(doc, **taken, evidence=doc.evidence + proof, importance=max(doc.importance, other.importance))
        )
    return docs + list(others.values())


def _in_unit_of(doc: ParameterDoc, other: ParameterDoc) -> ParameterDoc:
    """Return a document with its default and range in the unit of another one of the same parameter."""
    if not doc.unit or not other.unit or doc.unit == other.unit:
        return other
    to_scale, from_scale = scale(doc.unit), scale(other.unit)
    if to_scale is None or from_scale is None or to_scale[0] != from_scale[0]:
        return replace(other, default=None, range=Range())
    factor = from_scale[1] / to_scale[1]

    def turned(value: Any) -> Any:
        if isinstance(value, str):
            return f"({value}) * {factor:g}"
        return None if value is None else value if isinstance(value, bool) else value * factor

    default = None if isinstance(other.default, str) else turned(other.default)
    limits = Range() if other.range.options else Range(low=turned(other.range.low), high=turned(other.range.high))
    return replace(other, unit=doc.unit, default=default, range=limits)
