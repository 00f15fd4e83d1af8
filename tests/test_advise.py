"""``advise``: rules with reasons and sources, from facts of the machine and what is set now."""

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import ConfigError, TargetError, TunewrightError
from tunewright.knowledge.advice import servers
from tunewright.knowledge.advice.advising import LOADS, SYSTEMS, advise, alike, amount, rules, spelled
from tunewright.knowledge.advice.servers import Server, configured, lines_of, version_number
from tunewright.knowledge.advice.written import changed, written
from tunewright.space.expressions import parse

FACTS = {
    "RAM_BYTES": 64 * 2**30, "CPU_COUNT": 16, "ROTATIONAL": 0, "CLIENTS": 40, "VERSION": 15.0, "FRAGMENTATION": 1.0,
}  # fmt: skip


def values(system, load="oltp", now=(), **facts):
    return {s.name: s.value for s in advise(system, {**FACTS, **facts}, load, dict(now)).new}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_rule_has_a_reason_a_source_and_an_expression_of_known_facts(system):
    known = {*FACTS, "OLTP", "ANALYTICS", "CACHE", "APPENDONLY", "CONNECTIONS", "HASH_MEM"}
    book = rules(system)
    for rule in (*book["setting"], *book["never"], *book.get("kernel", ())):
        assert rule["because"] and re.match(r"[\w-]+[\w/#.-]*$|https://", rule["source"]), rule
        for key in ("value", "when", "forking", *LOADS):
            if key in rule and rule in book["setting"]:
                assert set(parse(rule[key]).names) <= known, rule
    for load in LOADS:
        for ram in (2**28, 2**32, 2**41):
            for entry in advise(system, {**FACTS, "RAM_BYTES": ram}, load, {}).settings:
                assert entry.value and not entry.value.startswith(("-", "0M", "0k", "0m")), entry
                assert entry.source.startswith("https://") and ".." not in entry.source


def test_postgres_on_a_known_machine():
    told = values("postgres")
    assert (told["shared_buffers"], told["effective_cache_size"], told["max_wal_size"]) == ("16GB", "48GB", "16GB")
    assert told["random_page_cost"] == "1.1" and told["jit"] == "off" and told["max_parallel_workers_per_gather"] == "0"
    assert told["work_mem"] == "64MB" and "checkpoint_completion_target" not in told, "its default is as advised"
    analytics = values("postgres", "analytics")
    assert analytics["max_parallel_workers_per_gather"] == "8" and amount(analytics["work_mem"]) > 2**27
    assert "jit" not in analytics and "random_page_cost" not in values("postgres", ROTATIONAL=1)
    assert "random_page_cost" not in values("postgres", ROTATIONAL=-1), "nothing is assumed of an unknown disk"
    assert "effective_io_concurrency" not in values("postgres", VERSION=18.0)


MACHINES = [(2**29 * 2**n, cores) for n in range(11) for cores in (1, 4, 48)]  # 0.5 to 512 GiB
CONNECTIONS = (10, 30, 100, 300, 1000, 2000)


@pytest.mark.parametrize("load", ["oltp", "analytics", "mixed"])
@pytest.mark.parametrize(("version", "hash_mem"), [(15.0, ""), (15.0, "1"), (16.0, "8"), (14.0, "")])
def test_what_all_sessions_may_take_fits_beside_the_shared_buffers(load, version, hash_mem):
    """A sort and a hash in each connection and each parallel worker at once, by the manual's sections on both."""
    times = float(hash_mem or (2 if version >= 15 else 1))
    for (ram, cores), connections, known in itertools.product(MACHINES, CONNECTIONS, (True, False)):
        facts = {**FACTS, "RAM_BYTES": ram, "CPU_COUNT": cores, "VERSION": version}
        facts["CLIENTS"] = 10 if known else connections
        now = {"hash_mem_multiplier": hash_mem} if hash_mem else {}
        if known:
            now["max_connections"] = str(connections)
        told = {s.name: amount(s.value) for s in advise("postgres", facts, load, now).settings}
        everybody = (connections + cores) * (1 + times) * told["work_mem"]
        least = told["work_mem"] == 65536  # the server takes no less
        assert everybody + told["shared_buffers"] <= ram or least, (ram, cores, connections)
        assert not least or ram <= 2**31 * max(1, times / 2), "only on machines too small for so many connections"
        told = {s.name: amount(s.value) for s in advise("mariadb", facts, load, now).settings}
        assert connections * told["tmp_table_size"] + told["innodb_buffer_pool_size"] <= ram


def test_mariadb_and_redis_on_a_known_machine():
    told = values("mariadb", VERSION=10.11)
    assert told["innodb_buffer_pool_size"] == "45824M" and told["innodb_io_capacity"] == "2000"
    assert "innodb_flush_method" not in told and values("mariadb", VERSION=10.05)["innodb_flush_method"] == "O_DIRECT"
    assert values("redis")["maxmemory"] == "32gb" and values("redis", "cache")["maxmemory"] == "48gb"
    assert values("redis", "cache")["maxmemory-policy"] == "allkeys-lru" and "maxmemory-policy" not in values("redis")
    assert values("redis", FRAGMENTATION=1.9)["activedefrag"] == "yes"
    assert "io-threads" not in values("redis", CPU_COUNT=2)


def test_no_guarantee_is_given_up_and_dangers_are_named():
    now = {"appendonly": "yes", "appendfsync": "always", "protected-mode": "no"}
    advice = advise("redis", FACTS, "oltp", now)
    assert "appendfsync" not in {s.name for s in advice.settings}
    assert [w.name for w in advice.dangers] == ["protected-mode"]
    assert values("redis", now={"appendonly": "yes", "appendfsync": "no"})["appendfsync"] == "everysec"
    for system, name in (("postgres", "fsync"), ("mariadb", "innodb_flush_log_at_trx_commit")):
        assert name not in {s.name for s in advise(system, FACTS, "oltp", {}).settings}
    assert {w.name for w in advise("postgres", FACTS, "oltp", {"fsync": "off", "autovacuum": "on"}).dangers} == {
        "fsync"
    }
    assert [w.value for w in advise("mariadb", FACTS, "oltp", {"innodb_flush_log_at_trx_commit": "2"}).dangers] == ["2"]


def test_what_is_set_well_is_left_alone():
    assert "shared_buffers" not in values("postgres", now={"shared_buffers": "16000MB"})
    assert "jit" not in values("postgres", now={"jit": "off"})
    assert values("postgres", now={"shared_buffers": "1GB"})["shared_buffers"] == "16GB"


@given(st.integers(2**20, 2**45))
def test_sizes_are_read_back_as_they_are_written(count):
    for system in SYSTEMS:
        read = amount(spelled(system, count))
        assert read is not None and count * 0.93 < read + 2**20 and read <= count


def test_values_are_compared_as_they_mean():
    assert alike("1", "on") and alike("128MB", "134217728") and not alike("4", "1.1") and not alike("0", "4gb")


CONF = "# mine\nshared_buffers = 128MB   # a comment\n#work_mem = 4MB\njit = on\nshared_buffers = '256MB'\n"


def test_a_configuration_is_read_and_changed_in_its_own_lines(tmp_path):
    path = tmp_path / "postgresql.conf"
    path.write_text(CONF)
    assert configured("postgres", path).now == {"shared_buffers": "256MB", "jit": "on"}
    text = changed("postgres", CONF, {"shared_buffers": "4GB", "work_mem": "64MB"})
    assert text.splitlines() == [*CONF.splitlines()[:4], "shared_buffers = '4GB'", "work_mem = '64MB'"]
    ini = "[client]\nport = 1\n[mysqld]\ninnodb-buffer-pool-size=1G # x\nskip-name-resolve\n[mysqldump]\nquick\n"
    assert [(n, v) for _, n, v in lines_of("mariadb", ini)] == [("innodb_buffer_pool_size", "1G")]
    assert changed("mariadb", ini, {"innodb_buffer_pool_size": "4G", "tmp_table_size": "16M"}).endswith(
        "quick\n[mysqld]\ntmp_table_size = 16M\n"
    )
    redis = "maxmemory 1gb\nsave 3600 1 300 100\n# io-threads 4\n"
    assert dict((n, v) for _, n, v in lines_of("redis", redis)) == {"maxmemory": "1gb", "save": "3600 1 300 100"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_forms_that_can_be_used(system, tmp_path):
    advice = advise(system, FACTS, "oltp", {})
    text = written(system, advice, "conf.d")
    assert "nothing was measured" in text.splitlines()[0]
    assert {n: v for _, n, v in lines_of(system, text)} == {s.name: s.value for s in advice.new}
    assert yaml.safe_load(written(system, advice, "ansible"))
    path = tmp_path / "x.conf"
    path.write_text("")
    added = [line[1:] for line in written(system, advice, "diff", path).splitlines() if line.startswith("+")]
    assert added[1:] == text.splitlines()[1:]
    if system == "redis":
        with pytest.raises(ConfigError, match="no SQL"):
            written(system, advice, "sql")
    else:
        assert ("ALTER SYSTEM SET shared_buffers = '16GB';" if system == "postgres" else
                "SET GLOBAL innodb_buffer_pool_size = 48049946624;") in written(system, advice, "sql")  # fmt: skip
        assert "innodb_log_file_size" not in written(system, advice, "sql")


def test_the_command_says_that_nothing_was_measured_and_how_to(cli):
    words = ("--memory", 64, "--cores", 16, "--disk", "ssd", "--version", "15.4")
    begun = time.process_time()
    ran = cli("advise", "postgres", *words)
    assert time.process_time() - begun < 3
    assert "advice, not measured" in ran.stdout and "tunewright tune postgres" in ran.stdout and "16GB" in ran.stdout
    said = json.loads(cli("advise", "postgres", *words, "--json").stdout)
    assert said["measured"] is False and said["facts"]["version"] == "15.4" and said["facts"]["cores"] == 16
    assert all(s["because"] and s["source"].startswith("https://www.postgresql.org") for s in said["settings"])
    assert os.listdir(os.environ["TUNEWRIGHT_HOME"]) == []


def test_it_writes_no_file_over(cli, tmp_path):
    path = tmp_path / "redis.conf"
    path.write_text("maxmemory 1gb\n")
    ran = cli("advise", "redis", "--config", path, "--as", "diff", "-o", tmp_path / "p.diff", "--memory", 8)
    assert "wrote" in ran.stdout and "-maxmemory 1gb\n+maxmemory 4gb" in (tmp_path / "p.diff").read_text()
    assert path.read_text() == "maxmemory 1gb\n"
    assert "is not written over" in cli("advise", "redis", "--as", "conf.d", "-o", path, code=1).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("oracle",), "Installed|postgres"),
        (("postgres", "--load", "olap"), "load"),
        (("postgres", "--disk", "tape"), "ssd or hdd"),
        (("postgres", "--as", "diff"), "--config FILE"),
        (("postgres", "-o", "x"), "--as"),
        (("redis", "--dsn", "nonsense"), "redis://"),
        (("redis", "--dsn", "redis://localhost:1"), "cannot ask the Redis server"),
        (("redis", "--dsn", "redis://h", "--config", "f"), "not both"),
        (("mariadb", "--config", "/no/such/file"), "there is no configuration /no/such/file"),
    ],
)
def test_what_cannot_be_done_is_one_line(cli, words, said):
    ran = cli("advise", *words, code=1)
    assert re.search(said, ran.stderr) and ran.stderr.count("\n") == 1, ran.stderr


@pytest.fixture
def redis_like(tmp_path):
    """A server that answers as Redis does, with what it is told to."""
    made = []

    def make(answers):
        path = str(tmp_path / "redis.sock")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(1)
        made.append(listening)

        def serve():
            connection, _ = listening.accept()
            with connection, connection.makefile("rwb") as file:
                for answer in answers:
                    count = int(file.readline()[1:])
                    for _ in range(count):
                        file.read(int(file.readline()[1:]) + 2)
                    file.write(answer)
                    file.flush()

        threading.Thread(target=serve, daemon=True).start()
        return f"unix://{path}"

    yield make
    for listening in made:
        listening.close()


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text)


def test_a_live_redis_is_asked(redis_like, cli):
    info = b"# Memory\r\nused_memory:4000000000\r\nmem_fragmentation_ratio:1.82\r\nredis_version:7.2.4\r\n"
    pairs = b"*4\r\n" + b"".join(map(bulk, (b"maxmemory", b"0", b"protected-mode", b"no")))
    said = json.loads(cli("advise", "redis", "--dsn", redis_like([pairs, bulk(info)]), "--json").stdout)
    assert said["facts"]["version"] == "7.2" and [d["name"] for d in said["dangers"]] == ["protected-mode"]
    told = {s["name"]: s for s in said["settings"]}
    assert told["maxmemory"]["now"] == "0" and not told["maxmemory"]["same"] and "activedefrag" in told


def test_what_is_no_redis_is_said(redis_like):
    with pytest.raises(TargetError, match="is no Redis server"):
        servers.live("redis", redis_like([b"HTTP/1.1 400 Bad Request\r\n"]))


def test_what_a_redis_refuses_is_said(redis_like):
    with pytest.raises(TargetError, match="NOAUTH"):
        servers.live("redis", redis_like([b"-NOAUTH Authentication required.\r\n"]))


def test_a_live_mariadb_is_asked_through_its_client(tmp_path, monkeypatch):
    client = tmp_path / "mariadb"
    client.write_text(
        '#!/bin/sh\necho "$@" > "$0.words"; printf "version\\t11.4.2-MariaDB\\nquery_cache_type\\tON\\n"\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = servers.live("mariadb", "mariadb://me:secret@localhost/?socket=/run/x.sock")
    assert server.version == 11.04 and server.now["query_cache_type"] == "ON" and server.here
    words = (tmp_path / "mariadb.words").read_text()
    assert "--socket=/run/x.sock" in words and "secret" not in words
    assert not servers.live("mariadb", "mysql://db.example.org").here


def test_another_machines_facts_have_to_be_given(cli, monkeypatch):
    monkeypatch.setattr(servers, "live", lambda system, dsn: Server(now={"jit": "on"}, here=False))
    assert "--memory and --cores" in cli("advise", "postgres", "--dsn", "host=far", code=1).stderr
    ran = cli("advise", "postgres", "--dsn", "host=far", "--memory", 16, "--cores", 4)
    assert "another machine" in ran.stdout and "4GB" in ran.stdout and "give --disk" in ran.stdout


def test_versions_compare():
    assert version_number("10.6.12") < version_number("10.11.2") < version_number("11.4") == 11.04


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_a_real_redis(tmp_path, cli):
    path = tmp_path / "r.sock"
    words = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen([*words, "--maxmemory", "100mb"], stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 30
            while not path.exists() and time.monotonic() < end:
                time.sleep(0.05)
            said = json.loads(cli("advise", "redis", "--dsn", f"unix://{path}", "--json").stdout)
        finally:
            process.terminate()
    assert {s["name"]: s["now"] for s in said["settings"]}["maxmemory"] == "104857600" and said["facts"]["version"]


@pytest.mark.slow
def test_a_real_postgres(cli):
    pytest.importorskip("psycopg")
    from tunewright.envs.storage import postgres_server

    try:
        postgres_server.binaries()
    except TunewrightError as error:
        pytest.skip(str(error))
    cluster = Path(tempfile.mkdtemp()) / "cluster"  # the server's account may enter it, other than tmp_path
    cluster.parent.chmod(0o711)
    postgres_server.make_cluster(cluster, {})
    with postgres_server.Server(cluster, {"fsync": "off"}) as server:
        said = json.loads(cli("advise", "postgres", "--dsn", server.conninfo("postgres"), "--json").stdout)
    assert {s["name"]: s["now"] for s in said["settings"]}["effective_cache_size"] and said["facts"]["version"]
    assert [d["name"] for d in said["dangers"]] == ["fsync"]
