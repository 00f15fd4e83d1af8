"""Settings of the machine after kills, signals and restarts, and in service: always put back."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from machine_below import FILES, contents, machine, set_by_others, target
from processes import ends
from users_world import HEAD

from tunewright.envs.command import open_target as open_command
from tunewright.envs.machine import live
from tunewright.envs.machine.keys import read_keys
from tunewright.envs.machine.target import MachineTarget
from tunewright.errors import ConfigError
from tunewright.sessions.service import apply_session, rollback_session
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store

PLAN = Plan(target="felt", tuner="random", trust="fast")

# -- kills and restarts -----------------------------------------------------------------------------


def killed(folder, url, name="a", *, after=None, number=signal.SIGKILL):
    """Begin a session, end it by a signal while a candidate's values are set, and return its exit code."""
    root, program = machine(folder).root, Path(__file__).with_name("machine_below.py")
    run = subprocess.Popen([sys.executable, str(program), str(folder), url, name], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while run.poll() is None and time.monotonic() < end:
        if after is None and (root / "proc/sys/vm/dirty_ratio").read_text().strip() not in ("", "20"):
            break
        if after is not None and time.monotonic() > end - 60 + after:
            break
        time.sleep(0.005)
    run.send_signal(number)
    run.communicate()
    assert ends("tunewright.measuring.runner")
    return run.returncode


def killed_here(folder, url, name="a"):
    """Likewise in a copy of this process, which kills itself in its second trial: sooner than a new one starts."""
    pid = os.fork()
    if pid == 0:
        try:
            made = target(folder, isolated=False)
            made.inner.measure = partial(_last, made.inner.measure, folder)
            Session.create(PLAN, name, Store(url), target=made).run(trials=5)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and not as_before(folder)


def _last(measure, folder, *words, **how):
    if (folder / "root/proc/sys/vm/dirty_ratio").read_text().strip() != "20":
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(*words, **how)


def as_before(folder):
    now, below = contents(folder / "root"), machine(folder)
    return all(live.same(now[name], text) for name, text in FILES.items()) and below.boot() == "first-start"


def test_rollback_after_a_kill_in_the_middle_of_a_trial(tmp_path, store):
    killed_here(tmp_path, store.url)
    said = rollback_session(store, "a", spec=None)["message"]
    assert "put back" in said and as_before(tmp_path)
    with pytest.raises(ConfigError, match="nothing to roll back"):
        rollback_session(store, "a", spec=None)


@pytest.mark.slow
def test_rollback_after_kill_9_of_the_whole_session(tmp_path, store):
    assert killed(tmp_path, store.url) == -signal.SIGKILL
    assert not as_before(tmp_path), "it was killed before it had changed anything"
    rollback_session(store, "a", spec=None)
    assert as_before(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_session_with_everything_put_back(tmp_path, store, number):
    killed(tmp_path, store.url, number=number)
    assert as_before(tmp_path)


def test_the_default_is_what_the_machine_had_before_a_killed_session(tmp_path, store):
    killed_here(tmp_path, store.url)
    left = (tmp_path / "root/proc/sys/vm/dirty_ratio").read_text().strip()
    assert left != "20"
    made, told = target(tmp_path, isolated=False), []
    assert made.space.default["vm.dirty_ratio"] == 20
    assert any(f"vm.dirty_ratio is {left}, left by a session" in text for text in made.preflight(
        workload="only", workdir=tmp_path).notes)  # fmt: skip
    session = Session.create(PLAN, "next", store, target=made)
    session.watcher.told = lambda session, text: told.append(text)
    session.run(trials=1, verify=False)
    assert as_before(tmp_path) and any("session 'a' did not come to its end" in text for text in told)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixty_kills_at_any_moment(tmp_path, store):
    rng, changed = random.Random(5), 0
    target(tmp_path)
    Session.create(PLAN, "a", store, target=target(tmp_path)).run(trials=2, verify=False)
    for kill in range(60):
        pid = os.fork()
        if pid == 0:
            try:
                Session.resume("a", Store(store.url), target=target(tmp_path, pause=0.3, isolated=bool(kill % 3))).run(
                    trials=10_000, verify=False
                )
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.3, 3.0))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        changed += not as_before(tmp_path)
        if kill % 6 == 5:
            Session.resume("a", store, target=target(tmp_path)).run(trials=1, verify=False)
            assert as_before(tmp_path)
    assert changed > 10, "most kills must fall on a trial"
    assert ends("tunewright.measuring.runner")


@pytest.mark.parametrize("wish", [False, True])
def test_after_a_restart_of_the_machine_nothing_is_set_unasked(tmp_path, store, wish):
    killed_here(tmp_path, store.url)
    root = tmp_path / "root"
    set_by_others(root, "proc/sys/kernel/random/boot_id", "second-start")
    for name, text in FILES.items():
        if name.startswith("proc/sys/vm/"):
            set_by_others(root, name, text)  # as the boot makes them
    set_by_others(root, "proc/sys/vm/dirty_ratio", "30")  # but for one, whose file of sysctl.d was edited since
    set_by_others(root, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    set_by_others(root, "sys/block/vda/queue/read_ahead_kb", "128")
    set_by_others(root, "sys/fs/cgroup/db.slice/memory.high", "max")
    told = []
    rollback_session(store, "a", spec=None, say=told.append, after_reboot=wish)
    assert (root / "proc/sys/vm/dirty_ratio").read_text().strip() == ("20" if wish else "30")
    said = [text for text in told if "started anew" in text]
    assert len(said) == (0 if wish else 1)
    assert wish or said[0].endswith("to set it: sysctl -w vm.dirty_ratio=20")


# -- service ---------------------------------------------------------------------------------------


@pytest.fixture
def found(tmp_path, store, monkeypatch):
    """A session with a winner, whose target opens as the tests' machine."""
    made = target(tmp_path, "vm.dirty_ratio,thp,memory.high@/db.slice", isolated=False)
    monkeypatch.setattr("tunewright.sessions.service.reopen", lambda *words, **how: made)
    monkeypatch.setattr("tunewright.sessions.changes.reopen", lambda *words, **how: made)
    monkeypatch.setattr("tunewright.sessions.changes.installed", lambda group: {})
    Session.create(Plan(target="felt", tuner="random", trust="fast"), "a", store, target=made).run(trials=10)
    return made


def test_apply_sets_the_machine_and_makes_it_last_and_rollback_undoes_both(tmp_path, store, found):
    below, told = found.machine, []
    before = contents(below.root)
    done = apply_session(store, "a", to=None, spec=None, number=None, force=True, say=told.append)
    value = str(done["config"]["vm.dirty_ratio"])
    assert value != "20" and below.read("/proc/sys/vm/dirty_ratio") == value
    lasting = below.file("/etc/sysctl.d/99-tunewright-vm.dirty_ratio.conf")
    assert lasting.read_text().splitlines()[-1] == f"vm.dirty_ratio = {value}"
    assert f"sysctl -w vm.dirty_ratio={value}" in done["settings"]
    set_by_others(below.root, "proc/sys/kernel/random/boot_id", "second-start")  # the file sets it again at the start
    rollback_session(store, "a", spec=None, say=told.append)
    set_by_others(below.root, "proc/sys/kernel/random/boot_id", "first-start")
    assert not lasting.exists() and as_before(tmp_path)
    assert contents(below.root)["etc/sysctl.d/10-own.conf"] == before["etc/sysctl.d/10-own.conf"]


def test_a_restart_in_the_middle_of_apply_is_undone(tmp_path, store, found, monkeypatch):
    below, told = found.machine, []

    def cut(self, texts):
        value = below.file("/etc/sysctl.d/99-tunewright-vm.dirty_ratio.conf").read_text().split()[-1]
        set_by_others(below.root, "proc/sys/vm/dirty_ratio", value)  # the start reads the file
        set_by_others(below.root, "proc/sys/kernel/random/boot_id", "second-start")
        raise SystemExit(1)

    monkeypatch.setattr(live.Writer, "set", cut)
    with pytest.raises(SystemExit):
        apply_session(store, "a", to=None, spec=None, number=None, force=True, say=told.append)
    assert below.read("/proc/sys/vm/dirty_ratio") == "20"
    assert not any("somebody else" in text for text in told)


def test_a_program_with_nothing_to_apply_has_the_machine_applied_alone(tmp_path):
    (tmp_path / "app.toml").write_text(HEAD.replace("{run}", "true"))
    inner, below = open_command(str(tmp_path / "app.toml"), {}), machine(tmp_path)
    assert not inner.applies
    made = MachineTarget(inner, read_keys("vm.dirty_ratio", below), below)
    (tmp_path / "undo").mkdir()
    undo = made.undo(tmp_path / "undo")
    made.apply({**made.space.default, "vm.dirty_ratio": 30})
    assert below.read("/proc/sys/vm/dirty_ratio") == "30"
    made.rollback(undo)
    assert as_before(tmp_path)
