"""What people write wrong in a description: found when the file is read or before anything runs, named in one line."""

import io
import os
import shutil
import stat
from types import SimpleNamespace

import pytest
from rich.console import Console

from tunewright.cli.progress import Progress
from tunewright.envs.command import open_target
from tunewright.envs.command_used import first_program, misspelt
from tunewright.errors import ConfigError

PLAIN = """
[target]
name = "plain"
command = ["echo", "{n}"]
[parameters]
n = { low = 1, high = 9, default = 2 }
[[metric]]
name = "v"
direction = "max"
regex = '([0-9]+)'
"""


@pytest.fixture
def described(tmp_path):
    def write(more="", text=PLAIN, **replace):
        for old, new in replace.items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "plain.toml"
        path.write_text(text + more)
        return path

    return write


def refused(path):
    with pytest.raises(ConfigError) as caught:
        open_target(str(path), {})
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


@pytest.fixture
def redis_cli(tmp_path, monkeypatch):
    """A program of that name on the PATH, so that a misspelt one is near it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "redis-cli").write_text("#!/bin/sh\n")
    (folder / "redis-cli").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# -- parameters that go nowhere ---------------------------------------------------------------------


def test_a_parameter_that_is_used_nowhere_is_refused_by_name(described):
    said = refused(described(n="n", **{"[parameters]": "[parameters]\nthreads = { low = 1, high = 4, default = 1 }"}))
    assert "parameter threads: its value is not used anywhere; write {threads} into the command" in said


def test_a_placeholder_that_was_probably_meant_is_named(described):
    said = refused(
        described(
            **{
                '"{n}"': '"{n}", "-t {treads}"',
                "[parameters]": "[parameters]\nthreads = { low = 1, high = 4, default = 1 }",
            }
        )
    )
    assert "there is {treads}, which is no parameter: was that meant?" in said


@pytest.mark.parametrize(
    "use",
    [
        "[hooks]\napply = ['sh', '-c', 'echo {m}']",
        "[[file]]\npath = '{rundir}/a'\ncontent = 'm = {m}'",
        "[[file]]\npath = '{rundir}/a'\neach = '{name} {value}'",
        "[target.env]\nM = '{m}'",
        "[success]\njudge = ['test', '{m}', '-gt', '0']",
        "[[metric]]\nname = 'w'\ndirection = 'max'\nlog = '{rundir}/{m}'\nregex = '([0-9]+)'",
    ],
)
def test_every_place_where_a_value_may_go_counts(use, described):
    own = {"[parameters]": "[parameters]\nm = { low = 1, high = 4, default = 1 }"}
    assert "m" in open_target(str(described(use, **own)), {}).space.params
    refused(described(**own))


def test_a_parameter_that_only_decides_about_another_is_used(described):
    own = "[parameters]\nm = { choices = ['a', 'b'], default = 'a' }"
    path = described(**{"[parameters]": own, "default = 2 }": "default = 2, when = \"m == 'b'\" }"})
    assert list(open_target(str(path), {}).space.params) == ["m", "n"]


# -- programs that are not there --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "shell"),
    [
        ('["redis-clii", "ping"]', ""),
        ('["sh", "-c", "redis-clii config set n {n}"]', ""),
        ('"redis-clii ping"', "shell = true"),
    ],
)
def test_a_misspelt_program_of_a_hook_is_named_with_file_key_and_a_near_one(
    command, shell, described, redis_cli, tmp_path
):
    path = described(f"[hooks]\napply = {command}\n", **{'name = "plain"': f'name = "plain"\n{shell}'})
    missing = open_target(str(path), {}).preflight(workload="default", workdir=tmp_path / "w").missing
    assert len(missing) == 1
    assert f"{path}, [hooks], apply: there is no program 'redis-clii' on the PATH" in missing[0]
    assert missing[0].endswith("did you mean 'redis-cli'?")


def test_a_misspelt_program_of_the_command_is_refused_at_once(described, redis_cli):
    assert "[target]: there is no program 'redis-clii'" in refused(described(**{'"echo"': '"redis-clii"'}))


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("exec redis-cli ping", "redis-cli"), ("redis-cli; true", "redis-cli"), ("if true; then a; fi", ""),
        ("A=1 b c", ""), ("f() { b; }; f", ""), ("cd x && y", ""), ("{prog} x", ""), ("\"my prog\" x", ""),
    ],
)  # fmt: skip
def test_only_a_sure_program_of_a_shells_text_is_looked_for(text, program):
    assert first_program([text], True) == program == first_program(["sh", "-c", text], False)


def test_what_a_shell_did_not_find_gets_a_hint(redis_cli):
    assert misspelt("/bin/sh: 1: redis-clii: not found\n") == "; did you mean 'redis-cli'?"
    assert misspelt("bash: line 1: redis-clii: command not found") == "; did you mean 'redis-cli'?"
    assert misspelt("page not found") == "" == misspelt("no route")


# -- what is told beforehand ------------------------------------------------------------------------


def told(path, tmp_path):
    return open_target(str(path), {}).preflight(workload="default", workdir=tmp_path / "w")


LIVE = """
[target]
name = "live"
[service]
load = ["redis-benchmark", "-n", "10"]
TOOL
[hooks]
apply = ["redis-cli", "config", "set", "hz", "{hz}"]
[parameters]
hz = { low = 1, high = 9, default = 2 }
[[metric]]
name = "v"
direction = "max"
regex = '([0-9]+)'
"""


@pytest.fixture
def redis_benchmark(redis_cli, tmp_path):
    shutil.copy(tmp_path / "bin" / "redis-cli", tmp_path / "bin" / "redis-benchmark")


@pytest.mark.parametrize("tool", ["", 'tool = "redis-benchmark"'])
def test_what_a_load_leaves_in_a_server_of_the_users_is_told(tool, described, redis_benchmark, tmp_path):
    [left] = told(described(text=LIVE.replace("TOOL", tool)), tmp_path).leaves
    assert "keys such as key:000000000042" in left and "a rollback command under [hooks] can remove that" in left
    own = LIVE.replace("TOOL", f'start = ["redis-cli", "{{port}}"]\n{tool}')
    assert not told(described(text=own), tmp_path).leaves, "a server of the session's own goes with its data"
    other = LIVE.replace("TOOL", "").replace('"redis-benchmark"', '"redis-cli"')
    assert told(described(text=other), tmp_path).leaves == ["What the load writes into the server stays there."]


def test_a_parameter_that_a_guarantee_forbids_to_change_is_not_said_to_be_changed(described, tmp_path):
    own = """[parameters]
fsync = { choices = ["on", "off"], default = "on", restart = true }
level = { choices = ["a", "b"], default = "a", restart = true }"""
    guarantee = """
[[guarantee]]
name = "durability"
[[guarantee.level]]
when = "fsync == 'on'"
[[guarantee.level]]
loses = "all"
"""
    guarantee += "[hooks]\napply = ['true', '{fsync}', '{level}']\n"
    path = described(guarantee, **{"[parameters]": own})
    assert "New values are given to level, n." in told(path, tmp_path).changes
    [note] = [line for line in told(path, tmp_path).notes if "take more than being written" in line]
    assert "level (restart)" in note and "fsync" not in note


def test_the_progress_line_says_what_a_run_waits_for():
    class Target:
        def waiting(self, workdir):
            return "the load has had no connection"

    session = SimpleNamespace(target=Target(), workdir=None, best=None, objectives=(), decided=(), careful="")
    console = Console(width=100, file=io.StringIO())
    progress = Progress(console, trials=1, minutes=None)
    progress.session, progress.status = session, "trial 1"
    console.print(progress._render())
    assert "trial 1" in console.file.getvalue() and "the load has had no connection" in console.file.getvalue()
