"""Third-party targets, tuners and commands, found through entry points like our own."""

import json
import subprocess
import sys

import pytest

MODULE = """
from tunewright import BaseTarget, Int, Measurement, Metric, Space
from tunewright.tuner import BaseTuner, Suggestion

class Theirs(BaseTarget):
    '''Their target.'''
    name = "theirs"
    space = Space([Int(name="n", low=1, high=9, default=1)])
    metrics = (Metric(name="speed", direction="max"),)

    def measure(self, config, *, workload, seed, budget):
        return Measurement(values={"speed": config["n"]})

def open_target(argument, options):
    return Theirs()

class Upward(BaseTuner):
    '''Counts upward.'''
    def ask(self, history):
        return Suggestion(config={"n": min(history.step + 1, 9)}, why="one more")
"""

COMMANDS = """
from typing import Annotated
import typer
from tunewright.cli.options import Json, command

single, group = typer.Typer(), typer.Typer(help="Several of theirs.")

@command(single, "any", lambda screen, document: screen.print(f"counted to {document['n']}"))
def count(n: Annotated[int, typer.Option("--to", help="How far.")] = 3, as_json: Json = False):
    '''Count like them.'''
    return {"n": n}

@group.command("one")
def one():
    '''The first.'''
    print("one of theirs")

@group.command("two")
def two():
    from tunewright.errors import ConfigError
    raise ConfigError("not two")

def plain(word: str, loud: bool = False):
    '''Say a word.'''
    print(word.upper() if loud else word)
"""


@pytest.fixture
def plugin(tmp_path):
    """A distribution on the module path, as pip would lay it out."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "theirs.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tunewright.targets]\ntheirs = theirs:open_target\nbroken = no_such_module:open_target\n[tunewright.tuners]\nupward = theirs:Upward\n"
    )
    return site


def ran(plugin, *words):
    code = f"import sys; sys.path.insert(0, {str(plugin)!r}); from tunewright.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def run(plugin, *words):
    done = ran(plugin, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plugins_target_and_tuner_work_like_our_own(plugin, tmp_path):
    listed = {row["name"]: row for row in run(plugin, "targets", "--json")}
    assert listed["theirs"]["available"]
    assert not listed["broken"]["available"], "a broken plugin must not break the others"
    found = run(
        plugin,
        "tune",
        "theirs",
        "-t",
        "upward",
        "-n",
        "9",
        "--trust",
        "fast",
        "--store",
        f"sqlite:///{tmp_path}/s.db",
        "--json",
    )
    assert found["best"]["config"] == {"n": 9}
    assert found["ratio"] == pytest.approx(9)
    assert found["trials"] == 9


def test_a_plugin_passes_the_contract_suites(plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(plugin))
    import theirs

    from tunewright.testing import check_target

    check_target(theirs.Theirs())


@pytest.fixture
def commands(tmp_path):
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "theirs.py").write_text(COMMANDS)
    (site / "raises.py").write_text("raise ValueError('no\\nluck')")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = {
        "count": "theirs:single", "several": "theirs:group", "plain": "theirs:plain", "raises": "raises:app",
        "missing": "theirs:nothing", "number": "theirs:__name__", "tune": "raises:tune",
    }  # fmt: skip
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[tunewright.commands]\n{lines}")
    return site


def test_a_plugins_commands_work_like_our_own(commands):
    assert run(commands, "count", "--to", "5", "--json") == {"n": 5}
    assert ran(commands, "count").stdout == "counted to 3\n"
    assert ran(commands, "several", "one").stdout == "one of theirs\n"
    assert ran(commands, "plain", "hello", "--loud").stdout == "HELLO\n"
    refused = ran(commands, "several", "two")
    assert (refused.returncode, refused.stderr) == (1, "error: not two\n")
    assert "How far." in ran(commands, "count", "--help").stdout


def test_a_broken_command_breaks_no_other(commands):
    listed = ran(commands, "--help")
    assert listed.returncode == 0
    for words in ("Count like them.", "Several of theirs.", "Say a word.", "Tune a target", "Simulate schedulers"):
        assert words in listed.stdout
    said = listed.stderr.splitlines()
    assert len(said) == 3 and all("of theirs is broken" in line for line in said)
    assert {line.split("'")[1] for line in said} == {"raises", "missing", "number"}
    alone = ran(commands, "raises")
    assert alone.returncode == 1 and alone.stderr.startswith("error: the command 'raises' of theirs is broken")
    assert len(alone.stderr.splitlines()) == 1
    fine = ran(commands, "tune", "--help")
    assert fine.returncode == 0 and fine.stderr == "" and "Tune a target" in fine.stdout, "the core's names stay"
    assert ran(commands, "count").stderr == ""
    unknown = ran(commands, "severel")
    assert unknown.returncode == 2 and "several" in unknown.stderr


def test_a_command_is_a_function_that_returns_a_document(commands, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(commands))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    import theirs

    assert theirs.count(n=2) == {"n": 2}
    assert capsys.readouterr().out == ""
    monkeypatch.delitem(sys.modules, "theirs")
