"""MariaDB for real: a private server of ours, and somebody else's that gets all its values back."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mariadb_server import ENCODED, PASSWORD, Theirs, unavailable
from processes import ends, of_this_test

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it is there"),
    pytest.mark.timeout(900),
]

from tunewright.envs.storage import mariadb_foreign, mariadb_load, servers
from tunewright.envs.storage.mariadb import MariaDBTarget, open_target
from tunewright.errors import HeldError, TargetError
from tunewright.measuring.guarding import bounds_of
from tunewright.measuring.isolation import measure_once
from tunewright.sessions import originals
from tunewright.sessions.service import rollback_session
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import Budget
from tunewright.testing import check_target

SERVER = "/run-"  # in the command line of a measurement's server: its data directory
SMALL = {"tables": "1", "size": "1000", "threads": "2", "events": "100"}
WORK = mariadb_load.Work(tables=1, size=1000, threads=2, events=100)
PIECES = (b"s3 cr", b"s3%20cr", b"cr@t", b"cr%40t")


@pytest.fixture(scope="module")
def target():
    return MariaDBTarget(work=WORK)


@pytest.fixture(scope="module")
def theirs():
    with Theirs() as server:
        yield server


@pytest.fixture
def shop(theirs):
    """A database of the user's with 500 rows."""
    theirs.ask("CREATE DATABASE shop")
    theirs.ask("CREATE TABLE shop.items (id INT PRIMARY KEY AUTO_INCREMENT, price INT, KEY (price))")
    theirs.ask("INSERT INTO shop.items (price) SELECT seq FROM shop.seq_1_to_500")
    yield theirs
    theirs.ask("DROP DATABASE shop")


def written(folder):
    """Files below a folder in which a piece of the password stands."""
    return [p for p in folder.rglob("*") if p.is_file() and any(piece in p.read_bytes() for piece in PIECES)]


# -- a server of our own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", ["read-write", "point-select"])
def test_contract(target, workload):
    check_target(target, workload=workload)
    assert ends(SERVER), of_this_test(SERVER)


def test_settings_arrive_at_the_server(target, tmp_path):
    try:
        prepared = target.prepare(workload="read-only", seed=1, budget=Budget(workdir=tmp_path))
        config = target.space.fill({"innodb_buffer_pool_size": 64, "innodb_flush_method": "fsync"})
        with (
            target._served(config, prepared, "read-only") as address,
            mariadb_foreign.connected(address) as ask,
        ):
            names = ["innodb_buffer_pool_size", "innodb_flush_method", "skip_networking", "innodb_log_file_size"]
            assert list(mariadb_foreign.values_of(ask, names).values()) == ["67108864", "fsync", "1", "100663296"]
        budget = Budget(workdir=tmp_path, prepared=prepared, seconds=120)
        refused = {**target.space.default, "innodb_buffer_pool_size": 3}
        found = measure_once(target, refused, workload="read-only", seed=1, budget=budget)
        assert found.status == "failed" and "innodb_buffer_pool_size >= " in found.reason
        rounded = {**target.space.default, "table_open_cache": 1048576}
        found = measure_once(target, rounded, workload="read-only", seed=1, budget=budget)
        assert found.status == "failed" and "of table_open_cache = 1048576" in found.reason
    finally:
        target.cleanup(tmp_path)
    assert ends(SERVER), of_this_test(SERVER)


def test_a_measurement_that_is_killed_leaves_no_server(target, tmp_path):
    work = {**WORK.__dict__, "events": 10_000_000}
    endless = MariaDBTarget(work=mariadb_load.Work(**work))
    try:
        prepared = endless.prepare(workload="read-write", seed=1, budget=Budget(workdir=tmp_path))
        for seconds in (8, 30, 100):  # until it gets as far as a server
            budget = Budget(workdir=tmp_path, prepared=prepared, seconds=seconds)
            found = measure_once(endless, endless.space.default, workload="read-write", seed=1, budget=budget)
            assert found.status == "timed out"
            assert ends(SERVER), of_this_test(SERVER)
            if left := list(Path(prepared["template"]).parent.glob("run-*")):
                break
    finally:
        endless.cleanup(tmp_path)
    assert left and not any(path.exists() for path in left)


# -- a server of the user's -----------------------------------------------------------------------------------------


def plan(server, **more):
    return Plan(target=f"mariadb:{server.address()}", tuner="random", trust="fast", options={**SMALL, **more})


def test_a_foreign_server_gets_its_values_back(theirs, store):
    before, databases = theirs.variables(), theirs.databases()
    session = Session.create(plan(theirs), "a", store)
    assert "innodb_doublewrite" not in session.space.params, "without a restart command restart settings are left alone"
    assert session.space.params["sort_buffer_size"].default == 3072
    assert "sync_binlog" in session.space.params, "it keeps a binary log"
    seen = []
    session.watcher.ended = lambda s, t: seen.append(theirs.variables())
    session.run(trials=3, verify=False)
    assert any(now != before for now in seen), "nothing was ever set"
    assert theirs.variables() == before
    assert theirs.databases() == databases


@pytest.mark.parametrize("restart", [False, True])
def test_a_killed_session_is_taken_back(theirs, tmp_path, restart):
    url = f"sqlite:///{tmp_path / 's.db'}"
    before, databases = theirs.variables(), theirs.databases()
    file = theirs.config / "99-tuned.cnf"
    words = ["-O", f"restart={theirs.restart_command}", "-O", f"config={file}"] if restart else []
    options = [word for name, value in SMALL.items() for word in ("-O", f"{name}={value}")]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("tunewright")), "tune", "mariadb", "-t", "random", "-n", "50",
         *options, *words, "--trust", "fast", "--store", url, "--name", "a"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "TUNEWRIGHT_MARIADB_DSN": theirs.address()},
    )  # fmt: skip
    end = time.monotonic() + 200
    changed = False
    while not changed and time.monotonic() < end:
        time.sleep(0.1)
        try:
            now = theirs.variables()
        except TargetError:  # it restarts
            continue
        changed = now != before and (file.exists() or not restart)
    process.kill()
    process.wait()
    assert changed
    assert written(tmp_path) + written(Path(os.environ["TUNEWRIGHT_HOME"])) == []
    time.sleep(2.0)
    told = []
    rollback_session(Store(url), "a", spec=f"mariadb:{theirs.address()}", say=told.append)
    assert theirs.variables() == before, told
    assert theirs.databases() == databases
    assert not file.exists()


def test_values_that_somebody_else_set_are_left(theirs, tmp_path):
    before = theirs.variables()
    target = open_target(theirs.address(), {**SMALL, "parameters": "sort_buffer_size,join_buffer_size"})
    saved = target.snapshot(tmp_path)
    mariadb_foreign.change(target._way(), {"sort_buffer_size": "1048576", "join_buffer_size": "131072"})
    theirs.ask("SET GLOBAL join_buffer_size = 65536")
    with originals.noticing() as told:
        target.restore(json.loads(json.dumps(saved)))
    now = theirs.variables()
    theirs.ask("SET GLOBAL join_buffer_size = 524288")
    assert now == {**before, "JOIN_BUFFER_SIZE": "65536"}
    assert len(told) == 1 and "join_buffer_size is 65536" in told[0]
    assert theirs.variables() == before


def test_settings_that_need_a_restart(theirs, tmp_path):
    before, file = theirs.variables(), theirs.config / "99-tuned.cnf"
    options = {
        "restart": theirs.restart_command,
        "config": str(file),
        "parameters": "innodb_log_buffer_size,innodb_io_capacity",
    }
    target = open_target(theirs.address(), {**SMALL, **options})
    saved = target.snapshot(tmp_path)
    mariadb_foreign.change(target._way(), {"innodb_log_buffer_size": "8388608", "innodb_io_capacity": "400"})
    now = theirs.variables()
    assert (now["INNODB_LOG_BUFFER_SIZE"], now["INNODB_IO_CAPACITY"]) == ("8388608", "400")
    assert now["LOCK_WAIT_TIMEOUT"] == "77", "set by hand, and forgotten by the restart"
    with pytest.raises(TargetError, match="brought back with its former ones"):
        mariadb_foreign.change(target._way(), {"innodb_log_buffer_size": "lots", "innodb_io_capacity": "400"})
    assert theirs.variables()["INNODB_LOG_BUFFER_SIZE"] == "8388608", "a server that will not start must not stay down"
    target.restore(saved)
    target.restore(saved)
    assert theirs.variables() == before and not file.exists()


def test_apply_and_rollback(theirs, tmp_path):
    before, file = theirs.variables(), theirs.config / "99-tuned.cnf"
    options = {
        "restart": theirs.restart_command,
        "config": str(file),
        "parameters": "innodb_log_buffer_size,sort_buffer_size",
    }
    target = open_target(theirs.address(), {**SMALL, **options})
    undo = target.undo(tmp_path)
    target.apply(target.space.fill({"sort_buffer_size": 1024, "innodb_log_buffer_size": 4096}))
    theirs.restart()
    now = theirs.variables()
    assert (now["SORT_BUFFER_SIZE"], now["INNODB_LOG_BUFFER_SIZE"]) == ("1048576", "4194304"), "it outlives a restart"
    assert "s3" not in undo["server"]
    target.rollback(json.loads(json.dumps(undo)))
    theirs.ask("SET GLOBAL lock_wait_timeout = 77")  # the restart above was the user's
    assert theirs.variables() == before and not file.exists()


def test_two_sessions_on_one_server(theirs):
    target = open_target(theirs.address(), SMALL)
    with (
        target.hold("session 'a'"),
        pytest.raises(HeldError, match="is being changed by another session"),
        target.hold("session 'b'"),
    ):
        pass
    with target.hold("session 'b'"):
        theirs.restart()
        end = time.monotonic() + 30
        while not theirs.ask("SELECT IS_USED_LOCK('tunewright')")[0][0] and time.monotonic() < end:
            time.sleep(0.1)
        held = theirs.ask("SELECT IS_USED_LOCK('tunewright')")[0][0]
    theirs.ask("SET GLOBAL lock_wait_timeout = 77")
    theirs.ask("SET GLOBAL sort_buffer_size = 3145728")
    assert held, "a restart ends the lock, and it is taken again"


def test_what_is_missing_is_said_as_grants_and_is_all_that_is_missing(theirs, tmp_path, store):
    theirs.ask("CREATE USER poor@localhost IDENTIFIED BY %s", PASSWORD)
    try:
        options = {**SMALL, "parameters": "sync_binlog,innodb_io_capacity"}
        address = f"mariadb://poor:{ENCODED}@localhost/?socket={theirs.socket}"
        before, databases = theirs.variables(), theirs.databases()
        found = open_target(address, options).preflight(workload="read-write", workdir=tmp_path / "none")
        statements = [text.split(": ", 1)[1] for text in found.missing]
        assert statements and all(text.startswith("GRANT ") for text in statements)
        assert theirs.databases() == databases and not (tmp_path / "none").exists()
        for text in statements:
            theirs.ask(text)
        assert not open_target(address, options).preflight(workload="read-write", workdir=tmp_path).missing
        done = Plan(target=f"mariadb:{address}", tuner="random", trust="fast", options=options)
        Session.create(done, "a", store).run(trials=2, verify=False)
        assert all(t.status == "ok" for t in store.trials("a")), [t.reason for t in store.trials("a")]
        assert theirs.variables() == before and theirs.databases() == databases
    finally:
        theirs.ask("DROP USER poor@localhost")


@pytest.mark.parametrize("reset", ["copy", "dump"])
def test_own_sql_on_a_copy_leaves_the_users_data(shop, store, tmp_path, reset):
    load = tmp_path / "load.sql"
    load.write_text("UPDATE items SET price = price + 1 WHERE id = 7;\nSELECT COUNT(*) FROM items WHERE price > 100;\n")
    options = {"load": str(load), "threads": "2", "events": "40", "reset": reset, "parameters": "sort_buffer_size"}
    before, databases = shop.ask("SELECT * FROM shop.items"), shop.databases()
    made = Plan(target=f"mariadb:{shop.address('shop')}", tuner="random", trust="fast", options=options)
    session = Session.create(made, "a", store)
    session.run(trials=2, verify=False)
    trials = store.trials("a")
    assert [t.status for t in trials] == ["ok", "ok"], [t.reason for t in trials]
    assert 0 < trials[0].metrics["p50"] <= trials[0].metrics["p99"]
    assert shop.ask("SELECT * FROM shop.items") == before and shop.databases() == databases


@pytest.mark.parametrize("options", [{"writes": "yes"}, {"reset": "copy"}], ids=str)
def test_own_sql_is_tried_by_the_server_before_anything_is_made(shop, tmp_path, options):
    load = tmp_path / "load.sql"

    def missing(text):
        load.write_text(text)
        target = open_target(shop.address("shop"), {**options, "load": str(load)})
        return target.preflight(workload="own", workdir=tmp_path).missing

    before = shop.ask("SELECT COUNT(*), SUM(price) FROM shop.items")
    good = "BEGIN;\nUPDATE items SET price = price + 1;\nCOMMIT;\nCREATE TABLE more (a INT);\nINSERT INTO more VALUES (1);\n"
    assert missing(good) == []
    assert shop.ask("SELECT COUNT(*), SUM(price) FROM shop.items") == before and "shop" in shop.databases()
    assert not shop.ask("SELECT 1 FROM information_schema.TABLES WHERE TABLE_NAME = 'more'")
    (said,) = missing("SELECT 1;\n-- the next one\nUPDATE items SET prize = 1;\n")
    assert f"{load}, the statement on line 3: " in said and "prize" in said
    (said,) = missing("SELECT 1;\nSELECT * FORM items;\n")
    assert "on line 2: You have an error in your SQL syntax" in said
    (said,) = missing("SELECT 1 FROM item;\n")
    assert "Table 'shop.item' doesn't exist" in said


def test_careful_mode_ends_a_run_that_is_clearly_worse_and_sets_the_server_back(theirs, tmp_path):
    """As if today's server did three times as much as it does."""
    options = {**SMALL, "events": "30000", "parameters": "sort_buffer_size"}
    target = open_target(theirs.address(), options)
    snapshot = target.snapshot(tmp_path)
    try:
        prepared = target.prepare(workload="read-only", seed=1, budget=Budget(workdir=tmp_path))
        budget = Budget(workdir=tmp_path, prepared=prepared, seconds=300)
        how = {"workload": "read-only", "seed": 1}
        today = measure_once(target, target.space.default, budget=budget, **how)
        assert today.ok, today.reason
        values = {m.name: today.values[m.name] * (3 if m.direction == "max" else 1 / 3) for m in target.metrics}
        bounds = bounds_of(target.metrics, target.metrics[0], values, 2)
        config = {"sort_buffer_size": target.space.default["sort_buffer_size"] * 2}
        ended = measure_once(target, config, budget=replace(budget, bounds=bounds), **how)
        assert ended.status == "timed out" and "it was ended early: " in ended.reason
        assert ended.seconds < 0.8 * today.seconds
        query = "SELECT @@GLOBAL.sort_buffer_size"
        assert theirs.ask(query) != [(3145728,)]
        target.revert()
        target.revert()  # safe to repeat
        assert theirs.ask(query) == [(3145728,)]
    finally:
        target.restore(json.loads(json.dumps(snapshot)))


def test_what_a_guarantee_forbids_is_not_said_to_be_changed(theirs, tmp_path):
    target = open_target(theirs.address(), {**SMALL, "parameters": "sort_buffer_size,innodb_flush_log_at_trx_commit"})
    changes = target.preflight(workload="read-only", workdir=tmp_path).changes
    assert "sort_buffer_size" in changes[0]
    names = servers.kept_by_guarantees(target)
    assert [name in changes[0] for name in names] == [False] * len(names)


def test_own_sql_that_writes_is_refused_without_a_copy(shop, tmp_path):
    load = tmp_path / "load.sql"
    for text in ("UPDATE items SET price = 0", "SELECT 1; INSERT INTO items (price) VALUES (1)"):
        load.write_text(text)
        target = open_target(shop.address("shop"), {"load": str(load)})
        assert "reset=copy" in target.preflight(workload="own", workdir=tmp_path).missing[0]
        with pytest.raises(TargetError, match="-O reset=copy"):
            target.prepare(workload="own", seed=1, budget=Budget(workdir=tmp_path))
    load.write_text("SELECT nothing FROM items")
    with pytest.raises(TargetError, match=r"load.sql fails: .*nothing"):
        open_target(shop.address("shop"), {"load": str(load)}).prepare(
            workload="own", seed=1, budget=Budget(workdir=tmp_path)
        )
    assert shop.ask("SELECT COUNT(*), MIN(price) FROM shop.items") == [(500, 1)]


def test_own_sql_on_a_private_server(tmp_path, shop):
    dump, load = tmp_path / "d.sql", tmp_path / "l.sql"
    mariadb_load.dump(shop.root, "shop", dump)
    load.write_text("DELETE FROM items WHERE id = 1; SELECT COUNT(*) FROM items;")
    target = open_target("", {"load": str(load), "dump": str(dump), "threads": "2", "events": "20"})
    check_target(target)
    assert ends(SERVER), of_this_test(SERVER)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_runs_as_a_normal_user_too(tmp_path_factory):
    folder = Path("/var/tmp") / f"tw-maria-user-{os.getpid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    script = (
        "from pathlib import Path\nfrom tunewright.envs.storage import mariadb_server as own\n"
        "from tunewright.envs.storage.mariadb_dsn import connected\n"
        f"data = Path({str(folder)!r}) / 'data'\nown.make_data(data)\n"
        "with own.Server(data, {}) as server, connected(server.address) as ask:\n"
        "    print(ask('SELECT @@skip_networking'))\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, user="nobody", group="nogroup", extra_groups=[],
            cwd="/", env={"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)},
        )  # fmt: skip
        assert "(1,)" in done.stdout, done.stderr
    except PermissionError:
        pytest.skip("other users cannot run this Python")
    finally:
        subprocess.run(["rm", "-rf", str(folder)])
