"""The command ``watch``: whether an applied configuration keeps its gain."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, SecretOption, SessionName, StoreUrl, console, emit_line, out, say
from tunewright.cli.sessions import reading

app = typer.Typer()
_ALARM = 3  # exit code


@app.command("watch")
def watch(
    name: SessionName,
    every: Annotated[str, Option("--every", metavar="TIME", help="Time between looks: 30min, 1h, 1d.")] = "1h",
    times: Annotated[int | None, Option("--times", min=1, help="End after this many looks; default: never.")] = None,
    auto: Annotated[bool, Option(
        "--auto", help="Take the configuration back when its gain is gone, instead of proposing it.")] = False,
    pairs: Annotated[bool | None, Option(
        "--pairs/--no-pairs", help="Measure in turn with what was there before, or only what is in service, against "
        "stored runs. Default: in pairs, unless that restarts a live system for every run.")] = None,
    to: Annotated[str | None, Option("--to", help="What it was applied to, as for 'apply'.")] = None,
    target: Annotated[str | None, Option("--target", help="Target spec to use instead of the stored one.")] = None,
    option: SecretOption = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """After 'apply': measure again from time to time, and tell when the gain is gone.

    A look is a small verification. It alarms by its interval, never by a single run: all looks together raise a false
    alarm in at most 5 of 100 cases, however long it lasts. What was found is kept in the session, so that a watch that
    was stopped goes on where it was. Ctrl-C ends it; whatever it was measuring is put back.

    With --times 1 it is a job for cron: exit code 0 where the gain holds or nothing is decided, 3 where it is gone.
    --json prints one line for each look.
    """
    from tunewright.errors import HeldError
    from tunewright.plugins import parse_options
    from tunewright.sessions.watch import ALARMS, check_watchable, due, look_again
    from tunewright.space.amounts import seconds

    every_s, looked, last, options = seconds(every), 0, "", parse_options(option)
    how: dict[str, Any] = {"pairs": pairs, "auto": auto, "to": to, "spec": target, "options": options, "say": say}
    try:
        with reading(store) as opened:
            check_watchable(opened, name)
            while times is None or looked < times:
                _wait(due(opened.session(name), every_s))
                try:
                    found = look_again(opened, name, **how)
                except HeldError as error:  # the next time
                    console().print(f"this look is left out: {error}", style="yellow", markup=False)
                    _wait(time.time() + min(every_s, 60.0), quiet=True)
                    continue
                looked, last = looked + 1, "" if found.rolled_back else found.state
                if as_json:
                    emit_line({"session": name, **found.document()})
                else:
                    shown = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.at))
                    style = "red" if found.state in ALARMS else "green" if found.state == "holds" else ""
                    out().print(f"{shown}  {found.sentence}", style=style, markup=False)
                if found.rolled_back:
                    break
    except KeyboardInterrupt:
        console().print(f"stopped; nothing is half done. Go on with: tunewright watch {name}", markup=False)
        raise SystemExit(130) from None
    if last in ALARMS:
        raise SystemExit(_ALARM)


def _wait(until: float, *, quiet: bool = False) -> None:
    """Sleep until a time, in pieces, so that a clock that is put forward counts."""
    if until > time.time() and not quiet:
        shown = time.strftime("%Y-%m-%d %H:%M", time.localtime(until))
        console().print(f"the next look is at {shown}", style="dim", markup=False)
    while (left := until - time.time()) > 0:
        time.sleep(min(left, 5.0))
