"""SQL over observations: DuckDB in memory, one SELECT at a time, nothing outside reachable."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tunewright.errors import ConfigError, missing_extra

MOST_ROWS = 200
MOST_SECONDS = 5.0
MEMORY = "512MB"


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
        Column names; rows; whether there were more.

    Raises:
        ConfigError: it is not one SELECT, it is wrong, it takes too long, or it wants something outside.
    """
    try:
        import duckdb
    except ImportError:
        raise missing_extra("duckdb", "llm", "asking questions in SQL") from None
    settings: dict[str, Any] = {
        "enable_external_access": "false", "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
        "allow_community_extensions": "false", "memory_limit": MEMORY, "threads": "1", "max_temp_directory_size": "0KiB",
        "python_enable_replacements": "false",
    }  # fmt: skip
    connection = duckdb.connect(":memory:", config=settings)
    try:
        for name, table in tables.items():
            connection.register(f"held_{name}", table)
            connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM "held_{name}"')
            connection.unregister(f"held_{name}")
        connection.execute("SET lock_configuration = true")
        try:
            statements = connection.extract_statements(sql)
        except duckdb.Error as error:
            raise ConfigError(f"the question is no SQL: {_first(error)}") from None
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigError("ask one SELECT at a time; nothing else is allowed")
        late = threading.Event()

        def stop() -> None:
            late.set()
            connection.interrupt()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            answer = connection.execute(statements[0])
            found = answer.fetchmany(rows + 1)
            names = [d[0] for d in answer.description or ()]
        except duckdb.Error as error:
            if late.is_set():
                raise ConfigError(f"the question took longer than {seconds:g} s; ask for less") from None
            known = ", ".join(f"{n}({', '.join(map(str, t.columns[:40]))})" for n, t in tables.items())
            raise ConfigError(f"the question cannot be answered: {_first(error)}. There are: {known}") from None
        finally:
            timer.cancel()
        return names, found[:rows], len(found) > rows
    finally:
        connection.close()


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400]
