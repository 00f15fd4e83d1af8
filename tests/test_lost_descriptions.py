"""A session was killed and its description broken or removed since: all is put back by what was written down."""

import os
import signal
import sys

import processes
import pytest

from tunewright.envs.command import open_target
from tunewright.errors import TunewrightError
from tunewright.sessions.service import rollback_session
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store

SERVER = """
import signal, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def stop(*_):
    open("stopped", "w").close()
    sys.exit(0)
signal.signal(signal.SIGUSR1, stop)
while True:
    server.accept()[0].close()
"""
PARTS = """
[[file]]
path = "own.conf"
content = "value {n}"
[[parameter]]
name = "n"
type = "int"
low = 1
high = 9
default = 2
[[metric]]
name = "rate"
direction = "max"
regex = 'rate: ([0-9.]+)'
"""
KEPT = f"""
[target]
name = "kept"
[service]
start = ["{sys.executable}", "lost_server.py", "{{port}}"]
keep = true
stop = "SIGUSR1"
load = ["echo", "rate: 1"]
{PARTS}"""
HOOKS = f"""
[target]
name = "hooks"
command = ["echo", "rate: 1"]
env = {{ WHO = "me" }}
[hooks]
rollback = ["sh", "-c", "echo $WHO $(cat own.conf) {{n}} {{workdir}} >> ran"]
{PARTS}"""


def killed(path, store):
    """Kill a session with its candidate's file in place."""
    pid = os.fork()
    if pid == 0:
        try:
            target = open_target(str(path), {})
            target.isolated = False
            session = Session.create(
                Plan(target=str(path), tuner="random", trust="fast"), "a", Store(store.url), target=target
            )
            session.watcher.ended = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            session.run(trials=3)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert (path.parent / "own.conf").read_text() == "value 2\n"


def remove(path):
    path.unlink()


def break_it(path):
    path.write_text("[target\n")


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lost_server.py").write_text(SERVER)
    (tmp_path / "own.conf").write_text("mine\n")
    return tmp_path


@pytest.mark.parametrize("spoil", [remove, break_it, replace_by_a_folder])
def test_hooks_and_files(world, store, spoil):
    path = world / "hooks.toml"
    path.write_text(HOOKS)
    killed(path, store)
    spoil(path)
    told = []
    assert "put back" in rollback_session(store, "a", spec=None, say=told.append)["message"]
    assert (world / "own.conf").read_text() == "mine\n"
    (ran,) = (world / "ran").read_text().splitlines()
    assert ran.startswith("me mine 2 /") and "{" not in ran
    assert any("written down" in text and "hooks.toml" in text for text in told)
    with pytest.raises(TunewrightError, match="nothing to roll back"):
        rollback_session(store, "a", spec=None)


def test_a_kept_server_is_stopped_as_the_description_said(world, store):
    path = world / "kept.toml"
    path.write_text(KEPT)
    killed(path, store)
    assert processes.of_this_test("lost_server.py")
    path.unlink()
    rollback_session(store, "a", spec=None)
    assert (world / "own.conf").read_text() == "mine\n"
    assert processes.ends("lost_server.py", within_s=5) and (world / "stopped").exists()


def test_a_description_that_can_be_read_is_taken_as_it_is_now(world, store):
    path = world / "hooks.toml"
    path.write_text(HOOKS.replace("echo $WHO", "exit 3; echo"))
    killed(path, store)
    with pytest.raises(TunewrightError, match="rollback command exited with code 3"):
        rollback_session(store, "a", spec=None)
    path.write_text(HOOKS)  # the user mended it
    rollback_session(store, "a", spec=None)
    assert (world / "ran").read_text().startswith("me mine 2")
