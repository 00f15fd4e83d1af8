"""The phrases that manuals are written in: what a sentence claims of a parameter.

Every function takes a sentence, or the sentences of a section, and returns what it states; nothing where it is silent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunewright.knowledge.quantities import quantity
from tunewright.knowledge.sections import squeeze

_LONGEST = 4000  # characters of a sentence; what is longer is a table or data, and the patterns below are slow on it
WORDS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "eight": 8, "ten": 10}
SPEED = re.compile(
    r"\b(perform\w*|fast\w*|slow\w*|throughput|latency|efficien\w+|speed\w*|bandwidth|overhead|contention|concurren\w+|"
    r"parallel\w*|cach\w+|memory|I/O|optimi[sz]\w+|tuning)\b", re.I,
)  # fmt: skip
RISK = re.compile(
    r"\b(data loss|lose|lost|corrupt\w*|durab\w+|unsafe|not safe|dangerous|inconsisten\w+|unrecoverable|power failure|"
    r"crash(?:es)?\b.*\b(?:los|data|recover)\w*)", re.I,
)  # fmt: skip


def sentences(text: str) -> list[str]:
    """Cut plain text into sentences: at full stops before a capital, and at line breaks."""
    parts = []
    for line in text.splitlines():
        parts += re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)\s+(?=[A-Z(\"“`-])", squeeze(line))
    return [s for s in parts if s and len(s) <= _LONGEST]


_DEFAULTS = [
    re.compile(
        r"\b[Dd]efault(?: value| setting| behavior)?"
        r"(?: of `?[\w.]+`?| for (?:this parameter|`?[\w.]+`?)| `?[a-z]\w*_\w+`?)?(?: here)? is (?P<rest>.+)"
    ),
    re.compile(r"\b[Dd]efault(?: is|s)? to (?:a value of )?(?P<rest>.+)"),
    re.compile(r"\b[Dd]efault(?: value)?\s*[:=]\s*(?P<rest>.+)"),
    re.compile(r"\b[Bb]y default,? (?:it|this|the value)?(?: parameter| variable)? ?is (?:set to )?(?P<rest>.+)"),
    re.compile(r"(?P<rest>`[^`]+`)(?: \([^()]{0,80}\))?,? (?:\()?(?:which is |is |this is )?(?:the|by) default\b"),
    re.compile(
        r"(?P<rest>`[^`]+`|-?\d[\d.]*|[Zz]ero|one|on|off)(?: is specified)?,? \(?(?:[^()]*, )?"
        r"(?:which is )?the default"
    ),
    re.compile(r"\b(?P<rest>-?\d[\d.]*|on|off) is the default\b"),
    re.compile(r"\b[Dd]efault (?:setting|value) of `?(?P<rest>-?\d[\d.]*)`? (?:selects|means|disables|uses)"),
    re.compile(r"\b[Dd]efault \w+ are (?P<rest>`[^`]+`)"),
    re.compile(r"\b[Tt]he default,? (?:is )?(?P<rest>`?[\w.]+`?),"),
    re.compile(r"(?:\b(?:is|are)|;) (?:set to )?(?P<rest>`?[\w.]+`?) by default\b"),
    re.compile(r"\b(?:parameter|setting|option|variable) is normally (?P<rest>`?\w+`?)"),
]  # fmt: skip
_FILLER = re.compile(
    r"^(?:typically|usually|currently|normally|set to|to use|to|the value|the string|an? value of|a relatively low|"
    r"now|also)\s+"
)
_NO_VALUE = {
    "an", "a", "the", "to", "not", "determined", "set", "platform", "calculated", "it", "that", "this", "same", "taken",
    "used", "for", "first", "in", "no", "usually", "derived", "built", "whatever", "chosen", "as", "based", "generally",
}  # fmt: skip
_COUNT = re.compile(
    r"^(?P<many>(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|one|two|three|four|five|six|eight|ten)"
    r" (?P<by>thousand|million|billion)\b"
)
_BY = {"thousand": 1e3, "million": 1e6, "billion": 1e9}


def stated_default(sentence: str) -> str | None:
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
            return f"{float(str(WORDS.get(many, many)).replace(',', '')) * _BY[counted['by']]:.0f}"
        if rest.startswith("`"):
            return rest[1:].split("`")[0].strip("'")
        literal = re.match(
            r"(?P<value>-?\d[\d,]*(?:\.\d+)?(?:\s?(?:[kKMGT]i?B|[mu]s|min|kilobytes?|megabytes?|gigabytes?|bytes|"
            r"milliseconds?|microseconds?|seconds?|minutes?|hours?|days?)\b)?%?|"
            r"[A-Za-z_][\w./-]*|'[^']*'|\"[^\"]*\"|“[^”]*”)",
            rest,
        )
        if literal:
            if re.match(r",\d", rest[literal.end() :]):  # 1.234,5 may be either number
                return None
            value = literal["value"].strip("'\"“”").rstrip(".")
            if value.lower() not in _NO_VALUE:
                return value
    return None


_UNITS = {
    "bytes": "B", "kilobytes": "kB", "megabytes": "MB", "gigabytes": "GB", "milliseconds": "ms", "seconds": "s",
    "minutes": "min", "hours": "h", "days": "d", "microseconds": "us", "pages": "pages",
}  # fmt: skip


def stated_unit(sentence: str) -> str:
    """Return the unit in which a sentence says that a value is given; "" if it says nothing."""
    taken = re.search(r"without units, it is taken as (\w+)(?:, that is [A-Z_]+ bytes, typically (\w+))?", sentence)
    if taken:
        return taken[2] or _UNITS.get(taken[1], "")
    unit = re.search(
        r"\((?:in|measured in)? ?(bytes|KB|kB|MB|megabytes|ms|milliseconds|seconds|microseconds|pages)\)", sentence
    ) or re.search(
        r"\b(?:specified|measured|given|expressed|stated|value is|size|amount|time|interval|timeout)\b[^.]{0,40}? in "
        r"(bytes|kilobytes|megabytes|milliseconds|microseconds|seconds|minutes|pages)\b",
        sentence,
    )
    return _UNITS.get(unit[1], unit[1]) if unit else ""


_LISTS = re.compile(
    r"\b(?:[Vv]alid|[Ll]egal|[Aa]llowed|[Pp]ossible|[Aa]cceptable|[Aa]vailable|[Aa]llowable|[Ss]upported|[Aa]ccepted)"
    r"(?: \w+)? ?(?:values|choices|options|settings|levels|methods|modes|versions)?"
    r"(?: (?:of|for) `?[\w.]+`?)? (?:are|is|include):?|"
    r"\b(?:can|may|must) be (?:set to )?(?:one of|either)?|\btwo modes\b"
)
_PAST = re.compile(r"\b(?:also allowed|historical|deprecated|obsolete|no longer|still accepted)\b")
_ADVICE = re.compile(
    r"\b(?:often|typical\w*|useful|reasonable|recommend\w*|effective|suggest\w*|good|usually|example)\b", re.I
)
_VALUE = re.compile(r"`([A-Za-z0-9_][\w.+-]*)`")
_QUOTED = re.compile(r"“([a-z][a-z ]+)”")


def stated_options(name: str, said: Sequence[str], enum: bool) -> tuple[tuple[str, ...], str] | None:
    """Return the values of a choice: where they are announced, else whatever stands as code beside an enum.

    Args:
        name: of the parameter.
        said: the sentences of its section.
        enum: whether it is declared to be a choice.

    Returns:
        The values and the sentence that they are taken from.
    """
    for number, sentence in enumerate(said):
        announced = _LISTS.search(sentence)
        if announced is None:
            continue
        options = _announced(sentence, announced, said[number + 1 :])
        kind = announced[0].lower()
        if len(set(options)) >= 2 and (enum or "values" in kind or "methods" in kind):
            return tuple(dict.fromkeys(options)), sentence
    if enum:
        values = [v for s in said if not _PAST.search(s) for v in _VALUE.findall(re.sub(r"\([^()]*\)", "", s))]
        values = values or [v for s in said for v in _QUOTED.findall(s)]
        small = [v for v in values if not v.isupper() and v not in name]
        options = list(dict.fromkeys(small or values))
        if len(options) >= 2:
            return tuple(options), next(s for s in said if options[0] in s)
    return None


def _announced(sentence: str, announced: re.Match[str], after: Sequence[str]) -> list[str]:
    """Return the values that a sentence announces: a list of items after it, values as code in it, or words in it."""
    if sentence.endswith(":"):  # a list of items follows, each begins with its value
        items = []
        for line in after:
            item = re.match(r"`([\w.+-]+)`", line)
            if item is None:
                break
            items.append(item[1])
        if items:
            return items
    rest = re.split(r"(?<!\be\.g)[.;](?:\s|$)", re.sub(r"\([^()]*\)", "", sentence[announced.end() :]))[0]
    before = _VALUE.findall(sentence[: announced.start()]) if "addition to" in sentence else []
    marked = before + (_VALUE.findall(rest) or _QUOTED.findall(rest))
    if marked:
        return [v for v in marked if not v.isupper()] or marked
    parts = re.split(r",\s*(?:and |or )?|\s+and\s+|\s+or\s+", re.sub(r"\([^)]*\)", "", rest))
    words = [w.strip(" '\"“”") for w in parts]
    return [w for w in words if w] if all(re.fullmatch(r"[\w./+-]*", w) for w in words) else []


_AMOUNT = (
    r"(-?[\d.,]*\d(?:\s?(?:[kKMGT]i?B|[mu]s|min|kilobytes|megabytes|bytes|milliseconds|seconds|kB|[sdh])\b)?"
    r"|zero|one|two)"
)
_BETWEEN = re.compile(
    r"\b(?:between|ranges? (?:is )?from|in the range(?: of)?|from|[Rr]ange:?|[Vv]alid values (?:are|range from)) "
    rf"{_AMOUNT} (?:and|to|through|-) {_AMOUNT}\b"
)
_AT_LEAST = re.compile(
    rf"\b(?:must be|has to be|should be) (?:set to )?at least {_AMOUNT}|"
    rf"\b[Mm]inimum (?:value |setting |allowed value )?(?:is|of) {_AMOUNT}"
)
_AT_MOST = re.compile(
    rf"\b[Mm]aximum (?:value |setting |allowed value )?(?:is|of) {_AMOUNT}|"
    rf"\b(?:must|can) not (?:be (?:more|larger|greater) than|exceed) {_AMOUNT}"
)
_MORE_THAN = re.compile(rf"\bmust be (?:greater|larger|more) than {_AMOUNT}")


def stated_ends(sentence: str) -> dict[str, str]:
    """Return the amounts at which a sentence says that the legal values end, by ``low`` and ``high``."""
    if _ADVICE.search(sentence):
        return {}  # a range that is advised is not the one that is allowed
    pair = _BETWEEN.search(sentence)
    low, high, more = (pattern.search(sentence) for pattern in (_AT_LEAST, _AT_MOST, _MORE_THAN))
    ends: dict[str, str] = {}
    if pair and quantity(pair[1]) is not None and quantity(pair[2]) is not None:
        ends = {"low": pair[1], "high": pair[2]}
    elif low or more:
        ends["low"] = next(g for g in (*(low.groups() if low else ()), *(more.groups() if more else ())) if g)
    if high and "high" not in ends:
        ends["high"] = next(g for g in high.groups() if g)
    return ends


_RESTART = re.compile(
    r"only be (?:set|changed) at (?:server|system|daemon) (?:start|startup)|"
    r"requires? (?:a |the )?(?:server |system |daemon )?restart|"
    r"takes? effect (?:only )?(?:after|on|at) (?:a |the )?(?:next )?(?:restart|reboot|remount|mount)"
)
_RELOAD = re.compile(
    r"only be set in the \S+ file or on the server command line|"
    r"\breload(?:ing|ed)?\b.{0,40}(?:configuration|takes? effect)"
)
_AT_ONCE = re.compile(r"can be (?:set|changed) (?:at any time|dynamically|at run.?time|on the fly)")


def stated_restart(sentence: str) -> str:
    """Return what a sentence says that a change costs: ``restart``, ``reload`` or ``none``; "" if it says nothing."""
    costs = {"restart": _RESTART, "reload": _RELOAD, "none": _AT_ONCE}
    return next((cost for cost, pattern in costs.items() if pattern.search(sentence)), "")


_SPECIAL = re.compile(
    r"(?:\b(?:[Aa] )?(?:[Vv]alue|[Ss]etting)(?: of)? |\b[Ss]et(?:ting)?(?: \w+){0,3} to |"
    r"\b[Ii]f (?:set to |this is |it is )?|\b[Ww]hen set to |^)"
    r"(?P<value>-1|0|zero)(?:,? \(?the default\)?,?)?,? "
    r"(?P<what>(?:disables?|means?|turns? off|switches? off|indicates?|selects?|will|causes?|allows?|"
    r"there is no|no limit|uses?|is unlimited|to disable|the)\b.{0,120})"
)


def stated_special(sentence: str) -> tuple[str, str] | None:
    """Return a value that means something else than its size, and what it means."""
    match = _SPECIAL.search(sentence)
    if match is None or (
        re.search(r"(?:to|from|and|than) $", sentence[: match.start("value")][-6:]) and "set" not in sentence.lower()
    ):
        return None
    return "0" if match["value"] == "zero" else match["value"], squeeze(match["what"]).rstrip(".")
