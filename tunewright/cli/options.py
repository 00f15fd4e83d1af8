"""What commands share, those of other packages too: options that are declared once, and how a document is printed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer import Option

from tunewright.errors import TunewrightError

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, Option("--json", help="Print one JSON document on standard output and nothing else there.")]
StoreUrl = Annotated[str | None, Option(
    "--store", metavar="URL", envvar="TUNEWRIGHT_STORE", help="Where sessions are kept: sqlite:///FILE or "
    "postgresql://HOST/DB. Default: a file in your data directory.",
)]  # fmt: skip
TrustFile = Annotated[bool, Option("--trust-file", help=(
    "Open an agent's file of pickled Python (Stable-Baselines3's own), which can run any code; only if you trust "
    "whoever made it."
))]  # fmt: skip
ModelName = Annotated[str | None, Option("--model", metavar="NAME", help="Language model to ask.")]
BaseUrl = Annotated[str | None, Option(
    "--base-url", metavar="URL", help="Its OpenAI-compatible endpoint; the key is taken from OPENAI_API_KEY."
)]  # fmt: skip
TargetOption = Annotated[list[str] | None, Option(
    "--option", "-O", metavar="KEY=VALUE",
    help="Option of the target; repeatable. 'tunewright show TARGET' lists them.",
)]  # fmt: skip
SecretOption = Annotated[list[str] | None, Option(
    "--option", "-O", metavar="KEY=VALUE", help="Option of the target in the place of the stored one, such as a "
    "secret, which is not stored; repeatable.",
)]  # fmt: skip
SessionName = Annotated[str, typer.Argument(help="Name of the session.")]

Function = TypeVar("Function", bound=Callable[..., Any])


def command(app: typer.Typer, name: str, show: Callable[[Console, Any], None]) -> Callable[[Function], Function]:
    """Make a function a command that prints the document it returns: as JSON with ``--json``, else for people.

    The function itself stays as it is, for Python; its parameter ``as_json`` of type ``Json`` is for the command.

    Args:
        app: where the command is added.
        name: of the command.
        show: prints the document for people.
    """

    def register(function: Function) -> Function:
        @app.command(name)
        @functools.wraps(function)
        def run(as_json: bool, **given: Any) -> None:
            document = function(as_json=as_json, **given)
            if as_json:
                emit(document)
            else:
                show(out(), document)

        return function

    return register


def console() -> Console:
    """Return the screen for people's eyes: standard error."""
    from tunewright.cli.terminal import screen

    return screen(stderr=True)


def out() -> Console:
    """Return standard output."""
    from tunewright.cli.terminal import screen

    return screen()


def say(text: str) -> None:
    """Tell a person something beside the document."""
    console().print(text, style="yellow", markup=False)


def emit(document: Any) -> None:
    """Print a document as JSON.

    Raises:
        TunewrightError: a number in it is not finite, which JSON has no form for.
    """
    print(document_text(document))


def emit_line(document: Any) -> None:
    """Print a document as one line of JSON, at once: commands that go on print several."""
    print(json.dumps(document, default=str, allow_nan=False), flush=True)


def document_text(document: Any) -> str:
    """Return a document as JSON; errors as for ``emit``."""
    try:
        return json.dumps(document, indent=2, default=str, allow_nan=False)
    except ValueError as error:
        raise TunewrightError(f"the numbers given lead to a result that is not finite: {error}") from None


def listed(words: str | None) -> list[str]:
    """Return the parts of ``A,B,...``; none for no text."""
    return [part.strip() for part in (words or "").split(",") if part.strip()]


@contextmanager
def steps(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar on the terminal; yields ``tick(done, total, words)``."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.description}", markup=False),
        TimeElapsedColumn(),
    )
    screen = console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=1)

        def tick(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, description=words)

        yield tick
