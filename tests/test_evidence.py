"""Logs and statistics become tables, features and facts; questions in SQL reach nothing else."""

import json

import pandas as pd
import pytest

from tunewright.errors import ConfigError
from tunewright.knowledge.logs import observe
from tunewright.knowledge.sqltables import Questions, query

STRACE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 71.04    0.710400          71     10000           fdatasync
 20.00    0.200000          20     10000           pwrite64
  8.96    0.089600           8     11200      9000 openat
------ ----------- ----------- --------- --------- ----------------
100.00    1.000000          32     31200      9000 total
"""
ROCKS = """rocksdb.block.cache.miss COUNT : 5000
rocksdb.block.cache.hit COUNT : 5000
rocksdb.number.keys.read COUNT : 20000
rocksdb.number.keys.written COUNT : 100
rocksdb.stall.micros COUNT : 2500000
rocksdb.db.get.micros P50 : 2.5 P95 : 9.1 P99 : 12.0 P100 : 100.0 COUNT : 20000 SUM : 60000
"""
DATABASE = (
    "datname,blks_hit,blks_read,xact_commit,xact_rollback,temp_bytes,deadlocks\nshop,50000,50000,100,50,9000000,0\n"
)
WRITER = "checkpoints_timed,checkpoints_req,buffers_checkpoint,buffers_clean,buffers_backend\n2,20,100,0,900\n"


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_strace(tmp_path):
    seen = observe(written(tmp_path, "s.txt", STRACE))
    assert seen.kind == "strace" and len(seen.tables["calls"]) == 3
    assert seen.features["sync_time_share"] == pytest.approx(0.7104)
    assert any("making data durable" in f for f in seen.facts) and any("fails" in f for f in seen.facts)


def test_a_real_strace_summary_is_read_too(tmp_path):
    """The table strace prints has the same columns with and without errors."""
    lines = STRACE.replace("9000 openat", "     openat")
    assert observe(written(tmp_path, "s.txt", lines)).features["errors"] == 0


def test_rocksdb_statistics(tmp_path):
    seen = observe(written(tmp_path, "r.txt", ROCKS))
    assert seen.features["block_cache_hit_share"] == 0.5 and seen.features["stall_s"] == 2.5
    assert seen.tables["histograms"]["p99"].tolist() == [12.0]
    assert any("stalled" in f for f in seen.facts) and any("no bloom filter" in f for f in seen.facts)


def test_postgres_statistics(tmp_path):
    seen = observe(written(tmp_path, "d.csv", DATABASE))
    assert seen.features["cache_hit_share"] == 0.5
    assert any("shared_buffers" in f for f in seen.facts) and any("work_mem" in f for f in seen.facts)
    assert any("max_wal_size" in f for f in observe(written(tmp_path, "w.csv", WRITER)).facts)


def test_llm_requests(tmp_path):
    lines = [
        {"timestamp": 100 * i, "input_length": 1000, "output_length": 10, "hash_ids": [1, 2, 10 + i]} for i in range(10)
    ]
    seen = observe(written(tmp_path, "t.jsonl", "\n".join(map(json.dumps, lines))))
    assert seen.features["prefix_hit_share"] == pytest.approx(18 / 30) and "prefill dominates" in seen.facts
    azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,344\n2023-11-16 18:15:50.99,396,309\n"
    seen = observe(written(tmp_path, "a.csv", azure))
    assert seen.features["duration_s"] == pytest.approx(4.31) and "decoding dominates" in seen.facts
    with pytest.raises(ConfigError, match="line 2: not a request"):
        observe(
            written(tmp_path, "b.jsonl", '{"timestamp": 0, "input_length": 1, "output_length": 1}\n{"timestamp": 1}\n')
        )


def test_what_is_none_of_these(tmp_path):
    assert observe(written(tmp_path, "x.txt", "hello\n")) is None
    with pytest.raises(ConfigError, match="cannot read"):
        observe(tmp_path / "nothing")


def test_a_damaged_darshan_log_is_an_error(tmp_path):
    for size in (0, 500):
        path = tmp_path / "x.darshan"
        path.write_bytes(b"3.41\0\0\0\x0075d\0\0\0\0\0" + b"\x01" * size)
        with pytest.raises(ConfigError, match="no readable Darshan log|damaged"):
            observe(path)


@pytest.mark.data
@pytest.mark.slow
def test_every_darshan_log_is_read_and_cut_ones_do_not_crash(data, tmp_path):
    logs = sorted((data / "darshan").glob("*.darshan"))
    assert len(logs) > 20
    for log in logs:
        seen = observe(log)
        assert seen.tables and seen.facts, log
        with Questions(seen.tables) as questions:
            for table in seen.tables:
                assert questions.ask(f"SELECT count(*) FROM {table}")[1] == [(len(seen.tables[table]),)]
    bad = observe(data / "darshan" / "sample-badost.darshan")
    assert bad.features["slowest_target_over_median"] > 3 and bad.features["rank_imbalance"] > 10
    assert any("incomplete" in m for m in observe(data / "darshan" / "partial_data_stdio.darshan").missing)
    whole = (data / "darshan" / "sample-badost.darshan").read_bytes()
    for size in (30, 400, 5000, 100_000):
        path = tmp_path / "cut.darshan"
        path.write_bytes(whole[:size])
        try:
            assert observe(path).missing
        except ConfigError as error:
            assert "cut.darshan" in str(error)


TABLE = {"calls": pd.DataFrame({"name": ["a", "b", "c"], "n": [1, 2, 3]})}


@pytest.fixture(scope="module")
def questions():
    with Questions(TABLE) as asked:
        yield asked


def test_questions_in_sql(questions):
    assert questions.ask("SELECT name, n * 2 AS twice FROM calls WHERE n > 1 ORDER BY n") == (
        ["name", "twice"], [("b", 4), ("c", 6)], False,
    )  # fmt: skip
    assert questions.ask("SELECT * FROM calls", rows=2)[1:] == ([("a", 1), ("b", 2)], True)
    assert questions.ask("WITH x AS (SELECT max(n) AS m FROM calls) SELECT m FROM x")[1] == [(3,)]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM calls", "SELECT 1; SELECT 2", "COPY calls TO '/tmp/x.csv'", "SET memory_limit='9GB'", "DROP TABLE calls",
        "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM '/etc/passwd'", "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')", "INSTALL httpfs", "ATTACH '/tmp/x.db'", "nonsense", "SELECT * FROM table_of_mine",
        "SELECT nothing FROM calls", "SELECT * FROM TABLE", "",
    ],
)  # fmt: skip
def test_nothing_else_is_answered(sql, questions):
    table_of_mine = pd.DataFrame({"secret": [1]})  # a local name must not be reachable
    with pytest.raises(ConfigError):
        questions.ask(sql)
    assert len(table_of_mine) == 1


def test_a_question_that_takes_too_long_is_stopped():
    many = {"t": pd.DataFrame({"n": range(100_000)})}
    with pytest.raises(ConfigError, match="longer than 0.5 s"):
        query(many, "SELECT sum(a.n * b.n + c.n) FROM t a, t b, t c", seconds=0.5)


def test_the_command_shows_observations(cli, tmp_path):
    path = written(tmp_path, "s.txt", STRACE)
    assert json.loads(cli("trace", path, "--json").stdout)["kind"] == "strace"
    assert "making data durable" in cli("trace", path).stdout
    assert "block traces only" in cli("trace", path, "-o", tmp_path / "p.html", code=1).stderr
