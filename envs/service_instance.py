"""A server of a description, running or about to: its folder, what is written down of it, and its main process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs import service_process as processes
from tunewright.envs.command_places import Names, arguments, fill
from tunewright.envs.service_file import Service
from tunewright.envs.service_process import Process
from tunewright.errors import TargetError

NOTE, LOG, STATE = ".server.pid", ".server.log", ".server.json"
CLOCK_TICKS = 10  # by which the clock and the starts of processes may differ


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A server of a description, running or about to.

    Attributes:
        service: what the description says of it.
        folder: its own; ``{rundir}``.
        names: values of placeholders.
        cwd: of its commands.
        env: variables on top of the environment.
        shell: a command that is one text goes through the shell.
    """

    service: Service
    folder: Path
    names: Names
    cwd: Path
    env: Mapping[str, str]
    shell: bool

    @property
    def state(self) -> dict[str, Any]:
        """What is written down of it."""
        return read_state(self.folder)

    def note(self, **changes: Any) -> None:
        """Write down something about it, whole."""
        part = self.folder / f"{STATE}.part"
        try:
            part.write_text(json.dumps({**self.state, **changes}), encoding="utf-8")
            os.replace(part, self.folder / STATE)
        except OSError as error:
            raise TargetError(f"cannot write {part}, by which the server is found again: {error.strerror}") from None

    def words(self, words: Sequence[str]) -> list[str]:
        """Return a command's arguments."""
        if self.shell and len(words) == 1:
            return ["/bin/sh", "-c", fill(words[0], self.names) or ""]
        return arguments(words, self.names)

    def text(self, template: str) -> str:
        """Return a text with its placeholders filled in."""
        return fill(template, self.names) or ""

    @property
    def logs(self) -> list[Path]:
        """Where it prints: its own log, and its output."""
        own = [self.cwd / self.text(self.service.log)] if self.service.log else []
        return [*own, self.folder / LOG]

    def main(self) -> Process | None:
        """Return its main process, alive or not; None where it is not known."""
        return main_of(self.folder, self.state)

    def command(self, what: str, words: Sequence[str], limit_s: float) -> None:
        """Run one of the commands around it.

        Raises:
            TargetError: it failed, or took too long.
        """
        run_command(what, self.words(words), cwd=self.cwd, env=self.env, limit_s=limit_s)


def run_command(what: str, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], limit_s: float) -> None:
    """Run a command around a server; see :meth:`Instance.command`."""
    code, output = processes.command(words, cwd=cwd, env=env, limit_s=limit_s)
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    said = f"; it last said: {last[:300]}" if last else ""
    if code is None:
        raise TargetError(f"the {what} command took more than {limit_s:g} s and was ended{said}")
    if code:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        raise TargetError(f"the {what} command {how}{said}")


def read_state(folder: Path) -> dict[str, Any]:
    """Return what is written down of a server in a folder; nothing where there is none."""
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main_of(folder: Path, state: Mapping[str, Any]) -> Process | None:
    """Return the main process of the server that is written down in a folder; None where it is not known."""
    if not state.get("daemon"):
        return processes.written_down(folder / NOTE)
    if state.get("main"):
        pid, started = state["main"]
        return Process(pid=int(pid), started=int(started))
    return in_background(state)


def in_background(state: Mapping[str, Any]) -> Process | None:
    """Find a server in the background: by its file, or by what listens; nothing that ran before its start is it."""
    candidates: list[Process] = []
    with suppress(OSError, ValueError):
        if state.get("pid_file"):
            found = processes.process(int(Path(state["pid_file"]).read_text(encoding="utf-8").split()[0]))
            candidates = [found] if found else []
    if not candidates and not state.get("pid_file"):
        kind, _, address = str(state.get("listens", "")).partition(" ")
        if kind == "tcp":
            candidates = processes.listeners(int(address.rpartition(":")[2]))
        elif kind == "unix":
            candidates = processes.unix_listeners(address)
    return next((p for p in candidates if p.started >= int(state.get("begun", 0)) - CLOCK_TICKS), None)
