"""pgbench: its tables, the workloads, and a fixed number of transactions with their rate and latency."""

from __future__ import annotations

import os
import re
import subprocess

from tunewright.envs.storage import postgres_server
from tunewright.envs.storage.postgres_dsn import argument_and_environment, connected
from tunewright.errors import TargetError
from tunewright.space.facts import machine_facts

WORKLOADS = {
    "tpcb": "pgbench's TPC-B-like transactions: three updates, a read and an insert",
    "read-only": "pgbench's point reads by primary key",
    "analytical": "aggregates, joins and sorts over the pgbench tables",
}
_ANALYTICAL = """\
SELECT bid, count(*), avg(abalance), max(aid) FROM pgbench_accounts GROUP BY bid;
SELECT a.bid, count(*) FROM pgbench_accounts a\
  JOIN pgbench_accounts b ON b.aid = a.aid + 1 WHERE a.aid % 50 = 0 GROUP BY a.bid;
SELECT aid, abalance FROM pgbench_accounts WHERE aid % 4 = 0 ORDER BY abalance, md5(filler), aid DESC LIMIT 50;
SELECT count(DISTINCT md5(aid::text)) FROM pgbench_accounts WHERE aid % 20 = 0;
"""


def fill(conninfo: str, scale: int) -> None:
    """Make pgbench's tables anew."""
    _pgbench(conninfo, ["-i", "-q", "-s", str(scale)], limit_s=600)


def run(conninfo: str, workload: str, seed: int, *, clients: int, transactions: int, warm: bool) -> dict[str, float]:
    """Run a workload from a checkpoint on; returns ``tps`` and the mean ``latency`` in ms.

    Args:
        conninfo: connection string.
        workload: one of ``WORKLOADS``.
        seed: of pgbench.
        clients: concurrent connections.
        transactions: of each client.
        warm: whether a quarter as many run before.

    Raises:
        TargetError: pgbench or one of its transactions failed.
    """
    # a script comes on standard input: a run that is killed would leave a file behind
    kind = {"tpcb": ["-b", "tpcb-like"], "read-only": ["-b", "select-only"], "analytical": ["-f", "-"]}[workload]
    threads = min(clients, int(machine_facts()["CPU_COUNT"]))
    common = [*kind, "-c", str(clients), "-j", str(threads), "--random-seed", str(seed % 2**31), "-M", "prepared"]
    if warm:
        _pgbench(conninfo, [*common, "-n", "-t", str(max(1, transactions // 4))])
    with connected(conninfo) as connection:
        connection.execute("CHECKPOINT")
    os.sync()
    text = _pgbench(conninfo, [*common, "-n", "-t", str(transactions)])
    failed = re.search(r"number of failed transactions: (\d+)", text)
    if failed and int(failed[1]):
        raise TargetError(f"pgbench: {failed[1]} transactions failed")
    tps = re.search(r"^tps = ([0-9.]+)", text, re.M)
    latency = re.search(r"^latency average = ([0-9.]+) ms", text, re.M)
    if tps is None or latency is None:
        raise TargetError("pgbench printed no result")
    return {"tps": float(tps[1]), "latency": float(latency[1])}


def _pgbench(conninfo: str, words: list[str], limit_s: float | None = None) -> str:
    public, secret = argument_and_environment(conninfo, postgres_server.DATABASE)
    done = subprocess.run(
        [str(postgres_server.binaries() / "pgbench"), *words, public],
        capture_output=True,
        text=True,
        env={**os.environ, **secret},
        timeout=limit_s,
        input=_ANALYTICAL,  # read only where the words say so
    )
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if "error" in line.lower() or "fatal" in line.lower()]
        raise TargetError(
            f"pgbench exited with code {done.returncode}: "
            f"{(said or done.stderr.strip().splitlines() or [''])[-1][:300]}"
        )
    return done.stdout
