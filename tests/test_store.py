import json
import os
import sqlite3
import threading
from multiprocessing import get_context

import optuna
import pytest
from forked import ended
from targets import Guarded

from tunewright.errors import ConfigError, StoreError, UnknownNameError
from tunewright.sessions.session import Session
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.store.secrets import redact
from tunewright.store.store import Store
from tunewright.testing import Sphere


def run(store, name="a", trials=6, **plan):
    with Session.create(Plan(target="sphere", tuner="tpe", seed=3, **plan), name, store, target=Sphere()) as session:
        session.run(trials=trials)
    return session


def test_a_session_is_an_optuna_study(store):
    session = run(store)
    study = optuna.load_study(study_name="a", storage=store.url)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 6
    assert study.best_value == pytest.approx(session.best.scores["loss"])
    assert study.best_params == session.best.config
    assert study.metric_names == ["loss"]
    assert set(optuna.importance.get_param_importances(study)) == {"x0", "x1", "x2"}


def test_round_trip(store):
    session = run(store)
    assert store.trials("a") == session.all
    record = store.session("a")
    assert record["plan"]["seed"] == 3
    assert record["status"] == "done"
    assert record["verdict"]["number"] == session.best.number


def test_export_is_complete_json(store):
    run(store)
    document = json.loads(json.dumps(export(store, "a"), allow_nan=False))
    assert document["versions"]["optuna"] == optuna.__version__
    assert document["facts"]["CPU_COUNT"] >= 1
    assert len(document["trials"]) == 6
    assert document["repeat"].startswith("tunewright tune sphere")


def test_names_are_unique(store):
    run(store)
    with pytest.raises(ConfigError, match="resume a"):
        run(store)


def test_unknown_session_names_the_nearest(store):
    run(store, "sqlite-1")
    with pytest.raises(UnknownNameError, match="Did you mean 'sqlite-1'"):
        store.session("sqlite-2")


def test_a_foreign_study_is_not_a_session(store):
    optuna.create_study(study_name="other", storage=store.url)
    assert "other" not in store.names()
    with pytest.raises(StoreError, match="not a session"):
        store.session("other")


def test_corrupt_store(tmp_path):
    path = tmp_path / "s.db"
    path.write_bytes(b"this is no database " * 500)
    with pytest.raises(StoreError, match="not a usable database"):
        Store(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is no database"), "it must not be overwritten"


def test_missing_directory(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        Store(f"sqlite:///{tmp_path / 'no' / 's.db'}")


def test_newer_session_format(store):
    run(store)
    store.update("a", schema=99)
    with pytest.raises(StoreError, match="newer tunewright"):
        store.session("a")


def test_newer_optuna_schema(tmp_path, store):
    run(store)
    store.close()
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("UPDATE version_info SET schema_version = 9999")
        db.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    db.close()
    with pytest.raises(StoreError, match="version of Optuna"):
        Store(store.url)


def test_locked_store(tmp_path, monkeypatch, store):
    run(store)
    store.close()
    blocker = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
    blocker.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.1}))
    try:
        with pytest.raises(StoreError, match="locked by another program"):
            Store(store.url).names()
    finally:
        blocker.close()


def test_full_disk_keeps_what_was_written(store, tmp_path):
    session = Session.create(Plan(target="sphere", tuner="random"), "a", store, target=Sphere())
    session.run(trials=3, verify=False)
    store.close()
    import sqlalchemy

    small = Store(store.url)

    def fill_up(connection, record):  # SQLite itself then answers "database or disk is full"
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sqlalchemy.event.listen(small._storage.engine, "connect", fill_up)
    with pytest.raises(StoreError, match="disk is full.*finished trials are kept"):
        Session.resume("a", small, target=Sphere()).run(trials=500, verify=False)
    small.close()
    again = Store(store.url)
    resumed = Session.resume("a", again, target=Sphere())
    before = sum(t.decided for t in again.trials("a"))
    assert before >= 3
    resumed.run(trials=2, verify=False)
    assert sum(t.decided for t in again.trials("a")) >= before + 2
    again.close()


def test_one_process_at_a_time_runs_a_session(store):
    run(store)
    with store.lock("a"), pytest.raises(StoreError, match=f"by process {os.getpid()}"):
        Session.resume("a", Store(store.url), target=Sphere()).run(trials=1)


def _dies_with_the_lock(url):
    with Store(url).lock("a"):
        os._exit(9)


def test_the_lock_of_a_dead_process_is_free(store):
    run(store)
    assert ended(_dies_with_the_lock, store.url) == 9
    with store.lock("a"):
        pass


def _names_in(url):
    return Store(url).names()


def test_several_processes_may_create_a_store_at_once(tmp_path):
    with get_context("fork").Pool(4) as pool:  # they begin within a moment, for nothing is imported first
        assert pool.map(_names_in, [f"sqlite:///{tmp_path / 'new.db'}"] * 4, chunksize=1) == [[]] * 4


def test_readers_are_not_blocked_by_a_running_session(store):
    run(store, trials=3)
    seen = []
    with store.lock("a"):
        thread = threading.Thread(target=lambda: seen.append(Store(store.url).names()))
        thread.start()
        thread.join(10)
    assert seen == [["a"]]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://me:s3cret@db/x", "postgresql://me:***@db/x"),
        ("host=db password=s3cret dbname=x", "host=db password=*** dbname=x"),
        ("PGPASSWORD='s3 cret' psql", "PGPASSWORD=*** psql"),
        ("api_key: s3cret", "api_key: ***"),
        ("nothing here", "nothing here"),
    ],
)
def test_secrets_are_redacted(text, clean):
    assert redact(text) == clean
    assert redact({"a": [text]}) == {"a": [clean]}


def test_secrets_never_reach_the_store(store, tmp_path):
    plan = Plan(target="guarded:host=x password=s3cret", tuner="random", options={"dsn": "postgresql://me:s3cret@h/d"})
    with Session.create(plan, "a", store, target=Guarded()) as session:
        session.run(trials=3)
    store.close()
    assert b"s3cret" not in (tmp_path / "s.db").read_bytes()


@pytest.mark.parametrize("wrong", [{"seed": -5}, {"limit_s": 0.0}, {"memory_mb": 1e308}, {"limit_s": float("nan")}])
def test_a_plan_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"the plan's {next(iter(wrong))} must be"):
        Plan(target="sqlite", **wrong)
