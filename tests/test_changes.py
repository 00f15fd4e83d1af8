"""What belongs to the user: held by one session at a time, written down before it is changed, put back as it was."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from targets import Guarded, Misbehaving

from tunewright.comparing import playing
from tunewright.envs.command import fill, open_target
from tunewright.errors import ConfigError, HeldError, StoreError, TargetError
from tunewright.measuring import hooks
from tunewright.measuring.interrupts import orderly, uninterrupted
from tunewright.measuring.runner import alive as runs
from tunewright.sessions import originals, workfolder
from tunewright.sessions.changes import Journal, Owner, changing, document, restoring
from tunewright.sessions.locks import file_keys, holding
from tunewright.sessions.session import Session
from tunewright.sessions.watcher import Watcher
from tunewright.store.plan import Plan
from tunewright.store.store import Store

ROOT = os.geteuid() == 0
OWNER = Owner(what="session 'a'", store="sqlite:////nowhere/s.db", name="a", target="my.toml", options={})


def python(code, *words, **how):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )


HOLDER = """
import sys, time
from pathlib import Path
from tunewright.sessions.locks import file_keys, holding
with holding(file_keys(Path(sys.argv[1])), "session 'first'"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("other", ["same", "symbolic", "hard", "home"])
def test_one_file_under_any_name_and_home_has_one_holder(tmp_path, monkeypatch, other):
    path = tmp_path / "server.conf"
    path.write_text("x = 7\n")
    name = {"same": path, "home": path}.get(other, tmp_path / "other.conf")
    if other == "symbolic":
        name.symlink_to("server.conf")
    elif other == "hard":
        name.hardlink_to(path)
    first = python(HOLDER, path)
    try:
        assert first.stdout.readline() == "held\n"
        if other == "home":
            monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "another"))
        begun = time.monotonic()
        with pytest.raises(HeldError, match=r"by session 'first' \(process \d+\); wait for it or stop it"):
            with holding(file_keys(name), "session 'second'"):
                raise AssertionError("held twice")
        assert time.monotonic() - begun < 2, "refused at once"
    finally:
        first.kill()
        first.communicate()
    with holding(file_keys(name), "session 'second'"):
        pass  # a dead holder holds nothing


CHILD = "import time; time.sleep(1.5)"


def test_a_lock_lasts_until_the_last_measuring_child_is_gone(tmp_path):
    code = f"""
import subprocess, sys, time
from tunewright.sessions.locks import holding
with holding(["file " + sys.argv[1]], "session 'first'") as hold:
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.Popen([sys.executable, "-c", {CHILD!r}], pass_fds=hold.fds, **quiet)
    print("held", flush=True)
    time.sleep(60)
"""
    first = python(code, tmp_path / "x")
    assert first.stdout.readline() == "held\n"
    begun = time.monotonic()
    first.kill()
    first.communicate()
    with holding([f"file {tmp_path / 'x'}"], "session 'second'"):
        assert time.monotonic() - begun > 0.7, "its child could still have changed the file"


def test_locks_leave_no_files_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_LOCKS", str(tmp_path / "locks"))
    with holding(["file /a", "file /b"], "me"):
        assert len(list((tmp_path / "locks").iterdir())) == 2
    assert list((tmp_path / "locks").iterdir()) == []


# -- files ------------------------------------------------------------------------------------------


def state(path):
    """Everything about a file that putting back must bring again."""
    if not os.path.lexists(path):
        return None
    about = path.lstat()
    found = [path.is_symlink() and os.readlink(path)]
    if path.exists():
        real = path.stat()
        found += [
            path.read_bytes(),
            real.st_mode,
            real.st_uid,
            real.st_gid,
            real.st_ino,
            real.st_nlink,
            real.st_mtime_ns,
        ]
        found.append({n: os.getxattr(path, n) for n in os.listxattr(path)})
    return [*found, about.st_ino]


@given(
    before=st.binary(max_size=300), after=st.lists(st.binary(max_size=300), max_size=3), mode=st.integers(0o200, 0o777)
)
def test_a_file_is_put_back_whole(tmp_path_factory, before, after, mode):
    folder = tmp_path_factory.mktemp("files")
    path, saved = folder / "server.conf", folder / "saved"
    saved.mkdir()
    path.write_bytes(before)
    path.chmod(mode)
    was = state(path)
    entry = json.loads(json.dumps(originals.save(path, saved, "0")))
    for data in after:
        originals.write(path, data)
        assert path.read_bytes() == data
    originals.put_back(entry)
    originals.put_back(entry)
    assert state(path) == was
    assert sorted(p.name for p in folder.iterdir()) == ["saved", "server.conf"], "nothing is left beside it"


@pytest.fixture
def dressed(tmp_path):
    """A file with everything a file can have, a link to it, and a path where there is none."""
    folder = tmp_path / "etc"
    (folder / "real").mkdir(parents=True)
    path = folder / "real" / "server.conf"
    path.write_text("x = 7\n")
    path.chmod(0o640)
    if ROOT:
        os.chown(path, 1234, 1234)
    try:
        os.setxattr(path, "user.note", b"keep me")
    except OSError:
        pass  # this file system has none
    (folder / "hard.conf").hardlink_to(path)
    (folder / "link.conf").symlink_to("real/server.conf")
    (folder / "dangling.conf").symlink_to("real/later.conf")
    return folder


@pytest.mark.parametrize("name", ["real/server.conf", "hard.conf", "link.conf", "dangling.conf", "new/deep/x.conf"])
def test_links_owners_and_attributes_come_back(dressed, tmp_path, name):
    everything = ["real/server.conf", "hard.conf", "link.conf", "dangling.conf", "real/later.conf", "new"]
    was = {n: state(dressed / n) for n in everything if n != "new"}
    saved = tmp_path / "saved"
    saved.mkdir()
    entry = originals.save(dressed / name, saved, "0")
    originals.write(dressed / name, b"candidate " * 100)
    assert (dressed / name).read_bytes() == b"candidate " * 100
    originals.put_back(entry)
    assert {n: state(dressed / n) for n in everything if n != "new"} == was
    assert not (dressed / "new").exists()


def test_what_a_program_made_of_a_file_is_undone(dressed, tmp_path):
    """Some programs replace their configuration by a new file, over links and all."""
    saved = tmp_path / "saved"
    saved.mkdir()
    entry = originals.save(dressed / "link.conf", saved, "0")
    (dressed / "link.conf").unlink()
    (dressed / "link.conf").write_text("rewritten")
    (dressed / "real" / "server.conf").unlink()
    originals.put_back(entry)
    assert os.readlink(dressed / "link.conf") == "real/server.conf"
    about = (dressed / "link.conf").stat()
    assert (about.st_mode & 0o777, (dressed / "link.conf").read_text()) == (0o640, "x = 7\n")
    assert not ROOT or about.st_uid == 1234


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(TargetError, match="not a regular file"):
            originals.save(tmp_path / name, tmp_path, "copy")
        with pytest.raises(TargetError, match="not a regular file"):
            originals.write(tmp_path / name, b"x")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not ROOT
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a file system of its own cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_costs_nothing(small_disk, tmp_path):
    path = small_disk / "server.conf"
    path.write_bytes(b"mine" * 100)
    (small_disk / "filler").write_bytes(b"." * 52 * 1024)
    with pytest.raises(TargetError, match="No space left"):
        originals.write(path, b"y" * 60_000)
    assert path.read_bytes() == b"mine" * 100
    with pytest.raises(TargetError, match="No space left"):
        originals.write(small_disk / "new.conf", b"y" * 60_000)
    assert not (small_disk / "new.conf").exists()


def test_nothing_is_changed_that_cannot_be_written_down(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(small_disk / "home"))
    target = command(tmp_path)
    (small_disk / "filler").write_bytes(b"." * 52 * 1024)
    (tmp_path / "server.conf").write_bytes(b"mine\n" * 4000)
    with pytest.raises((TargetError, StoreError), match="No space left"):
        with changing(target, OWNER, print) as (hold, journal), restoring(target, OWNER, hold, journal, tmp_path / "w"):
            raise AssertionError("it may have been changed")
    assert (tmp_path / "server.conf").read_bytes() == b"mine\n" * 4000


# -- journals ---------------------------------------------------------------------------------------


def command(folder, name="my.toml", file="server.conf", extra=""):
    path = folder / name
    path.write_text(f"""
[target]
name = "{name.split(".")[0]}"
command = ["sh", "-c", "cat {file}; sleep {{pause}}"]
[[file]]
path = "{file}"
content = "v: {{x}}"
[[parameter]]
name = "x"
type = "int"
low = 1
high = 1000
default = 1
[[parameter]]
name = "pause"
type = "real"
low = 0.02
high = 0.1
default = 0.05
[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
{extra}
""")
    return open_target(str(path), {})


def killed_session(folder, store, name, home=None):
    """Run a session, kill it while a candidate is in the file, and return what it left."""
    conf = folder / "server.conf"
    before = conf.read_bytes()
    command_line = [
        str(Path(sys.executable).with_name("tunewright")),
        "tune",
        str(folder / "my.toml"),
        "--store",
        store,
    ]
    env = {**os.environ, **({"TUNEWRIGHT_HOME": str(home)} if home else {})}
    session = subprocess.Popen(
        [*command_line, "--name", name, "-n", "500", "--tuner", "random"], env=env, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while conf.read_bytes() == before and time.monotonic() < end:
        time.sleep(0.02)
    session.kill()
    session.communicate()
    assert conf.read_bytes() != before, "it was killed before it changed anything"


def test_whoever_comes_next_puts_back_what_a_killed_session_left(tmp_path, cli):
    conf = tmp_path / "server.conf"
    conf.write_text("v: 7\n")
    command(tmp_path)
    command(tmp_path, "other.toml")
    killed_session(tmp_path, f"sqlite:///{tmp_path / 'one.db'}", "first", home=tmp_path / "home-of-first")
    done = cli(
        "tune",
        tmp_path / "other.toml",
        "--store",
        f"sqlite:///{tmp_path / 'two.db'}",
        "--name",
        "second",
        "-n",
        2,
        "--trust",
        "fast",
    )
    assert "session 'first' did not come to its end and had left changes, which were put back" in " ".join(
        done.stderr.split()
    )
    assert conf.read_text() == "v: 7\n"
    nothing = cli("rollback", "first", "--store", f"sqlite:///{tmp_path / 'one.db'}", code=1)
    assert "nothing to roll back" in nothing.stderr


@pytest.mark.slow
def test_rollback_and_resume_put_back_too(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    killed_session(tmp_path, store, "first")
    assert "put back" in cli("rollback", "first", "--store", store).stdout
    assert conf.read_text() == "v: 7\n"
    conf.write_text("v: 9\n")
    killed_session(tmp_path, store, "again")
    cli("resume", "again", "--store", store, "-n", 1)
    assert conf.read_text() == "v: 9\n"


def test_a_session_is_refused_before_it_takes_a_name(tmp_path, store):
    (tmp_path / "server.conf").write_text("v: 7\n")
    target = command(tmp_path)
    with holding(target.changes(), "session 'first'"):
        pass
    first = python(HOLDER, tmp_path / "server.conf")
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match="session 'first'"):
            Session.create(Plan(target="my.toml", tuner="random"), "second", store, target=target)
    finally:
        first.kill()
        first.communicate()
    assert store.names() == []


@pytest.mark.slow
def test_two_stores_sessions_of_one_name_keep_their_own(tmp_path, cli):
    stores = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "server.conf").write_text(f"v: 7 # {name}\n")
        command(folder)
        stores.append(f"sqlite:///{tmp_path / f'{name}.db'}")
        cli(
            "tune",
            folder / "my.toml",
            "--store",
            stores[-1],
            "--name",
            "a",
            "-n",
            4,
            "--trust",
            "fast",
            "--tuner",
            "random",
        )
        cli("apply", "a", "--store", stores[-1], "--force")
    for name, store in zip(("one", "two"), stores, strict=True):
        assert "v: 7" not in (tmp_path / name / "server.conf").read_text()
        cli("rollback", "a", "--store", store)
        assert (tmp_path / name / "server.conf").read_text() == f"v: 7 # {name}\n"


@pytest.mark.slow
def test_configurations_applied_on_top_of_each_other_come_off_in_turn(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    for name in ("a", "b"):
        cli(
            "tune",
            tmp_path / "my.toml",
            "--store",
            store,
            "--name",
            name,
            "-n",
            4,
            "--trust",
            "fast",
            "--tuner",
            "random",
            "--seed",
            len(name + name),
        )
        cli("apply", name, "--store", store, "--force")
    assert "first run: tunewright rollback b" in cli("rollback", "a", "--store", store, code=1).stderr
    cli("rollback", "b", "--store", store)
    cli("rollback", "a", "--store", store)
    assert conf.read_text() == "v: 7\n"


@pytest.mark.slow
def test_apply_writes_its_undo_before_it_changes_anything(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    hook = '[hooks]\napply = ["sh", "-c", "test ! -e deadly || kill -9 $PPID"]\n'
    command(tmp_path, extra=hook)
    cli("tune", tmp_path / "my.toml", "--store", store, "--name", "a", "-n", 4, "--trust", "fast", "--tuner", "random")
    (tmp_path / "deadly").touch()
    cli("apply", "a", "--store", store, "--force", code=-signal.SIGKILL)
    assert conf.read_text() != "v: 7\n"
    (tmp_path / "deadly").unlink()
    cli("rollback", "a", "--store", store)
    assert conf.read_text() == "v: 7\n"


@pytest.mark.skipif(not ROOT, reason="needs another user's file")
def test_another_users_journal_is_not_obeyed(tmp_path):
    journal = Journal("sqlite:////x.db", "a", "measure")
    journal.begin()
    journal.write({"what": "session 'a'"})
    os.chown(journal.path, 1234, 1234)
    with pytest.raises(StoreError, match="of another user"):
        journal.read()


def test_a_broken_journal_is_one_line(tmp_path):
    journal = Journal("sqlite:////x.db", "a", "measure")
    journal.begin()
    journal.path.write_text('{"format": 1')
    with pytest.raises(StoreError, match="which says what to put back"):
        journal.read()


def test_a_failing_rollback_command_keeps_the_journal_and_says_how_to_go_on(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    hook = '[hooks]\nrollback = ["sh", "-c", "test -e well || { echo no service >&2; exit 3; }"]\n'
    command(tmp_path, extra=hook)
    done = cli("tune", tmp_path / "my.toml", "--store", store, "--name", "a", "-n", 2, "--trust", "fast", code=1)
    assert "no service" in done.stderr and "run 'tunewright rollback a'" in done.stderr
    assert conf.read_text() == "v: 7\n", "the file came back all the same"
    (tmp_path / "well").touch()
    cli("rollback", "a", "--store", store)


# -- folders and names --------------------------------------------------------------------------------


def test_only_marked_folders_are_removed(tmp_path):
    (tmp_path / "tunewright-x").mkdir()
    (tmp_path / "tunewright-x" / "precious").write_text("mine")
    with pytest.raises(TargetError, match="has no mark of tunewright"):
        workfolder.private(tmp_path, "x")
    workfolder.remove(tmp_path, "x")
    assert (tmp_path / "tunewright-x" / "precious").exists()
    folder = workfolder.private(tmp_path / "a" / "b", "y")
    assert folder == workfolder.private(tmp_path / "a" / "b", "y")
    (folder / "left").touch()
    workfolder.give_back(folder)
    assert (folder / "left").exists(), "not ours to remove"
    (folder / "left").unlink()
    workfolder.give_back(folder)
    assert not (tmp_path / "a").exists()


def test_a_link_to_a_folder_of_the_users_is_no_work_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / workfolder.MARKER).write_text("{}")
    (tmp_path / "tunewright-x").symlink_to("mine")
    with pytest.raises(TargetError, match="not a folder that tunewright made"):
        workfolder.private(tmp_path, "x")
    workfolder.remove(tmp_path, "x")
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["", " ", "a\0b", "a\nb", "x" * 300, "../../x", "-x", "."])
def test_a_name_that_cannot_be_one_leaves_no_session(store, name):
    with pytest.raises(ConfigError, match="cannot be a session's name"):
        Session.create(Plan(target="t", tuner="random"), name, store, target=Guarded())
    assert store.names() == []


def test_a_path_in_a_name_stays_in_the_home(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "deep" / "home"))
    session = Session.create(Plan(target="t", tuner="random"), "a/../../../x", store, target=Guarded())
    session.run(trials=2)
    assert session.problem.log.parent == tmp_path / "deep" / "home" / "logs"
    assert {p.name for p in tmp_path.iterdir()} <= {"deep", "s.db", "s.db-wal", "s.db-shm"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{rundir}/../../../etc/x", "leads out of"),
        ("conf-{x}.ini", "must be known before it is changed"),
        ("conf-{workload}", "must be known before it is changed"),
        (".", "not a regular file"),
        (" ", "cannot be a file's"),
    ],
)
def test_every_file_that_is_changed_is_known_before(tmp_path, path, words):
    with pytest.raises(ConfigError, match=words):
        command(tmp_path, file=path)


# -- processes ----------------------------------------------------------------------------------------


def test_what_a_hook_starts_lives_on_and_is_no_child_of_the_run(tmp_path, store):
    (tmp_path / "server.conf").write_text("v: 7\n")
    start = "sleep 300 & echo $! > pid; cat /proc/self/oom_score_adj > oom"
    stop = "test ! -e pid || kill $(cat pid)"
    hook = (
        f'[hooks]\nreset = ["sh", "-c", "{stop}"]\napply = ["sh", "-c", "{start}"]\nrollback = ["sh", "-c", "{stop}"]\n'
    )
    target = command(tmp_path, extra=hook.replace("cat pid)", "cat pid) 2>/dev/null; true"))
    alive = []

    class Watching(type(target)):
        def restore(self, snapshot):
            pid = int((tmp_path / "pid").read_text())
            alive.append(runs(psutil.Process(pid)))
            super().restore(snapshot)
            time.sleep(0.2)
            alive.append(psutil.pid_exists(pid) and runs(psutil.Process(pid)))

    target.__class__ = Watching
    session = Session.create(Plan(target="my.toml", tuner="random", trust="fast"), "a", store, target=target)
    session.run(trials=3, verify=False)
    assert alive == [True, False], "it outlives the run that started it, until the rollback command stops it"
    own = Path("/proc/self/oom_score_adj").read_text()
    assert (tmp_path / "oom").read_text() == own, "the user's server is not the first that the kernel kills"


def test_a_hook_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "LIMIT_S", 0.3)
    assert hooks.run(["sleep", "60"]).code is None
    assert hooks.run(["sh", "-c", "echo hello; exit 3"]) == hooks.Done(code=3, output="hello\n")
    with pytest.raises(TargetError, match="cannot start 'no-such-program'"):
        hooks.run(["no-such-program"])


@pytest.mark.parametrize(("sign", "delay_s"), [("command", 0.0), ("command", 0.003), ("begun", 0.0), ("begun", 0.2)])
def test_the_next_one_waits_for_a_command_that_outlived_its_session(sign, delay_s, tmp_path):
    """At whatever moment the session is killed: the command is through afterwards, or never ran."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tunewright.measuring import hooks\n"
        "with hooks.noting(Path(sys.argv[1])):\n"
        "    hooks.run(['sh', '-c', 'touch begun; sleep 1; touch through'], cwd=sys.argv[1])"
    )
    session = python(code, tmp_path)
    end = time.monotonic() + 20
    while not (tmp_path / sign).exists() and time.monotonic() < end:
        pass
    time.sleep(delay_s)
    session.kill()
    session.communicate()
    assert not (tmp_path / "through").exists()
    hooks.wait_for(tmp_path)
    begun, through = (tmp_path / "begun").exists(), (tmp_path / "through").exists()
    assert begun == through and (begun or sign == "command")
    time.sleep(0.1)
    assert (tmp_path / "begun").exists() == begun


def test_a_session_that_fails_leaves_anothers_measurement_alone(tmp_path):
    """Two sessions in one process: the children of one are not the other's to end."""
    target, outcome = Misbehaving(), {}
    target.ways = ("well", "slow")

    def run():
        store = Store(f"sqlite:///{tmp_path / 'one.db'}")
        session = Session.create(Plan(target="t", tuner="random", trust="fast"), "one", store, target=Slow())
        session.run(trials=1, verify=False)
        outcome["status"], outcome["reason"] = session.all[0].status, session.all[0].reason

    other = threading.Thread(target=run)
    other.start()
    time.sleep(1.0)  # the other is measuring by now
    store = Store(f"sqlite:///{tmp_path / 'two.db'}")
    session = Session.create(Plan(target="t", tuner="random", trust="fast"), "two", store, target=Guarded())
    session.store.finish = None  # whatever goes wrong in a session
    with pytest.raises(TypeError):
        session.run(trials=2, verify=False)
    other.join()
    assert outcome == {"status": "ok", "reason": ""}


class Slow(Misbehaving):
    def measure(self, config, *, workload, seed, budget):
        time.sleep(2.5)
        return super().measure(config, workload=workload, seed=seed, budget=budget)


def _sleepy(seconds):
    time.sleep(seconds)
    return "done"


def test_ending_a_tournament_leaves_the_callers_pools_alone():
    """The program that calls compare may have worker processes of its own."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as mine:
        future = mine.submit(_sleepy, 2.0)
        ids = context.SimpleQueue()
        pool = ProcessPoolExecutor(1, mp_context=context, initializer=playing._quiet_worker, initargs=(ids,))
        hanging = pool.submit(_sleepy, 60.0)
        while not hanging.running():
            time.sleep(0.05)
        while ids.empty():
            time.sleep(0.05)
        playing._end_workers(pool, ids)
        assert future.result(30) == "done"


# -- signals and guarantees -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_an_orderly_end_from_python_too(tmp_path, number):
    (tmp_path / "server.conf").write_text("v: 7\n")
    command(tmp_path)
    code = (
        "import sys\nfrom tunewright import Plan, Session, Store\n"
        "with Session.create(Plan(target=sys.argv[1], tuner='random'), 'a', Store(sys.argv[2])) as session:\n"
        "    session.run(trials=500)\n"
    )
    session = python(code, tmp_path / "my.toml", f"sqlite:///{tmp_path / 's.db'}")
    end = time.monotonic() + 60
    while (tmp_path / "server.conf").read_text() == "v: 7\n" and time.monotonic() < end:
        time.sleep(0.02)
    session.send_signal(number)
    session.communicate(timeout=30)
    assert (tmp_path / "server.conf").read_text() == "v: 7\n"


def test_nothing_interrupts_the_putting_back():
    order = []
    with pytest.raises(KeyboardInterrupt), orderly():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            order.append("put back")
        order.append("too late")
    assert order == ["put back"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_weaker_guarantees_are_not_tried_on_a_live_system(store):
    class Live(Guarded):
        live = True
        seen = []

        def measure(self, config, **how):
            self.seen.append(config["mode"])
            return super().measure(config, **how)

    verdict = Session.create(Plan(target="t", tuner="random"), "a", store, target=Live()).run(trials=6)
    assert verdict.weaker == [] and set(Live.seen) == {"safe"}


def test_an_environment_puts_back_what_its_steps_changed(tmp_path):
    import gymnasium

    import tunewright.envs  # noqa: F401

    (tmp_path / "server.conf").write_text("v: 7\n")
    env = gymnasium.make("tunewright/Tuning-v0", target=command(tmp_path), budget=3)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    assert (tmp_path / "server.conf").read_text() != "v: 7\n"
    with pytest.raises(HeldError, match="the environment of 'my'"), holding(command(tmp_path).changes(), "another"):
        pass
    env.close()
    env.close()
    assert (tmp_path / "server.conf").read_text() == "v: 7\n"
    env.reset(seed=1)
    del env  # never closed
    gc.collect()
    assert (tmp_path / "server.conf").read_text() == "v: 7\n"


def test_runs_at_once_need_files_of_their_own(tmp_path):
    command(tmp_path)
    text = (tmp_path / "my.toml").read_text()
    (tmp_path / "my.toml").write_text(text.replace('name = "my"', 'name = "my"\nparallel = true'))
    with pytest.raises(ConfigError, match="needs every .*file.* below .rundir."):
        open_target(str(tmp_path / "my.toml"), {})


def test_stopping_waits_for_the_users_command_that_a_run_had_begun(tmp_path, store):
    (tmp_path / "server.conf").write_text("v: 7\n")
    hook = '[hooks]\napply = ["sh", "-c", "echo begun >> log; sleep 1; echo through >> log"]\n'
    hook += 'rollback = ["sh", "-c", "echo back >> log"]\n'
    target = command(tmp_path, extra=hook)
    target.parallel_safe = True

    class Impatient(Watcher):
        def began(self, session, trial):
            if trial.step == 2:
                raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        how = {"target": target, "executor": pool, "workers": 2, "watcher": Impatient()}
        session = Session.create(Plan(target="my.toml", tuner="random", trust="fast"), "a", store, **how)
        with pytest.raises(KeyboardInterrupt):
            session.run(trials=4, verify=False)
    words = (tmp_path / "log").read_text().split()
    assert words[-1] == "back" and words.count("begun") == words.count("through")


# -- found by somebody who tried to lose files with it -----------------------------------------------------


def begun(folder, *words, cwd=None):
    """Start a command and return it once a candidate is in the file."""
    conf = folder / "server.conf"
    before = conf.read_bytes() if conf.exists() else None
    program = str(Path(sys.executable).with_name("tunewright"))
    run = subprocess.Popen(
        [program, *map(str, words)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while (conf.read_bytes() if conf.exists() else None) == before and time.monotonic() < end:
        time.sleep(0.02)
    return run


def test_checks_of_two_projects_do_not_take_each_other_for_dead(tmp_path, cli):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "server.conf").write_text(f"v: 7 # {name}\n")
        command(tmp_path / name)
    (tmp_path / "a" / "my.toml").write_text(
        (tmp_path / "a" / "my.toml").read_text().replace("sleep {pause}", "sleep 4")
    )
    first = begun(tmp_path / "a", "check", "my.toml", cwd=tmp_path / "a")
    cli("check", "my.toml", cwd=tmp_path / "b")
    said = first.communicate(timeout=60)
    assert first.returncode == 0, said
    for name in ("a", "b"):
        assert (tmp_path / name / "server.conf").read_text() == f"v: 7 # {name}\n"


@pytest.mark.slow
def test_rollback_takes_off_first_what_came_on_top(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    cli("tune", tmp_path / "my.toml", "--store", store, "--name", "w1", "-n", 4, "--trust", "fast", "--tuner", "random")
    cli("apply", "w1", "--store", store, "--force")
    killed_session(tmp_path, store, "w3")
    cli("rollback", "w1", "--store", store)
    assert conf.read_text() == "v: 7\n"
    cli("check", tmp_path / "my.toml")
    assert conf.read_text() == "v: 7\n"


def test_a_lock_that_names_an_older_journal_does_not_end_a_living_session(tmp_path, cli, store):
    """A session was killed, and goes on with another file: the old lock still names its journal."""
    (tmp_path / "a.conf").write_text("A\n")
    (tmp_path / "b.conf").write_text("B\n")
    target = command(tmp_path, file="a.conf")
    with holding(target.changes(), "session 'z'") as hold:
        journal = Journal("sqlite:////z.db", "z", "measure")
        hold.note(str(journal.path))
    other = command(tmp_path, name="other.toml", file="b.conf")
    owner = Owner(what="session 'z'", store="sqlite:////z.db", name="z", target="other.toml", options={})
    with changing(other, owner, print) as (hold, journal), restoring(other, owner, hold, journal, tmp_path / "w"):
        (tmp_path / "b.conf").write_text("v: 5\n")
        cli("check", tmp_path / "my.toml")
        assert journal.read() is not None
    assert (tmp_path / "b.conf").read_text() == "B\n"


def test_a_lock_cannot_have_an_applied_configuration_taken_back(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    target = command(tmp_path)
    owner = Owner(what="session 'a'", store=store, name="a", target=str(tmp_path / "my.toml"), options={})
    with changing(target, owner, print, kind="apply") as (hold, journal):
        journal.begin()
        journal.write(document(target, owner, target.undo(journal.folder), "applied"))
        conf.write_text("v: 5\n")
        hold.note(str(journal.path))
    cli("check", tmp_path / "my.toml")
    assert conf.read_text() == "v: 5\n"


def test_what_the_user_wrote_meanwhile_is_kept(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    killed_session(tmp_path, store, "first")
    conf.write_text("my edit\n")
    done = cli("rollback", "first", "--store", store)
    said = " ".join(done.stderr.split())
    assert "was changed by somebody else meanwhile; that version is kept as" in said
    (kept,) = (Path(os.environ["TUNEWRIGHT_HOME"]) / "kept").iterdir()
    assert (conf.read_text(), kept.read_text()) == ("v: 7\n", "my edit\n")


def test_a_file_that_the_user_wrote_where_there_was_none_stays(tmp_path):
    target, saved = command(tmp_path), tmp_path / "saved"
    saved.mkdir()
    state_before = target.snapshot(saved)
    target._write_files(target._names(target.space.default))
    target.restore(state_before)
    assert not (tmp_path / "server.conf").exists()
    (tmp_path / "server.conf").write_text("precious\n")
    with originals.noticing() as texts:
        target.restore(state_before)
    assert (tmp_path / "server.conf").read_text() == "precious\n"
    assert "is left as it is" in texts[0]


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_was_filled_in_is_told_from_what_somebody_wrote(value, line):
    template = f"{line}\nx = {{x}}\n[y] {{gone}}\nend"
    lines = [
        f
        for part in template.splitlines()
        if (f := fill(part, {"x": value.replace("\n", " "), "gone": None})) is not None
    ]
    data = ("\n".join(lines) + "\n").encode()
    if "\n" not in value and "\r" not in value and len(value.splitlines()) <= 1:
        assert originals._fills(template, data)
    assert not originals._fills(template, data + b"and more\n")


@pytest.mark.skipif(not ROOT, reason="needs another user")
def test_a_shared_file_of_another_owner_is_put_back(tmp_path):
    """As uid 65534 of a group that may write it: its owner alone may set times."""
    conf = tmp_path / "shared.conf"
    conf.write_text("v: 7\n")
    os.chown(conf, 0, 65534)
    conf.chmod(0o664)
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    saved = tmp_path / "saved"
    saved.mkdir()
    entry = originals.save(conf, saved, "0")
    saved.chmod(0o755)
    (saved / "0").chmod(0o644)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            originals.write(conf, b"candidate\n")
            originals.put_back(entry)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert conf.read_text() == "v: 7\n"


def test_files_come_back_without_the_description(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    killed_session(tmp_path, store, "first")
    (tmp_path / "my.toml").unlink()
    cli("rollback", "first", "--store", store)
    assert conf.read_text() == "v: 7\n"


def test_a_relative_directory_is_where_the_user_stands(tmp_path, cli):
    (tmp_path / "deep").mkdir()
    command(tmp_path / "deep", file="{workdir}/server.conf", extra="")
    text = (
        (tmp_path / "deep" / "my.toml").read_text().replace("cat {workdir}/server.conf", "cat '{workdir}/server.conf'")
    )
    (tmp_path / "deep" / "my.toml").write_text(text)
    cli("tune", "deep/my.toml", "--dir", "here", "-n", 2, "--trust", "fast", "--name", "a", cwd=tmp_path)
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"my.toml"}
    assert not (tmp_path / "here").exists()


def test_an_inode_that_another_file_has_by_now_names_nothing(tmp_path):
    target = command(tmp_path)
    (tmp_path / "server.conf").write_text("v: 7\n")
    owner = Owner(what="session 'a'", store="sqlite:////z.db", name="a", target="my.toml", options={})
    with holding(target.changes(), "session 'a'"):
        journal = Journal(owner.store, owner.name, "measure")
        journal.begin()
        journal.write(document(target, owner, target.snapshot(journal.folder), "measuring"))
    os.rename(tmp_path / "server.conf", tmp_path / "other.conf")  # the inode lives on under another name
    inode = next(k for k in file_keys(tmp_path / "other.conf") if k.startswith("inode"))
    with holding([inode], "killed") as hold:
        hold.note(str(journal.path))
    other = command(tmp_path, name="other.toml", file="other.conf")
    with changing(other, OWNER, print):
        assert journal.read() is not None and not (tmp_path / "server.conf").exists()


def test_a_session_that_was_killed_while_it_was_made_does_not_keep_its_name(store):
    import optuna

    store.optuna.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "a")  # all that there was time for
    with Session.create(Plan(target="t", tuner="random"), "a", store, target=Guarded()) as session:
        session.run(trials=2, verify=False)
    with pytest.raises(ConfigError, match="exists already"):
        Session.create(Plan(target="t", tuner="random"), "a", store, target=Guarded())
