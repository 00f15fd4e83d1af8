"""What a person sees while a session runs: one line a trial, and a live line with the best so far and the time left."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunewright.report.words import duration, number, settings
from tunewright.sessions.watcher import View, Watcher
from tunewright.store.export import missed
from tunewright.store.secrets import redact
from tunewright.tuner import Trial

_MARKS = {"failed": "✗", "timed out": "⧖", "killed": "✗", "rejected": "⊘", "interrupted": "…"}


def _line(text: str) -> str:
    """Return what somebody else wrote without secrets and in one line, so that it cannot pass for lines of ours."""
    return " ".join(str(redact(text)).split())


class Progress(Watcher):
    """Live display on a terminal; plain lines elsewhere.

    Args:
        console: where to draw.
        trials: planned number of decided trials in all, or None.
        minutes: planned minutes, or None.
        quiet: draw nothing.
    """

    def __init__(self, console: Console, *, trials: int | None, minutes: float | None, quiet: bool = False) -> None:
        self.console, self.trials, self.minutes, self.quiet = console, trials, minutes, quiet
        self.begun, self.first = time.monotonic(), 0
        self.status = ""
        self.session: View | None = None
        self.headed = False  # whether it stands above the trials what their columns are
        self.verify_started: float | None = None
        self.live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Progress:
        if not self.quiet and self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.live.stop()

    def preparing(self, session: View) -> None:
        """Say so."""
        self.session, self.first = session, len(session.decided)
        self.headed = False
        self.status = "preparing data and calibrating the amount of work"
        if self.first:
            self._print(Text(f"resuming after {self.first} trials", style="dim"))

    def began(self, session: View, trial: Trial) -> None:
        """Show what is tried and why."""
        self.session = session
        what = settings(session.space.changes(trial.config), 4)
        self.status = f"trial {len(session.decided) + 1}{self._of()}: {what} — {redact(trial.why)}"

    def ended(self, session: View, trial: Trial) -> None:
        """Print a line."""
        self.session = session
        if trial.step == 0 and trial.status in ("failed", "timed out", "killed"):
            return  # the session ends with an error that says so
        metric = session.objectives[0]
        if not self.headed:
            self.headed = True
            head = f"{'trial':>5}  {metric.name:>10.40} {'':<12} in search  changed from the default  · why"
            self._print(Text(head, style="dim"))
        line = Text(f"{trial.number:>5}")
        if trial.ok:
            best = session.best
            mark = "★" if best is not None and best.number == trial.number and trial.step > 0 else " "
            style = "green" if mark == "★" else ("" if trial.feasible else "yellow")
            ratio = f"{trial.ratio:.2f}×" if trial.ratio is not None else ""
            line.append(f"{mark} {number(trial.scores[metric.name]):>10} {metric.unit:<12} {ratio:>9}  ", style=style)
            if not trial.feasible:
                line.append(f"[misses {missed(trial.violations)}] ", style="yellow")
        else:
            line.append(f"{_MARKS.get(trial.status, '?')} {trial.status}: {_line(trial.reason)}  ", style="red")
        line.append(settings(session.space.changes(trial.config), 6), style="default" if trial.ok else "dim")
        line.append(f"  · {_line(trial.why)}", style="dim")
        self._print(line)

    def told(self, session: View, text: str) -> None:
        """Say it."""
        self._print(Text(text, style="yellow"))

    def exhausted(self, session: View, reason: str) -> None:
        """Say why the session ends before its budget."""
        self._print(Text(f"the tuner proposes nothing more: {_line(reason)}", style="yellow"))

    def explaining(self, session: View, more: int) -> None:
        """Count the trials that come on top."""
        self.trials = len(session.decided) + more
        self._print(Text(f"taking back each of {more} changes of the best, to see what it gives …", style="dim"))

    def verifying(self, session: View, done: int, of: int, what: str) -> None:
        """Show how far the verification is."""
        if not self.status.startswith("verifying"):
            self.verify_started = time.monotonic()
            self._print(Text("verifying on fresh runs …", style="dim"))
        self.status = f"verifying {what}: pair {min(done + 1, of)} of {of}"

    def _of(self) -> str:
        return f" of {self.trials}" if self.trials else ""

    def _print(self, line: Text) -> None:
        if not self.quiet:
            if self.console.is_terminal:
                self.console.print(line, no_wrap=True, overflow="ellipsis")
            else:
                self.console.print(line, soft_wrap=True)

    def _left(self) -> str:
        session = self.session
        if session is None:
            return ""
        spent, done = time.monotonic() - self.begun, len(session.decided) - self.first
        if self.minutes is not None:
            return f"up to {duration(max(60 * self.minutes - spent, 0))} left, then verification"
        if not done or self.trials is None or self.verify_started is not None:
            return ""
        each = spent / done
        pair = 2 * max(
            (sum(float(r["seconds"]) for r in t.runs) / max(len(t.runs), 1) for t in session.decided[-5:]),
            default=0,
        )
        rest = each * max(self.trials - len(session.decided), 0) + pair * session.level.verify_least
        return f"about {duration(rest)} left"

    def _render(self) -> Any:
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_row(Text.assemble(("▶", "cyan"), f" {_line(self.status)}"))
        session = self.session
        if session is not None and (words := session.target.waiting(session.workdir)):
            table.add_row(Text(f"  {_line(words)}", style="yellow"))
        best = session.best if session else None
        if session is not None and best is not None:
            name = session.objectives[0]
            done = f"{len(session.decided)}{self._of()} trials"
            ratio = f" {best.ratio:.2f}×" if best.ratio is not None and best.step else ""
            shown = f"{number(best.scores[name.name])} {name.unit}{ratio}"
            done += f" · {session.careful}" if session.careful else ""
            text = f"  {done} · best of the search so far {shown}, not verified yet · {self._left()}"
            table.add_row(Text(text.rstrip(" ·"), style="bold"))
        return table
