"""The user's own load: whether it may run in the database as it is, and how much of it a run is."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.envs.loads.pgbench import Script, without_comments
from tunewright.envs.storage.postgres_bench import try_script, try_undone
from tunewright.envs.storage.postgres_options import Work
from tunewright.errors import TargetError

_TRIES = 10  # of a script that may take a branch
_FIRST = {"tpcb": 200, "read-only": 200, "analytical": 5}  # transactions of a client in pgbench's own workloads
_LEAST = 2  # transactions of a client in a calibrated run
_SWITCHES = re.compile(r"read\s+write|transaction_read_only", re.IGNORECASE)
_REFUSED = re.compile(r"read-only transaction", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a dry run of a load showed.

    Attributes:
        writes: the script that writes; "" for none.
        fails: why a script fails that does not write; "" where all work.
        slow: a script took longer than the limit, or cannot run within a transaction, so that it is not known of all.
    """

    writes: str = ""
    fails: str = ""
    slow: bool = False


def dry_run(conninfo: str, work: Work, *, times: int = _TRIES, limit_s: float | None = None) -> Tried:
    """Run each script in transactions that cannot write.

    A script that turns these off itself is taken for one that writes, and not run.

    Args:
        conninfo: of the database.
        work: the load.
        times: how often each runs.
        limit_s: for each script.
    """
    slow = False
    for script in work.scripts:
        if _switches(script):
            return Tried(writes=script.path.name)
        try:
            why = try_script(conninfo, script, work.protocol, times, limit_s)
        except subprocess.TimeoutExpired:
            slow = True
            continue
        if _REFUSED.search(why):
            return Tried(writes=script.path.name)
        if why:
            return Tried(fails=f"{script.path.name} fails: {why}")
    return Tried(slow=slow)


def dry_run_undone(conninfo: str, work: Work, *, limit_s: float, owned: bool = False) -> Tried:
    """Run each script once in a transaction that is rolled back: its syntax, the tables and rights that it needs.

    Args:
        conninfo: of the database.
        work: the load.
        limit_s: for each script.
        owned: the load will run in a copy that belongs to this role, which lacks no rights there.
    """
    slow = False
    for script in work.scripts:
        try:
            why = try_undone(conninfo, script, work.protocol, limit_s)
        except subprocess.TimeoutExpired:
            why = None
        if why and not (owned and "permission denied" in why):
            return Tried(fails=f"{script.path.name} fails: {why}")
        slow |= why is None
    return Tried(slow=slow)


def _switches(script: Script) -> bool:
    text = without_comments(script.path.read_text(encoding="utf-8", errors="replace"))
    return _SWITCHES.search(text) is not None


def refusal(script: str, database: str) -> str:
    """Say that a load writes and nothing would undo it."""
    return (
        f"{script} writes to database {database}, so no two runs would see the same data: give each run a copy with "
        "-O reset=template (nobody else may be connected to the database) or -O reset=dump, or let it write there with "
        "-O writes=yes"
    )


def check(conninfo: str, work: Work, database: str) -> None:
    """See that a load may run in the database itself.

    Raises:
        TargetError: it writes, or fails.
    """
    if not work.scripts or work.reset != "none" or work.writes:
        return
    tried = dry_run(conninfo, work)
    if tried.writes:
        raise TargetError(refusal(tried.writes, database))
    if tried.fails:
        raise TargetError(tried.fails)


# -- how much -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much of a load a run is, as pgbench is told.

    Attributes:
        words: ``-t`` transactions of each client, or ``-T`` seconds.
        warm: the same of the warm-up; empty for none.
        expected: transactions of all clients; 0 where that is not known.
    """

    words: tuple[str, ...]
    warm: tuple[str, ...]
    expected: float


def probe(work: Work, workload: str) -> Amount:
    """Return what is run to see how fast the load is."""
    if not work.scripts:
        return Amount(words=("-t", str(_FIRST[workload])), warm=(), expected=0.0)
    return Amount(words=("-T", str(max(1, round(work.aim / 10)))), warm=(), expected=0.0)


def fixed(work: Work, clients: int) -> int | None:
    """Return the transactions of each client where the user says how many; None where they are calibrated."""
    return max(1, math.ceil(work.transactions / clients)) if work.transactions else None


def calibrated(work: Work, clients: int, tps: float) -> int:
    """Return how many transactions of each client the default does in the time aimed at."""
    return max(_LEAST, round(tps * work.aim / clients))


def amount(work: Work, clients: int, prepared: Mapping[str, Any]) -> Amount:
    """Return how much a run is.

    Args:
        work: the load.
        clients: of pgbench.
        prepared: ``transactions`` of each client, and ``tps`` of the default where it was measured.
    """
    tps = float(prepared.get("tps") or 0.0)
    if work.seconds:
        seconds = max(1, round(work.seconds))
        warm_s = work.seconds / 4 if work.warmup_s is None else work.warmup_s
        return Amount(words=("-T", str(seconds)), warm=_seconds(warm_s), expected=tps * seconds)
    count = int(prepared["transactions"])
    warm: tuple[str, ...]
    if work.warmup_s is None:
        warm = ("-t", str(max(1, count // 4)))
    elif tps:  # a fixed amount, so that each configuration finds the same data
        warm = ("-t", str(max(1, round(work.warmup_s * tps / clients)))) if work.warmup_s else ()
    else:
        warm = _seconds(work.warmup_s)
    return Amount(words=("-t", str(count)), warm=warm, expected=float(count * clients))


def _seconds(seconds: float) -> tuple[str, ...]:
    return ("-T", str(max(1, round(seconds)))) if seconds else ()


def log_folder(workdir: Path) -> Path:
    """Return where the log of a run lies, which is removed after it."""
    return workdir / "pgbench-log"
