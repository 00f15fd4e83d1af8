"""The command line as a whole: the core's commands, those of other packages, and the exit code of each outcome."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo

from tunewright.cli import apply, catalogue, comparing, sessions, tune, watch
from tunewright.cli.options import console
from tunewright.errors import ConfigError, TunewrightError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_CORE: dict[str, CommandInfo | typer.Typer] = {
    str(info.name): info for room in (tune, sessions, apply, watch, catalogue) for info in room.app.registered_commands
} | {"compare": comparing.compare_app}
#: our own commands in the order of the help: settings are tuned first, then looked at, applied, and the rest
_ORDER = (
    "tune", "resume", "list", "show", "export", "report", "apply", "rollback", "watch", "advise", "targets",
    "tuners", "recipes", "init", "check", "dashboard", "trace", "read", "place", "train", "rules", "plan", "simulate",
    "compare",
)  # fmt: skip


_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # Typer exports no other name for it


class Misused(TunewrightError):
    """A command line that cannot be understood."""


class Commands(TyperGroup):
    """The core's commands, and those that packages name under the entry points ``tunewright.commands``.

    A command is built when it is called, and a package imported then, or for the list of all commands. A package that
    is broken is left out of the list, and said; the others work.
    """

    @cached_property
    def points(self) -> dict[str, EntryPoint]:
        """Commands of packages by name."""
        from tunewright.plugins import COMMANDS, installed

        return {name: point for name, point in installed(COMMANDS).items() if name not in _CORE}

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the program's own options; what cannot be read is one line, not Typer's box."""
        with _misuse():
            return super().make_context(*args, **extra)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands that work: ours in their order, then the others."""
        for name in (*_CORE, *self.points):
            try:
                # nothing is run after the list of all: the help is enough, and parameters take long
                self.commands[name] = self._built(name, _headline)
            except TunewrightError as error:
                console().print(str(error), style="yellow", soft_wrap=True)
        ours = [name for name in _ORDER if name in self.commands]
        return [*ours, *sorted(self.commands.keys() - set(ours))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, imported now if need be; None if there is none of this name.

        Raises:
            ConfigError: its package is broken.
        """
        if cmd_name not in self.commands and (cmd_name in _CORE or cmd_name in self.points):
            self.commands[cmd_name] = self._built(cmd_name, _whole)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names; all names are known to suggest one where there is none."""
        if args and self.get_command(ctx, args[0]) is None:
            self.list_commands(ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what it reads is noted, so that it is not written over."""
        from tunewright.store.files import noting_inputs

        with noting_inputs(), _misuse():
            return super().invoke(ctx)

    def _built(self, name: str, build: Callable[[str, CommandInfo | typer.Typer], Any]) -> Any:
        if name in _CORE:
            return build(name, _CORE[name])
        from tunewright.plugins import broken, load

        named = load(self.points[name], "command")
        try:
            return build(name, _part(named))
        except Exception as error:
            raise ConfigError(broken(self.points[name], "command", error, "is no command")) from error


def _part(named: Any) -> CommandInfo | typer.Typer:
    """Return what an entry point names as one command or a group of several: an app of one command is that command.

    Raises:
        TypeError: it is neither an app nor a function.
    """
    if not isinstance(named, typer.Typer):
        if not callable(named):
            raise TypeError(f"a Typer app or a function is needed, not {type(named).__name__}")
        return CommandInfo(callback=named)
    commands: list[CommandInfo] = named.registered_commands
    single = len(commands) == 1 and not named.registered_groups and not named.registered_callback
    return commands[0] if single else named


@contextmanager
def _misuse() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help
            raise
        said = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "tunewright"
        then = " See" if said.endswith("?") else "; see"
        raise Misused(f"{said[:1].lower()}{said[1:]}{then} '{where} --help'") from error


def _whole(name: str, part: CommandInfo | typer.Typer) -> Any:
    """Build a command with its parameters, or a group with its commands."""
    holder = typer.Typer(rich_markup_mode="rich")
    if isinstance(part, typer.Typer):
        holder.add_typer(part, name=name)
    else:
        holder.registered_commands.append(part)
    [command] = typer.main.get_group(holder).commands.values()
    command.name = name
    return command


def _headline(name: str, part: CommandInfo | typer.Typer) -> Any:
    """Build only what the list of commands shows."""
    if isinstance(part, typer.Typer):
        text = part.info.help
        return TyperCommand(name, help=text) if isinstance(text, str) else _whole(name, part)
    return TyperCommand(
        name, help=part.help or inspect.getdoc(part.callback), short_help=part.short_help, hidden=part.hidden,
        deprecated=part.deprecated, rich_help_panel=part.rich_help_panel,
    )  # fmt: skip


app = typer.Typer(
    name="tunewright", cls=Commands,
    help="Tune a real system, and trust the answer.\n\nStart with: [bold]tunewright tune sqlite[/bold]",
    epilog="A target is a name (see 'tunewright targets'), table:FILE.csv, or the path of a TOML file for your own "
    "program.",
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
)  # fmt: skip


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed_version

        print(f"tunewright {installed_version('tunewright')}")
        raise typer.Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line: expected errors become one line and an exit code.

    Args:
        argv: its words, without the program's name; None for those of this process.

    Returns:
        The exit code.
    """
    from tunewright.measuring.interrupts import again, interrupt

    hook, handlers = sys.unraisablehook, {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    sys.unraisablehook = again
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # nohup's SIGHUP stays ignored
            signal.signal(number, interrupt)

    def restore() -> None:  # for a program that goes on
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)

    try:
        try:
            return _exit_code(argv)
        finally:
            restore()
    except KeyboardInterrupt:  # a second signal, just when the command had ended
        restore()
        return 130


def _exit_code(argv: Sequence[str] | None) -> int:
    try:
        app(args=None if argv is None else list(argv), prog_name="tunewright")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Misused as error:
        return _fail(str(error), 2)
    except TunewrightError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UnicodeEncodeError as error:  # a word of the command line holds bytes that are no text
        return _fail(f"{error.object[:200]!a} cannot be written as {error.encoding}; rename it")
    except MemoryError:
        return _fail("there is not enough memory for this; ask for less")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not error.filename and not _somewhere():
            return _fail("the current directory is gone; change to one that is there")
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    return 0


def _somewhere() -> bool:
    """Whether the current directory is there."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _fail(message: str, code: int = 1) -> int:
    from tunewright.report.words import clean
    from tunewright.store.files import one_line
    from tunewright.store.secrets import redact

    print(f"error: {one_line(clean(redact(message)))}", file=sys.stderr)
    return code
