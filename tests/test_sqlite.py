import shutil
import sqlite3
from contextlib import closing

import pytest

from tunewright.envs.storage.sqlite import SQLiteTarget, durability, open_target
from tunewright.envs.storage.sqlite_file import _renumbered
from tunewright.errors import ConfigError, TargetError, UnknownNameError
from tunewright.measuring.isolation import measure_once
from tunewright.measuring.protocol import compare_pairs
from tunewright.sessions.guards import guarded
from tunewright.sessions.session import Session
from tunewright.store.paths import home
from tunewright.store.plan import Plan
from tunewright.target import Budget
from tunewright.testing import check_target

SMALL = SQLiteTarget(rows=2000)


@pytest.mark.parametrize("workload", list(SMALL.workloads))
def test_contract(workload):
    check_target(SMALL, workload=workload)


@pytest.mark.parametrize(
    ("journal", "synchronous", "level"),
    [("DELETE", "FULL", 3), ("WAL", "FULL", 3), ("WAL", "EXTRA", 3), ("WAL", "NORMAL", 2), ("DELETE", "NORMAL", 1), ("WAL", "OFF", 1), ("OFF", "FULL", 0), ("MEMORY", "EXTRA", 0)],
)  # fmt: skip
def test_durability_levels(journal, synchronous, level):
    assert durability({"journal_mode": journal, "synchronous": synchronous}) == level


def test_nothing_weaker_than_the_default_is_ever_proposed():
    import numpy as np

    space, rng = guarded(SMALL), np.random.default_rng(0)
    modes = set()
    for _ in range(300):
        config = space.decode(rng.random(len(space)))
        assert durability(config) == 3
        assert config["locking_mode"] == "NORMAL"
        modes.add(config["journal_mode"])
    assert modes == {"DELETE", "TRUNCATE", "PERSIST", "WAL"}


def test_settings_really_arrive(tmp_path):
    config = SMALL.space.fill(
        {"journal_mode": "WAL", "page_size": 8192, "auto_vacuum": "FULL", "cache_size": 5000, "mmap_size": 3}
    )
    path = tmp_path / "x.db"
    path.touch()
    from tunewright.envs.storage.sqlite import _open

    db = _open(path, config)
    found = {
        n: db.execute(f"PRAGMA {n}").fetchone()[0]
        for n in ("journal_mode", "page_size", "cache_size", "mmap_size", "synchronous", "wal_autocheckpoint")
    }
    db.close()
    assert found == {
        "journal_mode": "wal",
        "page_size": 8192,
        "cache_size": -5000,
        "mmap_size": 3 * 2**20,
        "synchronous": 2,
        "wal_autocheckpoint": 1000,
    }


def test_work_is_fixed_by_the_preparation(tmp_path):
    budget = Budget(workdir=tmp_path)
    first = SMALL.prepare(workload="mixed", seed=1, budget=budget)
    again = SMALL.prepare(workload="mixed", seed=1, budget=Budget(workdir=tmp_path, prepared=first))
    assert again == first


def test_nothing_is_left_on_disk_but_templates(tmp_path):
    prepared = SMALL.prepare(workload="mixed", seed=1, budget=Budget(workdir=tmp_path))
    measure_once(
        SMALL, SMALL.space.default, workload="mixed", seed=1, budget=Budget(workdir=tmp_path, prepared=prepared)
    )
    (folder,) = tmp_path.iterdir()
    assert all(p.name.startswith(("template-", ".tunewright")) for p in folder.iterdir())
    SMALL.cleanup(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.alone
def test_wal_is_several_times_faster_at_equal_durability(tmp_path):
    target = SQLiteTarget()
    prepared = target.prepare(workload="write-heavy", seed=1, budget=Budget(workdir=tmp_path))
    budget = Budget(workdir=tmp_path, prepared=prepared)
    pairs = []
    for seed in range(6):
        values = [
            measure_once(target, target.space.fill(c), workload="write-heavy", seed=seed, budget=budget).values[
                "throughput"
            ]
            for c in ({"journal_mode": "WAL"}, {})
        ]
        pairs.append(tuple(values))
    # a direction, not a figure: those come from benchmarks/, on a quiet machine
    assert compare_pairs(target.metrics[0], pairs).value > 1.5


@pytest.mark.slow
@pytest.mark.alone
def test_the_main_job(store):
    session = Session.create(
        Plan(target="sqlite", workload="write-heavy", tuner="tpe", seed=1, options={"rows": "5000"}), "a", store
    )
    verdict = session.run(trials=12)
    assert verdict.improved
    assert verdict.comparisons["throughput"].value > 1.5
    assert durability(verdict.config) == 3
    assert not (home() / "work" / "a").exists(), "a finished session leaves no databases behind"
    assert {w["loses"] for w in verdict.weaker} >= {"no other connection can open the database"}


def test_a_full_disk_is_a_failure_with_its_reason(tmp_path):
    import resource

    class Cramped(SQLiteTarget):
        def measure(self, config, **how):
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            return super().measure(config, **how)

    found = measure_once(
        Cramped(rows=2000),
        SMALL.space.default,
        workload="mixed",
        seed=1,
        budget=Budget(workdir=tmp_path, prepared={"operations": 50}),
    )
    assert found.status == "failed"
    assert "too large" in found.reason or "full" in found.reason or "disk" in found.reason


def test_render_is_what_sqlite_reads():
    config = SMALL.space.fill({"journal_mode": "WAL", "wal_autocheckpoint": 500})
    db = sqlite3.connect(":memory:")
    db.executescript(SMALL.render(config))
    db.close()


def test_apply_and_rollback_on_a_real_file(tmp_path):
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(1000)])
    db.close()
    config = SMALL.space.fill({"journal_mode": "WAL", "page_size": 1024, "auto_vacuum": "INCREMENTAL"})
    undo = SMALL.undo(tmp_path, str(path))
    SMALL.apply(config, str(path))

    def state():
        db = sqlite3.connect(path)
        found = [db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("journal_mode", "page_size", "auto_vacuum")]
        rows = db.execute("SELECT count(*), sum(x) FROM t").fetchone()
        db.close()
        return found, rows

    assert state() == (["wal", 1024, 2], (1000, 499500))
    SMALL.rollback(undo)
    assert state() == (["delete", 4096, 0], (1000, 499500))


REBUILT = {"journal_mode": "WAL", "page_size": 1024, "auto_vacuum": "INCREMENTAL"}


def numbered(path):
    """A database whose rows are referred to by rowid, with gaps between the numbers; returns how to read it."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE note (body TEXT)")
        db.execute('CREATE TABLE "odd ""name" (rowid TEXT, body TEXT UNIQUE)')
        db.execute("CREATE TABLE flat (key TEXT PRIMARY KEY) WITHOUT ROWID")
        db.execute("CREATE TABLE bookmark (id INTEGER PRIMARY KEY, note INTEGER)")
        db.execute("CREATE VIRTUAL TABLE search USING fts5(body, content='note')")
        for number in range(300):
            db.execute("INSERT INTO note VALUES (?)", (f"word{number}",))
            db.execute('INSERT INTO "odd ""name" VALUES (?, ?)', (f"x{number}", f"y{number}"))
        for table in ("note", '"odd ""name"'):
            db.execute(f"DELETE FROM {table} WHERE _rowid_ % 3 = 0")
        db.execute("INSERT INTO search (search) VALUES ('rebuild')")
        db.execute("INSERT INTO flat VALUES ('k')")
        db.execute("INSERT INTO bookmark SELECT NULL, rowid FROM note")
        db.execute("PRAGMA user_version = 42")

    def state():
        with closing(sqlite3.connect(path)) as db:
            rows = [db.execute(f"SELECT _rowid_, * FROM {t}").fetchall() for t in ("note", '"odd ""name"', "bookmark")]
            matches = db.execute("SELECT rowid FROM search WHERE search MATCH 'word250'").fetchall()
            facts = [db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("integrity_check", "user_version")]
        return rows, matches, facts

    return state


def test_rows_keep_their_rowids(tmp_path):
    path = tmp_path / "app.db"
    state = numbered(path)
    before, inode = state(), path.stat().st_ino
    undo = SMALL.undo(tmp_path, str(path))
    SMALL.apply(SMALL.space.fill(REBUILT), str(path))
    assert state() == before
    with closing(sqlite3.connect(path)) as db:
        assert [db.execute(f"PRAGMA {n}").fetchone()[0] for n in REBUILT] == ["wal", 1024, 2]
    SMALL.rollback(undo)
    assert state() == before
    assert SMALL.undo(tmp_path, str(path)) == undo
    assert path.stat().st_ino == inode
    assert [p.name for p in tmp_path.iterdir()] == ["app.db"]


def test_settings_that_would_renumber_rows_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "app.db"
    state = numbered(path)
    before, undo = state(), SMALL.undo(tmp_path, str(path))
    monkeypatch.setattr("tunewright.envs.storage.sqlite_file._renumbered", lambda db, copy: "note")
    with pytest.raises(TargetError, match="'note' would get other rowids; give it an INTEGER PRIMARY KEY") as error:
        SMALL.apply(SMALL.space.fill(REBUILT), str(path))
    assert "\n" not in str(error.value)
    assert (state(), SMALL.undo(tmp_path, str(path))) == (before, undo)


def test_other_rowids_are_noticed(tmp_path):
    numbered(tmp_path / "app.db")
    shutil.copy(tmp_path / "app.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "app.db")) as db, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert _renumbered(db, copy) == ""
        copy.execute('UPDATE "odd ""name" SET _rowid_ = 1000 WHERE _rowid_ = 200')
        assert _renumbered(db, copy) == 'odd "name'
        copy.execute("DELETE FROM note WHERE rowid = 299")
        assert _renumbered(db, copy) == "note"


def test_nobody_else_writes_while_a_file_is_rebuilt(tmp_path):
    path = tmp_path / "app.db"
    numbered(path)
    undo = SMALL.undo(tmp_path, str(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigError, match="locked"):
            SMALL.apply(SMALL.space.fill(REBUILT), str(path))
        other.execute("COMMIT")
    assert SMALL.undo(tmp_path, str(path)) == undo


def test_an_empty_file_is_empty_again_unless_somebody_filled_it(tmp_path):
    path = tmp_path / "app.db"
    path.touch()
    undo = SMALL.undo(tmp_path, str(path))
    for filled in (False, True):
        SMALL.apply(SMALL.space.fill(REBUILT), str(path))
        if filled:
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("CREATE TABLE t (x)")
        SMALL.rollback(undo)
        SMALL.rollback(undo)
        assert [p.name for p in tmp_path.iterdir()] == ["app.db"]
        assert bool(path.stat().st_size) == filled


def test_wrong_input(tmp_path):
    with pytest.raises(ConfigError, match="--to FILE.db"):
        SMALL.undo(tmp_path)
    with pytest.raises(ConfigError, match="no database file"):
        SMALL.undo(tmp_path, str(tmp_path / "none.db"))
    (tmp_path / "junk.db").write_bytes(b"junk" * 1000)
    with pytest.raises(ConfigError, match="not a database"):
        SMALL.undo(tmp_path, str(tmp_path / "junk.db"))
    with pytest.raises(ConfigError, match="takes no argument"):
        open_target("x", {})
    with pytest.raises(UnknownNameError, match="Did you mean 'rows'"):
        open_target("", {"row": "5"})
    with pytest.raises(ConfigError, match="at least 100"):
        open_target("", {"rows": "5"})
