"""Hooks, commands and signals: what outlives a session is waited for, what is another's is left alone."""

import gc
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from changing import command, python
from targets import Guarded, Misbehaving
from users_world import until

from tunewright.comparing import playing
from tunewright.envs.command import open_target
from tunewright.errors import ConfigError, HeldError, TargetError
from tunewright.measuring import hooks
from tunewright.measuring.interrupts import orderly, uninterrupted
from tunewright.measuring.runner import alive as runs
from tunewright.sessions.locks import holding
from tunewright.sessions.session import Session
from tunewright.sessions.watcher import Watcher
from tunewright.store.plan import Plan
from tunewright.store.store import Store

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


def test_what_a_daemon_prints_goes_to_a_file_that_has_a_name(tmp_path, monkeypatch):
    daemon = "(for i in $(seq 400); do echo chatter; sleep 0.05; done) & echo $! > pid; echo begun; exit 3"
    logs = lambda: sorted((tmp_path / "logs").iterdir())  # noqa: E731
    with hooks.noting(tmp_path, tmp_path / "logs" / "a"):
        assert hooks.run(["sh", "-c", "echo hello"]) == hooks.Done(code=0, output="hello\n")
        assert logs() == [], "nobody writes there any more"
        done = hooks.run(["sh", "-c", daemon], cwd=str(tmp_path))
        pid = int((tmp_path / "pid").read_text())
        try:
            [log] = logs()
            assert done.code == 3 and "begun" in done.output and done.log == str(log) and str(log) in done.where
            assert log.name.startswith("a.command-") and log.stat().st_mode & 0o777 == 0o600
            size = log.stat().st_size
            assert until(lambda: log.stat().st_size > size, 20)
            os.truncate(log, 0)
            assert until(lambda: log.read_bytes().startswith(b"chatter"), 20), "it may be emptied while it grows"
            monkeypatch.setattr(hooks, "_MOST_LOGS", 1)
            hooks.run(["true"])
            assert logs() == [log], "the log of a server that lives"
        finally:
            os.kill(pid, signal.SIGKILL)
        assert until(lambda: not hooks._in_use(log), 20)
        hooks.run(["true"])
        assert logs() == []


@pytest.mark.parametrize(("sign", "delay_s"), [("command", 0.0), ("command", 0.003), ("begun", 0.0), ("begun", 0.2)])
def test_the_next_one_waits_for_a_command_that_outlived_its_session(sign, delay_s, tmp_path):
    """At whatever moment the session is killed: the command is through afterwards, or never ran."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tunewright.measuring import hooks\n"
        "with hooks.noting(Path(sys.argv[1]), Path(sys.argv[1], 'log')):\n"
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
    outcome = {}

    def run():
        store = Store(f"sqlite:///{tmp_path / 'one.db'}")
        session = Session.create(Plan(target="t", tuner="random", trust="fast"), "one", store, target=Waiting(tmp_path))
        session.run(trials=1, verify=False)
        outcome["status"], outcome["reason"] = session.all[0].status, session.all[0].reason

    other = threading.Thread(target=run)
    other.start()
    assert until((tmp_path / "measuring").exists, 60)
    store = Store(f"sqlite:///{tmp_path / 'two.db'}")
    session = Session.create(Plan(target="t", tuner="random", trust="fast"), "two", store, target=Guarded())
    session.store.finish = None  # whatever goes wrong in a session
    with pytest.raises(TypeError):
        session.run(trials=2, verify=False)
    (tmp_path / "over").touch()
    other.join()
    assert outcome == {"status": "ok", "reason": ""}


class Waiting(Misbehaving):
    """Says that it measures, and goes on when it is told to."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def measure(self, config, *, workload, seed, budget):
        (self.folder / "measuring").touch()
        assert until((self.folder / "over").exists, 60)
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
