"""A user's file is held by one session at a time and put back whole, with its links, owner and attributes."""

import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from changing import HOLDER, OWNER, ROOT, command, killed_session, python, state
from hypothesis import given
from hypothesis import strategies as st
from users_world import HEAD

from tunewright.envs.command_places import fill
from tunewright.errors import ConfigError, HeldError, StoreError, TargetError
from tunewright.sessions import originals
from tunewright.sessions.changes import Journal, Owner, changing, document, restoring
from tunewright.sessions.locks import file_keys, holding


@pytest.mark.parametrize("other", ["same", "symbolic", "hard", "home"])
def test_one_file_under_any_name_and_home_has_one_holder(tmp_path, monkeypatch, other):
    path = tmp_path / "server.conf"
    path.write_text("x = 7\n")
    name = {"same": path, "home": path}.get(other, tmp_path / "other.conf")
    if other == "symbolic":
        name.symlink_to("server.conf")
    elif other == "hard":
        name.hardlink_to(path)
    first = python(HOLDER, path)
    try:
        assert first.stdout.readline() == "held\n"
        if other == "home":
            monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "another"))
        begun = time.monotonic()
        with pytest.raises(HeldError, match=r"by session 'first' \(process \d+\); wait for it or stop it"):
            with holding(file_keys(name), "session 'second'"):
                raise AssertionError("held twice")
        assert time.monotonic() - begun < 30, "refused at once, not when the holder ends after a minute"
    finally:
        first.kill()
        first.communicate()
    with holding(file_keys(name), "session 'second'"):
        pass  # a dead holder holds nothing


def runs(pid):
    """Whether there is such a process, which may have ended without being waited for."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_lock_lasts_until_the_last_measuring_child_is_gone(tmp_path):
    code = """
import subprocess, sys, time
from tunewright.sessions.locks import holding
with holding(["file " + sys.argv[1]], "session 'first'") as hold:
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    child = subprocess.Popen(["sleep", "1.5"], pass_fds=hold.fds, **quiet)
    print(child.pid, flush=True)
    time.sleep(60)
"""
    first = python(code, tmp_path / "x")
    child = int(first.stdout.readline())
    first.kill()
    first.communicate()
    with holding([f"file {tmp_path / 'x'}"], "session 'second'"):
        assert not runs(child), "its child could still have changed the file"


def test_locks_leave_no_files_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_LOCKS", str(tmp_path / "locks"))
    with holding(["file /a", "file /b"], "me"):
        assert len(list((tmp_path / "locks").iterdir())) == 2
    assert list((tmp_path / "locks").iterdir()) == []


@given(
    before=st.binary(max_size=300), after=st.lists(st.binary(max_size=300), max_size=3), mode=st.integers(0o200, 0o777)
)
def test_a_file_is_put_back_whole(tmp_path_factory, before, after, mode):
    folder = tmp_path_factory.mktemp("files")
    path, saved = folder / "server.conf", folder / "saved"
    saved.mkdir()
    path.write_bytes(before)
    path.chmod(mode)
    was = state(path)
    entry = json.loads(json.dumps(originals.save(path, saved, "0")))
    for data in after:
        originals.write(path, data)
        assert path.read_bytes() == data
    originals.put_back(entry)
    originals.put_back(entry)
    assert state(path) == was
    assert sorted(p.name for p in folder.iterdir()) == ["saved", "server.conf"], "nothing is left beside it"


@pytest.fixture
def dressed(tmp_path):
    """A file with everything a file can have, a link to it, and a path where there is none."""
    folder = tmp_path / "etc"
    (folder / "real").mkdir(parents=True)
    path = folder / "real" / "server.conf"
    path.write_text("x = 7\n")
    path.chmod(0o640)
    if ROOT:
        os.chown(path, 1234, 1234)
    try:
        os.setxattr(path, "user.note", b"keep me")
    except OSError:
        pass  # this file system has none
    (folder / "hard.conf").hardlink_to(path)
    (folder / "link.conf").symlink_to("real/server.conf")
    (folder / "dangling.conf").symlink_to("real/later.conf")
    return folder


@pytest.mark.parametrize("name", ["real/server.conf", "hard.conf", "link.conf", "dangling.conf", "new/deep/x.conf"])
def test_links_owners_and_attributes_come_back(dressed, tmp_path, name):
    everything = ["real/server.conf", "hard.conf", "link.conf", "dangling.conf", "real/later.conf", "new"]
    was = {n: state(dressed / n) for n in everything if n != "new"}
    saved = tmp_path / "saved"
    saved.mkdir()
    entry = originals.save(dressed / name, saved, "0")
    originals.write(dressed / name, b"candidate " * 100)
    assert (dressed / name).read_bytes() == b"candidate " * 100
    originals.put_back(entry)
    assert {n: state(dressed / n) for n in everything if n != "new"} == was
    assert not (dressed / "new").exists()


def test_what_a_program_made_of_a_file_is_undone(dressed, tmp_path):
    """Some programs replace their configuration by a new file, over links and all."""
    saved = tmp_path / "saved"
    saved.mkdir()
    entry = originals.save(dressed / "link.conf", saved, "0")
    (dressed / "link.conf").unlink()
    (dressed / "link.conf").write_text("rewritten")
    (dressed / "real" / "server.conf").unlink()
    originals.put_back(entry)
    assert os.readlink(dressed / "link.conf") == "real/server.conf"
    about = (dressed / "link.conf").stat()
    assert (about.st_mode & 0o777, (dressed / "link.conf").read_text()) == (0o640, "x = 7\n")
    assert not ROOT or about.st_uid == 1234


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(TargetError, match="not a regular file"):
            originals.save(tmp_path / name, tmp_path, "copy")
        with pytest.raises(TargetError, match="not a regular file"):
            originals.write(tmp_path / name, b"x")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not ROOT
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a file system of its own cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_costs_nothing(small_disk, tmp_path):
    path = small_disk / "server.conf"
    path.write_bytes(b"mine" * 100)
    (small_disk / "filler").write_bytes(b"." * 52 * 1024)
    with pytest.raises(TargetError, match="No space left"):
        originals.write(path, b"y" * 60_000)
    assert path.read_bytes() == b"mine" * 100
    with pytest.raises(TargetError, match="No space left"):
        originals.write(small_disk / "new.conf", b"y" * 60_000)
    assert not (small_disk / "new.conf").exists()


def test_nothing_is_changed_that_cannot_be_written_down(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(small_disk / "home"))
    target = command(tmp_path)
    (small_disk / "filler").write_bytes(b"." * 52 * 1024)
    (tmp_path / "server.conf").write_bytes(b"mine\n" * 4000)
    with pytest.raises((TargetError, StoreError), match="No space left"):
        with changing(target, OWNER, print) as (hold, journal), restoring(target, OWNER, hold, journal, tmp_path / "w"):
            raise AssertionError("it may have been changed")
    assert (tmp_path / "server.conf").read_bytes() == b"mine\n" * 4000


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{rundir}/../../../etc/x", "leads out of"),
        ("conf-{x}.ini", "must be known before it is changed"),
        ("conf-{workload}", "must be known before it is changed"),
        (".", "not a regular file"),
        (" ", "cannot be a file's"),
    ],
)
def test_every_file_that_is_changed_is_known_before(tmp_path, path, words):
    with pytest.raises(ConfigError, match=words):
        command(tmp_path, file=path)


def test_what_the_user_wrote_meanwhile_is_kept(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    killed_session(tmp_path, store, "first")
    conf.write_text("my edit\n")
    done = cli("rollback", "first", "--store", store)
    said = " ".join(done.stderr.split())
    assert "was changed by somebody else meanwhile; that version is kept as" in said
    (kept,) = (Path(os.environ["TUNEWRIGHT_HOME"]) / "kept").iterdir()
    assert (conf.read_text(), kept.read_text()) == ("v: 7\n", "my edit\n")


def test_a_file_that_the_user_wrote_where_there_was_none_stays(tmp_path):
    target, saved = command(tmp_path), tmp_path / "saved"
    saved.mkdir()
    state_before = target.snapshot(saved)
    target._write_files(target._service_names(target.space.default, saved), "trials")
    target.restore(state_before)
    assert not (tmp_path / "server.conf").exists()
    (tmp_path / "server.conf").write_text("precious\n")
    with originals.noticing() as texts:
        target.restore(state_before)
    assert (tmp_path / "server.conf").read_text() == "precious\n"
    assert "is left as it is" in texts[0]


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_was_filled_in_is_told_from_what_somebody_wrote(value, line):
    template = f"{line}\nx = {{x}}\n[y] {{gone}}\nend"
    lines = [
        f
        for part in template.splitlines()
        if (f := fill(part, {"x": value.replace("\n", " "), "gone": None})) is not None
    ]
    data = ("\n".join(lines) + "\n").encode()
    if "\n" not in value and "\r" not in value and len(value.splitlines()) <= 1:
        assert originals._fills(template, data)
    assert not originals._fills(template, data + b"and more\n")


@pytest.mark.skipif(not ROOT, reason="needs another user")
def test_a_shared_file_of_another_owner_is_put_back(tmp_path):
    """As uid 65534 of a group that may write it: its owner alone may set times."""
    conf = tmp_path / "shared.conf"
    conf.write_text("v: 7\n")
    os.chown(conf, 0, 65534)
    conf.chmod(0o664)
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    saved = tmp_path / "saved"
    saved.mkdir()
    entry = originals.save(conf, saved, "0")
    saved.chmod(0o755)
    (saved / "0").chmod(0o644)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            originals.write(conf, b"candidate\n")
            originals.put_back(entry)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert conf.read_text() == "v: 7\n"


def test_an_inode_that_another_file_has_by_now_names_nothing(tmp_path):
    target = command(tmp_path)
    (tmp_path / "server.conf").write_text("v: 7\n")
    owner = Owner(what="session 'a'", store="sqlite:////z.db", name="a", target="my.toml", options={})
    with holding(target.changes(), "session 'a'"):
        journal = Journal(owner.store, owner.name, "measure")
        journal.begin()
        journal.write(document(target, owner, target.snapshot(journal.folder), "measuring"))
    os.rename(tmp_path / "server.conf", tmp_path / "other.conf")  # the inode lives on under another name
    inode = next(k for k in file_keys(tmp_path / "other.conf") if k.startswith("inode"))
    with holding([inode], "killed") as hold:
        hold.note(str(journal.path))
    other = command(tmp_path, name="other.toml", file="other.conf")
    with changing(other, OWNER, print):
        assert journal.read() is not None and not (tmp_path / "server.conf").exists()


def test_a_link_that_leads_in_a_circle_is_refused_and_left(tmp_path, cli):
    for name, to in (("one", "one"), ("two", "three"), ("three", "two")):
        (tmp_path / name).symlink_to(to)
    for name in ("one", "two"):
        with pytest.raises(TargetError, match="leads in a circle"):
            originals.save(tmp_path / name, tmp_path, "0")
    path = tmp_path / "app.toml"
    path.write_text(HEAD.replace("{run}", "true") + '[[file]]\npath = "two"\ncontent = "{x}"\n')
    assert "two is a symbolic link that leads in a circle" in cli("show", path, code=1).stderr
    assert (tmp_path / "one").is_symlink() and (tmp_path / "two").is_symlink()


def test_a_file_too_large_for_a_configuration_is_refused_before_it_is_copied(tmp_path, cli):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(20 * 2**30)  # a hole
    path = tmp_path / "app.toml"
    path.write_text(HEAD.replace("{run}", "true") + '[[file]]\npath = "big"\ncontent = "{x}"\n')
    assert "big has 21,475 MB, more than a configuration file" in cli("show", path, code=1).stderr
