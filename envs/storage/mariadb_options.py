"""The options of the target ``mariadb``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunewright.envs.storage import mariadb_load
from tunewright.envs.storage.mariadb_load import BENCH, Work
from tunewright.errors import ConfigError, unknown

OPTIONS = {
    "tables": "sysbench's tables (4)",
    "size": "rows of each of them, about 250 bytes (10000)",
    "threads": "concurrent connections (4)",
    "seconds": "what a run of the default takes; it says how many transactions a run has (3)",
    "events": "transactions of a run, instead of seconds",
    "load": "file of SQL to run instead of sysbench; a pass over it is a transaction",
    "dump": "file of mariadb-dump with the data that load runs on",
    "reset": "how each run finds the same data on a foreign server: none, copy or dump",
    "writes": "yes: load may write to the database as it is",
    "keep": f"yes: the benchmark's database {BENCH} stays on the foreign server",
    "dsn": "address of a foreign server, as after mariadb:",
    "restart": "command that restarts the foreign server; without it restart settings are left alone",
    "config": "option file of ours, which the foreign server reads, for settings that need a restart",
    "parameters": "settings to tune: core (the default), all, or names separated by commas",
    "memory_mb": "memory of the foreign server's machine, where that is another one",
}
_COUNTS = {"tables": 4, "size": 10000, "threads": 4, "events": 0}


def number(options: Mapping[str, str], name: str, default: float, kind: type) -> Any:
    """Return a number that an option is given as.

    Raises:
        ConfigError: it is none, or not at least 1.
    """
    try:
        value = kind(options.get(name, default))
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"option {name} must be {what}, not {options[name]!r}") from None
    if name in options and not 0 < value < 2**31:
        raise ConfigError(f"option {name} must be at least 1 and below 2147483648, not {options[name]}")
    return value


def yes(options: Mapping[str, str], name: str) -> bool:
    """Return whether an option is yes.

    Raises:
        ConfigError: it is neither yes nor no.
    """
    value = options.get(name, "no")
    if value not in ("yes", "no"):
        raise ConfigError(f"option {name} must be yes or no, not {value!r}")
    return value == "yes"


def work(options: Mapping[str, str]) -> Work:
    """Return what is run.

    Raises:
        ConfigError: an option cannot be read.
    """
    counts = {name: number(options, name, default, int) for name, default in _COUNTS.items()}
    reset = options.get("reset", "")
    if reset and reset not in ("none", "copy", "dump"):
        raise unknown("way to reset", reset, ("none", "copy", "dump"))
    script, statements = mariadb_load.read_script(options["load"]) if "load" in options else (None, ())
    return Work(
        **counts,
        script=script,
        statements=statements,
        seconds=number(options, "seconds", 3.0, float),
        reset=reset,
        writes=yes(options, "writes"),
        dump=mariadb_load.checked_dump(options["dump"]) if "dump" in options else "",
    )
