"""The user's own load on the user's own server: privileges, copies, scopes, and everything as it was afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pg_cluster
import pytest

psycopg = pytest.importorskip("psycopg", reason="needs the extra: pip install 'tunewright[postgres]'")

from tunewright.envs.storage import postgres_copies, postgres_foreign
from tunewright.envs.storage.postgres import open_target
from tunewright.envs.storage.postgres_foreign import Guard, alter
from tunewright.envs.storage.postgres_scope import Scope
from tunewright.errors import ConfigError, HeldError, TargetError
from tunewright.measuring.guarding import bounds_of
from tunewright.measuring.isolation import measure_once
from tunewright.sessions.changes import Journal, Owner, document
from tunewright.sessions.forms import forms
from tunewright.sessions.originals import noticing
from tunewright.sessions.service import rollback_session
from tunewright.sessions.session import Session
from tunewright.sessions.undoing import outlook
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import Budget

if why := pg_cluster.unavailable():
    pytest.skip(why, allow_module_level=True)

READ = "\\set id random(1, 1000)\nSELECT sum(value) FROM app.item WHERE id BETWEEN :id AND :id + 20;\n"
WRITE = "\\set id random(1, 1000)\nUPDATE app.item SET value = value + 1 WHERE id = :id;\n"
NAMES = "work_mem,random_page_cost,jit"
QUICK = {"clients": "2", "transactions": "40", "warmup": "0", "parameters": NAMES}


@pytest.fixture(scope="module")
def cluster():
    with pg_cluster.Cluster(f"twown{os.getpid()}") as running:
        place = Path("/etc/postgresql", running.version, running.name, "postgresql.conf")
        with place.open("a") as file:
            file.write("fsync = off\n")  # of the tests' cluster, for their speed
        execute(running.dsn, "SELECT pg_reload_conf()")
        execute(
            running.dsn,
            "CREATE ROLE owner NOLOGIN",
            "CREATE DATABASE app OWNER owner",
            "ALTER DATABASE app SET search_path = app, public",
            "ALTER DATABASE app SET work_mem = '6MB'",
        )
        execute(
            database(running),
            "CREATE SCHEMA app",
            "CREATE TABLE app.item (id int PRIMARY KEY, value bigint NOT NULL)",
            "INSERT INTO app.item SELECT n, 0 FROM generate_series(1, 1100) AS n",
            "GRANT USAGE ON SCHEMA app TO PUBLIC",
            "GRANT SELECT, UPDATE ON app.item TO PUBLIC",
        )
        yield running


@pytest.fixture(autouse=True)
def all_as_before(cluster):
    """Every test here leaves the server exactly as it was."""
    before = state(cluster)
    yield
    assert state(cluster) == before


@pytest.fixture
def scripts(tmp_path):
    for name, text in (("read.sql", READ), ("write.sql", WRITE)):
        (tmp_path / name).write_text(text)
    return tmp_path


def database(cluster, user="postgres"):
    return cluster.dsn.replace("dbname=postgres", "dbname=app").replace("user=postgres", f"user={user}")


def execute(dsn, *statements):
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def ask(dsn, query):
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def state(cluster):
    return {
        "auto": cluster.auto_conf.read_text().partition("work_mem")[2],
        "databases": ask(cluster.dsn, "SELECT datname FROM pg_database ORDER BY 1"),
        "scoped": ask(
            cluster.dsn,
            "SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting WHERE setrole = 0 ORDER BY 1, 2",
        ),
        "data": ask(database(cluster), "SELECT count(*), sum(value), max(id) FROM app.item"),
    }


def measured(target, folder, config=None):
    """Prepare and measure once, as a session does it, in this process."""
    snapshot = json.loads(json.dumps(target.snapshot(folder)))
    budget = Budget(workdir=folder)
    try:
        prepared = target.prepare(workload="load", seed=1, budget=budget)
        found = target.measure(
            config or target.space.default, workload="load", seed=1, budget=Budget(workdir=folder, prepared=prepared)
        )
        return found.values, snapshot
    finally:
        target.restore(snapshot)


def test_a_load_that_reads_runs_in_the_database_itself(cluster, scripts):
    target = open_target(database(cluster), {**QUICK, "load": f"{scripts}/read.sql"})
    look = target.preflight(workload="load", workdir=scripts)
    assert look.missing == [] and look.creates == []
    assert any("only reads" in note for note in look.notes)
    assert "work_mem" not in target.space.params, "ALTER DATABASE sets it, so ALTER SYSTEM would change nothing"
    assert any("Left alone: work_mem: ALTER DATABASE sets it" in note for note in look.notes)
    folder = scripts / "folder"
    folder.mkdir()
    values, snapshot = measured(target, folder)
    assert snapshot["databases"] == []
    assert 0 < values["p50"] <= values["p95"] <= values["p99"]
    assert set(values) == {"tps", "latency", "p50", "p95", "p99", "durability"}
    assert not list(folder.glob("pgbench*"))


@pytest.mark.parametrize("options", [{"writes": "yes"}, {"reset": "template"}, {"reset": "dump"}], ids=str)
def test_a_load_that_writes_is_tried_before_anything_is_made(options, cluster, scripts):
    """Rolled back: the fixture sees that the data stay as they are, though the script commits."""
    script = scripts / "order.sql"
    script.write_text("BEGIN;\nUPDATE app.item SET value = value + 1;\nCOMMIT;\n\\set id 1\nSELECT 1;\n")
    target = open_target(database(cluster), {**QUICK, **options, "load": str(script)})
    look = target.preflight(workload="load", workdir=scripts)
    assert look.missing == [] and any("tried once in database app" in note for note in look.notes)
    script.write_text("UPDATE app.item\n  SET valeu = 1;\n")
    (said,) = target.preflight(workload="load", workdir=scripts).missing
    assert "order.sql, line 2: " in said and 'column "valeu"' in said and "LINE 2:   SET valeu" in said
    script.write_text("\\set id randon(1, 2)\nSELECT 1;\n")
    (said,) = target.preflight(workload="load", workdir=scripts).missing
    assert "order.sql:1: " in said and "randon" in said and str(scripts) not in said.replace(str(script), "")
    script.write_text("VACUUM app.item;\n")
    look = target.preflight(workload="load", workdir=scripts)
    assert look.missing == [] and any("was not tried" in note for note in look.notes)


def test_a_load_that_writes_needs_a_copy(cluster, scripts):
    load = f"{scripts}/read.sql@3,{scripts}/write.sql@1"
    target = open_target(database(cluster), {**QUICK, "load": load})
    for said in (target.preflight(workload="load", workdir=scripts).missing[0], refused(target, scripts)):
        assert "write.sql writes to database app" in said and "-O reset=template" in said and "\n" not in said
    allowed = open_target(database(cluster), {**QUICK, "load": load, "writes": "yes"})
    look = allowed.preflight(workload="load", workdir=scripts)
    assert look.missing == [] and any("stays in database app" in text for text in look.leaves)


def refused(target, folder):
    with pytest.raises(TargetError) as caught:
        target.prepare(workload="load", seed=1, budget=Budget(workdir=folder))
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["BEGIN READ WRITE; UPDATE app.item SET value = 7; COMMIT;", "SET transaction_read_only = off;", WRITE,
     "SELECT * FROM app.item WHERE id = 1 FOR UPDATE;", "CREATE TABLE app.x (a int);", "SELECT setval('app.s', 3);",
     "START TRANSACTION /* sic */ read\n  write; DELETE FROM app.item; COMMIT;"],
)  # fmt: skip
def test_no_load_writes_unasked(text, cluster, scripts):
    execute(database(cluster), "CREATE SEQUENCE app.s")
    try:
        (scripts / "mine.sql").write_text(text)
        assert "mine.sql writes" in refused(
            open_target(database(cluster), {**QUICK, "load": f"{scripts}/mine.sql"}), scripts
        )
        assert ask(database(cluster), "SELECT last_value FROM app.s") == [(1,)]
    finally:
        execute(database(cluster), "DROP SEQUENCE app.s")


def test_a_branch_that_the_dry_run_missed_writes_nothing(cluster, scripts):
    (scripts / "mine.sql").write_text(
        "SELECT :client_id AS c \\gset\n\\if :c\nUPDATE app.item SET value = 9;\n\\endif\n"
    )
    target = open_target(database(cluster), {**QUICK, "load": f"{scripts}/mine.sql"})
    with pytest.raises(TargetError, match="read-only transaction"):
        measured(target, scripts)


def test_a_load_that_fails_says_so_in_a_line(cluster, scripts):
    (scripts / "mine.sql").write_text("SELECT * FROM app.itme;\n")
    target = open_target(database(cluster), {**QUICK, "load": f"{scripts}/mine.sql"})
    for said in (*target.preflight(workload="load", workdir=scripts).missing, refused(target, scripts)):
        assert 'relation "app.itme" does not exist' in said and "\n" not in said


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "reset", ["template", "dump", pytest.param("dump:FILE", marks=SLOW), pytest.param("template:golden", marks=SLOW)]
)
def test_each_run_has_a_copy(reset, cluster, scripts):
    if reset == "dump:FILE":
        reset = f"dump:{scripts / 'dump'}"
        program = postgres_copies.program("pg_dump", int(cluster.version))
        subprocess.run([program, "-Fc", "-f", scripts / "dump", database(cluster)], check=True)
    if reset == "template:golden":
        execute(cluster.dsn, "CREATE DATABASE golden TEMPLATE app")
    try:
        load = f"{scripts}/write.sql"
        target = open_target(database(cluster), {**QUICK, "load": load, "reset": reset, "scope": "database"})
        look = target.preflight(workload="load", workdir=scripts)
        assert look.missing == [] and "Two copies" in look.creates[0] and "dropped at the end" in look.creates[0]
        assert target.space.params["work_mem"].default == 6144
        seen = []
        with recording_served(target, seen, "SELECT current_setting('work_mem'), current_setting('search_path')"):
            values, snapshot = measured(target, scripts, {**target.space.default, "work_mem": 7777})
    finally:
        execute(cluster.dsn, "DROP DATABASE IF EXISTS golden")
    assert values["tps"] > 0
    assert seen == [("7777kB", "app, public")]
    assert snapshot["databases"] and snapshot["settings"] == {}, "the user's database is not even changed by a setting"


class recording_served:
    """Ask something of the database that a run is given."""

    def __init__(self, target, seen, query):
        self.target, self.seen, self.query = target, seen, query

    def __enter__(self):
        from contextlib import contextmanager

        served = self.target._served

        @contextmanager
        def asking(config, prepared):
            with served(config, prepared) as conninfo:
                self.seen.extend(ask(conninfo, self.query))
                yield conninfo

        self.target._served = asking

    def __exit__(self, *exc):
        del self.target._served


def test_a_template_in_use_cannot_be_copied(cluster, scripts):
    target = open_target(database(cluster), {**QUICK, "load": f"{scripts}/write.sql", "reset": "template"})
    with psycopg.connect(database(cluster)):
        missing = target.preflight(workload="load", workdir=scripts).missing
        assert len(missing) == 1 and "1 are" in missing[0] and "reset=dump" in missing[0]
        assert "take -O reset=dump" in refused(target, scripts)


@pytest.mark.parametrize("kind", ["system", "database", "role"])
def test_scopes_get_back_what_was_there(kind, cluster, scripts, tmp_path):
    execute(cluster.dsn, "CREATE ROLE tuned LOGIN SUPERUSER", "ALTER ROLE tuned SET random_page_cost = 3.25")
    execute(cluster.dsn, "ALTER DATABASE app SET jit = off")
    try:
        # a role's setting wins over a database's, which wins over the server's
        names = {"system": "cpu_tuple_cost", "database": "work_mem", "role": "random_page_cost"}
        before = rows(cluster)
        options = {**QUICK, "load": f"{scripts}/read.sql", "scope": kind}
        target = open_target(
            database(cluster, "tuned"), {**options, "parameters": "work_mem,jit,random_page_cost,cpu_tuple_cost"}
        )
        name = names[kind]
        folder = tmp_path / "s"
        folder.mkdir()
        seen = []
        value = 9999 if name == "work_mem" else 7.5
        with recording_served(target, seen, f"SELECT setting::float FROM pg_settings WHERE name = '{name}'"):
            measured(target, folder, {**target.space.default, name: value})
        assert seen == [(value,)]
        assert rows(cluster) == before

        undo = target.undo(folder)
        target.apply({**target.space.default, name: value})
        assert (rows(cluster) != before) == (kind != "system")
        assert ask(database(cluster, "tuned"), f"SELECT setting::float FROM pg_settings WHERE name = '{name}'") == [
            (value,)
        ]
        target.rollback(json.loads(json.dumps(undo)))
        assert rows(cluster) == before
        written = forms(target, {**target.space.default, name: value}, {name: value})
        statement = {
            "system": "ALTER SYSTEM SET",
            "database": 'ALTER DATABASE "app" SET',
            "role": 'ALTER ROLE "tuned" SET',
        }
        assert written["sql"].startswith(f"{statement[kind]} {name} = '"), "each form sets it where apply does"
        assert [bool(written.get(form)) for form in ("conf.d", "ansible")] == [kind == "system"] * 2
        text = target.render({**target.space.default, name: value})
        assert text.startswith(
            {"system": "cpu_tuple_cost =", "database": 'ALTER DATABASE "app" SET', "role": 'ALTER ROLE "tuned" SET'}[
                kind
            ]
        )
    finally:
        execute(cluster.dsn, "DROP ROLE tuned", "ALTER DATABASE app RESET jit")


def rows(cluster):
    query = (
        "SELECT setdatabase, setrole, array(SELECT unnest(setconfig) ORDER BY 1) FROM pg_db_role_setting ORDER BY 1, 2"
    )
    return ask(cluster.dsn, query)


@pytest.mark.parametrize("value", ["'77MB'", "DEFAULT"])
@pytest.mark.parametrize("covered", [True, False], ids=["covered by a later run", "last"])
def test_what_somebody_else_set_meanwhile_stays(value, covered, cluster, tmp_path):
    names = ("work_mem", "random_page_cost")
    target = open_target(cluster.dsn, {"parameters": ",".join(names)})
    snapshot = target.snapshot(tmp_path)
    alter(target.dsn, [], {"work_mem": "9000", "random_page_cost": "2"}, folder=tmp_path)
    execute(cluster.dsn, f"ALTER SYSTEM SET work_mem = {value}")
    if covered:
        alter(target.dsn, [], {"work_mem": "9500", "random_page_cost": "3"}, folder=tmp_path)
    with noticing() as told:
        target.restore(json.loads(json.dumps(snapshot)))
        target.restore(snapshot)  # safe to repeat
    file = cluster.settings(names)["postgresql.auto.conf"]
    cluster.auto_conf.write_text(pg_cluster.USERS_OWN)
    execute(cluster.dsn, "SELECT pg_reload_conf()")
    assert file == (["('work_mem', '77MB')"] if value != "DEFAULT" else [])
    done = "set to 77MB" if value != "DEFAULT" else "reset"
    assert told[0] == f"work_mem was {done} by somebody else while it was being tuned, and is left so"


def test_a_killed_alter_leaves_its_copy_with_the_snapshot(cluster, tmp_path, monkeypatch):
    target = open_target(cluster.dsn, {"parameters": "work_mem,shared_buffers", "restart": cluster.restart})
    target.snapshot(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(postgres_foreign.tempfile, "tempdir", str(tmp_path / "tmp"))
    copies = []

    def killed(command, dsn):
        copies.extend(p for p in tmp_path.rglob("postgresql.auto.conf") if p.parent != tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr(postgres_foreign, "restart_server", killed)
    snapshot = target.snapshot(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        alter(target.dsn, target.restart, {"shared_buffers": "4096"}, folder=tmp_path)
    assert [p.parent.parent for p in copies] == [tmp_path], "in the folder that is discarded after recovery"
    assert not list((tmp_path / "tmp").iterdir())
    monkeypatch.undo()
    target.restore(snapshot)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_the_lock_is_taken_again_after_a_restart(cluster):
    guard = Guard(cluster.dsn, "session 'a'")
    try:
        subprocess.run(cluster.restart.split(), check=True)
        assert until(
            lambda: ask(cluster.dsn, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted") == [(1,)]
        )
        with pytest.raises(HeldError, match="being changed by session 'a'"):
            Guard(cluster.dsn, "session 'b'")
        assert guard.lost is None
    finally:
        guard.end()


def test_a_lock_that_another_session_took_meanwhile_ends_this_one(cluster, monkeypatch):
    """The other one takes it in the moment after the restart, while this one cannot connect."""
    target = open_target(cluster.dsn, {"parameters": "work_mem"})
    take, others = Guard._take, []

    def slowly(self):
        if not others:
            others.append(psycopg.connect(cluster.dsn, autocommit=True, application_name="tunewright session 'b'"))
            others[0].execute("SELECT pg_advisory_lock(%s)", (postgres_foreign._ADVISORY,))
        return take(self)

    try:
        with pytest.raises(HeldError, match="session 'b'.*restarted, which ends the lock"), target.hold("session 'a'"):
            monkeypatch.setattr(Guard, "_take", slowly)
            subprocess.run(cluster.restart.split(), check=True)
            assert not until(lambda: False, 30), "interrupted long before"
    finally:
        others[0].close()


def test_a_database_that_is_still_being_made_is_dropped(cluster, tmp_path):
    """Its client was killed; the server goes on with CREATE DATABASE, and would have it later."""
    name = postgres_copies.names().clean
    with psycopg.connect(cluster.dsn, autocommit=True) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK pg_database IN SHARE MODE")  # keeps it from being finished
        making = subprocess.Popen(
            ["psql", "-X", cluster.dsn, "-c", f'CREATE DATABASE "{name}"'], stderr=subprocess.DEVNULL
        )
        assert until(
            lambda: ask(cluster.dsn, f"SELECT 1 FROM pg_stat_activity WHERE query = 'CREATE DATABASE \"{name}\"'")
        )
        making.kill()
        making.wait()
        dropping = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from tunewright.envs.storage import postgres_copies as c; c.drop({cluster.dsn!r}, [{name!r}])",
            ]
        )
        assert until(
            lambda: not ask(cluster.dsn, f"SELECT 1 FROM pg_stat_activity WHERE query = 'CREATE DATABASE \"{name}\"'")
        )
        holder.execute("COMMIT")
    assert dropping.wait(30) == 0


def test_privileges_are_missing_all_at_once_and_each_as_a_statement(cluster, scripts):
    """A role without any gets the printed statements pasted one after the other, and then works."""
    execute(cluster.dsn, 'CREATE ROLE "my tuner" LOGIN')
    dsn = database(cluster).replace("user=postgres", "user='my tuner'")
    options = {**QUICK, "load": f"{scripts}/write.sql", "reset": "dump", "parameters": "random_page_cost,max_wal_size"}
    try:
        target = open_target(dsn, options)
        missing = list(target.preflight(workload="load", workdir=scripts).missing)
        assert missing == [
            'GRANT ALTER SYSTEM ON PARAMETER max_wal_size, random_page_cost TO "my tuner";',
            'GRANT SELECT ON pg_catalog.pg_file_settings TO "my tuner"; -- in database app',
            'GRANT EXECUTE ON FUNCTION pg_catalog.pg_show_all_file_settings() TO "my tuner"; -- in database app',
            'GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO "my tuner"; -- in database app',
            'GRANT pg_checkpoint TO "my tuner";',
            'ALTER ROLE "my tuner" CREATEDB;',
        ]
        while missing:
            with pytest.raises((TargetError, psycopg.Error)):
                measured(target, scripts)
            execute(database(cluster), missing.pop(0))
            assert list(target.preflight(workload="load", workdir=scripts).missing) == missing
        values, _ = measured(target, scripts)
        assert values["tps"] > 0
        # the same role needs less in a smaller scope
        role = open_target(dsn, {**options, "scope": "role", "load": f"{scripts}/read.sql", "reset": "none"})
        assert list(role.preflight(workload="load", workdir=scripts).missing) == []
        assert list(role.space.params) == ["random_page_cost"]
        measured(role, scripts)
    finally:
        execute(database(cluster), 'DROP OWNED BY "my tuner"')
        execute(cluster.dsn, 'DROP OWNED BY "my tuner"', 'DROP ROLE "my tuner"')


def test_a_database_of_another_owner(cluster, scripts):
    execute(cluster.dsn, "CREATE ROLE other LOGIN CREATEDB IN ROLE pg_checkpoint")
    try:
        for options in ({"reset": "template"}, {"scope": "database"}):
            load = "write.sql" if "reset" in options else "read.sql"
            given = {**QUICK, "load": f"{scripts}/{load}", "scope": "role", **options}
            target = open_target(database(cluster, "other"), given)
            look = target.preflight(workload="load", workdir=scripts)
            assert len(look.missing) == 1 and look.missing[0].startswith("GRANT owner TO other; -- owns database app")
            with pytest.raises((TargetError, psycopg.Error)):
                measured(target, scripts)
            execute(cluster.dsn, look.missing[0])
            assert list(target.preflight(workload="load", workdir=scripts).missing) == []
            measured(target, scripts)
            execute(cluster.dsn, "REVOKE owner FROM other")
    finally:
        execute(cluster.dsn, "DROP ROLE other")


def test_preflight_of_the_benchmark(cluster, tmp_path):
    target = open_target(cluster.dsn, {})
    look = target.preflight(workload="tpcb", workdir=tmp_path)
    assert look.missing == [] and look.leaves == []
    assert "tunewright_bench with pgbench's tables, about 82 MB; it is dropped at the end" in look.creates[0]
    assert any("shared_buffers" in note and "-O restart=" in note for note in look.notes)
    kept = open_target(cluster.dsn, {"keep": "yes", "restart": cluster.restart})
    look = kept.preflight(workload="tpcb", workdir=tmp_path)
    assert "tunewright_bench stays, about 82 MB" in look.leaves[0]
    assert any(cluster.restart in text and "shared_buffers" in text for text in look.restarts)


def test_nothing_to_tune_is_said(cluster, tmp_path):
    target = open_target(cluster.dsn, {"parameters": "shared_buffers"})
    said = "none of these settings can be tuned here: shared_buffers: it needs a restart"
    assert target.preflight(workload="tpcb", workdir=tmp_path).missing[0].startswith(said)
    with pytest.raises(ConfigError, match=said):
        target.prepare(workload="tpcb", seed=1, budget=Budget(workdir=tmp_path))


def test_what_a_session_left_is_put_back_where_a_role_has_all_its_parameters_by_now(cluster, tmp_path, store):
    plan = Plan(target=f"postgres:{cluster.dsn}", tuner="random", options={"parameters": "work_mem", "scale": "1"})
    with Session.create(plan, "a", store):
        pass
    before = cluster.settings(("work_mem",))
    target = open_target(cluster.dsn, {"parameters": "work_mem"})
    owner = Owner(what="session 'a'", store=store.public_url, name="a", target=plan.target, options=plan.options)
    journal = Journal(owner.store, "a", "measure")
    folder = journal.begin()
    journal.write(document(target, owner, target.snapshot(folder), "measuring"))
    alter(target.dsn, [], {"work_mem": "9000"}, folder=folder)
    left = cluster.settings(("work_mem",))
    told = outlook(store, "a")["puts_back"]
    assert told[0].startswith("In PostgreSQL server ") and "work_mem is set to 5MB." in told
    assert "Database tunewright_bench, which is ours, is dropped where it is there." in told
    assert cluster.settings(("work_mem",)) == left != before
    execute(cluster.dsn, "ALTER ROLE postgres SET work_mem = '7MB'")
    try:
        rollback_session(store, "a", spec=None)
    finally:
        execute(cluster.dsn, "ALTER ROLE postgres RESET work_mem")
    assert cluster.settings(("work_mem",)) == before


def test_what_a_guarantee_forbids_is_not_said_to_be_changed(cluster, tmp_path):
    target = open_target(cluster.dsn, {"parameters": "work_mem,full_page_writes,synchronous_commit"})
    changes = target.preflight(workload="tpcb", workdir=tmp_path).changes
    assert changes[0].endswith(": synchronous_commit, work_mem.")
    assert changes[1] == "Not changed unless you say --allow durability: full_page_writes."


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["template", "dump"])
@pytest.mark.parametrize("scope", ["system", "role"])
def test_a_session_that_is_killed_leaves_the_server_as_it_was(reset, scope, cluster, scripts, tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"
    words = ["tune", f"postgres:{database(cluster)}", "-O", f"load={scripts}/read.sql@3,{scripts}/write.sql@1"]
    for name, value in {**QUICK, "reset": reset, "scope": scope, "transactions": "20"}.items():
        words += ["-O", f"{name}={value}"]
    words += ["-t", "random", "-n", "500", "--trust", "fast", "--store", url, "--name", "a"]
    made = "SELECT 1 FROM pg_database WHERE datname LIKE 'tunewright%'"
    for wait in (0.3, 1.1, 2.3):
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("tunewright")), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert until(lambda process=process: ask(cluster.dsn, made) or process.poll() is not None, 60)
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        rollback_session(Store(url), "a", spec=None)
        assert not ask(cluster.dsn, made)
        words = ["resume", "a", "--store", url, "-n", "500"]


@pytest.mark.parametrize("reset", ["none", "template"])
def test_careful_mode_ends_a_run_that_is_clearly_worse_and_sets_the_server_back(reset, cluster, tmp_path):
    """Without indexes, each transaction reads the table several times; the whole run would take minutes."""
    execute(
        database(cluster),
        "CREATE TABLE app.big AS SELECT n AS id, 0 AS value FROM generate_series(1, 300000) AS n",
        "CREATE INDEX ON app.big (id)",
        "ANALYZE app.big",
    )
    try:
        script = tmp_path / "read.sql"
        script.write_text("\\set id random(1, 300000)\n" + "SELECT value FROM app.big WHERE id = :id;\n" * 5)
        options = {
            "clients": "2",
            "transactions": "3000",
            "warmup": "0",
            "parameters": "enable_indexscan,enable_bitmapscan",
        }
        target = open_target(database(cluster), {**options, "load": str(script), "reset": reset})
        if reset == "template":
            execute(cluster.dsn, "SELECT 1")  # nobody is connected to app
        folder = tmp_path / "s"
        folder.mkdir()
        snapshot = target.snapshot(folder)
        try:
            prepared = target.prepare(workload="load", seed=1, budget=Budget(workdir=folder))
            how = {"workload": "load", "seed": 1}
            budget = Budget(workdir=folder, prepared=prepared, seconds=300)
            today = measure_once(target, target.space.default, budget=budget, **how)
            assert today.ok, today.reason
            bounds = bounds_of(target.metrics, target.metrics[0], today.values, 2)
            bad = {name: "off" for name in target.space.params}
            ended = measure_once(target, bad, budget=replace(budget, bounds=bounds), **how)
            assert ended.status == "timed out" and "it was ended early: " in ended.reason
            whole_s = 3000 / 2 * 5 * 0.01  # a scan of the table takes more than 10 ms
            assert ended.seconds < whole_s / 3
            target.revert()
            target.revert()  # safe to repeat
            query = "SELECT setting FROM pg_settings WHERE name LIKE 'enable_%scan' AND setting = 'off'"
            assert ask(database(cluster), query) == []
            again = measure_once(target, target.space.default, budget=budget, **how)
            assert again.ok, again.reason
        finally:
            target.restore(json.loads(json.dumps(snapshot)))
    finally:
        execute(database(cluster), "DROP TABLE app.big")


@pytest.mark.slow
def test_a_session_with_a_weighted_load_and_a_latency_bound(cluster, scripts, store):
    load = f"{scripts}/read.sql@3,{scripts}/write.sql@1"
    options = {**QUICK, "load": load, "reset": "template", "scope": "database"}
    plan = Plan(
        target=f"postgres:{database(cluster)}", tuner="random", trust="fast", options=options, workload="load",
        objectives=("p95",), require=("p99<=10000",),
    )  # fmt: skip
    with Session.create(plan, "a", store) as session:
        session.run(trials=4)
    trials = store.trials("a")
    assert sum(t.status == "ok" for t in trials) >= 4
    assert all(t.metrics["p95"] > 0 for t in trials if t.status == "ok")


def test_scope_is_the_whole_servers_by_default():
    assert Scope().head == "ALTER SYSTEM"
