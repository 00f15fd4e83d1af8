"""One fault each: what is the user's stays as it was. Killing at random is in test_kills_of_users_things.py."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
from users_world import (
    HEAD,
    MARKER,
    TUNEWRIGHT,
    Run,
    differences,
    facts,
    give_away,
    kill_marked,
    note,
    plant,
    strays,
    tree,
    until,
)

from tunewright.errors import TunewrightError
from tunewright.plugins import open_target
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.testing import Sphere

FILE = '[[file]]\npath = "{path}"\ncontent = "x={x} from us\\n"\n'


def write_target(path: Path, *files: str, hooks: str = "", run: str = "true") -> Path:
    path.write_text(HEAD.replace("{run}", run) + "".join(FILE.replace("{path}", f) for f in files) + hooks)
    return path


def measured(path: Path, name: str, *, url: str | None = None, trials: int = 2, workdir: str = "") -> None:
    """Make a session of measured trials, 1 of them not the default."""
    plan = Plan(target=str(path), tuner="random", trust="fast", workdir=workdir)
    with Session.create(plan, name, Store(url)) as session:
        session.run(trials=trials, verify=False)


@pytest.fixture
def home():
    return Path(os.environ["TUNEWRIGHT_HOME"])


@pytest.fixture
def started(tmp_path, home):
    """Start the command line in the background; all that it leaves is ended with the test."""
    runs = []

    def start(*words, cwd):
        runs.append(Run(words, cwd=cwd, home=home, output=tmp_path / f"out-{len(runs)}.txt", mark=str(tmp_path)))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()
    kill_marked(str(tmp_path))


# -- a directory of the user's ------------------------------------------------------------------------------

SMALL = {
    "sqlite": {"rows": "200"},
    "rocksdb": {"rows": "1000"},
    "ann": {"vectors": "1000", "dimensions": "8", "queries": "10"},
}
NEEDS = {"rocksdb": "rocksdict", "ann": "faiss"}


@pytest.mark.parametrize("name, where", [("command", "results"), ("sqlite", "."), ("rocksdb", "results"), ("ann", ".")])
def test_a_session_in_a_users_directory_leaves_the_users_files(name, where, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    folder = tmp_path / "results"
    plant(folder)
    before = tree(folder)
    (tmp_path / "own.conf").write_text("mine\n")
    spec = name
    if name == "command":
        spec = str(write_target(tmp_path / "app.toml", "own.conf", "{rundir}/app.conf"))
    monkeypatch.chdir(folder if where == "." else tmp_path)
    plan = Plan(target=spec, options=SMALL.get(name, {}), tuner="random", trust="fast", workdir=where)
    with Session.create(plan, "a", Store()) as session:
        session.run(trials=1, verify=False)
    assert not (wrong := differences(before, tree(folder))), "\n".join(wrong)
    assert (tmp_path / "own.conf").read_text() == "mine\n"


@pytest.mark.parametrize("name", ["command", *SMALL])
def test_cleaning_up_removes_only_what_is_ours(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    folder = tmp_path / "results"
    plant(folder)
    before = tree(folder)
    target = open_target(str(write_target(tmp_path / "app.toml")) if name == "command" else name, SMALL.get(name, {}))
    target.cleanup(folder)
    assert not (wrong := differences(before, tree(folder))), "\n".join(wrong)


# -- names ---------------------------------------------------------------------------------------------------

IMPOSSIBLE = ["a\0b", "n" * 300, "", "two\nlines", "a\x1b[31mb"]
# files such as NAME.html and words such as 'rollback NAME' cannot be made of them
UNUSABLE = ["../../x", ".", "..", "a/b", "/around/x", "-x", "--json"]


@pytest.fixture
def deep_home(tmp_path, monkeypatch):
    """A home with folders above it that are watched: what is made outside the home."""
    around = tmp_path / "around"
    home = around / "deep/home"
    home.mkdir(parents=True)
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(home))
    return lambda: [p for p in tree(around) if p not in ("deep", "deep/home") and not p.startswith("deep/home/")]


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=lambda name: repr(name[:20]))
def test_a_name_that_cannot_be_is_refused(name, deep_home, store):
    with pytest.raises(TunewrightError) as error:
        plan = Plan(target="sphere", tuner="random", trust="fast")
        Session.create(plan, name, store, target=Sphere()).run(trials=1, verify=False)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value), "one line"
    assert store.names() == [], "no dead session is left"
    assert deep_home() == [], "nothing is made outside the home"


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_name_like_a_path_makes_nothing_outside_the_home(name, tmp_path, deep_home, store):
    """From Python, such a name may be taken or refused; its files stay inside either way."""
    name = name.replace("/around", str(tmp_path / "around"))
    write_target(tmp_path / "app.toml", "app.conf")
    try:
        with Session.create(
            Plan(target=str(tmp_path / "app.toml"), tuner="random", trust="fast"), name, store
        ) as session:
            session.run(trials=1, verify=False)
    except TunewrightError:
        assert store.names() == []
    assert deep_home() == []


@pytest.mark.parametrize("name", [*IMPOSSIBLE[1:], *UNUSABLE], ids=lambda name: repr(name[:20]))
def test_the_command_line_refuses_it_in_one_line(name, tmp_path, deep_home, cli):
    name = name.replace("/around", str(tmp_path / "around"))
    write_target(tmp_path / "app.toml")
    words = ["tune", "app.toml", "--tuner", "random", "--trust", "fast", "--trials", "1", f"--name={name}"]
    done = cli(*words, cwd=tmp_path, code=1)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error:"), done.stderr
    assert deep_home() == [], "nothing is made outside the home"
    kept = Store()
    assert kept.names() == []
    kept.close()


def test_ordinary_names_are_taken(store):
    for name in ("a", "nightly-1", "Größe 2", "v1.2_final", "a.b", "n" * 64):
        Session.create(Plan(target="sphere", tuner="random", trust="fast"), name, store, target=Sphere())
    assert len(store.names()) == 6


# -- what hooks start -------------------------------------------------------------------------------------------


def test_a_daemon_that_a_hook_starts_lives_through_the_session(tmp_path, cli):
    hooks = """
[hooks]
reset = ["sh", "-c", "test ! -f pid || { kill -0 $(cat pid) && echo reset alive || echo reset dead; } >> log"]
apply = ["sh", "-c", "test -f pid && kill $(cat pid); setsid nohup sleep 300.5 > /dev/null 2>&1 & echo $! > pid"]
rollback = ["sh", "-c", "test ! -f pid || kill $(cat pid); rm -f pid; echo rollback >> log"]
"""
    run = "echo run $(kill -0 $(cat pid) && echo alive || echo dead) >> log"
    write_target(tmp_path / "app.toml", hooks=hooks, run=run)
    words = ("tune", "app.toml", "--tuner", "random", "--trials", "2", "--trust", "fast", "--name", "a")
    cli(*words, cwd=tmp_path, env={MARKER: str(tmp_path)})
    log = (tmp_path / "log").read_text().splitlines()
    assert log.count("run alive") >= 3 and log.count("reset alive") >= 2, log
    assert not [line for line in log if "dead" in line], log
    assert log[-1] == "rollback"
    assert strays(str(tmp_path)) == []


# -- files with all that belongs to them --------------------------------------------------------------------------


def foreign_files(folder: Path) -> list[str]:
    """A user's files; returns the paths that a target names: each a different kind."""
    for part in ("etc", "real"):
        (folder / part).mkdir()
    for name in ("etc/plain.conf", "real/linked.conf", "etc/twice.conf"):
        (folder / name).write_text(f"{name} of the user\n")
        (folder / name).chmod(0o640)
        note(folder / name)
        give_away(folder / name)
    (folder / "etc/linked.conf").symlink_to("../real/linked.conf")
    os.link(folder / "etc/twice.conf", folder / "real/twice.conf")
    (folder / "etc/dangling.conf").symlink_to("../real/not-yet.conf")
    (folder / "etc/set.conf").write_text("")
    (folder / "etc/set.conf").chmod(0o2755)
    return [*(f"etc/{n}.conf" for n in ("plain", "linked", "twice", "set", "dangling")), "etc/new.conf"]


def test_tuning_leaves_links_owners_modes_and_attributes(tmp_path):
    folder = tmp_path / "user"
    folder.mkdir()
    paths = foreign_files(folder)
    write_target(folder / "app.toml", *paths)
    before = tree(folder)
    measured(folder / "app.toml", "a")
    assert not (wrong := differences(before, tree(folder))), "\n".join(wrong)


def test_apply_and_rollback_leave_them_too(tmp_path, cli):
    folder = tmp_path / "user"
    folder.mkdir()
    paths = foreign_files(folder)
    bare = write_target(folder / "app.toml")  # so that measuring touches none of them
    measured(bare, "a")
    write_target(folder / "app.toml", *paths)
    before = tree(folder)
    cli("apply", "a", "--trial", "1", "--force", cwd=folder)
    applied = tree(folder)
    for path in paths:
        assert "from us" in (folder / path).read_text(), path
    kept = ("kind", "mode", "owner", "attributes", "target", "links", "inode")
    for path in before:
        for key in kept:
            assert applied[path].get(key) == before[path].get(key), f"{path}: {key} while it is applied"
    cli("rollback", "a", cwd=folder)
    assert not (wrong := differences(before, tree(folder))), "\n".join(wrong)


# -- signals ---------------------------------------------------------------------------------------------------------


SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGHUP, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGINT, *SLOW])
def test_a_signal_puts_the_file_back(number, tmp_path, started):
    write_target(tmp_path / "app.toml", "app.conf", run="sleep 0.3")
    (tmp_path / "app.conf").write_text("mine\n")
    session = started("tune", "app.toml", "--tuner", "random", "--trials", "50", "--name", "a", cwd=tmp_path)
    assert until(lambda: (tmp_path / "app.conf").read_text() != "mine\n", 120, session)
    session.send(number)
    assert session.wait(120) in (128 + number, 130), session.text
    assert (tmp_path / "app.conf").read_text() == "mine\n"
    assert strays(str(tmp_path)) == []


def test_nohup_keeps_a_session_running(tmp_path, home):
    write_target(tmp_path / "app.toml", "app.conf", run="sleep 0.1")
    (tmp_path / "app.conf").write_text("mine\n")
    words = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", TUNEWRIGHT, "tune", "app.toml"]
    words += ["--tuner", "random", "--trials", "1", "--trust", "fast"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: (tmp_path / "app.conf").read_text() != "mine\n", 120)
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "app.conf").read_text() == "mine\n"


def test_the_next_session_puts_back_what_a_killed_one_left(tmp_path, started, cli):
    """And what the user writes after that is never overwritten from the killed session's copy."""
    write_target(tmp_path / "app.toml", "app.conf", run="sleep 0.2")
    conf = tmp_path / "app.conf"
    conf.write_text("mine\n")
    killed = started("tune", "app.toml", "--tuner", "random", "--trials", "50", "--name", "nightly", cwd=tmp_path)
    assert until(lambda: conf.read_text() != "mine\n", 120, killed)
    killed.send(signal.SIGKILL)
    killed.wait(60)
    assert strays(str(tmp_path)) == []
    assert conf.read_text() != "mine\n", "the kill left the file changed, or this test says nothing"
    words = ("tune", "app.toml", "--tuner", "random", "--trials", "1", "--trust", "fast", "--name", "second")
    done = cli(*words, cwd=tmp_path)
    assert conf.read_text() == "mine\n"
    assert "nightly" in done.stderr + done.stdout, "it says whose changes it put back"
    conf.write_text("mine, edited since\n")
    after = cli("rollback", "nightly", cwd=tmp_path, code=None)
    assert conf.read_text() == "mine, edited since\n", after.stdout + after.stderr


# -- apply ---------------------------------------------------------------------------------------------------------------


def taken_back(name: str, folder: Path, cli) -> str:
    """Run rollback; it works, or says that there is nothing to do."""
    done = cli("rollback", name, cwd=folder, code=None)
    assert done.returncode == 0 or "nothing to roll back" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "fault", ["the hook fails", "the hook kills apply", "the hook ends apply", "a file cannot be written"]
)
def test_a_broken_apply_can_be_taken_back(fault, tmp_path, cli, cli_process):
    folder = tmp_path / "user"
    folder.mkdir()
    measured(write_target(folder / "app.toml"), "a")
    command = {
        "the hook fails": "exit 3",
        "the hook kills apply": "kill -9 $PPID",
        "the hook ends apply": "kill -HUP $PPID; sleep 1",
    }
    hooks = f'[hooks]\napply = ["sh", "-c", "{command.get(fault, "true")}"]\nrollback = ["sh", "-c", "true"]\n'
    if fault == "a file cannot be written":
        (folder / "blocked").write_text("a file where a folder is needed\n")
    write_target(
        folder / "app.toml",
        "app.conf",
        *(["blocked/b.conf"] if "blocked" in os.listdir(folder) else []),
        "new.conf",
        hooks=hooks,
    )
    conf = folder / "app.conf"
    conf.write_text("mine\n")
    give_away(conf)
    before = tree(folder)
    run = cli_process if fault.endswith("apply") else cli  # these end the process that runs them
    done = run("apply", "a", "--trial", "1", "--force", cwd=folder, code=None)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    said = taken_back("a", folder, cli)
    wrong = differences(before, tree(folder))
    assert not wrong, "\n".join([*wrong, f"apply: {done.stderr.strip()}", f"rollback: {said.strip()}"])


def test_sessions_of_one_name_in_two_stores_roll_back_their_own(tmp_path, cli):
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("a", "b")]
    folders = [tmp_path / "left", tmp_path / "right"]
    for folder, url in zip(folders, urls, strict=True):
        folder.mkdir()
        (folder / "app.conf").write_text(f"mine in {folder.name}\n")
        measured(write_target(folder / "app.toml", "app.conf"), "a", url=url)
    before = [tree(folder) for folder in folders]
    for folder, url in zip(folders, urls, strict=True):
        cli("apply", "a", "--trial", "1", "--force", "--store", url, cwd=folder)
        assert "from us" in (folder / "app.conf").read_text()
    cli("rollback", "a", "--store", urls[0], cwd=folders[0])
    assert differences(before[0], tree(folders[0])) == []
    assert "from us" in (folders[1] / "app.conf").read_text(), "the other session stays applied"
    cli("rollback", "a", "--store", urls[1], cwd=folders[1])
    assert differences(before[1], tree(folders[1])) == []


@pytest.fixture
def two_folders(tmp_path):
    """A session 'a' of the target ``app.toml`` that was started in the first of two folders that both have such a file."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        (folder / "app.conf").write_text(f"mine in {folder.name}\n")
        write_target(folder / "app.toml", "app.conf", run=f"echo {folder.name} >> {tmp_path / 'ran'}")
    with contextlib.chdir(folders[0]):
        measured(Path("app.toml"), "a")
    assert set((tmp_path / "ran").read_text().split()) == {"one"}
    return folders


def test_a_session_means_the_file_that_it_was_started_with(two_folders, tmp_path, cli):
    one, two = two_folders
    before = [tree(folder) for folder in two_folders]
    cli("resume", "a", "-n", "1", cwd=two)
    assert set((tmp_path / "ran").read_text().split()) == {"one"}
    cli("apply", "a", "--trial", "1", "--force", cwd=two)
    assert "from us" in (one / "app.conf").read_text() and differences(before[1], tree(two)) == []
    cli("rollback", "a", cwd=tmp_path)
    assert differences(before[0], tree(one)) == [] and differences(before[1], tree(two)) == []


def test_another_file_of_the_name_is_used_only_when_it_is_named(two_folders, cli):
    one, two = two_folders
    (one / "app.toml").rename(one / "old.toml")
    before = [tree(folder) for folder in two_folders]
    for words in (("resume", "a", "-n", "1"), ("apply", "a", "--trial", "1", "--force")):
        said = cli(*words, cwd=two, code=None).stderr
        assert "which is gone" in said and "--target PATH" in said and len(said.strip().splitlines()) == 1, said
    assert [tree(folder) for folder in two_folders] == before
    cli("apply", "a", "--trial", "1", "--force", "--target", "app.toml", cwd=two)
    assert "from us" in (two / "app.conf").read_text()
    cli("rollback", "a", cwd=one)
    assert [differences(b, tree(folder)) for b, folder in zip(before, two_folders, strict=True)] == [[], []]


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of its own, 256 KiB, and a function that fills it to the last byte."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")

    def fill():
        with open(folder / "ballast", "wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(b"0" * size)
                except OSError:
                    continue

    yield folder, fill
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("place", ["the file", "a file of two names", "the home"])
def test_apply_on_a_full_disk_leaves_the_original(place, full_disk, tmp_path, monkeypatch, cli):
    disk, fill = full_disk
    folder = tmp_path / "user" if place == "the home" else disk
    folder.mkdir(exist_ok=True)
    url = f"sqlite:///{tmp_path / 's.db'}"
    measured(write_target(folder / "app.toml"), "a", url=url)
    text = (
        HEAD.replace("{run}", "true")
        + '[[file]]\npath = "app.conf"\ncontent = """'
        + "x={x} and more\n" * 4000
        + '"""\n'
    )
    (folder / "app.toml").write_text(text)
    (folder / "app.conf").write_text("mine\n" * 100)
    give_away(folder / "app.conf")
    if place == "a file of two names":  # it cannot be replaced as a whole without parting the two
        os.link(folder / "app.conf", folder / "other.conf")
    before = facts(folder / "app.conf")
    if place == "the home":
        monkeypatch.setenv("TUNEWRIGHT_HOME", str(disk))
    fill()
    done = cli("apply", "a", "--trial", "1", "--force", "--store", url, cwd=folder, code=1)
    assert facts(folder / "app.conf") == before, done.stdout + done.stderr
    assert done.stderr.startswith("error:") and len(done.stderr.strip().splitlines()) == 1, done.stderr
