"""Numbers, times, configurations and other people's texts as they are shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from tunewright.space import Value
from tunewright.space.amounts import duration as duration

_STEERING = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # a control sequence: colours, moves, clearing
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # a string for the terminal: titles, links, the clipboard
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # other control characters, but for tab and newline
    r"|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # what turns the direction of text, or ends a line unseen
)
_HALF = re.compile(r"[\ud800-\udfff]")  # a byte of a file's name that is no text; it cannot be printed


def number(value: float) -> str:
    """Show a number with four significant digits, thousands grouped."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def settings(config: Mapping[str, Value], limit: int = 0) -> str:
    """Show a configuration in one line."""
    shown = [f"{n}={_short(v)}" for n, v in config.items()]
    if limit and len(shown) > limit:
        shown = [*shown[:limit], f"and {len(shown) - limit} more"]
    return ", ".join(shown) or "default"


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clean(text: str) -> str:
    r"""Return a text without what steers a terminal; tabs and newlines stay.

    >>> clean("\x1b]0;title\x07\x1b[2Jdone\r\n")
    'done\n'
    """
    return text if text.isascii() and text.isprintable() else _HALF.sub("�", _STEERING.sub("", text))
