"""Third-party targets, tuners and commands, found through entry points like our own."""

import json
import subprocess
import sys

import pytest

from tunewright.plugins import split_spec

MODULE = """
from tunewright import BaseTarget, Int, Measurement, Metric, Space
from tunewright.plugins import split_spec
from tunewright.tuner import BaseTuner, Suggestion

class Theirs(BaseTarget):
    '''Their target.'''
    name = "theirs"
    exact = True
    space = Space([Int(name="n", low=1, high=3, default=1)])
    metrics = (Metric(name="speed", direction="max"),)

    def measure(self, config, *, workload, seed, budget):
        return Measurement(values={"speed": config["n"]})

def open_target(argument, options):
    return Theirs()

class Upward(BaseTuner):
    '''Counts upward.'''
    def ask(self, history):
        return Suggestion(config={"n": min(history.step + 1, 3)}, why="one more")
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


def distribution(site, modules, points):
    """Lay out a distribution as pip would.

    Args:
        site: a folder, made if it is not there; on the module path it is installed.
        modules: their code by name.
        points: entry points by group.
    """
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    for name, code in modules.items():
        (site / f"{name}.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    groups = (
        f"[tunewright.{group}]\n" + "".join(f"{name} = {place}\n" for name, place in named.items())
        for group, named in points.items()
    )
    (info / "entry_points.txt").write_text("".join(groups))
    return site


@pytest.fixture
def plugin(tmp_path):
    targets = {"theirs": "theirs:open_target", "broken": "no_such_module:open_target"}
    points = {"targets": targets, "tuners": {"upward": "theirs:Upward"}}
    return distribution(tmp_path / "site", {"theirs": MODULE}, points)


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
        "3",
        "--trust",
        "fast",
        "--store",
        f"sqlite:///{tmp_path}/s.db",
        "--json",
    )
    assert found["best"]["config"] == {"n": 3}
    assert found["ratio"] == pytest.approx(3)
    assert found["trials"] == 3


def test_a_plugin_passes_the_contract_suites(plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(plugin))
    import theirs

    from tunewright.testing import check_target

    check_target(theirs.Theirs())


@pytest.fixture
def commands(tmp_path):
    points = {
        "count": "theirs:single", "several": "theirs:group", "plain": "theirs:plain", "raises": "raises:app",
        "missing": "theirs:nothing", "number": "theirs:__name__", "tune": "raises:tune",
    }  # fmt: skip
    modules = {"theirs": COMMANDS, "raises": "raise ValueError('no\\nluck')"}
    return distribution(tmp_path / "site", modules, {"commands": points})


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


@pytest.mark.parametrize(
    "raised",
    ["raise ValueError('no\\nluck')", "raise SystemExit(3)", "raise GeneratorExit", "class E(BaseException): pass\nraise E('odd')",
     "import no_such_module", "open_target = 5", "1 / 0", "def f(): f()\nf()", "class E(Exception):\n    def __str__(self): 1 / 0\nraise E",
     "raise KeyboardInterrupt"],
)  # fmt: skip
def test_a_plugin_may_raise_anything(tmp_path, raised, cli, monkeypatch):
    named = {"theirs": "theirs:open_target"}
    distribution(tmp_path / "site", {"theirs": raised}, dict.fromkeys(("targets", "tuners", "commands"), named))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(sys.modules, "theirs", None)  # so that it is gone afterwards
    for what, ours in (("targets", "sqlite"), ("tuners", "tpe")):
        sys.modules.pop("theirs", None)
        rows = {r["name"]: r for r in json.loads(cli(what, "--json").stdout)}
        assert rows[ours]["available"] and not rows["theirs"]["available"]
        assert rows["theirs"]["install"].startswith("broken: ") and "\n" not in rows["theirs"]["install"]
    if "open_target = 5" not in raised:
        done = cli("tune", "theirs", code=1)
        assert done.stderr.startswith("error: ") and "is broken" in done.stderr and done.stderr.count("\n") == 1


TARGET = {"targets": {"theirs": "theirs:open_target"}}


def test_what_a_plugin_prints_when_it_is_imported_is_no_part_of_the_document(tmp_path):
    code = "print('hello from theirs')\nfrom tunewright.testing import Sphere\ndef open_target(a, o): return Sphere()"
    done = ran(distribution(tmp_path / "site", {"theirs": code}, TARGET), "targets", "--json")
    assert {r["name"]: r["available"] for r in json.loads(done.stdout)}["theirs"]
    assert "hello from theirs" in done.stderr


def test_a_real_interrupt_while_a_plugin_is_imported_stops_the_program(tmp_path):
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)"
    done = ran(distribution(tmp_path / "site", {"theirs": code}, TARGET), "targets", "--json")
    assert done.returncode == 130 and "broken" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("postgresql://me:s3cret@h:5432/shop", "postgres"),
        ("postgres://me:s3cret@h/shop?sslmode=require", "postgres"),
        ("mariadb://me:s3cret@h/shop", "mariadb"),
        ("mysql://me:s3cret@h/shop", "mysql"),
    ],
)
def test_an_address_is_work_for_its_target_and_keeps_its_password_to_itself(spec, kind):
    from tunewright.store.secrets import public_spec

    assert split_spec(spec) == (kind, spec)
    assert split_spec(f"{spec.partition('?')[0]}.toml")[0] == kind, "a database may be called so"
    public = public_spec(spec)
    assert public == spec.replace(":s3cret", "")
    assert split_spec(public) == (kind, public), "a stored session is opened by it"
    prefixed = f"{kind}:{spec}"
    assert split_spec(prefixed) == (kind, spec) and public_spec(prefixed) == f"{kind}:{public}"
