"""What a session says before it touches anything, names that a failed start does not use up, and folders after kills."""

import json
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tunewright.cli.dry import Told, free_name, show_outlook
from tunewright.cli.options import console
from tunewright.cli.sessions import reading
from tunewright.cli.tune import Asked
from tunewright.errors import ConfigError, HeldError, TargetError
from tunewright.sessions import locks, preflight, workfolder
from tunewright.sessions.opening import Ahead
from tunewright.sessions.session import Session
from tunewright.space import Int, Space
from tunewright.space.amounts import size
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Measurement, Metric, Preflight
from tunewright.testing import Sphere

SERVED = """
[target]
name = "app"
command = ["sh", "-c", "echo v: $(cut -d' ' -f3 app.conf)"]
[[parameter]]
name = "x"
type = "int"
low = 1
high = 9
default = 1
restart = "restart"
[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
[[file]]
path = "app.conf"
content = "x = {x}"
"""
HOOKS = """
[hooks]
apply = ["sh", "-c", "echo systemctl restart app >> hooks.log"]
rollback = ["sh", "-c", "echo back >> hooks.log"]
"""


@pytest.fixture
def served(tmp_path):
    (tmp_path / "app.conf").write_text("x = 1\n")
    path = tmp_path / "app.toml"
    path.write_text(SERVED + HOOKS)
    return path


class Needy(BaseTarget):
    """Misses what it is told to miss; counts how often it was measured."""

    name = "needy"
    isolated = False
    exact = True
    metrics = (Metric(name="speed", direction="max"),)

    def __init__(self, missing=(), fails=False, disk_bytes=None, keys=()):
        self.missing, self.fails, self.disk_bytes, self.keys, self.measured = missing, fails, disk_bytes, keys, 0
        self.space = Space([Int(name="n", low=1, high=5, default=1)])

    def preflight(self, *, workload, workdir):
        return Preflight(missing=self.missing, disk_bytes=self.disk_bytes, leaves=["a table of 82 MB"])

    def changes(self, to=None):
        return self.keys

    def measure(self, config, *, workload, seed, budget):
        self.measured += 1
        if self.fails:
            return Measurement(status="failed", reason="the server refuses")
        return Measurement(values={"speed": float(config["n"])})


class Preparing(Needy):
    """Prepares a file."""

    def prepare(self, *, workload, seed, budget):
        (workfolder.private(budget.workdir, "prepared") / "data.db").write_bytes(b"x" * 1000)
        return {}

    def cleanup(self, workdir):
        workfolder.remove(workdir, "prepared")


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


def test_a_dry_run_leaves_nothing_at_all(cli, served, tmp_path):
    home = tmp_path / "nothing" / "yet"
    before = tree(tmp_path)
    ran = cli("tune", served, "--dry-run", env={"TUNEWRIGHT_HOME": str(home)})
    assert tree(tmp_path) == before
    assert (tmp_path / "app.conf").read_text() == "x = 1\n"
    for part in ("app.conf is written before every run, and put back", "echo systemctl restart app", "free there",
                 "x (restart)", "66 to 174 runs", "Nothing was touched"):  # fmt: skip
        assert part in ran.stdout, part
    rows = [line.split("  ")[0] for line in ran.stdout.splitlines()]
    assert "restarted" in rows and "changed, and put back" in rows and "missing" in rows


def test_a_dry_run_as_json(cli, served):
    said = json.loads(cli("tune", served, "--dry-run", "--json", "--trials", 3).stdout)["preflight"]
    assert said["live"] and said["ready"] and said["missing"] == []
    assert said["session"] == "app-1" and said["free_bytes"] > 0 and said["runs"] == [22, 42]
    assert "systemctl" in said["restarts"][0] and any("rollback" in line for line in said["changes"])


def test_a_narrow_terminal_loses_no_letter(served):
    outlook = preflight.look(Plan(target=str(served)), opened(served), "a", store_url="sqlite:///x.db")
    screen = Console(width=50, record=True, file=open(os.devnull, "w", encoding="utf-8"))
    with screen.file:
        show_outlook(screen, outlook)
        text = screen.export_text()
    assert max(map(len, text.splitlines()[1:])) <= 50
    squeezed = re.sub(r"\s+", "", text)
    for said in (*outlook.said.changes, *outlook.said.creates):
        words = re.sub(r"\s+", "", said)
        assert set(words) <= set(squeezed)
        assert words[:12] in squeezed


def opened(path):
    from tunewright.plugins import open_target

    return open_target(str(path), {})


def test_nothing_starts_while_something_is_missing(store):
    target = Needy(missing=["GRANT pg_read_all_settings TO tuner;", "CREATE DATABASE x;"])
    told = []
    with pytest.raises(TargetError, match="GRANT pg_read_all_settings.*1 more"):
        Session.create(Plan(target="needy", tuner="random"), "a", store, target=target, ahead=Ahead(told=told.append))
    assert store.names() == [] and target.measured == 0
    assert told[0].said.missing == ["GRANT pg_read_all_settings TO tuner;", "CREATE DATABASE x;"]


def test_a_resume_looks_too(store):
    target = Needy()
    session = Session.create(Plan(target="needy", tuner="random"), "a", store, target=target)
    session.run(trials=2, verify=False)
    target.missing = ["GRANT SELECT ON x TO y;"]
    with pytest.raises(TargetError, match="GRANT SELECT"):
        Session.resume("a", store, target=target, ahead=Ahead(told=lambda outlook: None))
    Session.resume("a", store, target=target)  # opened only to be read


def test_too_little_room_is_missing(store, tmp_path):
    outlook = preflight.look(
        Plan(target="needy", workdir=str(tmp_path / "not" / "made")),
        Needy(disk_bytes=2**60),
        "a",
        store_url="sqlite://",
    )
    assert not outlook.ready and "1024 PiB are needed" in outlook.said.missing[0].replace(",", "")
    assert not (tmp_path / "not").exists()


def test_a_folder_that_cannot_be_made_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    outlook = preflight.look(Plan(target="needy", workdir=str(tmp_path / "w")), Needy(), "a", store_url="sqlite://")
    assert "--dir" in outlook.said.missing[0]


def test_who_holds_the_same_thing_is_named_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_LOCKS", str(tmp_path / "locks"))
    keys = locks.file_keys(tmp_path / "app.conf")
    assert locks.holders(keys) == [] and not (tmp_path / "locks").exists()
    with locks.holding(keys, "session 'other'"):
        [holder] = locks.holders(keys)
        assert (holder.what, holder.pid, holder.killed) == ("session 'other'", os.getpid(), False)
        outlook = preflight.look(Plan(target="needy"), Needy(keys=keys), "a", store_url="sqlite://")
        assert "session 'other'" in outlook.said.missing[0] and str(os.getpid()) in outlook.said.missing[0]
        with pytest.raises(HeldError, match="session 'other'"), locks.holding(keys, "a third"):
            pass
    assert locks.holders(keys) == []


def test_a_file_that_may_not_be_written_is_a_command_to_paste(served, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path).endswith("app.conf") is False and real(path, mode))
    said = opened(served).preflight(workload="default", workdir=Path("/nowhere"))
    assert said.missing == [f"sudo setfacl -m u:{pwd.getpwuid(os.geteuid()).pw_name}:rw {served.parent}/app.conf"]


def test_missing_in_a_dry_run_is_exit_code_1(cli, served):
    served.write_text(served.read_text().replace('["sh", "-c", "echo back >> hooks.log"]', '["no-such-program-xyz"]'))
    ran = cli("tune", served, "--dry-run", code=1)
    assert (
        "app.toml, [hooks], rollback: there is no program 'no-such-program-xyz'" in ran.stdout
        and "Traceback" not in ran.stderr
    )
    ran = cli("tune", served, "--trials", 2, "--json", code=1)
    assert json.loads(ran.stdout)["preflight"]["ready"] is False
    assert "nothing was started" in ran.stderr
    assert (served.parent / "app.conf").read_text() == "x = 1\n" and not (served.parent / "hooks.log").exists()


def test_live_systems_show_the_table_others_a_line(served, capsys):
    outlook = preflight.look(Plan(target=str(served)), opened(served), "a", store_url="sqlite:///x.db")
    Told(False)(outlook)
    shown = capsys.readouterr()
    assert "before anything is touched: app" in shown.err and "a live system" in shown.err and not shown.out
    told = Told(True)
    told(preflight.look(Plan(target="needy"), Needy(), "b", store_url="sqlite:///x.db"))
    shown = capsys.readouterr()
    assert shown.err.startswith("work folder") and shown.err.count("\n") == 1 and not shown.out
    assert told.beside({"name": "b"})["preflight"]["leaves"] == ["a table of 82 MB"]


def test_a_dry_run_of_a_resume_runs_nothing(cli, served):
    with reading(None) as store:
        Session.create(Plan(target=str(served), tuner="random"), "a", store)
    ran = cli("resume", "a", "--dry-run")
    assert "session a" in ran.stdout and "26 to 84 runs" not in ran.stdout
    assert not (served.parent / "hooks.log").exists()
    assert "nosuch" in cli("resume", "nosuch", "--dry-run", code=1).stderr


def test_a_failed_start_does_not_use_up_the_name(store):
    plan = Plan(target="needy", tuner="random")
    with pytest.raises(TargetError, match="refuses"):
        Session.create(plan, "a", store, target=Needy(fails=True)).run(trials=3)
    assert store.fruitless("a")
    again = Session.create(plan, "a", store, target=Needy())
    assert again.replaced
    again.run(trials=3, verify=False)
    assert len(again.decided) == 3 and [t.number for t in again.all] == [0, 1, 2]
    with pytest.raises(ConfigError, match="exists already"):
        Session.create(plan, "a", store, target=Needy())
    assert store.names() == ["a"]


def test_the_default_name_of_a_failed_start_is_used_again(store):
    plan = Plan(target="needy", tuner="random")
    with pytest.raises(TargetError):
        Session.create(plan, "needy-1", store, target=Needy(fails=True)).run(trials=1)
    assert free_name(store, "needy") == "needy-1"
    Session.create(plan, "needy-1", store, target=Needy()).run(trials=1, verify=False)
    assert free_name(store, "needy") == "needy-2" and free_name(None, "needy") == "needy-1"


def test_a_session_that_is_just_starting_keeps_its_name(store):
    plan = Plan(target="sphere", tuner="random")
    Session.create(plan, "a", store, target=Sphere())
    with pytest.raises(ConfigError, match="exists already"):
        Session.create(plan, "a", store, target=Sphere())


def test_a_failed_start_that_somebody_runs_now_is_not_replaced(store):
    plan = Plan(target="needy", tuner="random")
    with pytest.raises(TargetError):
        Session.create(plan, "a", store, target=Needy(fails=True)).run(trials=1)
    other = Store(store.url)
    with other.lock("a"), pytest.raises(HeldError):
        Session.create(plan, "a", store, target=Needy())
    other.close()


def test_what_stays_is_told_at_the_end(store, capsys):
    session = Session.create(
        Plan(target="needy", tuner="random"), "a", store, target=Needy(), ahead=Ahead(told=(told := Told(False)))
    )
    folder = workfolder.private(session.workdir.parent, session.workdir.name.removeprefix("tunewright-"), session="a")
    (folder / "made").write_bytes(b"x" * 3000)
    told.left(console(), session, False)
    said = capsys.readouterr().err
    assert "left behind: a table of 82 MB" in said and f"({size(3000)}, what the measured" in said
    assert f"rm -r {folder}" in said and preflight.left_in(folder) == 3000


def test_prepared_data_stay_where_the_user_keeps_them(store):
    session = Session.create(Plan(target="preparing", tuner="random"), "a", store, target=Preparing())
    session.run(trials=1, verify=False)
    assert not session.workdir.exists()
    session.run(trials=1, verify=False, keep=True)
    assert [p.name for p in session.workdir.rglob("*.db")] == ["data.db"]
    session.run(trials=1, verify=False)
    assert not session.workdir.exists()


RUN = """
import os, sys, threading, time
from tunewright.store.store import Store
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.plugins import open_target
import tunewright.sessions.measurer as m
url, name, how = sys.argv[1:]
plan = Plan(target="sqlite", tuner="random", options={"rows": "200"})
store = Store(url)
its = Session.resume(name, store) if how == "resume" else Session.create(plan, name, store)
usual = m.Measurer.once
def prepared(self):
    self._setup.target.prepare(workload="write-heavy", seed=0, budget=self.budget())
    print("ready", flush=True)
    time.sleep(60)
m.Measurer.prepare = prepared
its.run(trials=3)
"""


def killed(url, name, how):
    with subprocess.Popen([sys.executable, "-c", RUN, url, name, how], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "ready"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)


def folders():
    home = Path(os.environ["TUNEWRIGHT_HOME"])
    return [p for p in (home / "work").glob("tunewright-*")], [*(home / "changes").glob("*")]


@pytest.mark.slow
def test_ten_killed_sessions_leave_no_more_folders_than_sessions(store):
    """Resumed, started anew under the same name, and others: as each comes, the dead ones' data go."""
    for number in range(10):
        name, how = (
            ("same", "new") if number % 3 == 0 else ("same", "resume") if number % 3 == 1 else (f"s{number}", "new")
        )
        killed(store.url, name, how)
        work, changes = folders()
        kept = len(store.names())
        assert len(work) <= kept and len(changes) <= kept
        assert len([p for w in work for p in w.rglob("template-*.db")]) == 1, (
            "only the last killed one's data are there"
        )
    session = Session.resume("same", store)
    session.run(trials=2, verify=False)
    work, changes = folders()
    assert work == [] and len(changes) <= len(store.names())


def test_a_dead_sessions_folder_goes_with_the_next_of_its_target(store):
    """The fast twin of the ten kills: the folder is as a kill leaves it."""
    plan = Plan(target="preparing", tuner="random")
    Session.create(plan, "dead", store, target=Preparing())
    parent = workfolder.parent_of("")
    folder = workfolder.private(parent, workfolder.name_of(store.public_url, "dead"), session="dead")
    (workfolder.private(folder, "prepared") / "data.db").write_bytes(b"x")
    foreign = workfolder.private(parent, "dead-00000000", session="dead")  # another store's session of the name
    mine = workfolder.private(parent, workfolder.name_of(store.public_url, "user"), session="user")
    (mine / "results.csv").write_text("the user's")
    check = workfolder.private(parent, "check-1", check={"pid": os.getpid(), "started": 1.0})
    alive = workfolder.private(parent, "check-2", check=locks.this_process())
    Session.create(plan, "next", store, target=Preparing()).run(trials=1, verify=False)
    assert not folder.exists() and not check.exists()
    assert foreign.exists() and alive.exists() and (mine / "results.csv").read_text() == "the user's"


def test_what_a_program_wrote_stays_where_its_session_was_killed(store):
    plan = Plan(target="preparing", tuner="random")
    dead = Session.create(plan, "dead", store, target=Preparing()).workdir
    folder = workfolder.private(dead.parent, dead.name.removeprefix("tunewright-"), session="dead")
    (folder / "mine.txt").write_text("x")
    Session.create(plan, "next", store, target=Preparing()).run(trials=1, verify=False)
    assert (folder / "mine.txt").read_text() == "x"


def test_how_long_a_run_takes_is_known_from_earlier_sessions(store):
    plan = Plan(target="sphere", tuner="random")
    assert preflight.usual_seconds(store, "a", "sphere", "default") is None
    session = Session.create(plan, "a", store, target=Sphere())
    session.run(trials=2, verify=False)
    assert preflight.usual_seconds(store, "b", "sphere", session.workload) is not None
    assert preflight.usual_seconds(store, "b", "other", session.workload) is None


def test_mistakes_come_before_the_table(cli, served):
    taken = cli("tune", served, "--dry-run").stdout
    assert "before anything is touched" in taken and " what " not in taken.splitlines()[1]
    with (
        reading(None) as store,
        Session.create(Plan(target="needy", tuner="random"), "a", store, target=Needy()) as session,
    ):
        session.run(trials=1, verify=False)
    ran = cli("tune", served, "--name", "a", "--trials", 2, code=1)
    assert "exists already" in ran.stderr and "before anything is touched" not in ran.stderr


def test_all_that_is_missing_is_listed_once(cli, served):
    text = served.read_text().replace("systemctl", "no-such-program-abc")
    hooks = HOOKS.replace("apply = [", 'apply = ["no-such-program-abc"]\n# [').replace(
        "rollback = [", 'rollback = ["no-such-program-xyz"]\n# ['
    )
    served.write_text(text.partition("[hooks]")[0] + hooks)
    ran = cli("tune", served, "--trials", 2, code=1)
    assert ran.stderr.count("no-such-program-abc") == ran.stderr.count("no-such-program-xyz") == 1
    assert "since the 2 things above are missing" in ran.stderr and "before anything" not in ran.stderr
    served.write_text(served.read_text().replace('["no-such-program-xyz"]', '["true"]'))
    ran = cli("tune", served, "--trials", 2, code=1)
    assert ran.stderr.count("no-such-program-abc") == 1 and len(ran.stderr.strip().splitlines()) == 1


def test_why_the_default_fails_is_told_once(cli, served):
    served.write_text(
        served.read_text().replace("echo systemctl restart app >> hooks.log", "echo no such unit; exit 4")
    )
    ran = cli("tune", served, "--trials", 2, code=1)
    assert ran.stderr.count("the apply command exited with code 4; it last said: no such unit") == 1


@pytest.mark.parametrize(("asked", "trials"), [({}, 10), ({"trials": 7}, 5), ({"minutes": 3.0, "trials": None}, None)])
def test_a_resume_goes_on_as_tune_was_told(asked, trials, store):
    with Session.create(Plan(target="needy", tuner="random"), "a", store, target=Needy()) as session:
        session.run(trials=2, verify=False)
    with reading(store.url) as again:
        again.update("a", asked={**asked, "workers": 2, "explain": True})
        found = Asked.of(again, "a")
        assert found.trials == trials
        assert (found.minutes, found.workers, found.explain) == (asked.get("minutes"), 2, True)
        again.update("a", asked={"trials": 2})
        assert Asked.of(again, "a").trials == 2, "as many again where none are left"
        again.update("a", asked={"trials": "many", "x": 1})
        assert Asked.of(again, "a") == Asked() == Asked.of(again, "b") == Asked.of(None, "a")
