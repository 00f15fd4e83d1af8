"""Servers of a description: their life around each run, and every way in which it can go wrong."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import processes as started
import psutil
import pytest

from tunewright.cli import main
from tunewright.envs import service_process, service_waiting
from tunewright.envs.command import open_target
from tunewright.errors import ConfigError, TargetError
from tunewright.measuring.isolation import measure_once
from tunewright.plugins import open_target as open_named
from tunewright.sessions.service import check_target, rollback_session
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.target import Budget, Measurement
from tunewright.testing import check_target as check_contract

#: answers each connection with how it was configured; modes are faults
SERVER = """
import os, signal, socket, sys, time
port, conf, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def read(*_):
    global value
    value = open(conf).read().split()[-1] if conf != "-" else "0"
read()
print("starting", mode, flush=True)
if mode == "hang":
    time.sleep(600)
if mode == "exit":
    sys.exit("no such option: cache")
if mode == "daemon":
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    if len(sys.argv) > 4:
        open(sys.argv[4], "w").write(str(os.getpid()))
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, read)
server = socket.create_server(("127.0.0.1", port))
print("ready on", port, flush=True)
asked = 0
while True:
    peer, _ = server.accept()
    word = peer.recv(64).decode()
    if word:
        asked += 1
        if mode == "dies" and word.startswith("load"):
            print("out of cache", flush=True)
            os._exit(3)
        peer.sendall(f"value {value} pid {os.getpid()} asked {asked}".encode())
    peer.close()
"""
LOAD = """
import socket, sys, time
for _ in range(3):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as s:
        s.sendall(b"load")
        told = s.recv(200).decode()
if not told:
    time.sleep(60)
print(told, "rate:", 10 * int(told.split()[1]))
"""
BASE = """
[target]
name = "served"
limit = 60
[service]
start = ["{python}", "server.py", "{port}", "{rundir}/s.conf", "MODE"]
load = ["{python}", "load.py", "{port}"]
ready_limit = 20
MORE
[[file]]
path = "{rundir}/s.conf"
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
[[metric]]
name = "pid"
direction = "max"
regex = 'pid ([0-9]+)'
"""


@pytest.fixture
def toml(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "load.py").write_text(LOAD)

    def write(more="", mode="plain", text=BASE, **replace):
        text = text.replace("MORE", more).replace("MODE", mode).replace("{python}", sys.executable)
        for old, new in replace.items():
            text = text.replace(old, new)
        path = tmp_path / "served.toml"
        path.write_text(text)
        return path

    return write


def once(path, folder, *, isolated=False, **config):
    """Measure once; in this process, which is quicker, unless the run's own process tree matters."""
    target = open_target(str(path), {})
    how = {"workload": next(iter(target.workloads)), "seed": 1, "budget": Budget(workdir=folder, seconds=60)}
    config = target.space.fill(config)
    if isolated:
        return measure_once(target, config, **how)
    try:
        return target.measure(config, **how)
    except TargetError as error:
        return Measurement(status="failed", reason=str(error))


def servers():
    return started.of_this_test("server.py")


@pytest.mark.slow
def test_contract(toml):
    check_contract(open_target(str(toml()), {}), others=1)
    assert not servers()


def test_each_run_has_a_server_of_its_own_with_its_settings(toml, tmp_path):
    runs = [once(toml(), tmp_path, n=n) for n in (3, 4)]
    assert [run.values["rate"] for run in runs] == [30, 40]
    assert runs[0].values["pid"] != runs[1].values["pid"]
    assert not servers()


FAULTS = [
    ("hang", "ready_limit = 1", r"was not ready within 1 s \(asked: tcp 127.0.0.1:\d+\); its log ends: .*starting hang"),
    ("exit", "", r"server (exited with code 1|ended) before it was ready; its log ends: .*no such option: cache"),
    ("dies", "", r"server (exited with code 3|ended) while the load ran; its log ends: .*out of cache"),
    ("deaf", "stop_limit = 1", r"did not stop within 1 s and was killed"),
    ("plain", 'stop = ["sh", "-c", "echo cannot >&2; exit 5"]', r"stop command exited with code 5; it last said: cannot"),
    ("plain", 'ready = { line = "never" }', r"not ready within 1 s \(asked: a line like 'never'\); its log ends: .*ready on"),
    ("plain", 'warmup = ["sleep", "60"]\nwarmup_limit = 0.5', r"warmup command took more than 0.5 s"),
    ("plain", 'restore = ["sh", "-c", "echo no dump; exit 2"]', r"restore command exited with code 2; it last said: no dump"),
    ("plain", 'daemon = true\nstart_limit = 1', r"start command took more than 1 s"),
]  # fmt: skip


@pytest.mark.parametrize("keep", ["", pytest.param("keep = true", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("mode", "more", "words"), FAULTS)
def test_every_fault_is_a_failed_run_with_a_reason_and_leaves_nothing(mode, more, words, keep, toml, tmp_path):
    if keep and ("stop" in more or mode == "deaf"):
        pytest.skip("a kept server is stopped at the end only")
    more = f"{more}\n{keep}".replace("ready = {", "ready_limit = 1\nready = {")
    path = (
        toml(more, mode, ready_limit="ready_limit")
        if "ready_limit" not in more
        else toml(more, mode, text=BASE.replace("ready_limit = 20\n", ""))
    )
    found = once(path, tmp_path, isolated="exited with code 1|" in words or "exited with code 3|" in words)
    assert found.status == "failed" and re.search(words, found.reason), found.reason
    assert "\n" not in found.reason
    assert started.ends("server.py", within_s=5)


def test_a_load_that_takes_too_long_is_ended(toml, tmp_path):
    (tmp_path / "load.py").write_text("import time; time.sleep(60)")
    found = once(toml("load_limit = 0.5"), tmp_path)
    assert "the load took more than 0.5 s" in found.reason
    assert not servers()


@pytest.mark.parametrize("says", ["", "print('Connection refused', flush=True)"])
def test_a_load_that_never_reaches_the_server_is_ended_with_what_to_look_at(says, toml, tmp_path, monkeypatch):
    monkeypatch.setattr(service_waiting, "LOOK_AFTER_S", 0.2)
    monkeypatch.setattr(service_waiting, "LOST_AFTER_S", 0.6)
    monkeypatch.setattr(service_waiting, "REFUSED_AFTER_S", 0.6)
    (tmp_path / "load.py").write_text(f"import time; {says or 'pass'}; time.sleep(60)")
    found = once(toml(), tmp_path)
    assert found.status == "rejected", "it is not tried again"
    assert re.search(r"no connection to the server \(port \d+\) for \d+ s", found.reason), found.reason
    assert ("last said: Connection refused" if says else "has printed nothing") in found.reason
    assert "is the address in 'load' of [service] the server's?" in found.reason and "load_limit" in found.reason
    assert not servers()


def test_a_load_that_is_known_to_begin_late_is_left_alone(toml, tmp_path, monkeypatch):
    monkeypatch.setattr(service_waiting, "LOOK_AFTER_S", 0.1)
    monkeypatch.setattr(service_waiting, "LOST_AFTER_S", 0.2)
    (tmp_path / "load.py").write_text("import time; time.sleep(0.5)\n" + LOAD)
    found = once(toml("load_limit = 60"), tmp_path)
    assert found.ok, found.reason


def test_a_load_that_was_connected_or_prints_is_at_work(monkeypatch):
    monkeypatch.setattr(service_waiting, "LOOK_AFTER_S", 0.0)
    monkeypatch.setattr(service_waiting, "LOST_AFTER_S", 0.0)
    me = service_process.process(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent, prints, connected = (
            service_waiting.Waiting(me, (), lambda text=text: text) for text in ("", "filling 3 of 8", "")
        )
        assert silent.lost() and not prints.lost() and "last said: filling 3" in prints.words()
        socket.create_connection(server.getsockname()).close()  # short, and seen all the same
        assert not connected.lost() and connected.words() == ""
    nothing = service_waiting.Waiting(None, (), lambda: "")
    assert not nothing.lost() and nothing.words() == "", "where the server listens is not known"


def test_what_a_load_waits_for_can_be_asked_while_it_does(toml, tmp_path, monkeypatch):
    monkeypatch.setattr(service_waiting, "LOOK_AFTER_S", 0.2)
    (tmp_path / "load.py").write_text("import time; time.sleep(1.5)")
    path, heard = toml("load_limit = 1"), []
    target = open_target(str(path), {})
    over = threading.Event()

    def ask():
        while not over.wait(0.05):
            heard.append(target.waiting(tmp_path))

    asking = threading.Thread(target=ask)
    asking.start()
    found = once(path, tmp_path)
    over.set()
    asking.join()
    assert any("the load has had no connection to the server (port" in words for words in heard)
    assert "took more than 1 s and was ended; the load has had no connection" in found.reason
    assert target.waiting(tmp_path) == ""


def test_sockets_tell_who_is_connected(tmp_path):
    me = service_process.process(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "s"))
        local.listen()
        where = service_waiting.listening(me)
        assert server.getsockname()[1] in where.ports and str(tmp_path / "s") in where.paths and where.sure
        before = service_waiting.connections(where)
        with socket.create_connection(server.getsockname()):
            assert len(service_waiting.connections(where) - before) == 2  # both ends
        before = service_waiting.connections(where)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(tmp_path / "s"))
            assert service_waiting.connections(where) - before
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            assert not service_waiting.listening(me).sure, "a load may use this instead"
    assert service_waiting.listening(None, [7]).ports == {7} and not service_waiting.listening(None, [7]).sure


def test_a_server_that_goes_into_the_background_unasked_is_explained_and_ended(toml, tmp_path):
    found = once(toml(mode="daemon"), tmp_path)
    assert re.search(r"went into the background, where \S+ \(process \d+\) goes on", found.reason), found.reason
    assert "say 'daemon = true' in [service]" in found.reason and "daemon off" in found.reason
    assert started.ends("server.py", within_s=5)


def test_a_taken_port_is_named_with_who_has_it(toml, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        path = toml(f'ready = {{ tcp = "127.0.0.1:{port}" }}', text=BASE.replace('"{port}"', f'"{port}"'))
        found = once(path, tmp_path)
        assert f"port {port} is taken already, by" in found.reason and f"process {os.getpid()}" in found.reason
        target = open_target(str(path), {})
        missing = target.preflight(workload="default", workdir=tmp_path / "none").missing
        assert any(f"ort {port} is taken" in line for line in missing)
        assert not (tmp_path / "none").exists()
        assert socket.create_connection(("127.0.0.1", port)).close() is None  # it was left alone


@pytest.mark.parametrize("keep", ["", "keep = true"])
@pytest.mark.parametrize("pid_file", [True, False])
def test_a_server_that_puts_itself_into_the_background(keep, pid_file, toml, tmp_path):
    more = 'pid_file = "{rundir}/s.pid"' if pid_file else "daemon = true"
    text = BASE.replace('"MODE"]', '"MODE", "{rundir}/s.pid"]' if pid_file else '"MODE"]')
    found = once(toml(f"{more}\n{keep}", "daemon", text), tmp_path, n=5)
    assert found.values["rate"] == 50
    if keep:
        assert [p.pid for p in servers()] == [found.values["pid"]]
        stop_all(toml, tmp_path)
    assert started.ends("server.py", within_s=5)


def stop_all(toml, folder):
    """End what is kept, as the end of a session does."""
    target = open_target(str(folder / "served.toml"), {})
    target.restore({"files": [], "toml": os.path.realpath(folder / "served.toml"), "workdir": str(folder)})
    target.cleanup(folder)


def test_a_kept_server_is_restarted_only_where_it_must_be(toml, tmp_path):
    more = """[[parameter]]
name = "m"
low = 1
high = 9
default = 1
restart = true
[[parameter]]"""
    text = BASE.replace("[[parameter]]", more, 1).replace('"value {n}"', '"m {m} value {n}"')
    path = toml('keep = true\nreload = "SIGHUP"', text=text)
    (tmp_path / "load.py").write_text(LOAD + "\n")
    first, same, reloaded = (once(path, tmp_path, n=n) for n in (2, 2, 7))
    restarted = once(path, tmp_path, n=7, m=2)
    assert first.values["pid"] == same.values["pid"] == reloaded.values["pid"] != restarted.values["pid"]
    assert reloaded.values["rate"] == 70
    assert len(servers()) == 1
    stop_all(toml, tmp_path)
    assert not servers() and not (tmp_path / "tunewright-runs").exists()


def test_a_kept_server_without_a_reload_is_restarted_for_each_change(toml, tmp_path):
    path = toml("keep = true")
    first, same, other = (once(path, tmp_path, n=n) for n in (2, 2, 3))
    assert first.values["pid"] == same.values["pid"] != other.values["pid"]
    assert other.values["rate"] == 30
    stop_all(toml, tmp_path)
    assert not servers()


def test_a_kept_server_whose_run_failed_or_was_killed_is_not_used_again(toml, tmp_path):
    path = toml("keep = true")
    first = once(path, tmp_path)
    (tmp_path / "load.py").write_text("import sys; sys.exit(7)")
    assert "exited with code 7" in once(path, tmp_path).reason
    assert not servers()
    (tmp_path / "load.py").write_text("import time; time.sleep(60)")
    target = open_target(str(path), {})
    late = measure_once(
        target, target.space.default, workload="default", seed=1, budget=Budget(workdir=tmp_path, seconds=3)
    )
    assert late.status == "timed out" and len(servers()) == 1
    (tmp_path / "load.py").write_text(LOAD)
    again = once(path, tmp_path)
    assert again.ok and again.values["pid"] not in (first.values["pid"], None)
    assert len(servers()) == 1
    stop_all(toml, tmp_path)


@pytest.mark.parametrize(
    "ready", ['{ http = "http://127.0.0.1:{port}/" }', '{ line = "^ready on" }', '["true"]', '{ command = ["true"] }']
)
def test_ways_to_be_ready(ready, toml, tmp_path):
    if "http" in ready:
        (tmp_path / "server.py").write_text(
            SERVER.replace(
                'peer.sendall(f"',
                "peer.sendall((\"HTTP/1.0 404 No\\r\\n\\r\\n\" if word[0] == 'G' else '').encode() + f\"",
            )
        )
    if "true" in ready:
        (tmp_path / "load.py").write_text("import time; time.sleep(1)\n" + LOAD)
    assert once(toml(f"ready = {ready}"), tmp_path).values["rate"] == 20


def test_data_are_prepared_once_and_fresh_in_each_run(toml, tmp_path, store):
    more = """
prepare = ["sh", "-c", "echo prepared >> count; mkdir {rundir}/data; echo 1 > {rundir}/data/rows"]
fill = ["sh", "-c", "echo 2 >> {rundir}/data/rows; echo filled >> count"]
data = "{rundir}/data"
warmup = ["sh", "-c", "cat {rundir}/data/rows | tr '\\\\n' ' ' >> seen; echo 3 >> {rundir}/data/rows"]
"""
    with Session.create(Plan(target=str(toml(more)), tuner="random", trust="fast"), "a", store) as session:
        session.run(trials=2, verify=False)
    assert (tmp_path / "count").read_text().split() == ["prepared", "filled"]
    assert set((tmp_path / "seen").read_text().split()) == {"1", "2"}
    assert not servers()
    work = Path(os.environ["TUNEWRIGHT_HOME"], "work")
    assert not work.exists() or not list(work.iterdir())


def test_the_default_that_cannot_be_measured_is_a_clear_error(toml):
    with pytest.raises(TargetError, match="default configuration cannot be measured.*no such option: cache"):
        check_target(open_target(str(toml(mode="exit")), {}), workload="", runs=2, limit_s=60)
    assert not servers()


def tunewright(*words, **how):
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("tunewright")), *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["", "keep = true"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_orderly_end_leaves_no_server(number, keep, toml, store, tmp_path):
    path = toml(keep)
    (tmp_path / "load.py").write_text("import time; time.sleep(0.3)\n" + LOAD)
    session = tunewright("tune", path, "--store", store.url, "--name", "a", "-n", "200", "--tuner", "random")
    assert started.appears("server.py")
    time.sleep(0.5)
    session.send_signal(number)
    session.communicate(timeout=60)
    assert started.ends("server.py", within_s=10)


@pytest.mark.parametrize(
    ("keep", "mode"),
    [
        ("keep = true", "plain"),
        *(pytest.param(k, m, marks=pytest.mark.slow) for k, m in [("", "plain"), ("", "daemon"), ("keep = true", "daemon")]),
    ],
)  # fmt: skip
def test_kill_9_leaves_no_server_after_rollback(mode, keep, toml, store, tmp_path):
    path = toml(f"{keep}\n{'daemon = true' if mode == 'daemon' else ''}", mode)
    (tmp_path / "load.py").write_text("import time; time.sleep(0.3)\n" + LOAD)
    bystander = subprocess.Popen(
        [sys.executable, "server.py", "0", "-", "plain"], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    session = tunewright("tune", path, "--store", store.url, "--name", "a", "-n", "200", "--tuner", "random")
    try:
        assert started.appears("s.conf")
        time.sleep(0.4)
        session.kill()
        session.communicate()
        if not keep:
            assert started.ends("s.conf", within_s=10)  # it lived in the tree of the measuring process
        elif started.of_this_test("s.conf"):
            assert "put back" in rollback_session(store, "a", spec=None)["message"]
        assert started.ends("s.conf", within_s=10)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.slow
def test_a_kept_server_of_a_killed_session_is_ended_by_the_next_one(toml, store, tmp_path):
    path = toml('keep = true\nreload = "HUP"')
    (tmp_path / "load.py").write_text("import time; time.sleep(0.3)\n" + LOAD)
    session = tunewright("tune", path, "--store", store.url, "--name", "a", "-n", "200", "--tuner", "random")
    assert started.appears("server.py")
    time.sleep(1)
    session.kill()
    session.communicate()
    assert len(servers()) == 1
    said = []
    check_target(open_target(str(path), {}), spec=str(path), workload="", runs=2, limit_s=60, say=said.append)
    assert any("put back" in line for line in said)
    assert not servers()


@pytest.mark.slow
def test_a_server_of_the_users_that_hooks_restart_comes_back(toml, tmp_path, store):
    port = service_process.free_ports(1)[0]
    (tmp_path / "my.conf").write_text("value 4\n")
    restart = (
        f'["sh", "-c", "if [ -f my.pid ]; then kill $(cat my.pid); while kill -0 $(cat my.pid) 2>/dev/null; do sleep 0.02; done; fi; '
        f'{sys.executable} server.py {port} my.conf daemon my.pid"]'
    )
    subprocess.run([sys.executable, "server.py", str(port), "my.conf", "daemon", "my.pid"], cwd=tmp_path, check=True)
    path = tmp_path / "served.toml"
    path.write_text(f"""
[target]
name = "mine"
[service]
load = ["{sys.executable}", "load.py", "{port}"]
ready = {{ tcp = "127.0.0.1:{port}" }}
[hooks]
apply = {restart}
rollback = {restart}
[[file]]
path = "my.conf"
content = "value {{n}}"
[[parameter]]
name = "n"
low = 1
high = 9
default = 2
[[metric]]
name = "rate"
direction = "max"
regex = 'rate: ([0-9.]+)'
""")
    try:
        assert open_target(str(path), {}).live
        with Session.create(Plan(target=str(path), tuner="grid", trust="fast"), "a", store) as session:
            session.run(trials=3, verify=False)
        assert session.best.config["n"] > 2
        assert (tmp_path / "my.conf").read_text() == "value 4\n"
        told = subprocess.run([sys.executable, "load.py", str(port)], cwd=tmp_path, capture_output=True, text=True)
        assert "value 4" in told.stdout
    finally:
        for process in servers():
            process.kill()


def test_hooks_for_service_are_not_those_of_trials(toml, tmp_path, store, cli):
    text = (
        BASE
        + """
[[file]]
path = "live.conf"
content = "value {n}"
use = "service"
[hooks]
apply = ["sh", "-c", "echo apply {n} >> trials"]
service_apply = ["sh", "-c", "echo apply $(cat live.conf) >> service"]
service_rollback = ["sh", "-c", "echo rollback $(cat live.conf) >> service"]
"""
    )
    (tmp_path / "live.conf").write_text("value 1\n")
    path = toml(text=text)
    with Session.create(Plan(target=str(path), tuner="grid", trust="fast"), "a", store) as session:
        session.run(trials=2, verify=False)
    assert (tmp_path / "live.conf").read_text() == "value 1\n" and not (tmp_path / "service").exists()
    best = session.best
    cli("apply", "a", "--store", store.url, "--trial", best.number)
    assert (tmp_path / "live.conf").read_text() == f"value {best.config['n']}\n"
    cli("rollback", "a", "--store", store.url)
    assert (tmp_path / "live.conf").read_text() == "value 1\n"
    assert (tmp_path / "service").read_text().splitlines() == [f"apply value {best.config['n']}", "rollback value 1"]
    assert not servers()


METRICS_SERVER = """
import http.server, sys
hits = 0
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global hits
        hits += self.path == "/"
        body = f'# TYPE hits counter\\nhits{{code="200",to="a"}} {hits}\\nhits{{code="500"}} 9\\n'
        if self.path == "/json":
            body = '{"cache": {"hits": %d}}' % hits
        self.send_response(200); self.end_headers(); self.wfile.write(body.encode())
    def log_message(self, *_):
        print("took", hits, "ms", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def test_metrics_from_a_url_and_a_log(toml, tmp_path):
    (tmp_path / "server.py").write_text(METRICS_SERVER)
    (tmp_path / "load.py").write_text(
        "import sys, urllib.request\nfor _ in range(4): urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[1]}/').read()\nprint('rate: 1 pid 1')"
    )
    url = 'url = "http://127.0.0.1:{port}/metrics"'
    text = (
        BASE
        + f"""
[[metric]]
name = "answered"
direction = "max"
{url}
prometheus = 'hits{{code="200"}}'
change = true
[[metric]]
name = "per_second"
direction = "max"
{url}
prometheus = "hits"
per_second = true
[[metric]]
name = "cached"
direction = "max"
url = "http://127.0.0.1:{{port}}/json"
json = "cache.hits"
[[metric]]
name = "slowest"
direction = "min"
log = "service"
regex = 'took (\\d+) ms'
take = "max"
"""
    )
    warm = 'warmup = ["{python}", "load.py", "{port}"]'
    found = once(toml(warm, text=text), tmp_path)
    assert found.ok, found.reason
    assert found.values["answered"] == 4 and found.values["cached"] == 8 and found.values["slowest"] == 8
    assert 0 < found.values["per_second"] < 400


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("strat = 1", "no key named 'strat'. Did you mean 'start'"),
        ("daemon = true\nready = ['true']", "needs pid_file, or ready with tcp or unix"),
        ('ready = { tcp = "6379" }', "write HOST:PORT"),
        ('ready = { http = "localhost" }', "write http://HOST:PORT/PATH"),
        ('ready = { unix = "a", tcp = "b:1" }', "exactly one of"),
        ('ready = { line = "(" }', "the line '\\(' is wrong"),
        ('stop = "SIGNUL"', "no signal named 'SIGNUL'"),
        ('reload = "SIGHUP"', "say keep = true"),
        ("ready_limit = 0", "above 0"),
        ('restart_for = ["m"]', "no parameter named 'm'"),
        ('restart_for = "some"', "a list of parameters, or 'all'"),
        ('data = "/var/lib/x"', "below {rundir}"),
        ('warmup = ["ask", "{ports}"]', "no placeholder named 'ports'"),
        ('tool = "wrkk"', "no load named 'wrkk'. Did you mean 'wrk'"),
        ('arguments = ["-c", "2"]', "defaults of a tool"),
    ],
)  # fmt: skip
def test_every_mistake_in_a_service_is_explained(more, words, toml):
    text = BASE.replace("ready_limit = 20\n", "") if "ready_limit" in more else BASE
    with pytest.raises((ConfigError, Exception), match=words) as caught:
        open_target(str(toml(more, text=text)), {})
    assert "\n" not in str(caught.value)


def test_a_server_without_an_address_must_say_when_it_is_ready(toml):
    text = BASE.replace('"{port}", ', "")
    with pytest.raises(ConfigError, match="'ready' is missing"):
        open_target(str(toml(text=text)), {})


def test_old_placeholder_names_are_free_without_a_service(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("""
[target]
command = ["echo", "v: {port}"]
[[parameter]]
name = "port"
type = "int"
low = 1
high = 9
default = 2
[[metric]]
name = "v"
direction = "max"
regex = 'v: (\\d+)'
""")
    assert once(path, tmp_path, port=4).values == {"v": 4}


def test_a_process_is_known_by_its_start(tmp_path):
    child = subprocess.Popen(["sleep", "60"])
    one = service_process.process(child.pid)
    another = service_process.Process(pid=child.pid, started=one.started - 5)
    assert one.alive and not another.alive
    another.send(signal.SIGKILL)
    service_process.end([another])
    assert child.poll() is None and service_process.family(another) == []
    assert psutil.Process(child.pid).is_running()
    service_process.end([one])
    assert child.wait() in (-signal.SIGTERM, 0)  # whoever asked first was told how it ended


def test_a_socket_path_that_no_socket_may_have_is_said_at_once(toml, tmp_path):
    found = once(toml(f'ready = {{ unix = "{{rundir}}/{"x" * 100}" }}'), tmp_path)
    assert "longer than the 107 bytes" in found.reason


def test_preflight_says_what_a_session_does(toml, tmp_path):
    extra = '\n[hooks]\napply = ["echo", "{n}"]\n'
    told = open_target(str(toml("keep = true", text=BASE + extra)), {}).preflight(
        workload="default", workdir=tmp_path / "work"
    )
    assert any("is kept between runs" in line for line in told.restarts) and not told.missing
    assert any("The apply command" in line for line in told.changes)
    assert not (tmp_path / "work").exists()
    (tmp_path / "my.conf").write_text("1")
    own = BASE + '\n[[file]]\npath = "my.conf"\ncontent = "{n}"\n'
    told = open_target(str(toml(text=own)), {}).preflight(workload="default", workdir=tmp_path / "work")
    assert any("my.conf is written" in line for line in told.changes)
    assert (tmp_path / "my.conf").read_text() == "1"


def test_state_is_json_and_folders_of_runs_go(toml, tmp_path):
    path = toml("keep = true")
    once(path, tmp_path)
    [folder] = (tmp_path / "tunewright-runs").glob("run-*")
    state = json.loads((folder / ".server.json").read_text())
    assert state["config"] == {"n": 2} and state["busy"] is False
    stop_all(toml, tmp_path)
    assert not folder.exists()


# -- Debian's servers -------------------------------------------------------------------------------

RECIPES = sorted((Path(__file__).parents[1] / "envs" / "recipes").glob("*.toml"))
NEEDS = {
    "redis": ("redis-server", "redis-benchmark"), "nginx": ("nginx", "wrk"), "mariadb": ("mariadbd", "sysbench"),
    "memcached": ("memcached", "memcaslap"), "haproxy": ("haproxy", "nginx", "wrk"), "jvm": ("java", "javac", "wrk"),
}  # fmt: skip


def test_recipes_are_listed_opened_by_name_and_copied(tmp_path, capsys):
    assert main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == sorted(path.stem for path in RECIPES) and all(row["needs"] for row in rows)
    for row in rows:
        assert set(row["parameters"]) and open_named(f"recipe:{row['name']}").name == row["name"]
    copied = tmp_path / "mine.toml"
    assert main(["recipes", "copy", "gcc", str(copied)]) == 0 and copied.read_text() == RECIPES[0].read_text()
    assert main(["recipes", "copy", "gcc", str(copied)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["recipes", "copy", "gc"]) == 1 and "Did you mean 'gcc'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.slow
def test_the_recipe_of_flags_checks_the_result(store):
    with Session.create(
        Plan(target="recipe:gcc", tuner="random", trust="fast", allow=("accuracy",)), "a", store
    ) as session:
        session.run(trials=6, verify=False)
    assert session.default_trial.status == "ok" and sum(t.ok for t in session.decided) >= 3


@pytest.mark.parametrize("name", NEEDS)
def test_a_recipe_is_short(name):
    [path] = [r for r in RECIPES if r.stem == name]
    before = path.read_text().partition("[parameters]")[0]
    lines = [line for line in before.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= {"redis": 20, "memcached": 20, "mariadb": 25, "nginx": 28}.get(name, 40)
    assert tomllib.loads(path.read_text())["parameters"]


def serving(programs):
    """Return the processes of programs that may be this test's: some servers overwrite their environment."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            home = process.environ().get("TUNEWRIGHT_HOME") or os.environ["TUNEWRIGHT_HOME"]
            if process.name() in programs and home == os.environ["TUNEWRIGHT_HOME"]:
                found.add(process.pid)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_a_recipe_works_with_debians_package(name, tmp_path, store):
    for program in NEEDS[name]:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}, from Debian's packages {' and '.join(NEEDS[name])}")
    text = next(r for r in RECIPES if r.stem == name).read_text()
    quick = {'"40000"': '"2000"', "--table-size=50000": "--table-size=500", "--events=4000": "--events=200",
             "-x 200000": "-x 5000", "-d 3s": "-d 1s"}  # fmt: skip
    for old, new in quick.items():
        text = text.replace(old, new)
    (tmp_path / f"{name}.toml").write_text(text)
    before = serving(NEEDS[name])
    plan = Plan(target=str(tmp_path / f"{name}.toml"), tuner="random", trust="fast")
    with Session.create(plan, "a", store) as session:
        session.run(trials=2, verify=False)
        default = session.default_trial
    assert default.status == "ok" and next(iter(default.metrics.values())) > 0, default.reason
    assert serving(NEEDS[name]) <= before


HUNGRY = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
kept = []
while True:
    peer, _ = server.accept()
    if (asked := peer.recv(64)):
        kept.append(b"x" * (2**20 * int(asked)))
        peer.sendall(b"done")
    peer.close()
"""


def test_the_memory_of_a_kept_server_counts(toml, tmp_path):
    (tmp_path / "server.py").write_text(HUNGRY)
    (tmp_path / "load.py").write_text(
        "import socket, sys, time\ns = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "s.sendall(sys.argv[2].encode()); s.recv(9); time.sleep(float(sys.argv[3])); print('rate: 1 pid 1')"
    )
    text = BASE.replace('"load.py", "{port}"]', '"load.py", "{port}", "{n}00", "{n}"]').replace(
        "limit = 60", "memory_mb = 300"
    )
    path = toml('keep = true\nreload = "CONT"', text=text)
    target = open_target(str(path), {})
    limits = Budget(workdir=tmp_path, seconds=30, memory_bytes=target.memory_bytes)
    small, large = (
        measure_once(target, target.space.fill({"n": n}), workload="default", seed=1, budget=limits) for n in (1, 4)
    )
    assert small.ok, small.reason
    assert (large.status, bool(re.search("of memory, limit 0.29 GiB", large.reason))) == ("killed", True)
    assert started.ends("server.py", within_s=5)
    stop_all(toml, tmp_path)
