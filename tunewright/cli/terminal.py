"""What reaches a terminal: texts of programs, files and models, without the characters that would steer it.

A benchmark's output, a trace's label or a model's answer may hold escape sequences that set a window's title, clear it,
or answer for the user. Every text goes through ``clean`` on its way out, in one place for all commands: ``screen``.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any

from tunewright.report.words import clean

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.table import Table

_UNLIMITED = 100_000  # characters a line, where there is no terminal


def screen(*, stderr: bool = False) -> Console:
    """Return standard output or standard error as a console whose texts are cleaned, and are no markup.

    The console's own colours and moves are not texts, and stay. Where no terminal limits the width, such as in a pipe
    or a file, nothing is wrapped or cut.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Screen(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(clean(segment.text), segment.style)

    settings: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    made = Screen(stderr=stderr, **settings)
    if not made.is_terminal:
        made.width = _UNLIMITED
    return made


def table(*columns: str, numbers: Container[str] = (), **settings: Any) -> Table:
    """Return an empty table without lines.

    On a narrow terminal a cell folds and loses no letter: names are typed again.

    Args:
        columns: their heads; without any there is no head.
        numbers: columns that stand to the right.
        settings: of every column, such as ``no_wrap``.
    """
    from rich.table import Table

    empty = Table(box=None, pad_edge=False, header_style="dim", show_header=bool(columns))
    for column in columns:
        empty.add_column(column, justify="right" if column in numbers else "left", **{"overflow": "fold", **settings})
    return empty
