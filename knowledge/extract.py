"""Parameters read from structured manuals without a model, by the phrases that manuals are written in.

Every claim is made from one sentence, which becomes its quote. What no sentence says stays unknown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunewright.knowledge.parameters import CLAIMS, Evidence, ParameterDoc, Range
from tunewright.knowledge.quantities import in_unit, quantity, scale
from tunewright.knowledge.sections import Section, bare, squeeze
from tunewright.space.parameters import Value

_TYPES = {
    "integer": "integer", "int": "integer", "uint": "integer", "bigint": "integer", "long": "integer", "number": "integer",
    "floating point": "real", "float": "real", "double": "real", "real": "real", "boolean": "boolean", "bool": "boolean",
    "enum": "enum", "string": "string", "str": "string",
}  # fmt: skip
_LONGEST = 4000  # characters of a sentence; what is longer is a table or data, and the patterns below are slow on it
_WORDS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "eight": 8, "ten": 10}
_TRUE, _FALSE = ("on", "true", "yes", "enabled"), ("off", "false", "no", "disabled")
_TERM = re.compile(r"^(?P<name>[A-Za-z_][\w.*<>/{}-]*)\s*(?:\((?P<kind>[^)]*)\)|=\s*(?P<value>.+))?\s*$")
_DUMP = re.compile(r"^type (?P<kind>.+?), default (?P<value>.+?)\)?$")
_SPEED = re.compile(
    r"\b(perform\w*|fast\w*|slow\w*|throughput|latency|efficien\w+|speed\w*|bandwidth|overhead|contention|concurren\w+|"
    r"parallel\w*|cach\w+|memory|I/O|optimi[sz]\w+|tuning)\b", re.I,
)  # fmt: skip
_RISK = re.compile(
    r"\b(data loss|lose|lost|corrupt\w*|durab\w+|unsafe|not safe|dangerous|inconsisten\w+|unrecoverable|power failure|"
    r"crash(?:es)?\b.*\b(?:los|data|recover)\w*)", re.I,
)  # fmt: skip


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


def sentences(text: str) -> list[str]:
    """Cut plain text into sentences: at full stops before a capital, and at line breaks."""
    found = []
    for line in text.splitlines():
        found += re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)\s+(?=[A-Z(\"“`-])", squeeze(line))
    return [s for s in found if s and len(s) <= _LONGEST]


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
    found = []
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
            found.append((name.strip(".<>"), kind, "" if placeholder else value))
    return found


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
    effect = next((s for s in prose[1:] if _SPEED.search(s)), None)
    if effect:
        draft.claim("effect", effect, effect, source)
    for sentence in said:
        _unit(draft, sentence, source)
        _limits(draft, sentence, source)
        _restart(draft, sentence, source)
        _specials(draft, sentence, source)
        if _RISK.search(sentence) and len(draft.values.get("remarks", ())) < 4:
            draft.values.setdefault("remarks", []).append(sentence)
            draft.evidence.append(Evidence(field="remarks", quote=sentence, source=source))
    _options(draft, section, said)
    if value:
        quote = section.term if section.term.endswith(value) else next((s for s in said if value in s), section.term)
        draft.claim("default", value.strip(" `'\""), quote, source)
    for sentence in said:
        stated = _default(sentence)
        if stated is not None:
            draft.claim("default", stated, sentence, source)


def _dump_type(kind: str) -> str:
    """Return the type of a declaration in a source dump, such as ``uint64_t`` or ``Optional[int]``."""
    word = re.sub(r"Optional\[(.+)\]|std::atomic<(.+)>", lambda m: m[1] or m[2], kind).strip("` ")
    if re.fullmatch(r"u?int(8|16|32|64)?(_t)?|size_t|unsigned int|unsigned|int|long", word):
        return "integer"
    if word in ("float", "double"):
        return "real"
    return "boolean" if word == "bool" else "string" if word in ("str", "std::string") else ""


_DEFAULTS = [
    re.compile(r"\b[Dd]efault(?: value| setting| behavior)?(?: of `?[\w.]+`?| for (?:this parameter|`?[\w.]+`?)| `?[a-z]\w*_\w+`?)?(?: here)? is (?P<rest>.+)"),
    re.compile(r"\b[Dd]efault(?: is|s)? to (?:a value of )?(?P<rest>.+)"),
    re.compile(r"\b[Dd]efault(?: value)?\s*[:=]\s*(?P<rest>.+)"),
    re.compile(r"\b[Bb]y default,? (?:it|this|the value)?(?: parameter| variable)? ?is (?:set to )?(?P<rest>.+)"),
    re.compile(r"(?P<rest>`[^`]+`)(?: \([^()]{0,80}\))?,? (?:\()?(?:which is |is |this is )?(?:the|by) default\b"),
    re.compile(r"(?P<rest>`[^`]+`|-?\d[\d.]*|[Zz]ero|one|on|off)(?: is specified)?,? \(?(?:[^()]*, )?(?:which is )?the default"),
    re.compile(r"\b(?P<rest>-?\d[\d.]*|on|off) is the default\b"),
    re.compile(r"\b[Dd]efault (?:setting|value) of `?(?P<rest>-?\d[\d.]*)`? (?:selects|means|disables|uses)"),
    re.compile(r"\b[Dd]efault \w+ are (?P<rest>`[^`]+`)"),
    re.compile(r"\b[Tt]he default,? (?:is )?(?P<rest>`?[\w.]+`?),"),
    re.compile(r"(?:\b(?:is|are)|;) (?:set to )?(?P<rest>`?[\w.]+`?) by default\b"),
    re.compile(r"\b(?:parameter|setting|option|variable) is normally (?P<rest>`?\w+`?)"),
]  # fmt: skip
_FILLER = re.compile(
    r"^(?:typically|usually|currently|normally|set to|to use|to|the value|the string|an? value of|a relatively low|now|also)\s+"
)
_NO_VALUE = {
    "an", "a", "the", "to", "not", "determined", "set", "platform", "calculated", "it", "that", "this", "same", "taken",
    "used", "for", "first", "in", "no", "usually", "derived", "built", "whatever", "chosen", "as", "based", "generally",
}  # fmt: skip
_COUNT = re.compile(r"^(?P<many>[\d.,]*\d|one|two|three|four|five|six|eight|ten) (?P<by>thousand|million|billion)\b")
_BY = {"thousand": 1e3, "million": 1e6, "billion": 1e9}


def _default(sentence: str) -> str | None:
    """Return the default that a sentence states: an amount in brackets, a value in backticks, or the next word."""
    for pattern in _DEFAULTS:
        match = pattern.search(sentence)
        if match is None:
            continue
        rest = match["rest"]
        while _FILLER.match(rest):
            rest = _FILLER.sub("", rest)
        exact = re.match(r"[\w ,.-]{0,60}?\(`?(?P<value>-?\d[\d.,]*\s?[A-Za-z%]*)`?\)", rest)
        if exact:
            return exact["value"]
        if re.match(r"(?:an? |the )?empty\b|''|\"\"|``", rest):
            return ""
        counted = _COUNT.match(rest)
        if counted:
            many = counted["many"]
            return f"{float(str(_WORDS.get(many, many)).replace(',', '')) * _BY[counted['by']]:.0f}"
        if rest.startswith("`"):
            return rest[1:].split("`")[0].strip("'")
        literal = re.match(
            r"(?P<value>-?\d[\d,]*(?:\.\d+)?(?:\s?(?:[kKMGT]i?B|[mu]s|min|kilobytes?|megabytes?|gigabytes?|bytes|"
            r"milliseconds?|microseconds?|seconds?|minutes?|hours?|days?)\b)?%?|[A-Za-z_][\w./-]*|'[^']*'|\"[^\"]*\"|“[^”]*”)", rest,
        )  # fmt: skip
        if literal:
            value = literal["value"].strip("'\"“”").rstrip(".")
            if value.lower() not in _NO_VALUE:
                return value
    return None


_UNITS = {
    "bytes": "B", "kilobytes": "kB", "megabytes": "MB", "gigabytes": "GB", "milliseconds": "ms", "seconds": "s",
    "minutes": "min", "hours": "h", "days": "d", "microseconds": "us", "pages": "pages",
}  # fmt: skip


def _unit(draft: _Draft, sentence: str, source: str) -> None:
    taken = re.search(r"without units, it is taken as (\w+)(?:, that is [A-Z_]+ bytes, typically (\w+))?", sentence)
    if taken:
        unit = taken[2] or _UNITS.get(taken[1], "")
        if unit:
            draft.claim("unit", unit, sentence, source)
        return
    inside = re.search(
        r"\((?:in|measured in)? ?(bytes|KB|kB|MB|megabytes|ms|milliseconds|seconds|microseconds|pages)\)", sentence
    )
    stated = re.search(
        r"\b(?:specified|measured|given|expressed|stated|value is|size|amount|time|interval|timeout)\b[^.]{0,40}? in "
        r"(bytes|kilobytes|megabytes|milliseconds|microseconds|seconds|minutes|pages)\b", sentence,
    )  # fmt: skip
    found = inside or stated
    if found:
        draft.claim("unit", _UNITS.get(found[1], found[1]), sentence, source)


_LISTS = re.compile(
    r"\b(?:[Vv]alid|[Ll]egal|[Aa]llowed|[Pp]ossible|[Aa]cceptable|[Aa]vailable|[Aa]llowable|[Ss]upported|[Aa]ccepted)"
    r"(?: \w+)? ?(?:values|choices|options|settings|levels|methods|modes|versions)?(?: (?:of|for) `?[\w.]+`?)? (?:are|is|include):?|"
    r"\b(?:can|may|must) be (?:set to )?(?:one of|either)?|\btwo modes\b"
)
_PAST = re.compile(r"\b(?:also allowed|historical|deprecated|obsolete|no longer|still accepted)\b")
_ADVICE = re.compile(
    r"\b(?:often|typical\w*|useful|reasonable|recommend\w*|effective|suggest\w*|good|usually|example)\b", re.I
)
_VALUE = re.compile(r"`([A-Za-z0-9_][\w.+-]*)`")
_QUOTED = re.compile(r"“([a-z][a-z ]+)”")


def _options(draft: _Draft, section: Section, said: Sequence[str]) -> None:
    """Find the values of a choice: where they are announced, else whatever stands as code beside an enum."""
    enum = draft.values.get("type") == "enum"
    for number, sentence in enumerate(said):
        listed = _LISTS.search(sentence)
        if listed is None:
            continue
        rest = re.split(r"(?<!\be\.g)[.;](?:\s|$)", re.sub(r"\([^()]*\)", "", sentence[listed.end() :]))[0]
        following: list[str] = []
        if sentence.endswith(":"):  # a list of items follows, each begins with its value
            for line in said[number + 1 :]:
                item = re.match(r"`([\w.+-]+)`", line)
                if item is None:
                    break
                following.append(item[1])
        before = _VALUE.findall(sentence[: listed.start()]) if "addition to" in sentence else []
        marked = before + (_VALUE.findall(rest) or _QUOTED.findall(rest))
        found = following or [v for v in marked if not v.isupper()] or marked
        if not found:
            words = [
                w.strip(" '\"“”")
                for w in re.split(r",\s*(?:and |or )?|\s+and\s+|\s+or\s+", re.sub(r"\([^)]*\)", "", rest))
            ]
            found = (
                [w for w in words if re.fullmatch(r"[\w./+-]+", w)]
                if all(re.fullmatch(r"[\w./+-]*", w) for w in words)
                else []
            )
        if len(set(found)) >= 2 and (enum or "values" in listed[0].lower() or "methods" in listed[0].lower()):
            draft.claim("range", Range(options=tuple(dict.fromkeys(found))), sentence, section.source)
            return
    if enum:
        values = [v for s in said if not _PAST.search(s) for v in _VALUE.findall(re.sub(r"\([^()]*\)", "", s))]
        values = values or [v for s in said for v in _QUOTED.findall(s)]
        small = [v for v in values if not v.isupper() and v not in draft.name]
        found = list(dict.fromkeys(small or values))
        if len(found) >= 2:
            quote = next(s for s in said if found[0] in s)
            draft.claim("range", Range(options=tuple(found)), quote, section.source)


_AMOUNT = r"(-?[\d.,]*\d(?:\s?(?:[kKMGT]i?B|[mu]s|min|kilobytes|megabytes|bytes|milliseconds|seconds|kB|[sdh])\b)?|zero|one|two)"


def _limits(draft: _Draft, sentence: str, source: str) -> None:
    if _ADVICE.search(sentence):
        return  # a range that is advised is not the one that is allowed
    pair = re.search(rf"\b(?:between|ranges? (?:is )?from|in the range(?: of)?|from|[Rr]ange:?|[Vv]alid values (?:are|range from)) {_AMOUNT} (?:and|to|through|-) {_AMOUNT}\b", sentence)  # fmt: skip
    low = re.search(rf"\b(?:must be|has to be|should be) (?:set to )?at least {_AMOUNT}|\b[Mm]inimum (?:value |setting |allowed value )?(?:is|of) {_AMOUNT}", sentence)  # fmt: skip
    high = re.search(rf"\b[Mm]aximum (?:value |setting |allowed value )?(?:is|of) {_AMOUNT}|\b(?:must|can) not (?:be (?:more|larger|greater) than|exceed) {_AMOUNT}", sentence)  # fmt: skip
    more = re.search(rf"\bmust be (?:greater|larger|more) than {_AMOUNT}", sentence)
    ends: dict[str, str] = {}
    if pair and quantity(pair[1]) is not None and quantity(pair[2]) is not None:
        ends = {"low": pair[1], "high": pair[2]}
    elif low or more:
        ends["low"] = next(g for g in (*(low.groups() if low else ()), *(more.groups() if more else ())) if g)
    if high and "high" not in ends:
        ends["high"] = next(g for g in high.groups() if g)
    if ends:
        held: dict[str, tuple[str, str]] = draft.values.setdefault("ends", {})
        for end, amount in ends.items():
            if end not in held:
                held[end] = (amount, sentence)
                draft.evidence.append(Evidence(field="range", quote=sentence, source=source))


def _restart(draft: _Draft, sentence: str, source: str) -> None:
    if re.search(r"only be (?:set|changed) at (?:server|system|daemon) (?:start|startup)|requires? (?:a |the )?(?:server |system |daemon )?restart|takes? effect (?:only )?(?:after|on|at) (?:a |the )?(?:next )?(?:restart|reboot|remount|mount)", sentence):  # fmt: skip
        draft.claim("restart", "restart", sentence, source)
    elif re.search(r"only be set in the \S+ file or on the server command line|\breload(?:ing|ed)?\b.{0,40}(?:configuration|takes? effect)", sentence):  # fmt: skip
        draft.claim("restart", "reload", sentence, source)
    elif re.search(r"can be (?:set|changed) (?:at any time|dynamically|at run.?time|on the fly)", sentence):
        draft.claim("restart", "none", sentence, source)


_SPECIAL = re.compile(
    r"(?:\b(?:[Aa] )?(?:[Vv]alue|[Ss]etting)(?: of)? |\b[Ss]et(?:ting)?(?: \w+){0,3} to |\b[Ii]f (?:set to |this is |it is )?|\b[Ww]hen set to |^)"
    r"(?P<value>-1|0|zero)(?:,? \(?the default\)?,?)?,? (?P<what>(?:disables?|means?|turns? off|switches? off|indicates?|selects?|will|causes?|allows?|there is no|no limit|uses?|is unlimited|to disable|the)\b.{0,120})"
)  # fmt: skip


def _specials(draft: _Draft, sentence: str, source: str) -> None:
    match = _SPECIAL.search(sentence)
    if match is None or (
        re.search(r"(?:to|from|and|than) $", sentence[: match.start("value")][-6:]) and "set" not in sentence.lower()
    ):
        return
    value = "0" if match["value"] == "zero" else match["value"]
    held = draft.values.setdefault("special", {})
    if value not in held:
        held[value] = squeeze(match["what"]).rstrip(".")
        draft.evidence.append(Evidence(field="special", quote=sentence, source=source))


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
        found = quantity(str(raw))
        if found and found[1]:
            unit = found[1]
            quote = next(e for e in draft.evidence if e.field == "default")
            draft.evidence.append(replace(quote, field="unit"))
    if limits.options and kind in ("integer", "real"):
        numbers = [in_unit(str(o), unit) for o in limits.options]
        limits = Range(options=tuple(n for n in numbers if n is not None))
    for end, (amount, _) in ends.items():
        value = in_unit(str(_WORDS.get(amount, amount)), unit)
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
    found = quantity(raw)
    if found:
        return "real" if not float(found[0]).is_integer() and not found[1] else "integer"
    return "boolean" if raw.lower() in _TRUE + _FALSE else ""


def _typed(raw: str, kind: str, unit: str) -> Value | None:
    word = str(_WORDS.get(raw.lower(), raw))
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
    speed = min(len(_SPEED.findall(said)), 4) / 4
    return replace(doc, importance=round(0.5 * speed + 0.5 * mentioned**0.5, 3))


def merged(first: Sequence[ParameterDoc], second: Sequence[ParameterDoc]) -> list[ParameterDoc]:
    """Fill the gaps of the first documents with the second ones; new parameters come after.

    Amounts are brought to the first one's unit; where that cannot be done, they are left out.
    """
    others = {d.name: d for d in second}
    made = []
    for doc in first:
        other = others.pop(doc.name, None)
        if other is None:
            made.append(doc)
            continue
        blank = ParameterDoc(name=doc.name)
        other = _in_unit_of(doc, other)
        taken = {
            name: getattr(other, name)
            for name in CLAIMS
            if getattr(doc, name) == getattr(blank, name) and getattr(other, name) != getattr(blank, name)
        }
        proof = tuple(e for e in other.evidence if e.field in taken)
        made.append(
            replace(doc, **taken, evidence=doc.evidence + proof, importance=max(doc.importance, other.importance))
        )
    return made + list(others.values())


def _in_unit_of(doc: ParameterDoc, other: ParameterDoc) -> ParameterDoc:
    """Return a document with its default and range in the unit of another one of the same parameter."""
    if not doc.unit or not other.unit or doc.unit == other.unit:
        return other
    mine, theirs = scale(doc.unit), scale(other.unit)
    if mine is None or theirs is None or mine[0] != theirs[0]:
        return replace(other, default=None, range=Range())
    factor = theirs[1] / mine[1]

    def turned(value: Any) -> Any:
        if isinstance(value, str):
            return f"({value}) * {factor:g}"
        return None if value is None else value if isinstance(value, bool) else value * factor

    default = None if isinstance(other.default, str) else turned(other.default)
    limits = Range() if other.range.options else Range(low=turned(other.range.low), high=turned(other.range.high))
    return replace(other, unit=doc.unit, default=default, range=limits)
