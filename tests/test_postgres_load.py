"""Loads of the user's own, as pgbench runs them: scripts, options and what is read from pgbench; without a server."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.envs.loads import pgbench
from tunewright.envs.storage import postgres_load, postgres_programs, postgres_scope
from tunewright.envs.storage.postgres_bench import said, words_of
from tunewright.envs.storage.postgres_options import Work, read_work
from tunewright.envs.storage.postgres_scope import Scope
from tunewright.errors import ConfigError, TargetError, UnknownNameError
from tunewright.plugins import located_options

SUMMARY = """\
pgbench (15.14 (Debian 15.14-0+deb12u1))
transaction type: multiple scripts
number of failed transactions: 0 (0.000%)
latency average = 1.234 ms
initial connection time = 5.6 ms
tps = 3240.123456 (without initial connection time)
SQL script 1: read.sql
 - latency average = 0.500 ms
"""


def test_scripts_with_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("read.sql", "write.sql", "me@home.sql", "odd@7"):
        (tmp_path / name).write_text("SELECT 1;\n")
    scripts = pgbench.read_scripts("read.sql@3, write.sql,me@home.sql@2,odd@7")
    assert [(s.path.name, s.weight) for s in scripts] == [
        ("read.sql", 3), ("write.sql", 1), ("me@home.sql", 2), ("odd@7", 1)
    ]  # fmt: skip
    assert words_of("load", scripts, "")[:4] == ["-f", f"{tmp_path}/read.sql@3", "-f", f"{tmp_path}/write.sql@1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("none.sql", "none.sql of the load: No such file"), ("empty.sql", "empty.sql of the load has no statements"),
     (".", "of the load: Is a directory"), ("read.sql@0", "weight 0"), ("", "cannot read the load ''"),
     ("read.sql@2,none.sql@1", "none.sql of the load: No such file"), ("read.sql,", "cannot read the load 'read.sql,'")],
)  # fmt: skip
def test_scripts_that_cannot_be(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "read.sql").write_text("SELECT 1;\n")
    (tmp_path / "empty.sql").write_text("-- SELECT 1;\n/* SELECT\n 2; */\n")
    with pytest.raises(ConfigError) as caught:
        Work(scripts=pgbench.read_scripts(text)).fingerprint()
    assert said in str(caught.value) and "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200))
def test_percentiles_are_those_of_the_log(tmp_path_factory, times_us):
    folder = tmp_path_factory.mktemp("log")
    lines = [f"0 {n} {us} 0 1700000000 {n}\n" for n, us in enumerate(times_us)]
    lines += ["1 5 failed 0 1700000000 3\n", "1 6 skipped 0 1700000000 3 0\n", "cut off"]
    (folder / "pgbench_log.17").write_text("".join(lines[::2]))
    (folder / "pgbench_log.17.1").write_text("".join(lines[1::2]))
    found = pgbench.parse(SUMMARY, folder)
    assert (found["tps"], found["latency"]) == (3240.123456, 1.234)
    for share in (50, 95, 99):
        assert found[f"p{share}"] == pytest.approx(np.percentile(times_us, share) / 1000)
    assert set(found) == {m.name for m in pgbench.METRICS}


def test_what_is_no_summary_is_refused(tmp_path):
    assert set(pgbench.parse(SUMMARY, tmp_path)) == {"tps", "latency"}
    for text in ("", "tps is fine", "latency average = 3 ms"):
        with pytest.raises(TargetError, match="not what pgbench prints"):
            pgbench.parse(text, tmp_path)
    with pytest.raises(TargetError, match="3 transactions failed"):
        pgbench.parse(SUMMARY.replace("transactions: 0", "transactions: 3"), tmp_path)


@pytest.mark.parametrize(
    ("options", "foreign", "said"),
    [({"reset": "dump"}, True, "option reset goes with a load of your own"),
     ({"load": "a.sql", "keep": "yes"}, True, "option keep goes with the benchmark's database"),
     ({"load": "a.sql", "schema": "a.sql"}, True, "option schema goes with"),
     ({"load": "a.sql", "database": "x"}, False, "option database goes with"),
     ({"load": "a.sql", "schema": "no.sql"}, False, "no.sql for option schema"),
     ({"load": "a.sql", "reset": "templat"}, True, "Did you mean 'template'"),
     ({"load": "a.sql", "reset": "dump:/none"}, True, "there is no file /none for option reset"),
     ({"load": "a.sql", "protocol": "fast"}, True, "protocol"),
     ({"scope": "table"}, True, "scope"), ({"scope": "role"}, False, "option scope goes with a server by DSN"),
     ({"seconds": "10", "aim": "3"}, True, "but not both"), ({"seconds": "nan"}, True, "option seconds"),
     ({"warmup": "-1"}, True, "option warmup"), ({"writes": "maybe", "load": "a.sql"}, True, "yes or no")],
)  # fmt: skip
def test_options_that_do_not_go_together(options, foreign, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.sql").write_text("SELECT 1;\n")
    with pytest.raises((ConfigError, UnknownNameError)) as caught:
        read_work(options, foreign=foreign).fingerprint()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_amount_of_work():
    amount = postgres_load.amount
    fixed = amount(Work(), 4, {"transactions": 100})
    assert (fixed.words, fixed.warm, fixed.expected) == (("-t", "100"), ("-t", "25"), 400)
    timed = amount(Work(seconds=60, warmup_s=5), 4, {"tps": 50.0})
    assert (timed.words, timed.warm, timed.expected) == (("-T", "60"), ("-T", "5"), 3000)
    assert amount(Work(warmup_s=2), 4, {"transactions": 100, "tps": 200.0}).warm == ("-t", "100"), "fixed, too"
    assert amount(Work(warmup_s=0), 4, {"transactions": 100, "tps": 200.0}).warm == ()
    assert postgres_load.calibrated(Work(aim_s=10), 4, 200.0) == 500
    assert postgres_load.fixed(Work(transactions=10), 4) == 3
    assert Work().aim < 10 < Work(scripts=(pgbench.Script(path="x"),)).aim


def test_a_load_that_changed_is_another_one(tmp_path):
    path = tmp_path / "a.sql"
    path.write_text("SELECT 1;\n")
    work = read_work({"load": str(path)}, foreign=True)
    before = work.fingerprint()
    path.write_text("SELECT 2;\n")
    assert work.fingerprint() != before
    assert read_work({"load": f"{path}@2"}, foreign=True).fingerprint() != work.fingerprint()
    path.unlink()
    with pytest.raises(ConfigError, match=r"cannot read the script .*a\.sql"):
        work.fingerprint()


def test_a_missing_program_names_its_package(monkeypatch):
    monkeypatch.setattr(postgres_programs, "_places", lambda name: [])
    with pytest.raises(TargetError, match=r"no pgbench .*install the package postgresql \(Debian, Ubuntu\)"):
        postgres_programs.program("pgbench")
    with pytest.raises(TargetError, match=r"no pg_dump of PostgreSQL 15 or later .*postgresql-client"):
        postgres_programs.program("pg_dump", 15)


def test_the_servers_own_line_is_quoted():
    text = "pgbench: error: client 0 script 0 aborted in command 0 query 0: ERROR:  no table\nLINE 1: x\npgbench: error: Run was aborted\n"
    assert said(text).endswith("ERROR:  no table; LINE 1: x")
    assert said("pgbench: error: cannot open\n") == "pgbench: error: cannot open"
    assert said("") == ""


def test_an_error_is_told_whole_with_file_and_line(tmp_path):
    """As pgbench 15 and psql 15 print them; pgbench counts commands, and the server lines of one."""
    path = tmp_path / "a.sql"
    path.write_text("\\set a 1\nSELECT ';';\n-- SELECT 1;\nSELECT *\n  FORM t;\n")
    end = "pgbench: error: Run was aborted; the above results are incomplete.\n"
    text = 'ERROR:  syntax error at or near "FORM"\nLINE 2:   FORM t;\n          ^\n'
    found = said(f"pgbench: error: client 0 script 0 aborted in command 2 query 0: {text}{end}", [path])
    assert found.startswith(f"{path}, line 5: ") and found.endswith('near "FORM"; LINE 2:   FORM t;')
    text = "pgbench: error: division by zero\npgbench: error: client 0 aborted in command 0 (set) of script 0; no\n"
    assert said(text + end, [path]) == f"{path}, line 1: pgbench: error: division by zero"
    text = 'pgbench: error: a.sql:2: unexpected function name (foo) in command "set"\n\\set a foo(1)\n     ^ error found here\n'
    assert said(text) == r'pgbench: error: a.sql:2: unexpected function name (foo) in command "set"; \set a foo(1)'
    text = 'psql:a.sql:6: ERROR:  no table "x"\nLINE 1: x\n        ^\nHINT:  make it\npsql:a.sql:7: ERROR:  y\n'
    assert said(text) == 'psql:a.sql:6: ERROR:  no table "x"; LINE 1: x; HINT:  make it'


@pytest.mark.parametrize(
    ("text", "inner"),
    [("BEGIN;\nUPDATE t SET a = 1;\nEND;\n", "      \nUPDATE t SET a = 1;\n    \n"),
     ("UPDATE t SET a = CASE WHEN b THEN 'COMMIT' -- ; COMMIT;\nEND", "UPDATE t SET a = CASE WHEN b THEN 'COMMIT' -- ; COMMIT;\nEND"),
     ("DO $x$BEGIN; COMMIT; END$x$;", "DO $x$BEGIN; COMMIT; END$x$;"),
     ("SELECT 1 AS x \\gset\nCOMMIT;", "SELECT 1 AS x \\gset\n       "),
     (r"SELECT E'it\'s; COMMIT;';", r"SELECT E'it\'s; COMMIT;';")],
)  # fmt: skip
def test_a_script_as_a_transaction_that_is_rolled_back(text, inner):
    assert pgbench.rolled_back(text) == f"BEGIN READ WRITE; {inner}\n;ROLLBACK;\n"


@pytest.mark.parametrize("text", [r"SELECT 1\; COMMIT;", "EXPLAIN ANALYZE ROLLBACK;", r"BEGIN\; DELETE FROM t\; END;"])
def test_a_script_whose_transaction_may_end_is_not_tried(text):
    assert pgbench.rolled_back(text) == ""


def row(name, context="user", source="default"):
    return {"name": name, "context": context, "source": source}


def test_what_can_be_tuned_in_a_scope():
    rows = [row("work_mem"), row("jit", source="database"), row("shared_buffers", "postmaster"),
            row("max_wal_size", "sighup"), row("random_page_cost", source="user")]  # fmt: skip
    able, left = postgres_scope.usable(rows, "system", restart=False)
    assert [r["name"] for r in able] == ["work_mem", "max_wal_size"]
    assert "-O restart=" in left["shared_buffers"] and "ALTER DATABASE sets it" in left["jit"]
    able, left = postgres_scope.usable(rows, "database", restart=True)
    assert [r["name"] for r in able] == ["work_mem", "jit"]
    assert "scope=system" in left["max_wal_size"] and "ALTER ROLE" in left["random_page_cost"]
    able, _ = postgres_scope.usable(rows, "role", restart=True)
    assert [r["name"] for r in able] == ["work_mem", "jit", "random_page_cost"]


def test_whose_a_value_is(tmp_path):
    """Ours are the original, what was set last, and what was about to be set when we were killed."""
    postgres_scope.begin(tmp_path, {"a": "1", "b": None, "c": None})
    assert postgres_scope.theirs(tmp_path, {"a": "1"}) == {}
    postgres_scope.setting(tmp_path, {"a": "1"}, {"a": "2", "b": "2"})
    for now in ({"a": "1"}, {"a": "2"}, {"a": "2", "b": "2"}, {"a": "1", "b": "2"}):  # cut off anywhere
        assert postgres_scope.theirs(tmp_path, now) == {}
    assert postgres_scope.theirs(tmp_path, {"a": "2", "b": "7"}) == {"b": "7"}
    assert postgres_scope.theirs(tmp_path, {"b": "2"}) == {"a": None}
    postgres_scope.setting(tmp_path, {"b": "2"}, {"b": "2"})  # only what is set is looked at
    postgres_scope.setting(tmp_path, {"a": "2", "b": "7"}, {"a": "3", "b": "3"})  # theirs is covered by the next run
    assert postgres_scope.theirs(tmp_path, {"a": "3", "b": "3"}) == {"b": "7"}
    assert postgres_scope.theirs(tmp_path / "gone", {"a": "9"}) == {}, "an earlier version kept no notes"
    assert postgres_scope.read_scope(None) == Scope()


def test_scripts_are_found_again_from_another_directory(tmp_path, monkeypatch):
    for name in ("read.sql", "write.sql"):
        (tmp_path / name).write_text("SELECT 1;\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = located_options("a", {"load": "read.sql@3, write.sql", "schema": "read.sql"}, {"cwd": str(tmp_path)})
    assert found == {"load": f"{tmp_path}/read.sql@3,{tmp_path}/write.sql", "schema": f"{tmp_path}/read.sql"}


@pytest.mark.parametrize(("key", "way"), [("reset", "dump:"), ("dump", ""), ("config", "")])
def test_a_dump_is_found_again_from_another_directory(key, way, tmp_path, monkeypatch):
    (tmp_path / "shop.dump").write_text("SELECT 1;\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    stored = {key: f"{way}shop.dump"}
    assert located_options("a", stored, {"cwd": str(tmp_path)}) == {key: f"{way}{tmp_path}/shop.dump"}
    for word in ("template", "template:shop.dump", "none"):  # a database of the file's name is none
        assert located_options("a", {"reset": word}, {"cwd": str(tmp_path)}) == {"reset": word}
    (tmp_path / "shop.dump").rename("shop.dump")
    with pytest.raises(ConfigError, match=f"--option {key}={way}PATH"):
        located_options("a", stored, {"cwd": str(tmp_path)})
