"""What measuring a described program changes, runs and leaves, told before the first run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunewright.envs import loads
from tunewright.envs.command_file import Description
from tunewright.envs.command_guarantees import fixed
from tunewright.envs.command_used import first_program, missing_program
from tunewright.target import Preflight

_WHEN = {"reset": "before every run", "apply": "before every run", "rollback": "once at the end"}
_SERVERS = ("rollback",)  # hooks for a server that is up already; one of the session's own ends with what it was given
_STARTERS = re.compile(r"\b(restart|systemctl|service|pg_ctl|shutdown)\b|\bstop\b|\bkill(all)?\b")
_SHOWN = 100  # characters of a command that are shown


def preflight(description: Description, serves: bool, workdir: Path) -> Preflight:
    """Look at what a session would do with a described program; nothing is run and nothing is written.

    Args:
        description: what the TOML file says.
        serves: the session starts a server of its own.
        workdir: of the session.
    """
    own = [description.cwd / f.path for f in description.files_for("trials") if not f.inside]
    hooks = {n: words for n, words in description.hooks.items() if n in _WHEN and not (serves and n in _SERVERS)}
    its = description.service
    changes = [_file_words(path) for path in own]
    restarts: list[str] = []
    kept = fixed(description.space, description.guarantees)
    if "apply" in hooks:
        tried = [
            n for n in description.space.params if n not in kept and n not in {k.name for k in description.machine}
        ]
        changes.append(f"New values are given to {_listed(tried, 12)}.")
    for hook, command in hooks.items():
        again = ", and once more with the default's values at the end, as there is no rollback command"
        when = _WHEN[hook] + (again if hook == "apply" and "rollback" not in hooks and not serves else "")
        said = f"The {hook} command of {description.path.name} runs {when}: {_shown(command)}"
        (restarts if _STARTERS.search(" ".join(command)) else changes).append(said)
    params = [p for p in description.space.params.values() if p.restart != "none" and p.name not in kept]
    costly = [f"{p.name} ({p.restart})" for p in params]
    notes = []
    if costly and its is None:
        does = "the apply command has to do it" if "apply" in hooks else (
            "each run starts the command anew; a server that is up already would not notice, for that give an apply "
            "command under [hooks]"
        )  # fmt: skip
        notes.append(f"New values of {_listed(costly)} take more than being written: {does}.")
    where = " in a shell" if description.shell else ""
    notes.append(f"Every run is the command{where}: {_shown(description.command)}")
    if description.tool:
        notes.append(f"The load is {description.tool}; its own figures are the metrics.")
    inside = [f.path for f in description.files_for("trials") if f.inside]
    creates = [f"{path.replace('{workdir}', str(workdir))} is written for runs." for path in inside]
    leaves = [] if serves else _left(description)
    words = [*description.command, *(word for hook in hooks.values() for word in hook)]
    if any("{workdir}" in word for word in words):
        leaves.append(f"What the program writes below {workdir} itself stays there; its path is told at the end.")
    return Preflight(
        changes=changes, restarts=restarts, creates=creates, leaves=leaves, missing=_missing(description, hooks, own),
        notes=notes,
    )  # fmt: skip


def _left(description: Description) -> list[str]:
    """Say what the load leaves in a server of the user's; one that the session starts goes with its data."""
    named = Path(first_program(description.command, description.shell)).name
    tool = description.tool or (named if named in loads.names() else "")
    if tool and (said := loads.leaves(tool)):
        undone = "the rollback command may remove that" if "rollback" in description.hooks else (
            "a rollback command under [hooks] can remove that"
        )  # fmt: skip
        return [f"{said}; {undone}."]
    return [] if description.service is None or tool else ["What the load writes into the server stays there."]


def _file_words(path: Path) -> str:
    if path.exists():
        return f"{path} is written before every run, and put back at the end from a copy that survives a kill."
    return f"{path}, which is not there, is written before every run, and removed at the end."


def _missing(description: Description, hooks: Mapping[str, Sequence[str]], own: Sequence[Path]) -> list[str]:
    """Return what this user may not do, as the command that allows it."""
    missing = []
    for path in own:
        real = Path(os.path.realpath(path))
        if real.exists():
            if not real.is_file():
                missing.append(f"{path} is no ordinary file: name another one in {description.path}")
            elif not os.access(real, os.R_OK | os.W_OK):
                missing.append(f"sudo setfacl -m u:{_user()}:rw {shlex.quote(str(real))}")
            continue
        stands = next(p for p in real.parents if p.exists())
        if not stands.is_dir() or not os.access(stands, os.W_OK | os.X_OK):
            missing.append(f"sudo setfacl -m u:{_user()}:rwx {shlex.quote(str(stands))}")
    commands = {f"[hooks], {hook}": words for hook, words in hooks.items()}
    measured = "[target], command"
    if (its := description.service) is not None:
        measured = "[service], load"
        around = {"start": its.start, "ready": its.ready.words, **its.commands, "stop": its.stop, "reload": its.reload}
        commands |= {f"[service], {key}": words for key, words in around.items() if isinstance(words, tuple)}
    for where, words in {measured: description.command, **commands}.items():
        if said := missing_program(first_program(words, description.shell), description.cwd):
            missing.append(f"{description.path}, {where}: {said}")
    for program in description.needs:
        if shutil.which(program) is None:
            missing.append(f"install {program}, which {description.path} needs")
    return list(dict.fromkeys(missing))


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _shown(words: Sequence[str]) -> str:
    text = words[0] if len(words) == 1 else shlex.join(words)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 2]} …"


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
