"""SQL over observations: DuckDB in a process of its own, one SELECT at a time, nothing outside reachable.

A language model writes the questions. DuckDB's own limit of memory does not count texts and lists within a query, and
its interrupt waits for the function that runs: ``repeat('a', 2000000000)`` took 4 GB and 18 s under a limit of 512 MB
and 5 s. So each question is answered by a process that the operating system holds to both limits. It is forked from one
that holds the tables: starting an interpreter, importing pandas and sending the tables takes longer than most answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from tunewright.errors import ConfigError, missing_extra

MOST_ROWS, MOST_COLUMNS = 200, 60
MOST_CELL, MOST_CHARACTERS = 300, 30_000  # of one cell, and of an answer
MOST_SECONDS = 5.0
MEMORY_MB = 256  # on top of the tables
_LOADING_S = 120  # to start and to read the tables
_TOO_LARGE = f"the question needs more than {MEMORY_MB} MB of memory; ask for less"
Answer = tuple[list[str], list[tuple[Any, ...]], bool]


class Questions:
    """Questions about tables, asked one after another by one thread; the process that holds the tables ends with it.

    That process starts at the first question. One that was lost is replaced at the next.

    Args:
        tables: pandas DataFrames by name; they must not change any more.
    """

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._tables = dict(tables)
        self._holder: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def ask(self, sql: str, *, rows: int = MOST_ROWS, seconds: float = MOST_SECONDS) -> Answer:
        """Answer one SELECT.

        Args:
            sql: the question.
            rows: most rows returned.
            seconds: time limit.

        Returns:
            Column names; rows, their cells numbers, booleans, None, or text of at most ``MOST_CELL`` characters;
            whether there were more.

        Raises:
            ConfigError: it is not one SELECT, it is wrong, it takes too long or too much memory, it has too many
                columns, or it wants something outside.
        """
        if find_spec("duckdb") is None:
            raise missing_extra("duckdb", "llm", "asking questions in SQL")
        reply = self._reply(pickle.dumps((sql, rows, seconds)), _LOADING_S + seconds)
        if reply["exit_code"] == -signal.SIGALRM:
            raise ConfigError(f"the question took longer than {seconds:g} s; ask for less")
        if reply["exit_code"] < 0:
            raise ConfigError(_TOO_LARGE)
        if reply["exit_code"]:
            raise _failed()
        answer = json.loads(reply["answer"])
        if "refused" in answer:
            raise ConfigError(answer["refused"])
        if "wrong" in answer:
            columns = {name: ", ".join(str(c)[:80] for c in t.columns[:40]) for name, t in self._tables.items()}
            known = ", ".join(f"{name}({names})" for name, names in columns.items())
            raise ConfigError(f"the question cannot be answered: {answer['wrong']}. There are: {known}")
        return answer["names"], [tuple(row) for row in answer["rows"]], answer["more"]

    def _reply(self, question: bytes, limit_s: float) -> dict[str, Any]:
        try:
            if self._line is None:
                self._start()
            assert self._line is not None
            self._line.send_bytes(question)
            if not self._line.poll(limit_s):
                raise ConfigError("the tables cannot be loaded for a question in SQL: it takes too long")
            reply: dict[str, Any] = json.loads(self._line.recv_bytes())
        except (EOFError, OSError):  # it ended before it had read or answered everything
            code = self._holder.wait() if self._holder is not None else 1
            self.close()
            raise (ConfigError(_TOO_LARGE) if code < 0 else _failed()) from None
        except BaseException:  # what it would answer later belongs to no question
            self.close()
            raise
        return reply

    def _start(self) -> None:
        self._line, theirs = Pipe()
        with theirs:
            self._holder = subprocess.Popen(
                [sys.executable, "-P", "-m", "tunewright.knowledge.sqltables", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # so that it and the one that answers are ended together
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a process with one thread can be forked safely
            )
        self._line.send_bytes(pickle.dumps(self._tables, protocol=5))

    def close(self) -> None:
        """End the process that holds the tables, and what it answers."""
        if self._line is not None:
            self._line.close()
        if self._holder is not None:
            if self._holder.returncode is None:  # else its id may be another's by now
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._holder.pid, signal.SIGKILL)
            self._holder.wait()
        self._line = self._holder = None

    def __enter__(self) -> Questions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def query(tables: Mapping[str, Any], sql: str, *, rows: int = MOST_ROWS, seconds: float = MOST_SECONDS) -> Answer:
    """Answer one SELECT over tables; see :meth:`Questions.ask`.

    Args:
        tables: pandas DataFrames by name.
        sql: the question.
        rows: most rows returned.
        seconds: time limit.
    """
    with Questions(tables) as questions:
        return questions.ask(sql, rows=rows, seconds=seconds)


def _failed() -> ConfigError:
    return ConfigError(
        "the process that answers questions in SQL failed; does 'python -c \"import duckdb, pandas\"' work?"
    )


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
    """Hold the tables, and have a process forked from this one answer each question."""
    line = Connection(int(sys.argv[1]))
    tables = pickle.loads(line.recv_bytes())
    import duckdb  # noqa: F401  for all that are forked

    while True:
        try:
            question = pickle.loads(line.recv_bytes())
        except EOFError:  # the one that asks is gone
            return
        reading, writing = os.pipe()
        if not (child := os.fork()):
            _answer_and_exit(writing, tables, *question)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as answer:
            text = answer.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        line.send_bytes(json.dumps({"exit_code": code, "answer": text}).encode())


def _answer_and_exit(writing: int, tables: Mapping[str, Any], sql: str, rows: int, seconds: float) -> NoReturn:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        answer = _answer(tables, sql, rows, seconds)
    except MemoryError:
        answer = {"refused": _TOO_LARGE}
    except BaseException:
        os._exit(1)
    with os.fdopen(writing, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os._exit(0)


if __name__ == "__main__":
    _main()
