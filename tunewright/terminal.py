"""What reaches a terminal: texts of programs, files and models, without the characters that would steer it.

A benchmark's output, a trace's label or a model's answer may hold escape sequences that set a window's title, clear it,
or answer for the user. Every text goes through ``clean`` on its way out, in one place for all commands: ``screen``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

_STEERING = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # a control sequence: colours, moves, clearing
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # a string for the terminal: titles, links, the clipboard
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # other control characters, but for tab and newline
    r"|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # what turns the direction of text, or ends a line unseen
)
_HALF = re.compile(r"[\ud800-\udfff]")  # a byte of a file's name that is no text; it cannot be printed


def clean(text: str) -> str:
    r"""Return a text without what steers a terminal; tabs and newlines stay.

    >>> clean("\x1b]0;title\x07\x1b[2Jdone\r\n")
    'done\n'
    """
    return text if text.isascii() and text.isprintable() else _HALF.sub("�", _STEERING.sub("", text))


def screen(*, stderr: bool = False) -> Console:
    """Return standard output or standard error as a console whose texts are cleaned, and are no markup.

    The console's own colours and moves are not texts, and stay.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Screen(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(clean(segment.text), segment.style)

    settings: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    return Screen(stderr=stderr, **settings)
