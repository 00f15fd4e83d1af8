"""SQLite, through Python's own module: the default target.

Guarantees, levels from SQLite's documentation (pragma.html#pragma_synchronous, wal.html, howtocorrupt.html):

====== =============================================================== =========================================
level  settings                                                        what a crash can do
====== =============================================================== =========================================
3      synchronous FULL or EXTRA with any journal on disk              nothing: committed data survive power loss
2      WAL with synchronous NORMAL                                     a power cut may lose the last transactions
1      rollback journal with NORMAL, or synchronous OFF                a power cut may corrupt the database
0      journal_mode MEMORY or OFF                                      a crash of the program may corrupt it
====== =============================================================== =========================================

``sharing`` is 1 where other connections can use the database, 0 with locking_mode EXCLUSIVE.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tunewright.envs.storage.sqlite_file import make_empty, read_settings, write_settings
from tunewright.errors import ConfigError, TargetError
from tunewright.sessions import workfolder
from tunewright.sessions.locks import file_keys
from tunewright.space import Choice, Config, Int, Space, Value
from tunewright.space.amounts import size
from tunewright.target import BaseTarget, Budget, Measurement, Metric, Preflight, Weaker, numeric_options

_ROWS = 40_000
_ROW_BYTES = 300  # of the main table with its indexes
_MADE = 6  # databases that a session makes as a rule, of 24 that there could be
_AIM_S = 0.8  # run time of the default after calibration
_WORKLOADS = {
    "write-heavy": "one-statement transactions: 90 % append to an indexed table, 10 % update an indexed row",
    "read-heavy": "95 % point and short range reads, 5 % such writes",
    "mixed": "half such writes, half point and short range reads",
    "analytical": "scans with aggregates, sorts and a self-join over the whole table",
}
_SCHEMA = """
CREATE TABLE account (id INTEGER PRIMARY KEY, owner INTEGER, branch INTEGER, balance REAL, note TEXT);
CREATE TABLE history (id INTEGER PRIMARY KEY, account INTEGER, delta REAL, at REAL, note TEXT);
"""
_INDEXES = """
CREATE INDEX account_owner ON account (owner);
CREATE INDEX account_branch ON account (branch, balance);
CREATE INDEX history_account ON history (account);
"""
_ANALYSES = (
    "SELECT branch, count(*), avg(balance), max(length(note)) FROM account GROUP BY branch",
    "SELECT owner, balance FROM account ORDER BY note, balance LIMIT 100",
    "SELECT count(*) FROM account a JOIN account b ON b.owner = a.id % 9000 WHERE a.balance > b.balance",
    "SELECT avg(x) FROM (SELECT DISTINCT substr(note, 1, 12) AS n, balance AS x FROM account)",
)
_OPTIONS = {"rows": f"rows of the main table ({_ROWS})"}


def open_target(argument: str, options: Mapping[str, str]) -> SQLiteTarget:
    """Entry point; takes no argument and the option ``rows``."""
    if argument:
        raise ConfigError(f"target 'sqlite' takes no argument, not {argument!r}; it makes its own database")
    rows = numeric_options("sqlite", options, {"rows": _ROWS})["rows"]
    if rows < 100:
        raise ConfigError(f"option rows must be at least 100, not {rows}")
    return SQLiteTarget(rows=rows)


class SQLiteTarget(BaseTarget):
    """SQLite, through Python's own module: a database file on your disk, made fresh for every run.

    Args:
        rows: rows of the main table, about 250 bytes each with indexes.
    """

    name = "sqlite"
    workloads = _WORKLOADS
    options = _OPTIONS
    metrics = (
        Metric(name="throughput", direction="max", unit="operations/s",
               doc="fixed work over its wall time, final checkpoint included"),
        Metric(name="latency_p95", direction="min", unit="ms", doc="95th percentile of one operation"),
        Metric(name="durability", direction="max", unit="level",
               doc="what a crash can do; 3: committed data survive power loss"),
    )  # fmt: skip
    manual = "https://www.sqlite.org/pragma.html"

    def __init__(self, *, rows: int = _ROWS) -> None:
        self.rows = rows
        self.facts = {"sqlite": sqlite3.sqlite_version, "rows": rows}
        self.space = Space([
            Choice(name="journal_mode", choices=("DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY", "OFF"),
                   default="DELETE",
                   doc="How a transaction is made atomic; WAL appends to a log instead of rewriting pages."),
            Choice(name="synchronous", choices=("OFF", "NORMAL", "FULL", "EXTRA"), default="FULL", ordered=True,
                   doc="How often data are forced to disk."),
            Choice(name="page_size", choices=(512, 1024, 2048, 4096, 8192, 16384, 32768, 65536), default=4096,
                   ordered=True, unit="bytes", restart="rebuild",
                   doc="Size of a database page; changing it rewrites the file."),
            Int(name="cache_size", low=64, high="max(RAM_MB * 1024 // 8, 4096)", default=2000, log=True, unit="KiB",
                doc="Memory of the page cache of one connection."),
            Int(name="mmap_size", low=1, high=4096, default=0, log=True, unit="MiB", special={0: "no memory mapping"},
                doc="How much of the file is read through memory mapping."),
            Choice(name="temp_store", choices=("DEFAULT", "FILE", "MEMORY"), default="DEFAULT",
                   doc="Where temporary tables and sorts live."),
            Int(name="wal_autocheckpoint", low=10, high=100_000, default=1000, log=True, unit="pages",
                when="journal_mode == 'WAL'", doc="Pages in the log after which a commit writes them back."),
            Choice(name="locking_mode", choices=("NORMAL", "EXCLUSIVE"), default="NORMAL",
                   doc="EXCLUSIVE keeps every other connection out."),
            Choice(name="auto_vacuum", choices=("NONE", "FULL", "INCREMENTAL"), default="NONE", restart="rebuild",
                   doc="Whether freed pages are given back."),
            Int(name="threads", low=0, high="min(8, CPU_COUNT)", default=0, unit="threads",
                doc="Helper threads for sorting."),
        ])  # fmt: skip

    # -- guarantees -------------------------------------------------------------------------------

    def guarantee_names(self) -> tuple[str, ...]:
        """Return the parameters that decide the guarantees."""
        return ("journal_mode", "synchronous", "locking_mode")

    def guarantees(self, config: Config) -> dict[str, float]:
        """Return the levels of the table above."""
        return {"durability": durability(config), "sharing": float(config["locking_mode"] == "NORMAL")}

    def weaker(self, config: Config) -> list[Weaker]:
        """Return the same settings with one guarantee less each."""
        weaker = []
        if config["journal_mode"] == "WAL" and config["synchronous"] in ("FULL", "EXTRA"):
            loses = "a power cut may lose the last transactions (never corrupts)"
            weaker.append(Weaker(config={**config, "synchronous": "NORMAL"}, loses=loses))
        weaker.append(Weaker(config={**config, "synchronous": "OFF"}, loses="a power cut may corrupt the database"))
        if config["locking_mode"] == "NORMAL":
            loses = "no other connection can open the database"
            weaker.append(Weaker(config={**config, "locking_mode": "EXCLUSIVE"}, loses=loses))
        return weaker

    # -- measuring --------------------------------------------------------------------------------

    def prepare(self, *, workload: str, seed: int, budget: Budget) -> dict[str, Any]:
        """Build the default's database and calibrate the amount of work, unless it is fixed already."""
        operations, folder = budget.prepared.get("operations"), workfolder.private(budget.workdir, self.name)
        if operations is None:
            count = 4 if workload == "analytical" else 60
            while True:
                seconds, _ = self._run(self.space.default, workload, seed, folder, count)
                if seconds > 0.1 or count > 1_000_000:
                    break
                count *= 3
            operations = max(4, round(count * _AIM_S / seconds))
        return {"operations": int(operations)}

    def preflight(self, *, workload: str, workdir: Path) -> Preflight:
        """Tell the size of the databases: one for each page size and vacuum mode that is tried, and a run's copy."""
        one = self.rows * _ROW_BYTES
        return Preflight(
            creates=[
                f"Databases of {self.rows:,} rows below the work folder, {size(one)} each: one for each page size and "
                "vacuum mode that is tried, and a copy for every run. All are removed at the end."
            ],
            disk_bytes=one * (_MADE + 1),
        )

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Run the fixed number of operations on a fresh copy of the database."""
        operations = int(budget.prepared["operations"])
        try:
            folder = workfolder.private(budget.workdir, self.name)
            seconds, latencies = self._run(config, workload, seed, folder, operations)
        except sqlite3.Error as error:
            return Measurement(status="failed", reason=f"SQLite: {error}")
        latencies.sort()
        return Measurement(
            values={
                "throughput": operations / seconds,
                "latency_p95": 1e3 * latencies[int(0.95 * (len(latencies) - 1))],
                "durability": durability(config),
            },
            seconds=seconds,
        )

    def cleanup(self, workdir: Path) -> None:
        """Remove the prepared databases, and what a killed run left."""
        workfolder.remove(workdir, self.name)

    def _template(self, config: Config, folder: Path) -> Path:
        """Return the database with the data, built once for each page size and vacuum mode."""
        path = folder / f"template-{self.rows}-{config['page_size']}-{config['auto_vacuum']}.db"
        if path.exists():
            return path
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        unfinished.unlink(missing_ok=True)
        rng = random.Random(20_240_601)
        db = sqlite3.connect(unfinished, isolation_level=None)
        try:
            db.execute(f"PRAGMA page_size = {int(config['page_size'])}")
            db.execute(f"PRAGMA auto_vacuum = {config['auto_vacuum']}")
            db.execute("PRAGMA synchronous = OFF")
            db.executescript(_SCHEMA)
            db.execute("BEGIN")
            accounts = (
                (row, rng.randrange(self.rows), rng.randrange(50), rng.random() * 1e4, rng.randbytes(50).hex())
                for row in range(self.rows)
            )
            db.executemany("INSERT INTO account VALUES (?, ?, ?, ?, ?)", accounts)
            db.execute("COMMIT")
            db.executescript(_INDEXES)
        finally:
            db.close()
        os.replace(unfinished, path)  # whole or not at all, also when two runs build it at once
        return path

    def _run(
        self, config: Config, workload: str, seed: int, folder: Path, operations: int
    ) -> tuple[float, list[float]]:
        path = folder / f"run-{os.getpid()}.db"
        try:
            shutil.copyfile(self._template(config, folder), path)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            db = _open(path, config)
            try:
                work = _WORK[workload]
                work(db, random.Random(seed + 1), self.rows, _WARM_UP[workload], _WARM_UP_S)
                if config["journal_mode"] == "WAL":
                    db.execute("PRAGMA wal_checkpoint(RESTART)")
                os.sync()
                latencies = work(db, random.Random(seed), self.rows, operations, math.inf)
                start = time.perf_counter()
                if config["journal_mode"] == "WAL":
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # work put off is charged, too
                seconds = sum(latencies) + time.perf_counter() - start
            finally:
                db.close()
        except OSError as error:
            raise TargetError(f"the database {path} cannot be written: {error.strerror or error}") from error
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        return seconds, latencies

    # -- using the result -------------------------------------------------------------------------

    def render(self, config: Config) -> str:
        """Return PRAGMA statements; the persistent ones first."""
        return "\n".join(f"{text};" for text in _pragmas(config))

    def changes(self, to: str | None = None) -> Sequence[str]:
        """Return the keys of the database that ``apply`` changes; measuring changes nothing of the user's."""
        return file_keys(Path(to)) if to else ()

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Note the persistent pragmas of a database file."""
        if to is None:
            raise ConfigError("say which database: tunewright apply NAME --to FILE.db")
        path = Path(to)
        if not path.is_file():
            raise ConfigError(f"there is no database file {to!r}")
        try:
            return {"path": str(path.resolve()), "before": read_settings(path), "empty": not path.stat().st_size}
        except sqlite3.Error as error:
            raise ConfigError(f"{to}: {error}") from None

    def apply(self, config: Config, to: str | None = None) -> None:
        """Set the persistent pragmas of a database file; the others belong to each connection."""
        path = Path(str(to))
        try:
            write_settings(path, {n: config[n] for n in read_settings(path)})
        except sqlite3.Error as error:
            raise ConfigError(f"{to}: {error}; nothing was changed that a rerun would not put right") from None

    def forms(self, config: Config, changed: Mapping[str, Value]) -> Mapping[str, str]:
        """Return PRAGMA statements; SQLite has neither configuration files nor an environment."""
        return {"sql": self.render(config) + "\n", "conf.d": "", "env": "", "ansible": ""}

    def still_to_do(self, config: Config, changed: Mapping[str, Value]) -> Sequence[str]:
        """Say which settings a connection forgets."""
        kept = ("page_size", "auto_vacuum", "journal_mode")
        own = [name for name in changed if name not in kept]
        if not own:
            return ()
        verb = "holds" if len(own) == 1 else "hold"
        return [
            f"Not live yet: {', '.join(own)} {verb} for one connection; have your program run these PRAGMAs when it "
            "opens the database."
        ]

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Put the persistent pragmas back."""
        if not Path(undo["path"]).is_file():
            raise ConfigError(f"the database {undo['path']} is gone; put it where it was and run rollback again")
        try:
            write_settings(Path(undo["path"]), undo["before"])
            if undo.get("empty"):
                make_empty(Path(undo["path"]))
        except sqlite3.Error as error:
            raise ConfigError(f"{undo['path']}: {error}; close its other users and run rollback again") from None


def durability(config: Mapping[str, Any]) -> float:
    """Return the level of the module's table."""
    journal, synchronous = config["journal_mode"], config["synchronous"]
    if journal in ("MEMORY", "OFF"):
        return 0.0
    if synchronous in ("FULL", "EXTRA"):
        return 3.0
    return 2.0 if journal == "WAL" and synchronous == "NORMAL" else 1.0


def _pragmas(config: Config) -> list[str]:
    pragmas = [f"PRAGMA {n} = {config[n]}" for n in ("page_size", "auto_vacuum", "journal_mode", "synchronous")]
    pragmas += [
        f"PRAGMA cache_size = -{config['cache_size']}",
        f"PRAGMA mmap_size = {config['mmap_size'] * 2**20}",
    ]
    pragmas += [f"PRAGMA {n} = {config[n]}" for n in ("temp_store", "threads") if n in config]
    if "wal_autocheckpoint" in config:
        pragmas.append(f"PRAGMA wal_autocheckpoint = {config['wal_autocheckpoint']}")
    return [*pragmas, f"PRAGMA locking_mode = {config['locking_mode']}"]


def _open(path: Path, config: Config) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    for text in _pragmas(config):
        db.execute(text).fetchone()
    mode = db.execute("PRAGMA journal_mode").fetchone()[0].upper()
    if mode != config["journal_mode"]:
        db.close()
        raise TargetError(f"SQLite kept journal_mode {mode} instead of {config['journal_mode']}")
    return db


def _transact(
    share: float, db: sqlite3.Connection, rng: random.Random, rows: int, operations: int, most_s: float
) -> list[float]:
    """Run short transactions, a share of them writing, for at most the given time."""
    note, clock, latencies = "n" * 80, time.perf_counter, []
    hot = max(rows // 50, 1)
    plan = [
        # 70 % of the accesses follow a Pareto law over the rows, as accounts do; the rest are uniform
        (min(int(rng.paretovariate(1.2) * hot), rows - 1) if rng.random() < 0.7 else rng.randrange(rows),
         rng.random() < share, rng.random(), rng.randrange(50))
        for _ in range(operations)
    ]  # fmt: skip
    end = clock() + most_s
    for key, writes, fraction, branch in plan:
        begun = clock()
        if begun > end:
            break
        if writes:
            if fraction < 0.9:
                db.execute(
                    "INSERT INTO history (account, delta, at, note) VALUES (?, ?, ?, ?)",
                    (key, fraction, begun, note),
                )
            else:
                db.execute(
                    "UPDATE account SET balance = balance + ?, branch = ? WHERE id = ?",
                    (fraction, branch, key),
                )
        elif fraction < 0.8:
            db.execute("SELECT * FROM account WHERE id = ?", (key,)).fetchone()
        else:
            db.execute("SELECT sum(balance) FROM account WHERE id BETWEEN ? AND ?", (key, key + 50)).fetchone()
        latencies.append(clock() - begun)
    return latencies


def _analyse(db: sqlite3.Connection, rng: random.Random, rows: int, operations: int, most_s: float) -> list[float]:
    latencies = []
    for number in range(operations):
        begun = time.perf_counter()
        db.execute(_ANALYSES[number % len(_ANALYSES)]).fetchall()
        latencies.append(time.perf_counter() - begun)
    return latencies


_Work = Callable[[sqlite3.Connection, random.Random, int, int, float], list[float]]
_WORK: dict[str, _Work] = {
    "write-heavy": partial(_transact, 1.0),
    "read-heavy": partial(_transact, 0.05),
    "mixed": partial(_transact, 0.5),
    "analytical": _analyse,
}
# enough to fill the log once: a database in use overwrites its log and journal instead of growing them
_WARM_UP = {"write-heavy": 400, "read-heavy": 2000, "mixed": 600, "analytical": 4}
_WARM_UP_S = 1.0  # on a slow disk it may be cut short
