"""kill -9 at any moment: nothing lost, duplicated or repeated for ever, the store intact, the target restored."""

import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from processes import ends, of_this_test
from targets import Logged

from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_kills(tmp_path):
    conf, url = tmp_path / "server.conf", f"sqlite:///{tmp_path / 's.db'}"
    conf.write_text("my own settings\n")
    nursery = Path(__file__).with_name("kill_nursery.py")
    done = subprocess.run(
        [sys.executable, str(nursery), str(tmp_path), url, "100", "7"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]

    store = Store(url)
    trials = store.trials("a")
    assert [t.number for t in trials] == list(range(len(trials))), "numbers without a gap: no trial is lost"
    assert all(t.status in ("ok", "failed", "interrupted") for t in trials), "nothing runs for ever"
    decided = [t for t in trials if t.decided]
    assert [t.step for t in decided] == list(range(len(decided))), "every step was decided once"
    assert max(Counter(t.config["n"] for t in decided).values()) == 1, "no configuration is tried twice"
    assert sum(t.status == "failed" for t in trials) <= 100
    assert sum(t.status == "ok" for t in trials) >= 50, "the session got on"
    assert all(t.ok for t in decided[-5:])

    # what the target saw is what the store knows: each measurement belongs to a trial written down before it
    measured = [int(line) for line in (tmp_path / "measured.log").read_text().split()]
    known = Counter(t.config["n"] for t in trials)
    assert set(measured) <= set(known)
    assert all(count <= known[n] for n, count in Counter(measured).items() if n != 1)
    assert {t.config["n"] for t in trials if t.ok} <= set(measured)

    assert conf.read_text() == "my own settings\n"
    with sqlite3.connect(tmp_path / "s.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    store.close()
    assert ends("tunewright.measuring.runner"), of_this_test("tunewright.measuring.runner")


class Power(Exception):
    """Stands for a kill at a place of our choice."""


def test_killed_while_the_next_copy_is_written(tmp_path):
    """The copy of the last run is gone by then, and the new one is cut off: nothing may be put back from it."""
    (tmp_path / "server.conf").write_text("my own settings\n")
    target = Logged(tmp_path)
    store = Store(f"sqlite:///{tmp_path / 's.db'}")
    session = Session.create(Plan(target="logged", tuner="random", trust="fast"), "a", store, target=target)
    session.run(trials=2, verify=False)
    store.update("a", status="running", snapshot=target.snapshot(tmp_path))  # as a killed run leaves it
    target.conf.write_text("n = 7\n")

    def cut_off(workdir):
        target.saved.write_text("")
        raise Power

    target.snapshot = cut_off
    with pytest.raises(Power):
        Session.resume("a", store, target=target).run(trials=1, verify=False)
    Session.resume("a", store, target=Logged(tmp_path)).run(trials=1, verify=False)
    assert target.conf.read_text() == "my own settings\n"
    store.close()
