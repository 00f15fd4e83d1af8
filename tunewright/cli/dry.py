"""What a session is about to do, shown before it does it: the table, and ``--dry-run``, which stops there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.cli.options import console, emit, out

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.sessions.preflight import Outlook
    from tunewright.sessions.session import Session
    from tunewright.store.plan import Plan
    from tunewright.store.store import Store

_SECTIONS = {
    "changes": "changed, and put back", "restarts": "restarted", "creates": "created", "leaves": "left behind",
    "locks": "held", "notes": "to know",
}  # fmt: skip
_NONE = {"changes": "Nothing of yours.", "restarts": "Nothing.", "leaves": "Nothing."}


class Told:
    """What a run has told of itself beforehand; called by the session before it touches anything.

    Args:
        as_json: standard output is for one document.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json, self._outlook = as_json, None

    _outlook: Outlook | None

    def __call__(self, outlook: Outlook) -> None:
        """Show the table where the system is the user's, else a line; where something is missing only what that is."""
        self._outlook = outlook
        if self._as_json and not outlook.ready:
            emit({"preflight": outlook.document()})
        if not outlook.ready:
            if len(outlook.said.missing) > 1:  # one stands in the error
                _show_missing(console(), outlook.said.missing)
        elif outlook.live:
            show_outlook(console(), outlook)
        else:
            console().print(_line(outlook), style="dim", markup=False)

    def beside(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the document of a run with what was told beforehand."""
        return document if self._outlook is None else {**document, "preflight": self._outlook.document()}

    def left(self, screen: Console, session: Session, keep: bool) -> None:
        """Say what stays after the run, and how to remove it."""
        from tunewright.sessions.preflight import left_in
        from tunewright.space.amounts import size

        for text in self._outlook.said.leaves if self._outlook is not None else ():
            if str(session.workdir) in text:
                continue  # told below, with its size
            screen.print(f"left behind: {text}", style="yellow", markup=False)
        if bytes_left := left_in(session.workdir):
            why = "kept for the next run of this session" if keep else "what the measured program wrote there"
            screen.print(
                f"left behind: {session.workdir} ({size(bytes_left)}, {why}); "
                f"to remove it: rm -r {shlex.quote(str(session.workdir))}",
                style="yellow", markup=False, soft_wrap=True,
            )  # fmt: skip


def _line(outlook: Outlook) -> str:
    does = "nothing of yours is changed" if outlook.changes_nothing else "--dry-run shows what is changed"
    return f"work folder {outlook.workdir}; {does}"


def show_outlook(screen: Console, outlook: Outlook) -> None:
    """Print the table of what a session would do; what is missing stands below it, to be copied."""
    from rich.text import Text

    from tunewright.cli.terminal import table

    screen.print(Text.assemble(
        ("before anything is touched: ", "bold"), (outlook.target, "bold cyan"),
        f" · workload {outlook.workload} · session {outlook.name}" + (" · a live system" if outlook.live else ""),
    ))  # fmt: skip
    rows = table("", "")
    rows.show_header = False
    for key, title in _SECTIONS.items():
        texts = getattr(outlook.said, key) or ([_NONE[key]] if key in _NONE else [])
        for place, text in enumerate(texts):
            rows.add_row(Text("" if place else title, style="bold"), Text(text))
    missing = outlook.said.missing
    said = Text(f"{len(missing)}, below", style="red") if missing else Text("Nothing.", style="green")
    rows.add_row(Text("missing", style="bold"), said)
    screen.print(rows)
    if missing:
        screen.print()
        _show_missing(screen, missing)


def _show_missing(screen: Console, missing: Sequence[str]) -> None:
    """Print what is missing, to be copied."""
    from rich.text import Text

    screen.print(Text("Missing; nothing starts without it:", style="red"))
    for text in missing:
        screen.print(Text(text), soft_wrap=True)


def _finish(outlook: Outlook, as_json: bool) -> None:
    if as_json:
        emit({"preflight": outlook.document()})
    else:
        show_outlook(out(), outlook)
    if not outlook.ready:
        raise SystemExit(1)
    if not as_json:
        out().print("\nNothing was touched. Leave out --dry-run to begin.", markup=False)


@contextmanager
def existing(url: str | None) -> Iterator[Store | None]:
    """Open a store that is there, and make none."""
    from tunewright.store.store import Store

    if url is None or url.startswith("sqlite:///"):
        if not Path(_url(url).removeprefix("sqlite:///")).is_file():
            yield None
            return
    store = Store(url)
    try:
        yield store
    finally:
        store.close()


def _url(url: str | None) -> str:
    from tunewright.store.paths import home

    return url or f"sqlite:///{home() / 'sessions.db'}"


def new(
    plan: Plan, name: str | None, url: str | None, *, trials: int | None, minutes: float | None, as_json: bool,
    trust_file: bool,
) -> None:  # fmt: skip
    """Show what a new session would do.

    Raises:
        TunewrightError: such a session cannot work, with the reason.
        SystemExit: with code 1, something is missing.
    """
    from tunewright.errors import ConfigError
    from tunewright.sessions.preflight import look
    from tunewright.sessions.recovery import opened
    from tunewright.sessions.setup import set_up
    from tunewright.store.dsn import read_dsn

    with existing(url) as store:
        if store is not None and name in store.names() and not store.fruitless(name or ""):
            raise ConfigError(f"a session named {name!r} exists already; continue it with 'tunewright resume {name}'")
        target = opened(plan)
        set_up(plan, "probe", target, trust_file=trust_file)
        called = name or free_name(store, plan.target)
        public = read_dsn(_url(url)).public
        _finish(look(plan, target, called, store_url=public, store=store, trials=trials, minutes=minutes), as_json)


def stored(
    name: str, url: str | None, spec: str | None, options: Mapping[str, str], tuner_options: Mapping[str, str], *,
    trials: int | None, minutes: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Show what the next run of a stored session would do; errors as for ``new``."""
    from tunewright.errors import unknown
    from tunewright.plugins import reopen
    from tunewright.sessions.preflight import look
    from tunewright.sessions.recovery import stored_plan

    with existing(url) as store:
        if store is None:
            raise unknown("session", name, [])
        record = store.session(name)
        plan = stored_plan(name, record, tuner_options, spec=spec, options=options)
        target = reopen(name, record, spec, options)
        public = store.public_url
        _finish(look(plan, target, name, store_url=public, store=store, trials=trials, minutes=minutes), as_json)


def free_name(store: Store | None, target: str) -> str:
    """Return a name for a new session of a target: one that is free, or whose session failed before it began.

    Args:
        store: where it is going to be kept; None where that does not exist yet.
        target: target spec.
    """
    from tunewright.plugins import split_spec

    kind, argument = split_spec(target)
    base = Path(argument).name.split(".")[0] if kind in ("table", "command") and argument else kind
    taken = set(store.names()) if store is not None else set()

    def free(name: str) -> bool:
        if store is None or name not in taken:
            return True
        return store.fruitless(name) and store.session(name).get("status") == "interrupted"

    return next(f"{base}-{i}" for i in range(1, len(taken) + 2) if free(f"{base}-{i}"))
