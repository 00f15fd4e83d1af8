"""Lustre for real, through stand-ins for its executables that refuse every call that is not legal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunewright.envs.storage.lustre.real import LustreReal
from tunewright.envs.storage.lustre.target import open_target
from tunewright.errors import ConfigError, TargetError, UnknownNameError
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import Budget
from tunewright.testing import check_target

STUB = Path(__file__).with_name("lustre_stub.py")
#: faster with more stripes and more RPCs in flight; sees the layout of its directory and the devices
LOAD = """
import json, sys, time, pathlib
state = json.loads(pathlib.Path(sys.argv[2]).read_text())
pathlib.Path(sys.argv[1], "file").write_text("x")
count = state["layouts"][sys.argv[1]][0]
rpcs = state["values"]["osc.lfs1-OST0000-osc-ff.max_rpcs_in_flight"]
time.sleep(0.02 + 0.2 / ((3 if count == -1 else count) + rpcs / 16))
sys.exit(3 if state["values"]["llite.lfs1-ff.statahead_max"] == 0 else 0)
"""


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A mounted file system with its tools on the path."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("lfs", "lctl", "mount", "umount"):
        (tools / name).write_text(f"#!{sys.executable} -IS\n{STUB.read_text()}")
        (tools / name).chmod(0o755)
    (tmp_path / "mnt" / "scratch").mkdir(parents=True)
    (tmp_path / "load.py").write_text(LOAD)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("LUSTRE_STUB", str(tmp_path / "state.json"))
    yield tmp_path
    assert not (tmp_path / "refused").exists(), (tmp_path / "refused").read_text()


def state(system):
    return json.loads((system / "state.json").read_text())


def options(system, **more):
    return {
        "command": f"{sys.executable} {system / 'load.py'} {{dir}} {system / 'state.json'}",
        "drop_caches": "no",
        **more,
    }


def opened(system, **more):
    return open_target(str(system / "mnt" / "scratch"), options(system, **more))


def test_the_contract(system):
    check_target(opened(system), others=2)


def test_its_space_is_the_systems_own(system):
    target = opened(system)
    assert len(target.space) == 13 and target.facts["OST_COUNT"] == 3, "the inactive target does not count"
    assert target.space.default["osc.max_rpcs_in_flight"] == 8
    values = {**state(system)["values"], "osc.lfs1-OST0000-osc-ff.max_rpcs_in_flight": 300}
    values = {
        d: 300 if d.startswith("osc.lfs1") and d.endswith("max_rpcs_in_flight") else v
        for d, v in values.items()
        if "statahead" not in d
    }
    (system / "state.json").write_text(json.dumps({**state(system), "values": values}))
    target = opened(system)
    assert target.space.default["osc.max_rpcs_in_flight"] == 300, (
        "a value of the system's own is legal, whatever the manual says"
    )
    assert len(target.space) == 12 and "statahead" in target.facts["not_on_this_system"]


@pytest.mark.slow
@pytest.mark.alone
def test_a_session_tunes_it_and_puts_everything_back(system):
    before = None
    store = Store(f"sqlite:///{system / 's.db'}")
    scratch = system / "mnt" / "scratch"
    plan = Plan(target=f"lustre:{scratch}", tuner="playbook", trust="fast", options=options(system))
    with Session.create(plan, "a", store) as session:
        before = state(system)["values"]
        verdict = session.run(trials=2)
    assert verdict.improved and verdict.config["osc.max_rpcs_in_flight"] > 8
    assert "lctl set_param osc.*.max_rpcs_in_flight=" in session.target.render(verdict.config)
    assert state(system)["values"] == before and before["osc.other-OST0000-osc-aa.max_rpcs_in_flight"] == 5
    assert not list(scratch.iterdir())


def test_each_device_gets_its_own_value_back(system):
    target = opened(system)
    odd = {**state(system)["values"], "osc.lfs1-OST0001-osc-ff.max_rpcs_in_flight": 21}
    (system / "state.json").write_text(json.dumps({**state(system), "values": odd}))
    held = target.snapshot(system)
    config = {
        **target.space.default,
        "osc.max_rpcs_in_flight": 64,
        "mdc.max_rpcs_in_flight": 40,
        "mdc.max_mod_rpcs_in_flight": 39,
    }
    assert target.measure(config, workload="command", seed=1, budget=Budget(workdir=system)).ok
    assert state(system)["values"]["osc.lfs1-OST0001-osc-ff.max_rpcs_in_flight"] == 64
    target.restore(held)
    assert state(system)["values"] == odd
    target.restore(held)


def test_remounting_comes_before_setting(system):
    (system / "mounts").write_text(f"server@tcp:/lfs1 {system / 'mnt'} lustre rw,flock 0 0\n")
    target = opened(system, remount="yes", mounts=str(system / "mounts"))
    config = {**target.space.default, "osc.max_rpcs_in_flight": 64}
    assert target.measure(config, workload="command", seed=1, budget=Budget(workdir=system)).ok
    calls = [c[0] if c[0] != "lctl" else c[1] for c in state(system)["calls"]]
    assert calls.index("umount") < calls.index("mount") < calls.index("set_param")
    assert state(system)["values"]["osc.lfs1-OST0002-osc-ff.max_rpcs_in_flight"] == 64


def test_what_the_system_does_not_take_is_a_failed_trial(system, monkeypatch):
    target = opened(system)
    monkeypatch.setenv("LUSTRE_STUB_DEAF", "max_dirty_mb")
    found = target.measure(
        {**target.space.default, "osc.max_dirty_mb": 100}, workload="command", seed=1, budget=Budget(workdir=system)
    )
    assert found.status == "failed" and "is 2000 after it was set to 100" in found.reason
    monkeypatch.delenv("LUSTRE_STUB_DEAF")
    found = target.measure(
        {**target.space.default, "llite.statahead_max": 0}, workload="command", seed=1, budget=Budget(workdir=system)
    )
    assert found.status == "failed" and "exit code 3" in found.reason
    assert not list((system / "mnt" / "scratch").iterdir())


def test_apply_and_rollback(system):
    target = opened(system)
    before = state(system)["values"]
    undo = target.undo(system)
    target.apply(
        {**target.space.default, "stripe_count": -1, "mdc.max_rpcs_in_flight": 6, "mdc.max_mod_rpcs_in_flight": 5}
    )
    scratch = str(system / "mnt" / "scratch")
    assert (
        state(system)["layouts"][scratch] == [-1, 1048576]
        and state(system)["values"]["mdc.lfs1-MDT0000-mdc-ff.max_rpcs_in_flight"] == 6
    )
    target.rollback(json.loads(json.dumps(undo)))
    assert state(system)["values"] == before and state(system)["layouts"][scratch] == [1, 1048576]


def test_a_killed_session_is_put_back(system):
    (system / "load.py").write_text(LOAD.replace("time.sleep(0.02", "time.sleep(0.6"))
    target = opened(system)
    before = state(system)["values"]
    code = f"""
from tunewright.store.plan import Plan
from tunewright.sessions.session import Session
from tunewright.store.store import Store
plan = Plan(target="lustre:{system / "mnt" / "scratch"}", tuner="playbook", trust="fast", options={options(system)!r})
with Session.create(plan, "k", Store("sqlite:///{system / "k.db"}")) as session:
    session.run(trials=9)
"""
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        for _ in range(2400):
            time.sleep(0.05)
            if state(system)["values"] != before:
                break
        assert state(system)["values"] != before, "the first configuration was never set"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for _ in range(1200):  # its measurement, in a group of its own, ends with it or by itself
        if not list((system / "mnt" / "scratch").iterdir()):
            break
        time.sleep(0.05)
    with Session.resume("k", Store(f"sqlite:///{system / 'k.db'}")) as session:
        session.run(trials=1, verify=False)
    assert state(system)["values"] == before and not list((system / "mnt" / "scratch").iterdir())
    assert target.read() == {d: v for d, v in before.items() if ".lfs1-" in d}


def test_bad_input_is_told(system, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no directory"):
        open_target(str(tmp_path / "none"), {})
    for wrong, why in (({"noise": "0"}, "option of target"), ({"remount": "maybe"}, "yes or no")):
        with pytest.raises((ConfigError, UnknownNameError), match=why):
            open_target(str(system / "mnt" / "scratch"), wrong)
    target = open_target(str(system / "mnt" / "scratch"), {"ior": "no-such-ior", "drop_caches": "no"})
    with pytest.raises(TargetError, match="no-such-ior is not installed"):
        target.measure(target.space.default, workload="ior-16m", seed=1, budget=Budget(workdir=tmp_path))
    target = open_target(str(system / "mnt" / "scratch"), options(system, drop_caches="/nonexistent/drop"))
    with pytest.raises(TargetError, match="caches cannot be dropped"):
        target.measure(target.space.default, workload="command", seed=1, budget=Budget(workdir=tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="lfs is not installed"):
        LustreReal(system / "mnt" / "scratch")


def test_ior_and_mdtest_are_called_in_the_directory(system):
    tool = system / "bin" / "ior"
    tool.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\npathlib.Path({str(system / 'said')!r}).write_text(' '.join(sys.argv[1:]))\n"
    )
    tool.chmod(0o755)
    target = open_target(str(system / "mnt" / "scratch"), {"launch": "env", "drop_caches": "no"})
    assert target.measure(target.space.default, workload="ior-64k", seed=1, budget=Budget(workdir=system)).ok
    said = (system / "said").read_text()
    assert "-z -t 64k" in said and str(system / "mnt" / "scratch" / "tunewright-") in said
