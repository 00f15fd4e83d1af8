"""Placeholders such as ``{threads}`` in the command lines, files and values of a command target."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tunewright.errors import ConfigError

PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.\-]*)\}")

Names = Mapping[str, str | None]  # None for parameters that are not active


class Omitted(str):
    """The empty text that a value stands for: an argument with it is left out; in files it is nothing."""


class Several(str):
    """Flags that are on: in a text they stand side by side; an argument that is nothing else becomes one for each.

    Attributes:
        words: the flags.
    """

    words: tuple[str, ...]

    def __new__(cls, words: Iterable[str]) -> Several:
        """Join the flags with spaces."""
        words = tuple(words)
        made = super().__new__(cls, " ".join(words))
        made.words = words
        return made


def fill(text: str, names: Names) -> str | None:
    """Put values into ``{name}`` placeholders; None if one of them is not active.

    Braces around anything that is no known name stay as they are, so JSON and C files work.

    >>> fill('{"cache": {cache}}', {"cache": "8"}), fill("--x={x}", {"x": None})
    ('{"cache": 8}', None)
    """
    if any(names.get(name, "") is None for name in PLACE.findall(text)):
        return None
    return PLACE.sub(lambda match: str(names.get(match[1], match[0])), text)


def filled(template: str, names: Names) -> str:
    """Return a file's text, without the lines of parameters that are not active."""
    return "\n".join(line for each in template.splitlines() if (line := fill(each, names)) is not None)


def arguments(words: Sequence[str], names: Names) -> list[str]:
    """Return a command's arguments, without those of parameters that are not active and of empty values.

    >>> arguments(["cc", "{flags}", "{lto}"], {"flags": Several(["-a", "-b"]), "lto": Omitted()})
    ['cc', '-a', '-b']
    """
    made: list[str] = []
    for word in words:
        places = PLACE.findall(word)
        value = names.get(places[0]) if len(places) == 1 and word == f"{{{places[0]}}}" else None
        if isinstance(value, Several):
            made += value.words
        elif not any(isinstance(names.get(name), Omitted) for name in places):
            text = fill(word, names)
            made += [] if text is None else [text]
    return made


def expanded(names: Names, templates: Mapping[str, str]) -> dict[str, str | None]:
    """Return the names with templates, texts that hold placeholders themselves, put in place of their values.

    Args:
        names: every value, as texts.
        templates: the texts that some of them stand for; they form no circle, see :func:`check_circles`.
    """
    done: dict[str, str | None] = {n: v for n, v in names.items() if n not in templates}

    def of(name: str) -> str | None:
        if name not in done:
            text = templates[name]
            inner = {n: of(n) for n in PLACE.findall(text) if n in names}
            value = fill(text, inner)
            done[name] = Omitted() if value == "" else value
        return done[name]

    return {name: of(name) for name in names}


def check_circles(where: str, texts: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError where values name each other in a circle.

    Args:
        where: for the message.
        texts: the texts that each parameter's values stand for.
    """
    uses = {name: {p for text in of for p in PLACE.findall(text) if p in texts} for name, of in texts.items()}
    while free := [name for name, used in uses.items() if not used & uses.keys()]:
        for name in free:
            del uses[name]
    if uses:
        raise ConfigError(f"{where}: the values of {' and '.join(sorted(uses))} name each other in a circle")
