"""Folders of ours are removed with all that is in them, but never what is mounted there."""

import os
import shutil
import subprocess
import sys

import pytest
from users_world import HEAD

from tunewright.envs.command import CommandTarget
from tunewright.envs.command_file import load_description
from tunewright.sessions import workfolder
from tunewright.store import trees
from tunewright.target import Budget


@pytest.fixture
def mounted(monkeypatch):
    """Let paths count as mount points."""
    points = set()
    monkeypatch.setattr(trees, "mount_points", lambda: frozenset(map(str, points)))
    return points


def test_everything_goes_and_links_are_not_followed(tmp_path):
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (tree / "a" / "locked").mkdir(parents=True)
    outside.mkdir()
    (outside / "precious").touch()
    (tree / "a" / "locked" / "file").touch()
    (tree / "a" / "locked").chmod(0)
    (tree / "link").symlink_to(outside)
    (tree / "b").symlink_to("nowhere")
    os.mkfifo(tree / "pipe")
    assert trees.remove_tree(tree) == []
    assert not tree.exists() and (outside / "precious").exists()
    trees.remove_tree(tree)
    (tmp_path / "other").symlink_to(outside)
    trees.remove_tree(tmp_path / "other")
    assert (outside / "precious").exists()


def test_what_is_mounted_stays_and_is_named(tmp_path, mounted, caplog):
    for folder in ("a/data", "a/other", "b"):
        (tmp_path / "tree" / folder).mkdir(parents=True)
        (tmp_path / "tree" / folder / "file").touch()
    (tmp_path / "link").symlink_to("tree/..")
    mounted |= {tmp_path / "tree" / "a" / "data", tmp_path / "tree" / "b" / "file"}
    left = trees.remove_tree(tmp_path / "link" / "tree")
    assert set(left) == set(map(str, mounted))
    kept = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "tree").rglob("*") if p.is_file())
    assert kept == ["tree/a/data/file", "tree/b/file"] and not (tmp_path / "tree" / "a" / "other").exists()
    assert len(caplog.messages) == 2 and all("is a mount point" in said for said in caplog.messages)
    mounted.clear()
    assert trees.remove_tree(tmp_path / "tree") == [] and not (tmp_path / "tree").exists()


def test_a_work_folder_with_a_mount_keeps_its_mark(tmp_path, mounted):
    folder = workfolder.private(tmp_path, "x")
    (folder / "data").mkdir()
    (folder / "data" / "precious").touch()
    mounted.add(folder / "data")
    workfolder.remove(tmp_path, "x")
    assert (folder / "data" / "precious").exists() and workfolder.private(tmp_path, "x") == folder
    mounted.clear()
    workfolder.remove(tmp_path, "x")
    assert not folder.exists()


def test_a_run_that_leaves_a_mount_fails_and_says_where(tmp_path, monkeypatch):
    (tmp_path / "app.toml").write_text(HEAD.replace("{run}", "mkdir {rundir}/m && touch {rundir}/m/precious"))
    runs = tmp_path / "tunewright-runs"
    monkeypatch.setattr(trees, "mount_points", lambda: frozenset(map(str, runs.glob("run-*/m"))))
    target = CommandTarget(load_description(tmp_path / "app.toml"))
    found = target.measure({"x": 3}, workload="default", seed=0, budget=Budget(workdir=tmp_path, seconds=10.0))
    assert found.status == "failed" and "mounted on" in found.reason and "/m," in found.reason
    assert len(list(runs.glob("run-*/m/precious"))) == 1


def test_a_bind_mount_of_a_benchmark_is_not_emptied(tmp_path):
    """With a real mount, in a mount name space of its own, on one file system."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    ours = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-U", "-r", "-m"]
    for folder in ("user data", "tree/a b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "user data" / "precious").touch()
    (tmp_path / "tree" / "file").touch()
    script = 'mount --bind "user data" "tree/a b" || exit 77; exec "$0" -c "$1"'
    code = "from pathlib import Path; from tunewright.store import trees; print(trees.remove_tree(Path('tree')))"
    done = subprocess.run(
        [*ours, "sh", "-c", script, sys.executable, code], cwd=tmp_path, capture_output=True, text=True
    )
    if done.returncode in (1, 77) and "trees" not in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "user data" / "precious").exists() and not (tmp_path / "tree" / "file").exists()
    assert done.stdout.strip() == str([str(tmp_path / "tree" / "a b")])
    assert len(done.stderr.strip().splitlines()) == 1 and "is a mount point" in done.stderr
