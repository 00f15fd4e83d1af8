"""SQL over observations: DuckDB in a process of its own, one SELECT at a time, nothing outside reachable.

A language model writes the questions. DuckDB's own limit of memory does not count texts and lists within a query, and
its interrupt waits for the function that runs: ``repeat('a', 2000000000)`` took 4 GB and 18 s under a limit of 512 MB
and 5 s. So each question is answered by a process that the operating system holds to both limits.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, missing_extra

MOST_ROWS, MOST_COLUMNS = 200, 60
MOST_CELL, MOST_CHARACTERS = 300, 30_000  # of one cell, and of an answer
MOST_SECONDS = 5.0
MEMORY_MB = 256  # on top of the tables
_LOADING_S = 120  # to start and to read the tables
_TOO_LARGE = f"the question needs more than {MEMORY_MB} MB of memory; ask for less"


def query(
    tables: Mapping[str, Any], sql: str, *, rows: int = MOST_ROWS, seconds: float = MOST_SECONDS
) -> tuple[list[str], list[tuple[Any, ...]], bool]:
    """Answer one SELECT.

    Args:
        tables: pandas DataFrames by name.
        sql: the question.
        rows: most rows returned.
        seconds: time limit.

    Returns:
        Column names; rows, their cells numbers, booleans, None, or text of at most ``MOST_CELL`` characters; whether
        there were more.

    Raises:
        ConfigError: it is not one SELECT, it is wrong, it takes too long or too much memory, it has too many columns,
            or it wants something outside.
    """
    if find_spec("duckdb") is None:
        raise missing_extra("duckdb", "llm", "asking questions in SQL")
    command = [sys.executable, "-P", "-m", "tunewright.knowledge.sqltables"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        try:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended before it had read everything; its exit code says why
                pickle.dump((dict(tables), sql, rows, seconds), worker.stdin, protocol=5)
            raw = worker.communicate(timeout=_LOADING_S + seconds)[0]
        except subprocess.TimeoutExpired:
            raise ConfigError("the tables cannot be loaded for a question in SQL: it takes too long") from None
        finally:
            worker.kill()
    if worker.returncode == -signal.SIGALRM:
        raise ConfigError(f"the question took longer than {seconds:g} s; ask for less")
    if worker.returncode < 0:
        raise ConfigError(_TOO_LARGE)
    if worker.returncode:
        raise ConfigError(
            "the process that answers questions in SQL failed; does 'python -c \"import duckdb, pandas\"' work?"
        )
    answer = json.loads(raw)
    if "refused" in answer:
        raise ConfigError(answer["refused"])
    if "wrong" in answer:
        known = ", ".join(f"{n}({', '.join(str(c)[:80] for c in t.columns[:40])})" for n, t in tables.items())
        raise ConfigError(f"the question cannot be answered: {answer['wrong']}. There are: {known}")
    return answer["names"], [tuple(row) for row in answer["rows"]], answer["more"]


# --- what the process of its own runs


def _limit(seconds: float) -> None:
    """Have the kernel end this process after a time, and refuse it more memory than it has now and ``MEMORY_MB``."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    most = used + MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))


def _answer(tables: Mapping[str, Any], sql: str, rows: int, seconds: float) -> dict[str, Any]:
    import duckdb

    settings: dict[str, Any] = {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "memory_limit": f"{MEMORY_MB}MB",
        "threads": "1",
        "temp_directory": "",  # nothing is written to the disk
        "python_enable_replacements": "false",
    }
    connection = duckdb.connect(":memory:", config=settings)
    try:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        return {"refused": f"the tables cannot be asked in SQL: {_first(error)}"}
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        return {"refused": f"the question is no SQL: {_first(error)}"}
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        return {"refused": "ask one SELECT at a time; nothing else is allowed"}
    _limit(seconds)
    try:
        result = connection.execute(statements[0])
        names = [_text(d[0]) for d in result.description or ()]
        if len(names) > MOST_COLUMNS:
            return {"refused": f"the answer has {len(names)} columns; ask for at most {MOST_COLUMNS}"}
        answer: list[list[Any]] = []
        size = sum(map(len, names))
        while (row := result.fetchone()) is not None:
            cells = [_cell(value) for value in row]
            size += sum(len(str(cell)) for cell in cells)
            if len(answer) == rows or size > MOST_CHARACTERS:
                return {"names": names, "rows": answer, "more": True}
            answer.append(cells)
    except duckdb.OutOfMemoryException:
        return {"refused": _TOO_LARGE}
    except duckdb.Error as error:
        return {"refused": _TOO_LARGE} if "bad_alloc" in str(error) else {"wrong": _first(error)}
    return {"names": names, "rows": answer, "more": False}


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return float(value) if isinstance(value, Decimal) else _text(value)


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MOST_CELL else f"{text[:MOST_CELL]}… ({len(text):,} characters)"


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400]


def _main() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        answer = _answer(*pickle.load(sys.stdin.buffer))
    except MemoryError:
        answer = {"refused": _TOO_LARGE}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
