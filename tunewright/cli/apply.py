"""The commands ``apply`` and ``rollback``: a configuration goes into service, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, SecretOption, SessionName, StoreUrl, command, console, say
from tunewright.cli.sessions import reading
from tunewright.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer()
OtherTarget = Annotated[str | None, Option("--target", help="Target spec to use instead of the stored one.")]


@contextmanager
def _ended(what: str, then: str) -> Iterator[None]:
    """Say what a signal did to a command that nothing interrupts half-way."""
    try:
        yield
    except KeyboardInterrupt:
        console().print(f"{what} was stopped; nothing is half done: {then}", markup=False)
        raise SystemExit(130) from None


def _show_applied(screen: Console, document: dict[str, Any]) -> None:
    from tunewright.cli.display import show_settings

    name = document["name"]
    if "as" in document:
        if document["file"] is not None:
            screen.print(f"wrote {document['file']}; nothing in service was changed", markup=False)
        else:
            screen.print(document["text"], end="", markup=False, soft_wrap=True)
        return
    screen.print(
        f"applied trial {document['trial']} of session {name}; undo with: tunewright rollback {name}", markup=False
    )
    show_settings(screen, document["settings"])
    for text in document["still_to_do"]:
        screen.print(text, style="yellow", markup=False)
    screen.print(f"See whether the gain lasts: tunewright watch {name}", style="dim", markup=False)


@command(app, "apply", _show_applied)
def apply(
    name: SessionName,
    to: Annotated[str | None, Option(
        "--to", help="What to apply to, where the target needs it: a database file, a DSN.")] = None,
    target: OtherTarget = None,
    option: SecretOption = None,
    trial: Annotated[int | None, Option(
        "--trial", help="Number of the trial to apply; default: the verified winner.")] = None,
    force: Annotated[bool, Option("--force", help="Apply although no improvement was shown.")] = False,
    form: Annotated[str | None, Option(
        "--as", metavar="FORM", help="Change nothing in service; print the configuration as operations keep it: conf.d "
        "(lines of a configuration file), sql (ALTER SYSTEM, SET GLOBAL, PRAGMA), systemd (a drop-in), ansible, "
        "diff (of each file against what it is today), env (NAME=value lines).")] = None,
    output: Annotated[Path | None, Option(
        "--output", "-o", help="With --as: write it to this file, which must not exist yet.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Put the best configuration into service; 'tunewright rollback' undoes it.

    With --as it only writes what your own deployment takes: tunewright apply NAME --as ansible -o tuned.yml
    """
    from tunewright.plugins import parse_options
    from tunewright.sessions.service import apply_session, session_form
    from tunewright.store.outputs import check_new, write_text

    options = parse_options(option)
    if form is None and output is not None:
        raise ConfigError("-o is for a form: add --as conf.d, sql, systemd, ansible, diff or env")
    if form is not None:
        if to is not None:
            raise ConfigError("--as writes a text and changes nothing in service; leave out --to")
        if output is not None:
            check_new(output)
        with reading(store) as opened:
            said = session_form(opened, name, form, spec=target, number=trial, force=force, options=options)
        if output is not None:
            check_new(output)
            write_text(output, said["text"])
        return {**said, "file": None if output is None else str(output)}
    with reading(store) as opened, _ended("apply", f"'tunewright rollback {name}' says whether it took effect"):
        return apply_session(opened, name, to=to, spec=target, number=trial, force=force, options=options, say=say)


@command(app, "rollback", lambda screen, document: screen.print(document["message"], markup=False))
def rollback(
    name: SessionName,
    target: OtherTarget = None,
    option: SecretOption = None,
    after_reboot: Annotated[bool, Option(
        "--after-reboot", help="Set the machine's settings to what they were before the session, though it was started "
        "anew since; without it, what differs is only told.")] = False,
    dry_run: Annotated[bool, Option(
        "--dry-run", help="Tell what would be put back, and change nothing.")] = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Undo 'apply', or put back what a killed session left changed."""
    from tunewright.measuring.interrupts import uninterrupted
    from tunewright.plugins import parse_options
    from tunewright.sessions.service import rollback_session
    from tunewright.sessions.undoing import outlook

    if dry_run:
        with reading(store) as opened:
            return outlook(opened, name)
    told = "run it again, and it says whether there is anything left"
    with _ended("rollback", told), uninterrupted(), reading(store) as opened:
        options = parse_options(option)
        return rollback_session(opened, name, spec=target, options=options, say=say, after_reboot=after_reboot)
