"""MariaDB without a server: what is read from one, bounds, guarantees, addresses, grants, loads."""

from pathlib import Path

import pytest

pytest.importorskip("pymysql", reason="needs the extra: pip install 'tunewright[mariadb]'")

from tunewright.envs.loads import sysbench
from tunewright.envs.storage import mariadb_clients, mariadb_load, mariadb_params, mariadb_preflight
from tunewright.envs.storage.mariadb import MariaDBTarget, open_target
from tunewright.envs.storage.mariadb_dsn import client_options, read_address, secret_file
from tunewright.envs.storage.mariadb_foreign import theirs
from tunewright.errors import ConfigError, TargetError, UnknownNameError
from tunewright.sessions.forms import forms
from tunewright.sessions.guards import guarded
from tunewright.space import Int, Space
from tunewright.target import Budget
from tunewright.testing import check_space

GIB = 2**30
MOST = "18446744073709551615"


def row(name, value, kind="BIGINT UNSIGNED", low="0", high=MOST, block="1", choices=None, read_only="NO"):
    columns = ("name", "value", "type", "low", "high", "block", "choices", "read_only", "argument", "doc")
    return dict(
        zip(columns, (name, value, kind, low, high, block, choices, read_only, "REQUIRED", "text"), strict=True)
    )


# as MariaDB 10.11 tells them
ROWS = {
    r["name"]: r
    for r in (
        row("innodb_buffer_pool_size", "134217728", low="2097152", block="1048576"),
        row("innodb_log_file_size", "100663296", low="4194304", block="4096"),
        row("innodb_log_buffer_size", "16777216", "INT UNSIGNED", "2097152", "2147479552", "4096", read_only="YES"),
        row("innodb_flush_log_at_trx_commit", "1", high="3", block="0"),
        row("innodb_doublewrite", "ON", "BOOLEAN", None, None, None, "OFF,ON", "YES"),
        row("innodb_flush_method", "O_DIRECT", "ENUM", None, None, None, "fsync,nosync,O_DIRECT", "YES"),
        row("innodb_io_capacity", "200", low="100", high="4294967295", block="0"),
        row("innodb_io_capacity_max", "2000", low="100", high="4294967295", block="0"),
        row("innodb_max_dirty_pages_pct", "90.000000", "DOUBLE", "0", "99.999", None),
        row("innodb_read_io_threads", "4", "INT UNSIGNED", "1", "64", "0"),
        row("sort_buffer_size", "2097152", low="1024"),
        row("tmp_table_size", "16777216", block="16384"),
        row("read_buffer_size", "131072", low="8192", high="2147483647", block="4096"),
        row("thread_cache_size", "151", high="16384"),
        row("thread_handling", "one-thread-per-connection", "ENUM", None, None, None,
            "one-thread-per-connection,no-threads,pool-of-threads", "YES"),
        row("query_cache_type", "OFF", "ENUM", None, None, None, "OFF,ON,DEMAND"),
        row("query_cache_size", "1048576", block="1024"),
        row("sync_binlog", "0", "INT UNSIGNED", "0", "4294967295"),
        row("max_connections", "151", low="10", high="100000"),
        row("optimizer_switch", "mrr=off", "FLAGSET", None, None, None, "mrr"),
        row("sql_mode", "STRICT", "SET", None, None, None, "STRICT"),
        row("innodb_data_home_dir", "", "VARCHAR", None, None, None),
    )
}  # fmt: skip


def space(rows=ROWS, names=mariadb_params.NAMES):
    return mariadb_params.space([rows[n] for n in mariadb_params.selected(rows, names)], rows, 16 * GIB, 4)


class Offline(MariaDBTarget):
    """A target whose server is the table above."""

    def _read(self):
        return "10.11.19-MariaDB", ROWS


def test_parameters_are_the_servers_own_within_the_machines_memory():
    params = space().params
    pool = params["innodb_buffer_pool_size"]
    assert (pool.unit, pool.default, pool.low, pool.high, pool.restart) == ("MiB", 128, 16, 8 * 1024, "none")
    assert params["innodb_log_buffer_size"].restart == "restart"
    assert params["innodb_flush_log_at_trx_commit"].choices == (0, 1, 2, 3)
    assert (params["read_buffer_size"].step, params["read_buffer_size"].unit) == (4, "KiB")
    assert params["sort_buffer_size"].high == 16 * GIB // 64 // 1024
    assert 0 in params["tmp_table_size"].special
    assert params["thread_cache_size"].high == 151, "the server makes max_connections of more"
    assert params["innodb_read_io_threads"].high == 32
    assert "no-threads" not in params["thread_handling"].choices, "it lets one connection in"
    check_space(space())


def test_a_log_file_is_never_smaller_than_the_log_buffer():
    both = space()
    assert both.problems(both.fill({"innodb_log_file_size": 8, "innodb_log_buffer_size": 16384}))
    without = {n: r for n, r in ROWS.items() if r["read_only"] == "NO" or n == "innodb_log_buffer_size"}
    names = [n for n in mariadb_params.NAMES if n != "innodb_log_buffer_size"]
    assert space(without, names).params["innodb_log_file_size"].low == 16


def test_what_the_server_would_move_beside_a_parameter_bounds_it():
    assert space(names=["innodb_io_capacity"]).params["innodb_io_capacity"].high == 2000
    assert space(names=["innodb_io_capacity_max"]).params["innodb_io_capacity_max"].low == 200
    both = space(names=["innodb_io_capacity", "innodb_io_capacity_max"])
    assert both.problems({"innodb_io_capacity": 500, "innodb_io_capacity_max": 400})


def test_values_that_a_killed_session_left_can_be_opened_to_put_them_back():
    left = {
        **ROWS,
        "innodb_log_buffer_size": {**ROWS["innodb_log_buffer_size"], "value": "139165696"},
        "innodb_log_file_size": {**ROWS["innodb_log_file_size"], "value": "16777216"},
    }
    opened = space(left)
    assert opened.default["innodb_log_buffer_size"] == 135904
    for alone in ("innodb_log_buffer_size", "innodb_log_file_size"):
        assert space(left, [alone]).default


def test_the_query_cache_has_a_size_only_where_it_is_on():
    assert "query_cache_size" not in space().default
    assert space().fill({"query_cache_type": "ON"})["query_cache_size"] == 1024


def test_what_changes_meaning_is_never_tuned():
    found = mariadb_params.selected(ROWS, ("all",))
    assert set(found) >= {"innodb_buffer_pool_size", "sort_buffer_size"}
    assert not {"sql_mode", "innodb_data_home_dir", "optimizer_switch", "max_connections"} & set(found)
    more = {n: row(n, "ON", "BOOLEAN", None, None, None, "OFF,ON") for n in
            ("innodb_file_per_table", "innodb_encrypt_log", "innodb_force_primary_key", "foreign_key_checks", "read_only",
             "innodb_log_checksums", "innodb_log_file_buffering")}  # fmt: skip
    assert mariadb_params.selected(more, ("all",)) == []


@pytest.mark.parametrize("default", ["0", "1", "7", "1000", "8192", "67108864", "134217727"])
@pytest.mark.parametrize("block", ["0", "1", "128", "4096", "1048576"])
def test_every_size_makes_a_parameter_whose_values_the_server_takes(default, block):
    param = mariadb_params.parameter(row("innodb_x_buffer_size", default, block=block), GIB, 2)
    made = mariadb_params.Space([param])
    check_space(made, samples=20)
    assert mariadb_params.text_of(param, param.default) == default


def test_rows_of_mysql():
    rows = {
        r[0]: mariadb_params.of_mysql(*r)
        for r in (
            ("innodb_buffer_pool_size", "134217728", "5242880", MOST),
            ("innodb_doublewrite", "ON", "0", "0"),
            ("innodb_flush_method", "fsync", "0", "0"),
            ("innodb_flush_log_at_trx_commit", "1", "0", "2"),
            ("innodb_max_dirty_pages_pct", "90.000000", "0", "99"),
            ("version_comment", "MySQL Community Server - GPL", "0", "0"),
        )
    }
    found = mariadb_params.selected(rows, mariadb_params.NAMES)
    assert set(found) == set(rows) - {"version_comment"}
    params = mariadb_params.space([rows[n] for n in found], rows, 16 * GIB, 4).params
    assert params["innodb_flush_log_at_trx_commit"].choices == (0, 1, 2)
    assert params["innodb_flush_method"].restart == "restart"
    assert params["innodb_max_dirty_pages_pct"].high == 99


@pytest.mark.parametrize(
    ("changed", "level"),
    [({}, 3), ({"innodb_flush_log_at_trx_commit": 3}, 3), ({"innodb_flush_log_at_trx_commit": 2}, 2),
     ({"innodb_flush_log_at_trx_commit": 0}, 1), ({"innodb_doublewrite": "OFF"}, 0), ({"innodb_flush_method": "nosync"}, 0)],
)  # fmt: skip
def test_durability(changed, level):
    target = Offline()
    config = target.space.fill(changed)
    assert target.guarantees(config) == {"durability": level}
    assert "sync_binlog" not in target.space.params, "this server keeps no binary log"


def test_durability_is_known_where_it_is_not_tuned(monkeypatch):
    monkeypatch.setitem(ROWS, "innodb_doublewrite", {**ROWS["innodb_doublewrite"], "value": "OFF"})
    monkeypatch.setitem(ROWS, "log_bin", row("log_bin", "ON", "BOOLEAN", None, None, None, "OFF,ON", "YES"))
    target = Offline(names=("sort_buffer_size", "sync_binlog"))
    assert target.guarantees(target.space.default) == {"durability": 0.0, "binlog_durability": 0.0}
    assert target.guarantees(target.space.fill({"sync_binlog": 1}))["binlog_durability"] == 1.0
    assert {m.name for m in target.metrics} >= {"binlog_durability", "p99"}


def test_what_weaker_guarantees_would_give():
    target = Offline()
    (weaker,) = target.weaker(target.space.default)
    assert weaker.config["innodb_flush_log_at_trx_commit"] == 2 and "power cut" in weaker.loses
    assert target.weaker(weaker.config) == []


def test_render_is_an_option_file():
    target = Offline()
    text = target.render(target.space.fill({"innodb_buffer_pool_size": 256, "innodb_flush_method": "fsync"}))
    assert text.splitlines() == [
        "[mysqld]",
        "innodb_buffer_pool_size = 268435456",
        "innodb_flush_method = fsync  # needs a restart",
    ]


def test_a_private_server_is_announced(tmp_path):
    found = Offline().preflight(workload="read-write", workdir=tmp_path / "none")
    assert "MB" in found.creates[0] and not found.changes and not (tmp_path / "none").exists()


# -- addresses ------------------------------------------------------------------------------------------------------


def test_an_address(monkeypatch):
    monkeypatch.delenv("MYSQL_PWD", raising=False)
    read = read_address("mariadb://me:p%40ss@db.example:3307/shop?ssl_ca=/ca.pem")
    assert (read.user, read.password, read.host, read.port, read.database) == ("me", "p@ss", "db.example", 3307, "shop")
    assert read.ssl_ca == "/ca.pem" and "p@ss" not in repr(read)
    monkeypatch.setenv("MYSQL_PWD", "from elsewhere")
    assert read_address("mysql://me@h/").password == "from elsewhere"
    assert read_address("mariadb://me@localhost/x?socket=/run/s.sock").place == "/run/s.sock"


@pytest.mark.parametrize(
    "dsn", ["mariadb://me:s3cr@t@h/db", "mariadb://me:s3/cret@h/db", "mariadb://me:%ff@h/db?s3cret", "host=h password=s3cret",
            "mariadb://me:s3cret@h:port/db"],
)  # fmt: skip
def test_an_address_that_cannot_be_read_is_not_quoted(dsn, monkeypatch):
    for given, known in ((dsn, ""), ("", dsn)):
        monkeypatch.setenv("TUNEWRIGHT_MARIADB_DSN", known)
        with pytest.raises(ConfigError, match="cannot read the address") as caught:
            open_target(given, {})
        assert not any(piece in str(caught.value) for piece in ("s3", "cret", "cr@t"))


def test_no_server_there_and_no_password_in_what_is_said(tmp_path, cli):
    spec = "mariadb:mariadb://me:s3cret@127.0.0.1:1/x"
    done = cli("tune", spec, "--store", f"sqlite:///{tmp_path}/s.db", code=1)
    assert "cannot connect to MariaDB" in done.stderr and "s3cret" not in done.stdout + done.stderr


def test_options_of_the_servers_own_clients_are_private():
    with secret_file(client_options(read_address("mariadb://me:p%22a%5Cb@h/"))) as path:
        assert Path(path).stat().st_mode & 0o777 == 0o600
        assert 'password="p\\"a\\\\b"' in Path(path).read_text()
    assert not Path(path).exists()
    with pytest.raises(ConfigError, match="line break"):
        client_options(read_address("mariadb://me:a%0Ab@h/"))


# -- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [({"tables": "x"}, "option tables must be a whole number"), ({"threads": "0"}, "at least 1"),
     ({"reset": "backup"}, "no way to reset named 'backup'"), ({"writes": "maybe"}, "must be yes or no"),
     ({"restart": "systemctl restart mariadb"}, "restart and config belong together"),
     ({"load": "/nowhere.sql"}, "cannot read the load"), ({"tabels": "1"}, "Did you mean 'tables'")],
)  # fmt: skip
def test_options_that_cannot_be_read(options, said):
    with pytest.raises((ConfigError, UnknownNameError), match=said):
        open_target("", options)


def test_a_dump_that_names_a_database_is_refused(tmp_path):
    dump = tmp_path / "d.sql"
    dump.write_text("INSERT INTO t VALUES ('USE x');\nUSE `shop`;\n")
    with pytest.raises(ConfigError, match="names a database"):
        mariadb_load.checked_dump(str(dump))
    dump.write_text("CREATE TABLE t (a INT);\n")
    assert mariadb_load.checked_dump(str(dump)) == str(dump)


@pytest.mark.parametrize(
    ("text", "first"),
    [("SELECT 1; -- UPDATE\nWITH a AS (SELECT 1) SELECT * FROM a", ""), ("SELECT 1; UPDATE t SET a = 1", "UPDATE"),
     ("/* x */ DELETE FROM t", "DELETE"), ("SELECT 1; CALL p()", "CALL"), ("SET GLOBAL max_connections = 1", "SET"),
     ("SET @@global.sync_binlog=0", "SET"), ("SELECT * FROM t INTO OUTFILE '/tmp/x'", "SELECT")],
)  # fmt: skip
def test_statements_that_may_write(text, first):
    work = mariadb_load.Work(statements=tuple(mariadb_clients.split_statements(text)))
    assert mariadb_load.writes(work).split(" ")[0] == first


def test_statements_are_split_outside_quotes_and_comments():
    text = "SELECT 'a;\\'b', \"c;d\", `e;f`; # x;y\nINSERT INTO t VALUES (1) -- z;\n;;/* ; */SELECT 'it''s;'"
    assert mariadb_clients.split_statements(text) == [
        "SELECT 'a;\\'b', \"c;d\", `e;f`", "INSERT INTO t VALUES (1)", "SELECT 'it''s;'",
    ]  # fmt: skip
    assert mariadb_clients.split_statements("SELECT 1--1; SELECT 'open;") == ["SELECT 1--1", "SELECT 'open;"]


# -- grants, and others' values -------------------------------------------------------------------------------------


def test_grants():
    grants = mariadb_preflight.read_grants(
        [r"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, INDEX, ALTER ON `tunewright\_%`.* TO `me`@`%`",
         "GRANT BINLOG ADMIN, PROCESS ON *.* TO `me`@`%` IDENTIFIED BY PASSWORD '*00'", "GRANT `role` TO `me`@`%`"]
    )  # fmt: skip
    assert grants.may("SUPER", "BINLOG ADMIN") and not grants.may("SUPER", "CONNECTION ADMIN")
    assert grants.lacks(["SELECT", "DROP"], "tunewright_bench") == []
    assert grants.lacks(["SELECT"], "shop") == ["SELECT"]
    assert mariadb_preflight.read_grants(["GRANT ALL PRIVILEGES ON *.* TO `a`@`b`"]).lacks(["DROP"], "x") == []


def test_values_of_somebody_else_are_told_from_ours():
    noted = {"a": ["1", "7"]}
    assert theirs({"a": "1"}, {"a": "7"}, noted) == {}
    assert theirs({"a": "1"}, {"a": "1"}, noted) == {}
    assert theirs({"a": "1"}, {"a": "9"}, noted) == {"a": "9"}
    assert theirs({"a": "90.000000"}, {"a": "90"}, {}) == {}


# -- sysbench -------------------------------------------------------------------------------------------------------

SUMMARY = """\
Latency histogram (values are in milliseconds)
       value  ------------- distribution ------------- count
       1.000 |**********                               10
       2.000 |**************************************** 80
       5.000 |****                                     8
      30.265 |*                                        2

SQL statistics:
    transactions:                        100    (318.87 per sec.)
    queries:                             2000   (6377.41 per sec.)

General statistics:
    total time:                          0.3136s

Latency (ms):
         min:                                    0.74
         avg:                                    6.25
         max:                                   30.52
         95th percentile:                       20.00
         sum:                                 3127.33
"""


def test_what_sysbench_prints(tmp_path):
    assert sysbench.parse(SUMMARY, tmp_path) == {"tps": 318.87, "latency": 6.25, "p50": 2.0, "p95": 5.0, "p99": 30.265}
    without = SUMMARY[SUMMARY.index("SQL statistics") :]
    assert sysbench.parse(without, tmp_path) == {"tps": 318.87, "latency": 6.25, "p95": 20.0}
    cpu = without.replace(
        "    transactions:                        100    (318.87 per sec.)", "    events per second:   99.5"
    )
    assert sysbench.parse(cpu, tmp_path)["tps"] == 99.5


@pytest.mark.parametrize(
    ("text", "said"), [("", "not what sysbench prints"), ("FATAL: error 1045: Access denied", "sysbench: error 1045"),
                       ("tps: 5", "not what sysbench prints")]
)  # fmt: skip
def test_what_sysbench_does_not_print(text, said, tmp_path):
    with pytest.raises(TargetError, match=said):
        sysbench.parse(text, tmp_path)


def test_a_budget_without_a_server_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    found = Offline().preflight(workload="read-write", workdir=tmp_path)
    assert "apt-get install sysbench" in found.missing[0]
    with pytest.raises(TargetError, match="apt-get install mariadb-server"):
        Offline().prepare(workload="read-write", seed=1, budget=Budget(workdir=tmp_path))
    Offline().cleanup(tmp_path)


# -- in use ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"innodb_flush_log_at_trx_commit": 2}, {"innodb_doublewrite": "OFF"}, {"innodb_flush_method": "nosync"},
        {"innodb_buffer_pool_size": 63}, {"sort_buffer_size": 1024}, {"sort_buffer_size": 2048 * 17},
        {"tmp_table_size": 0},
    ],
)  # fmt: skip
def test_careful_mode_knows_what_is_dangerous(change):
    target = Offline()
    rules = guarded(target, allow=("durability",), careful=True)
    assert not rules.problems(target.space.default)
    [problem] = [p for p in rules.problems(target.space.fill(change)) if p.startswith("careful mode")]
    assert next(iter(change)) in problem
    assert not rules.problems(target.space.fill({"innodb_buffer_pool_size": 256, "sort_buffer_size": 4096}))


def test_the_binary_log_is_synced_no_less_than_today():
    sync = Int(name="sync_binlog", low=0, high=1000, default=1)
    told = mariadb_params.dangerous(Space([sync]))
    assert "sync_binlog == 0" in told and "sync_binlog > 1" in told


def test_a_configuration_in_the_forms_of_operations():
    target = Offline()
    changed = {"innodb_buffer_pool_size": 256, "innodb_flush_method": "fsync"}
    texts = forms(target, target.space.fill(changed), changed)
    assert texts["sql"].splitlines() == [
        f"SET GLOBAL innodb_buffer_pool_size = {256 * 2**20};",
        "-- what cannot be set while the server runs is in the form conf.d alone",
    ]
    assert "innodb_flush_method = fsync  # needs a restart\n" in texts["conf.d"]
    assert texts["conf.d"].startswith("[mysqld]\n") and not texts["env"] and "99-tuned.cnf" in texts["ansible"]


def test_what_is_left_to_do_after_apply():
    target = Offline()
    static, both = target.still_to_do({}, {"innodb_flush_method": "fsync", "innodb_io_capacity": 500})
    assert "Not live: innodb_flush_method." in static and "forgets" in both
    target.restart, target.config = ["service", "mariadb", "restart"], "/etc/mysql/conf.d/tuned.cnf"
    assert list(target.still_to_do({}, {"innodb_flush_method": "fsync", "innodb_io_capacity": 500})) == []
