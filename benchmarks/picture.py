"""A command of ours as a picture of its terminal: python benchmarks/picture.py FILE.svg COMMAND ...

The command runs for real. What the pages show was made, in a folder of its own, by::

    picture.py preflight.svg tune postgres:postgresql://tuner@127.0.0.1:5477/shop --dry-run
    tunewright recipes copy redis-live shop.toml    (with the address of a Redis)
    picture.py preflight_redis.svg tune shop.toml --dry-run
    tunewright tune recipe:nginx --trials 8 --trust fast --name nginx-1
    picture.py service.svg show nginx-1
"""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tunewright.cli import main, terminal

_WIDTH = 118  # characters
# the fonts of whoever looks: nothing is fetched from elsewhere
_FONT = re.compile(r"\s*@font-face \{.*?\}", re.S)


def record(arguments: list[str]) -> tuple[int, Console]:
    """Run a command line, and return its exit code and a console that shows all that it printed, as a terminal does."""
    console = terminal.screen()
    console.file, console.record, console.width = io.StringIO(), True, _WIDTH
    terminal.screen = lambda **_: console
    code = main(arguments)
    shown = Console(file=io.StringIO(), record=True, width=_WIDTH, highlight=False)
    lines = [line.rstrip() for line in console.export_text(styles=True).splitlines()]
    shown.print(Text.from_ansi("\n".join(lines), overflow="fold"))  # a line that is too long goes on in the next
    return code, shown


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    exit_code, screen = record(sys.argv[2:])
    print(screen.export_text(clear=False))
    drawing = screen.export_svg(title=shlex.join(["tunewright", *sys.argv[2:]]), theme=DIMMED_MONOKAI)
    drawing = _FONT.sub("", drawing).replace("Fira Code, monospace", "DejaVu Sans Mono, Menlo, Consolas, monospace")
    Path(sys.argv[1]).write_text("\n".join(line.rstrip() for line in drawing.splitlines()) + "\n", encoding="utf-8")
    sys.exit(exit_code)
