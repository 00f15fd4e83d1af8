"""What an engine's own ``--help`` says of its options: argparse's format, which vLLM and SGLang print."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_OPTION = re.compile(r"^ {1,4}(-{1,2}[A-Za-z][^\n]*)$")
_GROUP = re.compile(r"^([A-Za-z][\w ]*):\s*$")
_NAME = re.compile(r"--[A-Za-z][\w-]*")
_DEFAULT = re.compile(r"\(default: (.*?)\)\s*$", re.DOTALL)
_MOST_DOC = 300


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One option of a command line.

    Attributes:
        name: the long one, without dashes.
        off: what switches it off, with dashes; "" where it is no switch of two names.
        takes: it has a value.
        choices: values it may have; empty where any may be.
        default: as the help prints it; "" where it prints none.
        doc: its explanation, in one line.
        group: heading it stands below.
    """

    name: str
    off: str = ""
    takes: bool = False
    choices: tuple[str, ...] = ()
    default: str = ""
    doc: str = ""
    group: str = ""

    @property
    def switch(self) -> bool:
        """Whether it only switches something on, or on and off."""
        return not self.takes


def read_help(text: str) -> dict[str, Flag]:
    r"""Return the options that a help text explains, by name.

    >>> flag = read_help("options:\n  --x-y {a,b}\n                        What it is. (default: a)\n")["x-y"]
    >>> flag.choices, flag.default, flag.doc
    (('a', 'b'), 'a', 'What it is.')
    """
    flags = {}
    for group, head, doc in _entries(text):
        if (flag := _flag(group, head, doc)) is not None:
            flags[flag.name] = flag
    return flags


def _entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield group, first line and explanation of each option."""
    group, head, doc = "", "", list[str]()
    for line in text.splitlines():
        if heading := _GROUP.match(line):
            if head:
                yield group, head, " ".join(doc)
            group, head, doc = heading[1], "", []
        elif option := _OPTION.match(line):
            if head:
                yield group, head, " ".join(doc)
            # a short explanation stands on the same line, two spaces or more behind
            head, _, rest = re.sub(r" {2,}", "\0", option[1], count=1).partition("\0")
            doc = [rest] if rest else []
        elif head and line.startswith(" " * 8):
            doc.append(line.strip())
    if head:
        yield group, head, " ".join(doc)


def _flag(group: str, head: str, doc: str) -> Flag | None:
    names = _NAME.findall(head)
    if not names:
        return None
    name = names[0].removeprefix("--")
    off = next((n for n in names if n == f"--no-{name}"), "")
    values = re.search(re.escape(names[0]) + r"[ =]([^,\s][^\s]*)", head)
    listed = re.search(r"\{([^}]*)\}", head)
    default = _DEFAULT.search(doc)
    words = re.sub(r"\s+", " ", _DEFAULT.sub("", doc)).strip()
    return Flag(
        name=name,
        off=off,
        takes=bool(values) or listed is not None,
        choices=tuple(c for c in listed[1].split(",") if c) if listed else (),
        default=re.sub(r"\s+", " ", default[1]).strip("'\"") if default else "",
        doc=words if len(words) <= _MOST_DOC else words[: _MOST_DOC - 3].rsplit(" ", 1)[0] + " ...",
        group=group,
    )


def resolved(flags: Mapping[str, Flag], found: Mapping[str, object]) -> dict[str, str]:
    """Return defaults by name of the flag: what the engine resolved, else what its help prints, where it says one.

    Args:
        flags: of the help.
        found: values by name of the flag, as the engine itself resolved them.
    """
    defaults = {name: flag.default for name, flag in flags.items() if flag.default not in ("", "None")}
    return {**defaults, **{name: _text(value) for name, value in found.items() if value is not None}}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
