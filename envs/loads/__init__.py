"""Loads that a user names: one module for each tool, with its metrics and a parser of what it prints.

A module has ``METRICS``, the first of them the objective, and ``parse(text, folder)``; and where a usual command line
can be given, ``COMMAND``, see :class:`tunewright.envs.loads._command.Command`; ``LEAVES``, what it leaves in a
server or on a disk, for people; and where the tool tells how it goes meanwhile, ``progress(line)``, see
:mod:`tunewright.envs.loads._progress`. Modules are named as their tools, with
``_`` for ``-``: a new tool is a new module.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.target import Metric


def names() -> list[str]:
    """Return the names of the tools.

    >>> "wrk" in names(), "redis-benchmark" in names()
    (True, True)
    """
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def module(tool: str) -> Any:
    """Return a tool's module.

    Raises:
        UnknownNameError: there is no such tool.
    """
    if tool not in names():
        raise unknown("load", tool, names())
    return importlib.import_module(f"tunewright.envs.loads.{tool.replace('-', '_')}")


def metrics(tool: str) -> tuple[Metric, ...]:
    """Return what a tool tells."""
    return tuple(module(tool).METRICS)


def leaves(tool: str) -> str:
    """Return what a tool leaves behind in the system under load, as half a sentence; "" where that is nothing."""
    return str(getattr(module(tool), "LEAVES", ""))


def command_line(tool: str, arguments: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a tool's usual command line, with arguments of the user's.

    Args:
        tool: its name.
        arguments: they take the place of the same options, and of the URL or file at the end if they have one.

    Raises:
        ConfigError: the tool has no usual command line.
    """
    usual = getattr(module(tool), "COMMAND", None)
    if usual is None:
        raise ConfigError(f"{tool} has no usual command line; write all of it in 'load' or 'command'")
    return tuple(usual.line(arguments))


def parse(tool: str, text: str, folder: Path) -> dict[str, float]:
    """Return the metrics in what a tool printed.

    Args:
        tool: its name.
        text: its standard output.
        folder: of the run, where it may have written files.

    Raises:
        TargetError: it is not such an output, or requests failed.
    """
    try:
        return {name: float(value) for name, value in module(tool).parse(text, folder).items()}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise TargetError(f"this is not what {tool} prints: {type(error).__name__}: {str(error)[:120]}") from None
