"""A Redis that runs already, tuned by CONFIG SET: put back whatever happens, and nothing of the load left in it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes as started
import pytest

from tunewright.cli.sessions import reading
from tunewright.envs import service_process
from tunewright.envs.command import open_target
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan

RECIPE = Path(__file__).parents[1] / "envs" / "recipes" / "redis-live.toml"
NEEDS = [program for program in ("redis-server", "redis-cli", "redis-benchmark") if shutil.which(program) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(NEEDS), reason=f"needs {', '.join(NEEDS)}")]


@pytest.fixture
def redis(tmp_path):
    """A server of the user's: with hz 20, a key in database 0, and the recipe with its address and that default."""
    port = str(service_process.free_ports(1)[0])
    settings = ["--port", port, "--bind", "127.0.0.1", "--hz", "20", "--appendonly", "yes", "--dir", str(tmp_path)]
    server = subprocess.Popen(["redis-server", *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not service_process.answers_tcp("127.0.0.1", int(port)):
        time.sleep(0.02)
    text = (
        RECIPE.read_text().replace("6379", port).replace("-n 40000", "-n 500").replace("default = 10,", "default = 20,")
    )
    (tmp_path / "live.toml").write_text(text)

    def ask(*words):
        return subprocess.run(
            ["redis-cli", "-p", port, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    ask("set", "key:mine", "kept")
    yield ask
    server.kill()
    server.wait()


def untouched(ask):
    has = [ask("config", "get", name).splitlines()[-1] for name in ("hz", "appendfsync", "activerehashing")]
    assert has == ["20", "everysec", "yes"]
    return ask("-n", "15", "dbsize") == "0" and ask("get", "key:mine") == "kept"


def test_a_running_redis_is_tuned_and_is_as_before(redis, tmp_path, store, monkeypatch):
    seen = []
    path = str(tmp_path / "live.toml")
    told = open_target(path, {}).preflight(workload="default", workdir=tmp_path / "w")
    assert any("keys such as key:000000000042" in line for line in told.leaves) and not told.missing
    with Session.create(Plan(target=path, tuner="random", trust="fast"), "a", store) as session:
        session.run(trials=4, verify=False)
        seen = [t.config for t in session.decided if t.ok]
    assert len(seen) >= 3 and len({c["hz"] for c in seen}) > 1
    assert all(c["appendfsync"] != "no" and c["no-appendfsync-on-rewrite"] == "no" for c in seen), "durability is kept"
    assert untouched(redis)


def test_defaults_that_are_not_the_servers_change_nothing(redis, tmp_path, cli):
    path = tmp_path / "live.toml"
    path.write_text(path.read_text().replace("default = 20,", "default = 10,"))
    ran = cli("tune", path, "--trials", 2, code=1)
    assert (
        "make these the defaults, as the server has them: appendfsync everysec" in ran.stderr
        and " hz 20 " in ran.stderr
    )
    assert untouched(redis)


def test_a_database_in_use_is_not_written_into(redis, tmp_path, cli):
    redis("-n", "15", "set", "key:000000000001", "theirs")
    ran = cli("tune", tmp_path / "live.toml", "--trials", 2, code=1)
    assert "database 15 is in use: name another one" in ran.stderr
    assert redis("-n", "15", "get", "key:000000000001") == "theirs"


def test_kill_9_is_put_back_by_rollback(redis, tmp_path, cli):
    program = str(Path(sys.executable).with_name("tunewright"))
    words = ["tune", tmp_path / "live.toml", "--name", "a", "--trials", "200", "--tuner", "random", "--trust", "fast"]
    session = subprocess.Popen([program, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while redis("config", "get", "hz").split()[-1] == "20" and time.monotonic() < end:
        time.sleep(0.05)
    session.send_signal(signal.SIGKILL)
    session.wait()
    assert redis("config", "get", "hz").split()[-1] != "20"
    cli("rollback", "a")
    assert untouched(redis)
    assert started.ends(str(tmp_path / "live.toml"), within_s=10)
    assert os.environ["TUNEWRIGHT_HOME"] and not list(Path(os.environ["TUNEWRIGHT_HOME"]).rglob("before"))


def test_apply_sets_it_for_good_and_rollback_takes_it_back(redis, tmp_path, cli):
    path = str(tmp_path / "live.toml")
    with reading(None) as store, Session.create(Plan(target=path, tuner="random", trust="fast"), "a", store) as session:
        session.run(trials=3, verify=False)
        trial = next(t for t in session.decided if t.ok and t.config["hz"] != 20)
    cli("apply", "a", "--trial", trial.number)
    assert redis("config", "get", "hz").split()[-1] == str(trial.config["hz"])
    cli("rollback", "a")
    assert untouched(redis)
