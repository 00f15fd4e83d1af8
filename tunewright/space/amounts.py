"""Amounts of time and of bytes as people say them."""

from __future__ import annotations

import re

from tunewright.errors import ConfigError

_SECONDS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def duration(seconds: float) -> str:
    """Show a time as people say it.

    >>> duration(4.2), duration(125), duration(4000)
    ('4.2 s', '2 min 05 s', '1 h 06 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def seconds(text: str) -> float:
    """Read a time such as ``90s``, ``5min`` or ``1h``; a number alone is seconds.

    Raises:
        ConfigError: it is no time, or not above 0.

    >>> seconds("1.5h"), seconds("30")
    (5400.0, 30.0)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", text)
    value = float(found[1]) * _SECONDS.get(found[2] or "s", 0.0) if found else 0.0
    if not 0 < value < 1e9:
        raise ConfigError(f"cannot read the time {text[:20]!r}; write a number with s, min, h or d, such as 30min")
    return value


def size(count: float) -> str:
    """Show an amount of bytes.

    >>> size(900), size(82 * 2**20), size(1.25 * 2**40)
    ('900 B', '82 MiB', '1.2 TiB')
    """
    power = 0
    while count >= 1000 and power < len(_UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.1f} {_UNITS[power]}" if power and count < 10 else f"{count:.0f} {_UNITS[power]}"
