"""The options of target postgres: what ``-O NAME=VALUE`` sets, read and checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from tunewright.envs.loads.pgbench import Script, problem, read_scripts
from tunewright.envs.storage import tpch
from tunewright.errors import ConfigError, unknown

ScopeKind = Literal["system", "database", "role"]
OPTIONS = {
    "scale": "pgbench's scale factor, about 15 MB each (5); of load=tpch that of TPC-H, about 2 GB each (0.1)",
    "clients": "concurrent connections (4)",
    "threads": "threads of pgbench (one for each core, at most one for each client)",
    "load": "your own load: FILE.sql in pgbench's syntax, or several with weights: read.sql@3,write.sql@1; or tpch, "
    "the 22 queries of TPC-H on data of ours",
    "schema": "without a DSN: FILE.sql that makes the tables of the load",
    "database": "database that the load runs in (that of the DSN)",
    "transactions": "transactions of a run, all clients together (as many as the default does in 'aim')",
    "seconds": "let a run last so long, in place of a fixed number of transactions",
    "aim": "seconds that the default's fixed number of transactions is to take (30 for your own load, 5 otherwise)",
    "warmup": "seconds of warm-up before each run (a quarter of the run)",
    "protocol": "pgbench's query protocol: simple, extended or prepared (simple for your own load)",
    "reset": "before each run of your own load: none (loads that only read), template (a copy by CREATE DATABASE), "
    "dump (a copy by pg_dump, while others are connected), template:DATABASE or dump:FILE",
    "writes": "yes: run a load that writes with reset=none; what it writes stays in the database",
    "keep": "yes: leave the benchmark's database on the server for further sessions",
    "scope": "where settings are set: system (ALTER SYSTEM), database or role (ALTER DATABASE, ALTER ROLE)",
    "dsn": "connection string of a foreign server, as after postgres:",
    "restart": "command that restarts the foreign server; without it restart settings are left alone",
    "parameters": "settings to tune, separated by commas, by their names in pg_settings",
}
TPCH = "tpch"
_RESETS = ("none", "template", "dump")
_PROTOCOLS = ("simple", "extended", "prepared")
_OWN_AIM_S, _AIM_S = 30.0, 5.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is run against the server, and on which data.

    Attributes:
        scripts: the user's own load; empty for the workloads of pgbench.
        schema: file of SQL that makes its tables in a server of our own.
        tpch: scale of TPC-H's tables, which are made instead; 0 for none.
        database: that the load runs in; empty for that of the DSN.
        threads: of pgbench; 0 for one a core.
        transactions: of a run, of all clients together; 0 to calibrate them.
        seconds: of a run; 0 for a fixed number of transactions.
        aim_s: run time of the default after calibration; None for the default of the kind of load.
        warmup_s: of each run; None for a quarter of it.
        protocol: pgbench's; empty for the default of the kind of load.
        reset: ``none``, ``template`` or ``dump``.
        source: database or file that the copies are made from; empty for the load's database.
        writes: a load that writes may run in the user's database.
        keep: the benchmark's database stays.
        scope: where settings are set.
    """

    scripts: tuple[Script, ...] = ()
    schema: Path | None = None
    tpch: float = 0.0
    database: str = ""
    threads: int = 0
    transactions: int = 0
    seconds: float = 0.0
    aim_s: float | None = None
    warmup_s: float | None = None
    protocol: str = ""
    reset: str = "none"
    source: str = ""
    writes: bool = False
    keep: bool = False
    scope: ScopeKind = "system"

    @property
    def aim(self) -> float:
        """Return the seconds that the default is to run."""
        return self.aim_s or (_OWN_AIM_S if self.scripts else _AIM_S)

    @property
    def about(self) -> str:
        """Return what the user's own load is, in words; "" for none."""
        if self.tpch:
            return f"the 22 queries of TPC-H at scale {self.tpch:g}: large scans with joins, aggregates and sorts"
        return ", ".join(f"{s.path.name} (weight {s.weight})" for s in self.scripts)

    def problem(self) -> str:
        """Return why a file of the load cannot be used, in one line; "" where all can.

        It is asked when a session begins, not when the target is opened: what a killed session left is put back whether
        or not the files are still there.
        """
        for name, path in (("schema", self.schema), ("reset", Path(self.source) if self.reset == "dump" else None)):
            if path is not None and str(path) != "." and not path.exists():
                return f"there is no file {path} for option {name}"
        return next((said for script in self.scripts if (said := problem(script))), "")

    def fingerprint(self) -> str:
        """Return what tells this load from others; of its files, their content.

        Raises:
            ConfigError: a file cannot be used.
        """
        if said := self.problem():
            raise ConfigError(said)
        digest = hashlib.sha256()
        for script in self.scripts:
            digest.update(b"%d:" % script.weight + script.path.read_bytes())
        if self.schema is not None:
            digest.update(b"schema:" + self.schema.read_bytes())
        if self.tpch:
            digest.update(b"tpch:%g" % self.tpch)
        return digest.hexdigest()[:12]


def read_work(options: Mapping[str, str], *, foreign: bool) -> Work:
    """Read what the options say of the load.

    Raises:
        ConfigError: a value is wrong, or options do not go together.
    """
    analytical = options.get("load") == TPCH
    if analytical and foreign:
        raise ConfigError(
            "load=tpch runs on a server of our own: leave out the DSN, or name queries over your tables: load=FILE.sql"
        )
    scripts = (Script(path=tpch.script()),) if analytical else _scripts(options)
    only = {
        "database": scripts and foreign,
        "reset": scripts and foreign,
        "writes": scripts and foreign,
        "schema": scripts and not foreign and not analytical,
        "keep": foreign and not scripts,
        "scope": foreign,
    }
    why = {
        "database": "a load of your own on a server by DSN: -O load=FILE.sql",
        "reset": "a load of your own on a server by DSN; otherwise each run has fresh data anyway",
        "writes": "a load of your own on a server by DSN",
        "schema": "a load of your own on the embedded server; on yours its tables are there: -O database=NAME",
        "keep": "the benchmark's database on a server by DSN",
        "scope": "a server by DSN",
    }
    for name, fits in only.items():
        if name in options and not fits:
            raise ConfigError(f"option {name} goes with {why[name]}")
    schema = Path(options["schema"]).expanduser().absolute() if "schema" in options else None
    if "seconds" in options and {"transactions", "aim"} & options.keys():
        raise ConfigError("give the option seconds, or transactions or aim, but not both")
    reset, _, source = options.get("reset", "none").partition(":")
    if reset not in _RESETS:
        raise unknown("value of option reset", reset, _RESETS)
    if source and reset == "dump":
        source = str(Path(source).expanduser().absolute())
    protocol, scope = options.get("protocol", ""), options.get("scope", "system")
    if protocol and protocol not in _PROTOCOLS:
        raise unknown("value of option protocol", protocol, _PROTOCOLS)
    if scope not in get_args(ScopeKind):
        raise unknown("value of option scope", scope, get_args(ScopeKind))
    return Work(
        scripts=scripts,
        schema=schema,
        tpch=_number(options, "scale", least=0.001) or 0.1 if analytical else 0.0,
        database=options.get("database", ""),
        threads=whole(options, "threads", 0),
        transactions=whole(options, "transactions", 0),
        seconds=_number(options, "seconds", least=1) or 0.0,
        aim_s=_number(options, "aim", least=0.1),
        warmup_s=_number(options, "warmup", least=0),
        protocol=protocol,
        reset=reset,
        source=source,
        writes=_yes(options, "writes"),
        keep=_yes(options, "keep"),
        scope=cast(ScopeKind, scope),
    )


def _scripts(options: Mapping[str, str]) -> tuple[Script, ...]:
    return read_scripts(options["load"]) if options.get("load") else ()


def whole(options: Mapping[str, str], name: str, default: int) -> int:
    """Return an option that is a whole number of at least 1; the default where it is not given."""
    if name not in options:
        return default
    try:
        number = int(options[name])
    except ValueError:
        raise ConfigError(f"option {name} must be a whole number, not {options[name]!r}") from None
    if number < 1:
        raise ConfigError(f"option {name} must be at least 1, not {number}")
    return number


def _number(options: Mapping[str, str], name: str, *, least: float) -> float | None:
    if name not in options:
        return None
    try:
        number = float(options[name])
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        of = "" if name == "scale" else " of seconds"
        raise ConfigError(f"option {name} must be a number{of} of at least {least:g}, not {options[name]!r}")
    return number


def _yes(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name, "no")
    if text not in ("yes", "no"):
        raise ConfigError(f"option {name} must be yes or no, not {text!r}")
    return text == "yes"
