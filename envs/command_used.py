"""Whether a description's parameters reach what is measured, and whether the programs that it names are there."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.envs.command_parameters import Parameters
from tunewright.envs.command_places import PLACE
from tunewright.errors import ConfigError
from tunewright.store.files import printable

#: words of POSIX shells that begin a command and are no program
_SHELLS_OWN = frozenset(
    "if for while until case { } ! [ . : alias bg break cd command continue eval exec exit export false fg function "
    "getopts hash jobs let local read readonly return select set shift source time times trap true type typeset ulimit "
    "umask unalias unset wait declare shopt test printf echo kill pwd".split()
)
#: keys below which expressions or descriptions stand, not texts that values are filled into
_NOT_USES = ("parameter", "parameters", "guarantee", "constraints", "dangerous", "about")


def check_used(
    path: Path,
    data: Mapping[str, Any],
    texts: Sequence[str],
    parameters: Parameters,
    known: Collection[str],
    machine: Collection[str] = (),
) -> None:
    """Refuse a parameter whose value goes nowhere: tuning it would measure noise.

    A value goes into a placeholder of a command, a file, a variable, a hook or another parameter's text; or it decides
    whether another parameter is active or how far that one may go.

    Args:
        path: of the description.
        data: the whole file.
        texts: of the configuration files.
        parameters: of the description.
        known: names that placeholders may have.
        machine: names of those that are settings of the machine, and applied as such.

    Raises:
        ConfigError: it names the parameter, and the placeholder that was probably meant as it.
    """
    places = [p for text in (*_texts(data), *texts) for p in PLACE.findall(text)]
    used = {*machine, *places, *(n for p in parameters.params for e in p.expressions for n in e.names)}
    used |= {p for of in parameters.texts.values() for text in of.values() for p in PLACE.findall(text)}
    used |= {name for flags, of in parameters.flags.items() if flags in used for name in of}
    unused = [p.name for p in parameters.params if p.name not in used]
    if not unused:
        return
    near = difflib.get_close_matches(unused[0], [p for p in places if p not in known], n=1, cutoff=0.6)
    hint = f"; there is {{{near[0]}}}, which is no parameter: was that meant?" if near else ""
    rest = f"{', '.join(unused[1:6])}{' and more' if len(unused) > 6 else ''}"
    others = f", nor is that of {rest}" if rest else ""
    raise ConfigError(
        f"{path}, parameter {printable(unused[0], 60)}: its value is not used anywhere{others}{hint or '; write '}"
        + ("" if hint else f"{{{unused[0]}}} into the command, a [[file]], env or a hook, or take the parameter out")
    )


def _texts(data: Any) -> Iterator[str]:
    """Yield every text in which a placeholder is filled in."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            if key not in _NOT_USES:
                yield from _texts(value)
    elif isinstance(data, list):
        for value in data:
            yield from _texts(value)


def missing_program(program: str, cwd: Path) -> str:
    """Say that a command's program is not there, with one of nearly the same name; "" where it is.

    Args:
        program: the first word of a command; one with a placeholder is not known yet.
        cwd: that the command is run in.
    """
    if not program or "{" in program or shutil.which(program) is not None or (cwd / program).exists():
        return ""
    near = difflib.get_close_matches(program, _programs(), n=1, cutoff=0.8) if "/" not in program else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no program {program!r} on the PATH or in {cwd}{hint or '; install it, or name another'}"


def first_program(words: Sequence[str], shell: bool) -> str:
    """Return the program that a command begins with, also one in a text for the shell; "" where that is not sure.

    >>> first_program(["sh", "-c", "redis-cli ping && sleep 1"], False), first_program(["X=1 prog; fn"], True)
    ('redis-cli', '')

    Args:
        words: the command.
        shell: a command of one word is a text for the shell.
    """
    if shell and len(words) == 1:
        text = words[0]
    elif len(words) >= 3 and words[0] in ("sh", "bash", "/bin/sh", "/bin/bash") and words[1] == "-c":
        text = words[2]
    else:
        return words[0] if words else ""
    found = re.match(r"\s*(?:exec\s+)?([A-Za-z0-9_./+-]+)(?=\s+[^(\s]|\s*[;&|\n]|\s*$)", text)
    return "" if found is None or found[1] in _SHELLS_OWN else found[1]


def misspelt(output: str) -> str:
    """Return a hint where a shell said that it found no such program and there is one of nearly the same name."""
    said = re.search(r"^(?:.*: )?([\w.+-]+): (?:command )?not found$", output.strip(), re.MULTILINE)
    near = difflib.get_close_matches(said[1], _programs(), n=1, cutoff=0.8) if said else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _programs() -> set[str]:
    found: set[str] = set()
    for folder in os.get_exec_path():
        try:
            found.update(os.listdir(folder))
        except OSError:
            continue
    return found
