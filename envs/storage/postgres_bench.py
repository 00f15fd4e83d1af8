"""pgbench: its own tables and workloads, the user's scripts, and one run with its rate and latencies."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tunewright.envs.loads import _progress
from tunewright.envs.loads.pgbench import LOG_PREFIX, Script, commands, parse, rolled_back, split_weight
from tunewright.envs.storage import postgres_server, tpch
from tunewright.envs.storage.postgres_dsn import argument_and_environment, connected
from tunewright.envs.storage.postgres_options import Work
from tunewright.envs.storage.postgres_programs import program, retries
from tunewright.errors import TargetError
from tunewright.space.facts import machine_facts
from tunewright.store.trees import remove_tree
from tunewright.target import Budget

BENCH = "tunewright_bench"
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
_LOGGED = 20_000  # transactions of a run in pgbench's log, at most: 200 beyond the 99th percentile
_TRIES = 100  # of a transaction that a deadlock or a serialization failure ends
_READ_ONLY = "-c default_transaction_read_only=on"
# should a transaction end where a script says so in a way that is not known, those after it cannot write
_CAUTIOUS = f"{_READ_ONLY} -c lock_timeout=1s -c statement_timeout={{ms}}"
_NOT_WITHIN = re.compile(
    "inside a transaction block|invalid transaction termination|must (?:be called|not be called) (?:before|in)|"
    "(?:lock|statement) timeout"
)


def fill(conninfo: str, scale: int) -> None:
    """Make pgbench's tables anew."""
    _pgbench(conninfo, ["-i", "-q", "-s", str(scale)], limit_s=600)


def fill_database(dsn: str, scale: int) -> None:
    """Make the benchmark's database on a foreign server, with tables of this scale, if they are not there yet."""
    from psycopg.conninfo import make_conninfo

    with connected(dsn) as connection:
        there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (BENCH,)).fetchone()
        if there is None:
            # in the words by which postgres_copies.drop finds one that is not finished
            connection.execute(f'CREATE DATABASE "{BENCH}"')
    bench = make_conninfo(dsn, dbname=BENCH)
    with connected(bench) as connection:
        table = connection.execute("SELECT to_regclass('pgbench_branches')").fetchone()[0]
        rows = connection.execute("SELECT count(*) FROM pgbench_branches").fetchone()[0] if table else 0
    if rows != scale:
        fill(bench, scale)


def fill_own(server: postgres_server.Server, work: Work, scale: int) -> None:
    """Make the database of a load in a server of our own: TPC-H's tables, the user's, or pgbench's."""
    with connected(server.conninfo("postgres")) as connection:
        connection.execute(f"CREATE DATABASE {postgres_server.DATABASE}")
    if not work.tpch and work.schema is None:
        fill(server.conninfo(), scale)
        return
    if work.schema is not None:
        run_file(server.conninfo(), work.schema)
    with connected(server.conninfo()) as connection:
        if work.tpch:
            tpch.load(connection, work.tpch, seed=1)
        connection.execute("VACUUM (ANALYZE)")


def tidy(bench: str) -> None:
    """Bring pgbench's tables to the state that each run begins from."""
    with connected(bench) as connection:
        connection.execute("VACUUM pgbench_branches")
        connection.execute("VACUUM pgbench_tellers")
        connection.execute("TRUNCATE pgbench_history")


def run_file(conninfo: str, path: Path) -> None:
    """Run a file of SQL, with all that psql understands.

    Raises:
        TargetError: a statement fails.
    """
    words = [str(program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(path)]
    public, secret = argument_and_environment(conninfo, postgres_server.DATABASE)
    done = subprocess.run([*words, "-d", public], capture_output=True, text=True, env={**os.environ, **secret})
    if done.returncode:
        raise TargetError(f"{path.name} fails: {said(done.stderr)}")


def words_of(workload: str, scripts: Sequence[Script], protocol: str) -> list[str]:
    """Return what pgbench is told to run."""
    if scripts:
        return [word for script in scripts for word in ("-f", script.argument)] + ["-M", protocol or "simple"]
    # a script comes on standard input: a run that is killed would leave a file behind
    kind = {"tpcb": ["-b", "tpcb-like"], "read-only": ["-b", "select-only"], "analytical": ["-f", "-"]}[workload]
    return [*kind, "-M", protocol or "prepared"]


def run(
    conninfo: str,
    kind: Sequence[str],
    seed: int,
    *,
    clients: int,
    amount: Sequence[str],
    warm: Sequence[str] = (),
    threads: int = 0,
    expected: float = 0.0,
    read_only: bool = False,
    folder: Path | None = None,
    budget: Budget | None = None,
) -> dict[str, float]:
    """Run a workload from a checkpoint on.

    Args:
        conninfo: connection string.
        kind: see :func:`words_of`.
        seed: of pgbench.
        clients: concurrent connections.
        amount: ``-t`` transactions of each client, or ``-T`` seconds.
        warm: the same of the warm-up; empty for none.
        threads: of pgbench; 0 for one a core.
        expected: transactions of the run, where they are known; the log takes a sample of them.
        read_only: transactions that write fail.
        folder: for the log of transactions; None for no percentiles.
        budget: that is told how the run goes; None where nobody watches.

    Returns:
        See :func:`tunewright.envs.loads.pgbench.parse`.

    Raises:
        TargetError: pgbench or one of its transactions failed.
    """
    threads = min(clients, threads or int(machine_facts()["CPU_COUNT"]))
    common = [*kind, "-n", "-c", str(clients), "-j", str(threads), "--random-seed", str(seed % 2**31)]
    if "-f" in kind and retries(program("pgbench")):
        common.append(f"--max-tries={_TRIES}")
    if read_only:
        conninfo = reading_only(conninfo)
    watching = _progress.reporter("pgbench", budget)
    if watching is not None:
        conninfo, amount = with_settings(conninfo, _ends_with_its_client(conninfo)), ["--progress=1", *amount]
    if warm:
        _pgbench(conninfo, [*common, *warm])
    with connected(conninfo) as connection:
        connection.execute("CHECKPOINT")
    os.sync()
    if folder is None:
        return parse(_pgbench(conninfo, [*common, *amount], watching=watching), Path(os.devnull))
    remove_tree(folder)
    folder.mkdir(parents=True)
    try:
        log = ["--log", f"--log-prefix={folder / LOG_PREFIX}"]
        if expected > _LOGGED:
            log.append(f"--sampling-rate={_LOGGED / expected:.6f}")
        return parse(_pgbench(conninfo, [*common, *log, *amount], watching=watching), folder)
    finally:
        remove_tree(folder)


def reading_only(conninfo: str) -> str:
    """Return the connection string with transactions that cannot write."""
    return with_settings(conninfo, _READ_ONLY)


def with_settings(conninfo: str, settings: str) -> str:
    """Return the connection string with more settings for its sessions, as ``PGOPTIONS`` has them."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    given = str(conninfo_to_dict(conninfo).get("options") or os.environ.get("PGOPTIONS", ""))
    return make_conninfo(conninfo, options=f"{given} {settings}".strip())


def try_script(conninfo: str, script: Script, protocol: str, times: int, limit_s: float | None = None) -> str:
    """Run one script a few times in transactions that cannot write, and return why that fails; "" where it does not.

    Raises:
        subprocess.TimeoutExpired: it takes longer than the limit.
    """
    only = Script(path=script.path)
    try:
        _pgbench(reading_only(conninfo), [*words_of("", [only], protocol), "-n", "-t", str(times)], limit_s=limit_s)
    except TargetError as error:
        return str(error)
    return ""


def try_undone(conninfo: str, script: Script, protocol: str, limit_s: float) -> str | None:
    """Run one script once in a transaction that is rolled back, and return why that fails; "" where it does not.

    Locks of others are not waited for. Sequences keep the numbers that were drawn.

    Returns:
        None where the script cannot run within a transaction.

    Raises:
        subprocess.TimeoutExpired: it takes longer than the limit.
    """
    text = rolled_back(script.path.read_text(encoding="utf-8", errors="replace"))
    if not text:
        return None
    with tempfile.TemporaryDirectory(prefix="tunewright-") as folder:
        copy = Script(path=Path(folder) / script.path.name)
        copy.path.write_text(text, encoding="utf-8")
        words = [*words_of("", [copy], protocol), "-n", "-t", "1"]
        try:
            _pgbench(with_settings(conninfo, _CAUTIOUS.format(ms=round(limit_s * 1000))), words, limit_s=limit_s)
        except TargetError as error:
            why = str(error).replace(f"{folder}/", "")
            return None if _NOT_WITHIN.search(why) else why
    return ""


def said(stderr: str, scripts: Sequence[Path] = ()) -> str:
    """Return all that one of PostgreSQL's programs says of what went wrong, in one line, with file and line.

    Args:
        stderr: its words.
        scripts: that pgbench ran.
    """
    lines = [line.strip() for line in stderr.strip().splitlines()]
    first = next((n for n, line in enumerate(lines) if re.search("(ERROR|FATAL): ", line)), None)
    if first is None:
        first = next(
            (n for n, line in enumerate(lines) if re.search("error|fatal", line, re.IGNORECASE)), len(lines) - 1
        )
    message = lines[first : first + 1]
    for line in lines[first + 1 :]:
        if re.match(r"(pg_?\w+|psql)\b.*: ", line):  # the next message
            break
        if not re.fullmatch(r"\^?( error found here)?", line):  # where the line above was written wrong
            message.append(line)
    return f"{_place(stderr, message, scripts)}{'; '.join(message)}"[:1000]


def _place(stderr: str, message: Sequence[str], scripts: Sequence[Path]) -> str:
    """Say where in the scripts a command stands that pgbench only counts; "" where it counts none."""
    number = re.search(r"script (\d+) aborted in command (\d+)", stderr)
    told = (number[1], number[2]) if number else ("", "")
    if number is None and (number := re.search(r"aborted in command (\d+) \(.*\) of script (\d+)", stderr)):
        told = (number[2], number[1])
    if number is None or int(told[0]) >= len(scripts):
        return ""
    path = scripts[int(told[0])]
    counted = commands(path.read_text(encoding="utf-8", errors="replace"))
    if int(told[1]) >= len(counted):
        return ""
    within = next((int(m[1]) for line in message if (m := re.match(r"LINE (\d+): ", line))), 1)
    return f"{path}, line {counted[int(told[1])].line + within - 1}: "


def _ends_with_its_client(conninfo: str) -> str:
    """Return a setting by which a statement ends within a second of its client, whose run was cut short."""
    with connected(conninfo) as connection:
        return "-c client_connection_check_interval=1s" if connection.info.server_version >= 140000 else ""


def _pgbench(
    conninfo: str,
    words: Sequence[str],
    limit_s: float | None = None,
    watching: _progress.Reporter | None = None,
) -> str:
    public, secret = argument_and_environment(conninfo, postgres_server.DATABASE)
    line, environment = [str(program("pgbench")), *words, public], {**os.environ, **secret}
    # standard input is read only where the words say so
    done = _progress.run(line, watching, env=environment, given=_ANALYTICAL, limit_s=limit_s)
    if done.returncode:
        scripts = [Path(split_weight(word)[0]) for flag, word in pairwise(words) if flag == "-f" and word != "-"]
        raise TargetError(f"pgbench exited with code {done.returncode}: {said(done.stderr, scripts)}")
    return done.stdout
