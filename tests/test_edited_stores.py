"""Stores and bundles that were edited by hand: one line that says what is damaged, from whichever command."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from doors import _TABLE, _bundle

from tunewright.errors import ConfigError, StoreError
from tunewright.report.report import render_report
from tunewright.sessions import service
from tunewright.sessions.session import Session
from tunewright.store.export import export, overview
from tunewright.store.plan import Plan
from tunewright.store.store import Store


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    """A folder with the store ``s.db`` of a session ``a`` that came to its end, and its home."""
    folder = tmp_path_factory.mktemp("whole")
    table = tmp_path_factory.mktemp("table") / "t.csv"
    table.write_bytes(_TABLE)
    plan = Plan(target=f"table:{table}", tuner="random", trust="fast", options={"direction": "max"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_HOME", str(folder / "home"))
        store = Store(f"sqlite:///{folder / 's.db'}")
        with Session.create(plan, "a", store) as session:
            session.run(trials=4)
        store.close()
    return folder


@pytest.fixture
def stored(whole_store, tmp_path, monkeypatch):
    """A copy of that folder, to be edited."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(whole_store, tmp_path, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The folder of a tournament, and its files; it is copied before it is edited."""
    pytest.importorskip("pandas", reason="needs the extra: pip install 'tunewright[compare]'")
    folder = tmp_path_factory.mktemp("tournament")
    (folder / "t.csv").write_bytes(_TABLE)
    return folder / "b", _bundle(folder / "b", folder / "t.csv")


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("session", "{", "cannot be read"), ("session", "[]", "damaged"), ("session", '{"plan": 3}', "damaged"),
        ("trial", '{"config": 5}', "damaged"), ("outcome", '{"status": "great"}', "damaged"), ("outcome", "[1", "cannot be read"),
        ("verdict", '{"improved": "yes"}', "damaged"),
    ],
)  # fmt: skip
def test_a_store_edited_by_hand(stored, key, text, said):
    store = Store(f"sqlite:///{stored / 's.db'}")
    assert export(store, "a")["trials"]
    store.close()
    with closing(sqlite3.connect(stored / "s.db")) as database:
        for table in ("study_user_attributes", "trial_user_attributes"):
            database.execute(f"UPDATE {table} SET value_json = ? WHERE key = ?", (text, key))
        database.commit()
    store = Store(f"sqlite:///{stored / 's.db'}")
    with pytest.raises(StoreError, match=said):
        export(store, "a")
    store.close()


def test_a_bundle_edited_by_hand(bundled, tmp_path):
    import pandas as pd

    from tunewright.comparing import bundle
    from tunewright.comparing.checking import verify

    folder, whole = bundled
    shutil.copytree(folder, tmp_path / "b")
    assert verify(tmp_path / "b")["agrees"]
    trials = pd.read_parquet(tmp_path / "b" / "trials.parquet")
    for frame in (
        trials.drop(columns="status"),
        trials.assign(value="x"),
        trials.assign(runs="{"),
        trials.assign(seed=None),
    ):
        frame.to_parquet(tmp_path / "b" / "trials.parquet")
        with pytest.raises(ConfigError):
            verify(tmp_path / "b")
    (tmp_path / "b" / "trials.parquet").write_bytes(whole["trials.parquet"][:-30])
    with pytest.raises(ConfigError, match="cannot be read as table of trials"):
        bundle.load(tmp_path / "b")
    (tmp_path / "b" / "trials.parquet").write_bytes(whole["trials.parquet"])
    for text in ("[]", "{", json.dumps({"format": "x", "versions": 5})):
        (tmp_path / "b" / "tournament.json").write_text(text)
        with pytest.raises(ConfigError):
            bundle.load(tmp_path / "b")


@pytest.mark.parametrize("number", [1e308, -1e308, float("inf")])
def test_a_bundle_with_numbers_that_nothing_can_be_computed_with(bundled, tmp_path, number, recwarn):
    import pandas as pd

    from tunewright.comparing import bundle
    from tunewright.comparing.checking import verify

    folder, whole = bundled
    shutil.copytree(folder, tmp_path / "b")
    columns = {
        "trials": "seconds value ratio asked_s runs",
        "games": "best ratio_low seed wall_s verification",
        "targets": "known_best",
    }
    for table, column in [(t, c) for t, names in columns.items() for c in names.split()]:
        path = tmp_path / "b" / f"{table}.parquet"
        documents = {
            "runs": [{"of": "candidate", "status": "ok", "values": {"tps": number}}],
            "verification": [[number, 1.0], [2.0, -number]],
        }
        frame = pd.read_parquet(path)
        frame[column] = json.dumps(documents[column]) if column in documents else number
        frame.to_parquet(path)
        recwarn.clear()
        for call in (verify, lambda folder: bundle.load(folder).report()):
            with pytest.raises(ConfigError, match=f"{column} must be within") as caught:
                call(tmp_path / "b")
            assert "\n" not in str(caught.value)
        assert not recwarn.list
        path.write_bytes(whole[path.name])
    assert verify(tmp_path / "b")["agrees"]


def _set(table, key, text):
    return f"UPDATE {table} SET value_json = {text!r} WHERE key = {key!r}"


def _plan(name, value):
    return f"UPDATE study_user_attributes SET value_json = json_set(value_json, '$.plan.{name}', {value}) WHERE key = 'session'"


def _pareto(text):
    return f"UPDATE study_user_attributes SET value_json = json_set(value_json, '$.pareto', json('{text}')) WHERE key = 'verdict'"


def _session(name, value):
    return (
        f"UPDATE study_user_attributes SET value_json = json_set(value_json, '$.{name}', {value}) WHERE key = 'session'"
    )


EDITS = [
    *(_set("trial_user_attributes", "outcome", text) for text in ("null", "[]", "0", '""', "false", "[" * 50_000)),
    *(_set("trial_user_attributes", "trial", text) for text in ("null", "[]", "{}")),
    *(_set("study_user_attributes", "session", text) for text in ("null", "[]", "[" * 50_000, '{"a":' * 50_000)),
    *(_plan(n, v) for n, v in [("seed", "-5"), ("memory_mb", "1e308"), ("memory_mb", "-1"), ("limit_s", "0"), ("nosuch", "1")]),
    *(_session(n, v) for n, v in [("cwd", "5"), ("notes", "json('[]')"), ("notes", "json('{\"answers\": [5]}')"), ("ended", "5")]),
    *(_pareto(text) for text in ('[{"number":1,"config":{},"metrics":{}}]', '[{"number":1,"config":{},"metrics":{"loss":null}}]',
                                 '[{"number":1,"config":{},"metrics":{"loss":1},"comparisons":{"x":5}}]', "[5]")),
    "UPDATE trials SET number = NULL", "UPDATE trials SET number = -3", "UPDATE trials SET number = 0", "UPDATE trials SET number = 'x'",
    "UPDATE trial_values SET value = NULL", "UPDATE trials SET state = 'GREAT'",
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e[:110])
def test_every_command_calls_a_store_that_was_edited_damaged(stored, edit, capfd):
    url = f"sqlite:///{stored / 's.db'}"
    with closing(sqlite3.connect(stored / "s.db")) as database:
        assert database.execute(edit).rowcount
        database.commit()

    def resume(store):
        with Session.resume("a", store) as session:
            session.run(trials=6)

    commands = {
        "list": lambda s: [overview(s, n) for n in s.names()], "show": lambda s: export(s, "a"), "report": lambda s: render_report(export(s, "a")),
        "resume": resume, "apply": lambda s: service.apply_session(s, "a", to=None, spec=None, number=None, force=True),
        "rollback": lambda s: service.rollback_session(s, "a", spec=None),
    }  # fmt: skip
    damaged = []
    for name, command in commands.items():
        store = Store(url)
        try:
            command(store)
        except StoreError as error:
            assert "\n" not in str(error)
            damaged.append(name)
        except ConfigError as error:
            assert name in ("apply", "rollback"), error  # there is nothing to do, and the trials were not read
        finally:
            store.close()
    assert {"show", "report", "resume", "list"} <= set(damaged)
    assert "Exception ignored" not in capfd.readouterr().err
