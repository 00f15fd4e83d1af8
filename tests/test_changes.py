"""What belongs to the user: written down before it is changed, and put back by whoever comes next."""

import os
import signal

import pytest
from changing import HOLDER, ROOT, begun, command, killed_session, python
from targets import Guarded

from tunewright.comparing.playing import _record
from tunewright.errors import ConfigError, HeldError, StoreError, TargetError
from tunewright.sessions import workfolder
from tunewright.sessions.changes import Journal, Owner, changing, document, restoring
from tunewright.sessions.locks import holding
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan


def test_whoever_comes_next_puts_back_what_a_killed_session_left(tmp_path, cli):
    conf = tmp_path / "server.conf"
    conf.write_text("v: 7\n")
    command(tmp_path)
    command(tmp_path, "other.toml")
    killed_session(tmp_path, f"sqlite:///{tmp_path / 'one.db'}", "first", home=tmp_path / "home-of-first")
    done = cli(
        "tune",
        tmp_path / "other.toml",
        "--store",
        f"sqlite:///{tmp_path / 'two.db'}",
        "--name",
        "second",
        "-n",
        1,
        "--trust",
        "fast",
    )
    assert "session 'first' did not come to its end and had left changes, which were put back" in " ".join(
        done.stderr.split()
    )
    assert conf.read_text() == "v: 7\n"
    nothing = cli("rollback", "first", "--store", f"sqlite:///{tmp_path / 'one.db'}", code=1)
    assert "nothing to roll back" in nothing.stderr


@pytest.mark.slow
def test_rollback_and_resume_put_back_too(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    killed_session(tmp_path, store, "first")
    assert "put back" in cli("rollback", "first", "--store", store).stdout
    assert conf.read_text() == "v: 7\n"
    conf.write_text("v: 9\n")
    killed_session(tmp_path, store, "again")
    cli("resume", "again", "--store", store, "-n", 1)
    assert conf.read_text() == "v: 9\n"


def test_a_session_is_refused_before_it_takes_a_name(tmp_path, store):
    (tmp_path / "server.conf").write_text("v: 7\n")
    target = command(tmp_path)
    with holding(target.changes(), "session 'first'"):
        pass
    first = python(HOLDER, tmp_path / "server.conf")
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match="session 'first'"):
            Session.create(Plan(target="my.toml", tuner="random"), "second", store, target=target)
    finally:
        first.kill()
        first.communicate()
    assert store.names() == []


@pytest.mark.slow
def test_two_stores_sessions_of_one_name_keep_their_own(tmp_path, cli):
    stores = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "server.conf").write_text(f"v: 7 # {name}\n")
        command(folder)
        stores.append(f"sqlite:///{tmp_path / f'{name}.db'}")
        cli(
            "tune",
            folder / "my.toml",
            "--store",
            stores[-1],
            "--name",
            "a",
            "-n",
            4,
            "--trust",
            "fast",
            "--tuner",
            "random",
        )
        cli("apply", "a", "--store", stores[-1], "--force")
    for name, store in zip(("one", "two"), stores, strict=True):
        assert "v: 7" not in (tmp_path / name / "server.conf").read_text()
        cli("rollback", "a", "--store", store)
        assert (tmp_path / name / "server.conf").read_text() == f"v: 7 # {name}\n"


@pytest.mark.slow
def test_configurations_applied_on_top_of_each_other_come_off_in_turn(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    for name in ("a", "b"):
        cli(
            "tune",
            tmp_path / "my.toml",
            "--store",
            store,
            "--name",
            name,
            "-n",
            4,
            "--trust",
            "fast",
            "--tuner",
            "random",
            "--seed",
            len(name + name),
        )
        cli("apply", name, "--store", store, "--force")
    assert "first run: tunewright rollback b" in cli("rollback", "a", "--store", store, code=1).stderr
    cli("rollback", "b", "--store", store)
    cli("rollback", "a", "--store", store)
    assert conf.read_text() == "v: 7\n"


@pytest.mark.slow
def test_apply_writes_its_undo_before_it_changes_anything(tmp_path, cli, cli_process):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    hook = '[hooks]\napply = ["sh", "-c", "test ! -e deadly || kill -9 $PPID"]\n'
    command(tmp_path, extra=hook)
    cli("tune", tmp_path / "my.toml", "--store", store, "--name", "a", "-n", 4, "--trust", "fast", "--tuner", "random")
    (tmp_path / "deadly").touch()
    cli_process("apply", "a", "--store", store, "--force", code=-signal.SIGKILL)  # the hook kills its parent
    assert conf.read_text() != "v: 7\n"
    (tmp_path / "deadly").unlink()
    cli("rollback", "a", "--store", store)
    assert conf.read_text() == "v: 7\n"


@pytest.mark.skipif(not ROOT, reason="needs another user's file")
def test_another_users_journal_is_not_obeyed(tmp_path):
    journal = Journal("sqlite:////x.db", "a", "measure")
    journal.begin()
    journal.write({"what": "session 'a'"})
    os.chown(journal.path, 1234, 1234)
    with pytest.raises(StoreError, match="of another user"):
        journal.read()


def test_a_broken_journal_is_one_line(tmp_path):
    journal = Journal("sqlite:////x.db", "a", "measure")
    journal.begin()
    journal.path.write_text('{"format": 1')
    with pytest.raises(StoreError, match="which says what to put back"):
        journal.read()


def test_a_failing_rollback_command_keeps_the_journal_and_says_how_to_go_on(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    hook = '[hooks]\nrollback = ["sh", "-c", "test -e well || { echo no service >&2; exit 3; }"]\n'
    command(tmp_path, extra=hook)
    done = cli("tune", tmp_path / "my.toml", "--store", store, "--name", "a", "-n", 1, "--trust", "fast", code=1)
    assert "no service" in done.stderr and "run 'tunewright rollback a'" in done.stderr
    assert conf.read_text() == "v: 7\n", "the file came back all the same"
    (tmp_path / "well").touch()
    cli("rollback", "a", "--store", store)


# -- folders and names --------------------------------------------------------------------------------


def test_only_marked_folders_are_removed(tmp_path):
    (tmp_path / "tunewright-x").mkdir()
    (tmp_path / "tunewright-x" / "precious").write_text("mine")
    with pytest.raises(TargetError, match="has no mark of tunewright"):
        workfolder.private(tmp_path, "x")
    workfolder.remove(tmp_path, "x")
    assert (tmp_path / "tunewright-x" / "precious").exists()
    folder = workfolder.private(tmp_path / "a" / "b", "y")
    assert folder == workfolder.private(tmp_path / "a" / "b", "y")
    (folder / "left").touch()
    workfolder.give_back(folder)
    assert (folder / "left").exists(), "not ours to remove"
    (folder / "left").unlink()
    workfolder.give_back(folder)
    assert not (tmp_path / "a").exists()


def test_a_link_to_a_folder_of_the_users_is_no_work_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / workfolder.MARKER).write_text("{}")
    (tmp_path / "tunewright-x").symlink_to("mine")
    with pytest.raises(TargetError, match="not a folder that tunewright made"):
        workfolder.private(tmp_path, "x")
    workfolder.remove(tmp_path, "x")
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["", " ", "a\0b", "a\nb", "x" * 300, "../../x", "-x", "."])
def test_a_name_that_cannot_be_one_leaves_no_session(store, name):
    with pytest.raises(ConfigError, match="cannot be a session's name"):
        Session.create(Plan(target="t", tuner="random"), name, store, target=Guarded())
    assert store.names() == []


def test_a_path_in_a_name_stays_in_the_home(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "deep" / "home"))
    session = Session.create(Plan(target="t", tuner="random"), "a/../../../x", store, target=Guarded())
    session.run(trials=2)
    assert session.problem.log.parent == tmp_path / "deep" / "home" / "logs"
    assert {p.name for p in tmp_path.iterdir()} <= {"deep", "s.db", "s.db-wal", "s.db-shm"}


def test_checks_of_two_projects_do_not_take_each_other_for_dead(tmp_path, cli):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "server.conf").write_text(f"v: 7 # {name}\n")
        command(tmp_path / name)
    (tmp_path / "a" / "my.toml").write_text(
        (tmp_path / "a" / "my.toml").read_text().replace("sleep {pause}", "sleep 4 # {pause}\\n")
    )
    first = begun(tmp_path / "a", "check", "my.toml", cwd=tmp_path / "a")
    cli("check", "my.toml", cwd=tmp_path / "b")
    said = first.communicate(timeout=60)
    assert first.returncode == 0, said
    for name in ("a", "b"):
        assert (tmp_path / name / "server.conf").read_text() == f"v: 7 # {name}\n"


@pytest.mark.slow
def test_rollback_takes_off_first_what_came_on_top(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    cli("tune", tmp_path / "my.toml", "--store", store, "--name", "w1", "-n", 4, "--trust", "fast", "--tuner", "random")
    cli("apply", "w1", "--store", store, "--force")
    killed_session(tmp_path, store, "w3")
    cli("rollback", "w1", "--store", store)
    assert conf.read_text() == "v: 7\n"
    cli("check", tmp_path / "my.toml")
    assert conf.read_text() == "v: 7\n"


def test_a_lock_that_names_an_older_journal_does_not_end_a_living_session(tmp_path, cli, store):
    """A session was killed, and goes on with another file: the old lock still names its journal."""
    (tmp_path / "a.conf").write_text("A\n")
    (tmp_path / "b.conf").write_text("B\n")
    target = command(tmp_path, file="a.conf")
    with holding(target.changes(), "session 'z'") as hold:
        journal = Journal("sqlite:////z.db", "z", "measure")
        hold.note(str(journal.path))
    other = command(tmp_path, name="other.toml", file="b.conf")
    owner = Owner(what="session 'z'", store="sqlite:////z.db", name="z", target="other.toml", options={})
    with changing(other, owner, print) as (hold, journal), restoring(other, owner, hold, journal, tmp_path / "w"):
        (tmp_path / "b.conf").write_text("v: 5\n")
        cli("check", tmp_path / "my.toml")
        assert journal.read() is not None
    assert (tmp_path / "b.conf").read_text() == "B\n"


def test_a_lock_cannot_have_an_applied_configuration_taken_back(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    target = command(tmp_path)
    owner = Owner(what="session 'a'", store=store, name="a", target=str(tmp_path / "my.toml"), options={})
    with changing(target, owner, print, kind="apply") as (hold, journal):
        journal.begin()
        journal.write(document(target, owner, target.undo(journal.folder), "applied"))
        conf.write_text("v: 5\n")
        hold.note(str(journal.path))
    cli("check", tmp_path / "my.toml")
    assert conf.read_text() == "v: 5\n"


def test_files_come_back_without_the_description(tmp_path, cli):
    conf, store = tmp_path / "server.conf", f"sqlite:///{tmp_path / 'one.db'}"
    conf.write_text("v: 7\n")
    command(tmp_path)
    killed_session(tmp_path, store, "first")
    (tmp_path / "my.toml").unlink()
    cli("rollback", "first", "--store", store)
    assert conf.read_text() == "v: 7\n"


def test_a_relative_directory_is_where_the_user_stands(tmp_path, cli):
    (tmp_path / "deep").mkdir()
    command(tmp_path / "deep", file="{workdir}/server.conf", extra="")
    text = (
        (tmp_path / "deep" / "my.toml").read_text().replace("cat {workdir}/server.conf", "cat '{workdir}/server.conf'")
    )
    (tmp_path / "deep" / "my.toml").write_text(text)
    cli("tune", "deep/my.toml", "--dir", "here", "-n", 1, "--trust", "fast", "--name", "a", cwd=tmp_path)
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"my.toml"}
    assert not (tmp_path / "here").exists()


def test_a_session_that_was_killed_while_it_was_made_does_not_keep_its_name(store):
    import optuna

    store.optuna.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "a")  # all that there was time for
    assert _record(store, "a") == {}, "a tournament plays its game as if it had never begun"
    with Session.create(Plan(target="t", tuner="random"), "a", store, target=Guarded()) as session:
        session.run(trials=2, verify=False)
    with pytest.raises(ConfigError, match="exists already"):
        Session.create(Plan(target="t", tuner="random"), "a", store, target=Guarded())
