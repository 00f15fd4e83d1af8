"""Settings of the machine as parameters: what may be named, set before each run, and always put back."""

import os
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from machine_below import FILES, KEYS, Felt, contents, machine, set_by_others, target

from tunewright.envs.command_file import load_description
from tunewright.envs.machine import live
from tunewright.envs.machine.description import machine_parameters
from tunewright.envs.machine.keys import find, key, read_keys
from tunewright.envs.machine.live import Machine
from tunewright.envs.machine.target import MachineTarget
from tunewright.errors import ConfigError, HeldError, TargetError, TunewrightError
from tunewright.sessions.changes import Owner, changing, protected
from tunewright.sessions.originals import noticing
from tunewright.sessions.session import Session
from tunewright.space import Space
from tunewright.store.plan import Plan
from tunewright.target import Budget
from tunewright.testing import Sphere, check_space

OWNER = Owner(what="session 'a'", store="sqlite:////nowhere/s.db", name="a", target="felt", options={})
PLAN = Plan(target="felt", tuner="random", trust="fast")


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name", "default", "text_of"),
    [
        ("vm.swappiness", "vm.swappiness", 60, {60: "60", 10: "10"}),
        ("thp", "thp", "madvise", {"never": "never"}),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "thp", "madvise", {"always": "always"}),
        ("read_ahead_kb@vda", "read_ahead_kb.vda", 128, {0: "0", 4096: "4096"}),
        ("scheduler@vda", "scheduler.vda", "mq-deadline", {"none": "none"}),
        ("memory.high@/db.slice", "memory.high.db.slice", -1, {-1: "max", 100: str(100 * 2**20)}),
        ("io.weight@db.slice", "io.weight.db.slice", 100, {200: "200"}),
    ],
)
def test_a_setting_is_a_parameter_whose_default_is_todays_value(tmp_path, words, name, default, text_of):
    (one,) = read_keys(words, machine(tmp_path))
    assert (one.name, one.param.default) == (name, default)
    assert {value: one.text(value) for value in text_of} == text_of


def test_choices_are_those_that_the_kernel_lists_and_the_list_allows(tmp_path):
    below = machine(tmp_path)
    thp, scheduler = read_keys("thp,scheduler@vda", below)
    assert thp.param.choices == ("always", "madvise", "never")
    assert scheduler.param.choices == ("none", "mq-deadline", "bfq")


def test_a_default_outside_the_list_widens_the_range_and_is_written_as_it_was(tmp_path):
    below = machine(tmp_path)
    set_by_others(below.root, "proc/sys/vm/swappiness", "0")
    set_by_others(below.root, "sys/fs/cgroup/db.slice/memory.high", str(3 * 2**30 + 4096))
    swap, high = read_keys("vm.swappiness,memory.high@/db.slice", below)
    assert (swap.param.low, swap.param.default) == (0, 0)
    assert high.param.default == 3072 and high.text(3072) == str(3 * 2**30 + 4096)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("vm.swapiness", "cannot be tuned: cannot read /proc/sys/vm/swapiness: there is no such setting here"),
        ("swappiness", "no setting of the machine named 'swappiness'. Did you mean 'vm.swappiness'"),
        ("vm.overcommit_memory", "not on the list of settings that are safe to tune"),
        ("allow:vm.overcommit_memory", "say what to try: allow:vm.overcommit_memory=LOW..HIGH"),
        ("allow:vm.drop_caches=1..3", "never tuned"),
        ("allow:kernel.panic=0..1", "never tuned"),
        ("allow:/sys/block/vda/queue/write_cache=write back|write through", "never tuned"),
        ("allow:/sys/devices/pci/vda/queue/write_cache=a|b", "never tuned"),
        ("allow:/proc/sys/../../etc/sysctl.d/10-own.conf=1..2", "must lie below /proc/sys or /sys"),
        ("allow:/etc/passwd=1..2", "must lie below /proc/sys or /sys"),
        ("vm.swappiness=0..100", "not within 1 to 200"),
        ("vm.swappiness=x", "write vm.swappiness=LOW..HIGH"),
        ("thp=always|sometimes", "no value of thp named 'sometimes'"),
        ("read_ahead_kb", "write read_ahead_kb@DEVICE, one of vda"),
        ("read_ahead_kb@sda", "no block device named 'sda'"),
        ("memory.high@/other", "there is no control group /other"),
        ("memory.high@/", "the root group has no limits"),
        ("memory.high@/../x", "say whose memory.high"),
        ("cpu.weight@/db.slice", "has no cpu.weight"),
        ("vm.dirty_bytes", "off here, since vm.dirty_ratio is set instead"),
        ("thp,/sys/kernel/mm/transparent_hugepage/enabled", "are the same setting"),
        (",", "say which settings of the machine"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_a_line(tmp_path, words, said):
    with pytest.raises(TunewrightError) as raised:
        read_keys(words, machine(tmp_path))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_the_users_word_allows_what_the_list_does_not_know(tmp_path):
    (one,) = read_keys("allow:vm.overcommit_memory=0..1", machine(tmp_path))
    assert (one.param.low, one.param.high, one.param.default) == (0, 1, 0)
    assert "you allowed it" in one.breaks


def test_only_values_that_the_kernel_takes_as_they_are(tmp_path):
    (one,) = read_keys("read_ahead_kb@vda", machine(tmp_path))
    space = Space([one.param])
    assert all(space.decode(np.array([u]))["read_ahead_kb.vda"] % 4 == 0 for u in np.linspace(0, 1, 200))


def test_links_do_not_lead_out_of_the_settings(tmp_path):
    below = machine(tmp_path)
    (tmp_path / "elsewhere").write_text("1\n")
    (below.root / "sys/mine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="must lie below"):
        find("/sys/mine", below)


def test_every_listed_setting_that_this_machine_has_is_a_parameter():
    """Reads the real machine, and writes nothing."""
    from tunewright.envs.machine import allowed

    here, found = Machine(), 0
    for words in [*allowed.SYSCTL, *allowed.NAMES]:
        named = find(words, here)
        if here.file(named.path).exists() and named.on_list.twin == "":
            one = key(named, here, wanted={}, anything=False)
            assert one.param.problem(one.param.default, {}) is None
            assert one.text(one.param.default) == one.before
            found += 1
    assert found >= 5


# -- a target with settings -------------------------------------------------------------------------


def test_rules_between_settings_and_the_space(tmp_path):
    made = target(tmp_path)
    check_space(made.space, samples=50)
    assert "does not hold" in " ".join(made.space.problems({**made.space.default, "vm.dirty_background_ratio": 30}))


def test_simulated_targets_are_refused(tmp_path):
    below = machine(tmp_path)
    with pytest.raises(ConfigError, match="simulated"):
        MachineTarget(Sphere(), read_keys("thp", below), below)


def test_a_session_feels_the_settings_and_leaves_everything_as_it_was(tmp_path, store):
    made = target(tmp_path, isolated=False)
    before = contents(made.machine.root)
    session = Session.create(PLAN, "a", store, target=made)
    session.run(trials=12)
    assert contents(made.machine.root).items() >= {k: v for k, v in before.items() if "[" not in v}.items()
    assert live.same(made.machine.read("/sys/kernel/mm/transparent_hugepage/enabled"), "madvise")
    felt = {int(line) for line in (tmp_path / "felt.log").read_text().split()}
    assert felt >= {20} and len(felt) > 4, "runs saw the candidates' values"
    tried = [t.config["vm.dirty_ratio"] for t in session.decided]
    assert [round(t.metrics["speed"] - 100 - t.config["n"] / 1000) for t in session.decided] == tried


def test_preflight_lists_each_setting_with_todays_value(tmp_path):
    made = target(tmp_path)
    said = made.preflight(workload="only", workdir=tmp_path / "work")
    assert any(
        text.startswith("vm.dirty_ratio of this machine, today 20 %, is set to 5 to 60.") for text in said.changes
    )
    assert any("memory.high.db.slice of this machine, today -1 MB" in text for text in said.changes)
    assert len(said.changes) == len(KEYS.split(",")) == len(said.locks)
    assert said.missing == [] and not (tmp_path / "work").exists()
    assert contents(made.machine.root) == {name: f"{text}\n" for name, text in FILES.items()}


@contextmanager
def unwritable(made, monkeypatch, name, number):
    """A setting that cannot be opened for writing, as on a file system mounted read-only; root writes all others."""
    real = os.open

    def refuse(path, flags, *rest, **how):
        if str(path).endswith(name) and flags & os.O_WRONLY:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        yield


@pytest.mark.parametrize(
    ("number", "why", "then"), [(30, "read-only", "from outside the container"), (13, "needs root", "as root")]
)
def test_a_setting_that_cannot_be_written_is_missing_and_nothing_is_changed(
    tmp_path, store, monkeypatch, number, why, then
):
    made = target(tmp_path, isolated=False)
    before = contents(made.machine.root)
    with unwritable(made, monkeypatch, "vm/dirty_ratio", number):
        (missing,) = made.preflight(workload="only", workdir=tmp_path).missing
        assert missing.startswith("vm.dirty_ratio cannot be set") and why in missing and then in missing
        with pytest.raises(TargetError, match="vm.dirty_ratio cannot be set"):
            Session.create(PLAN, "a", store, target=made).run(trials=2)
    assert contents(made.machine.root) == before


def test_a_real_read_only_mount(tmp_path):
    """The machine's own way of refusing: files on a mount that is read-only, as containers have it."""
    sealed = tmp_path / "sealed"
    machine(tmp_path)
    sealed.mkdir()
    mounted = subprocess.run(["mount", "--bind", tmp_path / "root", sealed], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", sealed], check=True)
        below = Machine(root=sealed)
        made = MachineTarget(Felt(tmp_path), read_keys("vm.swappiness,thp", below), below)
        missing = made.preflight(workload="only", workdir=tmp_path).missing
        assert [text.split(" ")[0] for text in missing] == ["vm.swappiness", "thp"]
        assert all("mounted read-only here" in text for text in missing)
    finally:
        subprocess.run(["umount", sealed], check=True)


def test_a_trial_is_never_half_applied(tmp_path, monkeypatch):
    made = target(tmp_path, isolated=False)
    before = contents(made.machine.root)
    with protected(made, OWNER, tmp_path / "work"):
        config = {**made.space.default, "vm.dirty_ratio": 40, "read_ahead_kb.vda": 4096}
        (tmp_path / "felt.log").unlink(missing_ok=True)
        with (
            unwritable(made, monkeypatch, "queue/read_ahead_kb", 22),
            pytest.raises(TargetError, match=r"cannot set .*read_ahead_kb to 4096: the kernel does not take it"),
        ):
            made.measure(config, workload="only", seed=0, budget=Budget(workdir=tmp_path))
        assert contents(made.machine.root)["proc/sys/vm/dirty_ratio"] == before["proc/sys/vm/dirty_ratio"]
        assert not (tmp_path / "felt.log").exists(), "nothing was measured"


def test_what_the_kernel_makes_of_a_value_is_compared(tmp_path, monkeypatch):
    below = machine(tmp_path)
    monkeypatch.setattr(Machine, "_write", lambda self, path, text: self.file(path).write_text("32\n"))
    with pytest.raises(TargetError, match=r"the kernel made 32 of 7 in /sys/block/vda/queue/read_ahead_kb"):
        below.write("/sys/block/vda/queue/read_ahead_kb", "7")


def test_what_somebody_else_set_meanwhile_is_left_with_a_sentence(tmp_path, store):
    made, told = target(tmp_path, isolated=False), []
    session = Session.create(PLAN, "a", store, target=made)
    real = made.inner.measure

    def measure(*words, **how):
        done = real(*words, **how)
        if len(session.decided) == 2:
            set_by_others(made.machine.root, "proc/sys/vm/swappiness", "5")
        return done

    made.inner.measure = measure
    session.watcher.told = lambda session, text: told.append(text)
    session.run(trials=3, verify=False)
    assert made.machine.read("/proc/sys/vm/swappiness") == "5", "no setting of the session: nobody's business"
    with protected(made, OWNER, tmp_path / "work", told.append):
        live.Writer(made.machine, made._state).set({"vm.dirty_ratio": "40"})
        set_by_others(made.machine.root, "proc/sys/vm/dirty_ratio", "33")
    assert made.machine.read("/proc/sys/vm/dirty_ratio") == "33"
    assert any(
        "vm.dirty_ratio is 33 and was 20 before: somebody else set it meanwhile" in text
        and text.endswith("sysctl -w vm.dirty_ratio=20")
        for text in told
    )


def test_two_sessions_never_change_the_same_setting(tmp_path):
    one, other = target(tmp_path, "thp,vm.swappiness"), target(tmp_path, "/sys/kernel/mm/transparent_hugepage/enabled")
    apart = target(tmp_path, "vm.dirty_ratio")
    with changing(one, OWNER, print):
        with changing(apart, OWNER, print):
            pass
        with (
            pytest.raises(
                HeldError, match="transparent_hugepage/enabled of the machine is being changed by session 'a'"
            ),
            changing(other, OWNER, print),
        ):
            pass


# -- descriptions and the command line ----------------------------------------------------------------


TOML = """
[target]
name = "cat"
command = ["sh", "-c", "cat /proc/sys/vm/dirty_ratio; echo {n}"]
constraints = ["vm.dirty_ratio < 90"]
[[parameter]]
sysctl = "vm.dirty_ratio"
low = 10
high = 40
[[parameter]]
name = "huge"
sysfs = "/sys/kernel/mm/transparent_hugepage/enabled"
choices = ["always", "madvise"]
[[parameter]]
name = "n"
type = "int"
low = 1
high = 9
default = 2
[[metric]]
name = "v"
direction = "max"
regex = '([0-9]+)'
"""


class Row(dict):
    """A table of a description, as the description's own reader gives it."""

    def __init__(self, where, data, known):
        super().__init__(data)

    def get(self, name, kind, default=None, *, needed=False):
        return super().get(name, default)


def test_settings_in_a_description(tmp_path):
    below = machine(tmp_path)
    rows = [
        {"sysctl": "vm.dirty_ratio", "low": 10, "high": 40},
        {"name": "n", "type": "int"},
        {"cgroup": "memory.high", "group": "/db.slice", "name": "limit", "low": 100, "high": 200},
    ]
    found = machine_parameters(Path("x.toml"), rows, Row, below)
    assert {place: one.name for place, one in found.items()} == {0: "vm.dirty_ratio", 2: "limit"}
    assert (found[0].param.low, found[0].param.high) == (10, 40)
    with pytest.raises(ConfigError, match=r"x.toml, parameter number 1: say whose memory.high it is"):
        machine_parameters(Path("x.toml"), [{"cgroup": "memory.high"}], Row, below)
    with pytest.raises(ConfigError, match=r"x.toml, parameter number 1: give one of"):
        machine_parameters(Path("x.toml"), [{"sysctl": "vm.swappiness", "sysfs": "/sys/x"}], Row, below)


def test_a_description_with_settings_opens(tmp_path, cli):
    path = tmp_path / "cat.toml"
    path.write_text(TOML)
    if not Path("/proc/sys/vm/dirty_ratio").exists() or Path("/proc/sys/vm/dirty_ratio").read_text() == "0\n":
        pytest.skip("this machine has no vm.dirty_ratio in force")
    about = load_description(path)
    assert [one.name for one in about.machine] == ["vm.dirty_ratio", "huge"]
    assert set(about.space.params) == {"vm.dirty_ratio", "huge", "n"}
    shown = cli("show", path).stdout
    assert "vm.dirty_ratio" in shown and "10 to 40" in shown
    path.write_text(TOML.replace('sysctl = "vm.dirty_ratio"', 'sysctl = "kernel.panic"'))
    assert "parameter number 1: kernel.panic is never tuned" in cli("show", path, code=1).stderr
    path.write_text(TOML.replace("high = 40", "high = 40\nstep = 2"))
    assert "no key named 'step'" in cli("show", path, code=1).stderr


def test_the_option_machine_adds_settings_to_any_target(tmp_path, cli):
    shown = cli("show", "sqlite", "--option", "machine=thp,vm.stat_interval")
    assert "vm.stat_interval" in shown.stdout and "journal_mode" in shown.stdout
    told = cli("tune", "sqlite", "--machine", "kernel.panic", code=1, env={"TUNEWRIGHT_HOME": str(tmp_path)}.items())
    assert told.stderr.strip().endswith("a bad value may stop the machine or lock you out of it")
    assert "simulated" in cli("tune", "lustre", "--machine", "thp", code=1).stderr


def test_nothing_said_of_a_machine_is_executable_or_readable_by_others(tmp_path):
    made = target(tmp_path)
    with protected(made, OWNER, tmp_path / "work") as runs:
        live.Writer(made.machine, made._state).set({"vm.dirty_ratio": "40"})
        note = runs.records.note / "machine.written"
        assert stat.S_IMODE(note.stat().st_mode) == 0o600
        with noticing():
            made.revert()
        assert made.machine.read("/proc/sys/vm/dirty_ratio") == "20"
