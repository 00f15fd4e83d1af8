"""What the user does to a file while it is tuned is kept, and no file is written of which there is no copy."""

import json
import os
from pathlib import Path

import pytest
from changing import OWNER, command
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import TargetError
from tunewright.measuring.isolation import measure_once
from tunewright.sessions import originals
from tunewright.sessions.changes import protected
from tunewright.target import Budget


def kept():
    folder = Path(os.environ["TUNEWRIGHT_HOME"]) / "kept"
    return sorted(p.read_text() for p in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def tuned(tmp_path):
    """Save a path that the function is given; returns how to write a run's file, and how to put all back."""
    saved = tmp_path / "saved"
    saved.mkdir()

    def begin(path):
        entry = json.loads(json.dumps({**originals.save(path, saved, "0"), "template": "x = {x}"}))

        def run(number):
            originals.write(path, f"x = {number}\n".encode(), entry)

        def end():
            with originals.noticing() as texts:
                originals.put_back(entry)
            return texts

        return run, end

    return begin


@pytest.fixture
def releases(tmp_path):
    for number in ("42", "43"):
        folder = tmp_path / "releases" / number
        folder.mkdir(parents=True)
        (folder / "app.conf").write_text(f"release {number}\n")
    return tmp_path / "releases"


@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_a_link_that_is_pointed_elsewhere_leads_to_no_other_file(releases, tuned, whole):
    link = releases / "current"
    path = link / "app.conf" if whole else link
    old, new = ("42", "43") if whole else ("42/app.conf", "43/app.conf")
    link.symlink_to(old)
    run, end = tuned(path)
    run(1)
    link.unlink()
    link.symlink_to(new)
    with pytest.raises(TargetError, match=r"leads to .*43/app.conf now instead of .*42/app.conf") as error:
        run(2)
    assert "\n" not in str(error.value)
    (text,) = end()
    assert "by now and is left" in text or "and is left so" in text
    assert os.readlink(link) == new
    assert [(releases / n / "app.conf").read_text() for n in ("42", "43")] == ["release 42\n", "release 43\n"]


@pytest.mark.parametrize("ran", [False, True])
def test_a_link_where_there_was_no_file_is_left_alone(releases, tuned, ran):
    path = releases / "app.conf"
    run, end = tuned(path)
    if ran:
        run(1)
        path.unlink()
    path.symlink_to("43/app.conf")
    with pytest.raises(TargetError, match="leads to"):
        run(2)
    end()
    assert (os.readlink(path), path.read_text()) == ("43/app.conf", "release 43\n")


def test_a_link_in_the_place_of_a_file_is_left_alone(releases, tuned):
    path = releases / "app.conf"
    path.write_text("mine\n")
    run, end = tuned(path)
    run(1)
    path.unlink()
    path.symlink_to("43/app.conf")
    with pytest.raises(TargetError, match="leads to"):
        run(2)
    assert "was made a link" in end()[0]
    assert (os.readlink(path), path.read_text(), kept()) == ("43/app.conf", "release 43\n", ["mine\n"])


def test_a_file_that_is_moved_and_linked_to_is_put_back_there(tmp_path, tuned):
    path, moved = tmp_path / "app.conf", tmp_path / "dotfile"
    path.write_text("mine\n")
    run, end = tuned(path)
    run(1)
    path.rename(moved)
    path.symlink_to("dotfile")
    run(2)
    assert end() == []
    assert (path.is_symlink(), moved.read_text(), kept()) == (True, "mine\n", [])


def by_rename(path, text):
    """Edit as sed -i and many editors do."""
    (path.parent / "new").write_text(text)
    (path.parent / "new").replace(path)


def in_place(path, text):
    path.write_text(text)


@pytest.mark.parametrize("text", ["my edit\n", "x = 77\n"], ids=["free", "like the template"])
@pytest.mark.parametrize("linked", [False, True], ids=["plain", "link"])
@pytest.mark.parametrize("edit", [by_rename, in_place])
@pytest.mark.parametrize("last", [False, True], ids=["runs follow", "last run"])
def test_every_edit_meanwhile_is_kept(tmp_path, tuned, text, linked, edit, last):
    path, real = tmp_path / "app.conf", tmp_path / ("real.conf" if linked else "app.conf")
    real.write_text("mine\n")
    if linked:
        path.symlink_to("real.conf")
    run, end = tuned(path)
    run(1)
    run(2)
    edit(path, text)
    if not last:
        run(3)
        assert path.read_text() == "x = 3\n", "the next run reads its own settings"
        run(4)
    (said,) = end()
    assert "was changed by somebody else meanwhile; that version is kept as" in said
    assert (real.read_text(), path.is_symlink(), kept()) == ("mine\n", linked, [text])
    assert end() == [], "it is said once"


@pytest.mark.parametrize("edit", [by_rename, in_place])
@pytest.mark.parametrize("last", [False, True], ids=["runs follow", "last run"])
def test_a_file_of_the_users_where_there_was_none_stays(tmp_path, tuned, edit, last):
    path = tmp_path / "app.conf"
    run, end = tuned(path)
    run(1)
    edit(path, "x = 77\n")
    if not last:
        run(2)
        run(3)
    assert "is left as it is" in end()[0]
    assert path.read_text() == "x = 77\n"


def test_another_name_of_another_file_is_not_written_through(tmp_path, tuned):
    path, other = tmp_path / "app.conf", tmp_path / "other.conf"
    path.write_text("mine\n")
    other.write_text("precious\n")
    run, end = tuned(path)
    run(1)
    path.unlink()
    path.hardlink_to(other)
    with pytest.raises(TargetError, match="has other names"):
        run(2)
    end()
    assert (path.read_text(), other.read_text()) == ("mine\n", "precious\n")


@given(st.binary(max_size=20), st.binary(max_size=20), st.integers(0, 20), st.booleans())
def test_a_write_that_was_cut_short_is_not_taken_for_an_edit(before, after, done, cut):
    left = after[:done] + before.ljust(len(after), b"\0")[len(after[:done]) :]
    data = left[: len(after)] if cut and done >= len(after) else left
    assert originals._between(data, before, after)
    assert not originals._between(data + b"and more" * 3, before, after)


def test_runs_of_a_session_notice_an_edit(tmp_path, monkeypatch):
    target, conf, said = command(tmp_path), tmp_path / "server.conf", []
    conf.write_text("v: 7\n")
    budget = Budget(workdir=tmp_path / "w")
    budget.workdir.mkdir()
    with protected(target, OWNER, budget.workdir, said.append) as runs:
        for text in ("v: 55\n", "my edit\n"):
            done = measure_once(target, target.space.default, workload="default", seed=0, budget=budget, runs=runs)
            assert done.ok, done.reason
            conf.write_text(text)
    assert (conf.read_text(), kept()) == ("v: 7\n", ["my edit\n", "v: 55\n"])
    assert len(said) == 1 and "the 2 versions are kept as" in said[0]
