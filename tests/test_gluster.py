"""GlusterFS for real on loopback; skipped with the reason where it cannot run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tunewright.envs.storage import gluster, ioload
from tunewright.errors import ConfigError, TargetError, TunewrightError
from tunewright.target import Budget
from tunewright.testing import check_space, check_target

needs = pytest.mark.skipif(bool(gluster.missing()), reason=f"GlusterFS: {gluster.missing()}")


def mounted(folder):
    """Whether something is mounted below a folder; others may mount elsewhere meanwhile."""
    with open("/proc/mounts") as file:
        return any("fuse.glusterfs" in line and str(folder) in line.split()[1] for line in file)


@needs
def test_the_contract(tmp_path):
    target = gluster.GlusterTarget(scale=0.1)
    check_target(target, workload="shared-small", others=2)
    assert target.facts["glusterfs"][0].isdigit()


@needs
@pytest.mark.parametrize("workload", list(gluster.GlusterTarget.workloads))
def test_every_translator_runs_under_every_load(workload, tmp_path):
    target = gluster.GlusterTarget(scale=0.05)
    every = {n: "on" for n, p in target.space.params.items() if getattr(p, "choices", None) == ("off", "on")}
    config = target.space.fill(
        {**every, "fuse.direct_io": "enable", "fuse.reader_threads": 4, "fuse.attribute_timeout": 60}
    )
    assert not target.space.problems(config)
    found = target.measure(config, workload=workload, seed=3, budget=Budget(workdir=tmp_path))
    assert found.ok, found.reason
    assert sum(found.traces["phases"].values()) == pytest.approx(found.values["seconds"])
    assert not mounted(tmp_path) and not (tmp_path / "tunewright-gluster" / "volume").exists()


@needs
def test_a_killed_run_leaves_nothing_after_cleanup(tmp_path):
    target = gluster.GlusterTarget()
    code = (
        "from pathlib import Path\nfrom tunewright.envs.storage.gluster import GlusterTarget\nfrom tunewright.target import Budget\n"
        f"t = GlusterTarget(scale=50)\nt.measure(t.space.default, workload='own-medium', seed=1, budget=Budget(workdir=Path({str(tmp_path)!r})))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        for _ in range(2400):
            if mounted(tmp_path):
                break
            time.sleep(0.05)
        assert mounted(tmp_path), "it never came up"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    target.cleanup(tmp_path)
    target.cleanup(tmp_path)
    assert not mounted(tmp_path) and not (tmp_path / "tunewright-gluster").exists()


@needs
def test_what_does_not_start_is_a_failed_trial(tmp_path, monkeypatch):
    target = gluster.GlusterTarget(scale=0.05)
    monkeypatch.setattr(gluster, "START_S", 3.0)
    wrong = {**target.space.default, "io_threads": "many"}
    found = target.measure(wrong, workload="metadata", seed=1, budget=Budget(workdir=tmp_path))
    assert found.status == "failed" and "did not start" in found.reason and not mounted(tmp_path)


def test_volume_files_name_what_is_on():
    space = gluster.space()
    check_space(space)
    text = gluster.client_file(
        [1, 2], space.fill({"io_cache": "on", "md_cache": "off", "write_behind.cache_size": 2**20})
    )
    assert "option cache-size 1048576" in text and "performance/io-cache" in text and "md-cache" not in text
    assert "option remote-host 127.0.0.1" in text and "subvolumes brick-0 brick-1" in text
    brick = gluster.brick_file("/b", 5, space.default)
    assert "bind-address 127.0.0.1" in brick and "listen-port 5" in brick and "thread-count 16" in brick


def test_the_settings_in_the_systems_own_form(monkeypatch):
    monkeypatch.setattr(gluster, "missing", lambda: "")
    monkeypatch.setattr(gluster.subprocess, "run", lambda *a, **k: type("Done", (), {"stdout": "glusterfs 10.3"})())
    target = gluster.GlusterTarget()
    text = target.render({**target.space.default, "io_threads": 32, "md_cache": "off", "fuse.direct_io": "enable"})
    assert "gluster volume set VOLUME performance.io-thread-count 32" in text
    assert "performance.stat-prefetch off" in text and "direct-io-mode=enable" in text


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="glusterfs and glusterfsd not installed: apt-get install"):
        gluster.open_target("", {})
    monkeypatch.undo()
    for options, why in (({"bricks": "0"}, "1 to 64"), ({"scale": "x"}, "must be a number"), ({"nope": "1"}, "nope")):
        with pytest.raises(TunewrightError, match=why):
            gluster.open_target("", options)


@pytest.mark.parametrize("load", [ioload.Load(blocks=3, transfer=5000), ioload.Load(blocks=3, shared=False, random=True, transfer=4096), ioload.Load(files=4, transfer=100)])  # fmt: skip
def test_the_load_checks_what_it_reads(load, tmp_path):
    first, second = load.phases[:2]
    assert ioload.run_phase(load, first, tmp_path, 7) > 0 and ioload.run_phase(load, second, tmp_path, 7) > 0
    victim = next(p for p in sorted(tmp_path.rglob("*")) if p.is_file())
    victim.write_bytes(b"?" + victim.read_bytes()[1:])
    with pytest.raises(TargetError, match="is not what was written"):
        ioload.run_phase(load, second, tmp_path, 7)
