"""Questions in SQL: limits of time, memory and size, and nothing outside is reached."""

import contextlib
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from processes import appears, ends, of_this_test

from tunewright.errors import ConfigError
from tunewright.knowledge import sqltables
from tunewright.knowledge.sqltables import Questions, query

TABLE = {"calls": pd.DataFrame({"name": ["a", "b", "c"], "n": [1, 2, 3]})}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Answers questions about ``TABLE``; what one of them wrote would lie in ``folder``."""
    with Questions(TABLE) as asked:
        asked.folder = tmp_path_factory.mktemp("questions")
        with contextlib.chdir(asked.folder):
            asked.ask("SELECT 1")
        yield asked


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('a', 2000000000)",
        pytest.param("SELECT repeat('a', 100000000) FROM range(50)", marks=pytest.mark.slow),
        pytest.param("SELECT left(repeat('a', 2000000000), 9)", marks=pytest.mark.slow),
        pytest.param("SELECT sum(length(repeat('a', 400000000))) FROM range(100)", marks=pytest.mark.slow),
        pytest.param("SELECT range(100000000)", marks=pytest.mark.slow),
        pytest.param("SELECT list(range) FROM range(100000000)", marks=pytest.mark.slow),
        pytest.param("SELECT string_agg(repeat('a', 1000000), '') FROM range(2000)", marks=pytest.mark.slow),
        pytest.param(
            "SELECT * FROM range(3000000) a, range(3000000) b ORDER BY a.range * b.range", marks=pytest.mark.slow
        ),
        pytest.param(
            "SELECT a.range % 900001 AS k, list(b.range) FROM range(3000000) a, range(90) b GROUP BY k ORDER BY k",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_question_cannot_fill_the_memory_or_the_disk(sql, tmp_path):
    ask = "import resource, sys\nimport pandas as pd\nfrom tunewright.knowledge.sqltables import query\nfrom tunewright.errors import ConfigError\n"
    ask += "try:\n    query({'calls': pd.DataFrame({'n': [1]})}, sys.argv[1])\nexcept ConfigError as error:\n    print(error)\n"
    # its own ru_maxrss would begin with the size of the process that started it
    ask += "own = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]\n"
    ask += "print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    said, peaks = subprocess.run(
        [sys.executable, "-c", ask, sql], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.splitlines()
    assert "more than 256 MB" in said or "longer than 5 s" in said
    assert all(int(peak) < 512 * 1024 for peak in peaks.split()), "KiB"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT sum(i) FROM t",
        "SELECT sum(a.range + b.range) FROM range(100000) a, range(100000000) b WHERE (a.range * b.range) % 7 = 3",
        "SELECT max(lpad('a', 20000000, 'b')) FROM range(1000)",
        "SELECT * FROM range(3000000) a, range(3000000) b ORDER BY a.range * b.range",
    ],
)
def test_a_question_ends_in_time(sql, questions):
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"longer than 0\.3 s|more than 256 MB"):
        questions.ask(sql, seconds=0.3)
    assert time.monotonic() - began < 100, "each of them would take hours"
    assert not list(questions.folder.iterdir()), "what does not fit the memory was written beside the user's files"


def test_cells_columns_and_answers_are_capped(questions):
    names, rows, more = questions.ask(
        "SELECT repeat('a', 5000000) AS long, [1, 2] AS list, 1.5::DECIMAL(4, 1) AS d, NULL AS x FROM calls"
    )
    assert names == ["long", "list", "d", "x"] and not more
    for row in rows:
        assert row[0] == "a" * sqltables.MOST_CELL + "… (5,000,000 characters)" and row[1:] == ("[1, 2]", 1.5, None)
    _, rows, more = questions.ask("SELECT repeat('a', 5000) AS a, repeat('b', 5000) AS b FROM range(200)")
    assert more and 10 < len(rows) < 100
    assert sum(len(cell) for row in rows for cell in row) <= sqltables.MOST_CHARACTERS
    with pytest.raises(ConfigError, match="at most 60"):
        questions.ask("SELECT " + ", ".join(f"n AS c{i}" for i in range(100)) + " FROM calls")
    with pytest.raises(ConfigError) as caught:
        questions.ask(f'SELECT "{"x" * 100_000}" FROM calls')
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH ':memory:' AS other", "DETACH memory", "COPY calls TO 'x.csv'", "COPY calls FROM 'x.csv'", "INSTALL json", "LOAD json",
        "PRAGMA database_list", "PRAGMA memory_limit='9GB'", "SET memory_limit='9GB'", "SET enable_external_access=true", "RESET threads",
        "SET lock_configuration=false", "CALL pragma_version()", "EXPORT DATABASE 'x'", "IMPORT DATABASE 'x'", "CREATE TABLE x AS SELECT 1",
        "INSERT INTO calls VALUES ('d', 4)", "UPDATE calls SET n = 0", "CREATE MACRO f() AS 1", "CHECKPOINT", "USE memory", "EXPLAIN ANALYZE SELECT 1",
        "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_blob('/etc/passwd')", "SELECT * FROM parquet_scan('/tmp/*')",
        "SELECT * FROM 'https://localhost/x.csv'", "FROM '/etc/passwd'", "SELECT getenv('HOME')", "SELECT 1; ATTACH ':memory:' AS other",
        "SELECT * FROM (COPY calls TO 'x.csv')", "WITH x AS (INSERT INTO calls VALUES ('d', 4) RETURNING n) SELECT * FROM x",
    ],
)  # fmt: skip
def test_nothing_outside_is_reached(sql, questions):
    with pytest.raises(ConfigError) as caught:
        questions.ask(sql)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(questions.folder.iterdir())


def test_a_question_reads_dates_and_numbers_as_they_are(questions):
    table = pd.DataFrame({"at": pd.to_datetime(["2024-05-10 00:00:01"]), "share": [0.1], "big": [2**60], "on": [True]})
    rows = query({"odd name": table}, 'SELECT * FROM "odd name"; -- done')[1]
    assert rows == [("2024-05-10 00:00:01", 0.1, 2**60, True)]
    assert np.isnan(questions.ask("SELECT 'nan'::DOUBLE")[1][0][0])


def test_the_process_that_answers_ends_at_its_limit_also_when_the_one_that_asks_is_killed():
    ask = "import pandas as pd; from tunewright.knowledge.sqltables import query; print('asked', flush=True);"
    ask += "query({'t': pd.DataFrame({'n': [1]})}, 'SELECT sum(a.range * b.range) FROM range(100000) a, range(100000000) b', seconds=2)"
    child = "-m tunewright.knowledge.sqltables"
    with subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as asking:
        asking.stdout.readline()
        assert appears(child)
        asking.kill()
    assert ends(child), of_this_test(child)


def test_a_question_has_no_place_to_spill_to(questions):
    """A process that is ended in the middle of a large sort left its files where the user stood."""
    assert questions.ask("SELECT value FROM duckdb_settings() WHERE name = 'temp_directory'")[1] == [("",)]


def test_a_question_leaves_the_next_one_nothing(questions):
    """Each is answered by a process of its own, which ends with it, whether it was answered, refused or stopped."""
    assert questions.ask("SELECT setseed(0.5), random() > 2 AS never")[1] == [(None, False)]
    with pytest.raises(ConfigError, match="more than 256 MB"):
        questions.ask("SELECT repeat('a', 2000000000)")
    with pytest.raises(ConfigError, match="nobody"):
        questions.ask("SELECT * FROM nobody")
    assert questions.ask("SELECT sum(n) FROM calls")[1] == [(6,)]


def test_a_process_that_was_lost_is_replaced_at_the_next_question():
    with Questions(TABLE) as questions:
        questions.ask("SELECT 1")
        [holder] = of_this_test("-m tunewright.knowledge.sqltables")
        holder.kill()
        with pytest.raises(ConfigError, match="more than 256 MB"):
            questions.ask("SELECT 1")
        assert questions.ask("SELECT sum(n) FROM calls")[1] == [(6,)]
    assert ends("-m tunewright.knowledge.sqltables")
