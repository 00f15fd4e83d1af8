"""What belongs to the user: written down before it is changed, and put back by whoever comes next."""

import os
import signal

import pytest
from changing import HOLDER, ROOT, begun, command, killed_session, python
from targets import Guarded

from tunewright.comparing import playing
from tunewright.envs.command import open_target
from tunewright.errors import ConfigError, HeldError, StoreError, TargetError
from tunewright.sessions import workfolder
from tunewright.sessions.changes import Journal, Owner, changing, document, restoring
from tunewright.sessions.locks import holding
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan


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


def test_a_session_that_was_killed_while_it_was_made_does_not_keep_its_name(store):
    import optuna

    store.optuna.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "a")  # all that there was time for
    with Session.create(Plan(target="t", tuner="random"), "a", store, target=Guarded()) as session:
        session.run(trials=2, verify=False)
    with pytest.raises(ConfigError, match="exists already"):
        Session.create(Plan(target="t", tuner="random"), "a", store, target=Guarded())
