"""What a session of a description writes down to put everything back, so that the description need not be there then.

A description may have been edited, broken or removed since a session was killed. Commands are written down as they are
to be run, but for the session's own folder, which is not known yet and stands as ``{workdir}`` in them.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tunewright.envs import command_run, service
from tunewright.envs.command_file import Description
from tunewright.envs.command_places import Names, fill
from tunewright.envs.service_file import Ready, Service
from tunewright.envs.service_instance import Instance
from tunewright.errors import TargetError
from tunewright.sessions import originals, workfolder
from tunewright.target import BaseTarget

RUNS, DATA = "runs", "data"  # folders below the work directory: one folder a run, and what is kept for the session
KEY = "undo"  # of a state


def record(about: Description, hook: str, names: Names, *, answers: bool = False) -> dict[str, Any]:
    """Return what :func:`put_back` needs besides the user's files.

    Args:
        about: the description.
        hook: that undoes what was changed; "" for none.
        names: values of placeholders.
        answers: the user's own server must answer again afterwards.
    """
    made: dict[str, Any] = {}
    if about.hooks.get(hook):
        made["hook"] = {"hook": hook, **command_run.hook_command(about, hook, names)}
    if answers:
        server = command_run.instance(about, Path(), names)
        ready = server.service.ready
        asked = Ready(kind=ready.kind, value=server.text(ready.value), words=tuple(server.words(ready.words)))
        made["server"] = {
            "service": {**asdict(server.service), "ready": asdict(asked)}, "cwd": str(server.cwd), "env": server.env,
        }  # fmt: skip
    return made


def put_back(state: Mapping[str, Any], undo: Mapping[str, Any]) -> None:
    """End what is left of servers, put the user's files back, run the hook, and wait for the user's server.

    Args:
        state: a target's snapshot or undo.
        undo: what :func:`record` returned.

    Raises:
        TargetError: something could not be put back; all the rest is.
    """
    workdir = Path(state.get("workdir") or tempfile.gettempdir())
    if state.get("workdir"):
        service.end_left(workfolder.path_of(workdir, RUNS), stopping=True)
    problems = []
    entries = [entry if "copy" in entry else _from_text(entry) for entry in state["files"]]
    steps: list[Callable[[], object]] = [partial(originals.put_back, entry) for entry in entries]
    if "hook" in undo:
        steps.append(lambda: command_run.run_command(**_placed(undo["hook"], workdir)))
    if "server" in undo:
        steps.append(lambda: service.wait_ready(_server(undo["server"], workdir)))
    for step in steps:  # the rest all the same
        try:
            step()
        except TargetError as error:
            problems.append(str(error))
    if problems:
        raise TargetError("; ".join(problems))


def _from_text(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry for :func:`originals.put_back` of one that an earlier version kept with the file's text in it."""
    if entry["data"] is None:
        return {"path": entry["path"], "copy": None}
    handle, copy = tempfile.mkstemp(prefix="tunewright-")
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64decode(entry["data"]))
    return {"path": entry["path"], "copy": copy}


def _placed(value: Any, workdir: Path) -> Any:
    """Put the session's folder into the texts of a record."""
    if isinstance(value, str):
        return fill(value, {"workdir": str(workdir)})
    if isinstance(value, Mapping):
        return {key: _placed(each, workdir) for key, each in value.items()}
    return [_placed(each, workdir) for each in value] if isinstance(value, list | tuple) else value


def _server(said: Mapping[str, Any], workdir: Path) -> Instance:
    about = _placed(said, workdir)
    its = Service(**{**about["service"], "ready": Ready(**about["service"]["ready"])})
    return Instance(service=its, folder=workdir, names={}, cwd=Path(about["cwd"]), env=about["env"], shell=False)


class Recorded(BaseTarget):
    """Stands for a target whose description cannot be read any more, to put back what a session changed.

    Args:
        undo: what :func:`record` returned.
    """

    def __init__(self, undo: Mapping[str, Any]) -> None:
        self._undo = undo

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put back what trials changed."""
        put_back(snapshot, self._undo)

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Put back what ``apply`` changed."""
        put_back(undo, self._undo)

    def cleanup(self, workdir: Path) -> None:
        """Remove what was written for runs."""
        remove_runs(workdir)


def remove_runs(workdir: Path) -> None:
    """Remove the folders of runs and of the session's data."""
    workfolder.remove(workdir, RUNS)
    workfolder.remove(workdir, DATA)
