"""Tables of a command target's TOML file, read key by key; errors name the file and the place."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from tunewright.errors import ConfigError, unknown
from tunewright.store.files import printable

_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
    bool: "true or false",
}


class Table:
    """One TOML table, read key by key with errors that name file and place.

    Args:
        where: the file and the table's place in it, for messages.
        data: the table.
        known: the keys that it may have.
    """

    def __init__(self, where: str, data: Any, known: Collection[str]) -> None:
        self.where = where
        if not isinstance(data, dict):
            raise ConfigError(f"{where} must be a table, not {printable(repr(data), 60)}")
        self.data = data
        for key in data:
            if key not in known:
                raise ConfigError(f"{where}: {unknown('key', key, known)}")

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None, *, needed: bool = False) -> Any:
        """Return a value of one of the kinds, or the default.

        Raises:
            ConfigError: it is of another kind, is no finite number, or is needed and missing.
        """
        if key not in self.data:
            if needed:
                raise ConfigError(f"{self.where}: {key!r} is missing")
            return default
        value = self.data[key]
        allowed = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join(_KINDS.get(k, k.__name__) for k in allowed)
            raise ConfigError(f"{self.where}: {key} must be {names}, not {printable(repr(value), 60)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{self.where}: {key} must be finite, not {value!r}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"{self.where}: {key} must be a number of at most 64 bits")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; an empty one where there is none."""
        texts = self.get(key, list, [])
        if not all(isinstance(v, str) for v in texts):
            raise ConfigError(f"{self.where}: every entry of {key} must be a text")
        return list(texts)

    def command(self, key: str, shell: bool) -> tuple[str, ...]:
        """Return a command: a list of arguments, or one text for the shell."""
        value = self.get(key, (list, str), needed=True)
        if isinstance(value, str):
            if not shell:
                raise ConfigError(
                    f"{self.where}: {key} must be a list of arguments; one string needs 'shell = true' in [target]"
                )
            if not value.strip():
                raise ConfigError(f"{self.where}: {key} is empty")
            return (value,)
        words = self.texts(key)
        if not words:
            raise ConfigError(f"{self.where}: {key} is empty")
        return tuple(words)

    def seconds(self, key: str, default: float | None = None) -> float | None:
        """Return a time limit above 0."""
        value = self.get(key, (int, float), default)
        if value is not None and value <= 0:
            raise ConfigError(f"{self.where}: {key} must be above 0, not {value}")
        return None if value is None else float(value)

    def pattern(self, key: str, *, group: bool = True) -> re.Pattern[str] | None:
        """Return a regular expression, with a group around what is wanted."""
        text = self.get(key, str)
        try:
            regex = re.compile(text, 0 if group else re.MULTILINE) if text is not None else None
        except re.error as error:
            raise ConfigError(f"{self.where}: the {key} {text!r} is wrong: {error}") from None
        if regex is not None and group and regex.groups < 1:
            raise ConfigError(f"{self.where}: the {key} {text!r} needs a group (...) around the number")
        return regex


def check_places(where: str, words: Sequence[str], known: Collection[str]) -> None:
    """Raise ConfigError where an argument is surely meant as a placeholder, and there is no such name."""
    for word in words:
        # only an argument that is nothing but a placeholder, or --flag={placeholder}, is surely meant as one
        match = re.fullmatch(r"(?:[\w\-./=:]*)\{([A-Za-z_][\w.\-]*)\}(?:[\w\-./=:]*)", word)
        if match and match[1] not in known:
            raise ConfigError(f"{where}: {unknown('placeholder', match[1], known)}")
